"""What is read of a function: names, hints, what is taken already."""
from __future__ import annotations

import datetime
import decimal
import enum
import functools
import pathlib
import time
import typing
import uuid
from typing import Annotated, Any, Literal, NamedTuple, Optional, Union

import msgspec
import pytest

from cp_wsrpc.hints import example_of, hint_text, why_unchecked
from cp_wsrpc.signatures import read_signature


class Color(enum.Enum):
    RED = 'red'


class Point(msgspec.Struct):
    x: int
    y: Point | None = None


class Pair(NamedTuple):
    a: int
    b: str


class Custom:
    pass


def passing(function):
    """Return a wrapper as most decorators are."""
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)
    return wrapper


def plain(a, b=1, *args, c, d=2, **kwargs): ...
def typed(a: int, b: Optional[str] = None, /, c: list[int] = []): ...  # noqa
def by_name(*, a: int): ...
def positional(a, b, /): ...
def nothing(): ...
def none_default(a: int = None, b: Any = None, c=None): ...  # noqa: RUF013
def with_object(a: object): ...


class Calculator:
    def add(self, a: int, b: int): ...

    @passing
    def wrapped(self, a: int): ...

    @staticmethod
    def static(a: int): ...

    @classmethod
    def made(cls, a: int): ...

    def __call__(self, a: int): ...

    def any_self(*args): ...

    @functools.lru_cache  # noqa: B019
    def cached(self, a: int): ...


@pytest.mark.parametrize('function, text', [
    (plain, 'f(a, b=..., *args, c, d=..., **kwargs)'),
    (typed, 'f(a: int, b: str | None = ..., /, c: list[int] = ...)'),
    (by_name, 'f(*, a: int)'),
    (positional, 'f(a, b, /)'),
    (nothing, 'f()'),
    (none_default, 'f(a: int | None = ..., b=..., c=...)'),
    (with_object, 'f(a)'),
    (Calculator().add, 'f(a: int, b: int)'),
    (Calculator().wrapped, 'f(a: int)'),
    (Calculator().static, 'f(a: int)'),
    (Calculator.made, 'f(a: int)'),
    (Calculator(), 'f(a: int)'),
    (Calculator().any_self, 'f(*args)'),
    (passing(passing(typed)),
     'f(a: int, b: str | None = ..., /, c: list[int] = ...)'),
    (functools.partial(Calculator().add, 1), 'f(b: int)'),
    (functools.partial(Calculator().add, b=1), 'f(a: int)'),
    (functools.partial(passing(Calculator().add), 1), 'f(b: int)'),
    (functools.lru_cache(typed),
     'f(a: int, b: str | None = ..., /, c: list[int] = ...)'),
])
def test_a_signature_reads_as_it_was_written(function, text):
    signature = read_signature('f', function)
    assert str(signature) == text
    assert signature.is_known and not signature.warnings


@pytest.mark.parametrize('name', ['add', 'wrapped', 'cached'])
def test_the_instance_of_a_plain_method_does_not_count(name):
    signature = read_signature('f', vars(Calculator)[name],
                               instance_first=True)
    assert signature.parameters[0].name == 'a'


def test_a_builtin_without_signature_takes_everything():
    signature = read_signature('now', time.monotonic)
    if signature.is_known:          # Python may learn it
        assert str(signature) == 'now()'
    else:
        assert str(signature) == 'now(...)'
        assert signature.rest and signature.keywords


def test_a_wrapper_that_names_its_parameters_is_believed():
    def inner(database, a: int): ...

    @functools.wraps(inner)
    def wrapper(a: int):
        return inner('db', a)

    assert [p.name for p in read_signature('f', wrapper).parameters] == ['a']


@pytest.mark.parametrize('function, instance_first, taken', [
    (nothing, False, set()),
    (Calculator().add, False, {'self'}),
    (Calculator().wrapped, False, {'self'}),
    (vars(Calculator)['wrapped'], True, {'self'}),
    (Calculator(), False, {'self'}),
    (Calculator.made, False, {'cls'}),
    (Calculator().static, False, set()),
    (Calculator().any_self, False, set()),
    (functools.partial(plain, 1, d=3), False, {'a', 'd'}),
    (functools.partial(Calculator().add, 1), False, {'self', 'a'}),
    (functools.partial(positional, 1), False, set()),
])
def test_names_that_have_their_value_are_known(
        function, instance_first, taken):
    signature = read_signature('f', function, instance_first=instance_first)
    assert signature.taken == taken


def undefined(a: Missing, b: int): ...  # type: ignore # noqa: F821
def custom(a: Custom, b: int): ...
def in_list(a: list[Custom], b: int): ...
def path(a: pathlib.Path, b: int): ...
def ambiguous(a: Union[str, datetime.date], b: int): ...
def two_structs(a: Point | Other, b: int): ...
def a_number(a: 5, b: int): ...  # type: ignore
def broken(a: 1 / 0, b: int): ...  # type: ignore


class Other(msgspec.Struct):
    z: int


@pytest.mark.parametrize('function', [
    undefined, custom, in_list, path, ambiguous, two_structs, a_number,
    broken])
def test_a_hint_that_cannot_be_checked_leaves_one_parameter(function):
    signature = read_signature('calc.f', function)
    assert [p.hint for p in signature.parameters] == [Any, int]
    [warning] = signature.warnings
    assert warning.startswith("calc.f: the parameter 'a' is not checked")


CHECKABLE = [
    int, str, float, bool, None, list, dict, set, tuple, bytes, list[int],
    dict[str, int], set[int], tuple[int, str], tuple[int, ...], Point, Pair,
    Color, Literal['a', 2], int | None, int | str | list[int],
    datetime.datetime, datetime.date, datetime.time, datetime.timedelta,
    uuid.UUID, decimal.Decimal, Annotated[int, msgspec.Meta(ge=10)],
    Annotated[str, msgspec.Meta(min_length=7)], frozenset[int],
    Annotated[float, msgspec.Meta(lt=0)], typing.Sequence[int],
    typing.TypedDict('Entry', {'a': int, 'b': str}), Point | None,
    Annotated[datetime.datetime, msgspec.Meta(tz=False)], msgspec.Raw,
    list[list[list[list[int]]]], list[Point],
    Annotated[list[int], msgspec.Meta(min_length=2)]]


@pytest.mark.parametrize('hint', CHECKABLE, ids=str)
def test_the_example_of_a_hint_fits_it(hint):
    assert why_unchecked(hint) == ''
    example = msgspec.json.encode(example_of(hint, 1))
    msgspec.json.Decoder(hint).decode(example)


@pytest.mark.parametrize('hint, text', [
    (int, 'int'), (None, 'None'), (type(None), 'None'), (Point, 'Point'),
    (datetime.datetime, 'datetime'), (list[uuid.UUID], 'list[UUID]'),
    (list[Point] | None, 'list[Point] | None'),
    (tuple[int, ...], 'tuple[int, ...]'),
    (Literal['a.b', 1], "Literal['a.b', 1]"),
    (Annotated[int, msgspec.Meta(ge=0)], 'int'),
    (dict[str, Point | None], 'dict[str, Point | None]')])
def test_hints_are_written_without_modules(hint, text):
    assert hint_text(hint) == text
