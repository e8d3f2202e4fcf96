"""What the load generator says on the wire: handshakes and frames.

Independent of cp_wsrpc, so that it measures all servers alike.  A
:class:`Wire` knows how calls are written for one kind of server::

    WIRES['jsonrpc'].call('add', 1000)
        -> b'{"jsonrpc":"2.0","method":"add","params":[42,23],"id":1000}'
"""
from __future__ import annotations

import base64
import os
import re
import socket
import ssl
import struct
from collections.abc import Iterator

__all__ = ['BINARY', 'PING', 'PONG', 'TEXT', 'WIRES', 'Wire', 'connect',
           'masked_frame', 'receive', 'request_of', 'split_frames']

TEXT, BINARY, PING, PONG = 1, 2, 9, 10


def masked_frame(opcode: int, payload: bytes) -> bytes:
    """One whole frame as a client sends it (RFC 6455 5.2)."""
    size = len(payload)
    if size < 126:
        head = struct.pack('!BB', 0x80 | opcode, 0x80 | size)
    elif size < 1 << 16:
        head = struct.pack('!BBH', 0x80 | opcode, 0xfe, size)
    else:
        head = struct.pack('!BBQ', 0x80 | opcode, 0xff, size)
    key = os.urandom(4)
    stream = (key * (size // 4 + 1))[:size]
    return head + key + (int.from_bytes(payload, 'big')
                         ^ int.from_bytes(stream, 'big')).to_bytes(size,
                                                                   'big')


def split_frames(data: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Yield (opcode, payload, where it ends) of each whole frame."""
    pos = 0
    while pos + 2 <= len(data):
        first, size = data[pos], data[pos + 1]
        start = pos + 2
        if size == 126:
            start, size = pos + 4, int.from_bytes(data[pos + 2:pos + 4],
                                                  'big')
        elif size == 127:
            start, size = pos + 10, int.from_bytes(data[pos + 2:pos + 10],
                                                   'big')
        if start > len(data) or start + size > len(data):
            return
        pos = start + size
        yield first & 0x0f, data[start:pos], pos


def request_of(port: int, path: str, headers: str = '') -> bytes:
    """The upgrade request, as a program (no browser) sends it."""
    return (f'GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n'
            'Upgrade: websocket\r\nConnection: Upgrade\r\n'
            'Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: '
            f'{base64.b64encode(os.urandom(16)).decode()}\r\n'
            f'{headers}\r\n').encode()


def connect(port: int, path: str, tls: ssl.SSLContext | None = None,
            headers: str = '') -> tuple[socket.socket, bytes]:
    """A socket after its 101, blocking, and what came behind the 101.

    ``headers``: further ones, each with its CR LF.
    """
    sock = socket.create_connection(('127.0.0.1', port), timeout=20)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if tls is not None:
        sock = tls.wrap_socket(sock, server_hostname='127.0.0.1')
    sock.sendall(request_of(port, path, headers))
    data = b''
    while b'\r\n\r\n' not in data:
        more = sock.recv(65536)
        if not more:
            raise ConnectionError(f'no answer to the handshake: {data!r}')
        data += more
    head, _, rest = data.partition(b'\r\n\r\n')
    if not re.match(rb'HTTP/1.1 101 ', head):
        raise ConnectionError(f'refused: {head.splitlines()[0]!r}')
    return sock, rest


def receive(sock: socket.socket) -> bytes:
    """What is there; ConnectionError at the end."""
    data = sock.recv(65536)
    if not data:
        raise ConnectionError('the server closed')
    return data


class Wire:
    """JSON-RPC 2.0; the others are variations of it."""

    #: sent when the socket is open, each answered by one message
    greetings: tuple[bytes, ...] = ()
    #: messages that the server sends unasked before that
    expected = 0
    #: what stands in a reply that is an error
    error = b'"error"'

    def call(self, method: str, id: int) -> bytes:
        """The text of ``method(42, 23)``; ``id`` always has 4 digits."""
        return (f'{{"jsonrpc":"2.0","method":"{method}","params":[42,23],'
                f'"id":{id}}}').encode()

    def is_reply(self, text: bytes, id: int) -> bool:
        """Whether ``text`` is the right answer to that call."""
        return (f'"id":{id}'.encode() in text.replace(b' ', b'')
                and b'"result":65' in text.replace(b' ', b''))


class _Wsrpc(Wire):
    """wsrpc-aiohttp: clients' ids are odd there, even ones do as well."""

    expected = 1        # a call of "ping"; unanswered it waits for 10 s

    def call(self, method: str, id: int) -> bytes:
        return (f'{{"id":{id},"method":"{method}","params":[42,23]}}'
                ).encode()


class _SocketIO(Wire):
    """socket.io 4 over Engine.IO 4: an event with an acknowledgement."""

    expected = 1                    # 0{"sid":...}
    greetings = (b'40',)            # 40{"sid":...}

    def call(self, method: str, id: int) -> bytes:
        return f'42{id}["{method}",42,23]'.encode()

    def is_reply(self, text: bytes, id: int) -> bool:
        return text == f'43{id}[65]'.encode()


WIRES = {'jsonrpc': Wire(), 'wsrpc': _Wsrpc(), 'socketio': _SocketIO()}
