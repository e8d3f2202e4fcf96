"""picows and json on uvloop: ``/rpc`` and ``/echo``."""
from __future__ import annotations

import argparse
import asyncio
import json

import uvloop
from picows import WSListener, WSMsgType, ws_create_server


class Calls(WSListener):

    def on_ws_frame(self, transport, frame):
        if frame.msg_type != WSMsgType.TEXT:
            return
        call = json.loads(frame.get_payload_as_bytes())
        if call['method'] == 'add':
            a, b = call['params']
            transport.send(WSMsgType.TEXT, json.dumps(
                {'jsonrpc': '2.0', 'id': call['id'],
                 'result': a + b}).encode())


class Echo(WSListener):

    def on_ws_frame(self, transport, frame):
        if frame.msg_type in (WSMsgType.TEXT, WSMsgType.BINARY):
            transport.send(frame.msg_type, frame.get_payload_as_bytes())


async def run(port):
    server = await ws_create_server(
        lambda request: Echo() if request.path == b'/echo' else Calls(),
        '127.0.0.1', port)
    async with server:
        await asyncio.get_running_loop().create_future()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--port', type=int, required=True)
    uvloop.run(run(parser.parse_args().port))


if __name__ == '__main__':
    main()
