"""RPC on one socket.  Layer 4.

``websocket`` + ``conversation`` + ``registry`` + ``workers``.  The way of a
call through it, top to bottom::

    on_items        frames' texts -> messages -> methods    loop's thread
    (admission)     an answer at once, or to the pool, the
                    loop, or a task
    (invocation)    the method -> the reply's text          the method's
    complete        the text -> the out-queue               the method's
    (websocket)     flush: one send for all that is ready   loop's thread

and of a call of the client: ``call`` -> out-queue; its answer comes in by
``on_items`` and settles the ``PendingReply``.
"""
from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from ws4py.messaging import BinaryMessage

from . import frames
from .admission import Admission, refuse
from .batch import BatchReply
from .conversation import Conversation, PendingReply, server_ids
from .current import cell
from .decoding import NO_CALL, NO_NAME, decode, decode_call
from .dialects import DIALECTS, JSONRPC, Dialect
from .errors import CloseCode, ConnectionLostError, GoingAway, MessageTooBig
from .frame_rules import check_close_code
from .invocation import ALWAYS_FITS, answer, fail, report, run_on_worker
from .logs import escape, limited
from .messages import NO_ID, Bad, Batch, Call, Failure, Result
from .seats import Seats, end_turn
from .states import CLOSED
from .websocket import WebSocket
from .workers import Lane

__all__ = ['Peer']

log = logging.getLogger('cp_wsrpc.peer')


class Peer(WebSocket):
    """The other end of one RPC connection: ``cp_wsrpc.connection``.

    It may be kept and used from any thread: ``call``, ``notify``,
    ``close``, ``on_close``, ``is_closed``, ``id``, ``remote``, ``user``,
    ``data``.  The rest belongs to the package.
    """

    __slots__ = ('_close_lock', '_closed_with', '_kit', '_methods',
                 '_noted_close', '_on_close', '_takes_direct', 'admission',
                 'around', 'conversation', 'data', 'has_closed', 'heard',
                 'lane', 'max_in_flight', 'seats', 'topics')

    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        #: for the application: what it wants to remember of this peer
        self.data: dict[Any, Any] = {}
        self.dialect: Dialect = JSONRPC
        self.conversation = Conversation()
        self.topics: set[str] = set()       # loop's thread
        self.heard: set[str] = set()        # loop's thread
        self.admission = Admission()
        self.seats = Seats()
        #: close() has been called here: no call is to begin any more
        self.has_closed = False
        # A close() inside a call: (that call, code, reason); any thread.
        self._noted_close: tuple[Call, int, Any] | None = None
        # Guards _on_close and _closing_code against a late on_close().
        self._close_lock = threading.Lock()
        self._on_close: list[Callable[[int, str], object]] = []
        self._closed_with: tuple[int, str] | None = None

    def attach(self, endpoint: Any, handshake: Any, hub: Any, strand: Any,
               id: str) -> None:
        super().attach(endpoint, handshake, hub, strand, id)
        options = endpoint.options
        self.lane = Lane(hub.pool, options.max_calls_per_connection,
                         options.max_waiting_per_connection)
        self.around = options.around
        self._methods = endpoint.registry
        self._takes_direct = not handshake.bound and options.opened is None
        self.max_in_flight = (options.max_calls_per_connection
                               + options.max_waiting_per_connection)
        self.dialect = DIALECTS.get(handshake.subprotocol or '',
                                    DIALECTS[options.dialect])
        self._pack()

    def renew(self, endpoint: Any) -> None:
        super().renew(endpoint)
        self.around = endpoint.options.around
        self._methods = endpoint.registry
        self._pack()

    def _pack(self) -> None:
        """Lay out what ``on_items`` needs for each call."""
        io, options = self.io, self.endpoint.options
        self._kit = (
            io, self._methods, self.conversation.running,
            self.max_in_flight,
            options.max_depth if self.dialect is JSONRPC else -1,
            self.lane, io.cell, io.stretch, self.out.frames.append,
            self.framer.text_frame, io.submissions.append)

    # -- for applications: any thread --------------------------------------

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

        Inside a call of this connection: when that has been answered.  A
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
        if self._noted_close is None:
            self._noted_close = call, code, reason
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
        assert self._noted_close is not None
        asker, code, reason = self._noted_close
        if asker is answered or (asker.batch is not None
                                 and not self._is_under_way(asker)):
            self._close_now(code, reason)

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

    # -- inwards: the loop's thread ----------------------------------------

    def on_items(self, items: list[Any]) -> None:
        """Handle what one read brought.

        Calls of the two commonest kinds of method begin right here, as
        ``admission`` would have them: nonblocking ones of which nothing need
        be asked first (``Method.is_direct``), which are run without ever
        being "in flight", and those of the pool that belong to no Route.
        What all calls have in common stands in ``_kit``: of a nonblocking
        call that is alone in its read 0.3 us of 4.  A text of no more
        bytes than may nest is decoded right into the call, which spares
        one of many in a read 0.12 us of 1.7.
        """
        (io, methods, running, max_running, small_bytes, lane, mine,
         stretch, put, text_frame, submit) = self._kit
        submits = False
        takes_calls = self.admission.held is None and not self.hub.draining
        takes_direct = takes_calls and self._takes_direct
        self.messages_in += len(items)
        for item in items:
            if type(item) is not bytes:
                self.messages_in -= 1
                self._on_frame(item)
                continue
            if self.server_terminated:
                continue            # no answer to it could be sent
            try:
                call = (decode_call(item) if len(item) <= small_bytes
                        else self._decode(item))
            except NO_CALL:
                call = self._decode(item)
            if call is None:
                continue
            call.connection = self
            method = call.method = methods.get(call.name)
            id = call.id
            if method is None or call.meta is not None or id in running:
                if call.name is NO_NAME:      # it is no call
                    call = self._decode(item)
                    if call is None:
                        continue
                    call.connection = self
                    call.method = methods.get(call.name)
                self.admission.begin(call)
            elif method.is_direct and takes_direct:
                if method is not stretch.method:
                    stretch.begin(call)
                    io.doing = call.name
                stretch.calls += 1
                mine.call = call
                try:
                    call.args, call.kwargs = method.bind(call.params)
                    value = (method.function(*call.args, **call.kwargs)
                             if call.kwargs else method.function(*call.args))
                    text = (call.dialect.encode_result(id, value)
                            if type(value) in ALWAYS_FITS
                            else answer(call, value))
                except BaseException as error:  # the application's
                    text = fail(call, error)
                mine.call = None
                if text is None:        # it waits for a reply of the client
                    running[call if id is NO_ID else id] = call
                elif id is not NO_ID:
                    put(text_frame(text))   # flushed at the read's end
                if self._noted_close is not None:
                    self._close_as_noted(call)
            elif (method.is_plain and takes_calls and id is not NO_ID
                    and len(running) < max_running):
                running[id] = call
                call.arrived = now = self.last_read
                if method.timeout_s:
                    call.deadline = now + method.timeout_s
                submit((lane, run_on_worker, call))
                submits = True
            else:
                self.admission.begin(call)
        if submits:
            io.submit_soon()
        if stretch.method is not None:
            stretch.end()

    def _decode(self, text: bytes) -> Call | None:
        """The call that stands in a text; others are dealt with here."""
        options = self.endpoint.options
        message = decode(text, options.max_depth, options.max_batch)
        if type(message) is not Call:
            self._on_message(message)
            return None
        if message.dialect is not self.dialect:
            self.dialect = message.dialect
            self._pack()
        return message

    def _on_frame(self, item: Any) -> None:
        """Anything but a text."""
        if isinstance(item, BinaryMessage):
            self._fail(CloseCode.UNSUPPORTED,
                       'binary messages are not used here')
        else:
            self.on_control(item)

    def end_after_hooks(self, step: Callable[[], object]) -> None:
        step()          # at once, whatever is under way

    def _on_message(self, message: Any) -> None:
        """Anything but a call by itself."""
        kind = type(message)
        if kind is Result or kind is Failure:
            self._settle(message)
        elif kind is Batch:
            self.dialect = JSONRPC
            self._begin_batch(message.items)
        else:
            self.send_text(self._text_of_bad(message))

    def _settle(self, message: Result | Failure) -> None:
        if isinstance(message, Failure) and message.error.stack:
            limited(log, 'remote', logging.WARNING,
                    '%s: the client raised %s\n%s', self.id,
                    escape(message.error), '\n'.join(
                        '    ' + escape(line) for line in
                        message.error.stack.splitlines()[:40]))
        if not self.conversation.settle(message):
            self.io.counters['ignored_replies'] += 1

    def _begin_batch(self, items: list[Any]) -> None:
        expected = sum(type(item) is Bad or (
            type(item) is Call and item.id is not NO_ID) for item in items)
        reply = BatchReply(expected, self.io.post, self.enqueue,
                           self.out_max_bytes)
        for item in items:
            if type(item) is Call:
                item.batch = reply
                item.connection = self
                item.method = self._methods.get(item.name)
                self.admission.begin(item)
            elif type(item) is Bad:
                text = reply.add(self._text_of_bad(item))
                if text is not None:
                    self.send_text(text)
            else:
                self._settle(item)

    def _text_of_bad(self, bad: Bad) -> bytes:
        self.io.counters['bad_messages'] += 1
        error = bad.error
        return (bad.dialect or JSONRPC).encode_failure(
            bad.id, error.code, error.message, error.data)

    @property
    def must_ask_store(self) -> bool:
        """Whether the look at the session may wait: not on the loop."""
        handshake = self.handshake
        return bool(handshake.bound and not handshake.session_key.in_memory)

    def lose_user(self, call: Call, error: Exception) -> None:
        """The session has gone, and with it the right to be here.

        Answers the call that found it out, for after the Close nothing
        can be sent.
        """
        if call.id is not NO_ID and call.batch is None:
            self.send_text(fail(call, error))
        self._close_now(CloseCode.UNAUTHORIZED, 'the session has ended')

    # -- outwards ----------------------------------------------------------

    def complete(self, call: Call, text: bytes) -> None:
        """A call is over: send its reply.  Any thread, once a call."""
        id = call.id
        self.conversation.running.pop(call if id is NO_ID else id, None)
        whole: bytes | None = text
        if id is not NO_ID:
            if call.batch is not None:
                whole = call.batch.add(text)
            if whole is not None:
                self.enqueue(self.framer.text_frame(whole))
        if self._noted_close is not None and whole is not None:
            self._close_as_noted(call)
        if self.hub.draining:
            self.io.note_progress()

    def complete_on_worker(self, call: Call, text: bytes) -> None:
        """The same, from the worker that ran it, by the short way.

        When no other call of the connection is under way, no later reply
        could be joined with this one: it is sent from here.  Unless more
        calls wait: then the loop sends for this worker, so that the two
        do not take the interpreter from each other at each send.
        """
        if call.scope is not None:
            end_turn(call)
        hub, id = self.hub, call.id
        if id is NO_ID or call.batch is not None or hub.draining:
            self.complete(call, text)
            return
        running = self.conversation.running
        running.pop(id, None)
        if running or hub.pool.has_waiting:
            # As enqueue(), of which a call is 0.1 us of 2.8: it is open.
            if not self.server_terminated:
                out = self.out
                out.frames.append(self.framer.text_frame(text))
                self.direct = None
                if not out.scheduled:
                    out.scheduled = True
                    self.io.flush_soon(self)
        else:
            self.send_alone(self.framer.text_frame(text))
        if self._noted_close is not None:
            self._close_as_noted(call)

    def send_text(self, text: bytes) -> None:
        """Send a message that is ready; any thread."""
        self.enqueue(self.framer.text_frame(text))

    def subscribe(self, topic: str) -> str:
        """Join a topic; the subscription's id.  The loop's thread."""
        return self.hub.broker.subscribe(
            self, topic, self.endpoint.options.max_subscriptions)

    def listen(self, name: str) -> None:
        """Join a topic as npm rpc-websockets does (``rpc.on``)."""
        self.hub.broker.listen(
            self, name, self.endpoint.options.max_subscriptions)

    # -- life: the loop's thread -------------------------------------------

    def on_opened(self) -> None:
        log.info('%s %s opened: %s', self.id, self.remote,
                 self.endpoint.url_path)
        if self.endpoint.options.opened is not None:
            self.admission.held = []
            self.strand.post(self._run_opened)

    def _run_opened(self) -> None:
        opened = self.endpoint.options.opened
        assert opened is not None
        self.run_callback('opened', opened, self)
        self.io.post(self._release_held)

    def _release_held(self) -> None:
        held = self.admission.held or []
        self.admission.held = None
        for call in held:
            if not self.server_terminated:
                self.admission.begin(call)
        # Not before: what runs directly is sent at the end of a read.
        self._takes_direct = not self.handshake.bound
        self.io.stretch.end()

    def on_caught_up(self) -> None:
        self.hub.broker.catch_up(self)

    def on_ended(self, code: int, reason: str) -> None:
        """Fail what waits, forget what waits for the pool, tell all."""
        self.conversation.close(ConnectionLostError(
            f'the connection was closed ({code}'
            f'{": " + escape(reason) if reason else ""})'))
        self.hub.broker.leave(self)
        self.admission.end(self.hub.kept)
        with self._close_lock:
            self._closed_with = (code, reason)
            on_close, self._on_close = self._on_close, []
        for function in on_close:
            self.strand.post(self.run_callback, 'on_close', function,
                             code, reason)
        for call in self._take_waiting():
            self.admission.forget(call)
        self.seats.close(self)

    def _take_waiting(self) -> list[Call]:
        """Take out the calls that have not begun."""
        return self.lane.clear() + self.admission.take_waiting()

    def on_timer(self, now: float) -> float | None:
        due = super().on_timer(now)
        nearest = self.conversation.expire(now)
        if due is None or nearest is None:
            return due if nearest is None else nearest
        return min(due, nearest)

    def _note_deadline(self, deadline: float) -> None:
        if self.state is not CLOSED:
            self.io.schedule(self, deadline)

    def drain(self) -> None:
        """The engine stops: calls not yet begun are answered so."""
        for call in self._take_waiting():
            end_turn(call)
            refuse(call, GoingAway())
