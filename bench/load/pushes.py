"""Pushes: deliveries a second, and how long publishing takes.

N sockets listen on ``/rpc``; ``/notify?msg=...&times=B`` on a connection
that is kept has the server push B times to each.  The next request goes
out when the last delivery of the one before is in, and the clock runs from
the request's first byte to the last delivery's last.
"""
from __future__ import annotations

import argparse
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

from .server_process import Meter
from .wire import connect, receive, split_frames

__all__ = ['measure_publish', 'measure_pushes']

#: What makes a push of 130 bytes of JSON-RPC.
_MESSAGE = 'x' * (130 - len(
    '{"jsonrpc":"2.0","method":"notify","params":[""]}'))


class Listeners:
    """The sockets that are pushed to."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.socks: dict[int, socket.socket] = {}
        self.poll = select.epoll()
        self.buffer = bytearray(65536)
        for _ in range(given.connections):
            sock, early = connect(given.port, given.path)
            assert not early, early
            sock.setblocking(False)
            self.socks[sock.fileno()] = sock
            self.poll.register(sock.fileno(), select.EPOLLIN)

    def await_first(self) -> None:
        """Wait until something has come, and leave it there."""
        if not self.poll.poll(10, 1):
            raise TimeoutError('nothing was delivered')

    def await_bytes(self, wanted: int) -> None:
        """Read until ``wanted`` bytes have come, on all together."""
        socks, buffer, poll = self.socks, self.buffer, self.poll.poll
        most = len(socks)
        while wanted > 0:
            events = poll(10, most)
            if not events:
                raise TimeoutError(f'{wanted} bytes were never delivered')
            for fd, _ in events:
                wanted -= socks[fd].recv_into(buffer)
        assert wanted == 0, f'{-wanted} bytes too many'

    def check_first_push(self, notify: Notify) -> int:
        """Have one push delivered and look at it; its bytes."""
        time.sleep(0.5)         # ws4py registers a socket after its 101
        notify.begin(1)
        pushed = 0
        for sock in self.socks.values():
            sock.settimeout(10)
            data = receive(sock)
            (_, text, end), = split_frames(data)
            assert text.replace(b' ', b'').endswith(
                f'["{_MESSAGE}"]}}'.encode()), text
            assert len(text) == 130, text
            pushed = end
            sock.setblocking(False)
        notify.end()
        return pushed


class Notify:
    """A kept HTTP connection on which pushes are asked for."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.sock = socket.create_connection(('127.0.0.1', port), timeout=20)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def begin(self, times: int) -> None:
        self.sock.sendall(
            f'GET /notify?msg={_MESSAGE}&times={times} HTTP/1.1\r\n'
            f'Host: 127.0.0.1:{self.port}\r\n\r\n'.encode())

    def end(self) -> None:
        """Wait for the answer, whose body is ``sent``."""
        data = b''
        while not data.endswith((b'sent', b'\r\n0\r\n\r\n')):
            data += receive(self.sock)
        assert data.startswith(b'HTTP/1.1 200'), data


def measure_pushes(given: argparse.Namespace) -> dict[str, Any]:
    """Deliveries a second, ``burst`` pushes a request.

    ``first_ms``: from the request to the first delivery, on the average.
    """
    listeners, notify = Listeners(given), Notify(given.port)
    size = listeners.check_first_push(notify)
    per_request = given.connections * given.burst
    _push(listeners, notify, given, size, given.warm_up)
    meter = Meter(given.pid)
    requests, seconds, first_s = _push(listeners, notify, given, size,
                                       given.seconds)
    used = meter.read(requests * per_request)
    return {'per_s': requests * per_request / seconds,
            'first_ms': first_s / requests * 1e3, **used}


def _push(listeners: Listeners, notify: Notify, given: argparse.Namespace,
          size: int, seconds: float) -> tuple[int, float, float]:
    """(requests made, seconds they took, those to the first delivery)."""
    requests, took, to_first = 0, 0.0, 0.0
    while took < seconds:
        begun = time.perf_counter()
        notify.begin(given.burst)
        listeners.await_first()
        to_first += time.perf_counter() - begun
        listeners.await_bytes(given.connections * given.burst * size)
        took += time.perf_counter() - begun
        notify.end()
        requests += 1
    return requests, took, to_first


def measure_publish(given: argparse.Namespace) -> dict[str, Any]:
    """The time of 200 publishing requests themselves.

    From the first byte of ``GET /notify`` to the last of its answer, on a
    connection that is kept, while the server sends this very push: that of
    the request before has been delivered 5 ms ago.  ``quiet_p99_ms`` is the
    same request with ``times=0``, which pushes nothing.

    The listeners are read by a process of their own: 5 000 deliveries take
    it longer than what is measured here.
    """
    listeners, notify = Listeners(given), Notify(given.port)
    size = listeners.check_first_push(notify)
    quiet = _time_requests(notify, 0, lambda: None)
    told, tell = os.pipe()
    reader = os.fork()
    if reader == 0:
        while True:
            listeners.await_bytes(given.connections * size)
            os.write(tell, b'.')
    try:
        took = _time_requests(notify, 1, lambda: os.read(told, 1))
    finally:
        os.kill(reader, signal.SIGKILL)
        os.waitpid(reader, 0)
    return {'p50_ms': _percentile(took, 50), 'p99_ms': _percentile(took, 99),
            'max_ms': _percentile(took, 100),
            'quiet_p99_ms': _percentile(quiet, 99)}


def _time_requests(notify: Notify, times: int,
                   await_delivery: Callable[[], object]) -> list[float]:
    """Seconds that each of 200 requests took.

    In all they stay below the 25 s after which the server would ping.
    """
    took = []
    for _ in range(200):
        begun = time.perf_counter()
        notify.begin(times)
        notify.end()
        took.append(time.perf_counter() - begun)
        await_delivery()
        time.sleep(0.005)
    return took


def _percentile(seconds: list[float], percent: int) -> float:
    """The least that so many of a hundred do not exceed; in ms."""
    return sorted(seconds)[-(-len(seconds) * percent // 100) - 1] * 1e3
