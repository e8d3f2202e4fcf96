"""One application on plain ws4py or on cp_wsrpc, to be treated badly.

    python -m tests.pitfalls_app plain|ours PORT [tls|cycle]

``cycle`` starts and stops the engine twice and ends.  The handlers are the
same on both; ``Broken`` and its like do what applications do.
"""
from __future__ import annotations

import sys
import threading

import cherrypy
from ws4py.server.cherrypyserver import WebSocketPlugin, WebSocketTool
from ws4py.websocket import WebSocket as Ws4pyWebSocket

import cp_wsrpc

from .hasty import hasten

CLOSED = []


class Echo:
    heartbeat_freq = 0.1

    def received_message(self, message):
        self.send(message.data.decode())

    def closed(self, code, reason=None):
        CLOSED.append(code)


class Broken(Echo):
    def closed(self, code, reason=None):
        raise RuntimeError('an exception of the application')


class Leaving(Echo):
    """Closes, and goes on talking."""

    def received_message(self, message):
        self.close(4000, 'y' * 200 if message.data == b'long' else 'bye')
        self.send('after the Close')


class Greeting(Echo):
    def opened(self):
        cherrypy.engine.publish('websocket-broadcast', 'somebody came')


class Exiting(Echo):
    def received_message(self, message):
        cherrypy.engine.exit()


HANDLERS = {'echo': Echo, 'broken': Broken, 'leaving': Leaving,
            'greeting': Greeting, 'exiting': Exiting}


class Page:
    @cherrypy.expose
    def index(self):
        return ''


class Root:
    def __init__(self):
        for name in HANDLERS:
            setattr(self, name, Page())

    @cherrypy.expose
    def closed(self):
        return 'x' * CLOSED.count(4000)

    @cherrypy.expose
    def broadcast(self, size):
        for _ in range(20):
            cherrypy.engine.publish('websocket-broadcast', 'x' * int(size))
        return ''

    @cherrypy.expose
    def threads(self):
        return ' '.join(t.name for t in threading.enumerate())


def main(which, port, how=''):
    hasten()
    ours = which == 'ours'
    base = cp_wsrpc.WebSocket if ours else Ws4pyWebSocket
    name = 'tools.wsrpc.' if ours else 'tools.websocket.'
    if not ours:
        cherrypy.tools.websocket = WebSocketTool()
        WebSocketPlugin(cherrypy.engine).subscribe()
        cherrypy.engine.wsrpc.unsubscribe()
    config = {f'/{path}': {
        name + 'on': True,
        name + 'handler_cls': type(handler.__name__, (handler, base), {})}
        for path, handler in HANDLERS.items()}
    cherrypy.config.update({
        'server.socket_host': '127.0.0.1', 'server.socket_port': int(port),
        'engine.autoreload.on': False, 'checker.on': False})
    if ours:
        cherrypy.config.update({'engine.wsrpc.ping_interval_s': 0.1})
    if how == 'tls':
        from .serving import certificates
        files = certificates()
        cherrypy.config.update({
            'server.ssl_module': 'builtin',
            'server.ssl_certificate': files.certificate,
            'server.ssl_private_key': files.private_key})
        print('authority', files.authority)
    cherrypy.tree.mount(Root(), '/', config)
    cherrypy.engine.start()
    if how == 'cycle':
        cherrypy.engine.stop()
        cherrypy.engine.start()
        cherrypy.engine.exit()
        return
    print('Ready', flush=True)
    cherrypy.engine.block()


if __name__ == '__main__':
    main(*sys.argv[1:])
