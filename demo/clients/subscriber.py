"""Prints what is published on the demo's /ws (ws4py, one thread).

::

    $ python demo/clients/subscriber.py &
    $ curl 'localhost:8080/notify?msg=HelloWorld'
    => 10 HelloWorld
"""
from __future__ import annotations

import sys
from typing import Any

from ws4py.client.threadedclient import WebSocketClient

URL = 'ws://127.0.0.1:8080/ws'


class Subscriber(WebSocketClient):
    """Runs in a thread of its own from ``connect()`` on."""

    def opened(self) -> None:
        print('listening on', self.url, flush=True)

    def received_message(self, message: Any) -> None:
        print('=>', len(message), str(message), flush=True)

    def closed(self, code: int, reason: str | None = None) -> None:
        print('closed', code, reason or '', flush=True)


def main() -> None:
    # ws4py would send "Origin: ws://...", which no page has, and which the
    # server refuses; a program needs none.
    subscriber = Subscriber(sys.argv[1] if len(sys.argv) > 1 else URL,
                            exclude_headers=['Origin'])
    subscriber.daemon = True            # Ctrl-C ends it
    subscriber.connect()
    try:
        subscriber.run_forever()
    except KeyboardInterrupt:
        subscriber.close()


if __name__ == '__main__':
    main()
