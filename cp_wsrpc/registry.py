"""Controller tree and routes -> ``{name: Method}``: all that may be called.
Layer 1; the way is signatures, arguments, controllers, exposure, guards,
and here it comes together.

::

    registry = build(root.api, {'getTime': time.time}, app=app, path='/api')
    registry.get('calc.add')    -> <Method calc.add(a: int, b: int) pool>
    registry.get('_secret')     -> None

Built once, at start or at a tree's first handshake, and not changed after:
any thread may read it.  A call looks its name up there, by ``get``, and does
nothing else with it.

What stands in it (design.md, "What may be called"): marked methods of the
controllers below the endpoint's, under their dotted names; of a ``Route``
class its public methods, and ``init`` under the bare name; functions, Route
classes and objects of ``tools.wsrpc.routes``.  What is left out, since HTTP
guards it or for another reason, is said in ``warnings`` and in the log.
"""
from __future__ import annotations

import functools
import logging
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .arguments import NO_KEYWORDS, Bind, compile_bind
from .controllers import is_a, is_hidden
from .errors import ConfigError
from .exposure import (
    Found,
    Kind,
    Mark,
    Route,
    expose,
    find_methods,
    find_route_methods,
    is_generator,
    is_route,
    kind_of,
    make_route,
    mark_of,
    nonblocking,
)
from .guards import Guards
from .signatures import Signature, read_signature

__all__ = ['NO_KEYWORDS', 'Method', 'Registry', 'Route', 'build', 'expose',
           'make_route', 'nonblocking']

_logger = logging.getLogger('cp_wsrpc.registry')
_NO_MARK = Mark()
_FUNCTIONS = (types.FunctionType, types.MethodType,
              types.BuiltinFunctionType, functools.partial)


class Method:
    """One name that may be called.  Not changed after it was made.

    ``name``        'calc.add', as on the wire
    ``function``    bound; of a Route the function that takes the instance
                    first
    ``kind``        'pool', 'async' or 'nonblocking': where it runs
    ``is_generator``  True: its result is an error
    ``route``       the Route class, or None
    ``attribute``   the method's name in the Route class: 'init'
    ``timeout_s``   seconds, or None: the server's default
    ``authorize``   callable ``(call)`` of this method alone, or None
    ``authorizers`` all that are asked before a call: the endpoint's, then
                    its own
    ``asks_on_pool`` True: one of them may wait, so not on the loop
    ``is_direct``   True: a nonblocking function of which nothing need be
                    asked first
    ``is_plain``    True: a pool method that belongs to no Route
    ``signature``   what it takes; ``str()`` of it words errors
    ``bind``        ``bind(params) -> (args, kwargs)``, see ``arguments``:
                    JSON text or None in, InvalidParams when it does not
                    fit; kwargs may be NO_KEYWORDS, which cannot be changed
    """

    __slots__ = ('asks_on_pool', 'attribute', 'authorize', 'authorizers',
                 'bind', 'function', 'is_direct', 'is_generator', 'is_plain',
                 'kind', 'name', 'route', 'signature', 'timeout_s')

    bind: Bind
    kind: Kind

    def __init__(self, name: str, function: Any, *, mark: Mark = _NO_MARK,
                 plain: Any = None, route: type[Route] | None = None,
                 attribute: str = '') -> None:
        """``plain`` is what was written, where ``function`` wraps it."""
        plain = function if plain is None else plain
        self.name = name
        self.function = function
        self.route = route
        self.attribute = attribute
        self.timeout_s = mark.timeout_s
        self.authorize = mark.authorize
        self.kind = kind_of(plain)
        self.is_generator = is_generator(plain)
        self.signature: Signature = read_signature(
            name, plain,
            instance_first=route is not None and plain is function)
        self.bind = compile_bind(self.signature)
        self.authorizers: tuple[Callable[[Any], Any], ...] = ()
        self.is_direct = False
        self.is_plain = self.kind == 'pool' and route is None
        self.ask_first(None)

    def ask_first(self, authorize: Callable[[Any], Any] | None) -> None:
        """Have the endpoint's ``authorize`` asked before each call."""
        self.authorizers = tuple(
            each for each in (authorize, self.authorize) if each is not None)
        self.asks_on_pool = any(kind_of(each) != 'nonblocking'
                                for each in self.authorizers)
        self.is_direct = (
            self.kind == 'nonblocking' and self.route is None
            and not self.authorizers and not self.timeout_s
            and not self.is_generator)

    def __repr__(self) -> str:
        return f'<Method {self.signature} {self.kind}>'


class Registry(dict[str, Method]):
    """``{name: Method}`` of one endpoint.

    ``routes``    {name: Route class}
    ``warnings``  sentences for the operator, as they went to the log
    """

    def __init__(self) -> None:
        super().__init__()
        self.routes: dict[str, type[Route]] = {}
        self.warnings: list[str] = []

    def __repr__(self) -> str:
        return f"<Registry {' '.join(sorted(self))}>"


def build(controller: Any, routes: Mapping[str, Any] | None = None, *,
          app: Any = None, path: str = '', harmless: Iterable[str] = ()
          ) -> Registry:
    """Find all that may be called on an endpoint.

    ``controller``
        The object whose methods are called, or None.
    ``routes``
        ``{name: function | Route class | object}``, none by default.  An
        object brings its marked methods, and itself if it can be called.
    ``app``, ``path``
        Where the endpoint is in CherryPy; without an application (a client)
        only what functions carry themselves can guard them.
    ``harmless``
        Config keys that guard nothing, ``tools.theme.*``.

    Raises ConfigError for a name or a value in ``routes`` that cannot be.
    No property of a controller is run.
    """
    return _Builder(Guards(app, path, controller, harmless), path
                    ).build(controller, routes or {})


class _Builder:
    """Fills one registry, then is thrown away."""

    def __init__(self, guards: Guards, path: str) -> None:
        self.guards = guards
        self.path = path or '/'
        self.registry = Registry()
        self.urls: list[str] = []

    def build(self, controller: Any, routes: Mapping[str, Any]) -> Registry:
        # What the operator names comes first: it wins over the tree.
        for name, value in routes.items():
            self._add_configured(name, value)
        if controller is not None:
            for found in find_methods(
                    controller, say=self._warn,
                    stops=lambda way: self.guards.is_endpoint(
                        way.names, way.objects[-1])):
                if not self.guards.is_endpoint(found.names, found.nodes[-1]):
                    self._add_found(found)
        if self.urls:
            self._warn(
                'also URLs, which any site can GET with the cookies of a'
                f" visitor (cherrypy.expose): {', '.join(self.urls)};"
                ' cp_wsrpc.expose makes no URL')
        return self.registry

    def _add_configured(self, name: str, value: Any) -> None:
        """Add what ``tools.wsrpc.routes`` names; no mark is needed."""
        if not isinstance(name, str) or not _is_callable_name(name):
            raise ConfigError(
                f'tools.wsrpc.routes: {name!r} cannot be a name: no part of'
                ' one is empty, begins with an underscore, or is index,'
                ' default or a verb of HTTP; "rpc." and "$/" are taken')
        parts = tuple(name.split('.'))
        if isinstance(value, type):
            if not is_route(value):
                raise ConfigError(
                    f'tools.wsrpc.routes: {name} is the class'
                    f' {value.__name__}, which is no cp_wsrpc.Route')
            self._add_route(parts, (value,), name, value)
            return
        if callable(value):
            mark = mark_of(value) or _NO_MARK
            key = self.guards.key_against_function(name, value)
            if self._may_stand(name, mark, key):
                self._add(Method(name, value, mark=mark))
        if is_a(value, *_FUNCTIONS):
            return
        before = len(self.registry)
        for found in find_methods(value, say=self._warn):
            self._add_found(found._replace(names=(*parts, *found.names),
                                           nodes=(value, *found.nodes)),
                            is_elsewhere=True)
        if not callable(value) and len(self.registry) == before:
            raise ConfigError(
                f'tools.wsrpc.routes: nothing of {name} can be called: it is'
                ' no function, no cp_wsrpc.Route, and has no method that is'
                ' exposed')

    def _add_found(self, found: Found, is_elsewhere: bool = False) -> None:
        """Add a method of a controller; of one that is not below the
        endpoint in the tree, its own place there counts as well."""
        *objects, last = found.names
        name = '.'.join((*objects, found.mark.name or last))
        if is_route(found.function):
            self._add_route(found.names, found.nodes, name, found.function)
            return
        key = self.guards.key_against(found.names, found.nodes)
        if key is None and is_elsewhere:
            key = self.guards.key_against_function(name, found.function)
        if self._may_stand(name, found.mark, key) and self._add(Method(
                name, found.function, mark=found.mark)) and found.is_url:
            self.urls.append(name)

    def _add_route(self, names: tuple[str, ...], nodes: tuple[Any, ...],
                   route_name: str, route: type[Route]) -> None:
        for found in find_route_methods(route):
            if found.name == 'init':
                name, path = route_name, names
            else:
                path = (*names, found.name)
                name = f'{route_name}.{found.mark.name or found.name}'
            key = self.guards.key_against(path, (*nodes, found.plain))
            if self._may_stand(name, found.mark, key) and self._add(Method(
                    name, found.function, mark=found.mark, plain=found.plain,
                    route=route, attribute=found.name)):
                self.registry.routes[route_name] = route

    def _may_stand(self, name: str, mark: Mark, key: str | None) -> bool:
        """Decide on a method whose config differs in ``key``, if any."""
        if not _is_callable_name(name):
            self._warn(f'{name} is left out: "rpc." and "$/" are taken')
            return False
        if key is None or not mark.guarded:
            return True
        self._warn(
            f'{name} is left out: over HTTP its path is guarded otherwise'
            f' than {self.path} ({key}). Set that at {self.path} too, name'
            ' it in tools.wsrpc.harmless if it guards nothing, or mark the'
            ' method with cp_wsrpc.expose(guarded=False)')
        return False

    def _add(self, method: Method) -> bool:
        if method.name in self.registry:
            self._warn(f'{method.name} is there twice: the second one is'
                       ' left out')
            return False
        for warning in method.signature.warnings:
            self._warn(warning)
        if method.is_generator:
            self._warn(f'{method.name} is a generator: a call of it is an'
                       ' error; return a list')
        self.registry[method.name] = method
        return True

    def _warn(self, sentence: str) -> None:
        if sentence not in self.registry.warnings:
            self.registry.warnings.append(sentence)
            _logger.warning('%s: %s', self.path, sentence)


def _is_callable_name(name: str) -> bool:
    return not name.startswith(('rpc.', '$/')) and not any(
        not part or is_hidden(part) for part in name.split('.'))
