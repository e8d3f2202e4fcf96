"""CherryPy that answers upgrades with 101 and does no more.

What is left of a new connection when the WebSocket is taken away: the share
of CherryPy itself.
"""
from __future__ import annotations

import argparse
import base64
import hashlib

import cherrypy

_GUID = b'258EAFA5-E914-47DA-95CA-C5AB0DC85B11'


class Root:

    @cherrypy.expose
    def rpc(self):
        key = cherrypy.request.headers['Sec-WebSocket-Key'].encode()
        response = cherrypy.serving.response
        response.status = '101 Switching Protocols'
        response.headers['Upgrade'] = 'websocket'
        response.headers['Connection'] = 'Upgrade'
        response.headers['Sec-WebSocket-Accept'] = base64.b64encode(
            hashlib.sha1(key + _GUID).digest()).decode()
        return b''


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--port', type=int, required=True)
    cherrypy.config.update({
        'environment': 'production',
        'server.socket_host': '127.0.0.1',
        'server.socket_port': parser.parse_args().port,
        'server.socket_queue_size': 1024,
        'tools.log_access.on': False,
    })
    cherrypy.quickstart(Root(), '')


if __name__ == '__main__':
    main()
