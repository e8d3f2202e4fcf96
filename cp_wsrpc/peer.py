"""RPC on one socket.  Layer 4.

``websocket`` + ``conversation`` + ``registry`` + ``workers``.  The way of a
call through it, top to bottom::

    on_items        frames' texts -> messages -> methods    loop's thread
    (admission)     an answer at once, or to the pool, the
                    loop, or a task
    (invocation)    the method -> the reply's text          the method's
    complete        the text -> the out-queue               the method's
    (websocket)     flush: one send for all that is ready   loop's thread

and of a call of the client: ``caller`` -> out-queue; its answer comes in by
``on_items`` and settles the ``PendingReply``.
"""
from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from ws4py.messaging import BinaryMessage

from .admission import Admission, refuse
from .batch import BatchReply
from .caller import Caller
from .decoding import NO_CALL, NO_NAME, decode, decode_call
from .dialects import DIALECTS, JSONRPC, Dialect
from .errors import CloseCode, ConnectionLostError, GoingAway
from .invocation import (ALWAYS_FITS, answer, answer_when_settled, fail,
                         run_on_worker)
from .logs import escape, limited
from .messages import NO_ID, Bad, Batch, Call, Failure, Result
from .seats import Seats, end_turn
from .workers import Lane

__all__ = ['Peer']

log = logging.getLogger('cp_wsrpc.peer')


class Peer(Caller):
    """The other end of one RPC connection: ``cp_wsrpc.connection``.

    It may be kept and used from any thread: ``call``, ``notify``,
    ``close``, ``on_close``, ``is_closed``, ``id``, ``remote``, ``user``,
    ``data``.  The rest belongs to the package.
    """

    __slots__ = ('_kit', '_methods', '_small_bytes', '_takes_direct',
                 'admission', 'around', 'heard', 'lane', 'max_in_flight',
                 'seats', 'topics')

    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.topics: set[str] = set()       # loop's thread
        self.heard: set[str] = set()        # loop's thread
        self.admission = Admission()
        self.seats = Seats()

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
        io = self.io
        # Of a peer that has spoken another dialect each text is looked at,
        # or the newest dialect would not be known.
        self._small_bytes = (self.endpoint.options.max_depth
                             if self.dialect is JSONRPC else -1)
        self._kit = (
            io, self._methods, self.conversation.running,
            self.max_in_flight, self.lane, io.cell, io.stretch,
            self.out.frames.append, self.framer.text_frame,
            io.submissions.append)

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
        (io, methods, running, max_running, lane, mine, stretch, put,
         text_frame, submit) = self._kit
        small_bytes = self._small_bytes
        call: Call | None
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
                if len(item) <= small_bytes:
                    call = decode_call(item)
                else:
                    call = self._decode(item)
                    small_bytes = self._small_bytes
            except NO_CALL:
                call = self._decode(item)
                small_bytes = self._small_bytes
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
                    answer_when_settled(call)
                elif id is not NO_ID:
                    put(text_frame(text))   # flushed at the read's end
                if self._noted_closes is not None and text is not None:
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
        self._speak(message.dialect)
        return message

    def _speak(self, dialect: Dialect) -> None:
        """What we say unasked, and expect, is of the newest call's."""
        if dialect is not self.dialect:
            self.dialect = dialect
            self._pack()

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
            self._speak(JSONRPC)
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
        if self._noted_closes is not None and whole is not None:
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
        if self._noted_closes is not None:
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
        self.tell_closed(code, reason)
        for call in self._take_waiting():
            self.admission.forget(call)
        self.seats.close(self)

    def _take_waiting(self) -> list[Call]:
        """Take out the calls that have not begun."""
        return self.lane.clear() + self.admission.take_waiting()

    def drain(self) -> None:
        """The engine stops: calls not yet begun are answered so."""
        for call in self._take_waiting():
            end_turn(call)
            refuse(call, GoingAway())
