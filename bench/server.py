"""``python -m bench.server --port N [--workers W] [--tls CERT KEY]``.

cp_wsrpc as a user has it: liveness, limits, Origin check and all else that
is on by default is on.  CherryPy's access log has no file to go to, though
each request still makes its line; its listen backlog is long enough for
thousands of connections.

``/rpc``      ``add(a, b)`` in the pool, ``add_nonblocking``, ``add_async``
``/notify``   ``?msg=...&times=1``: calls ``notify(msg)`` of all sockets of
              ``/rpc``, that many times
``/echo``     every message back; limits lifted
"""
from __future__ import annotations

import argparse
from typing import Any

import cherrypy

import cp_wsrpc

__all__ = ['Root', 'main']

_NO_LIMIT = 1 << 30


class Rpc:
    """The three kinds of method, doing the same."""

    @cp_wsrpc.expose
    def add(self, a: int, b: int) -> int:
        return a + b

    @cp_wsrpc.expose
    @cp_wsrpc.nonblocking
    def add_nonblocking(self, a: int, b: int) -> int:
        return a + b

    @cp_wsrpc.expose
    async def add_async(self, a: int, b: int) -> int:
        return a + b


class Echo(cp_wsrpc.WebSocket):
    """Sends each message back as it came."""

    def received_message(self, message: Any) -> None:
        self.send(message.data, message.is_binary)


class Root:
    rpc = Rpc()

    @cherrypy.expose
    def notify(self, msg: str, times: str = '1') -> str:
        for _ in range(int(times)):
            cp_wsrpc.broadcast('notify', msg, endpoint='/rpc')
        return 'sent'


CONFIG = {
    '/rpc': {'tools.wsrpc.on': True},
    '/echo': {
        'tools.wsrpc.on': True,
        'tools.wsrpc.handler_cls': Echo,
        'tools.wsrpc.compression': True,
        'tools.wsrpc.max_message_bytes': _NO_LIMIT,
        'tools.wsrpc.max_fragments': _NO_LIMIT,
        'tools.wsrpc.out_max_bytes': _NO_LIMIT,
        'tools.wsrpc.out_max_messages': _NO_LIMIT,
    },
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog='python -m bench.server')
    parser.add_argument('--port', type=int, required=True)
    parser.add_argument('--workers', type=int, default=10,
                        help='threads of the pool (default %(default)s)')
    parser.add_argument('--tls', nargs=2, metavar=('CERT', 'KEY'))
    given = parser.parse_args(argv)
    cherrypy.config.update({
        'environment': 'production',
        'engine.wsrpc.thread_pool': given.workers,
        'server.socket_host': '127.0.0.1',
        'server.socket_port': given.port,
        'server.socket_queue_size': 1024,
    })
    if given.tls:
        cherrypy.config.update({
            'server.ssl_module': 'builtin',
            'server.ssl_certificate': given.tls[0],
            'server.ssl_private_key': given.tls[1],
        })
    cherrypy.quickstart(Root(), '', CONFIG)


if __name__ == '__main__':
    main()
