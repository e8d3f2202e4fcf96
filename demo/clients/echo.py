"""Says something to the demo's /echo and prints the answer.

(The package websocket-client, which is imported as ``websocket``.)

::

    $ python demo/clients/echo.py Hello, World
    Welcome!
    HELLO, WORLD
"""
from __future__ import annotations

import argparse

import websocket

URL = 'ws://127.0.0.1:8080/echo'


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument('words', nargs='*', default=['Hello,', 'World'])
    parser.add_argument('--url', default=URL)
    given = parser.parse_args()
    ws = websocket.create_connection(given.url, timeout=10)
    try:
        print(ws.recv())
        ws.send(' '.join(given.words))
        print(ws.recv())
    finally:
        ws.close()


if __name__ == '__main__':
    main()
