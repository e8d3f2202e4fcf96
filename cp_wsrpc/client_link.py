"""Keeps one connection up: attempts, liveness, back-off.  Layer 4.

One thread of its own, ``wsrpc-client-loop``, runs an asyncio loop that
waits for the socket and for timers.  What blocks - resolving a name,
connecting, the handshake - runs in ``wsrpc-client-dial``, one thread an
attempt, so that a close and the deadlines of calls never wait for it.

==========  ====================================  =====================
state       what happens                          next state
==========  ====================================  =====================
CONNECTING  the handshake is done                 OPEN
CONNECTING  refused, or no network                WAITING, CLOSED
OPEN        the connection ends                   WAITING, CLOSED
WAITING     the delay is over, or ``hurry()``     CONNECTING
any         ``stop()``                            CLOSED
==========  ====================================  =====================

CLOSED is for good: a client that connects again makes a new link.  Which
of WAITING and CLOSED it is, and the delay, says ``backoff``.
"""
from __future__ import annotations

import asyncio
import enum
import logging
import random
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from ws4py.messaging import (BinaryMessage, CloseControlMessage,
                             PingControlMessage)

from . import frames
from .backoff import Backoff
from .client_socket import ClientSocket
from .conversation import blocking
from .errors import CloseCode, ConnectionLostError, WrongThread
from .logs import escape

__all__ = ['Link', 'LinkOwner', 'LinkState']

log = logging.getLogger('cp_wsrpc.client')

#: Seconds for the peer's Close and EOF after our Close.
LEAVE_TIMEOUT_S = 2.0
#: A timer that comes this late means that the process was stopped.
SLEPT_S = 5.0


class LinkState(enum.Enum):
    """Where in its life a link is; see the module's table."""

    CONNECTING = 'connecting'
    OPEN = 'open'
    WAITING = 'waiting'
    CLOSED = 'closed'


_MOVES = {
    LinkState.CONNECTING: {LinkState.OPEN, LinkState.WAITING,
                           LinkState.CLOSED},
    LinkState.OPEN: {LinkState.WAITING, LinkState.CLOSED},
    LinkState.WAITING: {LinkState.CONNECTING, LinkState.CLOSED},
    LinkState.CLOSED: set(),
}


class LinkOwner(Protocol):
    """Who is told what; all on the loop's thread, none may block."""

    def on_open(self, ws: ClientSocket) -> None: ...
    def on_text(self, ws: ClientSocket, text: bytes) -> None: ...
    def on_paused(self, ws: ClientSocket) -> None:
        """The socket takes no more for now."""
    def on_resumed(self, ws: ClientSocket) -> None: ...
    def on_lost(self, code: int, reason: str) -> None:
        """An open connection has ended."""
    def on_failed(self, error: ConnectionLostError) -> None:
        """An attempt came to nothing."""
    def on_end(self, error: ConnectionLostError | None) -> None:
        """CLOSED now; None: because of ``stop``."""


class Link:
    """See the module.

    From any thread: ``start`` (once), ``hurry``, ``stop``, ``post``,
    ``wait_closed``, ``join``, and reading.  The rest runs on the loop's
    thread, which alone changes anything but ``is_stopping``.  ``changed``
    is notified of each new ``state`` and of each failed attempt, and
    guards nothing else.
    """

    def __init__(self, owner: LinkOwner,
                 make_socket: Callable[[], ClientSocket], backoff: Backoff,
                 ping_interval_s: float, ping_timeout_s: float) -> None:
        self._owner = owner
        self._make_socket = make_socket
        self._backoff = backoff
        self._ping_interval_s = ping_interval_s
        self._ping_timeout_s = ping_timeout_s
        self.state = LinkState.WAITING
        self.is_stopping = False        # ``stop`` was called
        self.changed = threading.Condition()
        self.failures = 0               # failed attempts
        #: the last failed attempt's error; in CLOSED the one that ended it
        self.error: ConnectionLostError | None = None
        self.ws: ClientSocket | None = None         # while OPEN
        self._dialling: ClientSocket | None = None
        self._dialler: threading.Thread | None = None
        self._leaving: dict[ClientSocket, asyncio.TimerHandle] = {}
        self._retry_timer: asyncio.TimerHandle | None = None
        self._ping_timer: asyncio.TimerHandle | None = None
        self._opened_at = self._heard_at = 0.0
        # Not new_event_loop(): on Windows that one has no add_reader.
        self._loop = asyncio.SelectorEventLoop()
        self._thread = threading.Thread(
            target=self._run, name='wsrpc-client-loop', daemon=True)

    # -- any thread --------------------------------------------------------

    def start(self) -> None:
        """Begin the first attempt."""
        self.post(self._attempt)
        self._thread.start()

    def hurry(self) -> None:
        """If it waits for the next attempt, make it now."""
        self.post(self._hurry)

    def stop(self, code: int = 1000, reason: str = '') -> None:
        """Close for good; returns at once, see ``join``."""
        self.is_stopping = True
        self.post(self._stop, code, reason)

    def post(self, function: Callable[..., object], *args: Any) -> bool:
        """Run it soon on the loop's thread; False once that has ended."""
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:
            return False
        return True

    def wait_closed(self, timeout_s: float | None) -> bool:
        """Wait for CLOSED; soon after ``stop``, before the threads end."""
        with self.changed:
            return self.changed.wait_for(
                lambda: self.state is LinkState.CLOSED, timeout_s)

    def join(self, timeout_s: float) -> bool:
        """Wait for the threads to end; whether they have."""
        self._thread.join(timeout_s)
        if self._dialler is not None:
            # In getaddrinfo() nothing can wake it: a daemon.
            self._dialler.join(0.5)
        return not self._thread.is_alive()

    # -- the loop's thread -------------------------------------------------

    def now(self) -> float:
        """Seconds on the clock of ``call_later`` (``time.monotonic``)."""
        return self._loop.time()

    def call_later(self, delay_s: float, function: Callable[..., object],
                   *args: Any) -> asyncio.TimerHandle:
        """Run it on this thread after a while."""
        return self._loop.call_later(delay_s, function, *args)

    def lose(self, ws: ClientSocket, code: int, reason: str,
             wire_code: int) -> None:
        """End a connection that turned out bad.

        ``code`` decides what follows, ``wire_code`` is what the server is
        told.  Nothing if ``ws`` is not the current one any more.
        """
        if ws is self.ws:
            ws.close(wire_code, reason)
            self._leave(ws)
            self._lost(code, reason)

    def _run(self) -> None:
        blocking.guard = _refuse_to_wait
        try:
            self._loop.run_forever()
        finally:
            for ws in (self.ws, self._dialling, *self._leaving):
                if ws is not None:
                    ws.close_connection()
            self._loop.close()

    def _enter(self, state: LinkState) -> None:
        assert state in _MOVES[self.state], f'{self.state} -> {state}'
        log.debug('%s -> %s', self.state.value, state.value)
        with self.changed:
            self.state = state
            self.changed.notify_all()

    # Attempts

    def _hurry(self) -> None:
        if self.state is LinkState.WAITING:
            self._backoff.reset()
            self._attempt()

    def _attempt(self) -> None:
        if self.state is not LinkState.WAITING:
            return
        if self._retry_timer is not None:
            self._retry_timer.cancel()
        self._enter(LinkState.CONNECTING)
        try:
            ws = self._dialling = self._make_socket()
        except Exception as error:
            # What a context or header of the user raises.
            self._failed(ConnectionLostError(
                f'no connection: {error}', maybe_executed=False))
            return
        self._dialler = threading.Thread(
            target=self._dial, args=(ws,), name='wsrpc-client-dial',
            daemon=True)
        self._dialler.start()

    def _dial(self, ws: ClientSocket) -> None:
        error: Exception | None = None
        try:
            ws.connect()
        except Exception as caught:     # also what a user's context raises
            error = caught
        if not self.post(self._dialled, ws, error):
            ws.close_connection()

    def _dialled(self, ws: ClientSocket, error: Exception | None) -> None:
        if ws is not self._dialling:        # stop() came first
            ws.close_connection()
            return
        self._dialling = None
        if error is None:
            self._opened(ws)
            return
        self._failed(
            error if isinstance(error, ConnectionLostError) else
            ConnectionLostError(f'no connection to {ws.url}: {error}',
                                maybe_executed=False))

    def _failed(self, failure: ConnectionLostError) -> None:
        delay_s = self._backoff.after_failure(
            getattr(failure, 'status', None))
        self.failures += 1
        self.error = failure
        if delay_s is not None:
            log.info('%s; trying again in %.1f s', failure, delay_s)
            self._wait(delay_s)
        self._owner.on_failed(failure)
        if delay_s is None:
            self._end(failure)

    def _wait(self, delay_s: float) -> None:
        self._enter(LinkState.WAITING)
        self._retry_timer = self.call_later(delay_s, self._attempt)

    # An open connection

    def _opened(self, ws: ClientSocket) -> None:
        self.ws = ws
        self.error = None
        self._opened_at = self._heard_at = self.now()
        ws.on_refused = lambda: self.post(self._on_refused, ws)
        self._enter(LinkState.OPEN)
        log.info('connected to %s', ws.url)
        self._loop.add_reader(ws.sock, self._on_readable, ws)
        self._owner.on_open(ws)
        self._watch_liveness()
        self._on_readable(ws)           # what came with the 101

    def _on_readable(self, ws: ClientSocket) -> None:
        if ws is not self.ws:
            return
        items, ended, more = ws.receive()
        self._heard_at = self._loop.time()
        on_text = self._owner.on_text
        for item in items:
            if type(item) is bytes:
                try:
                    on_text(ws, item)
                except Exception:
                    # A fault of ours; the next message may be fine, but
                    # an answer may have been in this one.
                    log.exception('a message could not be taken')
                    self.lose(ws, CloseCode.INTERNAL, 'a fault of the '
                              'client', CloseCode.INTERNAL)
            else:
                self._on_control(ws, item)
            if ws is not self.ws:
                return
        failure = ws.stream.failure
        if failure is not None:
            self.lose(ws, failure.code, failure.reason, failure.code)
        elif ended:
            self._drop(ws)
            self._lost(CloseCode.ABNORMAL, 'the connection broke')
        elif more:
            self._loop.call_soon(self._on_readable, ws)

    def _on_control(self, ws: ClientSocket, item: Any) -> None:
        if isinstance(item, PingControlMessage):
            ws.send_frame(frames.pong_frame(item.data, mask=True))
        elif isinstance(item, CloseControlMessage):
            ws.close(item.code, item.reason)
            self._leave(ws)
            self._lost(item.code, item.reason.decode('utf-8', 'replace'))
        elif isinstance(item, BinaryMessage):
            self.lose(ws, CloseCode.UNSUPPORTED, 'a binary message',
                      CloseCode.UNSUPPORTED)

    def _on_refused(self, ws: ClientSocket) -> None:
        if ws.sock is None or not ws.is_refusing:
            return
        self._loop.add_writer(ws.sock, self._on_writable, ws)
        if ws is self.ws:
            self._owner.on_paused(ws)

    def _on_writable(self, ws: ClientSocket) -> None:
        if not ws.on_writable():
            return
        self._loop.remove_writer(ws.sock)
        if ws is self.ws:
            self._owner.on_resumed(ws)

    # Liveness: silence is measured in bytes, and asked about before the
    # server is given up.

    def _watch_liveness(self) -> None:
        interval_s = self._ping_interval_s * random.uniform(0.9, 1.1)
        rest_s = self._heard_at + interval_s - self.now()
        if rest_s > 0:
            self._ping_timer = self.call_later(rest_s, self._watch_liveness)
        else:
            self._probe()

    def _probe(self) -> None:
        assert self.ws is not None
        self.ws.send_frame(frames.ping_frame(mask=True))
        self._ping_timer = self.call_later(
            self._ping_timeout_s, self._judge, self.now())

    def _judge(self, asked_at: float) -> None:
        ws = self.ws
        assert ws is not None
        late_s = self.now() - asked_at - self._ping_timeout_s
        if self._heard_at >= asked_at:
            self._watch_liveness()
        elif late_s > SLEPT_S:
            self._probe()       # we slept, and the answer stands behind it
        else:
            self._drop(ws)
            self._lost(CloseCode.ABNORMAL, 'the server does not answer')

    # Ends

    def _lost(self, code: int, reason: str) -> None:
        held_s = self.now() - self._opened_at
        self._forget_connection()
        delay_s = self._backoff.after_close(code, held_s)
        text = f'the connection was closed ({int(code)}' \
               f'{": " + escape(reason) if reason else ""})'
        log.info('%s%s', text, '' if delay_s is None
                 else f'; trying again in {delay_s:.1f} s')
        if delay_s is not None:
            self._wait(delay_s)
        self._owner.on_lost(code, reason)
        if delay_s is None:
            self._end(ConnectionLostError(text, maybe_executed=False))

    def _forget_connection(self) -> None:
        self.ws = None
        if self._ping_timer is not None:
            self._ping_timer.cancel()

    def _stop(self, code: int, reason: str) -> None:
        if self.state is LinkState.CLOSED:
            return
        for timer in (self._retry_timer, self._ping_timer):
            if timer is not None:
                timer.cancel()
        dialling, self._dialling = self._dialling, None
        if dialling is not None:
            dialling.abort()
        ws = self.ws
        if ws is not None:
            ws.close(code, reason)
            self._leave(ws)
            self._forget_connection()
            self._owner.on_lost(code, reason)
        self._end(None)

    def _end(self, error: ConnectionLostError | None) -> None:
        self.error = error
        self._owner.on_end(error)       # first: who waits finds all ended
        self._enter(LinkState.CLOSED)
        self._maybe_finish()

    def _leave(self, ws: ClientSocket) -> None:
        """Our Close is sent: wait for the peer's, and for its EOF."""
        self._loop.remove_reader(ws.sock)
        self._loop.add_reader(ws.sock, self._on_leaving, ws)
        self._leaving[ws] = self.call_later(LEAVE_TIMEOUT_S, self._left, ws)

    def _on_leaving(self, ws: ClientSocket) -> None:
        _, ended, _ = ws.receive()
        if ended or ws.stream.failure is not None:
            self._left(ws)

    def _left(self, ws: ClientSocket) -> None:
        self._leaving.pop(ws).cancel()
        self._drop(ws)
        self._maybe_finish()

    def _drop(self, ws: ClientSocket) -> None:
        self._loop.remove_reader(ws.sock)
        self._loop.remove_writer(ws.sock)
        ws.close_connection()

    def _maybe_finish(self) -> None:
        if self.state is LinkState.CLOSED and not self._leaving:
            self._loop.stop()


def _refuse_to_wait() -> AbstractContextManager[Any]:
    raise WrongThread("the client's own thread waits for nothing: the "
                      'reply that it would wait for comes through it')
