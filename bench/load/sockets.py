"""Connections: new ones, idle ones, and large messages on one."""
from __future__ import annotations

import argparse
import select
import socket
import time
from typing import Any

from .server_process import cpu_s, memory_kib
from .wire import PONG, TEXT, connect, masked_frame, request_of

__all__ = ['measure_connect', 'measure_echo', 'measure_idle']

#: Handshakes at a time, fewer than a CherryPy has threads.
_AT_A_TIME = 8
#: An empty ping of the server, and its answer.
_PING, _PONG = b'\x89\x00', masked_frame(PONG, b'')


class _Opening:
    """Connects, upgrades, closes, again and again."""

    def __init__(self, port: int, path: str, poll: select.epoll) -> None:
        self.port, self.poll = port, poll
        self.request = request_of(port, path)
        self.sock = self._begin()

    def _begin(self) -> socket.socket:
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex(('127.0.0.1', self.port))
        self.poll.register(sock.fileno(), select.EPOLLOUT)
        self.answer = b''
        return sock

    def go_on(self, events: int) -> int:
        """Do the next step; 1 when that completed a connection."""
        if events & select.EPOLLOUT:
            self.sock.send(self.request)
            self.poll.modify(self.sock.fileno(), select.EPOLLIN)
            return 0
        data = self.sock.recv(65536)
        self.answer += data
        if data and b'\r\n\r\n' not in self.answer:
            return 0
        assert self.answer.startswith(b'HTTP/1.1 101'), self.answer
        self.poll.unregister(self.sock.fileno())
        self.sock.close()
        self.sock = self._begin()
        return 1


def measure_connect(given: argparse.Namespace) -> dict[str, Any]:
    """New connections a second, 8 at a time, each closed at once."""
    poll = select.epoll()
    openings = [_Opening(given.port, given.path, poll)
                for _ in range(_AT_A_TIME)]
    count, begun, warm = 0, time.perf_counter(), False
    while True:
        now = time.perf_counter()
        if not warm and now - begun > given.warm_up:
            warm, begun, count = True, now, 0
        elif warm and now - begun > given.seconds:
            break
        by_fd = {each.sock.fileno(): each for each in openings}
        for fd, events in poll.poll(5):
            count += by_fd[fd].go_on(events)
    return {'per_s': count / (now - begun)}


def measure_idle(given: argparse.Namespace) -> dict[str, Any]:
    """What connections that say nothing cost the server.

    KiB of its memory for each, once they have stood for a moment, and its
    share of a CPU over ``seconds`` (all pings answered).  The first 100 are
    not counted: they bring what is the same for any number.
    """
    poll = select.epoll()
    socks = dict(_open(given, poll, 100))
    time.sleep(1)
    before = memory_kib(given.pid)
    socks.update(_open(given, poll, given.connections))
    _answer_pings(poll, socks, 3)
    after = memory_kib(given.pid)
    cpu = cpu_s(given.pid)
    pings = _answer_pings(poll, socks, given.seconds)
    cpu = cpu_s(given.pid) - cpu
    return {'kib_each': (after - before) / given.connections,
            'cpu': cpu / given.seconds, 'pings_per_s': pings / given.seconds}


def _open(given: argparse.Namespace, poll: select.epoll, count: int
          ) -> list[tuple[int, socket.socket]]:
    opened = []
    for _ in range(count):
        sock, _ = connect(given.port, given.path)
        opened.append((sock.fileno(), sock))
        poll.register(sock.fileno(), select.EPOLLIN)
    return opened


def _answer_pings(poll: select.epoll, socks: dict[int, socket.socket],
                  seconds: float) -> int:
    """Answer each at once; how many came.

    With frames made beforehand, so that it is faster than the server's
    pings: the pongs of a batch then wait for the server together.  Slower,
    it woke the server for one after the other, 20 times for 100 pings.
    """
    buffer = bytearray(65536)
    pings = 0
    end = time.perf_counter() + seconds
    while (left := end - time.perf_counter()) > 0:
        for fd, _ in poll.poll(left, len(socks)):
            sock = socks[fd]
            size = sock.recv_into(buffer)
            assert buffer[:size] == _PING, buffer[:size]
            sock.send(_PONG)
            pings += 1
    return pings


def measure_echo(given: argparse.Namespace) -> dict[str, Any]:
    """Messages of ``bytes`` there and back, one at a time; MiB a second."""
    sock, _ = connect(given.port, given.path)
    text = b'0123456789abcdef' * (given.bytes // 16)
    frame = masked_frame(TEXT, text)
    buffer = memoryview(bytearray(len(text) + 10))
    size = _echo(sock, frame, buffer, len(text) + 10)
    assert buffer[size - len(text):size] == text
    for phase_s in (given.warm_up, given.seconds):
        count, begun = 0, time.perf_counter()
        while time.perf_counter() - begun < phase_s:
            _echo(sock, frame, buffer, size)
            count += 1
        seconds = time.perf_counter() - begun
    return {'mib_per_s': count * len(text) / seconds / (1 << 20)}


def _echo(sock: socket.socket, frame: bytes, buffer: memoryview, size: int
          ) -> int:
    """Send it, and read as much as comes back; bytes of that."""
    sock.sendall(frame)
    taken = 0
    while taken < size:
        taken += sock.recv_into(buffer[taken:])
    return taken
