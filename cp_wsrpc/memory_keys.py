"""Idempotency keys, where one process has them all.  Layer 1.

::

    store = MemoryKeyStore()
    store.claim(key, 'f1')          -> Claim(is_ours=True, ...)
    store.settle(key, b'{"result":3}')
    store.claim(key, 'f1')          -> Claim(is_ours=False, ...); no outcome:
    store.watch(key, print)         -> prints it, here at once

The contract is ``idempotency.KeyStore``, where the limits stand, too;
``redis_keys`` keeps it for several processes.
"""
from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable

from . import idempotency
from .errors import Busy
from .idempotency import DROPPED, Claim, Heard, Key, Said

__all__ = ['MemoryKeyStore']


class _Entry:
    """One key; ``outcome`` None while its call runs."""

    __slots__ = ('fingerprint', 'key', 'outcome', 'until', 'watchers')

    def __init__(self, key: Key, fingerprint: str) -> None:
        self.key = key
        self.fingerprint = fingerprint
        self.outcome: bytes | None = None
        self.until = 0.0
        self.watchers: dict[int, Heard] = {}    # by their id()


class MemoryKeyStore:
    """The store of one process.

    ``_lock`` guards everything; watchers are called outside of it.
    """

    is_shared = False

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._entries: dict[Key, _Entry] = {}
        self._settled: deque[_Entry] = deque()      # oldest first
        self._outcomes: deque[_Entry] = deque()     # those with a text
        self._bytes = 0
        self._counts: Counter[str] = Counter()      # by scope

    def __len__(self) -> int:
        return len(self._entries)

    def start(self) -> None:
        """It has no thread."""

    def drain(self) -> None:
        """Whom they wait for runs here, and is waited for as well."""

    def stop(self, timeout_s: float) -> None:
        """Its hub goes, and it with that."""

    def hear(self, text: bytes) -> None:
        """There is nobody else."""

    def ask(self, key: Key, fingerprint: str, said: Said) -> None:
        try:
            claim: Claim | Busy = self.claim(key, fingerprint)
        except Busy as error:
            claim = error
        said(claim)

    def claim(self, key: Key, fingerprint: str) -> Claim:
        """As ``ask``; raises Busy."""
        with self._lock:
            self._forget_old()
            entry = self._entries.get(key)
            if entry is not None:
                return Claim(False, entry.fingerprint)
            limit = (idempotency.MAX_ENTRIES_OF_NOBODY if key.is_nobodys
                     else idempotency.MAX_ENTRIES_OF_USER)
            if (len(self._entries) >= idempotency.MAX_ENTRIES
                    or self._counts[key.scope] >= limit):
                raise Busy('too many calls with an idempotencyKey')
            self._entries[key] = _Entry(key, fingerprint)
            self._counts[key.scope] += 1
            return Claim(True, fingerprint)

    def settle(self, key: Key, outcome: bytes | None) -> None:
        with self._lock:
            entry = self._entries[key]
            assert entry.outcome is None
            watchers, entry.watchers = entry.watchers, {}
            if outcome is None:
                self._forget(entry)
            else:
                self._keep(entry, outcome)
        for heard in watchers.values():
            heard(outcome)

    def watch(self, key: Key, heard: Heard) -> None:
        with self._lock:
            entry = self._entries.get(key)
            outcome = entry.outcome if entry is not None else None
            if entry is not None and outcome is None:
                entry.watchers[id(heard)] = heard
                return
        heard(outcome)

    def unwatch(self, key: Key, heard: Heard) -> None:
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None:
                entry.watchers.pop(id(heard), None)

    def _keep(self, entry: _Entry, outcome: bytes) -> None:
        assert self._lock.locked()
        entry.outcome = outcome
        entry.until = self._now() + idempotency.KEEP_S
        self._settled.append(entry)
        self._outcomes.append(entry)
        self._bytes += len(outcome)
        while self._bytes > idempotency.MAX_BYTES:
            oldest = self._outcomes.popleft()
            assert oldest.outcome is not None
            self._bytes -= len(oldest.outcome)
            oldest.outcome = DROPPED

    def _forget_old(self) -> None:
        assert self._lock.locked()
        now = self._now()
        while self._settled and self._settled[0].until <= now:
            entry = self._settled.popleft()
            if self._outcomes and self._outcomes[0] is entry:
                self._outcomes.popleft()
                assert entry.outcome is not None
                self._bytes -= len(entry.outcome)
            self._forget(entry)

    def _forget(self, entry: _Entry) -> None:
        assert self._lock.locked()
        del self._entries[entry.key]
        self._counts[entry.key.scope] -= 1
        if not self._counts[entry.key.scope]:
            del self._counts[entry.key.scope]
