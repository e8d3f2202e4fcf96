"""Pushes through Redis to many processes, and what one that dies costs.

``feed``    how long a push takes from ``publish`` to the subscriber, at a
            given rate; Redis, three servers, publisher and subscribers are
            processes of one machine, and so have one clock
``storm``   all subscribers sit at one server, which is killed: how long
            until the last one is back and has what it has missed
``redis``   pushes a second that one Redis takes when nothing else limits
"""
from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from .recovering import Flock, Subscriber
from .server_process import cpu_s

__all__ = ['measure_feed', 'measure_redis', 'measure_storm']

#: Subscribers of one topic.
_AUDIENCE = 20


class Cluster(NamedTuple):
    """What ``bench.cluster`` says of itself."""

    broker: str
    #: (port, process id)
    servers: list[tuple[int, int]]


def ask(port: int) -> Cluster:
    with socket.create_connection(('127.0.0.1', port), 20) as sock:
        said = json.loads(sock.makefile().readline())
    return Cluster(said['broker'], [tuple(each) for each in said['servers']])


@contextlib.contextmanager
def publishing(broker: str, topics: int, per_s: float) -> Iterator[int]:
    """A process that publishes at that rate, to one topic after the other.

    ``{"n": 1, "at": 12.5}``: n counts on each topic from 1, ``at`` is the
    ``time.monotonic()`` at which it was due.  Its process id.
    """
    process = subprocess.Popen([
        sys.executable, '-m', 'bench.load.cluster', broker, str(topics),
        str(per_s)])
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


def publish(broker: str, topics: int, per_s: float) -> None:
    """Be that process."""
    import cp_wsrpc
    gc.disable()
    with cp_wsrpc.Publisher(broker) as publisher:
        begun = time.monotonic()
        for count in itertools.count():
            number, topic = divmod(count, topics)
            # Those that are late are not left out: they come one behind
            # the other, and their time shows it.
            due = begun + count / per_s
            while (left := due - time.monotonic()) > 0:
                time.sleep(left)
            publisher.publish(f't{topic}', {'n': number + 1, 'at': due})


def _run(coroutine: Any) -> Any:
    try:
        import uvloop
    except ImportError:
        return asyncio.run(coroutine)
    return uvloop.run(coroutine)


def measure_feed(given: argparse.Namespace) -> dict[str, Any]:
    """``per_s`` pushes a second, each to 20 of ``connections`` sockets."""
    return _run(_feed(given, ask(given.port)))


async def _feed(given: argparse.Namespace, cluster: Cluster
                ) -> dict[str, Any]:
    topics = given.connections // _AUDIENCE
    took: list[float] = []

    def hear(who: Subscriber, data: Any, offset: int) -> None:
        took.append(time.monotonic() - data['at'])

    flock = Flock(given.connections,
                  lambda number: cluster.servers[
                      number // topics % len(cluster.servers)][0],
                  lambda number: f't{number % topics}', '/rpc', heard=hear)
    await flock.open()
    pids = [pid for _, pid in cluster.servers]
    with publishing(cluster.broker, topics, given.rate) as publisher:
        await flock.settle(lambda: bool(took))
        await asyncio.sleep(given.warm_up)
        took.clear()
        begun, busy = time.monotonic(), time.process_time()
        cpu = [cpu_s(pid) for pid in (publisher, *pids)]
        await asyncio.sleep(given.seconds)
        busy = time.process_time() - busy
        cpu = [cpu_s(pid) - before for pid, before in
               zip((publisher, *pids), cpu, strict=True)]
        seconds = time.monotonic() - begun
        times = sorted(took)
    await flock.close()
    assert (flock.lost, flock.doubled) == (0, 0), (flock.lost, flock.doubled)
    return {'p50_ms': times[len(times) // 2] * 1e3,
            'p99_ms': times[len(times) * 99 // 100] * 1e3,
            'max_ms': times[-1] * 1e3, 'per_s': len(times) / seconds,
            'busy': busy / seconds, 'publisher_cpu': cpu[0] / seconds,
            'server_cpu': sum(cpu[1:]) / len(pids) / seconds}


def measure_storm(given: argparse.Namespace) -> dict[str, Any]:
    """Kill the server at which all ``connections`` are; seconds till all
    are back, ``recovered``, and have what was pushed meanwhile."""
    return _run(_storm(given, ask(given.port)))


async def _storm(given: argparse.Namespace, cluster: Cluster
                 ) -> dict[str, Any]:
    topics = given.connections // _AUDIENCE
    (victim_port, victim), *_ = cluster.servers
    ports = [port for port, _ in cluster.servers]
    killed = False
    flock = Flock(given.connections,
                  lambda number: (random.choice(ports) if killed
                                  else victim_port),
                  lambda number: f't{number % topics}', '/rpc',
                  spread=not given.at_once, before=0)
    await flock.open()
    with publishing(cluster.broker, topics, given.rate):
        await flock.settle(lambda: flock.all_have(1))
        killed = True
        begun = time.monotonic()
        os.kill(victim, signal.SIGKILL)
        await flock.settle(lambda: flock.closed[1006] >= given.connections)
        await flock.settle(lambda: flock.all_joined, 90)
        seconds = time.monotonic() - begun
        newest = max(each.last or 0 for each in flock.subscribers) + 1
        await flock.settle(lambda: flock.all_have(newest), 30)
    await flock.close()
    assert (flock.lost, flock.doubled) == (0, 0), (flock.lost, flock.doubled)
    assert flock.recovered[True] >= given.connections, flock.recovered
    assert not flock.recovered[False], flock.recovered
    return {'seconds': seconds, 'attempts': len(flock.attempts),
            'most_attempts_in_250_ms': flock.most_attempts(0.25)}


def measure_redis(given: argparse.Namespace) -> dict[str, Any]:
    """Pushes of 130 bytes a second that Redis takes, from redis-benchmark.

    It runs the script of ``publish``, as the store sends it, over 50
    connections, and leaves the publishers' Python out.
    """
    broker = ask(given.port).broker
    command = _publish_command(broker)
    count = int(10_000 * given.seconds)
    done = subprocess.run(
        ['redis-benchmark', '-p', str(urlsplit(broker).port), '-c', '50',
         '-n', str(count), '--csv', *command],
        stdout=subprocess.PIPE, check=True)
    # "test","rps" and six latencies; the test has quotes of its own.
    row = done.stdout.decode().splitlines()[-1].rsplit('","', 7)
    return {'per_s': float(row[1])}


def _publish_command(broker: str) -> list[str]:
    """``['EVALSHA', ...]``, after it was run once."""
    from cp_wsrpc.history import Retention
    from cp_wsrpc.redis_store import RedisStore
    seen: list[list[str]] = []

    class Store(RedisStore):
        def run(self, script: Any, keys: Sequence[Any], args: Sequence[Any],
                repair: Callable[[], object]) -> Any:
            seen.append(['EVALSHA', script.sha, str(len(keys)), *(
                each.decode() if isinstance(each, bytes) else str(each)
                for each in (*keys, *args))])
            return super().run(script, keys, args, repair)

    store = Store(broker)
    text = b'"%s"' % (b'x' * 128)
    store.publish('t0', text, None, Retention())
    store.close()
    command, = seen
    return command


if __name__ == '__main__':
    publish(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
