"""wsrpc-aiohttp on uvloop: ``/rpc``."""
from __future__ import annotations

import argparse

import uvloop
from aiohttp import web
from wsrpc_aiohttp import WebSocketAsync


async def add(socket, a, b):
    return a + b


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--port', type=int, required=True)
    port = parser.parse_args().port
    WebSocketAsync.add_route('add', add)
    app = web.Application()
    app.router.add_route('*', '/rpc', WebSocketAsync)
    web.run_app(app, host='127.0.0.1', port=port, access_log=None,
                print=None, loop=uvloop.new_event_loop())


if __name__ == '__main__':
    main()
