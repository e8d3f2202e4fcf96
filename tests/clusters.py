"""The demo as a cluster, for one test or a module of them; and its restart.

::

    with running_cluster(need, folder) as cluster, \\
            Ticker(cluster.broker, 'news', 0.05) as ticker:
        send(cluster.processes[0], 'SIGKILL')

    seen = restart_under(cluster, 500, 'SIGTERM')
    assert (seen.lost, seen.doubled) == (0, 0)
"""
from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import contextlib
import dataclasses
import os
import pathlib
import signal
import time
from collections.abc import Callable, Hashable, Iterator
from typing import Any

from bench.load.recovering import Flock
from cp_wsrpc.client import Client
from demo.cluster import Cluster, Ticker
from demo.programs import Program

from .rawhttp import http_request
from .serving import free_port, wait_until

__all__ = ['Listener', 'Seen', 'is_serving', 'restart_under',
           'running_cluster', 'send']


@contextlib.contextmanager
def running_cluster(need: Callable[[str], str], folder: pathlib.Path,
                    ) -> Iterator[Cluster]:
    """As ``python -m demo.cluster``, on free ports; without its ticker."""
    ports = [free_port() for _ in range(5)]
    with Cluster(need('nginx'), need('redis-server'), folder, '127.0.0.1',
                 ports[0], ports[1], ports[2:]) as cluster:
        try:
            yield cluster
        except BaseException:
            for program in cluster.programs:
                print(f'--- {program.name}:\n'
                      + program.log.read_text(errors='replace')[-3000:])
            raise


def send(program: Program, name: str) -> int:
    """Send a signal, ``'SIGTERM'``, to what runs; the pid that it had."""
    pid = program.pid
    os.kill(pid, getattr(signal, name))
    return pid


def is_serving(port: int) -> bool:
    """Whether a process takes connections: 426, and not 503."""
    try:
        return http_request(port, '/api').status == 426
    except OSError:
        return False


def _restart(program: Program, port: int, how: str) -> None:
    """Send the signal, and wait until it serves again."""
    starts = _starts(program)
    send(program, how)
    wait_until(lambda: _starts(program) > starts, 20,
               f'{program.name} to be back')
    wait_until(lambda: is_serving(port), 20)


def _starts(program: Program) -> int:
    return program.log.read_text(errors='replace').count('Bus STARTED')


class Listener:
    """A Python client, and what it has heard."""

    def __init__(self, port: int, topic: str = 'ticks') -> None:
        self.heard: list[int] = []
        self.joins: list[bool | None] = []
        self.client = Client(f'ws://127.0.0.1:{port}/api',
                             reconnect_delay_s=0.2)
        self._topic = topic

    def __enter__(self) -> Listener:
        self.client.__enter__()
        self.client.subscribe(self._topic, self._hear,
                              onjoin=self.joins.append)
        wait_until(lambda: self.joins, 10)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.client.close()

    def _hear(self, tick: dict[str, Any]) -> None:
        if not (tick.get('again') and self.heard[-1:] == [tick['n']]):
            self.heard.append(tick['n'])

    def pid(self) -> int:
        answer: int = self.client.call('process').result()['pid']
        return answer

    def assert_whole(self, until: int) -> None:
        """All ticks up to that one, in order, each once."""
        wait_until(lambda: self.heard and self.heard[-1] >= until, 20)
        first = self.heard[0]
        assert self.heard == list(range(first, first + len(self.heard)))


@dataclasses.dataclass
class Seen:
    """What the clients of a rolling restart saw."""

    #: the newest number that all have heard
    newest: int
    lost: int
    doubled: int
    recovered: collections.Counter[bool | None]
    closed: collections.Counter[Hashable]
    #: how many came back within the busiest 250 ms, and all in all
    most_in_250_ms: int
    came_back: int
    seconds: float


def restart_under(cluster: Cluster, count: int, how: str, *,
                  per_s: float = 20, patient: bool = False) -> Seen:
    """Restart each process in turn under ``count`` clients behind nginx.

    ``how``: the signal, ``'SIGTERM'``.  The next process has its turn when
    the one before serves again, or (``patient``) when all clients are back
    as well.  Returns when all clients have heard what was published up to
    then, and half a second more.
    """
    async def run() -> Seen:
        flock = Flock(count, lambda number: cluster.port,
                      lambda number: 'news', before=0)
        await flock.open()
        begun = time.monotonic()
        with Ticker(cluster.broker, 'news', 1 / per_s) as ticker:
            for program, port in zip(cluster.processes, cluster.ports,
                                     strict=True):
                await asyncio.to_thread(_restart, program, port, how)
                if patient:
                    await flock.settle(lambda: flock.all_joined, 30)
            newest = ticker.last + int(per_s / 2)
            await flock.settle(lambda: flock.all_have(newest), 30)
        seconds = time.monotonic() - begun
        await flock.close()
        return Seen(newest, flock.lost, flock.doubled, flock.recovered,
                    flock.closed, flock.most_attempts(0.25),
                    len(flock.attempts), seconds)

    # A thread of its own: Playwright has a loop on the tests'.
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, run()).result()
