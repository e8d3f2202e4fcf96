"""Calls: how many a second, and how long one takes.

A read that brings n replies is followed by one send of the next n calls,
a piece of one buffer that all connections share.  Replies have a fixed
size (ids have four digits) and are counted by it.

Every reply is looked at: of the first calls each one, later ones for their
number and for the word "error"; at the end all calls must be answered.
"""
from __future__ import annotations

import argparse
import select
import socket
import ssl
import time
from typing import Any

from .server_process import Meter
from .wire import (TEXT, WIRES, Wire, connect, masked_frame, receive,
                   split_frames)

__all__ = ['measure_calls', 'measure_latency']

_READ_BYTES = 64 * 1024
#: Ids go round from 1000 to 9999: an id comes back long after its reply.
_FIRST_ID, _IDS = 1000, 9000


class Calls:
    """The frames of calls to one method, one behind the other."""

    def __init__(self, wire: Wire, method: str, in_flight: int) -> None:
        self.wire = wire
        frames = [masked_frame(TEXT, wire.call(method, id))
                  for id in range(_FIRST_ID, _FIRST_ID + _IDS)]
        self.size = len(frames[0])
        assert all(len(frame) == self.size for frame in frames)
        #: so that a run of calls may begin at the last id
        self.buffer = memoryview(b''.join(frames + frames[:in_flight]))

    def run(self, position: int, count: int) -> memoryview:
        return self.buffer[position * self.size:
                           (position + count) * self.size]


class Caller:
    """One connection that has calls in flight."""

    __slots__ = ('bytes_left_over', 'calls', 'is_tls', 'position',
                 'reply_bytes', 'sock')

    def __init__(self, given: argparse.Namespace, calls: Calls) -> None:
        self.calls = calls
        self.sock = open_socket(given, calls.wire)
        self.is_tls = isinstance(self.sock, ssl.SSLSocket)
        self.position = 0
        self.bytes_left_over = 0
        self.reply_bytes = self._check_some(given.in_flight)
        self.sock.setblocking(False)

    def _check_some(self, count: int) -> int:
        """Make ``count`` calls and check each reply; a reply's bytes."""
        self.send(count)
        data = b''
        frames: list[tuple[int, bytes, int]] = []
        while len(frames) < count:
            data += receive(self.sock)
            frames = list(split_frames(data))
        for id in range(_FIRST_ID, _FIRST_ID + count):
            assert any(self.calls.wire.is_reply(text, id)
                       for _, text, _ in frames), (id, frames)
        sizes = {len(text) for _, text, _ in frames}
        assert len(sizes) == 1 and len(frames) == count, frames
        return len(data) // count

    def send(self, count: int) -> None:
        sent = self.sock.send(self.calls.run(self.position, count))
        assert sent == count * self.calls.size, 'the socket is full'
        self.position = (self.position + count) % _IDS

    def take(self) -> int:
        """Read; how many replies that completed."""
        if self.is_tls:
            data = self._read_tls()
        else:
            data = self.sock.recv(_READ_BYTES)
            if not data:
                raise ConnectionError('the server closed')
        if self.calls.wire.error in data:
            raise ValueError(f'an error reply: {data[:300]!r}')
        count, self.bytes_left_over = divmod(
            self.bytes_left_over + len(data), self.reply_bytes)
        return count

    def _read_tls(self) -> bytes:
        # Until OpenSSL has no more: epoll does not see what it holds.
        parts = []
        try:
            while True:
                parts.append(receive(self.sock))
        except ssl.SSLWantReadError:
            return b''.join(parts)


def open_socket(given: argparse.Namespace, wire: Wire) -> socket.socket:
    """Connect, and say what this kind of server wants to hear first."""
    tls = ssl.create_default_context(cafile=given.tls) if given.tls else None
    sock, data = connect(given.port, given.path, tls)
    for number in range(wire.expected + len(wire.greetings)):
        if number >= wire.expected:
            sock.sendall(masked_frame(
                TEXT, wire.greetings[number - wire.expected]))
        while not list(split_frames(data)):
            data += receive(sock)
        data = data[next(split_frames(data))[2]:]
    assert not data, data
    return sock


def measure_calls(given: argparse.Namespace) -> dict[str, Any]:
    """``connections`` with ``in_flight`` calls each; replies a second."""
    calls = Calls(WIRES[given.wire], given.method, given.in_flight)
    idle = [open_socket(given, calls.wire) for _ in range(given.idle)]
    callers = {}
    for _ in range(given.connections):
        caller = Caller(given, calls)
        callers[caller.sock.fileno()] = caller
    poll = select.epoll()
    for fd in callers:
        poll.register(fd, select.EPOLLIN)
    for caller in callers.values():
        caller.send(given.in_flight)
    _keep_calling(poll, callers, given.warm_up)
    meter = Meter(given.pid)
    replies, seconds = _keep_calling(poll, callers, given.seconds)
    used = meter.read(replies)
    _take_the_last(poll, callers, given.in_flight)
    for sock in idle:
        sock.close()
    return {'per_s': replies / seconds, **used}


def _keep_calling(poll: select.epoll, callers: dict[int, Caller],
                  seconds: float) -> tuple[int, float]:
    """Answer each reply with a call; (replies, seconds it took)."""
    replies = 0
    begun = now = time.perf_counter()
    end = begun + seconds
    while now < end:
        events = poll.poll(5)
        if not events:
            raise TimeoutError('no reply for 5 s')
        for fd, _ in events:
            caller = callers[fd]
            count = caller.take()
            if count:
                replies += count
                caller.send(count)
        now = time.perf_counter()
    return replies, now - begun


def _take_the_last(poll: select.epoll, callers: dict[int, Caller],
                   in_flight: int) -> None:
    """Wait for what is in flight: every call has one answer."""
    left = len(callers) * in_flight
    while left > 0:
        events = poll.poll(5)
        if not events:
            raise TimeoutError(f'{left} calls were never answered')
        for fd, _ in events:
            left -= callers[fd].take()
    assert left == 0, f'{-left} replies too many'


def measure_latency(given: argparse.Namespace) -> dict[str, Any]:
    """One connection, one call at a time; calls a second, p50, p99."""
    calls = Calls(WIRES[given.wire], given.method, 1)
    caller = Caller(given, calls)
    sock = caller.sock
    sock.setblocking(True)
    size, left, position = caller.reply_bytes, 0, 1
    clock = time.perf_counter
    took: list[float] = []
    begun = now = clock()
    measured_from = begun + given.warm_up
    end = measured_from + given.seconds
    while now < end:
        sock.send(calls.run(position, 1))
        position = (position + 1) % _IDS
        left = size
        while left:
            left -= len(receive(sock))
        before, now = now, clock()
        if before >= measured_from:
            if not took:
                meter = Meter(given.pid)
            took.append(now - before)
    used = meter.read(len(took))
    took.sort()
    return {'per_s': len(took) / sum(took),
            'p50_us': took[len(took) // 2] * 1e6,
            'p99_us': took[len(took) * 99 // 100] * 1e6, **used}
