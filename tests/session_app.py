"""A site with sessions, in this process or in one of its own.

    python -m tests.session_app PORT FOLDER     (sessions in files there)

``/page``, ``/login``, ``/forget`` (as ``session_auth`` logs out), ``/logout``
(deletes), ``/regenerate``, ``/touch``; endpoints ``/api`` (its user comes
from the session), ``/open`` (from a header) and ``/plain`` (no RPC).
"""
from __future__ import annotations

import sys
from typing import Any

import cherrypy
from cherrypy.lib.sessions import FileSession

import cp_wsrpc
from cp_wsrpc import expose

from .hasty import hasten

__all__ = ['Site', 'site_config']


class Plain(cp_wsrpc.WebSocket):
    def opened(self) -> None:
        self.send('Welcome!')


class Api:
    @expose
    def who(self) -> Any:
        return cp_wsrpc.connection.user

    @expose
    def session_id(self) -> str:
        return str(cherrypy.session.id)

    @expose
    def publish(self, data: Any) -> None:
        cp_wsrpc.publish('news', data)


class Site:
    api = Api()
    open = Api()

    @cherrypy.expose
    def page(self) -> str:
        return '<!doctype html><script src="/api/wsrpc.js"></script>'

    page._cp_config = {'tools.sessions.on': False}

    @cherrypy.expose
    def login(self, name: str = 'ada') -> str:
        cherrypy.session['user'] = name
        return 'in'

    @cherrypy.expose
    def forget(self) -> str:
        cherrypy.session['user'] = None
        return 'forgotten'

    @cherrypy.expose
    def logout(self) -> str:
        cherrypy.session.delete()
        cherrypy.lib.sessions.expire()
        return 'out'

    @cherrypy.expose
    def regenerate(self) -> str:
        cherrypy.session.regenerate()
        return 'anew'

    @cherrypy.expose
    def touch(self) -> str:
        cherrypy.session['n'] = cherrypy.session.get('n', 0) + 1
        return 'touched'


def user_of_session() -> Any:
    return cherrypy.session.get('user')


def user_of_header() -> Any:
    return cherrypy.request.headers.get('X-User')


def site_config(folder: str | None = None, **more: Any,
                ) -> dict[str, dict[str, Any]]:
    """Its configuration; ``folder``: sessions in files, else in memory."""
    root: dict[str, Any] = {'tools.sessions.on': True}
    if folder is not None:
        root['tools.sessions.storage_class'] = FileSession
        root['tools.sessions.storage_path'] = folder
    endpoint = {'tools.wsrpc.on': True, 'tools.wsrpc.subscribe': ['*'],
                'tools.wsrpc.user': user_of_session}
    return {'/': {**root, **more}, '/api': endpoint,
            '/open': {**endpoint, 'tools.wsrpc.user': user_of_header},
            '/plain': {'tools.wsrpc.on': True,
                       'tools.wsrpc.user': user_of_session,
                       'tools.wsrpc.handler_cls': Plain}}


if __name__ == '__main__':
    hasten()
    cherrypy.config.update({
        'server.socket_port': int(sys.argv[1]),
        'engine.autoreload.on': False})
    cherrypy.quickstart(Site(), '/', site_config(sys.argv[2]))
