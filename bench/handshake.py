"""``python -m bench.handshake``: what a new connection costs, step by step.

One thread does what an HTTP worker of cheroot's does, for handshakes that
came over loopback: no other thread is in its way but the I/O loop's.  The
first table is that thread's CPU for one handshake, the I/O loop's for it and
its end, and what the collector of garbage took in both, as a mean; the
second where the time goes, by the clock.  A step's time holds that of the
steps below it.  All others are tenth percentiles: what disturbed a handshake
is no part of it.

``cp_wsrpc``, ``ws4py`` (its tool) and ``bare`` (CherryPy answers 101) each
run in a process of their own; ``--steps`` is ``cp_wsrpc`` alone.
"""
from __future__ import annotations

import argparse
import gc
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from typing import Any

import cherrypy
from cheroot import server as cheroot_server
from cheroot import wsgi
from cherrypy import _cplogging, _cprequest
from cherrypy._cpwsgi_server import CPWSGIServer

from .load.wire import request_of

SERVERS = ('cp_wsrpc', 'ws4py', 'bare')
_AT_A_TIME = 8
_LOOPS = ('wsrpc-io', 'WebSocketManager')


def _mount(name: str) -> None:
    if name == 'cp_wsrpc':
        from .server import CONFIG, Root
        cherrypy.tree.mount(Root(), '', CONFIG)
    elif name == 'ws4py':
        from ws4py.server.cherrypyserver import WebSocketPlugin, WebSocketTool

        from .peers import ws4py_by_hand as by_hand
        WebSocketPlugin(cherrypy.engine).subscribe()
        cherrypy.tools.websocket = WebSocketTool()
        cherrypy.tree.mount(by_hand.Root(), '', {'/rpc': {
            'tools.websocket.on': True,
            'tools.websocket.handler_cls': by_hand.Handler}})
    else:
        from .peers import bare_101
        cherrypy.tree.mount(bare_101.Root(), '')


class Workshop:
    """A cheroot that listens, and whose one worker is the caller."""

    def __init__(self) -> None:
        cherrypy.config.update({'environment': 'production'})
        cherrypy.server.unsubscribe()
        cherrypy.engine.autoreload.unsubscribe()
        cherrypy.engine.start()
        self.server = CPWSGIServer(cherrypy.server)
        self.server.socket = self.listener = socket.create_server(
            ('127.0.0.1', 0))
        self.port = self.listener.getsockname()[1]
        self.server.bind_addr = '127.0.0.1', self.port
        self._loops = [time.pthread_getcpuclockid(thread.ident)
                       for thread in threading.enumerate()
                       if thread.ident and thread.name.startswith(_LOOPS)]

    def _arrive(self) -> tuple[socket.socket, Any]:
        client = socket.create_connection(('127.0.0.1', self.port))
        client.sendall(request_of(self.port, '/rpc'))
        sock, address = self.listener.accept()
        sock.settimeout(10)
        connection = cheroot_server.HTTPConnection(self.server, sock)
        connection.remote_addr, connection.remote_port = address
        connection.ssl_env = {}
        return client, connection

    def run_lot(self) -> tuple[float, float]:
        """(us of the HTTP thread, us of the loop) for one of eight."""
        lot = [self._arrive() for _ in range(_AT_A_TIME)]
        loop, begun = self._loop_s(), time.thread_time()
        for _, connection in lot:
            connection.communicate()
            connection.close()
        took = time.thread_time() - begun
        for client, _ in lot:
            assert client.recv(4096).startswith(b'HTTP/1.1 101')
            client.close()
        time.sleep(.003)        # the loop closes its ends
        return (took / _AT_A_TIME * 1e6,
                (self._loop_s() - loop) / _AT_A_TIME * 1e6)

    def _loop_s(self) -> float:
        return sum(map(time.clock_gettime, self._loops))


class Steps:
    """Takes the time of functions by putting a clock around each."""

    def __init__(self) -> None:
        self.took: dict[str, list[int]] = {}

    def watch(self, label: str, owner: Any, name: str) -> None:
        function, clock = getattr(owner, name), time.perf_counter_ns
        took = self.took[label] = []

        def timed(*args: Any, **kwargs: Any) -> Any:
            begun = clock()
            try:
                return function(*args, **kwargs)
            finally:
                took.append(clock() - begun)

        setattr(owner, name, timed)

    def watch_all(self) -> None:
        from cp_wsrpc import host_socket, ioloop, plugin, tool, transport
        request = cheroot_server.HTTPRequest
        for label, owner, name in (
                ('the whole HTTP thread', cheroot_server.HTTPConnection,
                 'communicate'),
                ('cheroot: read the request', request, 'parse_request'),
                ('cheroot: WSGI environ', wsgi.Gateway_10, 'get_environ'),
                ('cheroot: write the head', request, 'send_headers'),
                ('CherryPy: Request.run', _cprequest.Request, 'run'),
                ('  its access log', _cplogging.LogManager, 'access'),
                ('  ours: _setup', tool.WsrpcTool, '_setup'),
                ('  ours: upgrade', tool.WsrpcTool, 'upgrade'),
                ('  ours: _grant', tool, '_grant'),
                ('  ours: drop_body', tool.WsrpcTool, 'drop_body'),
                ('  ours: complete', tool.WsrpcTool, 'complete'),
                ('ours: start_handler', tool.WsrpcTool, 'start_handler'),
                ('  take', host_socket.Carrier, 'take'),
                ('  make_websocket', plugin.WsrpcPlugin, 'make_websocket'),
                ('loop: adopt', ioloop.IOLoop, 'adopt'),
                ('loop: forget', ioloop.IOLoop, 'forget'),
                ('loop: close(2)', transport, 'close_hard')):
            self.watch(label, owner, name)


class Collector:
    """Adds up the seconds that the cyclic garbage collector takes."""

    def __init__(self) -> None:
        self.took_s = self._begun = 0.0
        gc.callbacks.append(self._on_collection)

    def _on_collection(self, phase: str, info: dict[str, int]) -> None:
        if phase == 'start':
            self._begun = time.perf_counter()
        else:
            self.took_s += time.perf_counter() - self._begun


def _tenth(took: Iterable[float]) -> float:
    figures = sorted(took)
    return figures[len(figures) // 10]


def measure(name: str, lots: int, steps: bool) -> None:
    _mount(name)
    workshop = Workshop()
    for _ in range(10):
        workshop.run_lot()
    watched = Steps()
    if steps:
        watched.watch_all()
    collector = Collector()
    http, loop = map(_tenth, zip(
        *(workshop.run_lot() for _ in range(lots)), strict=True))
    collected = collector.took_s / (lots * _AT_A_TIME) * 1e6
    print(f'{name:28} {http:6.1f} us HTTP {loop:6.1f} us loop'
          f' {collected:6.1f} us garbage')
    for label, took in watched.took.items():
        print(f'{label:28} {_tenth(took) / 1000:6.1f} us')
    sys.stdout.flush()
    os._exit(0)         # there is nothing to drain


def main() -> None:
    parser = argparse.ArgumentParser(prog='python -m bench.handshake')
    parser.add_argument('server', nargs='?', choices=SERVERS)
    parser.add_argument('--lots', type=int, default=100)
    parser.add_argument('--steps', action='store_true')
    given = parser.parse_args()
    if given.server is not None or given.steps:
        measure(given.server or 'cp_wsrpc', given.lots, given.steps)
    for name in SERVERS:
        subprocess.run([sys.executable, '-m', 'bench.handshake', name,
                        '--lots', str(given.lots)], check=True)


if __name__ == '__main__':
    main()
