"""Threats D10, without a key: a call whose connection is cut runs at most
once, and who waits for it is told.  With a key, which has one effect:
``tests/test_idempotency.py``.
"""
from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from cp_wsrpc.client import Client
from cp_wsrpc.errors import ConnectionLostError

from ..apps import serving_api
from ..cutting import call_from_node, cutting
from ..test_idempotency import Till, cuts
from . import FULL


@contextlib.contextmanager
def cut_urls():
    """What is served, and a URL for each cut."""
    till = Till()
    Till.paid.clear()
    every = cuts() if FULL else cuts()[::6]
    with serving_api(till, settings={'server.thread_pool': 20}) as server, \
            cutting(server.port) as proxy:
        yield till, [proxy.url('/api', cut) for cut in every]


def assert_at_most_one_effect(till, results):
    """``results``: a call's number, or what was said of its loss."""
    lost = set()
    for number, came in enumerate(results):
        if isinstance(came, str):
            lost.add(number)
            assert 'connection' in came, came
        else:
            assert came == number
            assert till.paid[number] == 1
    assert max(till.paid.values()) == 1
    run = lost & till.paid.keys()
    print(f'{len(results)} cuts: {len(lost)} lost, {len(run)} of these run')
    # Cut in the reply it has run, in the request it has not.
    assert 0 < len(run) < len(lost) < len(results)


@pytest.mark.timeout(900 if FULL else 60)
def test_d10_the_python_client_runs_a_cut_call_once_at_most():
    def call(url, number):
        with Client(url, reconnect_delay_s=0.001) as client:
            try:
                return client.call('pay', number, timeout=20).result()
            except ConnectionLostError as error:
                assert error.maybe_executed
                return str(error)

    with cut_urls() as (till, urls), ThreadPoolExecutor(8) as pool:
        assert_at_most_one_effect(
            till, list(pool.map(call, urls, range(len(urls)))))


@pytest.mark.timeout(900 if FULL else 60)
def test_d10_the_javascript_client_runs_a_cut_call_once_at_most(need):
    with cut_urls() as (till, urls):
        assert_at_most_one_effect(till, call_from_node(
            need, urls, key=False, timeout=600 if FULL else 60))
