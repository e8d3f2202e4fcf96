"""Which calls of a connection begin, when, and on which thread.  Layer 3.

::

    begin       at once, later, or an answer that says why not
    start       to the pool, the loop, or a task
    forget      the connection went before it began

``peer`` begins the two commonest kinds of call by itself
(``Peer.on_items``), and all others here.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import services
from .errors import Busy, GoingAway, InvalidRequest, MethodNotFound
from .invocation import (answer_when_settled, ask_authorizers,
                         check_session, fail, run_as_task, run_on_loop,
                         run_on_worker)
from .messages import NO_ID, Call
from .repeats import waits_for_key
from .seats import end_turn
from .strands import Strand

if TYPE_CHECKING:
    from .idempotency import Heard, Key, KeyStore
    from .registry import Method

__all__ = ['Admission', 'refuse', 'refuse_start']


class Admission:
    """The calls of one connection that have not begun.

    All of it belongs to the loop's thread but ``submit`` and what it is
    given.
    """

    __slots__ = ('_async_waiting', '_in_order', '_tasks', 'has_ended',
                 'held', 'joined')

    def __init__(self) -> None:
        #: until ``tools.wsrpc.opened`` has run; None: hold no call
        self.held: list[Call] | None = None
        self.has_ended = False
        #: calls that wait for another of their key, and how they hear of it;
        #: changed by any thread, one step of the interpreter each
        self.joined: dict[Call, tuple[Key, Heard]] = {}
        self._tasks = 0                     # async calls that run
        self._async_waiting: list[Call] = []
        self._in_order: Strand | None = None

    # -- may it begin? -----------------------------------------------------

    def begin(self, call: Call) -> None:
        """Start a call, whose method has been looked up, or say why not."""
        peer = call.connection
        running = peer.conversation.running
        key = call if call.id is NO_ID else call.id
        if running and key in running:
            _refuse_duplicate(call)
            return
        method: Method | None = call.method
        if self.held is not None:
            self._hold(call)
            return
        running[key] = call
        if peer.hub.draining:
            refuse(call, GoingAway())
        elif len(running) > peer.max_in_flight:
            refuse(call, Busy(
                f'{peer.max_in_flight} calls of this connection are '
                'under way'))
        elif call.meta is not None and waits_for_key(peer, call):
            pass            # the call that has its key answers it, say
        elif method is None:
            if services.is_service(call.name):
                services.serve(peer, call)
            else:
                refuse(call, MethodNotFound())
        else:
            call.arrived = peer.last_read
            if method.timeout_s:
                call.deadline = call.arrived + method.timeout_s
            if method.route is not None:
                self._queue_for_route(call)
            else:
                self.start(call)

    def begin_again(self, call: Call) -> None:
        """It has waited for its key (``repeats``) and may begin now."""
        if self.has_ended:
            self.forget(call)
        else:
            call.connection.conversation.running.pop(call.id, None)
            self.begin(call)

    def _hold(self, call: Call) -> None:
        """Keep a call until ``tools.wsrpc.opened`` has run."""
        assert self.held is not None
        peer = call.connection
        if len(self.held) < peer.max_in_flight:
            self.held.append(call)
        else:
            peer.conversation.running[
                call if call.id is NO_ID else call.id] = call
            refuse(call, Busy())

    # -- to the method -----------------------------------------------------

    def start(self, call: Call) -> None:
        """Give a call to the thread of its method."""
        peer, method = call.connection, call.method
        if method.kind == 'pool':
            peer.io.submissions.append((peer.lane, run_on_worker, call))
            peer.io.submit_soon()
            return
        if peer.must_ask_store or method.asks_on_pool:
            if not peer.lane.submit(self._check_on_worker, call):
                refuse_start(call)
            return
        if _check(call):
            self._start_here(call)

    def _check_on_worker(self, call: Call) -> None:
        if _check(call):
            call.connection.io.post(self._start_here, call)

    def _start_here(self, call: Call) -> None:
        """Run a nonblocking or async method; all checks are passed."""
        peer = call.connection
        if self.has_ended or peer.has_closed:
            self.forget(call)
        elif call.method.kind == 'nonblocking':
            mine, stretch = peer.io.cell, peer.io.stretch
            peer.io.doing = call.name
            stretch.begin(call)
            stretch.calls = 1
            mine.call = call
            text = run_on_loop(call)
            mine.call = None
            stretch.end()
            end_turn(call)
            if text is not None:
                peer.complete(call, text)
            else:
                answer_when_settled(call)
        elif self._tasks < peer.endpoint.options.max_calls_per_connection:
            self._tasks += 1
            run_as_task(call)
        else:
            self._async_waiting.append(call)

    def task_done(self, call: Call) -> None:
        """An ``async def`` method has ended."""
        self._tasks -= 1
        end_turn(call)
        if self._async_waiting:
            self._start_here(self._async_waiting.pop(0))

    def submit(self, run: Callable[[Any], object], call: Call) -> None:
        """Have a service's part run on the pool; Busy if that is full."""
        if not call.connection.lane.submit(run, call):
            raise Busy()

    def submit_in_order(self, run: Callable[[Any], object], call: Call,
                        ) -> None:
        """The same, when all that came this way before has ended.

        For what changes a topic: there the order counts.
        """
        peer, strand = call.connection, self._in_order
        if strand is None:
            strand = self._in_order = Strand(peer.hub.pool)
        if len(strand) >= peer.endpoint.options.max_waiting_per_connection:
            raise Busy()
        strand.post(self._run_in_order, run, call)

    def _run_in_order(self, run: Callable[[Any], object], call: Call) -> None:
        if self.has_ended or call.connection.has_closed:
            self.forget(call)
        elif call.connection.hub.draining:
            refuse(call, GoingAway())
        else:
            run(call)

    # -- Routes ------------------------------------------------------------

    def _queue_for_route(self, call: Call) -> None:
        entered = call.connection.seats.enter(call, self._start_in_turn)
        if entered:
            self.start(call)
        elif entered is None:
            refuse(call, Busy())

    def _start_in_turn(self, call: Call) -> None:
        """Its turn has come; called by whoever gave it up."""
        call.connection.io.post(self._start_waiting, call)

    def _start_waiting(self, call: Call) -> None:
        if self.has_ended or call.connection.has_closed:
            self.forget(call)
        elif call.connection.hub.draining:
            end_turn(call)
            refuse(call, GoingAway())
        else:
            self.start(call)

    # -- the end -----------------------------------------------------------

    def end(self, kept: KeyStore) -> None:
        """The connection has gone: no call of it is to begin."""
        self.has_ended = True
        self.held = None
        # What they brought, up to 1 MiB each, would stay for as long as
        # the call runs for which they wait.
        for key, heard in list(self.joined.values()):
            kept.unwatch(key, heard)
        self.joined.clear()

    def take_waiting(self) -> list[Call]:
        """Take out the ``async`` calls that have not begun."""
        waiting, self._async_waiting = self._async_waiting, []
        return waiting

    def forget(self, call: Call) -> None:
        """The connection went before the call began."""
        end_turn(call)
        call.connection.conversation.running.pop(
            call if call.id is NO_ID else call.id, None)
        if call.batch is not None:
            call.batch.forget()


def _check(call: Call) -> bool:
    """Look at session, arguments and rights; answer if one is wrong."""
    try:
        if call.connection.handshake.bound:
            check_session(call)
        call.args, call.kwargs = call.method.bind(call.params)
        ask_authorizers(call)
    except BaseException as error:  # also what an authorizer raises
        end_turn(call)
        refuse(call, error)
        return False
    return True


def refuse(call: Call, error: BaseException) -> None:
    """Answer a call that does not come to its method."""
    call.connection.complete(call, fail(call, error, ran=False))


def refuse_start(call: Call) -> None:
    """The pool, or the connection's part of it, is full."""
    end_turn(call)
    refuse(call, Busy())


def _refuse_duplicate(call: Call) -> None:
    peer = call.connection
    error = InvalidRequest('a call with this id is still running')
    peer.hub.statistics.count_failure(call, error.code, ran=False)
    text = call.dialect.encode_failure(
        None, error.code, error.message, {'executed': False})
    if call.batch is not None:
        whole = call.batch.add(text)
        if whole is None:
            return
        text = whole
    peer.send_text(text)
