"""How a socket comes to its end: the close handshake (RFC 6455 7).
Layer 3.

``states`` has the table.  All but ``close`` belongs to the loop's thread::

    close()         ours: Close, 2 s for the peer's
    a Close frame   the peer's: it is answered, 1 s for its EOF
    a failure       the peer broke the protocol: Close, likewise
    a slow reader   Close 4408, gone in 1 s
    abort(), lose() gone at once
    refuse()        before the loop has taken it
"""
from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from ws4py.messaging import CloseControlMessage

from . import frames, transport
from .errors import CloseCode
from .frame_rules import check_close_code
from .logs import escape, limited
from .sending import Sender
from .states import CLOSED, CLOSING, LEAVING, NEW, OPEN, State

if TYPE_CHECKING:
    from .framing import FrameStream
    from .host_serving import Handshake

__all__ = ['CLOSE_TIMEOUT_S', 'Closer']

log = logging.getLogger('cp_wsrpc.closing')

#: Seconds for the peer's Close after ours, and for its EOF after that.
CLOSE_TIMEOUT_S = 2.0
LEAVE_TIMEOUT_S = 1.0
#: A slow reader, who may never read the Close.
SHED_TIMEOUT_S = 1.0


class Closer(Sender):
    """What ends one socket, once; the second part of ``WebSocket``."""

    __slots__ = ('_close_sent', '_deadline', '_early_close', '_ending',
                 '_opened_at', '_reading', 'client_terminated', 'handshake',
                 'id', 'messages_in', 'remote', 'stream')

    client_terminated: bool
    handshake: Handshake
    stream: FrameStream

    def __init__(self, sock: Any, *args: Any) -> None:
        super().__init__(sock, *args)
        self.id = ''
        self.remote = ''
        self._opened_at = 0.0
        self.messages_in = 0            # loop's thread writes
        self._reading = False
        self._early_close: tuple[int, bytes] | None = None
        self._deadline: float = 0.0     # of CLOSING and LEAVING
        self._ending: tuple[int, str] | None = None
        self._close_sent = 0            # the code we sent, or will

    def close(self, code: int = 1000, reason: Any = '') -> None:
        """Begin to close; what was sent before still goes out.

        ``code`` 1000-1003, 1007-1014 or 3000-4999 (RFC 6455 7.4), else
        ValueError.  A second close does nothing.
        """
        self._check_connected()
        check_close_code(code)
        frame = frames.close_frame(code, reason)
        if not self.server_terminated:
            self.server_terminated = True
            self.io.post(self._begin_close, code, frame)

    # -- the loop's thread -------------------------------------------------

    def _enter(self, state: State) -> None:
        assert state > self.state, (self.state, state)
        self.state = state
        if state >= CLOSING:
            self.server_terminated = True
            self.direct = self._straight = None
        if state >= LEAVING:
            self.client_terminated = True

    def _begin_close(self, code: int, frame: bytes) -> None:
        """Send our Close and wait for the peer's."""
        if self.state is NEW:
            self._early_close = code, frame
        if self.state is not OPEN:
            return
        self._enter(CLOSING)
        self._close_sent = code
        self._send_last(frame)
        self._deadline = self.io.now() + CLOSE_TIMEOUT_S
        self.io.schedule(self, self._deadline)

    def _send_last(self, frame: bytes) -> None:
        self.out.put_last(frame)
        if not self.out.refusing:
            self.flush()

    def _on_close_frame(self, close: CloseControlMessage) -> None:
        reason = close.reason
        if isinstance(reason, bytes):
            reason = reason.decode('utf-8', 'replace')
        self.end_after_hooks(partial(
            self._answer_close, close.code, reason or ''))

    def _answer_close(self, code: int, reason: str) -> None:
        if self.state is OPEN:
            self._close_sent = code
            self._leave(code, reason, frames.close_frame(code))
        elif self.state is CLOSING:
            self._leave(code, reason, None)

    def _fail(self, code: int, reason: str) -> None:
        """The peer broke the protocol or a limit: Close, and leave."""
        if self.state >= LEAVING:
            return
        limited(log, 'protocol', logging.INFO, '%s %s: %s (%d)', self.id,
                self.remote, escape(reason), code)
        if self.state is OPEN:
            self._close_sent = code
            self._leave(code, reason, frames.close_frame(code, reason))
        else:
            self._leave(code, reason, None)

    def _leave(self, code: int, reason: str, frame: bytes | None) -> None:
        """Both ends have said their last: send it, and wait for EOF."""
        self._enter(LEAVING)
        self.stream.stop()      # has_more would keep the loop busy
        self._deadline = self.io.now() + LEAVE_TIMEOUT_S
        self.io.schedule(self, self._deadline)
        self._report_end(code, reason)
        if frame is not None:
            self._send_last(frame)
        elif not self.out.refusing:
            self.flush()

    def _begin_leaving(self) -> None:
        """All is sent: half-close, so that our Close cannot be lost.

        Closing at once with unread bytes would be an RST, which may
        overtake the Close (RFC 6455 7.1.1).
        """
        if self.sock is not None:
            with self.out.lock:
                transport.half_close(self.sock)
            self._go_on_reading()

    def _shed(self, why: str) -> None:
        """Give a slow reader up: 4408, and an end in a second."""
        limited(log, 'slow', logging.WARNING, '%s %s: slow reader, closed '
                '(4408): %s', self.id, self.remote, why)
        self.io.counters['slow_readers'] += 1
        self.out.drop_waiting()
        self._begin_close(CloseCode.SLOW_READER, frames.close_frame(
            CloseCode.SLOW_READER, 'slow reader'))
        self._deadline = self.io.now() + SHED_TIMEOUT_S
        self.io.schedule(self, self._deadline)

    def refuse(self, code: int, reason: str) -> None:
        """End one that the loop does not take any more: with a Close.

        Without ``opened``, so without ``closed``.  As good as can be done at
        once: its bytes may be lost if the peer has sent some.
        """
        assert self.state is NEW
        self.out.put_last(frames.close_frame(code, reason))
        self.out.send_all()
        self._finish(code, reason)

    def abort(self, code: int, reason: str) -> None:
        """End it here and now; for the loop, at deadlines and stop."""
        self._finish(code, reason, reset=True)

    def lose(self) -> None:
        """The socket says that the connection is gone."""
        self._finish(CloseCode.ABNORMAL, 'the connection was lost')

    def _finish(self, code: int, reason: str, reset: bool = False) -> None:
        """Close the socket; nothing happens on it any more."""
        if self.state is CLOSED:
            return
        if self.state is CLOSING and self._close_sent:
            # The peer never answered our Close: why we sent it says more.
            code, reason = self._close_sent, reason
        was_new = self.state is NEW
        self._enter(CLOSED)
        if self._reading:
            self._stop_reading()
        if self.out.refusing:
            self.io.unwatch_writes(self)
        self.sock = None
        transport.close_hard(self.out.close(), reset)
        if not was_new:
            self._report_end(code, reason)
        self.io.forget(self)

    def _report_end(self, code: int, reason: str) -> None:
        """Tell the application, once, that the connection is over."""
        if self._ending is not None:
            return
        self._ending = (code, reason)
        if self.handshake.bound:
            self.hub.sessions.leave(self)
        if log.isEnabledFor(logging.INFO):
            log.info('%s %s closed: %s %s (sent %s), %.1f s, %d messages in',
                     self.id, self.remote, code, escape(reason),
                     self._close_sent or '-',
                     self.io.now() - self._opened_at, self.messages_in)
        self.on_ended(code, reason)

    def count_closed(self) -> None:
        """Leave its figures to the statistics; the loop has closed it."""
        code = self._ending[0] if self._ending else CloseCode.ABNORMAL
        self.hub.statistics.count_closed(code, self.messages_in, self.out)

    # -- what the other parts do -------------------------------------------

    def end_after_hooks(self, step: Callable[[], object]) -> None:
        """The peer has said its last; ``step`` ends it: ``websocket``."""
        raise NotImplementedError

    def on_ended(self, code: int, reason: str) -> None:
        """The connection is over: ``websocket``."""
        raise NotImplementedError
