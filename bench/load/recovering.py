"""Subscribers that come back and go on where they were, by the thousand.

::

    flock = Flock(500, lambda number: 8080, topic=lambda number: 'ticks')
    await flock.open()                  # connected and joined, all of them
    ...                                 # something restarts, dies
    await flock.settle(lambda: flock.all_have(last_number))
    flock.lost, flock.doubled, flock.recovered, flock.most_attempts(0.25)

Each is one asyncio protocol, which does what ``wsrpc.js`` and
``cp_wsrpc.Client`` do (protocol.md, 3 and 5): it remembers epoch and
offset, subscribes ``since`` them, and waits before it tries again as
``cp_wsrpc.backoff`` says.  Events are ``{"n": 1}``, ``{"n": 2}``, ...
on each topic, so that what is missing is known without the server's word.
"""
from __future__ import annotations

import asyncio
import collections
import random
import struct
import time
from collections.abc import Callable, Hashable
from typing import Any, cast

import msgspec

from cp_wsrpc.backoff import Backoff

from .wire import PING, PONG, TEXT, masked_frame, request_of, split_frames

__all__ = ['Flock', 'Subscriber']

_CLOSE = 8
_BUSY = -32009
#: Attempts to connect that run at a time when all open for the first time.
_OPENING = 64

Position = tuple[str, int]
_decode = msgspec.json.decode
_encode = msgspec.json.encode


class Flock:
    """``count`` subscribers; used on one event loop.

    ``port``    ``port(number)``: where subscriber ``number`` connects,
                asked at each attempt
    ``topic``   ``topic(number)``: what it subscribes to
    ``path``    of the endpoint
    ``spread``  False: come back at once, without the jitter
    ``before``  the number of the event before the first that all are to
                hear; None: what came before they joined does not matter
    ``heard``   called with (subscriber, data, offset) for each event
    """

    def __init__(self, count: int, port: Callable[[int], int],
                 topic: Callable[[int], str], path: str = '/api', *,
                 spread: bool = True, before: int | None = None,
                 heard: Callable[[Subscriber, Any, int], object]
                 = lambda who, data, offset: None) -> None:
        self.port, self.topic, self.path = port, topic, path
        self.spread, self.before, self.heard = spread, before, heard
        self.lost = 0
        self.doubled = 0
        #: {None: first joins, True: ..., False: ...}
        self.recovered: collections.Counter[bool | None] = (
            collections.Counter())
        #: {1001: 300, 1006: 2}; refused handshakes by their status
        self.closed: collections.Counter[Hashable] = collections.Counter()
        #: when each attempt to come back began, ``time.monotonic()``
        self.attempts: list[float] = []
        self.closing = False
        self.subscribers = [Subscriber(self, number)
                            for number in range(count)]

    async def open(self, timeout_s: float = 60) -> None:
        """Connect all, some at a time; all have joined when it returns."""
        gate = asyncio.Semaphore(_OPENING)

        async def open_one(subscriber: Subscriber) -> None:
            async with gate:
                await subscriber.connect()
                await subscriber.joined.wait()

        async with asyncio.timeout(timeout_s):
            await asyncio.gather(*map(open_one, self.subscribers))

    async def settle(self, is_done: Callable[[], bool],
                     timeout_s: float = 60) -> None:
        """Wait until ``is_done()``, which is asked 50 times a second."""
        async with asyncio.timeout(timeout_s):
            while not is_done():
                await asyncio.sleep(0.02)

    async def close(self) -> None:
        """Close all connections, and come back no more."""
        self.closing = True
        for subscriber in self.subscribers:
            subscriber.stop()
        while any(each.is_open for each in self.subscribers):
            await asyncio.sleep(0.01)

    @property
    def all_joined(self) -> bool:
        return all(each.joined.is_set() for each in self.subscribers)

    def all_have(self, number: int) -> bool:
        """Whether every one has heard the event of this number."""
        return all((each.last or 0) >= number for each in self.subscribers)

    def most_attempts(self, window_s: float) -> int:
        """The most attempts to come back within any ``window_s``."""
        times, most, first = sorted(self.attempts), 0, 0
        for index, at in enumerate(times):
            while times[first] < at - window_s:
                first += 1
            most = max(most, index - first + 1)
        return most


class Subscriber(asyncio.Protocol):
    """One of them: connects, joins, listens, is thrown out, comes back."""

    def __init__(self, flock: Flock, number: int) -> None:
        self.flock, self.number = flock, number
        self.topic = flock.topic(number)
        self.position: Position | None = None
        #: the newest number heard; None: what came before is not known
        self.last: int | None = None
        #: set while it is subscribed
        self.joined = asyncio.Event()
        self.port = 0
        self._backoff = Backoff()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._buffer = b''
        self._begun = 0.0
        self._code: int | None = None
        self._status: int | None = None

    @property
    def is_open(self) -> bool:
        return self._transport is not None

    async def connect(self) -> None:
        """Try once; what follows comes by itself."""
        loop = asyncio.get_running_loop()
        self._buffer, self._code, self._status = b'', None, None
        self.port = self.flock.port(self.number)
        try:
            await loop.create_connection(lambda: self, '127.0.0.1',
                                         self.port)
        except OSError:
            self.flock.closed['no connection'] += 1
            self._come_back(self._backoff.after_failure(None))

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
        if self._transport is not None:
            self._transport.abort()

    # -- asyncio calls these -------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not isinstance: uvloop's are none of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._begun = time.monotonic()
        self._transport.write(request_of(self.port, self.flock.path))
        if self.flock.closing:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._status is None and not self._take_answer():
            return
        end = 0
        for opcode, payload, end in split_frames(self._buffer):  # noqa: B007
            self._take(opcode, payload)
        if end:
            self._buffer = self._buffer[end:]

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self.joined.clear()
        if self.flock.closing:
            return
        if self._status == 101:
            code = self._code or 1006
            self.flock.closed[code] += 1
            self._come_back(self._backoff.after_close(
                code, time.monotonic() - self._begun))
        else:
            self.flock.closed[f'HTTP {self._status}'] += 1
            self._come_back(self._backoff.after_failure(self._status))

    # -- the protocol --------------------------------------------------------

    def _come_back(self, delay_s: float | None) -> None:
        assert delay_s is not None, (self.flock.closed, 'not to come back')
        if not self.flock.spread:
            # Who is refused tries again all the same, 50 ms later.
            delay_s = 0.05 * random.random()
        self._timer = asyncio.get_running_loop().call_later(
            delay_s, self._try)

    def _try(self) -> None:
        self.flock.attempts.append(time.monotonic())
        self._task = asyncio.get_running_loop().create_task(self.connect())

    def _take_answer(self) -> bool:
        head, found, rest = self._buffer.partition(b'\r\n\r\n')
        if not found:
            return False
        self._buffer = rest
        self._status = int(head[9:12])
        assert self._transport is not None
        if self._status != 101:
            self._transport.close()
            return False
        self._join()
        return True

    def _join(self) -> None:
        since = self.position and {'epoch': self.position[0],
                                   'offset': self.position[1]}
        self._say({'jsonrpc': '2.0', 'id': 1, 'method': 'rpc.subscribe',
                   'params': {'topic': self.topic, 'since': since}})

    def _say(self, message: dict[str, Any]) -> None:
        if self._transport is not None:
            self._transport.write(masked_frame(TEXT, _encode(message)))

    def _take(self, opcode: int, payload: bytes) -> None:
        assert self._transport is not None
        if opcode == TEXT:
            self._take_message(_decode(payload))
        elif opcode == PING:
            self._transport.write(masked_frame(PONG, payload))
        elif opcode == _CLOSE:
            self._code, = struct.unpack('!H', payload[:2] or b'\x03\xed')
            self._transport.write(masked_frame(_CLOSE, payload[:2]))
            self._transport.close()

    def _take_message(self, message: dict[str, Any]) -> None:
        if message.get('id') == 1:
            self._take_reply(message)
        elif message.get('method') == 'rpc.subscription':
            said = message['params']
            if 'recovered' in said:         # on a connection that stands
                self._begin_at(said)
            else:
                self._hear(said['result'], said['offset'])

    def _take_reply(self, message: dict[str, Any]) -> None:
        if 'error' in message:
            assert message['error']['code'] == _BUSY, message
            self._timer = asyncio.get_running_loop().call_later(
                0.1 + 0.4 * random.random(), self._join)
            return
        result = message['result']
        if result['recovered'] is True:
            self.flock.recovered[True] += 1
            for event in result['publications']:
                self._hear(event['data'], event['offset'])
        else:
            self._begin_at(result)
        self.joined.set()

    def _begin_at(self, said: dict[str, Any]) -> None:
        self.flock.recovered[said['recovered']] += 1
        self.position = said['epoch'], said['offset']
        self.last = self.flock.before if said['recovered'] is None else None

    def _hear(self, data: Any, offset: int) -> None:
        number = data['n']
        assert self.position is not None
        if self.last is not None and number <= self.last:
            # "again": the publisher was not told that it had gone out.
            self.flock.doubled += not data.get('again')
        elif self.last is not None and number > self.last + 1:
            self.flock.lost += number - self.last - 1
        self.last = max(number, self.last or 0)
        self.position = self.position[0], offset
        self.flock.heard(self, data, offset)
