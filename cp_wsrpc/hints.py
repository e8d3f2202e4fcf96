"""What the hint of a parameter says: how it is written, whether JSON can be
checked against it, and a value that fits.  Layer 1, pure.

::

    hints_of(add)                     -> {'a': int, 'b': int, 'return': int}
    why_unchecked(int)                -> ''
    why_unchecked(pathlib.Path)       -> 'JSON has no form of Path'
    hint_text(list[int] | None)       -> 'list[int] | None'
    example_of(datetime.date, 1)      -> '2026-01-31'

msgspec decides what can be checked: int, str, float, bool, None, list, dict,
set, tuple, NamedTuple, TypedDict, dataclass, Struct, datetime, date, time,
timedelta, UUID, Decimal, Enum, Literal, bytes (base64), unions of what JSON
can tell apart, ``Annotated[int, msgspec.Meta(ge=0)]``.
"""
from __future__ import annotations

import datetime
import functools
import inspect
import sys
import types
import typing
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import inspect as kinds

__all__ = ['example_of', 'hint_text', 'hints_of', 'why_unchecked']

_MAX_EXAMPLE_DEPTH = 3


def hints_of(function: Any) -> dict[str, Any]:
    """Return the hints of a function by the names of its parameters.

    One that cannot be resolved is what stands in the source: a str or a
    ``typing.ForwardRef``.
    """
    while isinstance(function, functools.partial):
        function = function.func
    function = getattr(function, '__func__', function)
    try:
        return typing.get_type_hints(function, include_extras=True)
    except Exception:
        # One of them fails, with whatever the name raises: find out which.
        return dict(_hints_one_by_one(function))


def why_unchecked(hint: Any) -> str:
    """Return why JSON cannot be checked against a hint, '' if it can."""
    if hint is Any:
        return ''
    if isinstance(hint, (str, typing.ForwardRef)):
        name = getattr(hint, '__forward_arg__', hint)
        return f'{name!r} is not defined where the function is'
    try:
        msgspec.json.Decoder(hint)
        info = kinds.type_info(hint)
    except Exception as error:      # also what its own hints raise
        return f'{hint_text(hint)}: {error}'
    for part in _parts(info, set()):
        if isinstance(part, (kinds.CustomType, kinds.ExtType)):
            name = getattr(getattr(part, 'cls', None), '__name__', 'Ext')
            return f'JSON has no form of {name}'
    return ''


def hint_text(hint: Any) -> str:
    """Return a hint as one would write it: 'list[int]', 'Color | None'."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return hint_text(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return ' | '.join(map(hint_text, arguments))
    if origin is typing.Literal:
        return f"Literal[{', '.join(map(repr, arguments))}]"
    if isinstance(hint, type) and not arguments:
        return 'None' if hint is type(None) else hint.__name__
    if isinstance(origin, type):
        inner = ['...' if argument is ... else hint_text(argument)
                 for argument in arguments]
        return f"{origin.__name__}[{', '.join(inner)}]"
    return inspect.formatannotation(hint)


def example_of(hint: Any, number: int) -> Any:
    """Return plain JSON data that fits a hint, as far as can be told.

    ``number`` makes examples differ: ``example_of(int, 2) == 2``.  It may
    miss (a pattern, a check in ``__post_init__``): try it before use.
    """
    try:
        return _example(kinds.type_info(hint), number, 0)
    except Exception:       # a type that is not inspectable has no example
        return None


def _hints_one_by_one(function: Any) -> Iterator[tuple[str, Any]]:
    scope = getattr(inspect.unwrap(function), '__globals__', {})
    for name, hint in _annotations(function).items():
        one = types.SimpleNamespace(__annotations__={name: hint})
        try:
            found = typing.get_type_hints(one, globalns=scope,
                                          include_extras=True)
        except Exception:  # a name may raise anything as it is read
            yield name, hint
        else:
            yield name, found[name]


def _annotations(function: Any) -> dict[str, Any]:
    if sys.version_info >= (3, 14):
        import annotationlib
        return annotationlib.get_annotations(
            function, format=annotationlib.Format.FORWARDREF)
    return dict(getattr(function, '__annotations__', None) or {})


def _parts(info: Any, seen: set[int]) -> Iterator[Any]:
    """Yield a type and all types in it; they may be recursive."""
    if isinstance(info, tuple):
        for part in info:
            yield from _parts(part, seen)
    elif isinstance(info, (kinds.Type, kinds.Field)) and id(info) not in seen:
        seen.add(id(info))
        yield info
        for name in info.__struct_fields__:
            yield from _parts(getattr(info, name), seen)


_TEXTS: dict[type, Any] = {
    kinds.NoneType: None,
    kinds.BoolType: True,
    kinds.BytesType: 'aGVsbG8=',
    kinds.ByteArrayType: 'aGVsbG8=',
    kinds.DateTimeType: '2026-01-31T12:00:00Z',
    kinds.DateType: '2026-01-31',
    kinds.TimeType: '12:00:00',
    kinds.TimeDeltaType: 'PT1M',
    kinds.UUIDType: '12345678-1234-5678-1234-567812345678',
    kinds.DecimalType: '1.50',
    kinds.FloatType: 1.5,
}


def _example(info: Any, number: int, depth: int) -> Any:
    if isinstance(info, kinds.DateTimeType) and info.tz is False:
        return datetime.datetime(2026, 1, 31, 12).isoformat()
    if isinstance(info, kinds.IntType):
        return _bounded(info, number)
    if isinstance(info, kinds.FloatType):
        return (1.5 if info.gt is info.ge is info.lt is info.le is None
                else _bounded(info, number))
    if type(info) in _TEXTS:
        return _TEXTS[type(info)]
    if isinstance(info, kinds.StrType):
        text = 'text'.ljust(info.min_length or 0, '-')
        return text[:info.max_length]
    if isinstance(info, kinds.EnumType):
        return msgspec.to_builtins(next(iter(info.cls)))
    if isinstance(info, kinds.LiteralType):
        return info.values[0]
    if isinstance(info, kinds.UnionType):
        return next(_example(part, number, depth) for part in info.types
                    if not isinstance(part, kinds.NoneType))
    if isinstance(info, kinds.AnyType):
        return number
    return _example_of_many(info, number, depth + 1)


def _example_of_many(info: Any, number: int, depth: int) -> Any:
    if depth > _MAX_EXAMPLE_DEPTH:
        return None
    if isinstance(info, kinds.CollectionType):
        size = info.min_length or (0 if depth > 1 else 1)
        return [_example(info.item_type, number + extra, depth)
                for extra in range(size)]
    if isinstance(info, kinds.TupleType):
        return [_example(part, number, depth) for part in info.item_types]
    if isinstance(info, kinds.DictType):
        return {}
    fields = [field for field in info.fields if field.required]
    if isinstance(info, kinds.NamedTupleType) or (
            getattr(info, 'array_like', False)):
        head = [] if getattr(info, 'tag', None) is None else [info.tag]
        return head + [_example(f.type, number, depth) for f in fields]
    members = {field.encode_name: _example(field.type, number, depth)
               for field in fields}
    if getattr(info, 'tag', None) is not None:
        members = {info.tag_field: info.tag, **members}
    return members


def _bounded(info: Any, number: int) -> int | float:
    """Return the number, moved into the bounds that a Meta gives."""
    value: int | float = number
    if info.ge is not None:
        value = max(value, info.ge)
    if info.gt is not None and value <= info.gt:
        value = info.gt + 1
    if info.le is not None:
        value = min(value, info.le)
    if info.lt is not None and value >= info.lt:
        value = info.lt - 1
    return value
