"""The sending half of a socket: whoever sends, and who falls behind.
Layer 3.

::

    any thread      enqueue(frame)      into the out-queue; the loop flushes
    a worker        send_alone(frame)   at once, when nothing is in the way
    loop's thread   flush()             one send of all that is ready
    loop's thread   on_writable()       a socket that refused takes again

``outqueue`` holds the frames, ``fanout`` sends past it what goes to many;
``closing``, ``receiving`` and ``websocket`` build upon this.
"""
from __future__ import annotations

import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ws4py.messaging import Message
from ws4py.websocket import WebSocket as Ws4pyWebSocket

from . import frames, transport
from .errors import MessageTooBig
from .fanout import FanOut, Outlet
from .frame_rules import BINARY, TEXT
from .outqueue import LOST, NOT_TRIED, REFUSED, SENT, OutQueue
from .states import LEAVING, NEW, OPEN, State

if TYPE_CHECKING:
    from .endpoint import Endpoint
    from .hub import Hub

__all__ = ['Sender', 'message_of']

#: From here on a message is sent by the thread that has it: the kernel
#: takes 250 us for a copy of 1 MiB, in which the loop can serve others.
_LARGE_BYTES = 64 * 1024


class Sender(Outlet, Ws4pyWebSocket):       # type: ignore[misc]
    """What sends on one socket; the first of four parts of ``WebSocket``.

    Other threads touch ``out`` (see there) and read ``state``, which only
    goes on to what is more closed: a stale look costs a frame that nobody
    would have read.

    Attributes of ours stand in slots, here and in the other parts: with
    ws4py's they are more than the 30 whose names all instances can share,
    and then each has a hash table of its own: 0.9 KiB more, spread over more
    of the processor's caches.
    """

    __slots__ = ('_is_secure', '_last_write', '_straight', 'endpoint', 'hub',
                 'io', 'out', 'out_max_bytes', 'server_terminated', 'sock',
                 'state')

    endpoint: Endpoint
    out_max_bytes: int          # the endpoint's; for each message too
    hub: Hub                    # what all connections share; by attach()
    io: Any                     # hub.io, the IOLoop
    sock: Any                   # None once it is closed
    server_terminated: bool     # no more is sent

    def __init__(self, sock: Any, *args: Any) -> None:
        super().__init__(sock, *args)
        self.dialect = self.direct = None
        self.framer = frames
        self.state: State = NEW
        self._is_secure = transport.is_tls(sock)
        # What direct may become.
        self._straight: Callable[[bytes], int] | None = (
            None if self._is_secure else sock.send)
        self.out = OutQueue(sock)
        self._last_write = 0.0

    # -- any thread --------------------------------------------------------

    def send(self, payload: Any, binary: bool = False) -> None:
        """Send one message; never waits, never raises for the peer's fault.

        ``payload``: str, bytes, a ws4py message, or a generator of str or
        bytes, whose parts make one message.  On a closed connection it
        does nothing.  Raises MessageTooBig above ``out_max_bytes`` and
        TypeError for anything else: the caller's faults.
        """
        self._check_connected()
        opcode, data = message_of(payload, binary)
        self._check_size(len(data))
        if len(data) < _LARGE_BYTES or self.state is NEW:
            self.enqueue(self.framer.frame(opcode, data))
        elif self.state is OPEN:
            self.send_alone(*self.framer.frame_parts(opcode, data))

    def ping(self, message: Any = '') -> None:
        """Send a ping; ``ponged`` is called with the answer."""
        self._check_connected()
        self.enqueue(frames.ping_frame(
            message.encode() if isinstance(message, str) else message))

    def _check_connected(self) -> None:
        """AttributeError in the constructor, which comes before attach().

        (A ``__getattr__`` would word it for all, and slow every look at an
        attribute down: of an async call 0.7 us of 4.3.)
        """
        if not hasattr(self, 'io'):
            raise AttributeError(
                'a handler has no connection in __init__(): send(), close() '
                'and the like belong into opened(), not into __init__()')

    def _check_size(self, size: int) -> None:
        limit = self.out_max_bytes
        if size > limit:
            raise MessageTooBig(f'{size} bytes in one message; '
                                f'out_max_bytes is {limit}')

    def enqueue(self, frame: bytes) -> None:
        """Put whole frames into the out-queue and have the loop send.

        Before the loop has taken the socket over they wait there.
        """
        if self.state <= OPEN and not self.server_terminated:
            out = self.out
            out.frames.append(frame)
            self.direct = None
            # Looked at after the append: on_adopted() looks at the frames
            # after it has changed the state.
            if not out.scheduled and self.state is not NEW:
                out.scheduled = True
                self.io.flush_soon(self)

    def send_alone(self, frame: bytes, payload: bytes = b'') -> None:
        """Send from a worker at once, when nothing else is in the way.

        Saves the wake of the loop, half the latency of a lone call.  Only
        for a plain socket: a TLS one belongs to the loop (pitfalls 20).
        ``payload``: the rest of a frame that is large.
        """
        outcome = NOT_TRIED
        if not (self._is_secure or self.server_terminated):
            pushes: FanOut = self.io.pushes
            pushes.senders.append(self)     # before the look; see fanout
            try:
                if not pushes.spreading:
                    outcome = self.out.send_now(frame, payload)
                    if outcome is REFUSED:
                        self.io.post(self._begin_refusing)
            finally:
                pushes.senders.remove(self)
        if outcome is NOT_TRIED:
            self.enqueue(frame + payload)
        # LOST: the loop reads the same from the socket, and closes.

    # -- the loop's thread -------------------------------------------------

    def flush(self) -> None:
        """Send what is in the out-queue, as much as the socket takes."""
        out = self.out
        out.scheduled = False
        if out.refusing:
            out.fall_behind()
            self._check_behind()
            return
        # A worker that sends still, or was cut short just now, matters to a
        # fan-out alone.  Where none stands there, send_all() finds what he
        # has left, if it has anything to send.
        pushes: FanOut = self.io.pushes
        if not pushes.spreading or (out.frames
                                    and self not in pushes.senders):
            self.direct = self._straight
        outcome = out.send_all()
        if outcome is REFUSED:
            self._begin_refusing()
        elif outcome is LOST:
            self.lose()
        elif self.state is LEAVING:
            self._begin_leaving()

    def _begin_refusing(self) -> None:
        out = self.out
        if out.refusing or out.sock is None or out.unsent is None:
            return
        self.direct = None
        out.begin_refusing()
        self._last_write = self.io.now()
        self.io.watch_writes(self)
        self._stop_reading()
        self.io.schedule(
            self, self._last_write + self.hub.timing.write_stall_s)

    def keep_rest(self, frame: bytes, sent: int) -> None:
        """A fan-out has sent so much of a frame: the rest is to follow."""
        self.out.keep_rest(frame, sent)
        self._begin_refusing()

    def _check_behind(self) -> None:
        """Give a peer up that falls too far behind."""
        out, options = self.out, self.endpoint.options
        if self.state is OPEN and (
                out.behind_bytes > options.out_max_bytes
                or out.behind_messages > options.out_max_messages):
            self._shed(f'{out.behind_messages} messages, '
                       f'{out.behind_bytes} bytes behind')

    def on_writable(self) -> None:
        """The socket takes bytes again (or is gone)."""
        outcome, moved = self.out.go_on()
        if moved:
            self._last_write = self.io.now()
        if outcome is LOST:
            self.lose()
        elif outcome is SENT:
            self.io.unwatch_writes(self)
            self._go_on_reading()
            self.on_caught_up()
            self.flush()

    def on_caught_up(self) -> None:
        """All is sent; ``peer`` has its own."""

    # -- what the other parts do -------------------------------------------

    def lose(self) -> None:
        """The socket says that the connection is gone: ``closing``."""
        raise NotImplementedError

    def _shed(self, why: str) -> None:
        """Give a slow reader up: ``closing``."""
        raise NotImplementedError

    def _begin_leaving(self) -> None:
        """All is sent, and nothing follows: ``closing``."""
        raise NotImplementedError

    def _stop_reading(self) -> None:
        """Read no more until ``_go_on_reading``: ``receiving``."""
        raise NotImplementedError

    def _go_on_reading(self) -> None:
        """Read again, if nothing else speaks against it: ``receiving``."""
        raise NotImplementedError


def message_of(payload: Any, binary: bool = False) -> tuple[int, bytes]:
    """(opcode, bytes) of what an application sends; TypeError.

    ``payload``: str, bytes, a ws4py message, or a generator of str or
    bytes; ``binary`` is for bytes and generators.
    """
    if isinstance(payload, Message):
        return payload.opcode, bytes(payload.data)
    if isinstance(payload, types.GeneratorType):
        payload = b''.join(part.encode() if isinstance(part, str)
                           else part for part in payload)
    elif isinstance(payload, str):
        payload = payload.encode()
    elif not isinstance(payload, (bytes, bytearray, memoryview)):
        raise TypeError('a message is str, bytes, a ws4py message or a '
                        f'generator, not {type(payload).__name__}')
    return BINARY if binary else TEXT, bytes(payload)
