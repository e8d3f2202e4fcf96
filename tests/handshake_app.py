"""One application on plain ws4py or on cp_wsrpc, for comparing the two.

    python -m tests.handshake_app plain|ours

prints ``port 40001`` and serves until it is killed.  The collector is off,
so that what lingers until a collection can be counted (``/sockets``).
"""
from __future__ import annotations

import gc
import io
import os
import sys
import threading
from wsgiref.util import setup_testing_defaults

import cherrypy
from cherrypy.lib import cpstats  # noqa: F401 (registers the tool)
from ws4py.server.cherrypyserver import WebSocketPlugin, WebSocketTool
from ws4py.websocket import WebSocket as Ws4pyWebSocket

import cp_wsrpc

from .serving import free_port


class Answering:
    """The hooks of a handler, for either base class."""

    def received_message(self, message):
        question = message.data.decode()
        if question == 'timeout?':
            self.send(repr(self.sock.gettimeout()))
        elif question == 'secrets?':
            self.send(str('HTTP_AUTHORIZATION' in (self.environ or {})))
        else:
            self.send(f'echo {question}')


class PlainHandler(Answering, Ws4pyWebSocket):
    pass


class OurHandler(Answering, cp_wsrpc.WebSocket):
    pass


class Page:
    @cherrypy.expose
    def index(self):
        return 'a page of the application'


class Root:
    def __init__(self, names):
        for name in names:
            setattr(self, name, Page())

    @cherrypy.expose
    def sockets(self):
        return str(sum(
            os.readlink(f'/proc/self/fd/{name}').startswith('socket:')
            for name in os.listdir('/proc/self/fd')
            if os.path.exists(f'/proc/self/fd/{name}')))

    @cherrypy.expose
    def bare(self):
        """The status of a handshake that another WSGI server brings."""
        found = []
        thread = threading.Thread(target=self._ask_bare, args=(found,))
        thread.start()
        thread.join()
        return found[0]

    def _ask_bare(self, found):
        environ = {
            'wsgi.input': io.BytesIO(), 'PATH_INFO': '/open/',
            'HTTP_UPGRADE': 'websocket', 'HTTP_CONNECTION': 'Upgrade',
            'HTTP_SEC_WEBSOCKET_VERSION': '13', 'HTTP_HOST': 'localhost',
            'HTTP_SEC_WEBSOCKET_KEY': 'dGhlIHNhbXBsZSBub25jZQ==',
            'SERVER_PROTOCOL': 'HTTP/1.1'}
        setup_testing_defaults(environ)
        response = cherrypy.tree(
            environ, lambda status, headers, exc=None: found.append(status))
        b''.join(response)


def forbid():
    raise cherrypy.HTTPError(403)


BASIC = {'tools.auth_basic.on': True, 'tools.auth_basic.realm': 'r',
         'tools.auth_basic.checkpassword': lambda *given: given[2] == 'secret'}
PATHS = {
    'open': {}, 'basic': BASIC, 'page': {},
    'cpstats': {'tools.cpstats.on': True},
    'protocols': {},
    'forbidden': {'hooks.on_start_resource': forbid},
}


def main(which):
    ours = which == 'ours'
    name = 'tools.wsrpc.' if ours else 'tools.websocket.'
    if not ours:
        cherrypy.tools.websocket = WebSocketTool()
        WebSocketPlugin(cherrypy.engine).subscribe()
    switch = {name + 'on': True,
              name + 'handler_cls': OurHandler if ours else PlainHandler}
    config = {f'/{path}': switch | more for path, more in PATHS.items()}
    config['/protocols'][
        name + ('subprotocols' if ours else 'protocols')] = ['a', 'b']
    port = free_port()
    cherrypy.config.update({
        'server.socket_host': '127.0.0.1', 'server.socket_port': port,
        'engine.autoreload.on': False, 'log.screen': False})
    cherrypy.tree.mount(Root(PATHS), '/', config)
    cherrypy.engine.start()
    gc.collect()
    gc.disable()
    print(f'port {port}', flush=True)
    cherrypy.engine.block()


if __name__ == '__main__':
    main(sys.argv[1])
