"""A path at which ``tools.wsrpc`` is on, and all that belongs to it.
Layer 2.

::

    place_of(app, '/api/')         -> Place('/api', '')
    place_of(app, '/api/wsrpc.js') -> Place('/api', 'wsrpc.js')
    place_of(app, '/api/calc')     -> None: it merely inherits the tool
    Endpoint.build(app, '/api')    -> <Endpoint /app/api: 7 methods>
    find_endpoints(cherrypy.tree)  -> every Endpoint that config names

An endpoint is where ``tools.wsrpc.on`` is *set*: in a section of the
configuration, or in a ``_cp_config``.  Neighbours: ``options`` reads the
options, ``registry`` finds the methods, ``plugin`` keeps the endpoints,
``tool`` asks for them.
"""
from __future__ import annotations

import dataclasses
import functools
import inspect
import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import cherrypy

from . import host_config, registry
from .client_files import CONTENT_TYPES
from .errors import ConfigError
from .exposure import kind_of
from .options import PREFIX, Options, attached_configs, check_app_config

__all__ = ['Endpoint', 'Place', 'find_endpoints', 'place_of',
           'place_of_request']

_ON = PREFIX + 'on'


class Place(NamedTuple):
    """``Place('/api', 'wsrpc.js')``: an endpoint's path, and what of it.

    ``file`` is ``''`` for the endpoint itself.
    """

    path: str
    file: str


# The paths of an application's endpoints, found at the start or at its first
# request.  Looked up by each request instead of asking the configuration:
# CherryPy finds one object under any number of paths (/my_api, /my-api;
# /api/parent/api where objects know each other), and each would be another
# endpoint to build and keep.  Written without a lock: two threads may both
# look, and find the same.
_known: weakref.WeakKeyDictionary[Any, frozenset[str]] = (
    weakref.WeakKeyDictionary())


def place_of_request(request: Any) -> Place | None:
    """:func:`place_of` for what CherryPy has just dispatched."""
    return place_of(request.app, host_config.dispatched_path(request))


def place_of(app: Any, path_info: str) -> Place | None:
    """Return which endpoint a request's ``path_info`` belongs to, if any.

    With and without a trailing slash is the same; paths below an endpoint
    are None but for the files of its client.
    """
    paths = _known.get(app)
    if paths is None:
        paths = _known[app] = frozenset(_paths_of(app))
    if path_info in paths:      # as most ask for it
        return Place(path_info, '')
    names = [name for name in path_info.split('/') if name]
    path = _spelt_as_known(app, names, paths)
    if path is not None:
        return Place(path, '')
    if names and names[-1] in CONTENT_TYPES:
        path = _spelt_as_known(app, names[:-1], paths)
        if path is not None:
            return Place(path, names[-1])
    return None


def _spelt_as_known(app: Any, names: list[str], paths: frozenset[str]
                    ) -> str | None:
    """Return the path of ``paths`` that these names lead to.

    ``/my-api`` leads to the attribute ``my_api``; but the guards of a
    section ``/my_api`` are not asked on that way, so only an equal config
    will do.
    """
    path = _joined(names)
    if path in paths:
        return path
    dispatcher = host_config.dispatcher_of(app, path)
    known = _joined(name.translate(dispatcher.translate) for name in names)
    if known in paths and (host_config.config_of(app, known)
                           == host_config.config_of(app, path)):
        return known
    return None


def _joined(names: Iterable[str]) -> str:
    return ''.join(f'/{name}' for name in names)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Endpoint:
    """One endpoint, built once.  Any thread may read it.

    ``app``          the ``cherrypy.Application``
    ``path``         in it, without a trailing slash; ``''`` is its root
    ``script_name``  of the application, ``''`` or ``'/shop'``
    ``options``      its :class:`cp_wsrpc.options.Options`
    ``config``       the merged config at its path
    ``controller``   the object whose methods are called, or None
    ``registry``     ``{name: Method}``; None where ``handler_cls`` has the
                     sockets
    """

    app: Any
    path: str
    script_name: str
    options: Options
    config: dict[str, Any]
    controller: Any
    registry: registry.Registry | None

    @classmethod
    def build(cls, app: Any, path: str) -> Endpoint:
        """Read the config at ``path`` and find the methods below it.

        Raises ConfigError, which begins with the path.
        """
        config = host_config.config_of(app, path)
        url_path = (app.script_name or '') + path or '/'
        try:
            options = Options.from_config({
                key[len(PREFIX):]: value for key, value in config.items()
                if key.startswith(PREFIX)})
            _check_handler(options.handler_cls)
            _check_no_async(options)
            controller = _controller_of(app, path, options)
            methods = None
            if options.handler_cls is None:
                methods = registry.build(
                    controller, options.routes, app=app, path=path,
                    harmless=options.harmless)
                for method in methods.values():
                    method.ask_first(options.authorize)
                if options.around is not None:
                    _check_around(options.around, methods.values())
        except ConfigError as exc:
            raise ConfigError(f'{url_path}: {exc}') from exc
        return cls(app, path, app.script_name or '', options, config,
                   controller, methods)

    @property
    def url_path(self) -> str:
        """``'/shop/api'``; ``'/'`` for the root of all."""
        return self.script_name + self.path or '/'

    def __repr__(self) -> str:
        return f'<Endpoint {self.url_path}: {self._contents()}>'

    def _contents(self) -> str:
        if self.registry is None:
            return f'sockets of {_name_of(self.options.handler_cls)}'
        count = len(self.registry)
        return f'{count} method{"" if count == 1 else "s"}'

    def start_lines(self) -> Iterator[str]:
        """Yield what the log should say of it when the engine starts.

        ``registry`` has told by itself what it left out, and what can be
        called by a URL as well.
        """
        yield f'wsrpc endpoint {self.url_path}: {self._contents()}'
        tools = _guards(self.config)
        if tools:
            yield (f'{self.url_path}: {", ".join(tools)} run once, at the'
                   ' handshake, not at each call')
        if self.options.debug:
            yield (f'{self.url_path}: debug is on: clients see the type,'
                   ' message and traceback of every exception')


def find_endpoints(tree: Any) -> list[Endpoint]:
    """Build every endpoint of the applications mounted on ``tree``.

    Raises ConfigError for what cannot be, also for a misspelt option.
    """
    if cherrypy.config.get(_ON):
        raise ConfigError(f'{_ON} in the global config: an endpoint is one'
                          ' path; set it there, as in [/api]')
    found = []
    for app in tree.apps.values():
        if isinstance(app, cherrypy.Application):
            check_app_config(app)
            _known[app] = frozenset(_paths_of(app))
            found += [Endpoint.build(app, path)
                      for path in sorted(_known[app])]
    return found


def _paths_of(app: Any) -> Iterator[str]:
    """Yield the paths at which the tool is switched on, by whatever."""
    ways = [section.strip('/').split('/')
            for section, config in app.config.items()
            if isinstance(config, Mapping) and _ON in config]
    ways += [list(names) for names, config in attached_configs(app.root)
             if _ON in config]
    for names in ways:
        if names and names[-1] in ('index', 'default'):
            names.pop()         # a page's own switch is its object's
        path = _joined(filter(None, names))
        if (host_config.owner_of_key(app, path, _ON) == path
                and host_config.config_of(app, path).get(_ON)):
            yield path


def _controller_of(app: Any, path: str, options: Options) -> Any:
    controller = options.controller
    if isinstance(controller, type):
        # An INI file can name a class, but hold no object.
        return controller()
    if controller is None:
        controller = host_config.object_at(app, path)
    return controller


def _check_handler(handler: type | None) -> None:
    # Its base is not imported: it stands in a layer above.
    if handler is not None and not any(
            base.__module__ == f'{__package__}.websocket'
            for base in handler.__mro__):
        raise ConfigError(
            f'{PREFIX}handler_cls = {_name_of(handler)}: change its base'
            ' class to cp_wsrpc.WebSocket; a plain ws4py handler blocks'
            ' the thread that serves all sockets')


def _check_no_async(options: Options) -> None:
    """Refuse coroutine functions where the value counts.

    A coroutine is true, whatever it would say: everybody would be let in.
    """
    for name, found in (
            ('authorize', [options.authorize]), ('user', [options.user]),
            ('opened', [options.opened]),
            ('subscribe', options.subscribe.callables()),
            ('publish', options.publish.callables())):
        for function in found:
            if function is not None and kind_of(function) == 'async':
                raise ConfigError(
                    f'{PREFIX}{name}: {function!r} cannot be async: make it'
                    ' a plain function, which runs on the pool and may wait')


def _check_around(around: Any, methods: Iterable[registry.Method]) -> None:
    """Refuse an ``around`` that a method could not enter.

    What it returns is known of a class and of what ``contextlib`` made;
    of anything else it is told by the first call.
    """
    plain = around
    while isinstance(plain, functools.partial):
        plain = plain.func
    inner = inspect.unwrap(plain)
    if isinstance(plain, type):
        enters = hasattr(plain, '__enter__')
        enters_async = hasattr(plain, '__aenter__')
    elif inner is not plain and inspect.isgeneratorfunction(inner):
        enters, enters_async = True, False
    elif inner is not plain and inspect.isasyncgenfunction(inner):
        enters, enters_async = False, True
    elif _makes_steps(plain):
        raise ConfigError(
            f'{PREFIX}around = {around!r} returns no context manager:'
            ' decorate it with contextlib.contextmanager or, for async'
            ' methods, contextlib.asynccontextmanager')
    else:
        return
    for method in methods:
        if method.kind == 'async' and not enters_async:
            raise ConfigError(
                f'{PREFIX}around = {around!r} is no async context manager,'
                f' and {method.name} is async: give a class with both'
                ' __enter__ and __aenter__')
        if method.kind == 'pool' and not enters:
            raise ConfigError(
                f'{PREFIX}around = {around!r} is an async context manager,'
                f' and {method.name} is not async: give a class with both'
                ' __enter__ and __aenter__')


def _makes_steps(function: Any) -> bool:
    return (inspect.isgeneratorfunction(function)
            or inspect.isasyncgenfunction(function)
            or inspect.iscoroutinefunction(function))


def _name_of(cls: Any) -> str:
    return f'{cls.__module__}.{cls.__qualname__}'


def _guards(config: Mapping[str, Any]) -> list[str]:
    """Return the tools that are on and may decide about a visitor."""
    return sorted(
        key[:-len('.on')] for key, on in config.items()
        if on and key.startswith('tools.') and key.endswith('.on')
        and key != _ON and key.split('.')[1] not in _TOOLS_OF_NO_MATTER
        and not key.startswith('tools.log_'))


_TOOLS_OF_NO_MATTER = frozenset({
    'autovary', 'caching', 'cpstats', 'encode', 'etags', 'expires', 'gzip',
    'json_in', 'json_out', 'proxy', 'response_headers', 'sessions',
    'staticdir', 'staticfile', 'trailing_slash'})
