"""The demo's server side: what each panel of the page calls.

::

    /             the page
    /api          RPC: the methods of :class:`Api`, topics news and chat
    /notify?msg=  an ordinary page handler that pushes to everybody
    /ws           raw text, publish and subscribe      :class:`Feed`
    /echo         answers in upper case                :class:`Echo`
    /said         answers ``You said: ...``            :class:`Said`
    /total        adds up bare numbers                 :class:`Ledger`

It needs nothing but cp_wsrpc's public names.  :func:`config` is what
``python -m demo`` mounts it with; ``app.conf`` says the same as an INI
file.
"""
from __future__ import annotations

import asyncio
import inspect
import itertools
import math
import os
import pathlib
import textwrap
import threading
import time
from typing import Annotated, Any

import cherrypy
import msgspec

import cp_wsrpc

__all__ = ['Api', 'Root', 'config']

PAGE_DIR = str(pathlib.Path(__file__).resolve().parent / 'page')

# A visitor may keep a thread of the pool for so long, not longer.
MAX_SECONDS = 10.0
MAX_NUMBER = 10**9

Seconds = Annotated[float, msgspec.Meta(ge=0, le=MAX_SECONDS)]
Size = msgspec.Meta(ge=-MAX_NUMBER, le=MAX_NUMBER)
Number = Annotated[int, Size] | Annotated[float, Size]
Line = Annotated[str, msgspec.Meta(min_length=1, max_length=500)]


class Calculator:
    """Plain methods; annotations are checked before they run."""

    @cp_wsrpc.expose
    def add(self, a: int, b: int) -> int:
        return a + b

    @cp_wsrpc.expose
    def divide(self, a, b):
        return a / b


class Test(cp_wsrpc.Route):
    """One instance for each connection; it lives as long as that."""

    calls = 0

    def init(self, **kwargs: Any) -> Any:
        browser = self.connection.call('whoAreYou')
        return browser.result(timeout=5)

    def serverSideFunction(self, *args: Any, **kwargs: Any) -> Any:
        return [args, kwargs]

    def count(self) -> int:
        self.calls += 1
        return self.calls


class Account:
    """The running total; ``add`` may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()       # guards _total
        self._total: int | float = 0

    @cp_wsrpc.expose
    def add(self, n: Number) -> int | float:
        with self._lock:
            self._total += n
            news = f'Server records total={self._total}'
            # Told under the lock, so that all hear the totals in order;
            # telling only hands over and never waits for a socket.
            cp_wsrpc.broadcast('total', news)
            Ledger.tell(news)
            return self._total


account = Account()


class Chat:
    """What one says, all who subscribed to the topic ``chat`` hear."""

    NAMES = ('Ada', 'Grace', 'Alan', 'Edsger', 'Barbara', 'Donald',
             'Margaret', 'Dennis', 'Radia', 'Guido')

    def __init__(self) -> None:
        self._names = itertools.cycle(self.NAMES)

    @cp_wsrpc.expose
    def say(self, text: Line) -> str:
        data = cp_wsrpc.connection.data     # a dict, kept per connection
        name: str = data.setdefault('name', next(self._names))
        cp_wsrpc.publish('chat', {'from': name, 'text': text})
        return name


class Api:
    """What a page may call: the controller of ``/api``."""

    calc = Calculator()
    test = Test                             # a class: one per connection
    total = account
    chat = Chat()

    @cp_wsrpc.expose
    def slow(self, seconds: Seconds) -> str:
        # As time.sleep, but a server that stops need not wait for it.
        cherrypy.engine.wsrpc.stopping.wait(seconds)
        return threading.current_thread().name

    @cp_wsrpc.expose
    async def later(self, seconds: Seconds) -> str:
        await asyncio.sleep(seconds)
        return threading.current_thread().name

    @cp_wsrpc.expose
    @cp_wsrpc.nonblocking
    def ping(self) -> str:
        return 'pong'

    @cp_wsrpc.expose
    def fail(self, message: str) -> None:
        raise cp_wsrpc.RPCError(1404, message, {'tip': 'data may be any JSON'})


class Audience(cp_wsrpc.WebSocket):
    """A plain handler whose sockets can all be told something.

    Each subclass that names its own ``everybody`` has its own sockets.
    ``tell`` may be called from any thread and never waits for a socket.
    """

    everybody: set[Audience]
    _lock = threading.Lock()                # guards every ``everybody``

    def opened(self) -> None:
        with self._lock:
            self.everybody.add(self)

    def closed(self, code: int, reason: str | None = None) -> None:
        with self._lock:
            self.everybody.discard(self)

    @classmethod
    def tell(cls, text: str) -> None:
        with cls._lock:
            sockets = list(cls.everybody)
        for socket in sockets:
            socket.send(text)


class Feed(Audience):
    """Raw publish and subscribe: what one sends, all get."""

    everybody = set()

    def received_message(self, message: Any) -> None:
        self.tell(str(message))


class Ledger(Audience):
    """Adds the bare numbers that arrive to the running total."""

    everybody = set()

    def received_message(self, message: Any) -> None:
        text = str(message)
        try:
            number = number_in(text)
        except ValueError:
            self.send(f'{text[:40]!r} is not a number that can be added: '
                      'send one such as 5 or 2.5')
        else:
            account.add(number)


class Echo(cp_wsrpc.WebSocket):
    """Greets, then answers in upper case."""

    def opened(self) -> None:
        self.send('Welcome!')

    def received_message(self, message: Any) -> None:
        self.send(str(message).upper())


class Said(cp_wsrpc.WebSocket):
    """Answers what it was told."""

    def received_message(self, message: Any) -> None:
        self.send(f'You said: {message}')


def number_in(text: str) -> int | float:
    """``'5'`` -> 5, ``'2.5'`` -> 2.5; ValueError for all else."""
    try:
        number: int | float = int(text)
    except ValueError:
        number = float(text)
    if not math.isfinite(number) or abs(number) > MAX_NUMBER:
        raise ValueError(text)
    return number


# What the page shows beside its panels: the very lines that run.
SHOWN = {
    'calc.add': Calculator.add, 'calc.divide': Calculator.divide,
    'test': Test, 'total.add': Account.add, 'chat.say': Chat.say,
    'slow': Api.slow, 'later': Api.later, 'ping': Api.ping,
    'fail': Api.fail, '/ws': Feed, '/echo': Echo, '/said': Said,
    '/total': Ledger,
}


class Root:
    """What has a URL."""

    api = Api()

    @cherrypy.expose
    def index(self) -> Any:
        return cherrypy.lib.static.serve_file(
            os.path.join(PAGE_DIR, 'index.html'))

    @cherrypy.expose
    def notify(self, msg: str) -> str:
        cp_wsrpc.broadcast('notify', msg)
        cp_wsrpc.publish('news', {'msg': msg})
        Feed.tell(msg)
        cherrypy.response.headers['Content-Type'] = 'text/plain'
        pages = len(cp_wsrpc.connections('/api'))
        return f'sent to {pages} RPC clients and {len(Feed.everybody)} more\n'

    @cherrypy.expose
    @cherrypy.tools.json_out()
    def source(self) -> dict[str, str]:
        """Python of each example, by the name that the page calls."""
        shown: dict[str, Any] = {**SHOWN, '/notify': Root.notify}
        return {name: textwrap.dedent(inspect.getsource(what)).strip()
                for name, what in shown.items()}


def config(behind_proxy: bool = False) -> dict[str, dict[str, Any]]:
    """The application's config.

    ``behind_proxy``: believe X-Forwarded-Proto and its like, as nginx
    sets them; off by default, because without a proxy anybody may.
    """
    return {
        '/': {'tools.proxy.on': behind_proxy},
        '/page': {'tools.staticdir.on': True,
                  'tools.staticdir.dir': PAGE_DIR},
        '/api': {'tools.wsrpc.on': True,
                 'tools.wsrpc.routes': {'getTime': time.time},
                 'tools.wsrpc.subscribe': ['news', 'chat'],
                 'tools.wsrpc.debug': True},
        '/ws': {'tools.wsrpc.on': True, 'tools.wsrpc.handler_cls': Feed},
        '/echo': {'tools.wsrpc.on': True, 'tools.wsrpc.handler_cls': Echo},
        '/said': {'tools.wsrpc.on': True, 'tools.wsrpc.handler_cls': Said},
        '/total': {'tools.wsrpc.on': True,
                   'tools.wsrpc.handler_cls': Ledger},
    }
