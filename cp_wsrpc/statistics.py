"""What the operator sees of the traffic: ``logging.statistics``.  Layer 2.

The namespace ``cp_wsrpc`` in CherryPy's convention (``cherrypy.lib.cpstats``
says it in full): a plain dict of numbers, of functions that make a number
when somebody looks, and of collections, dicts of records.  The pages of
cpstats show it, and ``cherrypy.engine.wsrpc.statistics()`` is a copy with
all functions called.  ``Enabled`` False (its Pause) stops the counting of
calls, from the next time somebody looks.

===========================  ===========================================
``Start Time``, ``Uptime``   of the plugin; all else counts from there
``Connections Open``         now
``Connections Opened``,      since the start
``Connections Closed``
``Closed by Code``           ``{'1001': {'Count': 7}}``; codes that only
                             peers or the application use are ``4xxx``
``Handshakes Refused``       how many; one that a client asks about by
                             POST is not counted again
``Refusals``                 ``{'403 origin': {'Count': 2}}``; causes:
                             origin, host, form, stopping, too many
                             connections, application (a login, a hook),
                             not sent
``Calls``, ``Calls/Second``  calls of known methods that have ended
``Errors``                   calls of any name answered with an error
``Methods``                  ``{'/api calc.add': {'Count': 3, 'Errors': 1,
                             'Not Run': 0, 'Sum': 0.004, 'Max': 0.003,
                             'Avg': 0.0013}}``, seconds
``Errors by Code``           ``{'-32601': {'Count': 5}}``; an
                             application's own codes are ``other``
``Bad Messages``             no JSON, or no message of any dialect
``Ignored Replies``          to calls that nobody waits for any more
``Calls Waiting``            for a thread of the pool
``Threads``                  of the pool, spare ones included
``Threads Lent``             that wait for a client
``Bytes In``, ``Bytes Out``  on the sockets, TLS and HTTP not counted
``Messages In``              without pings, pongs and Closes
``Messages Out``             with them
``Pushes``                   publishes and broadcasts of this process
``Pushes Refused``           by ``Overloaded``
``Pushes Delivered``         one for each connection that was given one
``Pushes Skipped``           on topics of mode "latest" and "volatile", for
                             those who took no bytes
``Backlog Pushes``,          pushes that wait for the loop now
``Backlog Bytes``
``Slow Readers``             sockets that take no bytes now
``Slow Reader Bytes``        that wait for those
``Slow Readers Dropped``     closed with 4408
===========================  ===========================================

Seconds of a method are those it ran: in the pool from its arguments to its
encoded result, with the waits for its client; ``async`` ones likewise.  A
nonblocking one costs less than two looks at the clock, so calls of it that
stand one after the other in one read are timed together: ``Sum`` is the
loop's time, decoding included, and ``Max`` the longest that it held the
loop in one go.  ``Not Run``: refused before (busy, no right, stopping).

Nothing that came over the wire becomes a key: methods are registered ones,
codes and causes are sets that end.

Increments from several threads lose counts, and a lock for every call
costs as much as two looks at the clock (90 ns).  So each thread counts in
:class:`Tally` objects of its own, which a reader adds up.  Measured: 45 ns
a call and 80 for the clock, of 4.1 us in the pool (3 %); 20 ns of 1.7 us
(1.2 %) for nonblocking calls of which many come in a read.
"""
from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

from .errors import CloseCode

if TYPE_CHECKING:
    from .messages import Call
    from .registry import Method
    from .workers import WorkerPool

__all__ = ['Statistics', 'Stretch', 'Tallies', 'Tally', 'read_namespace',
           'tally_of']

_clock = time.monotonic

# logging.statistics['cp_wsrpc'], from the first start on.
_namespace: dict[str, Any] = {'Enabled': True}

#: (URL path of the endpoint, name of the method)
_Place: TypeAlias = 'tuple[str, str]'

_OWN_CLOSES = frozenset(int(code) for code in CloseCode)


class Tally:
    """Calls of one method on one thread, which alone writes it.

    ``calls``, ``total_s``, ``max_s``; ``errors`` and ``not_run`` count in
    one that all threads share, under the lock of :class:`Statistics`.
    """

    __slots__ = ('calls', 'errors', 'max_s', 'not_run', 'total_s')

    def __init__(self) -> None:
        self.calls = self.errors = self.not_run = 0
        self.total_s = self.max_s = 0.0

    def note(self, calls: int, took_s: float) -> None:
        """Count calls that took so long together."""
        self.calls += calls
        self.total_s += took_s
        if took_s > self.max_s:
            self.max_s = took_s

    def add(self, other: Tally) -> None:
        """Count in what another thread has counted."""
        self.calls += other.calls
        self.errors += other.errors
        self.not_run += other.not_run
        self.total_s += other.total_s
        self.max_s = max(self.max_s, other.max_s)

    def record(self) -> dict[str, Any]:
        """In the words of cpstats' own "URI Set Tracking"."""
        return {'Count': self.calls + self.not_run, 'Errors': self.errors,
                'Not Run': self.not_run, 'Sum': round(self.total_s, 6),
                'Max': round(self.max_s, 6),
                'Avg': round(self.total_s / self.calls, 6)
                if self.calls else 0.0}


#: A thread's own tallies, in its cell (``current``).
Tallies: TypeAlias = 'dict[Method, Tally]'


def tally_of(call: Call, tallies: Tallies) -> Tally:
    """Where this thread, whose ``tallies`` they are, counts the call."""
    tally = tallies.get(call.method)
    if tally is None:
        statistics: Statistics = call.connection.hub.statistics
        tally = statistics.open_tally(call, tallies)
    return tally


class Stretch:
    """Calls of one nonblocking method, one after the other in one read.

    The loop's thread; ``io.stretch``.  Before each call::

        if stretch.method is not method:
            stretch.begin(call)
        stretch.calls += 1

    and ``end()`` when the read has been handled.
    """

    __slots__ = ('_begun', '_tally', '_tallies', 'calls', 'method')

    def __init__(self, tallies: Tallies) -> None:
        self._tallies = tallies
        self.method: Method | None = None
        self.calls = 0
        self._begun = 0.0
        self._tally: Tally | None = None

    def begin(self, call: Call) -> None:
        """The next calls are of another method than those before."""
        if self._tally is not None:
            self.end()
        self.method = method = call.method
        self.calls = 0
        try:
            self._tally = self._tallies[method]
        except KeyError:
            self._tally = tally_of(call, self._tallies)
        self._begun = _clock()

    def end(self) -> None:
        """No more of them follow in this read."""
        self.method = None
        tally, self._tally = self._tally, None
        if tally is not None:
            tally.note(self.calls, _clock() - self._begun)


class Statistics:
    """The counters of one run of the plugin, from start to start.

    Any thread may call any method.  ``_lock`` guards all attributes, and
    the tallies in ``_shared``; a thread's own tallies are written by it
    alone, and read without the lock: three numbers of slightly different
    moments harm nobody.
    """

    def __init__(self) -> None:
        self.started_at = time.time()
        self._lock = threading.Lock()
        self._counts_calls = True       # what Enabled was, last looked at
        self._threads: dict[threading.Thread, Tallies] = {}
        self._tallies: dict[tuple[threading.Thread, _Place], Tally] = {}
        self._shared: dict[_Place, Tally] = {}
        self._codes: Counter[str] = Counter()
        self._closes: Counter[str] = Counter()
        self._refusals: Counter[str] = Counter()
        # Of closed sockets; those of open ones are in the sockets.
        self._messages_in = self._messages_out = self._bytes_out = 0

    # -- counting ----------------------------------------------------------

    def open_tally(self, call: Call, tallies: Tallies) -> Tally:
        """This thread's tally of a method; from now on in ``tallies``."""
        place = call.connection.endpoint.url_path, call.method.name
        thread = threading.current_thread()
        with self._lock:
            self._fold_ended()
            self._threads[thread] = tallies
            tally = (self._tallies.setdefault((thread, place), Tally())
                     if self._counts_calls else Tally())
            tallies[call.method] = tally
        return tally

    def _look_at_switch(self) -> None:
        """Have calls counted, or not, as ``Enabled`` says.

        A thread that finds its tallies gone asks for others: so the way of
        a call need not look (15 ns).
        """
        with self._lock:
            if self._counts_calls != bool(_namespace['Enabled']):
                self._counts_calls = not self._counts_calls
                for tallies in self._threads.values():
                    tallies.clear()

    def _fold_ended(self) -> None:
        """Keep the counts of threads that have ended, and not those."""
        assert self._lock.locked()
        for key in [key for key in self._tallies if not key[0].is_alive()]:
            self._share(key[1]).add(self._tallies.pop(key))
            self._threads.pop(key[0], None)

    def _share(self, place: _Place) -> Tally:
        assert self._lock.locked()
        return self._shared.setdefault(place, Tally())

    def count_failure(self, call: Call, code: Any, ran: bool) -> None:
        """A call is answered with an error; ``ran``: its method began."""
        if not self._counts_calls:
            return
        known = type(code) is int and (-32768 <= code <= -32000
                                       or 100 <= code < 600)
        with self._lock:
            self._codes[str(code) if known else 'other'] += 1
            if call.method is not None:
                tally = self._share((call.connection.endpoint.url_path,
                                     call.method.name))
                tally.errors += 1
                tally.not_run += not ran

    def count_refusal(self, status: str, cause: str) -> None:
        """A handshake was not answered with 101.

        ``cause``: one of a few words of the program; see the table.
        """
        with self._lock:
            self._refusals[f'{status} {cause}'] += 1

    def count_closed(self, code: int, messages_in: int, out: Any) -> None:
        """A socket is closed; ``out`` is its :class:`OutQueue`."""
        key = str(code) if code in _OWN_CLOSES else f'{code // 1000}xxx'
        with self._lock:
            self._closes[key] += 1
            self._messages_in += messages_in
            self._messages_out += out.sent_frames
            self._bytes_out += out.sent_bytes

    # -- reading -----------------------------------------------------------

    def methods(self) -> dict[str, dict[str, Any]]:
        """``{'/api calc.add': record}`` of all that were ever called."""
        self._look_at_switch()
        sums: dict[_Place, Tally] = {}
        with self._lock:
            self._fold_ended()
            parts = [*self._shared.items(), *(
                (place, tally)
                for (_, place), tally in self._tallies.items())]
            for place, tally in parts:
                sums.setdefault(place, Tally()).add(tally)
        return {' '.join(place): tally.record()
                for place, tally in sums.items()}

    def show(self, io: Any, pool: WorkerPool) -> None:
        """Make this what the namespace shows; ``io`` is the IOLoop."""
        _namespace.update(self._entries_of_calls())
        _namespace.update(self._entries_of_sockets(io))
        _namespace.update({
            'Start Time': self.started_at,
            'Uptime': lambda s: time.time() - s['Start Time'],
            'Calls Waiting': lambda s: pool.waiting,
            'Threads': lambda s: pool.threads,
            'Threads Lent': lambda s: pool.lent,
        })
        self._look_at_switch()
        vars(logging).setdefault('statistics', {})['cp_wsrpc'] = _namespace

    def _entries_of_calls(self) -> dict[str, Any]:
        def count_calls(s: Any) -> int:
            return sum(record['Count']
                       for record in self.methods().values())

        return {
            'Calls': count_calls,
            'Calls/Second': lambda s: round(
                count_calls(s) / max(time.time() - s['Start Time'], 1e-3),
                3),
            'Errors': lambda s: self._sum(self._codes),
            'Errors by Code': lambda s: self._collect(self._codes),
            'Methods': lambda s: self.methods(),
            'Handshakes Refused': lambda s: self._sum(self._refusals),
            'Refusals': lambda s: self._collect(self._refusals),
        }

    def _entries_of_sockets(self, io: Any) -> dict[str, Any]:
        def refusing() -> list[Any]:
            return [websocket.out for websocket in io
                    if websocket.out.refusing]

        counters = io.counters
        return {
            'Connections Open': lambda s: len(io),
            'Connections Opened': lambda s: counters['opened'],
            'Connections Closed': lambda s: counters['closed'],
            'Closed by Code': lambda s: self._collect(self._closes),
            'Bad Messages': lambda s: counters['bad_messages'],
            'Ignored Replies': lambda s: counters['ignored_replies'],
            'Bytes In': lambda s: io.bytes_in,
            'Bytes Out': lambda s: (
                self._bytes_out + io.pushes.sent_bytes
                + sum(websocket.out.sent_bytes for websocket in io)),
            'Messages In': lambda s: self._messages_in + sum(
                websocket.messages_in for websocket in io),
            'Messages Out': lambda s: (
                self._messages_out + io.pushes.sent_frames
                + sum(websocket.out.sent_frames for websocket in io)),
            'Pushes': lambda s: counters['pushes'],
            'Pushes Refused': lambda s: counters['pushes_refused'],
            'Pushes Delivered': lambda s: counters['pushes_delivered'],
            'Pushes Skipped': lambda s: counters['pushes_skipped'],
            'Backlog Pushes': lambda s: io.backlog[0],
            'Backlog Bytes': lambda s: io.backlog[1],
            'Slow Readers': lambda s: len(refusing()),
            'Slow Reader Bytes': lambda s: sum(
                out.behind_bytes for out in refusing()),
            'Slow Readers Dropped': lambda s: counters['slow_readers'],
        }

    def _sum(self, counts: Counter[str]) -> int:
        with self._lock:
            return counts.total()

    def _collect(self, counts: Counter[str]) -> dict[str, dict[str, int]]:
        with self._lock:
            return _records(counts.items())


def _records(counts: Iterable[tuple[str, int]]
             ) -> dict[str, dict[str, int]]:
    return {key: {'Count': count} for key, count in counts}


def read_namespace() -> dict[str, Any]:
    """The namespace with all functions called: plain numbers and dicts."""
    return {name: value(_namespace) if callable(value) else value
            for name, value in _namespace.copy().items()}
