"""What a store of topics' histories must answer, said a second time.

:class:`RecoveryModel` is a hypothesis state machine over one store: random
publishes, pauses, restarts and questions, each answer held against
:class:`Reference`, which keeps everything and computes what is still held
from scratch.  ``test_history`` runs it over memory, ``test_redis_broker``
over Redis; the same seeds give the same questions.
"""
from __future__ import annotations

import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from cp_wsrpc.history import Position, Retention

__all__ = ['RULES', 'RecoveryModel', 'model_settings']

RULES = {
    'all': Retention(4, 10.0, 100, 'stream'),
    'newest': Retention(3, 10.0, 100, 'latest'),
    'mouse': Retention(mode='volatile'),
}
TOPICS = st.sampled_from(['all', 'all', 'newest', 'newest', 'mouse', 'none'])
KEYS = st.sampled_from(['a', 'b', 'c', 'd', None])
#: The most that one recovery brings.
MAX_EVENTS, MAX_BYTES = 3, 90


def model_settings(steps: int, full_steps: int = 100_000) -> settings:
    """About ``steps`` steps, the same at each run; all with WSRPC_FULL=1."""
    full = os.environ.get('WSRPC_FULL') == '1'
    a_run = 50
    return settings(
        max_examples=max(1, (full_steps if full else steps) // a_run),
        stateful_step_count=a_run, deadline=None, derandomize=not full,
        database=None, print_blob=full,
        suppress_health_check=list(HealthCheck))


class Reference:
    """One stream, of which nothing is ever thrown away."""

    def __init__(self, retention: Retention) -> None:
        self.retention = retention
        self.epoch: str | None = None
        self.events: list[tuple[int, float, str | None, bytes]] = []

    @property
    def offset(self) -> int:
        return len(self.events)

    def held(self, now: float) -> tuple[dict[int, bytes], int]:
        """({offset: text}, the last offset let go), by going through it."""
        size, ttl_s, max_bytes, mode, *_ = self.retention
        kept: list[tuple[int, float, str | None, bytes]] = []
        lost = 0
        for event in [*self.events, None]:
            at = now if event is None else event[1]
            while kept and at - kept[0][1] >= ttl_s:
                lost = kept.pop(0)[0]
            if event is None:
                break
            if mode == 'latest':
                kept = [other for other in kept if other[2] != event[2]]
            kept.append(event)
            while kept and (len(kept) > size or sum(
                    len(other[3]) for other in kept) > max_bytes):
                lost = kept.pop(0)[0]
        return {offset: text for offset, _, _, text in kept}, lost

    def verdict(self, since: Position | None, now: float,
                ) -> tuple[bool | None, list[tuple[int, bytes]]]:
        if since is None:
            return None, []
        held, lost = self.held(now)
        gap = [(offset, text) for offset, text in held.items()
               if offset > since.offset]
        whole = (lost <= since.offset if self.retention.mode == 'latest'
                 else len(gap) == self.offset - since.offset)
        if (since.epoch == self.epoch and 0 <= since.offset <= self.offset
                and whole and len(gap) <= MAX_EVENTS
                and sum(len(text) for _, text in gap) <= MAX_BYTES):
            return True, gap
        return False, []


class RecoveryModel(RuleBasedStateMachine):
    """Subclasses set ``open`` and ``close``; the store has ``publish``,
    ``recover`` and, for all that it holds, ``lose``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.store = self.open(lambda: self.now)
        self.streams: dict[str, Reference] = {}
        self.epochs: set[str] = set()
        self.positions = [Position('never', 0)]
        self.lose()

    def open(self, clock):
        raise NotImplementedError

    def teardown(self) -> None:
        self.close()

    def close(self) -> None:
        """Nothing to let go."""

    @rule(topic=TOPICS, key=KEYS, size=st.integers(0, 60))
    def publish(self, topic, key, size):
        text = b'"%s"' % (b'x' * size)
        position = self.store.publish(topic, text, key)
        stream = self.streams.get(topic)
        if stream is None:
            assert position is None
            return
        stream.events.append((stream.offset + 1, self.now, key, text))
        self.check_position(stream, position)

    def check_position(self, stream, position):
        if stream.epoch is None:
            assert position.epoch not in self.epochs, 'an epoch used twice'
            self.epochs.add(position.epoch)
            stream.epoch = position.epoch
        assert position == (stream.epoch, stream.offset)
        self.positions.append(position)

    @rule(topic=TOPICS, data=st.data(), nudge=st.integers(-2, 2))
    def come_back(self, topic, data, nudge):
        """With any position that was ever given, or one beside it."""
        epoch, offset = data.draw(st.sampled_from(self.positions[-12:]))
        self.ask(topic, Position(epoch, offset + nudge))

    @rule(topic=TOPICS, behind=st.integers(0, 4))
    def come_back_soon(self, topic, behind):
        stream = self.streams.get(topic)
        if stream is not None and stream.epoch is not None:
            self.ask(topic, Position(stream.epoch, stream.offset - behind))

    @rule(topic=TOPICS)
    def come_first(self, topic):
        self.ask(topic, None)

    def ask(self, topic, since):
        found = self.store.recover(topic, since, MAX_EVENTS, MAX_BYTES)
        stream = self.streams.get(topic)
        if stream is None:
            assert found is None
            return
        self.check_position(stream, found.position)
        recovered, events = stream.verdict(since, self.now)
        assert (found.recovered, list(found.events)) == (recovered, events)

    @rule(seconds=st.sampled_from([0.0, 0.5, 3.0, 9.5, 10.0, 11.0]))
    def wait(self, seconds):
        self.now += seconds

    @rule(really=st.integers(0, 9))
    def restart(self, really):
        """All is lost: a restart of the one process, a flushed Redis."""
        if really == 0:
            self.lose()

    def lose(self):
        self.store.lose()
        self.streams = {topic: Reference(retention)
                        for topic, retention in RULES.items()
                        if retention.mode != 'volatile'}
