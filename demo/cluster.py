"""``python -m demo.cluster [--port 8080]``: the demo as three processes.

Starts, on this machine and for nobody but you::

    browser -> nginx :8080 -> process 1 \\
                           -> process 2  > redis-server
                           -> process 3 /

and a ticker, which publishes a number twice a second.  Whatever dies is
started again; Ctrl-C ends all.  Every file (the configuration of nginx,
logs, sessions) is in one temporary folder, removed at the end.

What the processes serve: ``clustered``.
"""
from __future__ import annotations

import argparse
import pathlib
import signal
import socket
import string
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from types import FrameType

from .programs import Program, await_listener, find_program, free_ports

__all__ = ['Cluster', 'Ticker', 'main', 'missing']

TICK_S = 0.5
#: Longer than a server needs for its drain (14 s).
STOP_TIMEOUT_S = 20.0

#: One process, so that "kill -9" ends all of it; a site has a master and
#: workers, and more on docs/deployment.rst.
NGINX = string.Template('''\
daemon off;
master_process off;
pid nginx.pid;
error_log nginx.log;
worker_rlimit_nofile 16384;

events {
    worker_connections 8192;    # two for each client
}

http {
    access_log off;
    client_body_temp_path temp_body;
    proxy_temp_path temp_proxy;
    fastcgi_temp_path temp_fastcgi;
    uwsgi_temp_path temp_uwsgi;
    scgi_temp_path temp_scgi;

    map $$http_upgrade $$connection_upgrade {
        default upgrade;
        ''      '';
    }

    # A process that has died refuses at once here: ask the next one, and
    # try this one again with the next request.
    upstream demo {
        least_conn;
$servers
    }

    server {
        listen $host:$port;
        proxy_http_version 1.1;
        proxy_set_header Upgrade $$http_upgrade;
        proxy_set_header Connection $$connection_upgrade;
        proxy_set_header Host $$http_host;
        proxy_set_header X-Forwarded-Proto $$scheme;
        proxy_set_header X-Forwarded-For $$proxy_add_x_forwarded_for;
        proxy_set_header X-Forwarded-Host "";
        proxy_connect_timeout 2s;
        # 503: it is stopping, and takes no new connections.
        proxy_next_upstream error timeout http_503;
        proxy_next_upstream_tries 3;

        location / {
            proxy_pass http://demo;
        }
    }
}
''')


class Cluster:
    """nginx, redis-server and ``count`` processes of the demo.

    As a context; at its end all of them are ended.

    ``nginx``, ``redis``  the programs
    ``folder``            an empty one, for all their files
    ``host``, ``port``    where nginx listens
    ``ports``             one for each process
    """

    def __init__(self, nginx: str, redis: str, folder: pathlib.Path,
                 host: str, port: int, redis_port: int, ports: list[int],
                 say: Callable[[str], None] = print) -> None:
        self.url = f'http://{host}:{port}/'
        self.folder = folder
        self.broker = f'redis://127.0.0.1:{redis_port}/0'
        self._host, self.port, self.ports = host, port, ports
        self.redis = Program('redis-server', [
            redis, '--port', str(redis_port), '--bind', '127.0.0.1',
            '--dir', str(folder), '--save', '',
            # A tick that was taken is on disk: kill -9 loses none.
            '--appendonly', 'yes', '--appendfsync', 'always',
        ], folder / 'redis.log', say)
        (folder / 'sessions').mkdir()
        self.processes = [Program(f'process {number}', [
            sys.executable, '-m', 'demo.clustered', '--port', str(its_port),
            '--broker', self.broker, '--sessions', str(folder / 'sessions'),
        ], folder / f'process-{number}.log', say)
            for number, its_port in enumerate(ports, 1)]
        (folder / 'nginx.conf').write_text(NGINX.substitute(
            host=host, port=port, servers='\n'.join(
                f'        server 127.0.0.1:{its_port} max_fails=0;'
                for its_port in ports)))
        self.nginx = Program('nginx', [
            nginx, '-e', 'stderr', '-p', str(folder), '-c', 'nginx.conf',
        ], folder / 'nginx.out', say)

    @property
    def programs(self) -> list[Program]:
        return [self.redis, *self.processes, self.nginx]

    def __enter__(self) -> Cluster:
        try:
            for program in self.programs:
                program.start()
            for program, port in zip(self.processes, self.ports,
                                     strict=True):
                await_listener(program, '127.0.0.1', port)
            await_listener(self.nginx, self._host, self.port)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def stop(self) -> None:
        """The servers first: they tell their clients."""
        for group in (self.processes, [self.nginx, self.redis]):
            for program in group:
                program.stop()
            deadline = time.monotonic() + STOP_TIMEOUT_S
            for program in group:
                program.join(deadline - time.monotonic())


class Ticker:
    """A thread that publishes ``{"n": 1}``, ``{"n": 2}``, ... on a topic.

    As a context.  Each number until Redis has taken it: one of which that
    is not known goes out once more, as ``{"n": 2, "again": true}``.
    """

    def __init__(self, broker: str, topic: str = 'ticks',
                 period_s: float = TICK_S,
                 say: Callable[[str], None] = print) -> None:
        #: the newest number that is through
        self.last = 0
        self._broker, self._topic, self._period_s = broker, topic, period_s
        self._say = say
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name='ticker')

    def __enter__(self) -> Ticker:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def stop(self) -> int:
        """Publish no more; the last number.  May be repeated."""
        self._stopping.set()
        self._thread.join()         # a publish takes 2 s at most
        return self.last

    def _run(self) -> None:
        # Here, so that main() can say first that redis is missing.
        import cp_wsrpc
        again, due = False, time.monotonic()
        with cp_wsrpc.Publisher(self._broker) as publisher:
            while not self._stopping.is_set():
                tick = {'n': self.last + 1}
                if again:
                    tick['again'] = True
                try:
                    publisher.publish(self._topic, tick)
                except cp_wsrpc.BrokerUnavailable as error:
                    if not again:
                        self._say(f'tick {self.last + 1} has to wait: '
                                  f'{error}')
                    again = True
                else:
                    self.last += 1
                    if again:
                        self._say(f'tick {self.last} is through')
                    again = False
                due = max(due + self._period_s,
                          time.monotonic() - self._period_s)
                self._stopping.wait(due - time.monotonic())


def missing() -> str | None:
    """What this machine lacks, and the line that brings it."""
    lacks = [package for program, package in (
        ('nginx', 'nginx-light'), ('redis-server', 'redis-server'))
        if find_program(program) is None]
    if lacks:
        return (f'Not installed: {" and ".join(lacks)}. On Debian or '
                f'Ubuntu:\n\n    sudo apt-get install {" ".join(lacks)}\n')
    try:
        import redis  # noqa: F401
    except ImportError:
        return ('The Python package redis is not installed:\n\n'
                f"    {sys.executable} -m pip install 'redis>=5'\n")
    return None


def _in_use(host: str, port: int) -> bool:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
        except OSError:
            return True
    return False


def describe(cluster: Cluster, folder: pathlib.Path) -> str:
    """What stands where, and what to try."""
    rows = [f'  {program.name:13} pid {program.pid}'
            for program in cluster.programs]
    process, redis = cluster.processes[0].pid, cluster.redis.pid
    return '\n'.join([
        f'The cluster: {cluster.url}      Ctrl-C ends it.', '', *rows, '',
        f'kill -9 {process}: its pages go on on another process; it is '
        'started again',
        f'kill {process}: the same, but its pages are told (1001) and come '
        'back within 5 s',
        f'kill -9 {redis}: ticks wait, nothing is lost; pages and calls '
        'stay',
        f'kill -STOP {redis}: Redis is silent; kill -CONT {redis} ends it',
        '', f'Logs: {folder}', ''])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog='python -m demo.cluster')
    parser.add_argument('--host', default='127.0.0.1',
                        help='address that nginx listens on '
                             '(default %(default)s)')
    parser.add_argument('--port', type=int, default=8080,
                        help='its port (default %(default)s)')
    parser.add_argument('--processes', type=int, default=3, metavar='N',
                        help='how many (default %(default)s)')
    parser.add_argument('--first-port', type=int, metavar='PORT',
                        help='of process 1; the next ones follow, then '
                             'Redis (default: free ones)')
    given = parser.parse_args(argv)
    if lacks := missing():
        raise SystemExit(lacks)
    if _in_use(given.host, given.port):
        raise SystemExit(f'{given.host}:{given.port} is in use: give '
                         'another --port (make demo-cluster PORT=8081)')
    count = given.processes
    *ports, redis_port = (
        free_ports(count + 1) if given.first_port is None
        else range(given.first_port, given.first_port + count + 1))
    nginx, redis = find_program('nginx'), find_program('redis-server')
    assert nginx is not None and redis is not None
    stopping = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopping.set()
        if number == signal.SIGINT:
            print('\nending it ...', flush=True)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    with tempfile.TemporaryDirectory(prefix='wsrpc-cluster-') as name:
        folder = pathlib.Path(name)
        with Cluster(nginx, redis, folder, given.host, given.port,
                     redis_port, ports, _say) as cluster, \
                Ticker(cluster.broker, say=_say):
            print(describe(cluster, folder), flush=True)
            stopping.wait()


def _say(text: str) -> None:
    print(f'{time.strftime("%H:%M:%S")} {text}', flush=True)


if __name__ == '__main__':
    main()
