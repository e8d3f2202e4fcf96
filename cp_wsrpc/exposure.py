"""What of a controller may be called: the marks and where they are found.
Layer 1, pure.

::

    class Calculator:
        @cp_wsrpc.expose
        def add(self, a: int, b: int): ...

    for found in find_methods(Api(), say=print):
        found.names         -> ('calc', 'add')
        found.function      -> <bound method Calculator.add>

Marked are functions, static and class methods, whatever ``functools.wraps``
made of them (it copies marks), partials and objects with ``__call__``.  An
unmarked callable is never taken, a marked one only under the name it has in
the tree.  The guard rule is not here but in ``guards``.

Of a :class:`Route` class every public function is taken, marked or not.
"""
from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple, TypeVar, overload

from .controllers import (
    VERBS,
    Attribute,
    ControllerTree,
    Path,
    attributes_of,
    has_special,
    is_a,
    is_hidden,
    static_attribute,
)

__all__ = ['Found', 'Kind', 'Mark', 'Route', 'expose', 'find_methods',
           'find_route_methods', 'is_route', 'kind_of', 'make_route',
           'mark_of', 'nonblocking']

F = TypeVar('F', bound=Any)
Kind = Literal['pool', 'async', 'nonblocking']

_MARK = '_cp_wsrpc_mark'
_NONBLOCKING = '_cp_wsrpc_nonblocking'
#: What may stand in a class and is bound without running foreign code.
_BINDABLE = (types.FunctionType, types.MethodType, functools.partial,
             functools._lru_cache_wrapper)


class Mark(NamedTuple):
    """What ``expose`` was given; the last part of the name if ``name``."""

    name: str | None = None
    timeout_s: float | None = None
    authorize: Callable[[Any], Any] | None = None
    guarded: bool = True


@overload
def expose(function: F, /) -> F: ...


@overload
def expose(*, name: str | None = None, timeout_s: float | None = None,
           authorize: Callable[[Any], Any] | None = None,
           guarded: bool = True) -> Callable[[F], F]: ...


def expose(function: Any = None, /, *, name: str | None = None,
           timeout_s: float | None = None,
           authorize: Callable[[Any], Any] | None = None,
           guarded: bool = True) -> Any:
    """Mark a method as callable over RPC (and not as a URL)::

        @cp_wsrpc.expose
        def add(self, a: int, b: int): ...

        @cp_wsrpc.expose(name='import', timeout_s=60)
        def import_(self, rows: list[Row]): ...

    ``name``
        What it is called on the wire instead of its own name; the names of
        the objects it stands in come before it as ever.
    ``timeout_s``
        Seconds after which a call is given up; default: that of the server.
    ``authorize``
        Asked before each call of it, beside ``tools.wsrpc.authorize``:
        callable ``(call)``, False refuses.
    ``guarded``
        False: callable even though tools or config guard its own path over
        HTTP otherwise than the endpoint.  They are not run for a call.

    Raises TypeError for what cannot be marked, ValueError for a name that
    cannot be called.
    """
    mark = Mark(name, timeout_s, authorize, guarded)
    _check_mark(mark)
    if function is not None:
        return _set_mark(function, _MARK, mark)
    return lambda marked: _set_mark(marked, _MARK, mark)


def nonblocking(function: F) -> F:
    """Mark a function as short and never waiting: it runs on the loop.

    No database, no file, no lock, no ``.result()``: while it runs, every
    connection waits.  A function given as ``authorize``, ``subscribe`` or
    ``publish`` may be marked as well.
    """
    marked: F = _set_mark(function, _NONBLOCKING, True)
    return marked


class Route:
    """A class of which each connection gets an instance of its own::

        class Visitor(cp_wsrpc.Route):
            def init(self, **kwargs): ...       # rpc.call('visitor', {..})
            def visits(self): ...               # rpc.call('visitor.visits')

    Every public method that a subclass adds may be called.  Names defined
    here may not, but for ``init``, under the bare name.  Calls of one
    instance run one at a time.  ``self.connection`` is there already in
    ``__init__``, which takes no arguments.
    """

    connection: Any = None

    def init(self, **kwargs: Any) -> Any:
        """Called under the bare name of the route; what it returns is the
        reply.  Does nothing unless overridden."""

    def closed(self) -> None:
        """Hook: the connection has gone.  Called once, on the pool."""


def make_route(route: type[Route], connection: Any) -> Route:
    """Return the instance of a connection; raises what ``__init__`` does."""
    instance = route.__new__(route)
    instance.connection = connection
    instance.__init__()         # type: ignore[misc]
    return instance


def kind_of(function: Any) -> Kind:
    """Tell where a callable runs: 'async', 'nonblocking' or 'pool'."""
    plain = _innermost(function)
    if inspect.iscoroutinefunction(plain):
        return 'async'
    if static_attribute(function, _NONBLOCKING, False) is True or (
            static_attribute(plain, _NONBLOCKING, False) is True):
        return 'nonblocking'
    return 'pool'


def is_generator(function: Any) -> bool:
    """Tell whether what it returns is a generator, which is an error."""
    plain = _innermost(function)
    return (inspect.isgeneratorfunction(plain)
            or inspect.isasyncgenfunction(plain))


def mark_of(value: Any) -> Mark | None:
    """Return what ``expose`` was given for a callable, None if nothing."""
    mark = static_attribute(value, _MARK)
    return mark if isinstance(mark, Mark) else None


class Found(NamedTuple):
    """A callable in a tree: Found(('calc', 'add'), <bound method>, ..).

    ``names``     the attributes that lead to it
    ``nodes``     the objects there, after the controller, itself the last
    ``function``  bound; for a Route the class
    ``mark``      what ``expose`` was given; Mark() for CherryPy's
    ``is_url``    True when ``cherrypy.expose`` made it a page as well
    """

    names: tuple[str, ...]
    nodes: tuple[Any, ...]
    function: Any
    mark: Mark
    is_url: bool


def find_methods(controller: Any, *, say: Callable[[str], None],
                 stops: Callable[[Path], bool] = lambda path: False
                 ) -> Iterator[Found]:
    """Yield the marked callables and Route classes below a controller.

    ``say(sentence)`` gets what its author should know.  ``stops(path)``
    True: nothing of that object.
    """
    if is_a(controller, type):
        say(f'the controller is the class {controller.__name__}: make an'
            ' instance of it')
        return
    tree = ControllerTree(controller)
    if not tree.is_whole:
        say('there are too many objects below the controller to look at all'
            ' of them: give those that are no controllers a name that begins'
            ' with an underscore')
    of_object: dict[int, dict[str, Attribute]] = {}

    def is_wanted(obj: Any) -> bool:
        """Tell whether an object has something to take or to say."""
        if id(obj) not in of_object:
            of_object[id(obj)] = {} if is_a(obj, Route) else {
                name: attribute for name, attribute
                in attributes_of(obj).items() if _is_noted(name, attribute)}
        return bool(of_object[id(obj)])

    def on_cut(path: Path) -> None:
        say(f"{'.'.join(path.names)}: too deep below the controller, or one"
            ' of too many names: left out')

    for path in tree.paths(is_wanted, stops=stops, on_cut=on_cut):
        for name, attribute in of_object[id(path.objects[-1])].items():
            found = _take(path, name, attribute, say)
            if found is not None:
                yield found


class FoundInRoute(NamedTuple):
    """A method of a Route class: FoundInRoute('visits', <function>, ..).

    ``function``  takes the instance first, whatever it was in the class
    ``plain``     what was written: its hints and kind are read of this;
                  the instance comes first if it is ``function``
    """

    name: str
    function: Any
    plain: Any
    mark: Mark


def find_route_methods(route: type[Route]) -> Iterator[FoundInRoute]:
    """Yield what a Route class adds to Route, and ``init``."""
    values: dict[str, Any] = {}
    for kind in reversed(route.__mro__):
        values.update(vars(kind))
    for name, value in values.items():
        if name != 'init' and (is_hidden(name) or name in vars(Route)):
            continue
        found = _taking_instance(route, value)
        if found is not None:
            yield FoundInRoute(name, *found, mark_of(value) or Mark())


def is_route(value: Any) -> bool:
    """Tell whether a value is a subclass of Route."""
    return is_a(value, type) and Route in value.__mro__[1:]


def _check_mark(mark: Mark) -> None:
    if mark.name is not None and (not isinstance(mark.name, str) or any(
            not part or is_hidden(part) for part in mark.name.split('.'))):
        raise ValueError(f'{mark.name!r} cannot be the name of a method')
    if mark.timeout_s is not None and not mark.timeout_s > 0:
        raise ValueError('timeout_s must be more than 0')
    if mark.authorize is not None:
        if not callable(mark.authorize):
            raise TypeError('authorize must be a callable')
        if kind_of(mark.authorize) == 'async':
            # A coroutine is true, whatever it would say.
            raise TypeError('authorize cannot be async')


def _set_mark(function: Any, attribute: str, value: Any) -> Any:
    target = function
    while isinstance(target, (staticmethod, classmethod, types.MethodType)):
        target = target.__func__
    if isinstance(target, type):
        raise TypeError(f'{target!r} cannot be marked: mark its methods')
    if not callable(target):
        raise TypeError(f'{target!r} cannot be marked: it is no function')
    try:
        setattr(target, attribute, value)
    except AttributeError:
        raise TypeError(f'{target!r} cannot be marked: put it in a function'
                        ' of yours, or into tools.wsrpc.routes') from None
    return function


def _is_url(value: Any) -> bool:
    """Tell whether the application has marked it with ``cherrypy.expose``;
    CherryPy itself puts a page ``favicon_ico`` into every root."""
    exposed = static_attribute(value, 'exposed', False)
    if type(exposed) not in (bool, int) or not exposed:
        return False
    function = _innermost(value)
    return not (is_a(function, types.FunctionType)
                and str(function.__module__).startswith('cherrypy.'))


def _is_marked(value: Any) -> bool:
    if is_a(value, staticmethod, classmethod, *_BINDABLE):
        return mark_of(value) is not None or _is_url(value)
    kind = type(value)
    return (not issubclass(kind, type) and has_special(kind, '__call__')
            and (mark_of(value) is not None
                 # With verbs it is a resource of a MethodDispatcher.
                 or (_is_url(value) and not any(
                     has_special(kind, verb) for verb in VERBS))))


def _is_noted(name: str, attribute: Attribute) -> bool:
    """Tell whether an attribute is taken, or has to be spoken of."""
    value = attribute.value
    if name == '_cp_dispatch':
        return value is not None
    if is_hidden(name):
        return mark_of(value) is not None
    if is_a(value, type):
        return is_route(value) or any(
            _is_marked(inner) for inner in vars(value).values())
    return is_a(value, Route) or _is_marked(value) or (
        has_special(type(value), '__get__') and mark_of(value) is not None)


def _take(path: Path, name: str, attribute: Attribute,
          say: Callable[[str], None]) -> Found | None:
    """Return what an attribute brings; say so if it is nothing."""
    value, owner = attribute.value, path.objects[-1]
    names = (*path.names, name)
    dotted = '.'.join(names)
    if name == '_cp_dispatch':
        say(f"{'.'.join(path.names) or 'the controller'}: what _cp_dispatch"
            ' or popargs find while a request runs is not callable')
        return None
    reason = ''
    if is_hidden(name) or (name.isupper() and _is_url(owner)):
        reason = 'is marked, but has a name that is never callable'
    elif is_a(value, Route):
        reason = 'is an instance of a Route: give the class'
    elif is_a(value, type) and not is_route(value):
        reason = ('is a class: make an instance of it, or a cp_wsrpc.Route'
                  ' of the class')
    function = value if is_a(value, type) else _bound(attribute, owner)
    if function is None and not reason:
        reason = (f'is marked, but a {type(value).__name__} cannot be taken'
                  ' without running it')
    if reason:
        say(f'{dotted} {reason}')
        return None
    mark = None if is_a(value, type) else mark_of(value)
    return Found(names, (*path.objects[1:], value), function, mark or Mark(),
                 not is_a(value, type) and _is_url(value))


def _bound(attribute: Attribute, owner: Any) -> Any:
    """Return the callable that ``getattr(owner, name)`` would, or None."""
    value, from_class = attribute
    if is_a(value, staticmethod) and from_class:
        return value.__func__
    if is_a(value, classmethod) and from_class:
        inner = value.__func__
        return (types.MethodType(inner, type(owner))
                if is_a(inner, types.FunctionType) else None)
    if is_a(value, *_BINDABLE):
        if from_class and has_special(type(value), '__get__'):
            return value.__get__(owner, type(owner))
        return value
    if has_special(type(value), '__get__') and from_class:
        return None
    return value if callable(value) else None


def _taking_instance(route: type[Route], value: Any
                     ) -> tuple[Any, Any] | None:
    """Return (function whose instance comes first, what was written)."""
    if is_a(value, types.FunctionType, functools._lru_cache_wrapper):
        return value, value
    if is_a(value, staticmethod):
        plain = value.__func__
    elif is_a(value, classmethod) and is_a(
            value.__func__, types.FunctionType):
        plain = types.MethodType(value.__func__, route)
    else:
        return None

    @functools.wraps(plain)
    def without_instance(_instance: Any, /, *args: Any, **kwargs: Any) -> Any:
        return plain(*args, **kwargs)
    return without_instance, plain


def _innermost(function: Any) -> Any:
    """Return the function that is run: of a partial, of an object."""
    while is_a(function, functools.partial):
        function = function.func
    if not is_a(function, type, types.FunctionType, types.MethodType):
        call = inspect.getattr_static(type(function), '__call__', None)
        if isinstance(call, types.FunctionType):
            return call
    return function
