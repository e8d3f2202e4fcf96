"""The receiving half of a socket, and whether its peer still lives.
Layer 3.

All of it belongs to the loop's thread.  ``ioloop`` calls ``on_readable``
when bytes have come, ``on_turn`` when more of them is to be handled, and
``on_timer`` at deadlines::

    on_readable -> one recv -> framing -> on_items (websocket, peer)
                                       -> on_control: ping, pong, Close
"""
from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from ws4py.messaging import (BinaryMessage, CloseControlMessage,
                             PingControlMessage, PongControlMessage)
from ws4py.websocket import WebSocket as Ws4pyWebSocket

from . import frames, transport
from .closing import Closer
from .errors import CloseCode
from .states import CLOSED, CLOSING, LEAVING, OPEN

if TYPE_CHECKING:
    from .strands import Strand

__all__ = ['MAX_UNHANDLED', 'Receiver']

#: Messages of a plain handler that wait for the pool before reading stops.
MAX_UNHANDLED = 64
#: Control frames a second, over a window, before it is abuse (threats B5).
_MAX_CONTROL_RATE = 50
_CONTROL_WINDOW_S = 5.0
_PING = frames.ping_frame()


class Receiver(Closer):
    """What reads from one socket; the third part of ``WebSocket``."""

    __slots__ = ('_controls', '_controls_since', '_last_step', '_last_step_at',
                 '_partial_since', '_ping_after_s', '_pinged_at', '_read_due',
                 'last_read', 'strand', 'timer_tick')

    strand: Strand

    def __init__(self, sock: Any, *args: Any) -> None:
        super().__init__(sock, *args)
        self._read_due = False      # on_turn() will be called
        self.last_read = 0.0
        self._pinged_at = 0.0
        self._ping_after_s = 0.0
        self._partial_since = 0.0
        # The peer has said its last: what we do then, and when at the latest.
        self._last_step: Callable[[], object] | None = None
        self._last_step_at = 0.0
        self._controls = 0
        self._controls_since = 0.0
        #: the tick of the loop's timer wheel it stands in
        self.timer_tick: int | None = None

    def on_readable(self, now: float) -> None:
        """Read once, and handle every frame that is complete.

        ``now``: when the socket was found readable.
        """
        if self.sock is None or self.stream.has_more:
            return      # on_turn() is for the latter
        ended = again = False
        data: bytes | memoryview
        if self._is_secure:
            data, ended, again = transport.read_all(self.sock)
        else:
            try:
                data = transport.read_some(self.sock, self.io.read_buffer)
            except transport.NOT_NOW:
                return
            except transport.GONE as error:
                self.strand.post(self.run_hook, 'unhandled_error', error)
                data = b''
            ended = not data
        if data:
            self._take(data, now)
        if ended and not self.stream.has_more:      # it will end again
            self._finish(CloseCode.ABNORMAL, 'the peer went away')
        elif again and self._reading:
            self._read_soon()

    def on_turn(self) -> None:
        """Go on with what was read, or waits inside of a TLS socket.

        Once a turn of the loop, so that others have theirs.
        """
        self._read_due = False
        if not self._reading:
            return
        if self.stream.has_more:
            self._take(b'', self.io.now())
        else:
            self.on_readable(self.io.now())

    def _read_soon(self) -> None:
        if not self._read_due:
            self._read_due = True
            self.io.read_soon(self)

    def _take(self, data: bytes | memoryview, now: float) -> None:
        self.last_read = now
        self.io.bytes_in += len(data)
        if self.state is LEAVING:
            return
        stream, out = self.stream, self.out
        items = stream.feed(data)
        # What the messages make us send goes out below, in one piece.
        out.scheduled = True
        if items:
            self.on_items(items)
        if stream.unfinished:
            self._note_partial(now, items)
        else:
            self._partial_since = 0.0
        if stream.failure is not None and self.state < LEAVING:
            self.end_after_hooks(partial(
                self._fail, stream.failure.code, stream.failure.reason))
        # Cleared before the look: who appends after it flushes himself.
        out.scheduled = False
        if out.frames and self.state is not CLOSED:
            self.flush()
        if stream.has_more and self._reading:
            self._read_soon()

    def _note_partial(self, now: float, items: list[Any]) -> None:
        """A message has begun: it has ``message_timeout_s`` to end."""
        if not self._partial_since or any(
                type(item) is bytes or isinstance(item, BinaryMessage)
                for item in items):
            self._partial_since = now
            self.io.schedule(
                self, now + self.endpoint.options.message_timeout_s)

    def on_control(self, item: Any) -> None:
        """Handle a ping, a pong or the peer's Close."""
        if isinstance(item, CloseControlMessage):
            self._on_close_frame(item)
            return
        if not self._admit_control():
            return
        if isinstance(item, PingControlMessage):
            if self.state is OPEN:
                self.out.put_pong(frames.pong_frame(item.data))
        elif isinstance(item, PongControlMessage):
            self.io.timers.note_answer(self)
            if type(self).ponged is not Ws4pyWebSocket.ponged:
                self.strand.post(self.run_hook, 'ponged', item)

    def _admit_control(self) -> bool:
        """False, and 1008, past 50 control frames a second for 5 s."""
        now = self.last_read
        if now - self._controls_since > _CONTROL_WINDOW_S:
            self._controls_since = now
            self._controls = 0
        self._controls += 1
        if self._controls > _MAX_CONTROL_RATE * _CONTROL_WINDOW_S:
            if self.state is OPEN:
                self._fail(CloseCode.POLICY, 'too many control frames')
            return False
        return True

    def _go_on_reading(self) -> None:
        if (not self._reading and not self.out.refusing
                and self.sock is not None
                and (self.state is not OPEN or not self._last_step)
                and len(self.strand) < MAX_UNHANDLED):
            self._reading = True
            self.io.watch_reads(self)
            if self._partial_since:
                # What has not come while we did not read is our fault.
                self._partial_since = self.io.now()
                self.io.schedule(
                    self, self._partial_since
                    + self.endpoint.options.message_timeout_s)
            if self._is_secure or self.stream.has_more:
                self._read_soon()

    def _stop_reading(self) -> None:
        if self._reading:
            self._reading = False
            self.io.unwatch_reads(self)

    # -- time --------------------------------------------------------------

    def on_timer(self, now: float) -> float | None:
        """Do what is due; the next time to look, or None."""
        if self.state is CLOSED:
            return None
        if self.state is not OPEN:
            if now >= self._deadline:
                self._finish(CloseCode.ABNORMAL, 'no Close in time',
                             reset=self.state is CLOSING)
                return None
            return self._deadline
        # A process that was stopped (SIGSTOP, a suspended machine) has
        # missed bytes that did come: silence counts from when it woke.
        awake: float = self.io.awake_since
        if self.out.refusing:
            stall_s = self.hub.timing.write_stall_s
            due = max(self._last_write, awake) + stall_s
            if now >= due:
                self._shed(f'no byte taken in {stall_s} s')
                return self._deadline
            return due
        if self._last_step is not None:
            if now >= self._last_step_at:
                self._last_step()
                return self._deadline
            return self._last_step_at
        due = self._check_liveness(now, awake)
        if self._partial_since and self._reading:
            until = (max(self._partial_since, awake)
                     + self.endpoint.options.message_timeout_s)
            if now >= until:
                self._fail(CloseCode.POLICY, 'a message took too long')
                return self._deadline
            due = min(due, until)
        return due if self.state is OPEN else None

    def _check_liveness(self, now: float, awake: float) -> float:
        """Ping a silent peer; give up on one that does not answer."""
        if not self._reading:       # its strand is full: not its fault
            return now + self._ping_after_s
        if self._pinged_at and self.last_read < self._pinged_at:
            due = (max(self._pinged_at, awake)
                   + self.hub.timing.ping_timeout_s)
            if now >= due:
                # A loop that was held may look at the time before it looks
                # at its sockets (uvloop does): the answer may be there.
                self.on_readable(self.io.now())
                if self.last_read < self._pinged_at:
                    self.abort(CloseCode.ABNORMAL, 'no answer to a ping')
            return due
        due = max(self.last_read, awake) + self._ping_after_s
        if now >= due:
            self._pinged_at = now
            self.out.frames.append(_PING)
            self.flush()
            self.io.timers.await_answer(
                self, now + self.hub.timing.ping_timeout_s)
            return now + self._ping_after_s
        return due

    # -- what the other parts do -------------------------------------------

    def on_items(self, items: list[Any]) -> None:
        """Handle what one read brought: ``websocket`` and ``peer``."""
        raise NotImplementedError

    def run_hook(self, name: str, *args: Any) -> None:
        """Run a hook of the application's: ``websocket``."""
        raise NotImplementedError
