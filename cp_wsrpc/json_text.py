"""A value -> JSON text, exactly, or an exception.  Layer 1, pure.

::

    {'at': date(2026, 1, 2)}   -> b'{"at":"2026-01-02"}'
    float('nan'), [inf]        -> ValueError
    object()                   -> TypeError

What applications return, publish and call with is written by this: in
``dialects``, and where an event is made.  Any thread may.
"""
from __future__ import annotations

from typing import Any

import msgspec

__all__ = ['NEVER_NAN', 'encode_json', 'encode_unchecked', 'refuse_nan']


def _refuse_unknown(value: Any) -> Any:
    raise TypeError(
        f'a result of type {type(value).__qualname__} cannot be sent as '
        'JSON: return plain values, a dataclass or a msgspec.Struct')


#: :func:`encode_json` for who has looked for NaN, or whose value has none.
encode_unchecked = msgspec.json.Encoder(enc_hook=_refuse_unknown).encode


def encode_json(value: Any) -> bytes:
    """``value`` as JSON text; ValueError, TypeError if it has none.

    NaN and the infinities have none: msgspec writes ``null`` for them, so
    they are looked for only where the text has a ``null`` (design.md, 6).
    """
    text = encode_unchecked(value)
    if b'null' in text:
        refuse_nan(value)
    return text


def refuse_nan(value: Any) -> None:
    """ValueError if ``value`` has a float that is NaN or an infinity.

    To be asked where its text has a ``null``; it takes longer than the
    encoding.
    """
    if _has_not_a_number(value):
        raise ValueError('NaN and infinities cannot be sent as JSON')


#: Types of values without a float in them.
NEVER_NAN = frozenset({int, str, bool, type(None)})


def _has_not_a_number(value: Any) -> bool:
    """Whether a float in ``value`` is NaN or an infinity."""
    seen_as = msgspec.to_builtins(value, builtin_types=(
        bytes, bytearray), enc_hook=_skip_raw) \
        if not isinstance(value, (float, list, dict, tuple)) else value
    todo = [seen_as]
    while todo:
        item = todo.pop()
        if isinstance(item, float):
            if item != item or item in (float('inf'), float('-inf')):
                return True
        elif isinstance(item, dict):
            todo.extend(item.values())
        elif isinstance(item, (list, tuple)):
            todo.extend(item)
        elif not isinstance(item, (str, int, bytes, bytearray,
                                   msgspec.Raw, type(None))):
            todo.append(msgspec.to_builtins(
                item, builtin_types=(bytes, bytearray),
                enc_hook=_skip_raw))
    return False


def _skip_raw(value: Any) -> Any:
    # Text that is JSON already has no NaN; to_builtins does not know Raw.
    return None if isinstance(value, msgspec.Raw) else _refuse_unknown(value)
