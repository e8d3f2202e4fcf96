"""python-socketio under uvicorn on uvloop: an event with an answer."""
from __future__ import annotations

import argparse

import socketio
import uvicorn

server = socketio.AsyncServer(async_mode='asgi')


@server.event
async def add(sid, a, b):
    return a + b


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--port', type=int, required=True)
    uvicorn.run(socketio.ASGIApp(server), host='127.0.0.1',
                port=parser.parse_args().port, loop='uvloop',
                log_level='warning', access_log=False)


if __name__ == '__main__':
    main()
