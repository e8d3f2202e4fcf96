"""The I/O thread: adopts sockets, turns timers, fans pushes out.  Layer 4.

One asyncio loop (uvloop's when it is installed) in the thread ``wsrpc-io``
reads, parses and writes for all sockets and runs ``async def`` and
nonblocking methods; no other code of the application runs here.

Other threads reach it in three ways, none of which waits:

* :meth:`IOLoop.post`: have something called here;
* :meth:`IOLoop.flush_soon`: a socket's out-queue has something to send;
* :meth:`IOLoop.fan_out`: one frame per dialect for many sockets.

All three put into a deque and wake the loop at most once until it has
looked: ``_woken`` is cleared *before* the deques are emptied, so what is
put in after that finds it clear and wakes again; nothing is missed.

Deadlines are coarse, 250 ms: see ``timers``.
"""
from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from . import timers, transport
from .admission import refuse_start
from .conversation import blocking
from .coroutines import Coroutines
from .current import Cell, cell
from .errors import WrongThread
from .fanout import FanOut, Targets
from .host_serving import leave_thread
from .invocation import load_serving
from .logs import limited
from .readiness import READ, WRITE, Readiness
from .statistics import Stretch
from .waits import wait_in_task
from .timers import Timers

if TYPE_CHECKING:
    from .coroutines import Done, Run
    from .messages import Call
    from .websocket import WebSocket
    from .taskqueue import Task
    from .users import Target

__all__ = ['IOLoop']

log = logging.getLogger('cp_wsrpc.ioloop')

#: What tasks that were cancelled at the stop have to end.
_CANCEL_TIMEOUT_S = 0.5
#: What stands in the loop's thread longer than this holds all sockets up.
SLOW_S = 0.1
#: A tick that comes this late was no load: the process had been stopped.
_ASLEEP_S = 5.0
#: What a flood of one peer pauses for between two slices of it while workers
#: have something to do.  A thread asks for the interpreter only after 5 ms
#: without a release; this one releases it for the moment of each send, so
#: workers would be woken again and again and find it taken: calls of others
#: had a p99 of 103 ms beside such a flood, and have 4.
_YIELD_S = 0.0002
#: What all floods together get of a turn of the loop.  One slice each made
#: 180 ms for the calls of others beside eight floods.
_TURNS_S = 0.01


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


class IOLoop:
    """The manager of a process's sockets, in ws4py's sense of the word.

    ``start`` and ``stop`` are the plugin's; a stopped one may be started
    again.  Any thread: ``post``, ``flush_soon``, ``fan_out``, ``now``,
    ``in_loop``, ``len()``.  The rest belongs to the loop's thread.
    """

    def __init__(self) -> None:
        #: every adopted socket that is not closed
        self.websockets: dict[WebSocket, None] = {}
        # Those of RPC, by the URL path of their endpoint.
        self._peers: dict[str, dict[WebSocket, None]] = {}
        # Those of whom it is known who they are, by their user's key.
        self._of_users: dict[bytes, dict[WebSocket, None]] = {}
        #: for statistics, since the start: opened, closed, slow_readers,
        #: bad_messages, ignored_replies, pushes_delivered on the loop's
        #: thread; pushes, pushes_refused under a lock of ``pushes``
        self.counters: Counter[str] = Counter()
        #: what is sent to many at once
        self.pushes = FanOut(self.counters, self._guarded,
                             self._flush_waiting)
        #: when sockets are looked at
        self.timers = Timers(self._look)
        self.schedule = self.timers.schedule
        self.bytes_in = 0
        #: when the process last woke from being stopped
        self.awake_since = 0.0
        #: what each socket is closed with that comes now: the engine stops
        self.closing: tuple[int, str] | None = None
        #: no more sockets are taken
        self.ended = False
        #: asked whenever a call or a connection ends (``shutdown``)
        self.on_progress: Callable[[], None] | None = None
        #: what runs just now, for the log of slow callbacks
        self.doing = ''
        self.now: Callable[[], float] = time.monotonic
        #: makes the asyncio loop at each start
        self.new_loop: Callable[[], asyncio.AbstractEventLoop] = _new_loop
        #: holds the nonblocking method that runs just now
        self.cell = Cell(tallies={})
        #: times the nonblocking methods of one read
        self.stretch = Stretch(self.cell.tallies)
        #: what every plain socket is read into, one after the other
        self.read_buffer = memoryview(bytearray(transport.READ_BYTES))
        self.loop: asyncio.AbstractEventLoop | None = None
        self._context = copy_context()
        self._thread: threading.Thread | None = None
        self._thread_id = 0
        self._coroutines: Coroutines | None = None
        self._woken = False
        self._posted: deque[tuple[Callable[..., object],
                                  tuple[Any, ...]]] = deque()
        self._to_flush: deque[WebSocket] = deque()
        self._turns: deque[WebSocket] = deque()     # have more to handle
        self._in_turns = False
        #: (lane, function, call): what the pool is given at the turn's end;
        #: who appends calls :meth:`submit_soon`
        self.submissions: list[Task] = []
        self._is_submit_due = False
        self._ticked_at = 0.0
        self._looked_at = 0.0       # at the clock, in this turn

    def __len__(self) -> int:
        return len(self.websockets)

    def __iter__(self) -> Any:
        return iter(tuple(self.websockets))

    def __contains__(self, websocket: object) -> bool:
        return websocket in self.websockets

    # -- life -------------------------------------------------------------

    def start(self) -> None:
        """Start the thread; returns when it runs."""
        assert self._thread is None
        self.closing, self.ended = None, False
        self._forget_all()
        self.loop = self.new_loop()
        ready = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(ready,), name='wsrpc-io', daemon=True)
        self._thread.start()
        ready.wait()

    def stop(self, timeout_s: float = 2.0) -> bool:
        """End the thread; False if it did not end in time.

        Sockets are no business of this: the plugin has closed them.
        """
        thread, loop = self._thread, self.loop
        if thread is None or loop is None:
            return True
        self._call_threadsafe(loop.stop)
        if not self.in_loop():
            thread.join(timeout_s)
        self._thread = None
        return not thread.is_alive()

    def _forget_all(self) -> None:
        """Drop what was put in since the last stop; nobody waits for it.

        A method that outlived the stop has set ``_woken``, say: left so,
        the next loop would never be woken.
        """
        self._posted.clear()
        self._to_flush.clear()
        self._turns.clear()
        self._in_turns = False
        self.submissions.clear()
        self._is_submit_due = False
        self.pushes.forget_all()
        self.timers.begin(self.now())
        self._woken = False
        self.on_progress = None
        self.counters.clear()
        self.bytes_in = 0
        self.forget_tallies()

    def forget_tallies(self) -> None:
        """Look for the tallies of methods anew: those may be others now.

        The loop's thread, or while there is none.
        """
        self.stretch.end()
        self.cell.tallies.clear()

    def in_loop(self) -> bool:
        """Whether this is the loop's thread."""
        return threading.get_ident() == self._thread_id

    @property
    def running(self) -> bool:
        """Whether the thread takes what is posted."""
        return self._thread is not None

    def _run(self, ready: threading.Event) -> None:
        loop = self.loop
        assert loop is not None
        asyncio.set_event_loop(loop)
        self._thread_id = threading.get_ident()
        blocking.guard = _refuse_to_wait
        blocking.awaiting = wait_in_task
        # Callbacks run in copies of this context, which share the cell:
        # whoever runs a nonblocking method writes into it.
        cell.set(self.cell)
        self._context = copy_context()
        load_serving()
        self._ticked_at = self.awake_since = self.now()
        readiness = self._readiness = Readiness(
            loop, self._on_readable, self._on_writable, self._note_look,
            self._submit)
        coroutines = self._coroutines = Coroutines(
            loop, self._context, self.now, self._begin_step, self.note_time)
        loop.call_soon(ready.set)
        loop.call_later(timers.TICK_S, self._on_tick)
        try:
            _run_until_stopped(loop)
            coroutines.cancel_all(_CANCEL_TIMEOUT_S)
        finally:
            self._on_wake()         # what was posted while it ended
            leave_thread()
            asyncio.set_event_loop(None)
            readiness.close()
            loop.close()
            if self.loop is loop:       # else another was started since
                self.loop = None
                self._thread_id = 0

    # -- from any thread --------------------------------------------------

    def post(self, run: Callable[..., object], *args: Any) -> None:
        """Have ``run(*args)`` called on the loop's thread, soon."""
        self._posted.append((run, args))
        self._wake()

    def flush_soon(self, websocket: WebSocket) -> None:
        """Have the loop send what stands in the socket's out-queue."""
        self._to_flush.append(websocket)
        self._wake()

    def fan_out(self, targets: Targets, size: int) -> None:
        """Have the loop send a push; see :meth:`cp_wsrpc.fanout.FanOut.add`.
        """
        self.pushes.add(targets, size)
        self._wake()

    @property
    def backlog(self) -> tuple[int, int]:
        """(pushes that wait for the loop, their bytes); for show."""
        return self.pushes.backlog

    def _wake(self) -> None:
        if not self._woken:
            self._woken = True
            self._call_threadsafe(self._on_wake)

    def _call_threadsafe(self, run: Callable[[], object]) -> None:
        loop = self.loop
        if loop is None:
            return
        try:
            # Without it, it would run in a copy of the caller's context.
            loop.call_soon_threadsafe(run, context=self._context)
        except RuntimeError:        # closed between the look and the call
            log.debug('the loop has ended')

    # -- on the loop's thread ---------------------------------------------

    def _on_wake(self) -> None:
        self._woken = False
        pushes = self.pushes
        pushes.begin()      # before the posted; see there
        posted = self._posted
        while posted:
            run, args = posted.popleft()
            begun = self.now()
            try:
                run(*args)
            except BaseException:  # a fault of ours: the rest is to run
                limited(log, 'posted', logging.ERROR, '%r failed', run,
                        exc_info=True)
            self.note_time(begun)
        if pushes.spreading:
            try:
                pushes.spread()
            finally:
                pushes.spreading = False
        self._flush_waiting()

    def _flush_waiting(self) -> None:
        to_flush = self._to_flush
        while to_flush:
            self._guarded(to_flush.popleft(), 'flush')

    def _guarded(self, websocket: WebSocket, name: str, *args: Any) -> None:
        """Call a method of a socket; a fault in it ends it alone."""
        try:
            getattr(websocket, name)(*args)
        except BaseException:  # a fault of ours, or of what it called
            self.fail(websocket)

    def fail(self, websocket: WebSocket) -> None:
        """A fault of ours while serving a socket: log it, close it."""
        try:
            limited(log, 'fault', logging.ERROR, '%r: closed after a fault '
                    'of cp_wsrpc', websocket, exc_info=True)
        except BaseException:  # an exception that raises when it is looked at
            limited(log, 'bare fault', logging.ERROR, '%r: closed after a '
                    'fault of cp_wsrpc', websocket)
        self.stretch.end()
        self.cell.call = None
        try:
            websocket.abort(1011, 'internal error')
        except BaseException:  # it is broken enough as it is
            limited(log, 'not closed', logging.ERROR,
                    '%r could not be closed', websocket, exc_info=True)

    def adopt(self, websocket: WebSocket) -> None:
        """Take a socket over, from the HTTP side.  Posted there."""
        if self.ended:
            websocket.refuse(*self.closing or (1001, 'going away'))
            return
        self.websockets[websocket] = None
        if websocket.dialect is not None:
            self._peers.setdefault(websocket.endpoint.url_path,
                                   {})[websocket] = None
        key = websocket.user_key
        if key:
            self._of_users.setdefault(key, {})[websocket] = None
        self.counters['opened'] += 1
        self._guarded(websocket, 'on_adopted')
        if self.closing is not None:
            websocket.close(*self.closing)

    def forget(self, websocket: WebSocket) -> None:
        """A socket is closed."""
        self.timers.forget(websocket)
        if websocket in self.websockets:
            del self.websockets[websocket]
            self._forget_peer(websocket)
            self.counters['closed'] += 1
            websocket.count_closed()
            self.note_progress()

    def _forget_peer(self, websocket: WebSocket) -> None:
        groups: tuple[tuple[dict[Any, Any], Any], ...] = (
            (self._peers, websocket.endpoint.url_path),
            (self._of_users, websocket.user_key))
        for group, key in groups:
            there = group.get(key, {})
            there.pop(websocket, None)
            if not there:
                group.pop(key, None)

    def peers_at(self, path: str | None = None) -> list[WebSocket]:
        """The sockets of RPC, of one endpoint or of all; any thread."""
        if path is not None:
            return list(self._peers.get(path, ()))
        return [websocket for peers in tuple(self._peers.values())
                for websocket in tuple(peers)]

    def sockets_of(self, target: Target) -> list[WebSocket]:
        """Those of one user, of RPC or not; any thread."""
        if target.key:      # not a look at each: 5 000 take 0.2 ms
            return list(self._of_users.get(target.key, ()))
        return [websocket for websocket in self
                if target.is_met_by(websocket)]

    def note_progress(self) -> None:
        """A call or a connection has ended; any thread."""
        look = self.on_progress
        if look is not None:
            self.post(look)

    def watch_reads(self, websocket: WebSocket) -> None:
        """Call ``on_readable`` whenever bytes have come."""
        self._readiness.watch(websocket.sock, READ, websocket)

    def unwatch_reads(self, websocket: WebSocket) -> None:
        self._readiness.unwatch(websocket.sock, READ)

    def watch_writes(self, websocket: WebSocket) -> None:
        """Call ``on_writable`` when the socket takes bytes again."""
        self._readiness.watch(websocket.sock, WRITE, websocket)

    def unwatch_writes(self, websocket: WebSocket) -> None:
        self._readiness.unwatch(websocket.sock, WRITE)

    def _on_writable(self, websocket: WebSocket) -> None:
        self._guarded(websocket, 'on_writable')

    def read_soon(self, websocket: WebSocket) -> None:
        """Call ``on_turn`` in one of the next turns."""
        assert self.loop is not None
        self._turns.append(websocket)
        if not self._in_turns:
            self._in_turns = True
            self.loop.call_soon(self._on_turns)

    def submit_soon(self) -> None:
        """Give ``submissions`` to the pool at the end of this turn.

        Put in one by one, calls wake a worker at each read, which then
        fights the loop for the interpreter; together, all that one turn
        has read, they wake it once.
        """
        if not self._is_submit_due and not self._readiness.in_turn:
            assert self.loop is not None
            self._is_submit_due = True
            self.loop.call_soon(self._submit, context=self._context)

    def _submit(self) -> None:
        self._is_submit_due = False
        if self.submissions:
            tasks = self.submissions[:]
            self.submissions.clear()
            for call in tasks[0][0].pool.submit_all(tasks):
                refuse_start(call)

    def spawn(self, run: Run, call: Call, done: Done) -> None:
        """Run an ``async def`` method; see ``Coroutines.start``."""
        assert self._coroutines is not None
        self._coroutines.start(run, call, done)

    def _begin_step(self, name: str) -> None:
        self.doing = name

    def _note_look(self) -> float:
        self._looked_at = now = self.now()
        return now

    def _on_readable(self, websocket: WebSocket) -> None:
        # One look at the clock for each read: where this one ends, the next
        # one of the turn begins.
        begun = self._looked_at
        try:
            websocket.on_readable(begun)
        except BaseException:  # a fault of ours ends one socket
            self.fail(websocket)
        self._looked_at = now = self.now()
        if now - begun > _TURNS_S:
            self._note_long(websocket, now - begun)
        self.doing = ''

    def _on_turns(self) -> None:
        """Go on with some of those that have more: 10 ms, and a slice."""
        assert self.loop is not None
        turns = self._turns
        if any(websocket.stream.has_more and websocket.hub.pool.is_busy
               for websocket in turns):
            time.sleep(_YIELD_S)
        until = self.now() + _TURNS_S
        for _ in range(len(turns)):     # who comes back waits for the next
            websocket = turns.popleft()
            begun = self.now()
            self._guarded(websocket, 'on_turn')
            now = self.now()
            if now - begun > _TURNS_S:
                self._note_long(websocket, now - begun)
            self.doing = ''
            if now >= until:
                break
        if turns:
            self.loop.call_soon(self._on_turns)
        else:
            self._in_turns = False

    def _note_long(self, websocket: WebSocket, took_s: float) -> None:
        """One socket had more than its share of a turn."""
        websocket.stream.take_less()
        if took_s > SLOW_S:
            self._log_slow(took_s)

    def note_time(self, begun: float) -> None:
        """Log it if what began then has held all sockets up."""
        took_s = self.now() - begun
        if took_s > SLOW_S:
            self._log_slow(took_s)
        self.doing = ''

    def _log_slow(self, took_s: float) -> None:
        limited(log, 'slow', logging.WARNING,
                '%s held the I/O loop for %.0f ms: while it runs, no '
                'socket is served; take nonblocking off, or await',
                self.doing or 'a message', took_s * 1000)

    # -- time -------------------------------------------------------------

    def _on_tick(self) -> None:
        assert self.loop is not None
        self.loop.call_later(timers.TICK_S, self._on_tick)
        now = self.now()
        if now - self._ticked_at > _ASLEEP_S:
            log.warning('the process stood still for %.0f s',
                        now - self._ticked_at)
            self.awake_since = now
        self._ticked_at = now
        self.timers.turn(now)
        self.note_progress()

    def _look(self, websocket: WebSocket, now: float) -> float | None:
        try:
            return websocket.on_timer(now)
        except BaseException:  # a fault of ours ends one socket
            self.fail(websocket)
            return None


def _run_until_stopped(loop: asyncio.AbstractEventLoop) -> None:
    """Run the loop, whatever a task of the application raises.

    SystemExit and KeyboardInterrupt pass through a task that an ``async
    def`` method has started, and end ``run_forever``; it goes on where it
    was when it is called again.
    """
    while True:
        try:
            loop.run_forever()
            return
        except BaseException:  # SystemExit of a task, say
            log.exception('a task tried to end the I/O loop')


def _refuse_to_wait() -> Any:
    raise WrongThread(
        'result() would hold the I/O loop, for which it waits: use "await" '
        'in async methods, callback= in nonblocking ones')
