"""``python -m bench.clients NAME --port N``: a Python client's calls/s.

One thread (or one task) that keeps 16 calls in flight to
``bench.server``'s ``add_nonblocking``, which is faster than any client.

``cp_wsrpc``       ``cp_wsrpc.Client``
``wsrpc_aiohttp``  the client of wsrpc-aiohttp, on uvloop
"""
from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections import deque

_IN_FLIGHT = 16


def run_cp_wsrpc(port: int, seconds: float) -> float:
    import cp_wsrpc
    with cp_wsrpc.Client(f'ws://127.0.0.1:{port}/rpc') as client:
        assert client.proxy.add_nonblocking(42, 23) == 65
        replies = deque(client.call('add_nonblocking', 42, 23)
                        for _ in range(_IN_FLIGHT))
        count, begun = 0, time.perf_counter()
        while time.perf_counter() - begun < seconds:
            assert replies.popleft().result(5) == 65
            replies.append(client.call('add_nonblocking', 42, 23))
            count += 1
        return count / (time.perf_counter() - begun)


def run_wsrpc_aiohttp(port: int, seconds: float) -> float:
    import uvloop
    return uvloop.run(_wsrpc_aiohttp(port, seconds))


async def _wsrpc_aiohttp(port: int, seconds: float) -> float:
    from wsrpc_aiohttp import WSRPCClient
    client = WSRPCClient(f'ws://127.0.0.1:{port}/rpc', timeout=5)
    await client.connect()
    count, begun = 0, time.perf_counter()

    async def call_on() -> None:
        nonlocal count
        while time.perf_counter() - begun < seconds:
            assert await client.call('add_nonblocking', a=42, b=23) == 65
            count += 1

    await asyncio.gather(*(call_on() for _ in range(_IN_FLIGHT)))
    per_s = count / (time.perf_counter() - begun)
    await client.close()
    return per_s


CLIENTS = {'cp_wsrpc': run_cp_wsrpc, 'wsrpc_aiohttp': run_wsrpc_aiohttp}


def main() -> None:
    parser = argparse.ArgumentParser(prog='python -m bench.clients')
    parser.add_argument('client', choices=CLIENTS)
    parser.add_argument('--port', type=int, required=True)
    parser.add_argument('--seconds', type=float, default=3)
    given = parser.parse_args()
    print(json.dumps({'per_s': CLIENTS[given.client](given.port,
                                                      given.seconds)}))


if __name__ == '__main__':
    main()
