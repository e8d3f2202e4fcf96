"""``websockets`` and json on uvloop: ``/rpc`` and ``/echo``."""
from __future__ import annotations

import argparse
import asyncio
import json
import logging

import uvloop
from websockets.asyncio.server import serve


async def handle(connection):
    if connection.request.path == '/echo':
        async for message in connection:
            await connection.send(message)
    async for text in connection:
        call = json.loads(text)
        if call['method'] == 'add':
            a, b = call['params']
            await connection.send(json.dumps(
                {'jsonrpc': '2.0', 'id': call['id'], 'result': a + b}))


async def run(port):
    async with serve(handle, '127.0.0.1', port, compression=None,
                     max_size=None):
        await asyncio.get_running_loop().create_future()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--port', type=int, required=True)
    # The load leaves without a Close; a traceback for each helps nobody.
    logging.getLogger('websockets').setLevel(logging.CRITICAL)
    uvloop.run(run(parser.parse_args().port))


if __name__ == '__main__':
    main()
