r"""Text that is no message -> the answer it gets.  Layer 1, pure.

::

    {"jsonrpc":"2.0","id":7,"method":1}  -> Bad(7, InvalidRequest(...))
    {"jsonrpc":"2.0","id":7,"result"     -> Bad(None, ParseError())
    {"id":7,"result":"\ud800"}           -> Failure(7, RemoteError(...))

The slow road of ``decoding``, which comes here with what it refuses.
"""
from __future__ import annotations

import json
from typing import Any

import msgspec
from msgspec import Raw

from .dialects import JSONRPC, WSRPC1, WSRPC2, Dialect
from .errors import InvalidRequest, ParseError, RemoteError
from .messages import MAX_ID_CHARS, MAX_SAFE_INTEGER, Bad, Failure

__all__ = ['LARGE_BYTES', 'diagnose']

#: json.loads takes 1 ms for so much of what is worst.
LARGE_BYTES = 1 << 16


def diagnose(text: bytes) -> Failure | Bad:
    """Why ``text`` is no message, and whose id the answer bears.

    The standard library's parser takes what msgspec does not - lone
    surrogates, numbers out of range - so that even such a message is
    answered under its own id.  An answer of the peer's is never answered:
    it settles the call that waits for it, as a failure.
    """
    try:
        value = (json.loads(text, parse_constant=_refuse_constant)
                 if len(text) <= LARGE_BYTES else _parse_large(text))
    except (ValueError, RecursionError):
        return Bad(None, ParseError())
    if not isinstance(value, dict):
        return Bad(None, InvalidRequest('a message is a JSON object'),
                   JSONRPC)
    if 'jsonrpc' not in value and 'serial' in value:
        dialect, id = WSRPC1, value['serial']
    elif 'jsonrpc' not in value and 'id' in value:
        dialect, id = WSRPC2, value['id']
    else:
        dialect, id = JSONRPC, value.get('id')
    if not _is_id(id) or (type(id) is str and not _is_encodable(id)):
        return Bad(None, InvalidRequest(
            'an id is null, a string of up to 64 characters or an integer '
            'within 2^53'), dialect)
    if _is_answer(value, dialect):
        return Failure(id, RemoteError(
            'the answer cannot be decoded: a lone surrogate or a member of '
            'the wrong type'))
    return Bad(id, InvalidRequest(_what_is_wrong(value, dialect)), dialect)


def _is_id(id: Any) -> bool:
    """null, a string of up to 64 characters, or a safe integer."""
    if id is None:
        return True
    if type(id) is int:
        return -MAX_SAFE_INTEGER <= id <= MAX_SAFE_INTEGER
    return type(id) is str and len(id) <= MAX_ID_CHARS


class _Raws(msgspec.Struct, gc=False):
    """The members that tell what kind of message it is, none looked at."""

    jsonrpc: Raw = Raw()
    method: Raw = Raw()
    id: Raw = Raw()
    result: Raw = Raw()
    error: Raw = Raw()
    serial: Raw = Raw()
    call: Raw = Raw()
    type: Raw = Raw()


_decode_raws = msgspec.json.Decoder(_Raws).decode
_check_syntax = msgspec.json.Decoder(Raw).decode


def _parse_large(text: bytes) -> dict[str, Any] | None:
    """What :func:`diagnose` looks at of a text; None: it is no object.

    To build all that stands in 1 MiB held the loop for 15 ms, to find
    where its members end takes 1.  Surrogates, of which msgspec takes
    pairs only, are made into other characters first.
    """
    text = text.replace(b'\\ud', b'\\uf').replace(b'\\uD', b'\\uf')
    if text.lstrip(b' \t\r\n')[:1] != b'{':
        _check_syntax(text)
        return None
    members = msgspec.structs.asdict(_decode_raws(text))
    return {name: _parse_short(raw) for name, raw in members.items() if raw}


def _parse_short(raw: Raw) -> Any:
    """Its value; what is no id and no name if it is long or was changed."""
    text = bytes(raw)
    return [] if len(text) > 1000 or b'\\uf' in text else json.loads(text)


def _is_answer(value: dict[str, Any], dialect: Dialect) -> bool:
    if dialect is WSRPC1:
        return value.get('type') in ('callback', 'error')
    return 'method' not in value and (
        'result' in value or 'error' in value)


def _what_is_wrong(value: dict[str, Any], dialect: Dialect) -> str:
    if dialect is JSONRPC and value.get('jsonrpc') != '2.0':
        return 'Invalid Request: "jsonrpc": "2.0" is missing'
    name = value.get('call' if dialect is WSRPC1 else 'method')
    if not isinstance(name, str):
        return 'Invalid Request: the method is no string'
    return ('Invalid Request: a lone surrogate or a number out of range'
            if value else 'Invalid Request')


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse_constant(name: str) -> Any:
    raise ValueError(name)
