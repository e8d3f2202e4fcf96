"""Streams and the feed in a real Redis: the verdicts of memory."""
from __future__ import annotations

import pickle

import pytest
from hypothesis.stateful import run_state_machine_as_test

from cp_wsrpc.errors import BrokerUnavailable, ConfigError
from cp_wsrpc.history import Position, Recovery, Retention

from .need import need
from .recovery_model import RULES, RecoveryModel, model_settings

need('python:redis')

from cp_wsrpc.redis_store import (  # noqa: E402 (needs the package)
    FeedPlace,
    RedisStore,
    connect,
    read_entry,
)

from .redis_server import redis_server  # noqa: E402

KEEPS = Retention()


@pytest.fixture(scope='module')
def server(need):
    with redis_server(need('redis-server')) as server:
        yield server


@pytest.fixture
def store(server):
    server.do('FLUSHALL')
    store = RedisStore(server.url)
    yield store
    store.close()


class _Store:
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


def test_redis_gives_the_verdicts_of_the_model(server):
    class OverRedis(RecoveryModel):
        def open(self, clock):
            return _Store(server.url, clock)

        def close(self):
            self.store.redis.close()

    run_state_machine_as_test(OverRedis, settings=model_settings(600))
