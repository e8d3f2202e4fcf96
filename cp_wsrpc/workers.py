"""A bounded, fair pool of threads for the application's code.  Layer 2.

``peer`` puts calls in on the loop's thread; ``wsrpc-worker-N`` run them.
Two ways in, both of which start work in the order in which it came:

* :meth:`Lane.submit`: calls of one connection, several at a time;
* :meth:`cp_wsrpc.strands.Strand.post`: hooks of one connection, one at a time.

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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from typing import Any

from .conversation import blocking
from .errors import Busy
from .logs import limited
from .strands import runs_strand
from .taskqueue import Task, TaskQueue

__all__ = ['Lane', 'WorkerPool']

log = logging.getLogger('cp_wsrpc.workers')

#: In the queue: the worker that takes it ends.
_RETIRE: Any = (None, None, None)


class WorkerPool:
    """Threads that run what lanes, strands and turns give them.

    ``size``         threads that may work at a time (10)
    ``max_waiting``  calls that may wait for one, of all lanes (1 024);
                     beyond, ``Lane.submit`` says no and the call is
                     answered "busy"
    ``on_thread_start``, ``on_thread_stop``  run in each worker as its
                     first and last act (CherryPy's thread rules); again
                     after :meth:`refresh`

    ``lock`` guards the counters here and in every lane and strand: one
    lock, since each is held for some attribute writes only, and a call
    takes it twice.  Nothing is called under it but ``TaskQueue.put``,
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
        self.queue: TaskQueue = TaskQueue()
        self.lock = threading.Lock()
        self._threads: set[threading.Thread] = set()
        self._alive = 0             # threads, less those told to retire
        self._lent = 0              # workers that wait for a client
        self._parked = 0            # calls in lanes, not yet in the queue
        self.active_strands = 0
        self.strands_idle = threading.Condition(self.lock)
        self._named = 0
        self._generation = 0
        self._stopped = True

    def start(self) -> None:
        """Start the threads.  A stopped pool may be started again."""
        with self.lock:
            self._stopped = False
            # A new queue: what is in the old one are the orders to end for
            # threads that have not yet come back.
            self.queue = TaskQueue()
            self._alive = self._lent = 0
            self._start_missing()

    def stop(self, timeout_s: float = 1.0) -> bool:
        """End the threads when they come back; False if some do not.

        Those are daemons and end with the process (design.md, 2).
        """
        with self.lock:
            self._stopped = True
            for _ in range(self._alive):
                self.queue.put(_RETIRE)
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
        with self.lock:
            self._start_thread()

    def submit_all(self, tasks: list[Task]) -> list[Any]:
        """Submit many at once; the arguments of those that had no room.

        As ``Lane.submit`` for each, by one lock and one look for a worker.
        """
        refused: list[Any] = []
        admitted: list[Task] = []
        with self.lock:
            room = self.max_waiting - len(self.queue) - self._parked
            for task in tasks:
                lane = task[0]
                if room <= 0:
                    refused.append(task[2])
                elif lane._taken < lane._max_running:
                    lane._taken += 1
                    admitted.append(task)
                    room -= 1
                elif len(lane._parked) < lane._max_waiting:
                    if lane._parked is _NOTHING:
                        lane._parked = deque()
                    lane._parked.append(task)
                    self._parked += 1
                    room -= 1
                else:
                    refused.append(task[2])
            self.queue.put_all(admitted)
        return refused

    def wait_for_strands(self, timeout_s: float) -> bool:
        """Wait until no hook waits or runs; False if some still do.

        In a hook (one that stops the engine) no other but itself; see
        :func:`cp_wsrpc.strands.run_own_strand`.
        """
        mine = int(runs_strand())
        with self.lock:
            return self.strands_idle.wait_for(
                lambda: self.active_strands <= mine, timeout_s)

    @property
    def waiting(self) -> int:
        """Calls that wait for a thread; read without the lock, for show."""
        return self._parked + len(self.queue)

    @property
    def has_waiting(self) -> bool:
        """Whether a worker that comes back finds something to do."""
        return len(self.queue) > 0

    @property
    def is_busy(self) -> bool:
        """Whether a worker has something to do; without the lock.

        One that waits for a client has not, for as long as it waits.
        """
        return (self.queue.resting < self._alive - self._lent
                or len(self.queue) > 0)

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
        with self.lock:
            if self._alive >= self.max_threads and not self._stopped \
                    and self._alive - self._lent <= self.size:
                raise Busy('too many calls wait for their clients')
            # Whether the pool was started anew meanwhile, without this
            # thread in its figures.
            queue = self.queue
            self._lent += 1
            self._start_missing()
            if lane is not None:
                lane._advance()
        try:
            yield
        finally:
            with self.lock:
                if lane is not None:
                    lane._taken += 1
                if queue is self.queue:
                    self._lent -= 1
                if self._alive - self._lent > self.size \
                        and not self._stopped:
                    self._alive -= 1
                    self.queue.put(_RETIRE)

    def _start_missing(self) -> None:
        assert self.lock.locked()
        while not self._stopped and self._alive - self._lent < self.size \
                and self._alive < self.max_threads:
            self._start_thread()

    def _start_thread(self) -> None:
        assert self.lock.locked()
        self._named += 1
        self._alive += 1
        # Daemons: a method that never returns must not keep the process
        # (bus.block() joins every other thread without limit; pitfall 26).
        thread = threading.Thread(
            target=self._run, args=(self.queue,),
            name=f'wsrpc-worker-{self._named}', daemon=True)
        self._threads.add(thread)
        thread.start()

    def _run(self, queue: TaskQueue) -> None:
        lane_of_call: list[Lane | None] = [None]
        blocking.guard = blocking.lend = partial(self._lend_place,
                                                 lane_of_call)
        generation = self._generation
        self._hook(self._on_start)
        context = copy_context()
        bed = threading.Lock()
        bed.acquire()
        get, put = queue.get, queue.put_unheard
        acquire, release = self.lock.acquire, self.lock.release
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
                    limited(log, 'task', logging.ERROR,
                            'a task of the pool failed', exc_info=True)
                if lane is not None:
                    # As lane._advance(), without calls: 0.2 us of 2.9.
                    # None need be woken: this worker looks itself.
                    acquire()
                    if lane._parked and lane._taken <= lane._max_running:
                        self._parked -= 1
                        put(lane._parked.popleft())
                    else:
                        lane._taken -= 1
                    release()
                # An idle worker must not keep the last call's objects.
                del task, lane, run, argument
                lane_of_call[0] = None
        finally:
            self._hook(self._on_stop)
            with self.lock:
                self._threads.discard(threading.current_thread())

    def _lend_place(self, lane_of_call: list[Lane | None]) -> Any:
        return self.lend(lane_of_call[0])

    def _hook(self, hook: Callable[[], None]) -> None:
        try:
            hook()
        except Exception:  # the application's: the worker goes on
            log.exception('a thread hook of the pool failed')


#: Most lanes never have one wait; a deque of their own is 760 bytes.
_NOTHING: deque[Task] = deque(maxlen=0)


class Lane:
    """The calls of one connection on their way into the pool.

    At most ``max_running`` of them are in the pool's queue and at work,
    at most ``max_waiting`` wait behind those.  ``pool.lock`` guards all.
    """

    __slots__ = ('_max_running', '_max_waiting', '_parked', '_taken', 'pool')

    def __init__(self, pool: WorkerPool, max_running: int,
                 max_waiting: int = 128) -> None:
        self.pool = pool
        self._max_running = max(1, min(max_running, pool.size // 2))
        self._max_waiting = max_waiting
        self._taken = 0
        self._parked = _NOTHING

    def submit(self, run: Callable[[Any], object], argument: Any) -> bool:
        """Have a worker call ``run(argument)``; False when full."""
        return not self.pool.submit_all([(self, run, argument)])

    def clear(self) -> list[Any]:
        """Take out what waits in the lane; the arguments of it."""
        with self.pool.lock:
            if not self._parked:
                return []
            arguments = [task[2] for task in self._parked]
            self.pool._parked -= len(self._parked)
            self._parked.clear()
        return arguments

    def _advance(self) -> None:
        pool = self.pool
        assert pool.lock.locked()
        if self._parked and self._taken <= self._max_running:
            pool._parked -= 1
            pool.queue.put(self._parked.popleft())
        else:
            self._taken -= 1

    @property
    def taken(self) -> int:
        """Calls in the pool's queue and at work; for show, no lock."""
        return self._taken

    @property
    def waiting(self) -> int:
        """Calls that wait in the lane itself."""
        return len(self._parked)
