"""Servers that misbehave on purpose, for the tests of the client.

::

    def greet(peer):
        peer.shake(early=text('hello'))     # in one segment with the 101
        peer.recv_close()

    with scripted(greet) as server:
        Client(server.url)

Each connection runs one script in a thread, in order; the last script also
serves all further connections.  What a script raises fails the test, but
for a connection that the client has ended.
"""
from __future__ import annotations

import contextlib
import json
import queue
import socket
import ssl
import struct
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from hashlib import sha1
from typing import Any

__all__ = ['Scripted', 'ScriptedPeer', 'frame', 'refuse', 'scripted',
           'serve', 'text']

_GUID = b'258EAFA5-E914-47DA-95CA-C5AB0DC85B11'


def frame(opcode: int, payload: bytes = b'') -> bytes:
    """A frame as a server sends it."""
    size = len(payload)
    if size < 126:
        head = struct.pack('!BB', 0x80 | opcode, size)
    elif size < 1 << 16:
        head = struct.pack('!BBH', 0x80 | opcode, 126, size)
    else:
        head = struct.pack('!BBQ', 0x80 | opcode, 127, size)
    return head + payload


def text(value: Any) -> bytes:
    """A text frame with the JSON of a value."""
    return frame(1, json.dumps(value).encode())


class ScriptedPeer:
    """The server's end of one connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sock.settimeout(10)
        self.head = ''
        self._buffer = b''

    def read_head(self) -> str:
        """The request, up to the empty line."""
        while b'\r\n\r\n' not in self._buffer:
            self._fill()
        head, _, self._buffer = self._buffer.partition(b'\r\n\r\n')
        self.head = head.decode()
        return self.head

    def header(self, name: str) -> str | None:
        for line in self.head.split('\r\n')[1:]:
            key, _, value = line.partition(': ')
            if key.lower() == name.lower():
                return value
        return None

    def shake(self, early: bytes = b'', **changes: str | None) -> None:
        """Answer 101, and ``early`` in the same segment."""
        self.read_head()
        key = (self.header('Sec-WebSocket-Key') or '').encode()
        headers: dict[str, str | None] = {
            'Upgrade': 'websocket', 'Connection': 'Upgrade',
            'Sec-WebSocket-Accept': b64encode(
                sha1(key + _GUID).digest()).decode()}
        headers.update({k.replace('_', '-'): v for k, v in changes.items()})
        head = 'HTTP/1.1 101 Switching Protocols\r\n' + ''.join(
            f'{name}: {value}\r\n' for name, value in headers.items()
            if value is not None)
        self.sock.sendall(head.encode() + b'\r\n' + early)

    def send(self, value: Any) -> None:
        self.sock.sendall(text(value))

    def close(self, code: int, reason: str = '') -> None:
        """Send a Close and wait for the client to answer it."""
        self.sock.sendall(frame(8, struct.pack('!H', code)
                                + reason.encode()))
        self.recv_close()

    def recv_frame(self) -> tuple[int, bytes]:
        first, second = self._exactly(2)
        assert second & 0x80, 'a client masks its frames'
        size = second & 0x7f
        if size == 126:
            size, = struct.unpack('!H', self._exactly(2))
        elif size == 127:
            size, = struct.unpack('!Q', self._exactly(8))
        key = self._exactly(4)
        payload = self._exactly(size)
        stream = (key * (size // 4 + 1))[:size]
        return first & 0x0f, bytes(
            a ^ b for a, b in zip(payload, stream, strict=True))

    def recv(self) -> Any:
        """The next message, which must be JSON."""
        opcode, payload = self.recv_frame()
        assert opcode == 1, (opcode, payload)
        return json.loads(payload)

    def recv_close(self) -> int:
        """Skip all before the client's Close; its code."""
        while True:
            opcode, payload = self.recv_frame()
            if opcode == 8:
                return struct.unpack('!H', payload[:2])[0] if payload \
                    else 1005

    def recv_eof(self) -> None:
        """Read to the end of the stream."""
        with contextlib.suppress(ConnectionError, EOFError):
            while True:
                self._fill()
                self._buffer = b''

    def answer(self, **result: Any) -> dict[str, Any]:
        """Answer the next call; the call."""
        call = self.recv()
        self.send({'jsonrpc': '2.0', 'id': call['id'], **result})
        return call

    def reset(self) -> None:
        """End it with a RST, as a killed process does."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                             struct.pack('ii', 1, 0))
        self.sock.close()

    def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._fill()
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken

    def _fill(self) -> None:
        data = self.sock.recv(1 << 16)
        if not data:
            raise EOFError
        self._buffer += data


Script = Callable[[ScriptedPeer], object]


class Scripted:
    """A running server; ``peers`` are its connections so far."""

    def __init__(self, port: int, tls: bool) -> None:
        self.port = port
        self.url = f'ws{"s" if tls else ""}://127.0.0.1:{port}/'
        self.peers: list[ScriptedPeer] = []
        self.said: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.errors: list[BaseException] = []

    def next(self) -> Any:
        """What a script has put into ``said``; within 10 s."""
        return self.said.get(timeout=10)


@contextlib.contextmanager
def scripted(*scripts: Script, tls: ssl.SSLContext | None = None,
             family: Any = socket.AF_INET, address: Any = None,
             ) -> Iterator[Scripted]:
    """Serve connections by ``scripts``, on a free port of 127.0.0.1."""
    listener = socket.socket(family)
    listener.bind(('127.0.0.1', 0) if address is None else address)
    listener.listen(16)
    name = listener.getsockname()
    server = Scripted(name[1] if isinstance(name, tuple) else 0,
                      tls is not None)
    threads: list[threading.Thread] = []

    def run(sock: socket.socket, script: Script) -> None:
        with sock:
            try:
                if tls is not None:
                    sock.settimeout(10)
                    sock = tls.wrap_socket(sock, server_side=True)
                peer = ScriptedPeer(sock)
                server.peers.append(peer)
                with sock:
                    script(peer)
            except (ConnectionError, EOFError, ssl.SSLError):
                pass            # the client has ended it
            except BaseException as error:
                server.errors.append(error)

    def accept() -> None:
        left = list(scripts)
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            script = left.pop(0) if len(left) > 1 else left[0]
            thread = threading.Thread(target=run, args=(sock, script))
            threads.append(thread)
            thread.start()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield server
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        acceptor.join(10)
        for peer in server.peers:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(peer.sock, socket.SHUT_RDWR)
        for thread in threads:
            thread.join(10)
    for error in server.errors:
        raise error


def serve(methods: dict[str, Any]) -> Script:
    """A script that answers calls, until the client goes."""
    def script(peer: ScriptedPeer) -> None:
        peer.shake()
        while True:
            opcode, payload = peer.recv_frame()
            if opcode == 8:
                peer.sock.sendall(frame(8, payload))
                return
            if opcode == 9:
                peer.sock.sendall(frame(10, payload))
            if opcode != 1:
                continue
            call = json.loads(payload)
            if 'id' in call and 'method' in call:
                params = call.get('params', [])
                value = methods[call['method']]
                peer.send({'jsonrpc': '2.0', 'id': call['id'],
                           'result': value(*params) if callable(value)
                           else value})
    return script


def refuse(status: int, headers: str = '', body: str = '') -> Script:
    """A script that answers the handshake with a status."""
    def script(peer: ScriptedPeer) -> None:
        peer.read_head()
        peer.sock.sendall(
            f'HTTP/1.1 {status} No\r\n{headers}'
            f'Content-Length: {len(body)}\r\n\r\n{body}'.encode())
    return script
