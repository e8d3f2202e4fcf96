"""Calls of the client, and what else applications ask of it.  Layer 4.

The half of ``cp_wsrpc.connection`` that faces the application; ``peer``,
which builds upon it, faces the wire.
"""
from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from . import frames
from .conversation import Conversation, PendingReply, server_ids
from .current import cell
from .dialects import JSONRPC, Dialect
from .errors import MessageTooBig
from .frame_rules import check_close_code
from .invocation import report
from .messages import NO_ID, Call
from .states import CLOSED
from .websocket import WebSocket

__all__ = ['Caller']


class Caller(WebSocket):
    """One end of a dialogue, for those who call the other.

    Any thread may, unless a method says otherwise.
    """

    __slots__ = ('_close_lock', '_closed_with', '_noted_closes',
                 '_on_close', 'conversation', 'data', 'has_closed')

    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        #: for the application: what it wants to remember of this peer
        self.data: dict[Any, Any] = {}
        self.dialect: Dialect = JSONRPC
        self.conversation = Conversation()
        #: close() has been called here: no call is to begin any more
        self.has_closed = False
        # Each close() inside a call: (code, reason), by that call.  None
        # until the first, for it is looked at after every call.
        self._noted_closes: dict[Call, tuple[int, Any]] | None = None
        # Guards _on_close and _closed_with against a late on_close(), and
        # what is added to _noted_closes.
        self._close_lock = threading.Lock()
        self._on_close: list[Callable[[int, str], object]] = []
        self._closed_with: tuple[int, str] | None = None

    def call(self, name: str, /, *args: Any, timeout: float | None = 30.0,
             callback: Callable[[PendingReply], object] | None = None,
             **kwargs: Any) -> PendingReply:
        """Call a function of the client; the reply that is to come.

        ``args`` or ``kwargs``, not both: ``call('ask', 'Sure?')``,
        ``call('resize', width=3)``.  ``timeout``: seconds until it fails
        with CallTimeout; None: only with the connection.  ``callback``:
        called with the reply, settled, on the pool.

        Raises ConnectionLostError, Busy (1 024 calls wait for this
        client), MessageTooBig, and TypeError for what is not JSON.
        """
        reply = self.conversation.open_call(name, timeout)
        try:
            frame = self._frame_of_call(reply.id, name, args, kwargs)
        except BaseException:  # it was not sent: no JSON, too big
            self.conversation.abandon(reply)
            raise
        if callback is not None:
            run = callback
            reply.watch(lambda reply: self.strand.post(
                self.run_callback, name, run, reply))
        self.enqueue(frame)
        if reply.deadline is not None:
            self.io.post(self._note_deadline, reply.deadline)
        return reply

    def notify(self, name: str, /, *args: Any, **kwargs: Any) -> None:
        """Call a function of the client; whatever it answers, unheard.

        Raises MessageTooBig, and TypeError for what is not JSON.  On a
        closed connection it does nothing.
        """
        self.enqueue(self._frame_of_call(
            NO_ID if self.dialect.has_notifications else next(server_ids),
            name, args, kwargs))

    def close(self, code: int = 1000, reason: Any = '') -> None:
        """Begin to close; what was sent before still goes out.

        Inside a call of this connection: when that has been answered,
        whatever others are still under way; its first close() counts.  A
        call that has not begun by then is not run: nobody would hear of it.
        """
        mine = cell.get()
        call = mine.call if mine is not None else None
        if call is None or call.connection is not self \
                or not self._is_under_way(call):
            self._close_now(code, reason)
            return
        check_close_code(code)      # raise here, not when it is sent
        frames.close_frame(code, reason)
        with self._close_lock:
            if self._noted_closes is None:
                self._noted_closes = {}
            self._noted_closes.setdefault(call, (code, reason))
        # It may have been answered since, where a thread that it has
        # started closes for it.
        if not self._is_under_way(call):
            self._close_now(code, reason)

    def _close_now(self, code: int, reason: Any) -> None:
        super().close(code, reason)
        self.has_closed = True

    def _is_under_way(self, call: Call) -> bool:
        """Whether a call is still to be answered.  Any thread."""
        return self.io.cell.call is call or self.conversation.running.get(
            call if call.id is NO_ID else call.id) is call

    def _close_as_noted(self, answered: Call) -> None:
        """Begin the Close that a call has asked for, if its reply is out.

        Its own, or with the last one of its batch.
        """
        assert self._noted_closes is not None
        # In one step of the interpreter: another thread may add.
        for asker, ending in tuple(self._noted_closes.items()):
            if asker is answered or (asker.batch is not None
                                     and not self._is_under_way(asker)):
                self._close_now(*ending)
                return

    def on_close(self, function: Callable[[int, str], object]) -> None:
        """Have ``function(code, reason)`` called when it is closed.

        On the pool, in the order of registration; at once if it is closed
        already.
        """
        with self._close_lock:
            if self._closed_with is None:
                self._on_close.append(function)
                return
            ending = self._closed_with
        self.strand.post(self.run_callback, 'on_close', function, *ending)

    def _frame_of_call(self, id: Any, name: str, args: tuple[Any, ...],
                       kwargs: dict[str, Any]) -> bytes:
        text = self.dialect.encode_call(id, name, args, kwargs)
        limit = self.out_max_bytes
        if len(text) > limit:
            raise MessageTooBig(f'{len(text)} bytes in a call of {name}(); '
                                f'out_max_bytes is {limit}')
        return self.framer.text_frame(text)

    def run_callback(self, what: str, function: Callable[..., object],
                     *args: Any) -> None:
        """Call a function of the application's; log what it raises."""
        try:
            function(*args)
        except BaseException as error:  # the application's: SystemExit, too
            report(self, what, error)
            error.__traceback__ = None      # as ``fail`` does

    # -- the loop's thread -------------------------------------------------

    def tell_closed(self, code: int, reason: str) -> None:
        """Have all that asked for it hear that the connection is closed."""
        with self._close_lock:
            self._closed_with = (code, reason)
            on_close, self._on_close = self._on_close, []
        for function in on_close:
            self.strand.post(self.run_callback, 'on_close', function,
                             code, reason)

    def on_timer(self, now: float) -> float | None:
        due = super().on_timer(now)
        nearest = self.conversation.expire(now)
        if due is None or nearest is None:
            return due if nearest is None else nearest
        return min(due, nearest)

    def _note_deadline(self, deadline: float) -> None:
        if self.state is not CLOSED:
            self.io.schedule(self, deadline)
