"""One non-blocking socket: its out-queue, close handshake and liveness.
Layer 3.

A subclass of ws4py's ``WebSocket`` whose reading, writing and closing are
replaced (pitfalls 13-25 say why).  It is what applications subclass for
plain handlers::

    class Echo(cp_wsrpc.WebSocket):
        def opened(self):
            self.send('Welcome!')
        def received_message(self, message):
            self.send(str(message).upper())
        def closed(self, code, reason=None):
            ...

and the base of ``peer.Peer``, which speaks RPC.  ``ioloop`` calls
``on_readable``, ``on_turn``, ``on_writable``, ``on_timer`` and ``flush``.

========  ======================================  ====================
state     what happens                            next state
========  ======================================  ====================
NEW       ``ioloop`` adopts it                    OPEN
OPEN      ``close()``                             CLOSING
OPEN      the peer's Close; it is answered (a)    LEAVING
OPEN      the peer breaks the protocol (a)        LEAVING
CLOSING   the peer's Close, or its breaking       LEAVING
LEAVING   all sent, and the peer's EOF or 1 s     CLOSED
any       EOF, a socket error, a deadline         CLOSED
========  ======================================  ====================

(a) A plain handler first does what came before, for 2 s at most, and may
answer it: RFC 6455 5.5.1 asks for the Close "as soon as practical" and has
what is under way go first.  RPC answers at once: who has closed reads no
replies.

Only the loop's thread changes the state (:meth:`_enter`).  ``closed()`` is
run once for each ``opened()``, on entering LEAVING or CLOSED.
"""
from __future__ import annotations

import enum
import logging
import random
import types
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from ws4py.messaging import (BinaryMessage, CloseControlMessage, Message,
                             PingControlMessage, PongControlMessage,
                             TextMessage)
from ws4py.websocket import WebSocket as Ws4pyWebSocket

from . import frames, transport
from .errors import CloseCode, MessageTooBig
from .fanout import FanOut, Outlet
from .frame_rules import BINARY, TEXT, check_close_code
from .framing import FrameStream
from .logs import escape, limited
from .outqueue import LOST, NOT_TRIED, REFUSED, SENT, OutQueue
from .users import key_of

if TYPE_CHECKING:
    from .compression import Agreement
    from .endpoint import Endpoint
    from .host_serving import Handshake
    from .hub import Hub
    from .strands import Strand

__all__ = ['State', 'WebSocket', 'message_of']

log = logging.getLogger('cp_wsrpc.websocket')

#: Seconds for the peer's Close after ours, and for its EOF after that.
CLOSE_TIMEOUT_S = 2.0
LEAVE_TIMEOUT_S = 1.0
#: Messages of a plain handler that wait for the pool before reading stops.
_MAX_UNHANDLED = 64
#: From here on a message is sent by the thread that has it: the kernel
#: takes 250 us for a copy of 1 MiB, in which the loop can serve others.
_LARGE_BYTES = 64 * 1024
#: Control frames a second, over a window, before it is abuse (threats B5).
_MAX_CONTROL_RATE = 50
_CONTROL_WINDOW_S = 5.0


class State(enum.IntEnum):
    """Where in its life a socket is; see the module's table."""

    NEW = 0
    OPEN = 1
    CLOSING = 2
    LEAVING = 3
    CLOSED = 4


#: Looking an enum's member up costs 50 ns before Python 3.12.
_NEW, _OPEN, _, _LEAVING, _CLOSED = State


class WebSocket(Outlet, Ws4pyWebSocket):    # type: ignore[misc]
    """One connection.

    From any thread: ``send``, ``close``, ``ping``, ``is_closed`` and what
    only reads.  From the loop's thread: everything that begins with ``on_``
    and ``flush``.  Hooks (``opened``, ``received_message``, ``ponged``,
    ``closed``) run one at a time, in order, on the pool, and may block.

    Other threads touch ``out`` (see there) and read ``state``, which only
    goes on to what is more closed: a stale look costs a frame that nobody
    would have read.
    """

    endpoint: Endpoint
    out_max_bytes: int          # the endpoint's; for each message too
    handshake: Handshake
    hub: Hub                    # what all connections share; by attach()
    io: Any                     # hub.io, the IOLoop
    strand: Strand
    sock: Any                   # None once it is closed
    server_terminated: bool     # no more is sent
    client_terminated: bool
    stream: FrameStream

    #: bytes that came in one segment with the request; set by the tool
    early = b''

    def __init__(self, sock: Any, protocols: Any = None,
                 extensions: Any = None, environ: Any = None,
                 heartbeat_freq: Any = None) -> None:
        super().__init__(sock, protocols, extensions, environ)
        self.dialect = self.direct = None
        self.framer = frames
        self.state = State.NEW
        self.remote = ''
        self.id = ''
        self._is_secure = transport.is_tls(sock)
        # What direct may become.
        self._straight: Callable[[bytes], int] | None = (
            None if self._is_secure else sock.send)
        self.out = OutQueue(sock)
        self._reading = False
        self._read_due = False      # on_turn() will be called
        self.last_read = self._last_write = self._opened_at = 0.0
        self._pinged_at = 0.0
        self._partial_since = 0.0
        # The peer has said its last: what we do then, and when at the latest.
        self._last_step: Callable[[], object] | None = None
        self._last_step_at = 0.0
        self._early_close: tuple[int, bytes] | None = None
        self._deadline: float = 0.0     # of CLOSING and LEAVING
        self._ending: tuple[int, str] | None = None
        self._close_sent = 0            # the code we sent, or will
        self.messages_in = 0            # loop's thread writes
        self._controls = 0
        self._controls_since = 0.0
        #: the tick of the loop's timer wheel it stands in
        self.timer_tick: int | None = None
        self._user_key: bytes | None = None

    def attach(self, endpoint: Endpoint, handshake: Handshake, hub: Hub,
               strand: Strand, id: str) -> None:
        """Give it its surroundings, before the loop adopts it."""
        options = endpoint.options
        self.endpoint = endpoint
        self.out_max_bytes = options.out_max_bytes
        self.handshake = handshake
        self.hub = hub
        self.io = hub.io
        self.strand = strand
        self.id = id
        self.stream = FrameStream(
            max_message_bytes=options.max_message_bytes,
            max_fragments=options.max_fragments)
        agreed: Agreement | None = handshake.extensions
        if agreed is not None:
            self.stream.inflater = agreed.inflater()
            self.framer = agreed.framer
        remote = handshake.remote
        # Behind a proxy it is what a header said.
        self.remote = escape(f'{remote.ip}:{remote.port}') if remote else ''
        if remote:
            self._peer_address = (remote.ip, remote.port)
        # So that sockets which came together do not ping together.  At most
        # 10 % late, 4 % of them for the ticks in which the loop looks: a
        # dead peer is given up in 47.5 s (threats D2).
        self._ping_after_s = (hub.timing.ping_interval_s
                              * random.uniform(.9, 1.06))

    def renew(self, endpoint: Endpoint) -> None:
        """Go on by another endpoint of the same path, after a graceful.

        The loop's thread.  What ``attach`` has made of the old options
        stays: the limits of messages that come in, and of calls.
        """
        self.endpoint = endpoint
        self.out_max_bytes = endpoint.options.out_max_bytes

    # -- for applications: any thread ------------------------------------

    @property
    def is_closed(self) -> bool:
        """Whether it is closed or on the way there: nothing can be sent."""
        return self.state is not State.OPEN or self.server_terminated

    @property
    def user(self) -> Any:
        """What ``tools.wsrpc.user`` returned, or ``request.login``."""
        return self.handshake.user

    @property
    def user_key(self) -> bytes:
        """``users.key_of(user)``, as it was when it was first needed."""
        key = self._user_key
        if key is None:
            key = self._user_key = key_of(self.user)
        return key

    def __repr__(self) -> str:
        return (f'<{type(self).__name__} {self.id} {self.remote} '
                f'{self.state.name}>')

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
        if len(data) < _LARGE_BYTES or self.state is State.NEW:
            self.enqueue(self.framer.frame(opcode, data))
        elif self.state is State.OPEN:
            self.send_alone(*self.framer.frame_parts(opcode, data))

    def _check_connected(self) -> None:
        """AttributeError in the constructor, which comes before attach().

        (A ``__getattr__`` would word it for all, and slow every look at an
        attribute down: of an async call 0.7 us of 4.3.)
        """
        if 'io' not in self.__dict__:
            raise AttributeError(
                'a handler has no connection in __init__(): send(), close() '
                'and the like belong into opened(), not into __init__()')

    def _check_size(self, size: int) -> None:
        limit = self.out_max_bytes
        if size > limit:
            raise MessageTooBig(f'{size} bytes in one message; '
                                f'out_max_bytes is {limit}')

    def ping(self, message: Any = '') -> None:
        """Send a ping; ``ponged`` is called with the answer."""
        self._check_connected()
        self.enqueue(frames.ping_frame(
            message.encode() if isinstance(message, str) else message))

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

    # -- hooks: on the pool ----------------------------------------------

    def run_hook(self, name: str, *args: Any) -> None:
        """Run a hook of the application's, whatever it does."""
        try:
            getattr(self, name)(*args)
        except BaseException:  # the application's: SystemExit, too
            limited(log, f'hook.{name}', logging.ERROR,
                    '%s: %s() of %s raised', self.id, name,
                    type(self).__name__, exc_info=True)

    def unhandled_error(self, error: BaseException) -> None:
        """Told of a socket error; ws4py's hook.  Default: a debug line."""
        log.debug('%s: %s', self.id, error)

    # -- sending: any thread ---------------------------------------------

    def enqueue(self, frame: bytes) -> None:
        """Put whole frames into the out-queue and have the loop send.

        Before the loop has taken the socket over they wait there.
        """
        if self.state <= _OPEN and not self.server_terminated:
            out = self.out
            out.frames.append(frame)
            self.direct = None
            # Looked at after the append: on_adopted() looks at the frames
            # after it has changed the state.
            if not out.scheduled and self.state is not _NEW:
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

    # -- sending: the loop's thread --------------------------------------

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
        elif self.state is _LEAVING:
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

    def lose(self) -> None:
        """The socket says that the connection is gone."""
        self._finish(CloseCode.ABNORMAL, 'the connection was lost')

    def _check_behind(self) -> None:
        """Give a peer up that falls too far behind."""
        out, options = self.out, self.endpoint.options
        if self.state is State.OPEN and (
                out.behind_bytes > options.out_max_bytes
                or out.behind_messages > options.out_max_messages):
            self._shed(f'{out.behind_messages} messages, '
                       f'{out.behind_bytes} bytes behind')

    def _shed(self, why: str) -> None:
        """Give a slow reader up: 4408, and an end in a second."""
        limited(log, 'slow', logging.WARNING, '%s %s: slow reader, closed '
                '(4408): %s', self.id, self.remote, why)
        self.io.counters['slow_readers'] += 1
        self.out.drop_waiting()
        self._begin_close(CloseCode.SLOW_READER, frames.close_frame(
            CloseCode.SLOW_READER, 'slow reader'))
        self._deadline = self.io.now() + 1.0
        self.io.schedule(self, self._deadline)

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

    # -- reading: the loop's thread --------------------------------------

    def on_adopted(self) -> None:
        """The loop has it: read what came early, and from now on."""
        self._opened_at = self.last_read = self._last_write = self.io.now()
        self._enter(State.OPEN)
        if self.handshake.bound:
            self.hub.sessions.join(self)
        self.on_opened()
        self.io.schedule(self, self.last_read + self._ping_after_s)
        if self._early_close is not None:
            self._begin_close(*self._early_close)
        elif self.out.frames:
            self.flush()
        self._go_on_reading()
        early, self.early = self.early, b''
        if early and self.sock is not None:
            self._take(early)
        if self._is_secure and self.state is State.OPEN:
            self.on_readable()      # OpenSSL may hold what epoll cannot see

    def on_readable(self) -> None:
        """Read once, and handle every frame that is complete."""
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
            self._take(data)
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
            self._take(b'')
        else:
            self.on_readable()

    def _read_soon(self) -> None:
        if not self._read_due:
            self._read_due = True
            self.io.read_soon(self)

    def _take(self, data: bytes | memoryview) -> None:
        self.last_read = now = self.io.now()
        self.io.bytes_in += len(data)
        if self.state is _LEAVING:
            return
        stream = self.stream
        items = stream.feed(data)
        # What the messages make us send goes out below, in one piece.
        self.out.scheduled = True
        if items:
            self.on_items(items)
        if stream.unfinished:
            self._note_partial(now, items)
        else:
            self._partial_since = 0.0
        if stream.failure is not None and self.state < State.LEAVING:
            self.end_after_hooks(partial(
                self._fail, stream.failure.code, stream.failure.reason))
        # Cleared before the look: who appends after it flushes himself.
        self.out.scheduled = False
        if self.out.frames and self.state is not _CLOSED:
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

    def on_items(self, items: list[Any]) -> None:
        """Handle what one read brought; ``peer`` has its own."""
        for item in items:
            if type(item) is bytes:
                self.messages_in += 1
                self._hand_over(TextMessage(item))
            elif isinstance(item, BinaryMessage):
                self.messages_in += 1
                self._hand_over(item)
            else:
                self.on_control(item)

    def end_after_hooks(self, step: Callable[[], object]) -> None:
        """The peer has said its last, and ``step`` ends the connection.

        What came before is the handler's, which may still answer: it is
        taken after that, or in 2 s.  ``peer`` has its own.
        """
        if self.state is not State.OPEN or self.strand.is_idle:
            step()
            return
        self._stop_reading()
        self.client_terminated = True
        self._last_step = step
        self._last_step_at = self.io.now() + CLOSE_TIMEOUT_S
        self.io.schedule(self, self._last_step_at)
        self.strand.post(self.io.post, step)

    def _hand_over(self, message: Message) -> None:
        """Give a plain handler its message; stop reading if it lags."""
        if self.state is not State.OPEN:
            return
        message.completed = True
        self.strand.post(self._run_message, message)
        if len(self.strand) >= _MAX_UNHANDLED:
            self._stop_reading()
            # Had it caught up before the stop, nobody would go on.
            if len(self.strand) <= _MAX_UNHANDLED // 2:
                self._go_on_reading()

    def _run_message(self, message: Message) -> None:
        self.run_hook('received_message', message)
        if not self._reading and len(self.strand) <= _MAX_UNHANDLED // 2:
            self.io.post(self._go_on_reading)

    def on_control(self, item: Any) -> None:
        """Handle a ping, a pong or the peer's Close."""
        if isinstance(item, CloseControlMessage):
            self._on_close_frame(item)
            return
        if not self._admit_control():
            return
        if isinstance(item, PingControlMessage):
            if self.state is State.OPEN:
                self.out.put_pong(frames.pong_frame(item.data))
        elif isinstance(item, PongControlMessage) \
                and type(self).ponged is not Ws4pyWebSocket.ponged:
            self.strand.post(self.run_hook, 'ponged', item)

    def _admit_control(self) -> bool:
        """False, and 1008, past 50 control frames a second for 5 s."""
        now = self.last_read
        if now - self._controls_since > _CONTROL_WINDOW_S:
            self._controls_since = now
            self._controls = 0
        self._controls += 1
        if self._controls > _MAX_CONTROL_RATE * _CONTROL_WINDOW_S:
            if self.state is State.OPEN:
                self._fail(CloseCode.POLICY, 'too many control frames')
            return False
        return True

    def _go_on_reading(self) -> None:
        if (not self._reading and not self.out.refusing
                and self.sock is not None
                and (self.state is not State.OPEN or not self._last_step)
                and len(self.strand) < _MAX_UNHANDLED):
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

    # -- closing: the loop's thread --------------------------------------

    def _enter(self, state: State) -> None:
        assert state > self.state, (self.state, state)
        self.state = state
        if state >= State.CLOSING:
            self.server_terminated = True
            self.direct = self._straight = None
        if state >= State.LEAVING:
            self.client_terminated = True

    def _begin_close(self, code: int, frame: bytes) -> None:
        """Send our Close and wait for the peer's."""
        if self.state is State.NEW:
            self._early_close = code, frame
        if self.state is not State.OPEN:
            return
        self._enter(State.CLOSING)
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
        if self.state is State.OPEN:
            self._close_sent = code
            self._leave(code, reason, frames.close_frame(code))
        elif self.state is State.CLOSING:
            self._leave(code, reason, None)

    def _fail(self, code: int, reason: str) -> None:
        """The peer broke the protocol or a limit: Close, and leave."""
        if self.state >= State.LEAVING:
            return
        limited(log, 'protocol', logging.INFO, '%s %s: %s (%d)', self.id,
                self.remote, escape(reason), code)
        if self.state is State.OPEN:
            self._close_sent = code
            self._leave(code, reason, frames.close_frame(code, reason))
        else:
            self._leave(code, reason, None)

    def _leave(self, code: int, reason: str, frame: bytes | None) -> None:
        """Both ends have said their last: send it, and wait for EOF."""
        self._enter(State.LEAVING)
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

    def refuse(self, code: int, reason: str) -> None:
        """End one that the loop does not take any more: with a Close.

        Without ``opened``, so without ``closed``.  As good as can be done at
        once: its bytes may be lost if the peer has sent some.
        """
        assert self.state is State.NEW
        self.out.put_last(frames.close_frame(code, reason))
        self.out.send_all()
        self._finish(code, reason)

    def abort(self, code: int, reason: str) -> None:
        """End it here and now; for the loop, at deadlines and stop."""
        self._finish(code, reason, reset=True)

    def _finish(self, code: int, reason: str, reset: bool = False) -> None:
        """Close the socket; nothing happens on it any more."""
        if self.state is State.CLOSED:
            return
        if self.state is State.CLOSING and self._close_sent:
            # The peer never answered our Close: why we sent it says more.
            code, reason = self._close_sent, reason
        was_new = self.state is State.NEW
        self._enter(State.CLOSED)
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
        log.info('%s %s closed: %s %s (sent %s), %.1f s, %d messages in',
                 self.id, self.remote, code, escape(reason),
                 self._close_sent or '-', self.io.now() - self._opened_at,
                 self.messages_in)
        self.on_ended(code, reason)

    def count_closed(self) -> None:
        """Leave its figures to the statistics; the loop has closed it."""
        code = self._ending[0] if self._ending else CloseCode.ABNORMAL
        self.hub.statistics.count_closed(code, self.messages_in, self.out)

    def on_opened(self) -> None:
        """The loop has taken the connection; ``peer`` has its own."""
        log.info('%s %s opened: %s', self.id, self.remote,
                 self.endpoint.url_path)
        self.strand.post(self.run_hook, 'opened')

    def on_ended(self, code: int, reason: str) -> None:
        """The connection is over; ``peer`` has its own."""
        self.strand.post(self.run_hook, 'closed', code, reason)

    # -- time: the loop's thread -----------------------------------------

    def on_timer(self, now: float) -> float | None:
        """Do what is due; the next time to look, or None."""
        if self.state is State.CLOSED:
            return None
        if self.state is not State.OPEN:
            if now >= self._deadline:
                self._finish(CloseCode.ABNORMAL, 'no Close in time',
                             reset=self.state is State.CLOSING)
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
        return due if self.state is State.OPEN else None

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
                self.on_readable()
                if self.last_read < self._pinged_at:
                    self.abort(CloseCode.ABNORMAL, 'no answer to a ping')
            return due
        due = max(self.last_read, awake) + self._ping_after_s
        if now >= due:
            self._pinged_at = now
            self.out.frames.append(frames.ping_frame())
            self.flush()
            # Answered at once, it is to be pinged again before that.
            return now + min(self.hub.timing.ping_timeout_s,
                             self._ping_after_s)
        return due

    # -- what of ws4py must not run --------------------------------------

    def once(self) -> bool:
        """ws4py's way to read; the loop reads here."""
        raise NotImplementedError('cp_wsrpc reads in its own loop')

    run = terminate = once

    def _write(self, data: bytes) -> None:
        self.enqueue(bytes(data))

    def close_connection(self) -> None:
        """ws4py's way to end a connection at once."""
        self.io.post(self.abort, CloseCode.ABNORMAL, 'closed')


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
