"""One call -> the text of its reply, with all that surrounds it.  Layer 3.

``peer`` gives a checked-in :class:`Call` to one of three functions, by the
kind of its method:

==================  =====================  ===============================
``run_on_worker``   a worker of the pool   may block
``run_on_loop``     the loop's thread      nonblocking methods
``run_as_task``     a task of the loop     ``async def`` methods
==================  =====================  ===============================

Each does the same, in this order: the session is looked at, the arguments
are checked, ``authorize`` is asked, ``around`` is entered, the method runs,
its result is encoded, ``around`` is left, the session is let go, and
``peer.complete(call, text)`` sends the reply.  A method that returns a
reply of its client (``PendingReply``) is completed when that is settled.

Whatever the application raises, anywhere in this, becomes the text of an
error reply; nothing passes through to the pool or the loop.
"""
from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import cherrypy

from . import host_serving
from .conversation import PendingReply, blocking
from .current import Cell, cell, context_for
from .errors import (Busy, ConnectionLostError, GoingAway, MethodNotFound,
                     ResponseTooBig, RPCError, Unauthorized, WsrpcError)
from .failures import failure_of, is_answer, new_ref
from .host_session import CallSession, LazySession
from .logs import LineLimiter, escape

if TYPE_CHECKING:
    from .messages import Call

__all__ = ['ask_authorizers', 'await_in_turn', 'enter_worker',
           'leave_worker', 'report', 'run_as_task', 'run_on_loop',
           'run_on_worker']

log = logging.getLogger('cp_wsrpc.invocation')

_limiter = LineLimiter()

# -- the thread ------------------------------------------------------------


def enter_worker() -> None:
    """Make a pool thread fit to run methods: its first act."""
    cell.set(Cell())
    blocking.guard = _wait_for_client
    _load_serving()
    cherrypy.engine.publish('acquire_thread')


def leave_worker() -> None:
    """Undo ``enter_worker``: its last act, and at ``engine.graceful``."""
    cherrypy.engine.publish('release_thread')
    host_serving.leave_thread()


def _load_serving() -> None:
    host_serving.enter_thread()
    cherrypy.serving.session = _session_of_call


def _find_session() -> CallSession:
    """The running call's session; raises where there can be none."""
    mine = cell.get()
    call = mine.call if mine is not None else None
    if call is None:
        raise WsrpcError('cherrypy.session outside of a call')
    if call.method.kind != 'pool':
        raise WsrpcError(
            f'{call.name} is {call.method.kind}: it may not wait for a '
            'session; use cp_wsrpc.connection.user, or a plain method')
    key = call.connection.handshake.session_key
    if key is None:
        raise AttributeError(
            'tools.sessions is not on at the endpoint, so this connection '
            'has no session')
    scope = host_serving.surroundings_of(call)
    if scope.session is None:
        scope.session = CallSession(key)
    session: CallSession = scope.session
    return session


_session_of_call = LazySession(_find_session)


@contextmanager
def _wait_for_client() -> Iterator[None]:
    """Around ``PendingReply.result`` in a worker.

    What the method holds is let go: the session's lock (a page that
    answers by a ``fetch`` must not deadlock), its turn on a Route, its
    place in the pool.
    """
    mine = cell.get()
    call = mine.call if mine is not None else None
    scope = call.scope if call is not None else None
    if scope is not None and scope.session is not None:
        scope.session.let_go()
    turn = scope.turn if scope is not None else None
    with blocking.lend():
        if turn is None:
            yield
        else:
            with turn.yielded():
                yield


def await_in_turn(reply: PendingReply) -> Generator[Any, None, None]:
    """Wait for a client's reply in an ``async def`` method.

    A Route's turn is given up meanwhile, as in a worker; for
    ``blocking.awaiting`` of the loop's thread.
    """
    mine = cell.get()
    scope = mine.call.scope if mine is not None and mine.call else None
    if scope is None or scope.turn is None:
        yield from reply.until_done()
        return
    turn, scope.turn = scope.turn, None
    turn.leave()
    yield from reply.until_done()
    yield from _take_turn(turn)
    scope.turn = turn


def _take_turn(turn: Any) -> Generator[Any, None, None]:
    loop = asyncio.get_running_loop()
    granted: asyncio.Future[None] = loop.create_future()

    def grant() -> None:
        if granted.cancelled():     # the task was, while it waited
            turn.leave()
        else:
            granted.set_result(None)

    if not turn.reenter(lambda: loop.call_soon_threadsafe(grant)):
        yield from granted


# -- the three ways ----------------------------------------------------------


def run_on_worker(call: Call) -> None:
    """Run a pool method; a task of ``workers``."""
    if not host_serving.is_entered():
        _load_serving()         # code of the application had cleared it
    mine = cell.get()
    assert mine is not None
    mine.call = call
    try:
        text = _run_blocking(call)
        if call.scope is not None:
            _let_session_go(call, save=True)
    except BaseException as error:
        text = _fail_blocking(call, error)
    mine.call = None
    if text is not None:
        call.connection.complete_on_worker(call, text)
    elif call.scope is not None:
        call.connection.end_turn(call)


def _run_blocking(call: Call) -> bytes | None:
    peer, method = call.connection, call.method
    if peer.hub.draining:
        raise GoingAway()
    if call.deadline is not None and time.monotonic() > call.deadline:
        raise Busy(f'{call.name} waited longer than its timeout_s')
    if peer.handshake.bound:
        _check_session(call)
    call.args, call.kwargs = method.bind(call.params)
    if method.authorizers:
        ask_authorizers(call)
    around = peer.endpoint.options.around
    if around is None:
        return _answer(call, _call(call))
    with around(call):
        return _answer(call, _call(call))


def _fail_blocking(call: Call, error: BaseException) -> bytes:
    """Let go of what the method held, and word what it raised."""
    if call.scope is not None:
        try:
            _let_session_go(call, save=is_answer(error))
        except Exception as late:
            error = late
    return fail(call, error)


def _let_session_go(call: Call, save: bool) -> None:
    session = call.scope.session
    if session is not None:
        session.let_go(save)


def ask_authorizers(call: Call) -> None:
    """Ask who decides about this call; MethodNotFound if one says no."""
    for authorize in call.method.authorizers:
        if not authorize(call):
            raise MethodNotFound()


def run_on_loop(call: Call) -> bytes | None:
    """Run a nonblocking method here; its reply's text, None if later."""
    try:
        if call.kwargs is None:
            call.args, call.kwargs = call.method.bind(call.params)
        return _answer(call, _call(call))
    except BaseException as error:
        return fail(call, error)


def run_as_task(call: Call, done: Callable[[Call], None]) -> None:
    """Start an ``async def`` method; ``done(call)`` when it has ended."""
    peer = call.connection
    task = peer.io.spawn(_run_async(call), context_for(call))

    def finish(_: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            log.error('%r: a fault of ours', call,
                      exc_info=task.exception())
        done(call)

    task.add_done_callback(finish)


async def _run_async(call: Call) -> None:
    peer, method = call.connection, call.method
    options = peer.endpoint.options
    text: bytes | None
    try:
        async with asyncio.timeout(method.timeout_s):
            if options.around is None:
                text = await _answer_async(call)
            else:
                async with options.around(call):
                    text = await _answer_async(call)
    except TimeoutError as error:
        text = fail(call, RPCError(-32000, 'the method timed out')
                    if method.timeout_s else error)
    except asyncio.CancelledError:
        # The connection went, or the server stops: nobody hears it.
        peer.complete(call, fail(call, ConnectionLostError()))
        raise
    except BaseException as error:
        text = fail(call, error)
    if text is not None:
        peer.complete(call, text)


async def _answer_async(call: Call) -> bytes | None:
    steps = _Watched(_call(call), call)
    return _answer(call, await steps)


class _Watched:
    """A coroutine whose every step is timed: a slow one is named.

    asyncio itself tells of slow steps only in its debug mode.
    """

    __slots__ = ('_call', '_coroutine', '_io')

    def __init__(self, coroutine: Any, call: Call) -> None:
        self._coroutine = coroutine
        self._call = call
        self._io = call.connection.io

    def __await__(self) -> _Watched:
        return self

    __iter__ = __await__

    def __next__(self) -> Any:
        return self.send(None)

    def send(self, value: Any) -> Any:
        begun = self._io.now()
        try:
            return self._coroutine.send(value)
        finally:
            self._io.doing = self._call.name
            self._io.note_time(begun)

    def throw(self, *error: Any) -> Any:
        return self._coroutine.throw(*error)

    def close(self) -> None:
        self._coroutine.close()


def _call(call: Call) -> Any:
    method = call.method
    if method.route is None:
        # An empty ** costs as much as a small method.
        return (method.function(*call.args, **call.kwargs) if call.kwargs
                else method.function(*call.args))
    instance = call.connection.route_instance(method.route)
    return method.function(instance, *call.args, **call.kwargs)


# -- results and errors ------------------------------------------------------


def _answer(call: Call, value: Any) -> bytes | None:
    """The reply's text; None while it waits for the peer's own reply."""
    if type(value) is PendingReply:
        value.watch(lambda reply: _answer_later(call, reply))
        return None
    text: bytes = call.dialect.encode_result(call.id, value)
    if len(text) > call.connection.endpoint.options.out_max_bytes:
        raise ResponseTooBig(f'the result of {call.name} has {len(text)} '
                             'bytes')
    return text


def _answer_later(call: Call, reply: PendingReply) -> None:
    try:
        text = call.dialect.encode_result(call.id, reply._take())
    except Exception as error:
        text = fail(call, error)
    call.connection.complete(call, text)


def fail(call: Call, error: BaseException) -> bytes:
    """The error reply for what was raised; logs what it hides."""
    peer = call.connection
    ref = None
    if not isinstance(error, (ConnectionLostError, asyncio.CancelledError)) \
            and not is_answer(error):
        ref = new_ref()
        report(peer, call.name, error, ref)
    code, message, data = failure_of(error, peer.endpoint.options.debug, ref)
    peer.io.counters['errors'] += 1
    text: bytes = call.dialect.encode_failure(call.id, code, message, data)
    return text


def report(peer: Any, what: str, error: BaseException,
           ref: str = '') -> None:
    """Write what code of the application raised into *its* log.

    ``cherrypy.log`` would look for the application at the thread's request
    and may find another (pitfalls 29).  One line a second for each name.
    """
    _limiter.log(peer.handshake.app.log.error_log, what, logging.ERROR,
                 'WSRPC %s of %s raised %s%s', escape(what), peer.id,
                 type(error).__name__, f' (ref {ref})' if ref else '',
                 exc_info=error)


def _check_session(call: Call) -> None:
    peer = call.connection
    if not peer.handshake.session_key.exists():
        peer.lose_user()
        raise Unauthorized('the session has ended: sign in again')
