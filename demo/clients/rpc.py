"""Calls the demo's /api from Python, is called back, and listens.

::

    $ python demo/clients/rpc.py
    calc.add(42, 23) = 65
    divide(1, 0) raised ZeroDivisionError: division by zero
    test asked who I am, and heard: Python 3.11.2
    listening; try: curl 'localhost:8080/notify?msg=HelloWorld'
    news: {'msg': 'HelloWorld'}
"""
from __future__ import annotations

import platform
import sys
from typing import Any

import cp_wsrpc

URL = 'ws://127.0.0.1:8080/api'


def who_are_you() -> str:
    return f'Python {platform.python_version()}'


def show_news(data: Any, *_about: Any) -> None:
    print('news:', data, flush=True)


def show_total(text: str) -> None:
    print(text, flush=True)


def main() -> None:
    url = sys.argv[1] if len(sys.argv) > 1 else URL
    with cp_wsrpc.Client(url) as client:
        client.route('whoAreYou', who_are_you)
        client.route('total', show_total)

        print('calc.add(42, 23) =', client.proxy.calc.add(42, 23))
        try:
            client.call('calc.divide', 1, 0).result(timeout=5)
        except cp_wsrpc.RemoteError as error:
            print('divide(1, 0) raised', f'{error.type}: {error.message}')
        print('test asked who I am, and heard:', client.proxy.test())

        client.subscribe('news', show_news)
        print("listening; try: curl 'localhost:8080/notify?msg=HelloWorld'",
              flush=True)
        try:
            client.wait()
        except KeyboardInterrupt:
            pass


if __name__ == '__main__':
    main()
