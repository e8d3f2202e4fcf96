"""What a server says to a client, run on the client's own threads.
Layer 4.

* A *call* of the server: several at a time, so that one which calls back
  (``client.call(...).result()``) stops none of the others.
* A *notification* and a topic's event: one at a time, in the order in
  which the server sent them.
* ``on_close``, in order, and ``on_connect``: beside all that.  Calls wait
  for ``on_connect``, and a listener may wait for its call.

The threads are those of ``workers``, started when there is first work for
them; who waits in ``.result()`` lends its place to a spare one.
"""
from __future__ import annotations

import asyncio
import logging
import threading
import traceback
from collections.abc import Callable
from typing import Any

from .conversation import PendingReply
from .errors import (Busy, InvalidRequest, MethodNotFound, RPCError)
from .logs import escape, limited
from .messages import NO_ID, Call
from .registry import Method
from .strands import Strand
from .workers import Lane, WorkerPool

__all__ = ['Routes', 'in_thread_of']

log = logging.getLogger('cp_wsrpc.client')

MAX_THREADS = 128
MAX_TYPE_CHARS = 120
MAX_TEXT_BYTES = 4096

_here = threading.local()


def in_thread_of(client: Any) -> bool:
    """Whether this is a thread that runs functions for ``client``."""
    return getattr(_here, 'client', None) is client


class Routes:
    """The functions that the server may call, and the threads for them.

    ``threads``: how many calls of the server run at a time (4).

    ``serve`` belongs to the loop's thread, the rest to any; each ``retire``
    is followed by an ``open`` or, from outside, a ``join``, or neither.
    ``_lock`` guards ``_pool`` and what is made with it, ``_order`` and
    ``_retired``.
    """

    def __init__(self, client: Any, threads: int = 4) -> None:
        self._client = client
        self._threads = threads
        self._methods: dict[str, Method] = {}
        self._running: set[Any] = set()     # ids; added to by the loop
        self._lock = threading.Lock()
        #: which order to end holds; None: it runs
        self._order: object = None
        self._retired: WorkerPool | None = None     # its threads may live
        self._pool: WorkerPool | None = None
        self._lane: Lane | None = None
        self._strand: Strand | None = None
        self._closings: Strand | None = None

    # -- registering -------------------------------------------------------

    def add(self, name: str, function: Callable[..., Any]) -> None:
        """Let the server call it; annotated parameters are checked."""
        if not isinstance(name, str) or not callable(function):
            raise TypeError('route(name, function)')
        if name.startswith(('rpc.', '$/')):
            raise ValueError(f'{name!r} is reserved by the protocol')
        self._methods[name] = Method(name, function)

    def remove(self, name: str) -> bool:
        """Whether there was one."""
        return self._methods.pop(name, None) is not None

    # -- running -----------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Events and notifications not yet begun."""
        return len(self._strand) if self._strand is not None else 0

    def post(self, what: str, function: Callable[..., object], *args: Any,
             ) -> None:
        """Run it after all that was posted before; log what it raises."""
        strand = self._start()
        if strand is not None:
            strand.post(_run_hook, what, function, args)

    def post_apart(self, what: str, function: Callable[..., object],
                   *args: Any) -> None:
        """Run it beside all others; log what it raises."""
        self._start()
        pool = self._pool
        if pool is not None:
            Strand(pool).post(_run_hook, what, function, args)

    def post_closing(self, what: str, function: Callable[..., object],
                     *args: Any) -> None:
        """Run it after all that was posted so before, and beside others."""
        self._start()
        closings = self._closings
        if closings is not None:
            closings.post(_run_hook, what, function, args)

    def serve(self, call: Call, answer: Callable[[bytes], None]) -> None:
        """Have the server's call run, and its reply given to ``answer``.

        ``answer`` is called once, in whatever thread; not at all for a
        notification.
        """
        method = self._methods.get(call.name)
        if call.id is NO_ID:
            if method is not None:
                self.post(call.name, _run_notification, method, call.params)
            elif not call.name.startswith('$/'):
                log.debug('no route for the notification %s',
                          escape(call.name))
            return
        if method is None:
            answer(_failure(call, MethodNotFound(
                f'the client has no route {escape(call.name, 80)}')))
            return
        if call.id in self._running:
            call.id, error = None, InvalidRequest(
                'a call with this id is still running',
                {'executed': False})
            answer(_failure(call, error))
            return
        call.method = method
        self._start()
        lane = self._lane
        self._running.add(call.id)
        if lane is None or not lane.submit(self._run, (call, answer)):
            self._running.discard(call.id)
            answer(_failure(call, Busy()))

    def open(self) -> None:
        """Run what comes from now on, also again after a ``retire``."""
        with self._lock:
            # The threads that have not ended yet go on: what waits there
            # and what is to come keep their order.
            self._order = None

    def retire(self) -> None:
        """Order the threads to end after what was posted; any thread."""
        with self._lock:
            order = self._order = object()
            strand, closings = self._strand, self._closings
        if strand is not None and closings is not None:
            # One runs after the other, and each goes behind the orders to
            # end; so those are given when the last has run.
            closings.post(strand.post, self._retire, order)

    def _retire(self, order: object) -> None:
        with self._lock:
            pool = self._pool
            if pool is None or order is not self._order:
                return              # done already, or opened again
            self._pool = self._lane = self._strand = self._closings = None
            self._retired = pool
        pool.stop(0.0)

    def join(self, timeout_s: float) -> None:
        """After ``retire``: wait for the threads; not from one of them."""
        with self._lock:
            order, pool = self._order, self._pool
        if order is not None and pool is not None:
            pool.wait_for_strands(timeout_s)
            self._retire(order)     # though a function hangs
        with self._lock:
            pool, self._retired = self._retired, None
        if pool is not None and not pool.stop(timeout_s):
            log.warning('a function that the server called still runs')

    def _start(self) -> Strand | None:
        with self._lock:
            if self._pool is None and self._order is None:
                # A Lane may take half of a pool; the rest is for the
                # strands, and one for on_connect.
                self._pool = WorkerPool(2 * self._threads + 2,
                                        on_thread_start=self._enter_thread)
                self._lane = Lane(self._pool, self._threads)
                self._strand = Strand(self._pool)
                self._closings = Strand(self._pool)
                # Each that waits for the server has a thread; a server that
                # nests calls in both directions may have many waiting.
                self._pool.max_threads = MAX_THREADS
                self._pool.start()
            return self._strand

    def _enter_thread(self) -> None:
        thread = threading.current_thread()
        thread.name = thread.name.replace('wsrpc-worker', 'wsrpc-client')
        _here.client = self._client

    def _run(self, work: tuple[Call, Callable[[bytes], None]]) -> None:
        call, answer = work
        try:
            value = _call(call.method, call.params)
            text = call.dialect.encode_result(call.id, value)
        except BaseException as error:  # the application's: the server waits
            log.debug('route %s raised', call.name, exc_info=error)
            text = _failure(call, error)
        self._running.discard(call.id)
        answer(text)


def _call(method: Method, params: Any) -> Any:
    args, kwargs = method.bind(params)
    value = method.function(*args, **kwargs)
    if method.kind == 'async':
        value = asyncio.run(value)
    if type(value) is PendingReply:
        value = value.result()
    return value


def _run_notification(method: Method, params: Any) -> None:
    _call(method, params)


def _run_hook(what: str, function: Callable[..., object],
              args: tuple[Any, ...]) -> None:
    try:
        function(*args)
    except BaseException as error:  # the application's: the thread lives on
        limited(log, f'{what} {type(error).__name__}', logging.ERROR,
                '%s raised %s', what, type(error).__name__, exc_info=error)


def _failure(call: Call, error: BaseException) -> bytes:
    """The reply's text: an RPCError as written, all else with its stack.

    The stack goes into the server's log: what a client runs is no secret
    to its server (protocol.md, 1).
    """
    if isinstance(error, RPCError):
        code, message, data = error.code, error.message, error.data
    else:
        code, message = -32000, _cut(_text_of(error))
        data = {'type': type(error).__name__[:MAX_TYPE_CHARS],
                'stack': _cut(_stack_of(error))}
    text: bytes = call.dialect.encode_failure(call.id, code, message, data)
    return text


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:           # its __str__ is the application's
        return f'{type(error).__name__} (its __str__ raised)'


def _stack_of(error: BaseException) -> str:
    try:
        return ''.join(traceback.format_exception(error))
    except Exception:  # __repr__ or __cause__ raised
        return ''.join(traceback.format_tb(error.__traceback__))


def _cut(text: str) -> str:
    """The end of it, in at most 4 kB of UTF-8: it says the most."""
    return text.encode('utf-8', 'replace')[-MAX_TEXT_BYTES:].decode(
        'utf-8', 'ignore')
