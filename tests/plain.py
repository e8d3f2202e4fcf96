"""Plain ws4py in the place of cp_wsrpc: what our tests are to fail on."""
from __future__ import annotations

import contextlib
from collections.abc import Iterator

import cherrypy
from ws4py.server.cherrypyserver import WebSocketPlugin, WebSocketTool

__all__ = ['plain_ws4py']


@contextlib.contextmanager
def plain_ws4py() -> Iterator[WebSocketPlugin]:
    """ws4py's tool as ``tools.websocket``, and its plugin without ours.

    Around ``serving``, not inside::

        config = {'/ws': {'tools.websocket.on': True,
                          'tools.websocket.handler_cls': Echo}}
        with plain_ws4py(), serving(Root(), config) as server:

    Both plugins would take every socket: they hear the same channel.
    """
    plugin = WebSocketPlugin(cherrypy.engine)
    cherrypy.engine.wsrpc.unsubscribe()
    cherrypy.tools.websocket = WebSocketTool()
    plugin.subscribe()
    try:
        yield plugin
    finally:
        plugin.unsubscribe()
        del cherrypy.tools.websocket
        cherrypy.engine.wsrpc.subscribe()
