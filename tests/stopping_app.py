"""An application to be stopped in every way; for ``test_shutdown``.

    python -m tests.stopping_app PORT [engine.wsrpc.OPTION=NUMBER ...]

prints a line for each hook that tells of an end, and ``exit code`` is the
process's own.
"""
from __future__ import annotations

import os
import sys
import threading
import time

import cherrypy

import cp_wsrpc
from cp_wsrpc import Route, expose, nonblocking

from .attack import FULL
from .hasty import hasten


def say(*words):
    # In one write: several threads say something at once.
    sys.stdout.write(' '.join(map(str, words)) + '\n')
    sys.stdout.flush()


class Plain(cp_wsrpc.WebSocket):
    def opened(self):
        self.send('Welcome!')

    def received_message(self, message):
        if str(message) == 'exit':
            cherrypy.engine.exit()

    def closed(self, code, reason=None):
        say('closed', code, reason)


class Seat(Route):
    def init(self):
        self.connection.on_close(
            lambda code, reason: say('on_close', code, reason))

    def closed(self):
        say('Route.closed')


class Api:
    seat = Seat

    @expose
    def ping(self):
        return 'pong'

    @expose
    def sleep(self, seconds: float):
        time.sleep(seconds)     # slow on purpose
        return 'slept'

    @expose
    def big(self, size: int):
        return 'x' * size

    @expose
    async def sleep_async(self, seconds: float):
        import asyncio
        await asyncio.sleep(seconds)    # slow on purpose
        return 'slept'

    @expose
    def forever(self):
        threading.Event().wait()

    @expose
    def spin(self):
        while True:
            pass

    @expose
    def ask(self):
        return cp_wsrpc.connection.call('never').result()

    @expose
    def exit(self):
        cherrypy.engine.exit()

    @expose
    @nonblocking
    def exit_nonblocking(self):
        cherrypy.engine.exit()

    @expose
    async def exit_async(self):
        cherrypy.engine.exit()

    @expose
    def restart(self):
        cherrypy.engine.restart()

    @expose
    def pid(self):
        return os.getpid()


class Root:
    api = Api()

    @cherrypy.expose
    def exit(self):
        cherrypy.engine.exit()
        return 'exiting'


def main(port, *options):
    if not FULL:        # there a stop takes as long as a user's
        hasten()
    config = {'server.socket_host': '127.0.0.1',
              'server.socket_port': int(port), 'server.thread_pool': 10,
              'server.socket_queue_size': 200,
              'checker.on': False, 'engine.autoreload.on': False}
    for option in options:
        name, _, value = option.partition('=')
        config[name] = float(value) if '.' in value else int(value)
    cherrypy.config.update(config)
    cherrypy.tree.mount(Root(), '/', {
        '/api': {'tools.wsrpc.on': True},
        '/ws': {'tools.wsrpc.on': True, 'tools.wsrpc.handler_cls': Plain}})
    cherrypy.engine.signals.subscribe()
    cherrypy.engine.start()
    say('Ready in', os.getpid())
    cherrypy.engine.block()


if __name__ == '__main__':
    main(*sys.argv[1:])
