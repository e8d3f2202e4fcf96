"""A bounded, fair pool of threads for the application's code.  Layer 2.

``peer`` puts calls in on the loop's thread; ``wsrpc-worker-N`` run them.
Two ways in, both of which start work in the order in which it came:

* :meth:`Lane.submit`: calls of one connection, several at a time;
* :meth:`Strand.post`: hooks of one connection, one at a time.

What is put in is a function that never raises and its argument; what it
raises all the same is logged and ends nothing.  Each runs in a copy of the
context (``contextvars``) that ``on_thread_start`` has left.

Fairness: a connection has at most half of the pool, in the queue and at
work; what it sends beyond that waits in its own lane and goes to the
*tail* of the queue, one for each that is done.  A connection with
thousands of calls thus delays another's by at most a round.

A worker that waits for a client (``PendingReply.result``) lends its place
to a spare thread, up to four times the pool's size; so eight callers whose
clients call back finish on a pool of eight (issue 2).
"""
from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from typing import Any, TypeAlias

from .conversation import blocking
from .errors import Busy

__all__ = ['Lane', 'Strand', 'WorkerPool', 'run_own_strand']

log = logging.getLogger('cp_wsrpc.workers')

#: Lane (None: of a strand), function, its argument.
Task: TypeAlias = 'tuple[Any, Callable[[Any], object], Any]'

#: In the queue: the worker that takes it ends.
_RETIRE: Any = (None, None, None)


class _Queue:
    """Tasks on their way to the workers; wakes no more than must be.

    Any thread puts; workers get.  ``SimpleQueue`` wakes *two* threads for
    each task that finds workers idle - the one that gets it lets the next
    one look for itself -, and all of them in turn for a burst.  Here a
    burst wakes one, the one that came to rest last, and whoever takes a
    task while more are there wakes the next: methods that wait are run
    side by side as before, short ones by one warm thread.

    Without a lock, by the atomic steps of ``deque``: a task is put before
    the look for who rests, and a worker lies down before it looks for a
    task once more, so one of the two sees the other.
    """

    __slots__ = ('_resting', '_tasks', '_waking')

    def __init__(self) -> None:
        self._tasks: deque[Task] = deque()
        self._resting: deque[Any] = deque()     # held locks
        self._waking = False        # one was woken and has not come yet

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def resting(self) -> int:
        """Workers that wait for a task."""
        return len(self._resting)

    def put(self, task: Task) -> None:
        self._tasks.append(task)
        if self._resting and not self._waking:
            self._wake_one()

    def put_all(self, tasks: Iterable[Task]) -> None:
        """Put several; they wake one worker, which wakes the next."""
        self._tasks.extend(tasks)
        if self._resting and not self._waking and self._tasks:
            self._wake_one()

    def get(self, bed: Any) -> Task:
        """The next task; ``bed`` is a lock of the caller's own, held."""
        tasks = self._tasks
        while True:
            try:
                task = tasks.popleft()
            except IndexError:
                self._rest(bed)
                continue
            if tasks and self._resting and not self._waking:
                self._wake_one()
            return task

    def _rest(self, bed: Any) -> None:
        self._resting.append(bed)
        if self._tasks:             # put while we lay down
            try:
                self._resting.remove(bed)
            except ValueError:
                pass                # it woke us: take note below
            else:
                return
        bed.acquire()
        self._waking = False

    def _wake_one(self) -> None:
        while True:
            self._waking = True
            try:
                bed = self._resting.pop()
            except IndexError:
                self._waking = False
                # Who put or lay down while it was True has left it to us.
                if not (self._tasks and self._resting):
                    return
            else:
                bed.release()
                return



class WorkerPool:
    """Threads that run what lanes, strands and turns give them.

    ``size``         threads that may work at a time (10)
    ``max_waiting``  calls that may wait for one, of all lanes (1 024);
                     beyond, ``Lane.submit`` says no and the call is
                     answered "busy"
    ``on_thread_start``, ``on_thread_stop``  run in each worker as its
                     first and last act (CherryPy's thread rules); again
                     after :meth:`refresh`

    ``_lock`` guards the counters here and in every lane and strand: one
    lock, since each is held for some attribute writes only, and a call
    takes it twice.  Nothing is called under it but ``_Queue.put``,
    which does not wait.
    """

    def __init__(self, size: int = 10, max_waiting: int = 1024,
                 on_thread_start: Callable[[], None] = lambda: None,
                 on_thread_stop: Callable[[], None] = lambda: None) -> None:
        self.size = size
        self.max_waiting = max_waiting
        self.max_threads = 4 * size
        self._on_start = on_thread_start
        self._on_stop = on_thread_stop
        self._queue: _Queue = _Queue()
        self._lock = threading.Lock()
        self._threads: set[threading.Thread] = set()
        self._alive = 0             # threads, less those told to retire
        self._lent = 0              # workers that wait for a client
        self._parked = 0            # calls in lanes, not yet in the queue
        self._active_strands = 0
        self._strands_idle = threading.Condition(self._lock)
        self._named = 0
        self._generation = 0
        self._stopped = True

    def start(self) -> None:
        """Start the threads.  A stopped pool may be started again."""
        with self._lock:
            self._stopped = False
            # A new queue: what is in the old one are the orders to end for
            # threads that have not yet come back.
            self._queue = _Queue()
            self._alive = self._lent = 0
            self._start_missing()

    def stop(self, timeout_s: float = 1.0) -> bool:
        """End the threads when they come back; False if some do not.

        Those are daemons and end with the process (design.md, 2).
        """
        with self._lock:
            self._stopped = True
            for _ in range(self._alive):
                self._queue.put(_RETIRE)
            self._alive = 0
            threads = list(self._threads)
        end = time.monotonic() + timeout_s
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def refresh(self) -> None:
        """Have each worker give back and take anew what it was given.

        For ``engine.graceful``: workers call ``on_thread_stop`` and
        ``on_thread_start`` before their next call.
        """
        self._generation += 1

    def rescue(self) -> None:
        """One more thread, whatever the limits: the pool is stuck."""
        with self._lock:
            self._start_thread()

    def submit_all(self, tasks: list[Task]) -> list[Any]:
        """Submit many at once; the arguments of those that had no room.

        As ``Lane.submit`` for each, by one lock and one look for a worker.
        """
        refused: list[Any] = []
        admitted: list[Task] = []
        with self._lock:
            room = self.max_waiting - len(self._queue) - self._parked
            for task in tasks:
                lane = task[0]
                if room <= 0:
                    refused.append(task[2])
                elif lane._taken < lane._max_running:
                    lane._taken += 1
                    admitted.append(task)
                    room -= 1
                elif lane._park(task):
                    room -= 1
                else:
                    refused.append(task[2])
            self._queue.put_all(admitted)
        return refused

    def wait_for_strands(self, timeout_s: float) -> bool:
        """Wait until no hook waits or runs; False if some still do.

        In a hook (one that stops the engine) no other but itself; see
        :func:`run_own_strand`.
        """
        mine = int(getattr(_here, 'strand', None) is not None)
        with self._lock:
            return self._strands_idle.wait_for(
                lambda: self._active_strands <= mine, timeout_s)

    @property
    def waiting(self) -> int:
        """Calls that wait for a thread; read without the lock, for show."""
        return self._parked + len(self._queue)

    @property
    def has_waiting(self) -> bool:
        """Whether a worker that comes back finds something to do."""
        return len(self._queue) > 0

    @property
    def is_busy(self) -> bool:
        """Whether a worker has something to do; without the lock."""
        return self._queue.resting < self._alive or len(self._queue) > 0

    @property
    def threads(self) -> int:
        """Threads alive, lent ones and spares included."""
        return len(self._threads)

    @property
    def lent(self) -> int:
        """Threads that wait for a client; read without the lock."""
        return self._lent

    @contextmanager
    def lend(self, lane: Lane | None) -> Iterator[None]:
        """Around a wait in a worker: its place goes to a spare thread.

        Raises Busy when four times the pool's size is at work or waits.
        """
        with self._lock:
            if self._alive >= self.max_threads and not self._stopped \
                    and self._alive - self._lent <= self.size:
                raise Busy('too many calls wait for their clients')
            # Whether the pool was started anew meanwhile, without this
            # thread in its figures.
            queue = self._queue
            self._lent += 1
            self._start_missing()
            if lane is not None:
                lane._advance()
        try:
            yield
        finally:
            with self._lock:
                if lane is not None:
                    lane._taken += 1
                if queue is self._queue:
                    self._lent -= 1
                if self._alive - self._lent > self.size \
                        and not self._stopped:
                    self._alive -= 1
                    self._queue.put(_RETIRE)

    def _start_missing(self) -> None:
        assert self._lock.locked()
        while not self._stopped and self._alive - self._lent < self.size \
                and self._alive < self.max_threads:
            self._start_thread()

    def _start_thread(self) -> None:
        assert self._lock.locked()
        self._named += 1
        self._alive += 1
        # Daemons: a method that never returns must not keep the process
        # (bus.block() joins every other thread without limit; pitfall 26).
        thread = threading.Thread(
            target=self._run, args=(self._queue,),
            name=f'wsrpc-worker-{self._named}', daemon=True)
        self._threads.add(thread)
        thread.start()

    def _run(self, queue: _Queue) -> None:
        lane_of_call: list[Lane | None] = [None]
        blocking.guard = blocking.lend = partial(self._lend_place,
                                                 lane_of_call)
        generation = self._generation
        self._hook(self._on_start)
        context = copy_context()
        bed = threading.Lock()
        bed.acquire()
        get = queue.get
        try:
            while True:
                task = get(bed)
                lane, run, argument = task
                if task is _RETIRE:
                    return
                if generation != self._generation:
                    generation = self._generation
                    self._hook(self._on_stop)
                    self._hook(self._on_start)
                    context = copy_context()
                lane_of_call[0] = lane
                try:
                    # In a context of its own: what it sets is not for the
                    # next, which may be another user's (45 ns).
                    context.copy().run(run, argument)
                except BaseException:
                    # Nothing of the application's comes this far: it is a
                    # fault of ours, and no reason to lose a worker.
                    log.exception('a task of the pool failed')
                if lane is not None:
                    lane.finish()
                # An idle worker must not keep the last call's objects.
                del task, lane, run, argument
                lane_of_call[0] = None
        finally:
            self._hook(self._on_stop)
            with self._lock:
                self._threads.discard(threading.current_thread())

    def _lend_place(self, lane_of_call: list[Lane | None]) -> Any:
        return self.lend(lane_of_call[0])

    def _hook(self, hook: Callable[[], None]) -> None:
        try:
            hook()
        except Exception:  # the application's: the worker goes on
            log.exception('a thread hook of the pool failed')


class Lane:
    """The calls of one connection on their way into the pool.

    At most ``max_running`` of them are in the pool's queue and at work,
    at most ``max_waiting`` wait behind those.  ``pool._lock`` guards all.
    """

    __slots__ = ('_max_running', '_max_waiting', '_parked', '_taken', 'pool')

    def __init__(self, pool: WorkerPool, max_running: int,
                 max_waiting: int = 128) -> None:
        self.pool = pool
        self._max_running = max(1, min(max_running, pool.size // 2))
        self._max_waiting = max_waiting
        self._taken = 0
        self._parked: deque[Task] | None = None     # most never need it

    def submit(self, run: Callable[[Any], object], argument: Any) -> bool:
        """Have a worker call ``run(argument)``; False when full."""
        return not self.pool.submit_all([(self, run, argument)])

    def _park(self, task: Task) -> bool:
        """Have a call wait in the lane itself; False when that is full."""
        assert self.pool._lock.locked()
        if self._parked is None:
            self._parked = deque()
        elif len(self._parked) >= self._max_waiting:
            return False
        self._parked.append(task)
        self.pool._parked += 1
        return True

    def finish(self) -> None:
        """One call is done; called by the worker that ran it."""
        with self.pool._lock:
            self._advance()

    def clear(self) -> list[Any]:
        """Take out what waits in the lane; the arguments of it."""
        with self.pool._lock:
            if not self._parked:
                return []
            arguments = [task[2] for task in self._parked]
            self.pool._parked -= len(self._parked)
            self._parked.clear()
        return arguments

    def _advance(self) -> None:
        pool = self.pool
        assert pool._lock.locked()
        if self._parked and self._taken <= self._max_running:
            pool._parked -= 1
            pool._queue.put(self._parked.popleft())
        else:
            self._taken -= 1

    @property
    def taken(self) -> int:
        """Calls in the pool's queue and at work; for show, no lock."""
        return self._taken

    @property
    def waiting(self) -> int:
        """Calls that wait in the lane itself."""
        return len(self._parked) if self._parked else 0


class Strand:
    """Hooks and messages of one connection: on the pool, one at a time.

    ``post`` from any thread; each function is called in the order of its
    posting, never two at once.  Not counted in the pool's limits: what
    fills it is bounded by whoever posts (a socket stops reading).
    """

    __slots__ = ('_pool', '_tasks', '_active')

    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool
        self._tasks: deque[tuple[Callable[..., object], tuple[Any, ...]]] \
            = deque()
        self._active = False

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs or waits; by the time you look, maybe."""
        return not self._active

    def post(self, run: Callable[..., object], *args: Any) -> None:
        """Have ``run(*args)`` called on the pool after all before it."""
        pool = self._pool
        with pool._lock:
            self._tasks.append((run, args))
            if self._active:
                return
            self._active = True
            pool._active_strands += 1
            pool._queue.put((None, Strand._run_next, self))

    def _run_next(self) -> None:
        # One a turn: a busy strand goes to the tail, as a busy lane does.
        run, args = self._tasks.popleft()
        _here.strand = self
        _run_hook(run, args)
        _here.strand = None
        pool = self._pool
        with pool._lock:
            if self._tasks:
                pool._queue.put((None, Strand._run_next, self))
                return
            self._active = False
            pool._active_strands -= 1
            if pool._active_strands <= 1:
                pool._strands_idle.notify_all()

    def _run_rest(self) -> None:
        while True:
            with self._pool._lock:
                if not self._tasks:
                    return
                run, args = self._tasks.popleft()
            _run_hook(run, args)


#: ``strand``: the one of which this thread runs a task
_here = threading.local()


def run_own_strand() -> None:
    """In a hook that ends everything: run what waits behind it, here.

    ``closed()`` of a connection whose handler stops the engine would wait
    for the handler, and that for ``closed()``.
    """
    strand = getattr(_here, 'strand', None)
    if strand is not None:
        strand._run_rest()


def _run_hook(run: Callable[..., object], args: tuple[Any, ...]) -> None:
    try:
        run(*args)
    except BaseException:  # a fault of ours: the next one is to run
        log.exception('a hook failed')
