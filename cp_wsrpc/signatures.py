"""A function -> the parameters that a peer may give.  Layer 1, pure.

::

    read_signature('calc.add', add)     # def add(a: int, b: int = 0): ...
    -> <Signature calc.add(a: int, b: int = ...)>

``arguments`` compiles a signature into the check of a call, ``hints`` reads
the types.  Defaults are not shown to a peer: they may be anything.

**Decorated functions.** The signature is that of the outermost function
that names its parameters: a wrapper of ``(*args, **kwargs)`` made with
``functools.wraps`` is looked through.  One that adds an argument of its own
says so in ``__signature__``.

**Partials.** What a ``functools.partial`` has fixed by name is no parameter
any more: a peer must not replace it.
"""
from __future__ import annotations

import functools
import inspect
import sys
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from .hints import hint_text, hints_of, why_unchecked

__all__ = ['Parameter', 'Signature', 'read_signature']

POSITIONAL_ONLY = inspect.Parameter.POSITIONAL_ONLY
KEYWORD_ONLY = inspect.Parameter.KEYWORD_ONLY
EITHER = inspect.Parameter.POSITIONAL_OR_KEYWORD
REST = inspect.Parameter.VAR_POSITIONAL
KEYWORDS = inspect.Parameter.VAR_KEYWORD

#: What has a function in ``__wrapped__`` and no parameters of its own.
_WRAPPERS = (types.FunctionType, functools._lru_cache_wrapper)


class Parameter(NamedTuple):
    """Parameter('a', EITHER, int, True).

    ``hint`` is Any when nothing is checked.  ``required`` is False for
    ``*args`` and ``**kwargs``.
    """

    name: str
    kind: Any
    hint: Any
    required: bool

    def __str__(self) -> str:
        if self.kind is REST or self.kind is KEYWORDS:
            name = ('*' if self.kind is REST else '**') + self.name
            optional = ''
        else:
            name = self.name
            optional = '' if self.required else '...'
        if self.hint is Any:
            return f'{name}={optional}' if optional else name
        text = f'{name}: {hint_text(self.hint)}'
        return f'{text} = {optional}' if optional else text


class Signature:
    """What one function takes; not changed after it was made.

    ``name``        the dotted name, for messages
    ``parameters``  in their order; an instance that comes first is left out
    ``taken``       names that ``**kwargs`` cannot have: the call would give
                    their parameters a second value
    ``is_known``    False for a builtin without a signature: it takes all
    ``warnings``    a sentence for each parameter that is not checked
    """

    def __init__(self, name: str, parameters: list[Parameter],
                 taken: frozenset[str] = frozenset(), is_known: bool = True,
                 warnings: tuple[str, ...] = ()) -> None:
        self.name = name
        self.parameters = tuple(parameters)
        self.taken = taken
        self.is_known = is_known
        self.warnings = warnings
        self.positional = [p for p in parameters
                           if p.kind in (POSITIONAL_ONLY, EITHER)]
        self.named = {p.name: p for p in parameters
                      if p.kind in (EITHER, KEYWORD_ONLY)}
        self.required = [p for p in parameters if p.required]
        self.rest = self._only(REST)
        self.keywords = self._only(KEYWORDS)

    def _only(self, kind: Any) -> Parameter | None:
        return next((p for p in self.parameters if p.kind is kind), None)

    def __str__(self) -> str:
        if not self.is_known:
            return f'{self.name}(...)'
        words: list[str] = []
        before: Any = None
        for parameter in self.parameters:
            kind = parameter.kind
            if before is POSITIONAL_ONLY and kind is not POSITIONAL_ONLY:
                words.append('/')
            if kind is KEYWORD_ONLY and before is not KEYWORD_ONLY and (
                    self.rest is None):
                words.append('*')
            words.append(str(parameter))
            before = kind
        if before is POSITIONAL_ONLY:
            words.append('/')
        return f"{self.name}({', '.join(words)})"

    def __repr__(self) -> str:
        return f'<Signature {self}>'


def read_signature(name: str, function: Callable[..., Any], *,
                   instance_first: bool = False) -> Signature:
    """Read what ``function`` takes; never raises for a callable.

    ``function``
        Any callable; the instance of a bound method does not count.
    ``instance_first``
        True for a plain function of a class whose instance comes first.
    """
    taken = _taken_names(function, instance_first)
    plain, is_bound = _naming_function(function)
    try:
        found = list(_inspect(plain).parameters.values())
    except (TypeError, ValueError):     # a builtin may have none
        return Signature(name, [Parameter('args', REST, Any, False),
                                Parameter('kwargs', KEYWORDS, Any, False)],
                         taken, is_known=False)
    if (is_bound or instance_first) and found and (
            found[0].kind in (POSITIONAL_ONLY, EITHER)):
        del found[0]
    hints = hints_of(plain)
    warnings: list[str] = []
    parameters = []
    for parameter in found:
        if isinstance(plain, functools.partial) and (
                parameter.name in plain.keywords):
            continue
        hint = _wanted(parameter, hints)
        reason = why_unchecked(hint)
        if reason:
            hint = Any
            warnings.append(
                f'{name}: the parameter {parameter.name!r} is not checked,'
                f' anything is passed to it: {reason}')
        parameters.append(Parameter(
            parameter.name, parameter.kind, hint,
            parameter.default is parameter.empty
            and parameter.kind not in (REST, KEYWORDS)))
    return Signature(name, parameters, taken, warnings=tuple(warnings))


def _wanted(parameter: inspect.Parameter, hints: Mapping[str, Any]) -> Any:
    """Return the hint to check; ``a: int = None`` takes None as well."""
    hint = hints.get(parameter.name, parameter.annotation)
    if hint is parameter.empty or hint is object:
        return Any
    if parameter.default is None and hint is not Any and (
            not isinstance(hint, (str, typing.ForwardRef))):
        try:
            return hint | None
        except TypeError:
            return hint         # no type at all: it stays unchecked
    return hint


def _naming_function(function: Any) -> tuple[Any, bool]:
    """Return the function that names the parameters, and whether its first
    one is given already: ``(<function add>, True)`` for a bound method."""
    function, is_bound = _underlying(function)
    if isinstance(function, _WRAPPERS):
        function = inspect.unwrap(function, stop=_names_its_parameters)
    return function, is_bound


def _underlying(function: Any) -> tuple[Any, bool]:
    """Return the function of a bound method or of a callable object."""
    if isinstance(function, types.MethodType):
        return function.__func__, True
    if isinstance(function, (type, functools.partial, *_WRAPPERS)):
        return function, False
    call = inspect.getattr_static(type(function), '__call__', None)
    if isinstance(call, types.FunctionType):
        return call, True
    return function, False


def _names_its_parameters(function: Any) -> bool:
    """True unless it is a wrapper that passes on whatever it is given."""
    if hasattr(function, '__signature__'):
        return True
    if not isinstance(function, types.FunctionType):
        return False
    return not any(p.kind in (REST, KEYWORDS)
                   for p in _inspect(function).parameters.values())


def _inspect(function: Any) -> inspect.Signature:
    options: dict[str, Any] = {}
    if sys.version_info >= (3, 14):
        # There a hint that fails would make the whole signature fail.
        import annotationlib
        options['annotation_format'] = annotationlib.Format.FORWARDREF
    # A partial may hold a wrapper: then all of it is looked through.
    is_partial = isinstance(function, functools.partial)
    return inspect.signature(function, follow_wrapped=is_partial, **options)


def _taken_names(function: Any, instance_first: bool) -> frozenset[str]:
    """Return the keywords that would meet an argument given already.

    What a partial has fixed, and the instance, under the names that each
    function on the way of the call has for them: ``def init(self,
    **kwargs)`` cannot take "self".
    """
    taken: set[str] = set()
    given = int(instance_first)
    while isinstance(function, functools.partial):
        taken.update(function.keywords)
        given += len(function.args)
        function = function.func
    function, is_bound = _underlying(function)
    given += is_bound
    while isinstance(function, _WRAPPERS):
        if isinstance(function, types.FunctionType):
            code = function.__code__
            first = min(given, code.co_argcount)
            taken.update(code.co_varnames[code.co_posonlyargcount:first])
        function = getattr(function, '__wrapped__', None)
    return frozenset(taken)
