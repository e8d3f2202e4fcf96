"""Pushes on their way to many sockets at once.  Layer 2.

::

    any thread      FanOut.add(targets, size); wake the loop
    loop's thread   targets() -> [(websockets, frame_for), ...]
                    frame_for(dialect, framer) -> one frame for all alike
                    one send for each socket

A push that waits alone goes straight from here into the sockets; several
are put into the out-queues, so that each socket gets them in one send.

**Straight**, that is without the out-queue and its lock: those cost 3 us of
8 for a delivery, when the kernel's ``send`` has emptied the processor's
caches in between (1 000 sockets; the kernel's share is 4).
``WebSocket.direct`` is the bound ``send`` of a socket with nothing in the
way: it is open, plain, not refusing, and its out-queue is empty.  So

* whoever puts a frame into an out-queue sets ``direct`` to None *after*
  that, and the loop's ``flush`` sets it anew *before* it empties the queue:
  a push cannot overtake what its publisher has sent before;
* a worker that sends by itself (``WebSocket.send_alone``) stands in
  ``senders`` meanwhile and does not begin while ``spreading``.  Either he
  sees that, or the loop sees him (``begin``) and takes the way through the
  queue, whose lock waits for him: the bytes of two frames cannot mix.  Who
  ended before that look, and was cut short, has posted it before: the loop
  runs what is posted in between.
"""
from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

from . import transport
from .errors import Overloaded
from .logs import limited

if TYPE_CHECKING:
    from .dialects import Dialect
    from .frames import Framer
    from .websocket import WebSocket

__all__ = ['FanOut', 'FrameFor', 'MAX_EVENTS', 'MAX_EVENT_BYTES', 'Outlet',
           'Targets', 'make_room', 'once_each']

log = logging.getLogger('cp_wsrpc.fanout')

#: Pushes that wait for the loop, and their bytes, before publishers are
#: told to slow down (Overloaded).
MAX_EVENTS = 10_000
MAX_EVENT_BYTES = 64 << 20
#: Sockets that a push is sent to before the loop sees to what else waits
#: to be sent: half a millisecond.
_SLICE = 100
#: A push to many makes room for other threads after the first slice, when
#: its publisher has a request to end.  It lets go of the interpreter for the
#: moment of each send, so a waiting thread is woken again and again and
#: finds it, and the core, taken.  If the pause was of use to another thread
#: the next comes after five slices, else late.  A publishing request took
#: 5.4 ms at p99 without pauses (5 000 sockets), 2.5 with one after each
#: fifth slice, which cost 8 % of the deliveries/s, and takes 1.6 at 5 %.
_YIELD_EVERY = 5 * _SLICE
_YIELD_SELDOM = 20 * _SLICE
_YIELD_S = 0.0001
#: CPU of other threads, less than which is no use of a pause.
_USED_S = 0.00002

FrameFor: TypeAlias = 'Callable[[Dialect, Framer], bytes]'
#: Who gets a push, and what; the websockets may change after the call.
Targets: TypeAlias = (
    'Callable[[], Iterable[tuple[list[Any], FrameFor]]]')


class Outlet:
    """What a fan-out looks at of a socket: the base of ``WebSocket``.

    ``dialect``   what the peer speaks; None on a plain handler, which
                  speaks nothing
    ``framer``    builds the data frames: compressed, where that was agreed
    ``direct``    the bound ``send`` of the socket while a push may go
                  straight into it, see above; any thread sets it to None

    In slots, which stand beside the object's count of references: in
    ``__dict__`` they are three more misses of the cache for each delivery.
    """

    __slots__ = ('dialect', 'direct', 'framer')

    dialect: Dialect | None
    framer: Framer
    direct: Callable[[bytes], int] | None


def once_each(build: FrameFor) -> FrameFor:
    """``build``, called once for each dialect and way to frame.

    (Compressed with a window of so many bits, or not.)
    """
    frames: dict[tuple[Dialect, Framer], bytes] = {}

    def frame_for(dialect: Dialect, framer: Framer) -> bytes:
        frame = frames.get((dialect, framer))
        if frame is None:
            frame = frames[dialect, framer] = build(dialect, framer)
        return frame

    return frame_for


class FanOut:
    """The pushes of a process that wait, and how they are sent.

    ``add``, ``backlog``: any thread; the rest: the loop's.

    ``guard(websocket, name, *args)`` calls a method of a socket, whose
    fault ends it alone; ``see_to_rest()`` sends what else waits.
    """

    def __init__(self, counters: Counter[str],
                 guard: Callable[..., None],
                 see_to_rest: Callable[[], None]) -> None:
        self._counters = counters
        self._guard = guard
        self._see_to_rest = see_to_rest
        #: pushes are being sent: the loop alone sends
        self.spreading = False
        #: sockets on which workers send by themselves, each once for each
        #: of those; any thread
        self.senders: list[WebSocket] = []
        #: what was sent straight, which the out-queues have not counted
        self.sent_frames = self.sent_bytes = 0
        self._waiting: deque[tuple[Targets, int]] = deque()
        self._bytes = 0
        # Guards _bytes and what counters says of pushes.
        self._lock = threading.Lock()

    def forget_all(self) -> None:
        """Drop what waits; nobody sends any more."""
        with self._lock:
            self._waiting.clear()
            self._bytes = 0
        self.spreading = False
        self.sent_frames = self.sent_bytes = 0

    def add(self, targets: Targets, size: int) -> None:
        """Have a push wait for ``spread``.

        ``targets`` is called on the loop's thread; ``size`` is what the
        push counts for in the backlog, bytes.  Raises Overloaded when the
        loop is that far behind: the publisher should pause, or drop.
        """
        with self._lock:
            if (len(self._waiting) >= MAX_EVENTS
                    or self._bytes + size > MAX_EVENT_BYTES):
                self._counters['pushes_refused'] += 1
                raise Overloaded(
                    f'{len(self._waiting)} pushes wait to be sent: publish '
                    'less, or drop')
            self._counters['pushes'] += 1
            self._bytes += size
            self._waiting.append((targets, size))

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def backlog(self) -> tuple[int, int]:
        """(pushes that wait for the loop, their bytes); for show."""
        return len(self._waiting), self._bytes

    def begin(self) -> None:
        """Begin to spread, if any push waits.

        To be followed by what was posted, and then by ``spread``.
        """
        self.spreading = bool(self._waiting)
        if self.spreading:
            for websocket in tuple(self.senders):
                websocket.direct = None

    def spread(self) -> None:
        """Send all that wait; see ``begin``."""
        assert self.spreading
        while self._waiting:
            touched: dict[WebSocket, None] = {}
            delivered = 0
            is_alone = len(self._waiting) == 1
            while self._waiting:
                targets = self._take()
                try:
                    for websockets, frame_for in targets():
                        delivered += (
                            self._send(websockets, frame_for, touched)
                            if is_alone else
                            self._queue(websockets, frame_for, touched))
                except Exception:
                    # A fault of ours: this push is lost for the rest, the
                    # others are not.
                    limited(log, 'push', logging.ERROR, 'a push failed',
                            exc_info=True)
                if is_alone:
                    break
            self._counters['pushes_delivered'] += delivered
            for websocket in touched:
                self._guard(websocket, 'flush')

    def _take(self) -> Targets:
        with self._lock:
            targets, size = self._waiting.popleft()
            self._bytes -= size
        return targets

    def _send(self, websockets: list[WebSocket], frame_for: FrameFor,
              touched: dict[WebSocket, None]) -> int:
        """Send one push straight, where nothing is in the way.

        How many got it.  Those with something in the way have it in their
        out-queue then, and are in ``touched``.
        """
        delivered = size = 0
        dialect: Any = None
        framer: Any = None
        frame = b''
        yield_at = _SLICE
        for begin in range(0, len(websockets), _SLICE):
            if begin >= yield_at:
                yield_at = begin + (
                    _YIELD_EVERY if make_room() else _YIELD_SELDOM)
            straight = 0
            for websocket in websockets[begin:begin + _SLICE]:
                if (websocket.dialect is not dialect
                        or websocket.framer is not framer):
                    self._count_straight(straight, size)
                    delivered += straight
                    straight = 0
                    dialect, framer = websocket.dialect, websocket.framer
                    frame = frame_for(dialect, framer)
                    size = len(frame)
                send = websocket.direct
                if send is None:
                    delivered += _enqueue(websocket, frame, touched)
                    continue
                try:
                    sent = send(frame)
                except transport.NOT_NOW:
                    sent = 0
                except transport.GONE:
                    self._guard(websocket, 'lose')
                    continue
                if sent == size:
                    straight += 1
                else:
                    self._guard(websocket, 'keep_rest', frame, sent)
                    delivered += 1
            self._count_straight(straight, size)
            delivered += straight
            self._see_to_rest()
        return delivered

    def _queue(self, websockets: list[WebSocket], frame_for: FrameFor,
               touched: dict[WebSocket, None]) -> int:
        """Put a push into the out-queues; how many got it."""
        delivered = 0
        dialect: Any = None
        framer: Any = None
        frame = b''
        for websocket in websockets:
            if (websocket.dialect is not dialect
                    or websocket.framer is not framer):
                dialect, framer = websocket.dialect, websocket.framer
                frame = frame_for(dialect, framer)
            delivered += _enqueue(websocket, frame, touched)
        return delivered

    def _count_straight(self, frames: int, size: int) -> None:
        self.sent_frames += frames
        self.sent_bytes += frames * size


def make_room() -> bool:
    """Pause; whether other threads have made use of it."""
    before = time.process_time() - time.thread_time()
    time.sleep(_YIELD_S)
    return time.process_time() - time.thread_time() - before > _USED_S


def _enqueue(websocket: WebSocket, frame: bytes,
             touched: dict[WebSocket, None]) -> int:
    """Put it into the out-queue; 0 if nothing is sent any more, else 1."""
    if websocket.server_terminated:
        return 0
    websocket.out.frames.append(frame)
    touched[websocket] = None
    return 1
