"""Threats D8 and D9, and a rolling restart, of several processes.

The quick forms stand in ``tests/test_cluster.py``.
"""
from __future__ import annotations

import pytest

from ..clusters import restart_under, running_cluster


@pytest.fixture(scope='module', autouse=True)
def victim():
    """None: the clients themselves tell what went wrong."""


@pytest.fixture(scope='module')
def cluster(need, tmp_path_factory):
    with running_cluster(need, tmp_path_factory.mktemp('cluster')) as it:
        yield it


@pytest.mark.full
@pytest.mark.timeout(120)
@pytest.mark.parametrize('how, code', [
    ('SIGTERM', 1001), ('SIGHUP', 1001), ('SIGKILL', 1006)])
def test_500_clients_lose_nothing_while_each_process_is_restarted(
        cluster, how, code):
    seen = restart_under(cluster, 500, how, patient=True)
    print(how, seen)
    assert (seen.lost, seen.doubled) == (0, 0), seen
    # Who is sent away comes back, whatever it met with on its way.
    assert seen.closed[code] >= 400, seen
    assert seen.recovered[None] == 500, seen
    assert seen.recovered[False] == 0, seen
    assert seen.recovered[True] == seen.closed[code], seen
    if code != 1006:
        # Up to 250 at once, spread over 5 s: 13 in each 250 ms.
        assert seen.most_in_250_ms < 40, seen
