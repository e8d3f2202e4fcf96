"""The client's calls on their way out, and what becomes of them.  Layer 4.

``client_calls`` knows which calls there are; this gives them to the
connection that ``client_link`` has, or keeps them for the next::

    call()  ->  open connection   ->  sent by the caller's own thread
            ->  on_connect runs   ->  sent if that made it, else queued
            ->  none, or it takes no more  ->  queued

and looks after deadlines and retries.
"""
from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .client_calls import ClientCalls
from .client_handshake import HandshakeError
from .client_link import Link
from .client_socket import ClientSocket
from .conversation import PendingReply
from .dialects import JSONRPC
from .errors import ConnectionLostError, GoingAway
from .idempotency import with_key
from .logs import escape, limited
from .messages import NO_ID, Failure, Result

__all__ = ['Outbox', 'closed_error']

log = logging.getLogger('cp_wsrpc.client')

WARN_UNCONNECTED_S = 5.0


class Outbox:
    """From the first call before ``connect`` to the last after ``close``.

    ``call`` and ``notify``: any thread; ``greeting``: the thread that runs
    ``on_connect``; ``begin``, ``end`` the first or last of a link; the rest
    the loop's thread.

    ``_lock`` guards ``_open``, ``_greeting``, ``_unclocked``, ``_warning``
    and that no call overtakes those that have waited.  ``_open`` is read
    without it: whoever still sees a connection that has just ended sends
    into nothing, and his call, opened before that look, fails with the
    others (``lost`` clears ``_open`` before it looks at them).
    """

    def __init__(self) -> None:
        self._ids = itertools.count(1, 2)
        self._calls = ClientCalls(self._ids)
        self._link: Link | None = None
        self._lock = threading.Lock()
        self._open: ClientSocket | None = None
        self._greeting: tuple[int, ClientSocket] | None = None
        self._unclocked: dict[PendingReply, float] = {}
        self._warning: threading.Timer | None = None
        self._draining = False
        self._ready = False             # on_connect has run
        self._expiry_at = float('inf')
        self._expiry_timer: asyncio.TimerHandle | None = None

    # -- any thread --------------------------------------------------------

    def call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any],
             timeout: float | None, key: str | None = None) -> PendingReply:
        """Open a call and send or queue it.  Raises as ``Client.call``."""
        calls, link = self._calls, self._link
        reply = calls.open_call(name, None if link is None else timeout)
        try:
            reply.text = JSONRPC.encode_call(reply.id, name, args, kwargs)
            if key is not None:
                reply.text = with_key(reply.text, key)
                calls.mark_keyed(reply)
            if link is None:
                self._note_unconnected(reply, timeout)
            if key is None:
                self._send(reply, reply.text)
            else:
                self._send_keyed(reply)
        except BaseException:  # whatever stopped it, it was not sent
            calls.abandon(reply)
            raise
        deadline = reply.deadline
        if deadline is not None and deadline < self._expiry_at \
                and link is not None:
            # Not in _arm alone: a burst of calls would post as many.
            self._expiry_at = deadline
            link.post(self._arm, deadline)
        return reply

    def notify(self, name: str, args: tuple[Any, ...],
               kwargs: dict[str, Any]) -> None:
        """Send or queue a notification."""
        text = JSONRPC.encode_call(NO_ID, name, args, kwargs)
        self._calls.check_open()
        self._send(text, text)

    def _send(self, item: PendingReply | bytes, text: bytes) -> None:
        ws = self._open
        if ws is None or ws.is_refusing:
            with self._lock:
                ws = self._connection_or_queue(item)
        if ws is not None:
            ws.send_text(text)

    def _send_keyed(self, reply: PendingReply) -> None:
        """Send or queue a call that survives its connection.

        Always under the lock: it must not be sent by this thread, lost by
        the loop's and queued by both.
        """
        with self._lock:
            ws = self._connection_or_queue(reply)
            if ws is not None:
                self._calls.note_sent(reply)
        if ws is not None:
            ws.send_text(reply.text)

    def _connection_or_queue(self, item: PendingReply | bytes,
                             ) -> ClientSocket | None:
        assert self._lock.locked()
        ws = self._open
        if self._greeting is not None \
                and self._greeting[0] == threading.get_ident():
            ws = self._greeting[1]
        elif ws is not None and ws.is_refusing:
            # The loop has not come to ``pause`` yet, and a thread that
            # calls on and on may keep it from it.  It stops refusing before
            # ``resume`` takes the lock: what is queued here goes out then.
            ws = None
        if ws is None:
            self._calls.enqueue(item)
        return ws

    def _note_unconnected(self, reply: PendingReply,
                          timeout: float | None) -> None:
        """The clock runs from connect(); tell who forgot to call that."""
        with self._lock:
            if self._link is not None:      # just now
                if timeout:
                    self._calls.start_clocks({reply: timeout},
                                             self._link.now())
                return
            if timeout:
                self._unclocked[reply] = timeout
            if self._warning is None:
                self._warning = threading.Timer(
                    WARN_UNCONNECTED_S, log.warning,
                    ('%s waits for connect(), which was not called',
                     reply.name))
                self._warning.daemon = True
                self._warning.name = 'wsrpc-client-unconnected'
                self._warning.start()

    # -- a link's life -----------------------------------------------------

    def begin(self, link: Link, again: bool) -> None:
        """connect() was called; ``again``: after an ``end``."""
        with self._lock:
            self._link = link
            self._stop_warning()
            if again:
                self._calls = ClientCalls(self._ids)
            unclocked, self._unclocked = self._unclocked, {}
            self._calls.start_clocks(unclocked, link.now())
            # What is made before the loop runs is seen by its first look.
            self._expiry_at = 0.0
        link.post(self._expire)

    def end(self, error: ConnectionLostError | None) -> None:
        """Nothing is sent any more; None: because of ``close``."""
        with self._lock:
            self._stop_warning()
        error = error or closed_error()
        self._calls.reject_queued(functools.partial(_error_for, error),
                                  is_final=True)
        self._calls.close(ConnectionLostError(str(error),
                                              maybe_executed=False))

    def _stop_warning(self) -> None:
        if self._warning is not None:
            self._warning.cancel()

    # -- connections -------------------------------------------------------

    def opened(self) -> None:
        """There is a connection; ``greeted`` opens it to all."""
        self._draining = self._ready = False

    @contextmanager
    def greeting(self, ws: ClientSocket) -> Iterator[None]:
        """Calls of this thread go out before those that have waited."""
        mine = threading.get_ident(), ws
        with self._lock:
            # Else it has been lost, and ``lost`` has been here already.
            if self._link is not None and self._link.ws is ws:
                self._greeting = mine
        try:
            yield
        finally:
            with self._lock:
                # Else it is that of the next connection.
                if self._greeting is mine:
                    self._greeting = None

    def greeted(self, ws: ClientSocket) -> None:
        """on_connect has run: send what has waited, then all that comes."""
        self._ready = True
        self.resume(ws)

    def resume(self, ws: ClientSocket) -> None:
        """The same after a pause."""
        if self._draining or not self._ready:
            return
        with self._lock:
            # This send does not block.
            ws.send_texts(self._calls.take_queue())
            self._open = ws

    def pause(self) -> None:
        """Queue all that comes: the socket takes no more for now."""
        with self._lock:
            self._open = None

    def lost(self, why: str) -> None:
        """The connection has gone, and with it what was sent."""
        with self._lock:
            self._open = self._greeting = None
        self._calls.lose_sent(why)

    def failed(self, error: ConnectionLostError) -> None:
        """An attempt came to nothing, and with it what waited for it."""
        self._calls.reject_queued(functools.partial(_error_for, error))

    def request(self, ws: ClientSocket, name: str, args: tuple[Any, ...],
                kwargs: dict[str, Any]) -> PendingReply:
        """A call of the client's own: it lives and dies with ``ws``."""
        reply = self._calls.open_call(name)
        reply.text = JSONRPC.encode_call(reply.id, name, args, kwargs)
        ws.send_text(reply.text)
        assert reply.deadline is not None
        self._arm(reply.deadline)
        return reply

    # -- answers -----------------------------------------------------------

    def settle(self, message: Result | Failure) -> None:
        """Give an answer to whom it belongs, or send the call again."""
        if type(message) is Failure:
            error, link = message.error, self._link
            assert link is not None
            again = self._calls.retry_delay(message.id, error, link.now(),
                                            random.random())
            if again is not None:
                self._rest(error.code, *again)
                return
            if message.id is None:
                limited(log, 'not read', logging.WARNING,
                        'the server could not read a message: %s',
                        escape(error))
        self._calls.settle(message)

    def _rest(self, code: int | None, reply: PendingReply,
              delay_s: float) -> None:
        assert self._link is not None
        if code == GoingAway.code:
            # New calls would only spend their tries on this connection:
            # they wait for the next one.
            self._draining = True
            self.pause()
        self._link.call_later(delay_s, self._send_again, self._calls, reply)

    def _send_again(self, calls: ClientCalls, reply: PendingReply) -> None:
        if not calls.wake(reply):
            return
        if calls.is_keyed(reply):
            self._send_keyed(reply)
        else:
            self._send(reply, reply.text)

    # -- deadlines ---------------------------------------------------------

    def _arm(self, deadline: float) -> None:
        """Look for late calls at ``deadline``, or before it."""
        assert self._link is not None
        timer = self._expiry_timer
        if timer is not None:
            if timer.when() <= deadline:
                return
            timer.cancel()
        self._expiry_at = deadline
        self._expiry_timer = self._link.call_later(
            deadline - self._link.now(), self._expire)

    def _expire(self) -> None:
        assert self._link is not None
        self._expiry_timer = None
        # First: a call made from now on arms a timer by itself; one made
        # before this is seen by the look.
        self._expiry_at = float('inf')
        nearest = self._calls.expire(self._link.now())
        if nearest is not None:
            self._arm(nearest)


def closed_error() -> ConnectionLostError:
    """What a call gets after ``close``."""
    return ConnectionLostError('the client is closed; connect() begins anew',
                               maybe_executed=False)


def _error_for(error: ConnectionLostError, name: str) -> ConnectionLostError:
    """An error of its own for each call, since each is raised."""
    text = f'{name}: not sent: {error}'
    if isinstance(error, HandshakeError):
        return HandshakeError(text, error.status, error.headers, error.body)
    return ConnectionLostError(text, maybe_executed=False)
