"""Sends the numbers that are typed to the demo's /total (asyncio, the
package websockets), and prints what the server says, also about numbers
that others send.

::

    $ python demo/clients/total.py
    5
    Server records total=5
    abc
    'abc' is not a number that can be added: send one such as 5 or 2.5

Each line waits for one answer, so that a file of numbers can be piped in.
"""
from __future__ import annotations

import asyncio
import sys

from websockets.asyncio.client import ClientConnection, connect

URL = 'ws://127.0.0.1:8080/total'


async def send_lines(socket: ClientConnection, answer: asyncio.Event) -> None:
    while line := await asyncio.to_thread(sys.stdin.readline):
        answer.clear()
        await socket.send(line.strip())
        await asyncio.wait_for(answer.wait(), 10)


async def main() -> None:
    async with connect(sys.argv[1] if len(sys.argv) > 1 else URL) as socket:
        answer = asyncio.Event()

        async def show() -> None:
            async for text in socket:
                print(text, flush=True)
                answer.set()

        showing = asyncio.create_task(show())
        await send_lines(socket, answer)
        showing.cancel()


if __name__ == '__main__':
    asyncio.run(main())
