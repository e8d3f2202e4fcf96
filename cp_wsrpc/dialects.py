"""Messages -> text, in each of the three dialects.  Layer 1, pure.

A :class:`Dialect` builds the texts: ``encode_result``, ``encode_failure``,
``encode_call``, ``encode_event``::

    JSONRPC.encode_result(2, 0) -> b'{"jsonrpc":"2.0","id":2,"result":0}'
    WSRPC1.encode_result(2, 0)  -> b'{"data":0,"serial":2,"type":"callback"}'
    WSRPC2.encode_result(2, 0)  -> b'{"id":2,"result":0}'

The other way is ``decoding``, which finds a text's dialect (protocol.md, 1).
"""
from __future__ import annotations

from typing import Any, ClassVar

import msgspec
from msgspec import UNSET, Raw

from .json_text import (
    NEVER_NAN,
    encode_json,
    encode_unchecked,
    refuse_nan,
)
from .messages import NO_ID, Event

__all__ = ['DIALECTS', 'Dialect', 'JSONRPC', 'WSRPC1', 'WSRPC2']


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
        text = encode_unchecked(self._result(id, value))
        if b'null' in text:
            refuse_nan(value)
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
        encode = encode_unchecked
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
        return encode_unchecked(self._call(
            NO_ID if self.has_notifications else id, 'rpc.subscription',
            params))


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


class _Jsonrpc(Dialect):
    """JSON-RPC 2.0 (jsonrpc.org)."""

    name = 'jsonrpc'
    has_notifications = True

    def _result(self, id: Any, value: Any) -> Any:
        return _JsonrpcResult(id, value)

    def encode_result(self, id: Any, value: Any) -> bytes:
        if id is NO_ID:
            return b''          # nobody waits for it
        text = encode_unchecked(_JsonrpcResult(id, value))
        # The look for b'null' takes as long as encoding a small reply: the
        # commonest results are spared it.
        if type(value) not in NEVER_NAN and b'null' in text:
            refuse_nan(value)
        return text

    def _failure(self, id: Any, error: dict[str, Any]) -> Any:
        return _JsonrpcError(error, id)

    def _call(self, id: Any, name: str, params: Any) -> Any:
        return _JsonrpcCall(name, UNSET if params is None else params,
                            UNSET if id is NO_ID else id)


class _Wsrpc1Result(msgspec.Struct):
    data: Any
    serial: Any
    type: str = 'callback'


class _Wsrpc1Call(msgspec.Struct):
    serial: Any
    call: str
    arguments: Any
    type: str = 'call'


class _Wsrpc1(Dialect):
    """WSRPC's first form (wsrpc-tornado)."""

    name = 'wsrpc1'

    def _result(self, id: Any, value: Any) -> Any:
        return _Wsrpc1Result(value, id)

    def _failure(self, id: Any, error: dict[str, Any]) -> Any:
        return _Wsrpc1Result(_named(error), id, 'error')

    def _call(self, id: Any, name: str, params: Any) -> Any:
        return _Wsrpc1Call(id, name, params)


class _Wsrpc2Result(msgspec.Struct):
    id: Any
    result: Any


class _Wsrpc2Call(msgspec.Struct):
    id: Any
    method: str
    params: Any


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
