"""A controller -> the objects below it, running none of their code.
Layer 1, pure.

::

    attributes_of(calc)     -> {'add': Attribute(<function>, True), ..}
    tree = ControllerTree(root.api)
    list(tree.paths())      -> [Path((), (api,)),
                                Path(('calc',), (api, calc)), ..]

What ``getattr`` would do is read off the ``__dict__`` of an instance and of
the classes of its MRO, in the order that Python has, so that no property,
no descriptor and no ``__getattr__`` is ever run.  What stands only behind
one of these (also in ``__slots__``) is not found.

Controllers are instances: no classes, modules, functions or values of
builtin types, and nothing whose name begins with an underscore, or is
``index`` or ``default``.
"""
from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

__all__ = ['MAX_DEPTH', 'VERBS', 'Attribute', 'ControllerTree', 'Path',
           'attributes_of', 'has_special', 'is_a', 'is_hidden',
           'static_attribute']

#: How many objects may stand between an endpoint's controller and a method,
#: itself not counted.
MAX_DEPTH = 8
#: An application whose controllers hold its database or its framework has
#: huge graphs below them; the nearest objects are looked at first.
MAX_OBJECTS = 10_000
#: Objects that all know each other have more paths than anyone can call.
MAX_PATHS = 10_000

#: Methods of HTTP, which are methods of objects under a MethodDispatcher.
VERBS = frozenset({'CONNECT', 'DELETE', 'GET', 'HEAD', 'OPTIONS', 'PATCH',
                   'POST', 'PUT', 'TRACE'})

_PAGES = frozenset({'index', 'default'})
_DICT_DESCRIPTORS = (types.GetSetDescriptorType, types.MemberDescriptorType)


class Attribute(NamedTuple):
    """What stands in a ``__dict__``: Attribute(<function add>, True).

    ``from_class``: a function is still to be bound to the instance.
    """

    value: Any
    from_class: bool


class Path(NamedTuple):
    """The way to an object: Path(('calc',), (<Api>, <Calculator>)).

    ``objects`` begins with the controller that the walk began at.
    """

    names: tuple[str, ...]
    objects: tuple[Any, ...]


def attributes_of(obj: Any) -> dict[str, Attribute]:
    """Return all attributes of an instance as ``getattr`` would find them,
    descriptors as they are; not those that every object has."""
    found = {name: Attribute(value, True)
             for kind in reversed(type(obj).__mro__) if kind is not object
             for name, value in tuple(vars(kind).items())}
    for name, value in _own_dict(obj).items():
        if type(name) is str and not (
                name in found and _wins_over_instances(found[name].value)):
            found[name] = Attribute(value, False)
    return found


def static_attribute(obj: Any, name: str, default: Any = None) -> Any:
    """Return one attribute of anything; a bound method has those of its
    function.  A descriptor is returned, not run."""
    if is_a(obj, types.MethodType, staticmethod, classmethod):
        obj = obj.__func__
    return inspect.getattr_static(obj, name, default)


def is_a(value: Any, *kinds: type) -> bool:
    """Tell the type of a value as ``isinstance`` does, which would run a
    property named ``__class__``."""
    return issubclass(type(value), kinds)


def has_special(kind: type, name: str) -> bool:
    """Tell whether instances of ``kind`` have a method like ``__get__``."""
    return any(name in vars(base) for base in kind.__mro__)


def is_hidden(name: str) -> bool:
    """Tell whether a name is never part of what may be called."""
    return name.startswith('_') or name in _PAGES or name in VERBS


class ControllerTree:
    """The objects below a controller, found once, when it is made.

    ``is_whole`` is False when there were more than ``MAX_OBJECTS``.
    """

    def __init__(self, root: Any) -> None:
        self.root = root
        self.is_whole = True
        self._objects: dict[int, Any] = {id(root): root}
        self._children: dict[int, list[tuple[str, int]]] = {}
        self._parents: dict[int, set[int]] = {id(root): set()}
        self._find_objects()

    def _find_objects(self) -> None:
        """Fill the graph level by level, each object once."""
        level = [self.root]
        # One level more than is used: paths() says what lies too deep.
        for _ in range(MAX_DEPTH + 2):
            below: list[Any] = []
            for parent in level:
                children = self._children.setdefault(id(parent), [])
                for name, (value, _) in attributes_of(parent).items():
                    if is_hidden(name) or not _is_controller(value):
                        continue
                    if id(value) not in self._objects:
                        if len(self._objects) >= MAX_OBJECTS:
                            self.is_whole = False
                            continue
                        self._objects[id(value)] = value
                        self._parents[id(value)] = set()
                        below.append(value)
                    children.append((name, id(value)))
                    self._parents[id(value)].add(id(parent))
            level = below

    def paths(self, is_wanted: Callable[[Any], bool], *,
              stops: Callable[[Path], bool] = lambda path: False,
              on_cut: Callable[[Path], None] = lambda path: None
              ) -> Iterator[Path]:
        """Yield each way to each object for which ``is_wanted(object)``.

        An object comes once on a path, so circles end.  ``stops(path)``
        True: neither this object nor what is below it.  ``on_cut(path)``
        is told of a path that led on to wanted objects, but is too long,
        or one too many.
        """
        leads = self._leading_to(is_wanted)
        left = MAX_PATHS
        stack = [Path((), (self.root,))]
        while stack:
            path = stack.pop()
            here = path.objects[-1]
            if id(here) not in leads or (path.names and stops(path)):
                continue
            if len(path.names) > MAX_DEPTH or left == 0:
                on_cut(path)
                if left == 0:
                    return
                continue
            if is_wanted(here):
                left -= 1
                yield path
            passed = {id(obj) for obj in path.objects}
            for name, child in reversed(self._children.get(id(here), ())):
                if child not in passed:
                    stack.append(Path((*path.names, name), (
                        *path.objects, self._objects[child])))

    def _leading_to(self, is_wanted: Callable[[Any], bool]) -> set[int]:
        """Return the ids of what is wanted and of all that is above it."""
        waiting = [key for key, obj in self._objects.items()
                   if is_wanted(obj)]
        leads = set(waiting)
        while waiting:
            new = self._parents[waiting.pop()] - leads
            leads |= new
            waiting.extend(new)
        return leads


def _own_dict(obj: Any) -> dict[str, Any]:
    """Return a copy of an instance's ``__dict__``, {} if it has none."""
    for kind in type(obj).__mro__:
        descriptor = vars(kind).get('__dict__')
        if descriptor is not None:
            if is_a(descriptor, *_DICT_DESCRIPTORS):
                return dict(object.__getattribute__(obj, '__dict__'))
            break       # a property of that name would be run
    return {}


def _wins_over_instances(value: Any) -> bool:
    """Tell whether a value of a class is a data descriptor."""
    kind = type(value)
    return has_special(kind, '__set__') or has_special(kind, '__delete__')


def _is_controller(value: Any) -> bool:
    kind = type(value)
    return (kind.__module__ != 'builtins' and not issubclass(kind, type)
            and not has_special(kind, '__get__'))
