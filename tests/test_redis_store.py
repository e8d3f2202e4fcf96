"""Streams in a real Redis give the verdicts of those in memory."""
from __future__ import annotations

import pytest
from hypothesis.stateful import run_state_machine_as_test

from .need import need
from .recovery_model import RULES, RecoveryModel, model_settings

need('python:redis')

from cp_wsrpc.redis_store import RedisStore  # noqa: E402 (needs the package)



class Store:
    """``RedisStore`` by topic instead of by rule."""

    def __init__(self, url, clock):
        self.redis = RedisStore(url, clock=clock)

    def publish(self, topic, text, key):
        return self.redis.publish(topic, text, key, RULES.get(topic))

    def recover(self, topic, since, max_events, max_bytes):
        rule = RULES.get(topic)
        if rule is None or rule.mode == 'volatile':
            return None
        return self.redis.recover(topic, since, rule, max_events, max_bytes)

    def lose(self):
        self.redis.client.flushall()


@pytest.mark.timeout(600)       # with WSRPC_FULL=1
def test_redis_gives_the_verdicts_of_the_model(redis):
    class OverRedis(RecoveryModel):
        def open(self, clock):
            return Store(redis.url, clock)

        def close(self):
            self.store.redis.close()

    run_state_machine_as_test(OverRedis, settings=model_settings(600))
