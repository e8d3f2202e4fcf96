"""Whether a call would walk around what guards a method over HTTP.
Layer 1; asks ``host_config``, never a request.

::

    guards = Guards(app, '/api', root.api, harmless=['tools.theme.*'])
    guards.key_against(('admin', 'drop'), (root.api.admin, drop))
        -> 'tools.auth_basic.on'        or None: nothing stands against it

The handshake of an endpoint runs the tools of the *endpoint's* path, once.
A method has a path of its own, below it.  What CherryPy's config says there
- sections of ``app.config``, each ``_cp_config`` on the way, its own - is
compared key by key with what it says at the endpoint.  Every difference
counts, also of an application's own keys, since a tool or a hook that is on
everywhere may read them; but for :data:`HARMLESS`, which only shape the
answer of a page.  A tool that is on at the endpoint alone counts too: it may
be what opens the endpoint (``tools.public.on``).

A controller that ``tools.wsrpc.controller`` names may stand in the tree at
other paths: then the config of its methods there counts as well.
"""
from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from . import host_config
from .controllers import (
    ControllerTree,
    attributes_of,
    is_a,
    static_attribute,
)

__all__ = ['HARMLESS', 'Guards']

#: Keys that guard nothing; ``*`` is any run of characters.
HARMLESS = (
    'response.*', 'request.body.*', 'error_page.*', 'log.*',
    'tools.encode.*', 'tools.gzip.*', 'tools.json_in.*', 'tools.json_out.*',
    'tools.staticdir.*', 'tools.response_headers.*', 'tools.caching.*',
    'tools.expires.*', 'tools.trailing_slash.*', 'tools.log_*',
)

_ON = 'tools.wsrpc.on'
#: Our own options that decide who may come in; the rest are harmless.
_OWN_GUARDS = frozenset(f'tools.wsrpc.{name}' for name in (
    'authorize', 'user', 'origins', 'hosts', 'around'))
_NOT_SET = object()
_UNKNOWN = object()
#: What a config that cannot be read is worth: a difference under this name.
_COMPUTED = '_cp_config'


class _Stand(NamedTuple):
    """A place of the controller: its names, and the config down to it."""

    names: tuple[str, ...]
    config: dict[str, Any]


class Guards:
    """The config of one endpoint, with which others are compared.

    ``app``         the ``cherrypy.Application``; None: no config but that
                    which functions carry (``_cp_config``)
    ``path``        of the endpoint in it
    ``controller``  whose methods are asked for
    ``harmless``    more patterns like those of :data:`HARMLESS`
    """

    def __init__(self, app: Any = None, path: str = '',
                 controller: Any = None, harmless: Iterable[str] = ()
                 ) -> None:
        self._app = app
        self._path = path
        self._tree: ControllerTree | None = None
        self._is_harmless = _compile((*HARMLESS, *harmless))
        self._sections: Mapping[tuple[str, ...], dict[str, Any]] = {}
        self._config: dict[str, Any] = {}
        self._stands = [_Stand((), {})]
        if app is not None:
            self._sections = host_config.sections_of(app)
            self._config = host_config.config_of(app, path)
            self._stands = [_Stand(self._names(path),
                                   host_config.config_down_to(app, path))]
            if controller is not None and (
                    host_config.object_at(app, path) is not controller):
                self._add_places_of(controller)

    def is_endpoint(self, names: tuple[str, ...], node: Any) -> bool:
        """Tell whether the tool is set at a path below: another endpoint,
        or a place where there shall be none."""
        configs = [self._sections.get(self._stands[0].names + names, {}),
                   own_config(node) or {}]
        attributes = attributes_of(node)
        configs += [own_config(attributes[page].value) or {}
                    for page in ('index', 'default') if page in attributes]
        return any(_ON in config for config in configs)

    def key_against(self, names: tuple[str, ...], nodes: Iterable[Any]
                    ) -> str | None:
        """Return the first key in which a method's config differs.

        ``names`` lead from the controller to it, ``nodes`` are the objects
        at them, itself the last.
        """
        nodes = tuple(nodes)
        for stand in self._stands:
            key = self._key_at(stand, names, nodes)
            if key is not None:
                return key
        return None

    def key_against_function(self, name: str, function: Any) -> str | None:
        """The same for a function that ``tools.wsrpc.routes`` names: what
        it carries, and where the object of a bound method stands."""
        names = tuple(name.split('.'))
        nodes: tuple[Any, ...] = (function,)
        while is_a(function, functools.partial):
            function = function.func
            nodes = (function, *nodes)
        owner = getattr(function, '__self__', None)
        if owner is not None:
            nodes = (owner, *nodes)
        key = self._key_at(self._stands[0], names, nodes)
        if key is not None or owner is None or self._app is None:
            return key
        own_name = (getattr(function, '__name__', ''),)
        for stand in self._places_of(owner):
            key = self._key_at(stand, own_name, (function,))
            if key is not None:
                return key
        return None

    def _add_places_of(self, controller: Any) -> None:
        """Take in the places of a controller that stands elsewhere."""
        config = own_config(controller)
        stand = self._stands[0]
        self._stands[0] = stand._replace(config={
            **stand.config,
            **({_COMPUTED: _UNKNOWN} if config is None else config)})
        self._stands += self._places_of(controller)

    def _places_of(self, wanted: Any) -> list[_Stand]:
        if self._app.root is None:
            return []
        if self._tree is None:
            self._tree = ControllerTree(self._app.root)
        return [_Stand(path.names, host_config.config_down_to(
                    self._app, '/' + '/'.join(path.names)))
                for path in self._tree.paths(
                    lambda obj: obj is wanted)]

    def _names(self, path: str) -> tuple[str, ...]:
        translate = host_config.dispatcher_of(self._app, path).translate
        return tuple(name.translate(translate)
                     for name in path.split('/') if name)

    def _key_at(self, stand: _Stand, names: tuple[str, ...],
                nodes: tuple[Any, ...]) -> str | None:
        """Merge as CherryPy does on the way to a page, and compare."""
        config = dict(stand.config)
        missing = len(names) - len(nodes)
        steps = [*[('', node) for node in nodes[:max(-missing, 0)]],
                 *zip(names, (None,) * missing + nodes[max(-missing, 0):],
                      strict=True)]
        here = stand.names
        for name, node in steps:
            own = own_config(node)
            config.update({_COMPUTED: _UNKNOWN} if own is None else own)
            if name:
                here = (*here, name)
                config.update(self._sections.get(here, {}))
        config.update(self._sections.get((*here, 'index'), {}))
        return self._first_difference(config)

    def _first_difference(self, config: dict[str, Any]) -> str | None:
        # "tools.x.on" says more than the tool's arguments: look there first.
        keys = sorted(config.keys() | self._config.keys(),
                      key=lambda key: (not key.endswith('.on'), key))
        for key in keys:
            if not self._is_harmless(key) and _differs(
                    key, config, self._config):
                return key
        return None


def own_config(node: Any) -> dict[str, Any] | None:
    """Return the ``_cp_config`` of anything, {} if it has none, None if it
    is computed: a property of that name is not run."""
    found: dict[str, Any] = {}
    values = [static_attribute(node, '_cp_config')]
    if is_a(node, staticmethod, classmethod):
        # A tool may have decorated the function, or what is around it.
        values.append(vars(node).get('_cp_config'))
    for value in values:
        if value is not None and not is_a(value, dict):
            return None
        found.update(value or {})
    return found


def _differs(key: str, config: dict[str, Any], endpoint: dict[str, Any]
             ) -> bool:
    here, there = (each.get(key, _NOT_SET) for each in (config, endpoint))
    if key.startswith('tools.wsrpc.'):
        # They guard our handshakes only; what the endpoint has more is its
        # own (it may have it from the decorator of its page).
        if key not in _OWN_GUARDS or here is _NOT_SET:
            return False
    elif key.startswith('tools.allow.'):
        return not _equal(here, there) and not _lets_post(config)
    elif key.startswith('tools.') and key.endswith('.on'):
        here, there = (value is not _NOT_SET and value
                       for value in (here, there))
        return bool(here) != bool(there)
    return not _equal(here, there)


def _lets_post(config: dict[str, Any]) -> bool:
    """Tell whether ``tools.allow`` would let a POST through."""
    if not config.get('tools.allow.on'):
        return True
    methods = config.get('tools.allow.methods')
    if not isinstance(methods, (tuple, list)):
        methods = [methods]
    return 'POST' in (str(method).upper() for method in methods)


def _equal(one: Any, other: Any) -> bool:
    if one is other:
        return True
    try:
        return bool(one == other)
    except Exception:   # what cannot be compared is not the same
        return False


def _compile(patterns: Iterable[str]) -> Callable[[str], bool]:
    """Return a test for keys; ``tools.x`` stands for ``tools.x.*`` too."""
    texts = [re.escape(pattern).replace(r'\*', '.*') for pattern in patterns]
    match = re.compile(rf"(?:{'|'.join(texts)})(?:\..*)?", re.DOTALL).fullmatch
    return lambda key: match(key) is not None
