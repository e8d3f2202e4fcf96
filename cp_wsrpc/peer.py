"""RPC on one socket.  Layer 4.

``websocket`` + ``conversation`` + ``registry`` + ``workers``.  The way of a
call through it, top to bottom::

    on_items        frames' texts -> messages               loop's thread
    _begin          message -> method, or an answer at once
    _start          to the pool, the loop, or a task
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
from typing import TYPE_CHECKING, Any

from ws4py.messaging import BinaryMessage

from . import framing, services
from .batch import BatchReply
from .conversation import Conversation, PendingReply, server_ids
from .current import cell
from .decoding import decode
from .dialects import DIALECTS, JSONRPC, Dialect
from .errors import (Busy, CloseCode, ConnectionLostError, GoingAway,
                     InvalidRequest, MessageTooBig, MethodNotFound)
from .exposure import make_route
from .host_serving import surroundings_of
from .invocation import (answer, ask_authorizers, check_session, fail,
                         report, run_as_task, run_on_loop, run_on_worker)
from .logs import escape, limited
from .messages import NO_ID, Bad, Batch, Call, Failure, Result
from .repeats import waits_for_key
from .turns import Turn
from .websocket import State, WebSocket
from .workers import Lane, Strand

if TYPE_CHECKING:
    from .registry import Method

__all__ = ['Peer']

log = logging.getLogger('cp_wsrpc.peer')

#: Looking an enum's member up costs 50 ns before Python 3.12.
_OPEN = State.OPEN


class _Seat:
    """A Route's instance of this connection, and whose turn it is."""

    __slots__ = ('instance', 'turn')

    def __init__(self) -> None:
        self.instance: Any = None
        self.turn = Turn()


class Peer(WebSocket):
    """The other end of one RPC connection: ``cp_wsrpc.connection``.

    It may be kept and used from any thread: ``call``, ``notify``,
    ``close``, ``on_close``, ``is_closed``, ``id``, ``remote``, ``user``,
    ``data``.  The rest belongs to the package.
    """

    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        #: for the application: what it wants to remember of this peer
        self.data: dict[Any, Any] = {}
        self.dialect: Dialect = JSONRPC
        self.conversation = Conversation()
        self.topics: set[str] = set()       # loop's thread
        self.heard: set[str] = set()        # loop's thread
        self._seats: dict[type, _Seat] = {}     # loop's thread adds
        self._tasks = 0                     # async calls that run
        self._held: list[Call] | None = None    # until opened() has run
        self._async_waiting: list[Call] = []
        self._in_order: Strand | None = None   # loop's thread makes
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
        self._max_in_flight = (options.max_calls_per_connection
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
            self._max_in_flight, options.max_depth, options.max_batch,
            self.lane, io.cell, io.stretch, self.out.frames.append,
            self.framer.text_frame)

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

        Inside a call of this connection: when that has been answered.
        """
        mine = cell.get()
        call = mine.call if mine is not None else None
        if call is None or call.connection is not self \
                or not self._is_under_way(call):
            super().close(code, reason)
            return
        framing.check_close_code(code)      # raise here, not when it is sent
        framing.close_frame(code, reason)
        if self._noted_close is None:
            self._noted_close = call, code, reason
            # It may have been answered since, where a thread that it has
            # started closes for it.
            if not self._is_under_way(call):
                super().close(code, reason)

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
            super().close(code, reason)

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
        ``_begin`` would have them: nonblocking ones of which nothing need
        be asked first (``Method.is_direct``), which are run without ever
        being "in flight", and those of the pool that belong to no Route.
        What all calls have in common stands in ``_kit``: of a nonblocking
        call that is alone in its read 0.3 us of 4.
        """
        (io, methods, running, max_running, max_depth, max_batch, lane, mine,
         stretch, put, text_frame) = self._kit
        takes_calls = self._held is None and not self.hub.draining
        takes_direct = takes_calls and self._takes_direct
        for item in items:
            if type(item) is not bytes:
                self._on_frame(item)
                continue
            if self.state is not _OPEN:
                continue            # no answer to it could be sent
            self.messages_in += 1
            call = decode(item, max_depth, max_batch)
            if type(call) is not Call:
                self._on_message(call)
                continue
            self.dialect = call.dialect
            call.connection = self
            method = call.method = methods.get(call.name)
            id = call.id
            if method is None or call.meta is not None or id in running:
                self._begin(call)
            elif method.is_direct and takes_direct:
                if method is not stretch.method:
                    stretch.begin(call)
                    io.doing = call.name
                stretch.calls += 1
                mine.call = call
                try:
                    call.args, call.kwargs = method.bind(call.params)
                    text = answer(call, method.function(
                        *call.args, **call.kwargs) if call.kwargs
                        else method.function(*call.args))
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
                call.arrived = now = self._last_read
                if method.timeout_s:
                    call.deadline = now + method.timeout_s
                io.submit_soon(lane, run_on_worker, call)
            else:
                self._begin(call)
        if stretch.method is not None:
            stretch.end()

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
            self._send_text(self._text_of_bad(message))

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
        reply = BatchReply(expected, self.io.post, self.enqueue)
        for item in items:
            if type(item) is Call:
                item.batch = reply
                item.connection = self
                item.method = self._methods.get(item.name)
                self._begin(item)
            elif type(item) is Bad:
                text = reply.add(self._text_of_bad(item))
                if text is not None:
                    self._send_text(text)
            else:
                self._settle(item)

    def _text_of_bad(self, bad: Bad) -> bytes:
        self.io.counters['bad_messages'] += 1
        error = bad.error
        return (bad.dialect or JSONRPC).encode_failure(
            bad.id, error.code, error.message, error.data)

    def _begin(self, call: Call) -> None:
        """Start a call, whose method has been looked up, or say why not."""
        running = self.conversation.running
        key = call if call.id is NO_ID else call.id
        if running and key in running:
            self._refuse_duplicate(call)
            return
        method: Method | None = call.method
        if self._held is not None:
            self._hold(call)
            return
        running[key] = call
        if self.hub.draining:
            self._refuse(call, GoingAway())
        elif len(running) > self._max_in_flight:
            self._refuse(call, Busy(
                f'{self._max_in_flight} calls of this connection are '
                'under way'))
        elif call.meta is not None and waits_for_key(self, call):
            pass            # the call that has its key answers it, say
        elif method is None:
            if services.is_service(call.name):
                services.serve(self, call)
            else:
                self._refuse(call, MethodNotFound())
        else:
            call.arrived = self._last_read
            if method.timeout_s:
                call.deadline = self._last_read + method.timeout_s
            if method.route is not None:
                self._queue_for_route(call)
            else:
                self._start(call)

    def begin_again(self, call: Call) -> None:
        """It has waited for its key (``repeats``) and may begin now."""
        if self._closed_with is not None:
            self._forget(call)
        else:
            self.conversation.running.pop(call.id, None)
            self._begin(call)

    def _refuse(self, call: Call, error: Exception) -> None:
        self.complete(call, fail(call, error, ran=False))

    def _refuse_duplicate(self, call: Call) -> None:
        error = InvalidRequest('a call with this id is still running')
        self.hub.statistics.count_failure(call, error.code, ran=False)
        text = call.dialect.encode_failure(
            None, error.code, error.message, {'executed': False})
        if call.batch is not None:
            whole = call.batch.add(text)
            if whole is None:
                return
            text = whole
        self._send_text(text)

    def _hold(self, call: Call) -> None:
        """Keep a call until ``tools.wsrpc.opened`` has run."""
        assert self._held is not None
        if len(self._held) < self._max_in_flight:
            self._held.append(call)
        else:
            self.conversation.running[
                call if call.id is NO_ID else call.id] = call
            self._refuse(call, Busy())

    # -- to the method -----------------------------------------------------

    def _start(self, call: Call) -> None:
        """Give a call to the thread of its method.  The loop's thread."""
        method: Method = call.method
        if method.kind == 'pool':
            self.io.submit_soon(self.lane, run_on_worker, call)
            return
        if self.must_ask_store or method.asks_on_pool:
            if not self.lane.submit(self._check_on_worker, call):
                self.refuse_start(call)
            return
        if self._check(call):
            self._start_here(call)

    def _check(self, call: Call) -> bool:
        """Look at session, arguments and rights; answer if one is wrong."""
        try:
            if self.handshake.bound:
                check_session(call)
            call.args, call.kwargs = call.method.bind(call.params)
            ask_authorizers(call)
        except BaseException as error:  # also what an authorizer raises
            self.end_turn(call)
            self.complete(call, fail(call, error, ran=False))
            return False
        return True

    def _check_on_worker(self, call: Call) -> None:
        if self._check(call):
            self.io.post(self._start_here, call)

    def _start_here(self, call: Call) -> None:
        """Run a nonblocking or async method; all checks are passed."""
        if self._closed_with is not None:
            self._forget(call)
        elif call.method.kind == 'nonblocking':
            mine, stretch = self.io.cell, self.io.stretch
            self.io.doing = call.name
            stretch.begin(call)
            stretch.calls = 1
            mine.call = call
            text = run_on_loop(call)
            mine.call = None
            stretch.end()
            self.end_turn(call)
            if text is not None:
                self.complete(call, text)
        elif self._tasks < self.endpoint.options.max_calls_per_connection:
            self._tasks += 1
            run_as_task(call)
        else:
            self._async_waiting.append(call)

    def task_done(self, call: Call) -> None:
        """An ``async def`` method has ended."""
        self._tasks -= 1
        self.end_turn(call)
        if self._async_waiting:
            self._start_here(self._async_waiting.pop(0))

    def refuse_start(self, call: Call) -> None:
        """The pool, or the connection's part of it, is full."""
        self.end_turn(call)
        self._refuse(call, Busy())

    def submit(self, run: Callable[[Any], object], call: Call) -> None:
        """Have a service's part run on the pool; Busy if that is full."""
        if not self.lane.submit(run, call):
            raise Busy()

    def submit_in_order(self, run: Callable[[Any], object], call: Call,
                        ) -> None:
        """The same, when all that came this way before has ended.

        For what changes a topic: there the order counts.
        """
        strand = self._in_order
        if strand is None:
            strand = self._in_order = Strand(self.hub.pool)
        if len(strand) >= self.endpoint.options.max_waiting_per_connection:
            raise Busy()
        strand.post(self._run_in_order, run, call)

    def _run_in_order(self, run: Callable[[Any], object], call: Call) -> None:
        if self._closed_with is not None:
            self._forget(call)
        elif self.hub.draining:
            self._refuse(call, GoingAway())
        else:
            run(call)

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
            self._send_text(fail(call, error))
        super().close(CloseCode.UNAUTHORIZED, 'the session has ended')

    # -- Routes ------------------------------------------------------------

    def _queue_for_route(self, call: Call) -> None:
        seat = self._seats.get(call.method.route)
        if seat is None:
            seat = self._seats[call.method.route] = _Seat()
        surroundings_of(call).turn = seat.turn
        entered = seat.turn.enter(
            self._start_in_turn, call,
            self.endpoint.options.max_waiting_per_connection)
        if entered:
            self._start(call)
        elif entered is None:
            call.scope.turn = None
            self._refuse(call, Busy())

    def _start_in_turn(self, call: Call) -> None:
        """Its turn has come; called by whoever gave it up."""
        self.io.post(self._start_waiting, call)

    def _start_waiting(self, call: Call) -> None:
        if self._closed_with is not None:
            self._forget(call)
        elif self.hub.draining:
            self.end_turn(call)
            self._refuse(call, GoingAway())
        else:
            self._start(call)

    def _forget(self, call: Call) -> None:
        """The connection went before the call began."""
        self.end_turn(call)
        self.conversation.running.pop(
            call if call.id is NO_ID else call.id, None)
        if call.batch is not None:
            call.batch.forget()

    def end_turn(self, call: Call) -> None:
        """Its method has returned: whoever is next on the Route."""
        if call.scope is not None and call.scope.turn is not None:
            turn, call.scope.turn = call.scope.turn, None
            turn.leave()

    def route_instance(self, route: Any) -> Any:
        """The connection's instance of a Route; made at its first call.

        For the thread that has the Route's turn.
        """
        seat = self._seats[route]
        if seat.instance is None:
            seat.instance = make_route(route, self)
        return seat.instance

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
            self.end_turn(call)
        hub, id = self.hub, call.id
        if id is NO_ID or call.batch is not None or hub.draining:
            self.complete(call, text)
            return
        running = self.conversation.running
        running.pop(id, None)
        if running or hub.pool.has_waiting:
            self.enqueue(self.framer.text_frame(text))
        else:
            self.send_alone(self.framer.text_frame(text))
        if self._noted_close is not None:
            self._close_as_noted(call)

    def _send_text(self, text: bytes) -> None:
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
            self._held = []
            self.strand.post(self._run_opened)

    def _run_opened(self) -> None:
        opened = self.endpoint.options.opened
        assert opened is not None
        self.run_callback('opened', opened, self)
        self.io.post(self._release_held)

    def _release_held(self) -> None:
        held, self._held = self._held or [], None
        for call in held:
            if self.state is _OPEN:
                self._begin(call)
        # Not before: what runs directly is sent at the end of a read.
        self._takes_direct = not self.handshake.bound
        self.io.stretch.end()

    def on_caught_up(self) -> None:
        self.hub.broker.catch_up(self)

    def on_ended(self, code: int, reason: str) -> None:
        """Fail what waits, forget what waits for the pool, tell all."""
        self.conversation.close(ConnectionLostError(
            f'the connection was closed ({code}'
            f'{": " + reason if reason else ""})'))
        self.hub.broker.leave(self)
        self._held = None
        with self._close_lock:
            self._closed_with = (code, reason)
            on_close, self._on_close = self._on_close, []
        for function in on_close:
            self.strand.post(self.run_callback, 'on_close', function,
                             code, reason)
        for call in self._take_waiting():
            self._forget(call)
        for seat in self._seats.values():
            # When every method of it has ended, also one that waited for
            # its client: it may just be making the instance, and does not
            # expect to find it closed.
            if seat.turn.enter_last(self._close_in_turn, seat):
                self._close_in_turn(seat)

    def _take_waiting(self) -> list[Call]:
        """Take out the calls that have not begun."""
        waiting, self._async_waiting = self._async_waiting, []
        return self.lane.clear() + waiting

    def _close_in_turn(self, seat: _Seat) -> None:
        self.strand.post(self._close_route, seat)

    def _close_route(self, seat: _Seat) -> None:
        if seat.instance is not None:
            self.run_callback(f'{type(seat.instance).__name__}.closed',
                              seat.instance.closed)
        seat.turn.leave()

    def on_timer(self, now: float) -> float | None:
        due = super().on_timer(now)
        nearest = self.conversation.expire(now)
        if due is None or nearest is None:
            return due if nearest is None else nearest
        return min(due, nearest)

    def _note_deadline(self, deadline: float) -> None:
        if self.state is not State.CLOSED:
            self.io.schedule(self, deadline)

    def drain(self) -> None:
        """The engine stops: calls not yet begun are answered so."""
        for call in self._take_waiting():
            self.end_turn(call)
            self._refuse(call, GoingAway())
