"""Somebody who only wants to work while the server is attacked."""
from __future__ import annotations

import json
import threading
import time

from ..processes import spawn
from ..rawpeer import RawPeer, http_request
from ..serving import free_port, wait_until
from . import FULL

__all__ = ['Target', 'Victim', 'target']

INTERVAL_S = 0.05
MAX_P99_S = 0.1
#: What an allocator keeps of memory that was used once, bytes.
_SLACK_BYTES = 16 << 20


class Target:
    """The attacked process; see ``target.py``."""

    def __init__(self, process, port):
        self.process = process
        self.port = port

    def peer(self, path='/api', **options):
        return RawPeer(self.port, path, **options)

    def page(self, path, **options):
        return http_request(self.port, path, **options)

    def stats(self):
        return json.loads(self.page('/stats').body)

    def lines_since(self, position):
        """What its log said since ``position = len(process.lines)``."""
        return ''.join(list(self.process.lines)[position:])


class target:
    """``with target() as it:`` runs one."""

    def __enter__(self):
        port = free_port()
        self._spawned = spawn('tests.attack.target', str(port),
                              ready='Ready')
        return Target(self._spawned.__enter__(), port)

    def __exit__(self, *exc_info):
        return self._spawned.__exit__(*exc_info)


class Victim:
    """Calls a method every 50 ms, on a connection of its own.

    ``check`` says whether it was hurt: an answer that failed, more than 1 %
    of them later than 100 ms, or file descriptors, threads or memory of the
    server that are not back within 10 s.  (In the quick form it is 5 %: a
    hundred answers beside other work on the machine say no more.)
    """

    def __init__(self, target):
        self.target = target
        self.took_s = []
        self.error = None
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
        late = [took for took in took_s if took >= MAX_P99_S]
        allowed = (len(took_s) // 100 if FULL
                   else max(2, len(took_s) // 20))
        assert len(late) <= allowed, (len(took_s), late)
        wait_until(self._is_back, 10, 'the resources to be back')

    def _is_back(self):
        now, before = self.target.stats(), self._before
        return (now['fds'] <= before['fds'] * 1.05
                and now['threads'] <= before['threads'] * 1.05
                and now['rss'] <= before['rss'] * 1.05 + _SLACK_BYTES)
