"""Text -> messages, whatever their dialect.  Layer 1, pure.

:func:`decode` takes one text and tells its dialect (protocol.md, 1)::

    {"jsonrpc":"2.0","method":"add","params":[1],"id":1}  -> Call
    {"serial":3,"call":"add","arguments":[1]}             -> Call
    {"id":3,"method":"add","params":[1]}                  -> Call
    {"jsonrpc":"2.0","id":2,"result":0}                   -> Result
    {"data":{"type":"KeyError"},"serial":2,"type":"error"} -> Failure
    [{...}, {...}]                                        -> Batch
    anything else                                         -> Bad

It never raises for what a peer sent.

All dialects share one decoder, since their member names do not collide:
0.13 us a message, 0.02 more than one for JSON-RPC alone.  What this fast
road refuses is looked at again by ``diagnosis``, slowly, to word the error
and to find the id it belongs to.
"""
from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Raw, UnsetType

from .diagnosis import LARGE_BYTES, diagnose
from .dialects import JSONRPC, WSRPC1, WSRPC2
from .errors import BatchTooLarge, InvalidRequest, RemoteError
from .messages import (
    MAX_ID_CHARS,
    MAX_SAFE_INTEGER,
    NO_ID,
    Bad,
    Batch,
    Call,
    Failure,
    Result,
)
from .nesting import is_too_deep

__all__ = ['NO_CALL', 'NO_NAME', 'decode', 'decode_call']

#: What an id may be; checked in C, where it costs nothing.
_Id: TypeAlias = (
    Annotated[int, msgspec.Meta(ge=-MAX_SAFE_INTEGER, le=MAX_SAFE_INTEGER)]
    | Annotated[str, msgspec.Meta(max_length=MAX_ID_CHARS)] | None)


class _Jsonrpc2(msgspec.Struct, gc=False):
    """The members of a JSON-RPC message."""

    jsonrpc: str | UnsetType = UNSET
    method: str | UnsetType = UNSET
    params: Raw = Raw()
    id: _Id | UnsetType = UNSET
    result: Raw = Raw()
    error: Raw = Raw()
    meta: Raw = msgspec.field(name='_meta', default=Raw())


class _Any(_Jsonrpc2, gc=False):
    """Every member that a message of any dialect may have."""

    serial: _Id | UnsetType = UNSET
    call: str | UnsetType = UNSET
    arguments: Raw = Raw()
    data: Raw = Raw()
    type: str | UnsetType = UNSET


#: What is ours to set and not the peer's: of this type no JSON is.
_Ours: TypeAlias = Annotated[int, msgspec.Meta(gt=0, lt=1)]


def _default(value: Any, name: str | None = None) -> Any:
    return msgspec.field(default=value, name=name)


#: The name of what :func:`decode_call` was given and is no call.
NO_NAME = '(no name)'


class _JsonrpcCall(Call, kw_only=True):
    """A call as JSON-RPC writes it, decoded without a step between.

    A peer that sends a member of the name of one of ours is refused here,
    and understood by :func:`decode`, which ignores it.
    """

    jsonrpc: Literal['2.0']
    name: str = _default(NO_NAME, 'method')
    params: Raw = _default(None)
    id: _Id = _default(NO_ID)
    meta: Raw = _default(None, '_meta')
    dialect: _Ours = _default(JSONRPC)
    batch: _Ours = _default(None)
    connection: _Ours = _default(None)
    method: _Ours = _default(None, 'our_method')
    args: _Ours = _default(())
    kwargs: _Ours = _default(None)
    arrived: _Ours = _default(0.0)
    deadline: _Ours = _default(None)
    scope: _Ours = _default(None)


class _ErrorObject(msgspec.Struct):
    """The error member, as generously as clients write it."""

    code: int | None = None
    message: Any = None
    type: Any = None
    data: Any = None


#: The call that stands in a small text, as most are: half of what it takes
#: :func:`decode` (0.15 us), which is to be asked where this raises
#: ``NO_CALL`` or the name is NO_NAME. How deep it nests is not looked at.
decode_call = msgspec.json.Decoder(_JsonrpcCall).decode
NO_CALL = (msgspec.MsgspecError, RecursionError, ValueError)
_decode_message = msgspec.json.Decoder(_Any).decode
_decode_jsonrpc = msgspec.json.Decoder(_Jsonrpc2).decode
_decode_items = msgspec.json.Decoder(list[Raw]).decode
_decode_error = msgspec.json.Decoder(_ErrorObject).decode


def decode(text: bytes, max_depth: int = 100, max_batch: int = 100,
           ) -> Call | Result | Failure | Batch | Bad:
    """The message (or batch of them) that stands in ``text`` (UTF-8)."""
    if len(text) > max_depth and is_too_deep(text, max_depth):
        return Bad(None, InvalidRequest(
            f'the message is nested deeper than {max_depth}'))
    message: Any
    try:
        message = _decode_message(text)
    except (msgspec.MsgspecError, RecursionError, ValueError):
        if _is_array(text):
            return _decode_batch(text, max_batch)
        try:
            # Unknown members are ignored, also where they bear a name
            # that means something in another dialect.
            message = _decode_jsonrpc(text)
        except (msgspec.MsgspecError, RecursionError, ValueError):
            return diagnose(text)
        if message.jsonrpc != '2.0':
            return diagnose(text)
    if message.jsonrpc == '2.0':
        name = message.method
        id = message.id
        if name is not UNSET:
            return Call(NO_ID if id is UNSET else id, name,
                        message.params or None, JSONRPC,
                        message.meta or None)
        return _decode_reply(message, id, text)
    if message.jsonrpc is not UNSET:
        return diagnose(text)
    if message.serial is not UNSET:
        return _decode_wsrpc1(message, text)
    if message.id is not UNSET:
        return _decode_wsrpc2(message, text)
    return diagnose(text)


def _is_array(text: bytes) -> bool:
    return text.lstrip(b' \t\r\n')[:1] == b'['


def _decode_batch(text: bytes, max_batch: int) -> Batch | Failure | Bad:
    try:
        # Which batch is too large is found out before it is cut into its
        # items: 300 000 of them held the loop for 14 ms, this is 10 us.
        if len(text) > LARGE_BYTES and max_batch <= _MAX_FIELDS:
            _batch_within(max_batch)(text)
        items = _decode_items(text)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        if isinstance(error, msgspec.ValidationError):
            return _too_many(max_batch)
        return diagnose(text)
    if not items:
        return Bad(None, InvalidRequest('an empty batch'), JSONRPC)
    if len(items) > max_batch:
        return _too_many(max_batch)
    return Batch([_decode_item(bytes(item)) for item in items])


#: Above it a struct with so many fields costs more than it spares.
_MAX_FIELDS = 1000


@lru_cache(8)
def _batch_within(max_batch: int) -> Callable[[bytes], object]:
    """A decoder of up to so many items, which stops at one more."""
    fields = [(f'item{n}', Raw, Raw()) for n in range(max_batch)]
    return msgspec.json.Decoder(msgspec.defstruct(
        'Items', fields, array_like=True, forbid_unknown_fields=True,
        gc=False)).decode


def _too_many(max_batch: int) -> Bad:
    return Bad(None, BatchTooLarge(
        f'a batch of more than the {max_batch} items that are allowed'),
        JSONRPC)


def _decode_item(text: bytes) -> Call | Result | Failure | Bad:
    # Depth was measured over the whole batch; no batch stands in a batch.
    if _is_array(text):
        return diagnose(text)
    item = decode(text, len(text))
    assert not isinstance(item, Batch)
    return item


def _decode_reply(message: _Jsonrpc2, id: Any, text: bytes,
                  ) -> Result | Failure | Bad:
    if message.method is UNSET and id is not UNSET:
        if message.error and message.error != Raw(b'null'):
            return Failure(id, _remote_error(message.error))
        if message.result:
            return Result(id, message.result)
        if message.error:
            return Failure(id, _remote_error(message.error))
    return diagnose(text)


def _decode_wsrpc1(message: _Any, text: bytes,
                   ) -> Call | Result | Failure | Bad:
    id = message.serial
    kind = message.type
    if kind == 'callback':
        return Result(id, message.data or Raw(b'null'))
    if kind == 'error':
        return Failure(id, _remote_error(message.data))
    if message.call is not UNSET and (kind is UNSET or kind == 'call'):
        return Call(id, message.call,
                    _as_params(message.arguments), WSRPC1)
    return diagnose(text)


def _decode_wsrpc2(message: _Any, text: bytes,
                   ) -> Call | Result | Failure | Bad:
    if message.method is not UNSET:
        return Call(message.id, message.method,
                    _as_params(message.params), WSRPC2)
    return _decode_reply(message, message.id, text)


def _as_params(raw: Raw) -> Raw | bytes | None:
    """WSRPC's arguments as JSON-RPC's params: any value is one argument."""
    if not raw or raw == _NULL:
        return None
    text = bytes(raw)
    return raw if text[:1] in b'[{' else b'[' + text + b']'


_NULL = Raw(b'null')


def _remote_error(raw: Raw) -> RemoteError:
    """The error that a peer sent, in whichever form it writes them."""
    try:
        error = _decode_error(raw)
    except (msgspec.MsgspecError, RecursionError, ValueError):
        try:
            value = msgspec.json.decode(raw) if raw else None
        except (msgspec.MsgspecError, RecursionError, ValueError):
            value = None
        return RemoteError(value if isinstance(value, str)
                           else f'the peer failed with {value!r:.200}',
                           data=value)
    data = error.data
    fields = data if isinstance(data, dict) else {}
    kind, stack = error.type or fields.get('type'), fields.get(
        'stack', fields.get('traceback'))
    return RemoteError(
        error.message if isinstance(error.message, str)
        else 'the peer failed',
        code=error.code, type=kind if isinstance(kind, str) else None,
        data=data, stack=stack[:4096] if isinstance(stack, str) else None)
