"""A WebSocket client on a bare socket, for what no honest client does.

Independent of cp_wsrpc, ws4py and ``websockets``, so that it can be wrong
only by itself.  ::

    with RawPeer(port, '/api', {'Origin': 'http://evil'}) as peer:
        assert peer.status == 403

    with RawPeer(port, '/api') as peer:
        peer.send_frame(TEXT, b'x', mask=False)
        assert peer.recv_close() == (1002, ...)
"""
from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import json
import os
import socket
import ssl
import struct
import time
from collections.abc import Mapping
from typing import Any

from .rawhttp import (
    Answer,
    HeaderValue,
    by_name,
    connect,
    http_request,
    merged,
    request_head,
)

__all__ = ['Answer', 'BINARY', 'CLOSE', 'CONTINUATION', 'CallFailed',
           'PING', 'PONG', 'PeerClosed', 'RawPeer', 'TEXT', 'client_frame',
           'http_request']

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

_GUID = b'258EAFA5-E914-47DA-95CA-C5AB0DC85B11'
_MAX_HEAD_BYTES = 1 << 20


class PeerClosed(Exception):
    """The server closed: with a Close frame, or ``code`` None without."""

    def __init__(self, code: int | None, reason: str = '') -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


class CallFailed(Exception):
    """The answer to :meth:`RawPeer.call` was an error."""

    def __init__(self, error: Mapping[str, Any]) -> None:
        super().__init__(error)
        self.code: int = error['code']
        self.message: str = error['message']
        self.data: Any = error.get('data')


def client_frame(opcode: int, payload: bytes = b'', *, fin: bool = True,
                 mask: bool = True, rsv: int = 0,
                 length: int | None = None,
                 length_bytes: int | None = None) -> bytes:
    """The bytes of one frame, right or wrong (RFC 6455 5.2).

    ``rsv``: 0-7, the three bits.  ``length``: announce that many bytes
    instead of what follows.  ``length_bytes``: 0, 2 or 8, how the length
    is written; the shortest way by default.
    """
    size = len(payload) if length is None else length
    if length_bytes is None:
        length_bytes = 0 if size < 126 else 2 if size < 1 << 16 else 8
    first = (0x80 if fin else 0) | (rsv & 7) << 4 | opcode
    second = 0x80 if mask else 0
    if length_bytes == 0:
        head = struct.pack('!BB', first, second | size)
    elif length_bytes == 2:
        head = struct.pack('!BBH', first, second | 126, size)
    else:
        head = struct.pack('!BBQ', first, second | 127, size)
    if not mask:
        return head + payload
    key = os.urandom(4)
    return head + key + _masked(payload, key)


def _masked(payload: bytes, key: bytes) -> bytes:
    size = len(payload)
    stream = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, 'big')
            ^ int.from_bytes(stream, 'big')).to_bytes(size, 'big')


class RawPeer:
    """A WebSocket client that sends what it is told, and hides nothing.

    The handshake is done when the object has been made: see ``status``
    (101 or what else came), ``headers`` (lower case), ``body`` (of a
    refusal).  Used by one thread at a time.

    ``headers``
        Replace those of the handshake; None leaves one out, a list
        repeats it.  There is no Origin unless it is given.
    ``tls``
        The client's ``ssl.SSLContext``.
    ``early``
        Bytes sent in one segment with the request.
    ``timeout_s``
        For the handshake, and the default of every wait that follows.
    """

    def __init__(self, port: int, path: str = '/',
                 headers: Mapping[str, HeaderValue] | None = None, *,
                 tls: ssl.SSLContext | None = None, early: bytes = b'',
                 method: str = 'GET', version: str = 'HTTP/1.1',
                 timeout_s: float = 5,
                 receive_buffer: int | None = None) -> None:
        self.timeout_s = timeout_s
        self.status = 0
        self.headers: dict[str, str] = {}
        self.header_list: list[tuple[str, str]] = []
        self.body = b''
        #: Messages that were no answer to a :meth:`call`, in order.
        self.events: list[Any] = []
        #: FIN and RSV bits of the frame received last.
        self.fin, self.rsv = True, 0
        self._buffer = bytearray()
        self._ids = itertools.count(1)
        key = base64.b64encode(os.urandom(16))
        self.sock = connect(port, tls=tls, timeout_s=timeout_s,
                            receive_buffer=receive_buffer)
        defaults: dict[str, HeaderValue] = {
            'Host': f'127.0.0.1:{port}', 'Upgrade': 'websocket',
            'Connection': 'Upgrade', 'Sec-WebSocket-Key': key,
            'Sec-WebSocket-Version': '13'}
        asked = merged(defaults, headers)
        try:
            self._shake(request_head(method, path, version, asked) + early)
            if self.status == 101 and key in asked.values():
                self._check_accept(key)
        except BaseException:
            self.sock.close()
            raise

    def __enter__(self) -> RawPeer:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.drop()

    def __repr__(self) -> str:
        return f'<RawPeer {self.status} {self.sock!r}>'

    # Sending

    def send_raw(self, data: bytes) -> None:
        """Send these bytes; TimeoutError if they are not all taken."""
        self.sock.settimeout(self.timeout_s)
        self.sock.sendall(data)

    def send_frame(self, opcode: int, payload: bytes = b'', *,
                   fin: bool = True, mask: bool = True, rsv: int = 0,
                   length: int | None = None,
                   length_bytes: int | None = None) -> None:
        """Send one frame; the arguments are :func:`client_frame`'s."""
        self.send_raw(client_frame(opcode, payload, fin=fin, mask=mask,
                                   rsv=rsv, length=length,
                                   length_bytes=length_bytes))

    def send_text(self, text: str) -> None:
        """Send a text message in one frame."""
        self.send_frame(TEXT, text.encode())

    def send_json(self, value: Any) -> None:
        """Send a value as the JSON of one text message."""
        self.send_text(json.dumps(value))

    # Receiving

    def recv_frame(self, timeout_s: float | None = None,
                   ) -> tuple[int, bytes]:
        """The next frame, of any kind: ``(opcode, payload)``.

        TimeoutError if it is not complete in time, :class:`PeerClosed`
        with code None at the end of the stream or a reset.
        """
        deadline = self._deadline(timeout_s)
        first, second = self._exactly(2, deadline)
        size = second & 0x7f
        if size == 126:
            size, = struct.unpack('!H', self._exactly(2, deadline))
        elif size == 127:
            size, = struct.unpack('!Q', self._exactly(8, deadline))
        key = self._exactly(4, deadline) if second & 0x80 else b''
        payload = self._exactly(size, deadline)
        self.fin, self.rsv = bool(first & 0x80), first >> 4 & 7
        return first & 0x0f, _masked(payload, key) if key else payload

    def recv_message(self, timeout_s: float | None = None,
                     ) -> tuple[int, bytes]:
        """The next whole message, ``(TEXT or BINARY, payload)``.

        Pings on the way are answered; a Close raises :class:`PeerClosed`.
        """
        deadline = self._deadline(timeout_s)
        kind, parts = 0, []
        while True:
            opcode, payload = self.recv_frame(deadline - time.monotonic())
            if opcode == CLOSE:
                raise PeerClosed(*_close_body(payload))
            if opcode == PING:
                self.send_frame(PONG, payload)
            elif opcode != PONG:
                kind = kind or opcode
                parts.append(payload)
                if self.fin:
                    return kind, b''.join(parts)

    def recv_text(self, timeout_s: float | None = None) -> str:
        """The next message, which must be a text."""
        opcode, payload = self.recv_message(timeout_s)
        assert opcode == TEXT, f'a message of opcode {opcode}: {payload!r}'
        return payload.decode()

    def recv_json(self, timeout_s: float | None = None) -> Any:
        """The next message, which must be JSON text, decoded."""
        return json.loads(self.recv_text(timeout_s))

    def recv_close(self, timeout_s: float | None = None,
                   ) -> tuple[int | None, str]:
        """Skip all before the Close frame: ``(code, reason)``.

        1005 stands for a Close without a code.  PeerClosed with code None
        if the stream ends without a Close.
        """
        deadline = self._deadline(timeout_s)
        while True:
            opcode, payload = self.recv_frame(deadline - time.monotonic())
            if opcode == CLOSE:
                return _close_body(payload)

    def recv_eof(self, timeout_s: float | None = None) -> bytes:
        """Read up to the end of the stream (or a reset); what came."""
        deadline = self._deadline(timeout_s)
        with contextlib.suppress(PeerClosed):
            while True:
                self._fill(deadline)
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest

    # Calling (JSON-RPC 2.0)

    def call(self, method: str, params: Any = None,
             timeout_s: float | None = None) -> Any:
        """Call a method; its result.  :class:`CallFailed` for an error.

        Messages that are no answer to it are kept in ``events``.
        """
        wanted = f'call-{next(self._ids)}'
        request = {'jsonrpc': '2.0', 'method': method, 'id': wanted}
        if params is not None:
            request['params'] = params
        self.send_json(request)
        deadline = self._deadline(timeout_s)
        while True:
            message = self.recv_json(deadline - time.monotonic())
            if isinstance(message, dict) and message.get('id') == wanted:
                if 'error' in message:
                    raise CallFailed(message['error'])
                return message['result']
            self.events.append(message)

    def notify(self, method: str, params: Any = None) -> None:
        """Call a method and want no answer."""
        self.send_json({'jsonrpc': '2.0', 'method': method,
                        **({} if params is None else {'params': params})})

    # Leaving

    def close(self, code: int | None = 1000, reason: str = '',
              timeout_s: float | None = None) -> tuple[int | None, str]:
        """The close handshake; what the server's Close said.

        Waits for the server to end the stream, then closes the socket.
        """
        body = b'' if code is None else struct.pack('!H', code)
        try:
            self.send_frame(CLOSE, body + reason.encode())
            answer = self.recv_close(timeout_s)
            self.recv_eof(timeout_s)
        finally:
            self.drop()
        return answer

    def drop(self) -> None:
        """Close the socket without a word (FIN).  May be repeated."""
        self.sock.close()

    def reset(self) -> None:
        """Close the socket with a RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                             struct.pack('ii', 1, 0))
        self.sock.close()

    # Inside

    def _shake(self, request: bytes) -> None:
        # A server may refuse, and close, before it has read all of it.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.sock.sendall(request)
        deadline = self._deadline(None)
        while b'\r\n\r\n' not in self._buffer:
            assert len(self._buffer) < _MAX_HEAD_BYTES, 'an endless head'
            self._fill(deadline)
        head, _, rest = bytes(self._buffer).partition(b'\r\n\r\n')
        self._buffer[:] = rest
        status_line, *lines = head.decode('latin-1').split('\r\n')
        self.status = int(status_line.split(' ', 2)[1])
        for line in lines:
            name, _, value = line.partition(':')
            self.header_list.append((name, value.strip()))
        self.headers = by_name(self.header_list)
        if self.status != 101 and 'content-length' in self.headers:
            self.body = self._exactly(int(self.headers['content-length']),
                                      deadline)

    def _check_accept(self, key: bytes) -> None:
        accept = base64.b64encode(hashlib.sha1(key + _GUID).digest())
        assert self.headers.get('sec-websocket-accept') == accept.decode(), (
            f'a wrong Sec-WebSocket-Accept: {self.headers}')

    def _deadline(self, timeout_s: float | None) -> float:
        return time.monotonic() + (self.timeout_s if timeout_s is None
                                   else timeout_s)

    def _exactly(self, size: int, deadline: float) -> bytes:
        while len(self._buffer) < size:
            self._fill(deadline)
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    def _fill(self, deadline: float) -> None:
        self.sock.settimeout(max(deadline - time.monotonic(), 0.001))
        try:
            data = self.sock.recv(1 << 16)
        except TimeoutError:
            raise TimeoutError('nothing more came in time; there are '
                               f'{bytes(self._buffer[:80])!r}') from None
        except (ConnectionError, ssl.SSLEOFError):
            data = b''
        if not data:
            raise PeerClosed(None)
        self._buffer += data


def _close_body(payload: bytes) -> tuple[int | None, str]:
    if not payload:
        return 1005, ''
    code: int
    code, = struct.unpack('!H', payload[:2])
    return code, payload[2:].decode()
