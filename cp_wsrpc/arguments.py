"""A signature -> the check of what a peer gives to a call.  Layer 1, pure.

::

    bind = compile_bind(signature)      # calc.add(a: int, b: int = ...)
    bind(b'[1, 2]')     -> ((1, 2), {})
    bind(b'{"a": 1}')   -> ((), {'a': 1})
    bind(b'5')          -> ((5,), {})
    bind(None)          -> InvalidParams: calc.add(a: int, b: int = ...) takes
                           1 to 2 arguments, none given: try [1] or {"a": 1}
    bind(b'["x"]')      -> InvalidParams: a: expected int, got str, in ...

**Shapes.** None and ``null``: no arguments.  An array: positional ones.  An
object: keywords.  Anything else: one positional argument.  Each element or
member is the one value of one parameter; positional-only and keyword-only
ones, ``*args`` and ``**kwargs`` (and their hints) mean what they do in
Python.  Of a member that comes twice the last one counts.

**Types.** As msgspec has them, strictly: nothing is guessed.  ``1`` is taken
for a float, but ``1.0``, ``true`` and ``"1"`` are no int.  bytes are base64.
Without a hint anything is taken as JSON has it, integers exactly (up to
4 300 digits).

**Cost.** One decoder per signature, a union of the array and the object, is
compiled at start: ``[1, 2]`` for ``add(a: int, b: int)`` takes 0.09 us,
where ``inspect.Signature.bind`` alone takes 1.7.  Words are looked for only
after something did not fit.
"""
from __future__ import annotations

import json
import logging
import re
import types
from collections.abc import Callable
from typing import Any, NoReturn, TypeAlias

import msgspec

from .errors import InvalidParams
from .hints import example_of
from .signatures import KEYWORD_ONLY, Parameter, Signature

__all__ = ['NO_KEYWORDS', 'Bind', 'compile_bind']

Arguments: TypeAlias = 'tuple[tuple[Any, ...], dict[str, Any]]'
Bind: TypeAlias = 'Callable[[Any], Arguments]'

_logger = logging.getLogger('cp_wsrpc.arguments')
_MAX_NAME_CHARS = 40
_MAX_ERROR_CHARS = 300
_LARGE_BYTES = 1 << 16
#: How many arguments there are, and their names, but not what they are.
_decode_outline = msgspec.json.Decoder(
    list[msgspec.Raw] | dict[str, msgspec.Raw] | str | int | float | bool
    | None).decode


class _NoKeywords(dict[str, Any]):
    """An empty dict that stays empty: all calls without keywords share it,
    and an ``authorize`` that adds one must not add it to all of them."""

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError('the keywords of a call cannot be changed')

    __setitem__ = setdefault = update = __ior__ = _refuse


NO_KEYWORDS: dict[str, Any] = _NoKeywords()


class _DoesNotFit(Exception):
    """The shape is wrong; :func:`_misfit` finds the words."""


class _WrongValue(Exception):
    """_WrongValue('a', 'Expected `int`, got `str` - at `$[2]`')."""

    def __init__(self, parameter: str, message: str) -> None:
        super().__init__(parameter, message)
        self.parameter = parameter
        self.message = message


def compile_bind(signature: Signature) -> Bind:
    """Return ``bind(params) -> (args, kwargs)`` for a signature.

    ``params`` is JSON text (bytes or ``msgspec.Raw``) or None.  Any thread
    may call it.  It raises ``InvalidParams``, the peer's fault, and nothing
    else.  ``kwargs`` may be :data:`NO_KEYWORDS`, shared and immutable.  Code
    of the application runs in it only where a type has some
    (``__post_init__``, an Enum's ``_missing_``).
    """
    decode = msgspec.json.Decoder(
        _array_type(signature) | dict[str, msgspec.Raw]).decode
    spread_array = _compile_array(signature)
    spread_object = _compile_object(signature)
    nothing_given = None if signature.required else ((), NO_KEYWORDS)

    def bind(params: Any) -> Arguments:
        if params is None:
            if nothing_given is None:
                raise InvalidParams(_misfit(signature, bind, []))
            return nothing_given
        try:
            value = decode(params)
            if type(value) is tuple:
                return value, NO_KEYWORDS
            if type(value) is dict:
                return (), spread_object(value)
            return spread_array(value), NO_KEYWORDS
        except Exception as error:
            # Also what a type of the application raises.
            return _bind_slowly(signature, bind, params, error)
    return bind


def _array_type(signature: Signature) -> Any:
    """Return the type of positional arguments, the fastest that does.

    A tuple is what ``bind`` returns; a Struct stands for it where the last
    elements may be missing; a list where more may come.
    """
    positional = signature.positional
    if _needs_names(signature) or (signature.rest and positional):
        return list[msgspec.Raw]
    if signature.rest is not None:
        return types.GenericAlias(tuple, (signature.rest.hint, ...))
    if all(p.required for p in positional):
        return types.GenericAlias(tuple, tuple(p.hint for p in positional))
    fields: list[Any] = [
        (f'p{number}', p.hint) if p.required
        else (f'p{number}', p.hint, msgspec.UNSET)
        for number, p in enumerate(positional)]
    return msgspec.defstruct('Arguments', fields, array_like=True,
                             forbid_unknown_fields=True)


def _compile_array(signature: Signature
                   ) -> Callable[[Any], tuple[Any, ...]]:
    if _needs_names(signature):
        return _refuse_array
    if signature.rest is None:
        return _without_missing
    decoders = [_decoder(p) for p in signature.positional]
    decode_rest = _decoder(signature.rest)
    required = sum(p.required for p in signature.positional)

    def spread(values: list[msgspec.Raw]) -> tuple[Any, ...]:
        if len(values) < required:
            raise _DoesNotFit
        args = []
        for number, raw in enumerate(values):
            decode = (decoders[number] if number < len(decoders)
                      else decode_rest)
            try:
                args.append(decode(raw))
            except msgspec.MsgspecError as error:
                raise _WrongValue(_name_at(signature, number),
                                  str(error)) from None
        return tuple(args)
    return spread


def _compile_object(signature: Signature
                    ) -> Callable[[dict[str, Any]], dict[str, Any]]:
    find = {name: _decoder(p) for name, p in signature.named.items()}.get
    keywords, taken = signature.keywords, signature.taken
    decode_rest = None if keywords is None else _decoder(keywords)
    required = [p.name for p in signature.required]
    can_fit = all(name in signature.named for name in required)

    def spread(values: dict[str, msgspec.Raw]) -> dict[str, Any]:
        kwargs: dict[str, Any] = {}
        for name, raw in values.items():
            decode = find(name, decode_rest)
            if decode is None or name in taken:
                raise _DoesNotFit
            try:
                kwargs[name] = decode(raw)
            except msgspec.MsgspecError as error:
                raise _WrongValue(name, str(error)) from None
        if not can_fit:
            raise _DoesNotFit
        for name in required:
            if name not in kwargs:
                raise _DoesNotFit
        return kwargs
    return spread


def _needs_names(signature: Signature) -> bool:
    """True when no array can fit, for a parameter has no place in it."""
    return any(p.kind is KEYWORD_ONLY for p in signature.required)


def _refuse_array(values: Any) -> NoReturn:
    raise _DoesNotFit


def _without_missing(struct: Any) -> tuple[Any, ...]:
    """Return the fields of an array-like Struct down to the last given."""
    args: tuple[Any, ...] = msgspec.structs.astuple(struct)
    while args and args[-1] is msgspec.UNSET:
        args = args[:-1]
    return args


def _decoder(parameter: Parameter) -> Callable[[Any], Any]:
    return msgspec.json.Decoder(parameter.hint).decode


# -- what does not fit: only words from here on ---------------------------

def _bind_slowly(signature: Signature, bind: Bind, params: Any,
                 error: Exception) -> Arguments:
    """Bind what is neither array nor object, or say what is wrong."""
    try:
        # Of what is large, only how many there are is worth knowing: 1 MiB
        # of ``[]`` held the loop for 80 ms, to be told that it is no int.
        given = (msgspec.json.decode if len(params) < _LARGE_BYTES
                 else _decode_outline)(params)
    except Exception as unreadable:     # also RecursionError, bad UTF-8
        raise InvalidParams(
            f'the arguments of {signature.name} cannot be read:'
            f' {_short(str(unreadable))}') from None
    if given is None:
        return bind(None)
    if not isinstance(given, (list, dict)):
        return bind(b'[%b]' % bytes(params))
    misfit = _misfit(signature, bind, given)
    if misfit:
        raise InvalidParams(misfit) from None
    if isinstance(error, (_WrongValue, msgspec.MsgspecError)):
        raise InvalidParams(
            f'{_wrong_value(signature, error)}, in {signature}') from None
    # A type of the application raised what msgspec does not expect.
    _logger.error('%s: converting the arguments failed', signature.name,
                  exc_info=error)
    raise InvalidParams(
        f'the arguments of {signature} cannot be converted') from error


def _misfit(signature: Signature, bind: Bind,
            given: list[Any] | dict[str, Any]) -> str:
    """Word what is wrong with the shape; '' when nothing is."""
    reason = _misfit_of(signature, given)
    if not reason:
        return ''
    wanted = signature.required or [*signature.positional,
                                    *signature.named.values()][:1]
    values = [example_of(p.hint, number)
              for number, p in enumerate(wanted, 1)]
    named = {p.name: value for p, value in zip(wanted, values, strict=True)}
    tries = [json.dumps(example)
             for example in ([values, named] if wanted else [[]])
             if _fits(signature, bind, example)]
    hint = f": try {' or '.join(tries)}" if tries else ''
    return f'{signature} {reason}{hint}'


def _fits(signature: Signature, bind: Bind, example: Any) -> bool:
    if _misfit_of(signature, example):
        return False
    try:
        bind(json.dumps(example).encode())
    except (InvalidParams, TypeError, ValueError):
        return False
    return True


def _misfit_of(signature: Signature,
               given: list[Any] | dict[str, Any]) -> str:
    if isinstance(given, list):
        return _misfit_of_count(signature, len(given))
    return _misfit_of_names(signature, given)


def _misfit_of_count(signature: Signature, count: int) -> str:
    if _needs_names(signature):
        names = [p.name for p in signature.required
                 if p.kind is KEYWORD_ONLY]
        return f'takes {_quoted(names)} by name only'
    low, high = len(signature.required), len(signature.positional)
    if signature.rest is not None:
        fits, wanted, last = count >= low, f'at least {low}', low
    elif low == high:
        fits, wanted, last = count == low, str(low or 'no'), low
    else:
        fits, wanted, last = low <= count <= high, f'{low} to {high}', high
    if fits:
        return ''
    noun = 'argument' if last == 1 else 'arguments'
    return f"takes {wanted} {noun}, {count or 'none'} given"


def _misfit_of_names(signature: Signature, given: dict[str, Any]) -> str:
    unknown = [name for name in given if name in signature.taken or (
        name not in signature.named and signature.keywords is None)]
    if unknown and not signature.parameters:
        return f'takes no arguments, {_quoted(unknown)} given'
    nameless = [p.name for p in signature.required
                if p.name not in signature.named]
    if nameless:
        return f'takes {_quoted(nameless)} by position only'
    if unknown:
        return f'has no parameter {_quoted(unknown)}'
    missing = [p.name for p in signature.required if p.name not in given]
    return f'needs {_quoted(missing)}, not given' if missing else ''


def _wrong_value(signature: Signature, error: Exception) -> str:
    """Translate 'Expected `int` - at `$[0].x`' to 'a.x: expected int'."""
    start, message = '', str(error)
    if isinstance(error, _WrongValue):
        start, message = error.parameter, error.message
    message, _, place = message.replace('`', '').partition(' - at ')
    of_key = 'the key of ' if place.startswith('key in ') else ''
    path = place.removeprefix('key in ').removeprefix('$')
    if not start:
        path = re.sub(r'^\[(\d+)\]',
                      lambda match: _name_at(signature, int(match[1])), path)
    return _short(f'{of_key}{start}{path}: {message[:1].lower()}'
                  f'{message[1:]}')


def _name_at(signature: Signature, number: int) -> str:
    """Return what stands for an element of the array: 'a', 'args[0]'."""
    if number < len(signature.positional):
        return signature.positional[number].name
    if signature.rest is None:
        return f'[{number}]'
    return f'{signature.rest.name}[{number - len(signature.positional)}]'


def _quoted(names: list[str]) -> str:
    """Return '"a", "b"': at most three of them, each cut."""
    words = [json.dumps(name[:_MAX_NAME_CHARS]) for name in names[:3]]
    return ', '.join(words) + (', ...' if len(names) > 3 else '')


def _short(text: str) -> str:
    return (text if len(text) <= _MAX_ERROR_CHARS
            else text[:_MAX_ERROR_CHARS] + '...')
