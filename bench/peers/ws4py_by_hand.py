"""ws4py in CherryPy with json in the handler: what people write by hand.

``/rpc`` answers calls, ``/notify?msg=...&times=1`` broadcasts.
"""
from __future__ import annotations

import argparse
import json

import cherrypy
from ws4py.server.cherrypyserver import WebSocketPlugin, WebSocketTool
from ws4py.websocket import WebSocket


class Handler(WebSocket):

    def received_message(self, message):
        call = json.loads(str(message))
        if call['method'] == 'add':
            a, b = call['params']
            self.send(json.dumps({'jsonrpc': '2.0', 'id': call['id'],
                                  'result': a + b}))


class Root:

    @cherrypy.expose
    def rpc(self):
        pass

    @cherrypy.expose
    def notify(self, msg, times='1'):
        for _ in range(int(times)):
            cherrypy.engine.publish('websocket-broadcast', json.dumps(
                {'jsonrpc': '2.0', 'method': 'notify', 'params': [msg]},
                separators=(',', ':')))
        return 'sent'


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--port', type=int, required=True)
    port = parser.parse_args().port
    WebSocketPlugin(cherrypy.engine).subscribe()
    cherrypy.tools.websocket = WebSocketTool()
    cherrypy.config.update({
        'environment': 'production',
        'server.socket_host': '127.0.0.1',
        'server.socket_port': port,
        'server.socket_queue_size': 1024,
        'tools.log_access.on': False,
    })
    cherrypy.quickstart(Root(), '', {'/rpc': {
        'tools.websocket.on': True, 'tools.websocket.handler_cls': Handler}})


if __name__ == '__main__':
    main()
