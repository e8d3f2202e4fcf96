"""For every test: nothing may be left behind, and ``need`` asks for tools."""
from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

pytest.register_assert_rewrite('tests.processes', 'tests.rawpeer',
                               'tests.serving')

from .need import need as _need  # noqa: E402 (rewriting comes first)
from .serving import wait_until  # noqa: E402

if TYPE_CHECKING:
    from .redis_server import RedisServer

#: How long threads and sockets of a finished test may take to go: cheroot
#: looks after idle connections twice a second.
_GRACE_S = 2.0

_FAILED = pytest.StashKey[bool]()


@pytest.fixture(scope='session')
def need() -> Callable[[str], str]:
    """``need('chromium')``: its path, or the test skips; see need.py."""
    return _need


@pytest.fixture(scope='module')
def redis(need: Callable[[str], str]) -> Iterator[RedisServer]:
    """A Redis for all tests of a module: not to be hurt."""
    from .redis_server import redis_server      # what it needs may be missing
    with redis_server(need('redis-server')) as server:
        yield server


@pytest.fixture
def fragile(need: Callable[[str], str]) -> Iterator[RedisServer]:
    """A Redis for one test, which may do with it what it likes."""
    from .redis_server import redis_server
    with redis_server(need('redis-server')) as server:
        yield server


class Clock:
    """Seconds, as ``time.monotonic``; a test sets ``now``."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        'markers', 'full: has no quick form; runs with WSRPC_FULL=1 alone')


def pytest_collection_modifyitems(config: pytest.Config,
                                  items: list[pytest.Item]) -> None:
    """Leave out what is marked ``full``, unless that was asked for."""
    if os.environ.get('WSRPC_FULL') == '1':
        return
    left_out = [item for item in items if item.get_closest_marker('full')]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Any:
    report = yield
    if report.failed:
        item.stash[_FAILED] = True
    return report


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails the test that leaves a socket or a thread behind.

    Threads count if they are named ``wsrpc-*`` or are no daemons.  What
    fixtures of a wider scope hold was there before and does not count.  A
    test that has failed is not judged: its traceback holds what it used.
    """
    threads, sockets = set(_threads()), _sockets()
    yield
    if request.node.stash.get(_FAILED, False):
        return

    def left() -> list[str]:
        names = [f'thread {thread.name}' for thread in _threads()
                 if thread not in threads]
        new = _sockets() - sockets
        if new and not names:
            # cheroot's objects for a connection refer to each other, and
            # their socket waits for the collector (cheroot issue 746).
            gc.collect()
            new &= _sockets()
        return names + (_described(new) if new else [])

    try:
        wait_until(lambda: not left(), _GRACE_S)
    except AssertionError:
        if remains := left():
            pytest.fail('left behind: ' + ', '.join(remains), pytrace=False)


def _threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate()
            if thread is not threading.current_thread()
            and (not thread.daemon or thread.name.startswith('wsrpc-'))]


def _sockets() -> set[tuple[int, str]]:
    """``{(7, 'socket:[81234]')}``; nothing where there is no /proc."""
    found: set[tuple[int, str]] = set()
    try:
        names = os.listdir('/proc/self/fd')
    except OSError:
        return found
    for name in names:
        try:
            target = os.readlink(f'/proc/self/fd/{name}')
        except OSError:
            continue        # closed since, as the listing's own is
        if target.startswith('socket:'):
            found.add((int(name), target))
    return found


def _described(sockets: set[tuple[int, str]]) -> list[str]:
    """``['socket 7 127.0.0.1:40000 -> 127.0.0.1:50000 ESTABLISHED']``."""
    table = {}
    for family in ('tcp', 'tcp6'):
        try:
            with open(f'/proc/self/net/{family}') as lines:
                rows = [line.split() for line in lines][1:]
        except OSError:
            continue
        table.update({row[9]: f'port {_port(row[1])} -> {_port(row[2])} '
                              f'{_STATES.get(row[3], row[3])}'
                      for row in rows})
    return [f'socket {fd} {table.get(target[8:-1], target)}'
            for fd, target in sorted(sockets)]


_STATES = {'01': 'established', '08': 'close-wait', '0A': 'listening'}


def _port(address: str) -> int:
    return int(address.rpartition(':')[2], 16)
