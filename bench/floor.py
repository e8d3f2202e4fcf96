"""The least that a server in Python can do, to compare with.

``python -m bench.floor --port N [--tls CERT KEY]``: one thread, one epoll,
no limits, no timers, no checks, one connection as good as the other.

* ``/rpc``: cuts frames, decodes messages with msgspec, looks the method
  up, decodes its typed arguments, adds, encodes, and sends what one read
  brought in one send.  (All that any server with more than one method
  must do; so the arguments are a second step, as their types are known
  only then.)
* ``/notify?msg=...&times=1``: sends a prepared frame to each socket of
  ``/rpc``, one send a frame.

It understands what ``bench.load`` sends and nothing else.
"""
from __future__ import annotations

import argparse
import base64
import hashlib
import select
import socket
import ssl
import urllib.parse

import msgspec
from websockets.speedups import apply_mask

#: More makes malloc map and unmap memory at each read: 2 us become 14.
_READ_BYTES = 64 * 1024

_GUID = b'258EAFA5-E914-47DA-95CA-C5AB0DC85B11'


class _Call(msgspec.Struct, gc=False):
    jsonrpc: str
    method: str
    params: msgspec.Raw
    id: int


class _Reply(msgspec.Struct, tag_field='jsonrpc', tag='2.0', gc=False):
    id: int
    result: int


_decode = msgspec.json.Decoder(_Call).decode
_encode = msgspec.json.Encoder().encode


def text_frame(text: bytes) -> bytes:
    if len(text) < 126:
        return b'\x81' + len(text).to_bytes(1, 'big') + text
    return b'\x81\x7e' + len(text).to_bytes(2, 'big') + text


def add(a: int, b: int) -> int:
    return a + b


#: name -> (the decoder of its arguments, the function)
_METHODS = {'add': (msgspec.json.Decoder(tuple[int, int]).decode, add)}


def answer(data: bytes) -> tuple[bytes, bytes]:
    """(the replies to all whole calls in ``data``, what is left of it)."""
    replies = []
    pos, end = 0, len(data)
    while pos + 6 <= end:
        start = pos + 6
        stop = start + data[pos + 1] - 0x80
        if stop > end:
            break
        call = _decode(apply_mask(data[start:stop], data[pos + 2:start]))
        decode_arguments, method = _METHODS[call.method]
        result = method(*decode_arguments(call.params))
        replies.append(text_frame(_encode(_Reply(call.id, result))))
        pos = stop
    return b''.join(replies), data[pos:]


class Floor:
    """All sockets, and what each of them is about to say."""

    def __init__(self, port: int, tls: ssl.SSLContext | None = None
                 ) -> None:
        self.tls = tls
        self.listener = socket.create_server(('127.0.0.1', port),
                                             backlog=1024)
        self.poll = select.epoll()
        self.poll.register(self.listener.fileno(), select.EPOLLIN)
        self.http: dict[int, socket.socket] = {}
        self.peers: dict[int, socket.socket] = {}
        self.rest: dict[int, bytes] = {}

    def run(self) -> None:
        while True:
            for fd, _ in self.poll.poll():
                if fd in self.peers:
                    self.on_frames(fd)
                elif fd in self.http:
                    self.on_request(fd)
                else:
                    self.on_connect()

    def on_connect(self) -> None:
        sock, _ = self.listener.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.tls is not None:
            try:
                sock = self.tls.wrap_socket(sock, server_side=True)
            except OSError:         # a look whether we listen
                return
        self.http[sock.fileno()] = sock
        self.poll.register(sock.fileno(), select.EPOLLIN)

    def on_frames(self, fd: int) -> None:
        sock = self.peers[fd]
        try:
            data = sock.recv(_READ_BYTES)
            while isinstance(sock, ssl.SSLSocket) and sock.pending():
                data += sock.recv(_READ_BYTES)
        except OSError:
            data = b''
        if not data:
            self.peers.pop(fd).close()
            return
        replies, self.rest[fd] = answer(self.rest[fd] + data)
        if replies:
            sock.send(replies)

    def on_request(self, fd: int) -> None:
        sock = self.http[fd]
        try:
            head = sock.recv(_READ_BYTES)
        except ConnectionError:
            head = b''
        if not head:
            self.http.pop(fd).close()
        elif b'upgrade' in head.lower():
            self.shake_hands(fd, head)
        else:
            self.notify(head.split(b' ', 2)[1].decode())
            sock.send(b'HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nsent')

    def shake_hands(self, fd: int, head: bytes) -> None:
        key = head.split(b'Sec-WebSocket-Key: ')[1].split(b'\r\n')[0]
        accept = base64.b64encode(hashlib.sha1(key + _GUID).digest())
        sock = self.peers[fd] = self.http.pop(fd)
        self.rest[fd] = b''
        sock.send(b'HTTP/1.1 101 Switching Protocols\r\n'
                  b'Upgrade: websocket\r\nConnection: Upgrade\r\n'
                  b'Sec-WebSocket-Accept: ' + accept + b'\r\n\r\n')

    def notify(self, target: str) -> None:
        query = dict(urllib.parse.parse_qsl(target.partition('?')[2]))
        frame = text_frame(msgspec.json.encode(
            {'jsonrpc': '2.0', 'method': 'notify',
             'params': [query['msg']]}))
        for _ in range(int(query.get('times', 1))):
            for sock in self.peers.values():
                sock.send(frame)


def main() -> None:
    parser = argparse.ArgumentParser(prog='python -m bench.floor')
    parser.add_argument('--port', type=int, required=True)
    parser.add_argument('--tls', nargs=2, metavar=('CERT', 'KEY'))
    given = parser.parse_args()
    tls = None
    if given.tls:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(*given.tls)
    Floor(given.port, tls).run()


if __name__ == '__main__':
    main()
