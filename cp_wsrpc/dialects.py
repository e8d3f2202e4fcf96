"""Text <-> messages, for each of the three dialects.  Layer 1, pure.

Inwards, :func:`decode` takes one text and tells its dialect (protocol.md,
1)::

    {"jsonrpc":"2.0","method":"add","params":[1],"id":1}  -> Call
    {"serial":3,"call":"add","arguments":[1]}             -> Call
    {"id":3,"method":"add","params":[1]}                  -> Call
    {"jsonrpc":"2.0","id":2,"result":0}                   -> Result
    {"data":{"type":"KeyError"},"serial":2,"type":"error"} -> Failure
    [{...}, {...}]                                        -> Batch
    anything else                                         -> Bad

It never raises for what a peer sent.  Outwards, a :class:`Dialect` builds
the texts: ``encode_result``, ``encode_failure``, ``encode_call``,
``encode_event``.

All dialects share one decoder, since their member names do not collide:
0.13 us a message, 0.02 more than one for JSON-RPC alone.  What this fast
road refuses is looked at again in :func:`_diagnose`, slowly, to word the
error and to find the id it belongs to.
"""
from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Any, ClassVar, TypeAlias

import msgspec
from msgspec import UNSET, Raw, UnsetType

from .errors import (BatchTooLarge, InvalidRequest, ParseError, RemoteError,
                     RPCError)
from .messages import NO_ID, Call, Event, Failure, Result
from .nesting import is_too_deep

__all__ = ['Bad', 'Batch', 'DIALECTS', 'Dialect', 'JSONRPC', 'WSRPC1',
           'WSRPC2', 'decode', 'encode_json']

MAX_SAFE_INTEGER = 2 ** 53 - 1
MAX_ID_CHARS = 64


class Batch(msgspec.Struct):
    """An array of messages; ``items`` as :func:`decode` gives them."""

    items: list[Any]


class Bad(msgspec.Struct):
    """What is no message; ``error`` is the answer it gets."""

    id: Any
    error: RPCError
    dialect: Any = None


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


class _ErrorObject(msgspec.Struct):
    """The error member, as generously as clients write it."""

    code: int | None = None
    message: Any = None
    type: Any = None
    data: Any = None


_decode_message = msgspec.json.Decoder(_Any).decode
_decode_jsonrpc = msgspec.json.Decoder(_Jsonrpc2).decode
_decode_items = msgspec.json.Decoder(list[Raw]).decode
_decode_raws = msgspec.json.Decoder(_Raws).decode
_check_syntax = msgspec.json.Decoder(Raw).decode
_decode_error = msgspec.json.Decoder(_ErrorObject).decode


def _refuse_unknown(value: Any) -> Any:
    raise TypeError(
        f'a result of type {type(value).__qualname__} cannot be sent as '
        'JSON: return plain values, a dataclass or a msgspec.Struct')


_encode = msgspec.json.Encoder(enc_hook=_refuse_unknown).encode


def encode_json(value: Any) -> bytes:
    """``value`` as JSON text; ValueError, TypeError if it has none.

    NaN and the infinities have none: msgspec writes ``null`` for them, so
    they are looked for only where the text has a ``null`` (design.md, 6).
    """
    text = _encode(value)
    if b'null' in text and _has_not_a_number(value):
        raise ValueError('NaN and infinities cannot be sent as JSON')
    return text


_NEVER_NAN = frozenset({int, str, bool, type(None)})


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
        elif not isinstance(item, (str, int, bytes, bytearray, Raw,
                                   type(None))):
            todo.append(msgspec.to_builtins(
                item, builtin_types=(bytes, bytearray),
                enc_hook=_skip_raw))
    return False


def _skip_raw(value: Any) -> Any:
    # Text that is JSON already has no NaN; to_builtins does not know Raw.
    return None if isinstance(value, Raw) else _refuse_unknown(value)


# -- inwards ---------------------------------------------------------------

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
            return _diagnose(text)
        if message.jsonrpc != '2.0':
            return _diagnose(text)
    if message.jsonrpc == '2.0':
        name = message.method
        id = message.id
        if name is not UNSET:
            return Call(NO_ID if id is UNSET else id, name,
                        message.params or None, JSONRPC,
                        message.meta or None)
        return _decode_reply(message, JSONRPC, id, text)
    if message.jsonrpc is not UNSET:
        return _diagnose(text)
    if message.serial is not UNSET:
        return _decode_wsrpc1(message, text)
    if message.id is not UNSET:
        return _decode_wsrpc2(message, text)
    return _diagnose(text)


def _is_array(text: bytes) -> bool:
    return text.lstrip(b' \t\r\n')[:1] == b'['


def _decode_batch(text: bytes, max_batch: int) -> Batch | Failure | Bad:
    try:
        # Which batch is too large is found out before it is cut into its
        # items: 300 000 of them held the loop for 14 ms, this is 10 us.
        if len(text) > _LARGE_BYTES and max_batch <= _MAX_FIELDS:
            _batch_within(max_batch)(text)
        items = _decode_items(text)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        if isinstance(error, msgspec.ValidationError):
            return _too_many(max_batch)
        return _diagnose(text)
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
        return _diagnose(text)
    item = decode(text, len(text))
    assert not isinstance(item, Batch)
    return item


def _decode_reply(message: _Jsonrpc2, dialect: Dialect, id: Any, text: bytes,
                  ) -> Result | Failure | Bad:
    if message.method is UNSET and id is not UNSET:
        if message.error and message.error != Raw(b'null'):
            return Failure(id, _remote_error(message.error))
        if message.result:
            return Result(id, message.result)
        if message.error:
            return Failure(id, _remote_error(message.error))
    return _diagnose(text)


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
    return _diagnose(text)


def _decode_wsrpc2(message: _Any, text: bytes,
                   ) -> Call | Result | Failure | Bad:
    if message.method is not UNSET:
        return Call(message.id, message.method,
                    _as_params(message.params), WSRPC2)
    return _decode_reply(message, WSRPC2, message.id, text)


def _as_params(raw: Raw) -> Raw | bytes | None:
    """WSRPC's arguments as JSON-RPC's params: any value is one argument."""
    if not raw or raw == _NULL:
        return None
    text = bytes(raw)
    return raw if text[:1] in b'[{' else b'[' + text + b']'


_NULL = Raw(b'null')


def _is_id(id: Any) -> bool:
    """null, a string of up to 64 characters, or a safe integer."""
    if id is None:
        return True
    if type(id) is int:
        return -MAX_SAFE_INTEGER <= id <= MAX_SAFE_INTEGER
    return type(id) is str and len(id) <= MAX_ID_CHARS


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


def _diagnose(text: bytes) -> Failure | Bad:
    """Why ``text`` is no message, and whose id the answer bears.

    The standard library's parser takes what msgspec does not - lone
    surrogates, numbers out of range - so that even such a message is
    answered under its own id.  An answer of the peer's is never answered:
    it settles the call that waits for it, as a failure.
    """
    try:
        value = (json.loads(text, parse_constant=_refuse_constant)
                 if len(text) <= _LARGE_BYTES else _parse_large(text))
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
            'within 2^53'), JSONRPC if dialect is JSONRPC else dialect)
    if _is_answer(value, dialect):
        return Failure(id, RemoteError(
            'the answer cannot be decoded: a lone surrogate or a member of '
            'the wrong type'))
    return Bad(id, InvalidRequest(_what_is_wrong(value, dialect)), dialect)


#: json.loads takes 1 ms for so much of what is worst.
_LARGE_BYTES = 1 << 16


def _parse_large(text: bytes) -> dict[str, Any] | None:
    """What :func:`_diagnose` looks at of a text; None: it is no object.

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


# -- outwards --------------------------------------------------------------

class _JsonrpcResult(msgspec.Struct, tag_field='jsonrpc', tag='2.0',
                     gc=False):
    id: Any
    result: Any


class _JsonrpcError(msgspec.Struct, tag_field='jsonrpc', tag='2.0'):
    error: dict[str, Any]
    id: Any


class _JsonrpcCall(msgspec.Struct, tag_field='jsonrpc', tag='2.0',
                   omit_defaults=True):
    method: str
    params: Any = UNSET
    id: Any = UNSET


class _Wsrpc1Result(msgspec.Struct):
    data: Any
    serial: Any
    type: str = 'callback'


class _Wsrpc1Call(msgspec.Struct):
    serial: Any
    call: str
    arguments: Any
    type: str = 'call'


class _Wsrpc2Result(msgspec.Struct):
    id: Any
    result: Any


class _Wsrpc2Call(msgspec.Struct):
    id: Any
    method: str
    params: Any


class Dialect:
    """How messages are written for one kind of peer.

    Stateless, one instance each: ``JSONRPC``, ``WSRPC1``, ``WSRPC2``.  All
    methods return UTF-8 text and may be called from any thread; those with
    a value raise what :func:`encode_json` raises.
    """

    name: ClassVar[str]
    has_notifications: ClassVar[bool] = False

    def __repr__(self) -> str:
        return f'<dialect {self.name}>'

    def _result(self, id: Any, value: Any) -> Any:
        raise NotImplementedError

    def _failure(self, id: Any, error: dict[str, Any]) -> Any:
        raise NotImplementedError

    def _call(self, id: Any, name: str, params: Any) -> Any:
        raise NotImplementedError

    def encode_result(self, id: Any, value: Any) -> bytes:
        """The reply of a call that returned ``value`` (falsy ones too)."""
        text = _encode(self._result(id, value))
        if b'null' in text and _has_not_a_number(value):
            raise ValueError('NaN and infinities cannot be sent as JSON')
        return text

    def encode_failure(self, id: Any, code: int, message: str,
                       data: Any = None) -> bytes:
        """The reply of a call that failed.  Never raises.

        What cannot be encoded is escaped (lone surrogates in a message) or
        left out (``data``); a code that is no integer of 32 bits, which
        strict readers refuse, goes as -32000.  Empty for a notification.
        """
        if id is NO_ID:
            return b''
        if not (isinstance(code, int) and -2 ** 31 <= code < 2 ** 31):
            code = -32000
        error = {'code': int(code), 'message': message}
        # Only data may have a NaN, for which all would be looked through
        # where the id is null: as long again, in floods of errors.
        encode = _encode
        if data is not None:
            error['data'] = data
            encode = encode_json
        try:
            return encode(self._failure(id, error))
        except Exception:       # data may be anything: it is left out
            error = {'code': int(code), 'message': _as_text(message)}
            return encode_json(self._failure(id, error))

    def encode_call(self, id: Any, name: str, args: tuple[Any, ...] = (),
                    kwargs: dict[str, Any] | None = None) -> bytes:
        """A call of a function of the peer; NO_ID: a notification."""
        if args and kwargs:
            raise TypeError(f'{name}() takes positional arguments or '
                            'keywords, not both (JSON-RPC 2.0, 4.2)')
        return encode_json(self._call(id, name, args or kwargs or None))

    def encode_event(self, event: Event, id: Any) -> bytes:
        """A push of a topic: what subscribers of this dialect get.

        ``id`` is the process-wide even serial of WSRPC pushes, which know
        no notification; JSON-RPC leaves it out.
        """
        params: dict[str, Any] = {
            'subscription': event.subscription,
            'result': Raw(event.data), 'topic': event.topic}
        if event.offset is not None:
            params['offset'] = event.offset
        if event.epoch is not None:
            params['epoch'] = event.epoch
        return _encode(self._call(
            NO_ID if self.has_notifications else id, 'rpc.subscription',
            params))


class _Jsonrpc(Dialect):
    """JSON-RPC 2.0 (jsonrpc.org)."""

    name = 'jsonrpc'
    has_notifications = True

    def _result(self, id: Any, value: Any) -> Any:
        return _JsonrpcResult(id, value)

    def encode_result(self, id: Any, value: Any) -> bytes:
        if id is NO_ID:
            return b''          # nobody waits for it
        text = _encode(_JsonrpcResult(id, value))
        # The look for b'null' takes as long as encoding a small reply: the
        # commonest results are spared it.
        if type(value) not in _NEVER_NAN and b'null' in text \
                and _has_not_a_number(value):
            raise ValueError('NaN and infinities cannot be sent as JSON')
        return text

    def _failure(self, id: Any, error: dict[str, Any]) -> Any:
        return _JsonrpcError(error, id)

    def _call(self, id: Any, name: str, params: Any) -> Any:
        return _JsonrpcCall(name, UNSET if params is None else params,
                            UNSET if id is NO_ID else id)


class _Wsrpc1(Dialect):
    """WSRPC's first form (wsrpc-tornado)."""

    name = 'wsrpc1'

    def _result(self, id: Any, value: Any) -> Any:
        return _Wsrpc1Result(value, id)

    def _failure(self, id: Any, error: dict[str, Any]) -> Any:
        return _Wsrpc1Result(_named(error), id, 'error')

    def _call(self, id: Any, name: str, params: Any) -> Any:
        return _Wsrpc1Call(id, name, params)


class _Wsrpc2(Dialect):
    """WSRPC's second form (wsrpc-aiohttp, npm ``@wsrpc/client``)."""

    name = 'wsrpc2'

    def _result(self, id: Any, value: Any) -> Any:
        return _Wsrpc2Result(id, value)

    def _failure(self, id: Any, error: dict[str, Any]) -> Any:
        return {'id': id, 'error': _named(error)}

    def _call(self, id: Any, name: str, params: Any) -> Any:
        return _Wsrpc2Call(id, name, params)


def _as_text(message: object) -> str:
    """What can be sent of it, whatever its ``__str__`` does."""
    try:
        text = str(message)
    except Exception as error:  # its __str__ is the application's
        text = f'{type(message).__name__} (its str() raised ' \
               f'{type(error).__name__})'
    return text.encode('utf-8', 'backslashreplace').decode()


def _named(error: dict[str, Any]) -> dict[str, Any]:
    """WSRPC's error object: ``type`` first, then what JSON-RPC has."""
    data = error.get('data')
    kind = data.get('type') if isinstance(data, dict) else None
    return {'type': kind or _TYPES.get(error['code'], 'RPCError'), **error}


_TYPES = {-32700: 'ParseError', -32600: 'InvalidRequest',
          -32601: 'MethodNotFound', -32602: 'InvalidParams',
          -32603: 'InternalError', -32000: 'InternalError',
          -32001: 'Unauthorized', -32009: 'Busy', -32011: 'GoingAway',
          -32012: 'TopicRefused'}

JSONRPC: Dialect = _Jsonrpc()
WSRPC1: Dialect = _Wsrpc1()
WSRPC2: Dialect = _Wsrpc2()
DIALECTS: dict[str, Dialect] = {
    dialect.name: dialect for dialect in (JSONRPC, WSRPC1, WSRPC2)}
