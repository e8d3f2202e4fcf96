"""Idempotency keys of several processes, in Redis.  Layer 3.

:class:`RedisKeyStore` is the ``idempotency.KeyStore`` of a process whose
``engine.wsrpc.broker`` is a Redis.  One thread, ``wsrpc-keys``, asks it
everything, many at a time and in the order in which they came; nobody else
waits.  Keys in Redis, behind the prefix:

===============  =======  ================================================
``i``            zset     whose every key ``<scope>:<key>`` (hashed: they
                          are as good as passwords) -> when to look again
``i:k:<key>``    hash     print: its call's fingerprint; owner: the
                          process; token: of this claim; waited: another
                          process has joined; outcome
``i:results``    zset     keys with an outcome -> since when
``i:about``      hash     n:<scope>: keys; s:<key>: bytes; bytes: all
``i:o:<owner>``  string   that process lives; for ``LEASE_S``, renewed
===============  =======  ================================================

What may go wrong, and what comes of it; a call is never run again by the
server when nobody can tell whether it has run:

========================================  ================================
the process that runs a call is gone,     its key gets the outcome
or does not answer for ``LEASE_S``        ``ABANDONED``: it may have run
it comes back and has an outcome          that one stands from then on
Redis does not answer                     Busy, within 2 s and then at
                                          once; outcomes are kept here,
                                          and told as soon as it is back
and not for ``LEASE_S``                   who has joined gets ABANDONED
Redis is back without its data            the outcomes that are not told
                                          yet are; others it has forgotten
========================================  ================================
"""
from __future__ import annotations

import hashlib
import itertools
import logging
import secrets
import threading
import time
from collections import deque
from typing import Any, NamedTuple

import msgspec
import redis

from . import idempotency
from .errors import BrokerUnavailable, Busy
from .idempotency import DROPPED, KEEP_S, Claim, Heard, Key, Said, outcome_of
from .logs import escape, limited
from .redis_scripts import CLAIM_KEY, LOOK_AT_KEY, SETTLE_KEY
from .redis_store import RedisStore, check_json

__all__ = ['ABANDONED', 'RedisKeyStore']

log = logging.getLogger('cp_wsrpc.redis')

#: A Redis that stood still for 10 s finds all alive when it goes on; who
#: waits for a process that is gone does not wait for much longer.
LEASE_S = 15.0
BEAT_S = 3.0
BATCH = 500
RETRY_S = 0.05
MAX_RETRY_S = 1.0

#: The outcome of a call whose process has gone before it told one.
ABANDONED = (b'{"error":{"code":-32000,"message":"the process that ran the '
             b'call is gone: it may have run","data":{"maybeExecuted":true}'
             b'}}')


class _Claim(NamedTuple):
    member: str
    token: str
    key: Key
    fingerprint: str
    said: Said


class _Settle(NamedTuple):
    member: str
    token: str
    fingerprint: str
    outcome: bytes | None


class _Look(NamedTuple):
    member: str


class RedisKeyStore:
    """The store of several processes.

    ``start`` and ``stop`` are the plugin's, ``drain`` is ``shutdown``'s;
    the rest any thread's, and none waits.

    ``_changed`` guards ``_jobs``, ``_ours``, ``_unsettled`` and its bytes,
    ``_watchers``, ``_draining``, ``_stopping`` and ``_away_since``; nothing
    is called under it.  The rest is the thread's own, and so it reads
    without it what it alone writes.
    """

    is_shared = True

    def __init__(self, url: str) -> None:
        self._store = RedisStore(url)
        client, prefix = self._store.client, self._store.prefix
        self._prefix = f'{prefix}i:'
        self._keys = [f'{prefix}i', f'{prefix}i:results', f'{prefix}i:about']
        self._scripts = {kind: client.register_script(text)
                         for kind, text in ((_Claim, CLAIM_KEY),
                                            (_Settle, SETTLE_KEY),
                                            (_Look, LOOK_AT_KEY))}
        self._owner = secrets.token_hex(8)
        self._numbers = itertools.count(1)
        self._changed = threading.Condition()
        self._jobs: deque[_Claim | _Settle | _Look] = deque()
        # Claims of ours that are not settled: (token, fingerprint).
        self._ours: dict[str, tuple[str, str]] = {}
        # Outcomes on their way to Redis.
        self._unsettled: dict[str, bytes] = {}
        self._unsettled_bytes = 0
        self._watchers: dict[str, dict[int, Heard]] = {}    # by their id()
        self._draining = self._stopping = False
        self._away_since: float | None = None
        self._beat_at = 0.0
        # Settles that Redis did not take: for the next beat, before all
        # that comes then.
        self._later: list[_Settle] = []
        self._pause_s = RETRY_S
        self._thread = threading.Thread(target=self._run, daemon=True,
                                        name='wsrpc-keys')

    # -- the plugin's ------------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    def drain(self) -> None:
        """Have those who joined a call elsewhere try again elsewhere.

        Those, too, who hear only now that another has their key.
        """
        with self._changed:
            self._draining = True
            watchers, self._watchers = self._watchers, {}
        for several in watchers.values():
            for heard in several.values():
                heard(None)

    def stop(self, timeout_s: float) -> None:
        """Tell Redis what is still to be told, and that we are gone."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(timeout_s)
        self._store.close()

    # -- any thread --------------------------------------------------------

    def ask(self, key: Key, fingerprint: str, said: Said) -> None:
        member = _member_of(key)
        with self._changed:
            refused = self._stopping or self._away_since is not None
            if not refused:
                token = f'{self._owner}:{next(self._numbers)}'
                self._jobs.append(_Claim(member, token, key, fingerprint,
                                         said))
                self._changed.notify()
        if refused:
            said(_away())

    def settle(self, key: Key, outcome: bytes | None) -> None:
        member = _member_of(key)
        with self._changed:
            token, fingerprint = self._ours.pop(member)
            watchers = self._watchers.pop(member, {})
            if outcome is not None:
                # Without Redis they would be without a limit.
                if self._unsettled_bytes > idempotency.MAX_BYTES:
                    outcome = DROPPED
                self._unsettled[member] = outcome
                self._unsettled_bytes += len(outcome)
            self._jobs.append(_Settle(member, token, fingerprint, outcome))
            self._changed.notify()
        for heard in watchers.values():
            heard(outcome)

    def watch(self, key: Key, heard: Heard) -> None:
        member = _member_of(key)
        with self._changed:
            outcome = self._unsettled.get(member)
            waits = outcome is None and not self._draining
            if waits:
                self._watchers.setdefault(member, {})[id(heard)] = heard
                # It may have been settled since the claim was refused.
                self._jobs.append(_Look(member))
                self._changed.notify()
        if not waits:
            heard(outcome)

    def unwatch(self, key: Key, heard: Heard) -> None:
        member = _member_of(key)
        with self._changed:
            several = self._watchers.get(member, {})
            several.pop(id(heard), None)
            if not several:
                self._watchers.pop(member, None)

    def hear(self, text: bytes) -> None:
        """Another process has settled what somebody waits for."""
        member = msgspec.json.decode(text, type=str)
        with self._changed:
            if member in self._watchers:
                self._jobs.append(_Look(member))
                self._changed.notify()

    # -- the thread --------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._stopping or self._can_ask()):
                    self._changed.wait(self._rest_s())
                stopping = self._stopping
                jobs = [self._jobs.popleft()
                        for _ in range(min(BATCH, len(self._jobs)))]
            self._work(jobs)
            if stopping and (not jobs or self._away_since is not None):
                break
        self._leave()

    def _can_ask(self) -> bool:
        return (time.monotonic() >= self._beat_at
                or (bool(self._jobs) and self._away_since is None))

    def _rest_s(self) -> float:
        return max(0.0, self._beat_at - time.monotonic())

    def _work(self, jobs: list[Any]) -> None:
        now = time.monotonic()
        beats = now >= self._beat_at or self._stopping
        if beats:
            with self._changed:
                later, self._later = self._later, []
                jobs[:0] = later
                jobs += map(_Look, self._watchers)
        try:
            answers = self._answers_to(jobs, beats)
        except Exception as error:      # of whatever kind: all are told
            self._note_failure(jobs, error)
            return
        with self._changed:
            self._away_since = None
        self._pause_s = RETRY_S
        if beats:
            self._beat_at = now + BEAT_S
        for job, answer in zip(jobs, answers, strict=True):
            try:
                self._take(job, answer)
            except Exception:       # the others are to be told
                limited(log, 'job', logging.ERROR, '%s failed',
                        type(job).__name__, exc_info=True)

    def _answers_to(self, jobs: list[Any], beats: bool) -> list[Any]:
        """What Redis says to each; raises where it says nothing."""
        answers = self._send(jobs, beats)
        if any(isinstance(answer, redis.exceptions.NoScriptError)
               for answer in answers):
            # None of these has been run.
            for script in self._scripts.values():
                self._store.client.script_load(script.script)
            again = [n for n, answer in enumerate(answers) if isinstance(
                answer, redis.exceptions.NoScriptError)]
            for n, answer in zip(again, self._send(
                    [jobs[n] for n in again], False), strict=True):
                answers[n] = answer
        return answers

    def _send(self, jobs: list[Any], beats: bool) -> list[Any]:
        with self._store.client.pipeline(transaction=False) as pipe:
            if beats:
                pipe.set(f'{self._prefix}o:{self._owner}', '1',
                         px=int(LEASE_S * 1000))
            for job in jobs:
                pipe.evalsha(self._scripts[type(job)].sha, len(self._keys),
                             *self._keys, self._prefix, int(KEEP_S),
                             idempotency.MAX_BYTES, ABANDONED, DROPPED,
                             *self._arguments_of(job))
            answers: list[Any] = pipe.execute(raise_on_error=False)
        return answers[1:] if beats else answers

    def _arguments_of(self, job: Any) -> list[Any]:
        if type(job) is _Claim:
            limit = (idempotency.MAX_ENTRIES_OF_NOBODY if job.key.is_nobodys
                     else idempotency.MAX_ENTRIES_OF_USER)
            return [job.member, self._owner, job.token, job.fingerprint,
                    limit, idempotency.MAX_ENTRIES]
        if type(job) is _Settle:
            return [job.member, self._owner, job.token, job.fingerprint,
                    job.outcome or b'']
        return [job.member]

    def _take(self, job: Any, answer: Any) -> None:
        if isinstance(answer, Exception):
            self._note_refusal(job, answer)
        elif type(job) is _Claim:
            self._take_claim(job, answer)
        elif type(job) is _Settle:
            self._end_settle(job)
            if answer:
                self._tell(job.member)
        elif not answer:
            self._tell_watchers(job.member, None)
        elif answer[1]:
            self._tell_watchers(job.member, self._read(answer[1]))

    def _take_claim(self, job: _Claim, answer: list[Any]) -> None:
        if answer[0] == 1:
            with self._changed:
                self._ours[job.member] = job.token, job.fingerprint
            job.said(Claim(True, job.fingerprint))
        elif answer[0] == 2:
            job.said(Busy('too many calls with an idempotencyKey'))
        else:
            job.said(Claim(False, answer[1].decode('utf-8', 'replace'),
                           self._read(answer[2]) if answer[2] else None))

    def _read(self, outcome: bytes) -> bytes:
        """An outcome, whoever has written it."""
        try:
            check_json(outcome)
            if outcome_of(outcome) == outcome:
                return outcome
        except (ValueError, msgspec.MsgspecError):
            pass
        limited(log, 'kept', logging.WARNING, 'what was kept of a call in '
                'Redis is not ours: it counts as lost')
        return ABANDONED

    def _tell(self, member: str) -> None:
        """Have the processes look that wait; else they do at a beat."""
        try:
            self._store.tell('settled', msgspec.json.encode(member))
        except BrokerUnavailable as error:
            log.debug('%s', error)

    def _tell_watchers(self, member: str, outcome: bytes | None) -> None:
        with self._changed:
            watchers = self._watchers.pop(member, {})
        for heard in watchers.values():
            heard(outcome)

    def _end_settle(self, job: _Settle) -> None:
        with self._changed:
            if job.outcome is not None:
                self._unsettled_bytes -= len(job.outcome)
                self._unsettled.pop(job.member, None)

    def _note_refusal(self, job: Any, error: Exception) -> None:
        """Redis is there, and will not: it is full, or takes no writes."""
        limited(log, 'keys', logging.WARNING,
                'idempotency keys cannot be kept in Redis: %s: %s',
                type(error).__name__, escape(error))
        if type(job) is _Claim:
            job.said(_away())
        elif type(job) is _Settle:
            self._later.append(job)

    def _note_failure(self, jobs: list[Any], error: Exception) -> None:
        """Redis does not answer: nobody is to wait for it."""
        now = time.monotonic()
        with self._changed:
            if self._away_since is None:
                self._away_since = now
            jobs += self._jobs
            self._jobs.clear()
            watchers: dict[str, dict[int, Heard]] = {}
            if now - self._away_since > LEASE_S:
                watchers, self._watchers = self._watchers, {}
        if not self._stopping:
            limited(log, 'keys', logging.WARNING,
                    'Redis is away, and with it idempotency keys: %s: %s',
                    type(error).__name__, escape(error))
        self._beat_at = time.monotonic() + self._pause_s
        self._pause_s = min(2 * self._pause_s, MAX_RETRY_S)
        # Who knows whether a claim has been executed?  Take it back.
        self._later += [
            job if type(job) is _Settle else _Settle(
                job.member, job.token, job.fingerprint, None)
            for job in jobs if type(job) is not _Look]
        for job in jobs:
            if type(job) is _Claim:
                job.said(_away())
        for several in watchers.values():
            for heard in several.values():
                heard(ABANDONED)

    def _leave(self) -> None:
        if self._away_since is None:
            try:
                self._store.client.delete(f'{self._prefix}o:{self._owner}')
            except (redis.RedisError, OSError) as error:
                log.debug('%s', error)      # its lease will end
        with self._changed:
            jobs = list(self._jobs)
        for job in jobs:
            if type(job) is _Claim:
                job.said(_away())
        self.drain()


def _away() -> Busy:
    return Busy('the store of idempotency keys cannot be reached: try again, '
                'or without a key')


def _member_of(key: Key) -> str:
    """``'5f0c...:91ab...'``: the scope's hash, and the key's."""
    scope = hashlib.blake2b(key.scope.encode(), digest_size=12)
    whole = scope.copy()
    whole.update(b'\0' + key.text.encode())
    return f'{scope.hexdigest()}:{whole.hexdigest()}'
