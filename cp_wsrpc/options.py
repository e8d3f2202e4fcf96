"""``tools.wsrpc.*`` of one path, checked, with defaults.  Layer 1.

::

    Options.from_config({'debug': True, 'subscribe': ['news', 'chat.*']})
        -> Options(debug=True, subscribe=TopicRules(...), ...)
    Options.from_config({'debg': True})
        -> ConfigError: tools.wsrpc.debg: no such option; did you mean
           tools.wsrpc.debug?

Callables and classes may be given as dotted strings, so that an INI file
can name them.  Neighbours: ``endpoint`` builds one for each endpoint.
"""
from __future__ import annotations

import dataclasses
import difflib
import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, TypeAlias

from .errors import ConfigError
from .origins import parse_host, parse_origin

__all__ = ['Options', 'TopicRules', 'attached_configs', 'check_app_config',
           'resolve']

PREFIX = 'tools.wsrpc.'
MAX_NAMES = 8
DIALECTS = ('jsonrpc', 'wsrpc1', 'wsrpc2')
TopicRule: TypeAlias = 'Callable[[Any, str], Any] | Literal[True]'


class TopicRules:
    """Who may subscribe to (or publish on) which topic.

    Made from a list of patterns or a dict ``{pattern: True | callable}``;
    ``*`` in a pattern stands for any run of characters, also for none.
    An exact name comes before patterns, patterns in the order given;
    ``False`` shuts a name out of the patterns that follow.
    """

    def __init__(self, rules: Mapping[str, Any] | Iterable[str] = ()
                 ) -> None:
        if not isinstance(rules, Mapping):
            rules = dict.fromkeys(rules, True)
        self._exact = {k: v for k, v in rules.items() if '*' not in k}
        self._patterns = [(k.split('*'), v) for k, v in rules.items()
                          if '*' in k]

    def __bool__(self) -> bool:
        return bool(self._exact or self._patterns)

    def __repr__(self) -> str:
        names = [*self._exact, *('*'.join(p) for p, _ in self._patterns)]
        return f'TopicRules({names!r})'

    def find(self, topic: str) -> TopicRule | None:
        """Return True, the callable to ask, or None: nobody may."""
        rule = self._exact.get(topic)
        if rule is None:
            for parts, candidate in self._patterns:
                if _matches(parts, topic):
                    rule = candidate
                    break
        return None if rule is False else rule

    def values(self) -> Iterator[Any]:
        """Yield all of the rules."""
        yield from self._exact.values()
        for _, rule in self._patterns:
            yield rule

    def callables(self) -> Iterator[Callable[[Any, str], Any]]:
        """Yield the callables among the rules."""
        for rule in self.values():
            if callable(rule):
                yield rule


NOBODY = TopicRules()


def _matches(parts: list[str], topic: str) -> bool:
    """Match greedily from the left: linear, where a regex need not be."""
    first, *middle, last = parts
    end = len(topic) - len(last)
    at = len(first)
    if end < at or not (topic.startswith(first) and topic.endswith(last)):
        return False
    for part in middle:
        found = topic.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True


@dataclasses.dataclass(frozen=True, slots=True)
class Options:
    """Everything that ``tools.wsrpc.`` sets at one path.

    Sizes are bytes of what travels, unmasked and inflated.
    """

    on: bool = True
    #: the object whose methods are called; None: what stands at the path
    controller: Any = None
    #: {dotted name: function or Route class}, beside the controller
    routes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    #: a subclass of cp_wsrpc.WebSocket: no RPC, the class has the socket
    handler_cls: type | None = None
    #: further origins that may connect, or '*'; default: same origin
    origins: tuple[str, ...] | Literal['*'] = ()
    #: names this server answers to, or '*'; None: local ones on loopback
    hosts: tuple[str, ...] | Literal['*'] | None = None
    #: who may subscribe; default nobody
    subscribe: TopicRules = NOBODY
    #: who may publish; default nobody
    publish: TopicRules = NOBODY
    #: callable(call), asked before each method
    authorize: Callable[[Any], Any] | None = None
    #: callable(call) -> context manager around each method
    around: Callable[[Any], Any] | None = None
    #: callable() -> user, run at the handshake with request and session
    user: Callable[[], Any] | None = None
    #: callable(connection), on the pool before the first call
    opened: Callable[[Any], Any] | None = None
    #: config keys or prefixes in which a method's path may differ
    harmless: tuple[str, ...] = ()
    #: for peers that have not spoken yet
    dialect: str = 'jsonrpc'
    #: subprotocols of the application, in its order of preference
    subprotocols: tuple[str, ...] = ()
    #: exceptions reach the client with type, message and traceback
    debug: bool = False
    #: permessage-deflate (RFC 7692); 'client_context': clients keep
    #: theirs, which saves some more and costs 40 KiB a connection
    compression: bool | Literal['client_context'] = False
    max_message_bytes: int = 1 << 20
    #: frames of one message; 1 024 x 1 kB is still a whole message
    max_fragments: int = 1024
    #: from a message's first byte to its last
    message_timeout_s: float = 30.0
    #: what may wait behind a socket that takes no bytes
    out_max_bytes: int = 4 << 20
    out_max_messages: int = 1024
    #: calls of one connection that run at once, and that wait
    max_calls_per_connection: int = 32
    max_waiting_per_connection: int = 128
    max_batch: int = 100
    #: brackets within brackets of one message
    max_depth: int = 100
    #: topics of one connection
    max_subscriptions: int = 100

    @classmethod
    def from_config(cls, conf: Mapping[str, Any]) -> Options:
        """Check ``conf``, whose keys have lost ``tools.wsrpc.``.

        Raises ConfigError, which names the option: the application's
        fault.
        """
        values: dict[str, Any] = {}
        for name, value in conf.items():
            read = _READERS.get(name)
            if read is None:
                raise ConfigError(_unknown(name))
            if value is None:
                continue            # None stands for the default everywhere
            try:
                values[name] = read(value)
            except (TypeError, ValueError, LookupError,
                    ImportError, AttributeError) as exc:
                raise ConfigError(f'{PREFIX}{name} = {value!r}: {exc}'
                                  ) from exc
        return cls(**values)


def resolve(value: Any) -> Any:
    """Return what a dotted string names; anything else as it is.

    ``resolve('time.time')`` imports as much of the name as is a module,
    and takes attributes for the rest.  Raises ImportError, AttributeError.
    """
    if not isinstance(value, str):
        return value
    parts = value.split('.')
    for count in range(len(parts), 0, -1):
        name = '.'.join(parts[:count])
        try:
            found: Any = importlib.import_module(name)
        except ModuleNotFoundError as exc:
            # Missing is one thing, a module that misses another is a bug
            # to be told.
            if exc.name is None or not (name + '.').startswith(
                    exc.name + '.'):
                raise
            continue
        for attribute in parts[count:]:
            found = getattr(found, attribute)
        return found
    raise ImportError(f'no module is named {parts[0]!r}')


def _read_flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError('must be True or False')
    return value


def _read_callable(value: Any) -> Any:
    found = resolve(value)
    if not callable(found):
        raise TypeError('must be a callable, or the dotted name of one')
    return found


def _read_class(value: Any) -> type:
    found = resolve(value)
    if not isinstance(found, type):
        raise TypeError('must be a class, or the dotted name of one')
    return found


def _read_routes(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError('must be a dict {name: function or Route class}')
    for name in value:
        if not isinstance(name, str) or not name:
            raise TypeError(f'{name!r} is not a name')
    return {name: _read_route(route) for name, route in value.items()}


def _read_route(value: Any) -> Any:
    found = resolve(value)
    if not callable(found) and type(found).__module__ == 'builtins':
        raise TypeError('must be a function, a Route class or a controller')
    return found


def _read_names(value: Any) -> tuple[str, ...]:
    names = (value,) if isinstance(value, str) else tuple(value)
    for name in names:
        if not isinstance(name, str) or not name:
            raise TypeError('must be a list of strings')
    return names


def _read_origins(value: Any) -> tuple[str, ...] | Literal['*']:
    if value == '*':
        return '*'
    names = _read_names(value)
    for name in names:
        if parse_origin(name) is None:
            raise ValueError(
                f"{name!r} is not an origin; write scheme://host or"
                " scheme://host:port, without a path, or '*' for any")
    return names


def _read_hosts(value: Any) -> tuple[str, ...] | Literal['*']:
    if value == '*':
        return '*'
    names = _read_names(value)
    for name in names:
        if parse_host(name) is None:
            raise ValueError(f"{name!r} is not a host; write 'example.com',"
                             " 'example.com:8080', '[::1]', or '*' for any")
    return names


def _read_topics(value: Any) -> TopicRules:
    if isinstance(value, TopicRules):
        return value
    if not isinstance(value, Mapping):
        return TopicRules(_read_names(value))
    rules: dict[str, Any] = {}
    for pattern, rule in value.items():
        _read_names(pattern)
        rules[pattern] = (rule if isinstance(rule, bool)
                          else _read_callable(rule))
    return TopicRules(rules)


def _read_dialect(value: Any) -> str:
    if value not in DIALECTS:
        raise ValueError(f'must be one of {", ".join(DIALECTS)}')
    return str(value)


def _read_subprotocols(value: Any) -> tuple[str, ...]:
    names = _read_names(value)
    for name in names:
        # RFC 6455 4.1: a token; it goes into a response header as it is.
        if not name.isascii() or not name.isprintable() \
                or set(name) & set(' ()<>@,;:\\"/[]?={}'):
            raise ValueError(f'{name!r} is not a token (RFC 6455 4.1)')
    return names


def _read_compression(value: Any) -> bool | Literal['client_context']:
    if value == 'client_context':
        return 'client_context'
    if not isinstance(value, bool):
        raise TypeError("must be True, False or 'client_context'")
    return value


def _read_count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError('must be a whole number above 0')
    return value


def _read_seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) \
            or not 0 < value < float('inf'):
        raise ValueError('must be a number of seconds above 0')
    return float(value)


_READERS: dict[str, Callable[[Any], Any]] = {
    'on': bool, 'controller': resolve, 'routes': _read_routes,
    'handler_cls': _read_class, 'origins': _read_origins,
    'hosts': _read_hosts, 'subscribe': _read_topics,
    'publish': _read_topics, 'authorize': _read_callable,
    'around': _read_callable, 'user': _read_callable,
    'opened': _read_callable, 'harmless': _read_names,
    'dialect': _read_dialect, 'subprotocols': _read_subprotocols,
    'debug': _read_flag, 'compression': _read_compression,
    'max_message_bytes': _read_count, 'max_fragments': _read_count,
    'message_timeout_s': _read_seconds, 'out_max_bytes': _read_count,
    'out_max_messages': _read_count,
    'max_calls_per_connection': _read_count,
    'max_waiting_per_connection': _read_count, 'max_batch': _read_count,
    'max_depth': _read_count, 'max_subscriptions': _read_count,
}


def _unknown(name: str, where: str = '') -> str:
    near = difflib.get_close_matches(name, _READERS, 1, 0.5)
    advice = (f'did you mean {PREFIX}{near[0]}?' if near
              else 'known are: ' + ', '.join(sorted(_READERS)))
    return f'{PREFIX}{name}{where}: no such option; {advice}'


def check_app_config(app: Any) -> None:
    """Raise ConfigError for an unknown ``tools.wsrpc.*`` key of ``app``.

    ``app`` is a ``cherrypy.Application``.  Looked through are its config
    and the ``_cp_config`` of what its tree holds (``vars()`` of instances
    and classes; no property is run), since CherryPy itself shows a
    misspelt ``tools.`` option to nobody.
    """
    for path, section in app.config.items():
        if isinstance(section, Mapping):
            _check_keys(section, f' in [{path}]')
    for names, config in attached_configs(app.root):
        _check_keys(config, ' of ' + '.'.join(('root', *names)))


def _check_keys(section: Mapping[str, Any], where: str) -> None:
    for key in section:
        if isinstance(key, str) and key.startswith(PREFIX):
            name = key[len(PREFIX):]
            if name not in _READERS:
                raise ConfigError(_unknown(name, where))


def attached_configs(root: Any
                     ) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Yield (('api', 'calc'), its ``_cp_config``) for a tree of objects.

    Eight names deep.  An object met again is told again under its other
    name; what is below it is not.
    """
    seen: set[int] = set()
    todo: list[tuple[tuple[str, ...], Any]] = [((), root)]
    while todo:
        names, node = todo.pop()
        members = _members(node)
        config = members.pop('_cp_config', None)
        if isinstance(config, dict):
            yield names, config
        if (len(names) < MAX_NAMES and id(node) not in seen
                and not isinstance(node, type)):
            seen.add(id(node))
            todo += [((*names, name), member)
                     for name, member in members.items()
                     if not name.startswith('_')
                     and hasattr(member, '__dict__')]


def _members(node: Any) -> dict[str, Any]:
    """Return what can be reached as ``node.x``, without asking for it."""
    members: dict[str, Any] = {}
    for cls in reversed(type(node).__mro__):
        if cls.__module__ != 'builtins':
            members.update(vars(cls))
    members.update(getattr(node, '__dict__', {}))
    return members
