"""The demo as one process of several: what ``cluster`` starts three of.

The page of ``application``, with one card more (``page/cluster.js``): the
process that this page is on, numbered ticks with what was lost or doubled
of them, and a login that every process knows.  What that takes beside the
plain demo stands in :func:`settings` and :func:`config`: a broker, topics
with history, sessions in files.

What the demo keeps in memory (the running total, the sockets of ``/ws``)
each process has for itself.
"""
from __future__ import annotations

import argparse
import os
import pathlib
from typing import Any

import cherrypy

import cp_wsrpc

from . import application

__all__ = ['Root', 'TICKS', 'config', 'settings']

#: The topic on which the cluster counts.
TICKS = 'ticks'
MAX_NAME = 40


class Api(application.Api):
    """What a page may call here beside the demo's own methods."""

    @cp_wsrpc.expose
    @cp_wsrpc.nonblocking
    def process(self) -> dict[str, Any]:
        return {'pid': os.getpid(), 'user': cp_wsrpc.connection.user}


class Root(application.Root):
    """The demo, and who is signed in."""

    api = Api()

    @cherrypy.expose
    def index(self) -> str:
        page = pathlib.Path(application.PAGE_DIR, 'index.html')
        return page.read_text(encoding='utf-8').replace(
            '</head>', '<script src="page/cluster.js" defer></script>\n'
                       '</head>', 1)

    @cherrypy.expose
    def notify(self, msg: str) -> str:
        try:
            return super().notify(msg)
        except cp_wsrpc.BrokerUnavailable as error:
            # Not 503: nginx would ask the other two processes as well.
            cherrypy.response.status = 504
            return f'not sent, or perhaps: {error}\n'

    @cherrypy.expose
    @cherrypy.tools.allow(methods=['POST'])
    def login(self, name: str) -> str:
        cherrypy.session['name'] = name[:MAX_NAME]
        return 'signed in'

    @cherrypy.expose
    @cherrypy.tools.allow(methods=['POST'])
    def logout(self) -> str:
        cherrypy.session.delete()
        return 'signed out'


def user_of_session() -> str | None:
    """For ``tools.wsrpc.user``; guests are let in, too."""
    name: str | None = cherrypy.session.get('name')
    return name


def settings(port: int, broker: str) -> dict[str, Any]:
    """The process's config: where it listens, and with whom it pushes."""
    return {
        'server.socket_host': '127.0.0.1',
        'server.socket_port': port,
        # A page that comes back makes several requests at once.
        'server.socket_queue_size': 1024,
        'engine.autoreload.on': False,
        'engine.wsrpc.broker': broker,
        'engine.wsrpc.topics': {TICKS: {}, 'news': {}, 'chat': {}},
    }


def config(sessions: str) -> dict[str, dict[str, Any]]:
    """The application's; ``sessions``: a folder that all processes share."""
    made = application.config(behind_proxy=True)
    made['/'].update({
        'tools.sessions.on': True,
        'tools.sessions.storage_class': cherrypy.lib.sessions.FileSession,
        'tools.sessions.storage_path': sessions,
        'tools.sessions.httponly': True,
    })
    made['/page']['tools.sessions.on'] = False
    made['/api'].update({
        'tools.wsrpc.user': user_of_session,
        'tools.wsrpc.subscribe': ['news', 'chat', TICKS],
    })
    return made


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog='python -m demo.clustered')
    parser.add_argument('--port', type=int, required=True)
    parser.add_argument('--broker', metavar='URL', required=True,
                        help='as engine.wsrpc.broker')
    parser.add_argument('--sessions', metavar='FOLDER', required=True,
                        help='where all processes keep their sessions')
    given = parser.parse_args(argv)
    cherrypy.config.update(settings(given.port, given.broker))
    cherrypy.tree.mount(Root(), '', config(given.sessions))
    cherrypy.engine.signals.subscribe()
    cherrypy.engine.start()
    cherrypy.engine.block()


if __name__ == '__main__':
    main()
