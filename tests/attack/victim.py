"""Somebody who only wants to work while the server is attacked."""
from __future__ import annotations

import json
import re
import threading
import time

from ..processes import spawn
from ..rawpeer import RawPeer, http_request
from ..serving import certificates, free_port, wait_until
from . import FULL

__all__ = ['Target', 'Victim', 'ending_of', 'loop_s', 'target']

INTERVAL_S = 0.05
MAX_P99_S = 0.1
#: Of the quick forms, which run on machines that do other work as well:
#: there it tells a server that stands from one that is slow with the rest.
QUICK_P95_S = 0.5
#: What a connection and a request may say each, as it comes and goes; also
#: what cheroot says of TLS that breaks off before a request is complete.
_OF_LIFE = re.compile(r' cherrypy\.access| opened: | closed: '
                      r'| ENGINE (socket\.error|Client .* lost'
                      r'|Unhandled .*SSL)')
#: What an allocator keeps of memory that was used once, bytes.
_SLACK_BYTES = 16 << 20
#: glibc's malloc keeps memory in up to 8 arenas a core, for 47 threads of
#: the target 50 MB more than it needs: too much to see a leak beside.
_TWO_ARENAS = {'MALLOC_ARENA_MAX': '2'}


class Target:
    """The attacked process, reached over http or https; ``target.py``."""

    def __init__(self, process, port, tls=None):
        self.process = process
        self.port = port
        self.tls = tls

    def peer(self, path='/api', **options):
        return RawPeer(self.port, path, tls=self.tls, **options)

    def page(self, path, **options):
        return http_request(self.port, path, tls=self.tls, **options)

    def stats(self):
        return json.loads(self.page('/stats').body)

    def lines_since(self, position):
        """What its log said since ``position = len(process.lines)``."""
        return ''.join(list(self.process.lines)[position:])


class target:
    """``with target() as it:`` runs one; ``it.secure``: the same by TLS.

    The options, ``'files=64'`` say, are those of target.py.
    """

    def __init__(self, *options):
        self._options = options

    def __enter__(self):
        made = certificates()
        port, tls_port = free_port(), free_port()
        self._spawned = spawn(
            'tests.attack.target', str(port), str(tls_port),
            made.certificate, made.private_key, *self._options,
            env=_TWO_ARENAS, ready='Ready')
        process = self._spawned.__enter__()
        it = Target(process, port)
        it.secure = Target(process, tls_port, made.client_context())
        return it

    def __exit__(self, *exc_info):
        return self._spawned.__exit__(*exc_info)


class Victim:
    """Calls a method every 50 ms, on a connection of its own.

    ``check`` says whether it was hurt: an answer that failed, more than 1 %
    of them later than 100 ms, file descriptors, threads or memory of the
    server that are not back within 10 s, or more than one line of log a
    second for one cause.  (In the quick form it is 5 %: a hundred answers
    beside other work on the machine say no more.)
    """

    def __init__(self, target):
        self.target = target
        self.took_s = []
        #: {'a1': what of it came while tests of that row ran}
        self.rows = {}
        self.error = None
        self._lines_before = len(target.process.lines)
        self._before = target.stats()
        self._over = threading.Event()
        self._peer = target.peer()
        self._peer.call('ping')
        self._thread = threading.Thread(target=self._work, name='victim')
        self._thread.start()

    def _work(self):
        try:
            while not self._over.wait(INTERVAL_S):
                begun = time.monotonic()
                assert self._peer.call('add', [1, 2]) == 3
                self.took_s.append(time.monotonic() - begun)
        except Exception as error:
            self.error = error

    def stop(self):
        self._over.set()
        self._thread.join(10)
        self._peer.drop()

    def check(self):
        wait_until(lambda: self.took_s or self.error, 5, 'a first answer')
        self.stop()
        assert self.error is None, self.error
        took_s = sorted(self.took_s)
        limit_s = MAX_P99_S if FULL else QUICK_P95_S
        late = [took for took in took_s if took >= limit_s]
        allowed = (len(took_s) // 100 if FULL
                   else max(2, len(took_s) // 20))
        assert len(late) <= allowed, (len(took_s), late)
        try:
            wait_until(self._is_back, 10)
        except AssertionError:
            raise AssertionError(f'not back: {self.target.stats()} after '
                                 f'{self._before}') from None
        assert not self.chatter(), self.chatter()[:5]

    def p99_s(self, since=0):
        """Of its answers, but for the first ``since`` of them."""
        took_s = sorted(self.took_s[since:])
        return took_s[len(took_s) * 99 // 100] if took_s else 0.0

    def told_rows(self):
        """A line for each row of threats.md."""
        for row, took_s in sorted(self.rows.items()):
            if took_s:
                took_s = sorted(took_s)
                p99_s = took_s[len(took_s) * 99 // 100]
                yield (f'{row.upper()}: p99 {p99_s * 1000:.1f} ms, latest '
                       f'{took_s[-1] * 1000:.1f} ms of {len(took_s)} '
                       'answers to the victim')

    def chatter(self):
        """Lines of log of which a second saw three or more alike.

        Two may be near: the first was let through in time and written
        late, by a thread that had to wait for the machine.  Numbers in a
        line do not make it another; its logger, which is its application,
        does.
        """
        seen_at, found = {}, []
        for line in list(self.target.process.lines)[self._lines_before:]:
            match = re.match(r'LOG ([0-9.]+) (\S+) (.*)', line)
            if match is None or _OF_LIFE.search(line):
                continue
            at = float(match[1])
            cause = match[2], re.sub(r'\d+', '#', match[3])
            before, last = seen_at.get(cause, (0, 0))
            if at - before < 0.95:
                found.append(line)
            seen_at[cause] = last, at
        return found

    def _is_back(self):
        now, before = self.target.stats(), self._before
        return (now['fds'] <= before['fds'] * 1.05
                and now['threads'] <= before['threads'] * 1.05
                and now['rss'] <= before['rss'] * 1.05 + _SLACK_BYTES)


def ending_of(peer, timeout_s=5):
    """The code of the server's Close; frames before it are skipped."""
    return peer.recv_close(timeout_s)[0]


def loop_s(attacked, attack, *args):
    """CPU that the I/O loop has used for it, s."""
    before = attacked.stats()['loop_s']
    attack(*args)
    return attacked.stats()['loop_s'] - before
