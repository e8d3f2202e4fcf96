"""A real redis-server on a free port, for one test or a module of them.

::

    with redis_server(need('redis-server')) as server:
        server.url                      # 'redis://127.0.0.1:40001/0'
        server.pause(), server.go_on()  # SIGSTOP, SIGCONT
        server.kill(), server.start()   # without its data
"""
from __future__ import annotations

import contextlib
import signal
import subprocess
import tempfile
from collections.abc import Iterator

import redis

from .serving import free_port, wait_until

__all__ = ['RedisServer', 'redis_server']


class RedisServer:
    """One redis-server; ``options`` are those of its command line."""

    def __init__(self, program: str, folder: str, *options: str) -> None:
        self.port = free_port()
        self.url = f'redis://127.0.0.1:{self.port}/0'
        self._command = [
            program, '--port', str(self.port), '--bind', '127.0.0.1',
            '--save', '', '--dir', folder, '--loglevel', 'warning', *options]
        self._process: subprocess.Popen | None = None

    def start(self) -> None:
        """Start it; it answers when this returns."""
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL)
        wait_until(self._answers, 10, 'redis-server')

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False

    def client(self) -> redis.Redis:
        """A client of its own; close it."""
        return redis.Redis(port=self.port, protocol=2)

    def do(self, *command: object) -> object:
        """One command, ``do('FLUSHALL')``."""
        with self.client() as client:
            return client.execute_command(*command)

    def pause(self) -> None:
        """SIGSTOP: it takes connections (the kernel does), and is silent."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def kill(self, how: int = signal.SIGKILL) -> None:
        """End it, at once; ``SIGTERM``: it saves, where it should."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            process.wait(10)


@contextlib.contextmanager
def redis_server(program: str, *options: str) -> Iterator[RedisServer]:
    """A running one, ended at the end."""
    with tempfile.TemporaryDirectory(prefix='wsrpc-redis-') as folder:
        server = RedisServer(program, folder, *options)
        server.start()
        try:
            yield server
        finally:
            server.kill()
