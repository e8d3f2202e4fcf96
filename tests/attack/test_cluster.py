"""Threats D8 and D9, and a rolling restart, of several processes.

The quick forms stand in ``tests/test_cluster.py``.
"""
from __future__ import annotations

import contextlib

import pytest

from demo.cluster import Ticker

from ..browsing import chromium
from ..clusters import Listener, restart_under, running_cluster


@pytest.fixture(scope='module', autouse=True)
def victim():
    """None: the clients themselves tell what went wrong."""


@pytest.fixture(autouse=True)
def row():
    """So there is nothing to keep apart."""


@pytest.fixture(scope='module')
def cluster(need, tmp_path_factory):
    with running_cluster(need, tmp_path_factory.mktemp('cluster')) as it:
        yield it


@pytest.mark.full
@pytest.mark.timeout(120)
@pytest.mark.parametrize('how, code', [
    ('SIGTERM', 1001), ('SIGHUP', 1001), ('SIGKILL', 1006)])
def test_500_clients_lose_nothing_while_each_process_is_restarted(
        cluster, how, code, need):
    with contextlib.ExitStack() as stack:
        browser = stack.enter_context(chromium(need('chromium')))
        stack.enter_context(Ticker(cluster.broker))
        # Real ones among them: pages, which hear the ticks, and programs.
        pages = [browser.new_page() for _ in range(2)]
        for page in pages:
            page.goto(cluster.url)
            page.wait_for_selector('#joins li')
        programs = [stack.enter_context(Listener(cluster.port, 'news'))
                    for _ in range(3)]
        seen = restart_under(cluster, 500, how, patient=True)
        for program in programs:
            program.assert_whole(seen.newest)
            assert set(program.joins[1:]) <= {True}
        for page in pages:
            first, *others = page.locator('#joins li').all_inner_texts()
            assert 'recovered null' in first
            assert all('recovered true' in other for other in others)
            assert page.locator('#lost').inner_text() == '0'
            assert page.locator('#doubled').inner_text() == '0'
        came_back = [page.locator('#joins li').count() - 1 for page in pages]
    print(how, seen, 'the pages came back', came_back)
    assert (seen.lost, seen.doubled) == (0, 0), seen
    # Who is sent away comes back, whatever it met with on its way.
    assert seen.closed[code] >= 400, seen
    assert seen.recovered[None] == 500, seen
    assert seen.recovered[False] == 0, seen
    assert seen.recovered[True] == seen.closed[code], seen
    if code != 1006:
        # Up to 250 at once, spread over 5 s: 13 in each 250 ms; more where
        # the machine is busy, and nothing near 250.
        assert seen.most_in_250_ms < 70, seen
