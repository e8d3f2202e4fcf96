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
from collections.abc import Callable
from types import CoroutineType
from typing import TYPE_CHECKING, Any

import cherrypy

from . import host_serving
from .conversation import PendingReply, blocking
from .current import Cell, cell
from .errors import (Busy, ConnectionLostError, GoingAway, MethodNotFound,
                     ResponseTooBig, RPCError, Unauthorized, WsrpcError)
from .failures import failure_of, is_answer, new_ref
from .host_lazy_session import LazySession
from .host_session import CallSession
from .logs import LineLimiter, escape
from .seats import end_turn
from .statistics import tally_of
from .waits import wait_in_thread

if TYPE_CHECKING:
    from .messages import Call

__all__ = ['ALWAYS_FITS', 'answer', 'answer_when_settled', 'ask',
           'ask_authorizers', 'check_session', 'enter_worker', 'fail',
           'leave_worker', 'load_serving', 'report', 'run_as_task',
           'run_on_loop', 'run_on_worker']

log = logging.getLogger('cp_wsrpc.invocation')

_limiter = LineLimiter()
_clock = time.monotonic
_serving = cherrypy.serving
_request_of_call = host_serving.request_of_call

# -- the thread ------------------------------------------------------------


def enter_worker() -> None:
    """Make a pool thread fit to run methods: its first act."""
    cell.set(Cell(tallies={}))
    blocking.guard = wait_in_thread
    load_serving()
    cherrypy.engine.publish('acquire_thread')


def leave_worker() -> None:
    """Undo ``enter_worker``: its last act, and at ``engine.graceful``."""
    cherrypy.engine.publish('release_thread')
    host_serving.leave_thread()


def load_serving() -> None:
    """Have this thread's ``cherrypy.serving`` follow its calls."""
    host_serving.enter_thread()
    cherrypy.serving.session = _session_of_call


def _find_session() -> CallSession:
    """The running call's session; raises where there can be none."""
    mine = cell.get()
    call = mine.call if mine is not None else None
    if call is None:
        raise WsrpcError('cherrypy.session outside of a call')
    if call.connection.io.in_loop():
        raise WsrpcError(
            f'{call.name} runs on the I/O loop, where nothing may wait for '
            'a session: use cp_wsrpc.connection.user, or a plain method')
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


# -- the three ways ----------------------------------------------------------


def run_on_worker(call: Call) -> None:
    """Run a pool method; a task of ``workers``.

    In one piece, since each step of its own would cost a call 60 ns.
    """
    mine = cell.get()
    assert mine is not None
    if _serving.request is not _request_of_call:    # as is_entered()
        load_serving()          # code of the application had cleared it
    mine.call = call
    peer, method = call.connection, call.method
    begun = _clock()
    text: bytes | None
    try:
        if peer.hub.draining or peer.has_closed:
            raise GoingAway()
        if call.deadline is not None and begun > call.deadline:
            raise Busy(f'{call.name} waited longer than its timeout_s')
        if peer.handshake.bound:
            check_session(call)
        call.args, call.kwargs = method.bind(call.params)
        if method.authorizers:
            ask_authorizers(call)
        if peer.around is not None:
            text = _answer_around(peer.around, call)
        elif method.route is None:
            # An empty ** costs as much as a small method.
            value = (method.function(*call.args, **call.kwargs)
                     if call.kwargs else method.function(*call.args))
            text = (call.dialect.encode_result(call.id, value)
                    if type(value) in ALWAYS_FITS else answer(call, value))
        else:
            text = answer(call, _call(call))
        if call.scope is not None:
            _let_session_go(call, save=True)
    except BaseException as error:  # the application's: SystemExit, too
        text = _fail_blocking(call, error)
    mine.call = None
    # As tally.note(); called, it would cost a call 25 ns more, 0.6 %.
    took_s = _clock() - begun
    try:
        tally = mine.tallies[method]
    except KeyError:
        tally = tally_of(call, mine.tallies)
    tally.calls += 1
    tally.total_s += took_s
    if took_s > tally.max_s:
        tally.max_s = took_s
    if text is not None:
        peer.complete_on_worker(call, text)
    else:
        end_turn(call)
        answer_when_settled(call)


def _answer_around(around: Any, call: Call) -> bytes | None:
    with around(call):
        return answer(call, _call(call))
    raise _swallowed(call)


def _fail_blocking(call: Call, error: BaseException) -> bytes:
    """Let go of what the method held, and word what it raised."""
    if call.scope is not None:
        try:
            _let_session_go(call, save=is_answer(error))
        except Exception as late:  # the store of sessions has failed
            error = late
    return fail(call, error)


def _let_session_go(call: Call, save: bool) -> None:
    session = call.scope.session
    if session is not None:
        session.let_go(save)


def ask_authorizers(call: Call) -> None:
    """Ask who decides about this call; MethodNotFound if one says no."""
    for authorize in call.method.authorizers:
        if not ask(call, authorize, call):
            raise MethodNotFound()


def ask(call: Call, decide: Callable[..., Any], *args: Any) -> bool:
    """Whether ``decide(*args)`` of the application grants ``call``.

    On a worker or, what is marked nonblocking, on the loop's thread; with
    ``call`` as the running one.  Raises what ``decide`` raises.
    """
    if not host_serving.is_entered():
        load_serving()
    mine = cell.get()
    assert mine is not None
    before, mine.call = mine.call, call
    try:
        verdict = decide(*args)
    finally:
        mine.call = before
        if before is not call and call.scope is not None:
            # Else the method is to come on this thread, and lets it go.
            _let_session_go(call, save=True)
    if isinstance(verdict, CoroutineType):
        verdict.close()
        raise TypeError(f'{decide!r} returned a coroutine, which is neither '
                        'yes nor no: it cannot be async')
    return bool(verdict)


def run_on_loop(call: Call) -> bytes | None:
    """Run a nonblocking method here; its reply's text, None if later."""
    try:
        if call.kwargs is None:
            call.args, call.kwargs = call.method.bind(call.params)
        return answer(call, _call(call))
    except BaseException as error:  # the application's: SystemExit, too
        return fail(call, error)


def run_as_task(call: Call) -> None:
    """Start an ``async def`` method; ``admission.task_done`` at its end."""
    call.connection.io.spawn(_run_async, call, _finish)


def _finish(call: Call, begun: float, error: BaseException | None) -> None:
    peer = call.connection
    tally_of(call, peer.io.cell.tallies).note(1, _clock() - begun)
    if error is not None and not isinstance(error, asyncio.CancelledError):
        _limiter.log(log, 'fault', logging.ERROR, '%r: a fault of ours',
                     call, exc_info=error)
    peer.admission.task_done(call)


async def _run_async(call: Call) -> None:
    cell.set(Cell(call))        # in this task's own copy of the context
    peer, timeout_s = call.connection, call.method.timeout_s
    around = peer.around
    text: bytes | None
    limit = None
    try:
        if peer.has_closed:
            raise GoingAway()
        if timeout_s is None and around is None:
            text = answer(call, await _call(call))
        else:
            async with asyncio.timeout(timeout_s) as limit:
                text = await _answer_within(around, call)
    except TimeoutError as error:
        text = fail(call, RPCError(-32000, 'the method timed out')
                    if limit is not None and limit.expired() else error)
    except asyncio.CancelledError:
        # The connection went, or the server stops: nobody hears it.
        peer.complete(call, fail(call, ConnectionLostError()))
        raise
    except BaseException as error:  # the application's: SystemExit, too
        text = fail(call, error)
    if text is not None:
        peer.complete(call, text)
    else:
        answer_when_settled(call)


async def _answer_within(around: Any, call: Call) -> bytes | None:
    if around is None:
        return answer(call, await _call(call))
    async with around(call):
        return answer(call, await _call(call))
    raise _swallowed(call)


def _swallowed(call: Call) -> Exception:
    # What failed must not look like a result, whatever an around does.
    return WsrpcError(f'tools.wsrpc.around kept what {call.name} raised: '
                      'an exception has to pass through it')


def _call(call: Call) -> Any:
    method = call.method
    if method.route is None:
        # An empty ** costs as much as a small method.
        return (method.function(*call.args, **call.kwargs) if call.kwargs
                else method.function(*call.args))
    instance = call.connection.seats.instance_for(call)
    return method.function(instance, *call.args, **call.kwargs)


# -- results and errors ------------------------------------------------------


#: Types of results of which :func:`answer` need look for nothing: no reply
#: to wait for, no coroutine, never too big.  Spares a call 0.09 us of 1.6.
ALWAYS_FITS = frozenset({int, bool, type(None)})


def answer(call: Call, value: Any) -> bytes | None:
    """The reply's text; None if it is to be the client's own reply.

    Then ``answer_when_settled`` must be called, once all that surrounds
    the method has been left.
    """
    if type(value) is PendingReply:
        host_serving.surroundings_of(call).reply = value
        return None
    try:
        text: bytes = call.dialect.encode_result(call.id, value)
    except TypeError:
        if not isinstance(value, CoroutineType):
            raise
        value.close()           # else Python warns of it, too
        raise TypeError(f'{call.name} returned a coroutine: make it an '
                        '"async def" that awaits it') from None
    if len(text) > call.connection.out_max_bytes:
        raise ResponseTooBig(f'the result of {call.name} has {len(text)} '
                             'bytes')
    return text


def answer_when_settled(call: Call) -> None:
    """Answer with the client's reply that its method has returned.

    At once, and here, if that has come.  So the call must stand in
    ``running``, from which its answer takes it, and nothing that could
    still fail may be left to do for it: there would be two answers.
    """
    reply: PendingReply = call.scope.reply
    reply.watch(lambda reply: _answer_with(call, reply))


def _answer_with(call: Call, reply: PendingReply) -> None:
    try:
        text = call.dialect.encode_result(call.id, reply._take())
    except Exception as error:  # a RemoteError, or no JSON
        text = fail(call, error)
    call.connection.complete(call, text)


def fail(call: Call, error: BaseException, ran: bool = True) -> bytes:
    """The error reply for what was raised; logs what it hides.

    ``ran``: False where the call never came to its method.
    """
    peer = call.connection
    ref = None
    try:
        if not is_answer(error) and not isinstance(
                error, (ConnectionLostError, asyncio.CancelledError)):
            ref = report(peer, call.name, error)
        code, message, data = failure_of(
            error, peer.endpoint.options.debug, ref)
        # One that is made once and raised often would grow by its frames
        # each time, and keep what they hold.
        error.__traceback__ = None
    except BaseException:  # the application's class, which raises itself
        return fail(call, WsrpcError(
            f'{call.name} raised what raises when it is looked at'), ran)
    peer.hub.statistics.count_failure(call, code, ran)
    text: bytes = call.dialect.encode_failure(call.id, code, message, data)
    return text


def report(peer: Any, what: str, error: BaseException) -> str:
    """Write what code of the application raised into *its* log.

    ``cherrypy.log`` would look for the application at the thread's request
    and may find another (pitfalls 29).  One line a second for each name and
    type of exception.

    Returns the reference of the line; for what is only counted, that of
    the line before it; ``''`` if nothing is logged.
    """
    kind = type(error).__name__
    return _limiter.log_under(
        new_ref(), peer.handshake.app.log.error_log,
        f'{what} {kind}', logging.ERROR, 'WSRPC %s of %s raised %s',
        escape(what), peer.id, kind, exc_info=error)


def check_session(call: Call) -> None:
    """Raise Unauthorized, and close, if the session has gone.

    On the loop's thread only where the key is ``in_memory``.
    """
    peer = call.connection
    if not peer.handshake.session_key.exists():
        error = Unauthorized('the session has ended: sign in again',
                             {'executed': False})
        peer.lose_user(call, error)
        raise error
