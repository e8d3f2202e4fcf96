"""``python -m bench.cluster --port N``: three servers and a Redis.

Who connects to port N is told, in a line of JSON, what runs::

    {"broker": "redis://127.0.0.1:40001/0",
     "servers": [[40002, 4711], [40003, 4712], [40004, 4713]]}

that is port and process id of each.  A server that dies is started again,
as systemd would.  Each is ``bench.server`` with a broker, and the topics
``t*`` with history.  Redis keeps nothing on disk.
"""
from __future__ import annotations

import argparse
import json
import pathlib
import signal
import socket
import sys
import tempfile

import cherrypy

from demo.programs import (Program, await_listener, find_program,
                           free_ports)

from .server import CONFIG, Root

__all__ = ['main']

_SERVERS = 3


def serve(port: int, broker: str) -> None:
    """Be one of the servers."""
    cherrypy.config.update({
        'environment': 'production',
        'engine.wsrpc.broker': broker,
        'engine.wsrpc.topics': {'t*': {}},
        'server.socket_host': '127.0.0.1',
        'server.socket_port': port,
        'server.socket_queue_size': 4096,
    })
    config = {path: dict(part) for path, part in CONFIG.items()}
    config['/rpc']['tools.wsrpc.subscribe'] = ['t*']
    cherrypy.quickstart(Root(), '', config)


def start_all(port: int) -> None:
    """Start Redis and the servers, and tell who asks."""
    redis = find_program('redis-server')
    if redis is None:
        raise SystemExit('redis-server is not installed: '
                         'apt-get install redis-server')
    *ports, redis_port = free_ports(_SERVERS + 1)
    broker = f'redis://127.0.0.1:{redis_port}/0'
    programs: list[Program] = []
    with tempfile.TemporaryDirectory(prefix='wsrpc-bench-') as name:
        folder = pathlib.Path(name)

        def run(title: str, *command: str, port: int) -> Program:
            program = Program(title, [*command], folder / title, _say)
            programs.append(program)
            program.start()
            await_listener(program, '127.0.0.1', port)
            return program

        try:
            run('redis', redis, '--port', str(redis_port), '--bind',
                '127.0.0.1', '--save', '', '--dir', name, port=redis_port)
            servers = [run(f'server-{each}', sys.executable, '-m',
                           'bench.cluster', '--port', str(each),
                           '--broker', broker, port=each)
                       for each in ports]
            with socket.create_server(('127.0.0.1', port)) as listening:
                while True:
                    asking, _ = listening.accept()
                    with asking:
                        asking.sendall(json.dumps({
                            'broker': broker, 'servers': [
                                [its_port, program.pid]
                                for its_port, program in zip(
                                    ports, servers, strict=True)],
                        }).encode() + b'\n')
        finally:
            for program in programs:
                program.stop()
            for program in programs:
                program.join(15)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog='python -m bench.cluster')
    parser.add_argument('--port', type=int, required=True)
    parser.add_argument('--broker', metavar='URL',
                        help='be a server of the cluster that has this one')
    given = parser.parse_args(argv)
    if given.broker:
        serve(given.port, given.broker)
    else:
        # So that "finally" ends what runs.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        start_all(given.port)


if __name__ == '__main__':
    main()
