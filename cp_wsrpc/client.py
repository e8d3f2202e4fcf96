"""The threaded Python client: calls, routes, topics.  Layer 4.

::

    client = cp_wsrpc.Client('ws://localhost:8080/api')
    client.route('whoAreYou', platform.node)    # the server may call this
    with client:                                # connects, and closes
        client.proxy.calc.add(1, 2)             # 3
        client.call('calc.add', 1, 2).result(timeout=5)
        client.subscribe('news', print)
        client.wait()

The parts and the contracts: ``client_link`` has whatever connection there
is, ``client_outbox`` the calls, ``client_inbox`` what comes back,
``client_subscriptions`` the topics, ``client_routes`` what the server may
call.  Any number of threads may use one client; a call goes out in the
thread that makes it, and its answer is decoded in the thread that reads it.

It is longer than a module should be: half of it are the contracts of what
applications call.
"""
from __future__ import annotations

import functools
import logging
import secrets
import ssl
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeVar, overload

from .backoff import Backoff
from .client_handshake import (HandshakeError, basic_auth, header_list,
                               parse_url)
from .client_inbox import Inbox
from .client_link import Link, LinkState
from .client_outbox import Outbox, closed_error
from .client_presence import Presences
from .client_routes import Routes, in_thread_of
from .client_socket import ClientSocket
from .client_subscriptions import Subscriptions
from .client_topics import Listener, Publication
from .conversation import PendingReply
from .errors import CallTimeout, ConnectionLostError
from .frame_rules import check_close_code
from .history import PRESENCE
from .idempotency import check_key
from .logs import escape

__all__ = ['Client', 'HandshakeError', 'PendingReply', 'Publication']

log = logging.getLogger('cp_wsrpc.client')

T = TypeVar('T', bound=Callable[..., Any])

class Client:
    """One endpoint, over whatever connections there will be.

    ``url``
        ws, wss, http, https, or ``ws+unix:///run/app.sock:/api``.
    ``headers``
        Of the handshake: a dict or pairs; cookies go in here.  There is no
        Origin unless it is given: a server lets that in.
    ``auth``
        ``('user', 'password')`` for HTTP's basic authentication.
    ``ssl_context``
        Instead of ``ssl.create_default_context()``, which verifies the
        certificate and the name.
    ``on_connect``
        ``on_connect(client)``, at each (re)connect: its calls go out before
        those that have waited, a login say.  In a thread of the client's,
        beside the listeners, which may be at events of before.
    ``reconnect_delay_s``
        The first wait before another attempt is up to this long (1.0),
        the next ones up to twice as long each, to 30 s.
    ``connect_timeout_s``
        For one attempt, from the name to the 101 (20).
    ``ping_interval_s``, ``ping_timeout_s``
        Silence of the server before it is asked (25), and for its answer
        (20).
    ``max_message_bytes``
        Of one incoming message (16 MiB).
    ``compression``
        Offer permessage-deflate (False): bytes for time, on slow networks.
    ``threads``
        How many of the server's calls may run at a time (4).

    Raises ValueError for a URL, header or ``auth`` that cannot be.

    Every method may be called from any thread.  ``_lock`` guards ``_link``.
    """

    def __init__(self, url: str,
                 headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
                 auth: tuple[str, str] | None = None,
                 ssl_context: ssl.SSLContext | None = None,
                 on_connect: Callable[[Client], object] | None = None, *,
                 reconnect_delay_s: float = 1.0,
                 connect_timeout_s: float = 20.0,
                 ping_interval_s: float = 25.0,
                 ping_timeout_s: float = 20.0,
                 max_message_bytes: int = 16 << 20,
                 compression: bool = False,
                 threads: int = 4) -> None:
        self._target = parse_url(url)
        self.url = str(self._target)
        sent = header_list(headers)
        credentials = self._target.userinfo if auth is None else auth
        if credentials is not None:
            sent.append(basic_auth(credentials))
        self._make_socket = functools.partial(
            ClientSocket, url, sent,
            ssl_context=ssl_context, connect_timeout_s=connect_timeout_s,
            max_message_bytes=max_message_bytes, compression=compression)
        self._outbox = Outbox()
        self._routes = Routes(self, threads)
        self._topics = Subscriptions(self._routes, self._outbox.request,
                                     self._call_later)
        self._inbox = Inbox(
            self.url, self._outbox, self._routes, self._topics,
            on_connect and functools.partial(on_connect, self))
        self.backoff = Backoff(reconnect_delay_s)
        self._make_link = functools.partial(
            Link, self._inbox, self._make_socket, self.backoff,
            ping_interval_s, ping_timeout_s)
        self._lock = threading.Lock()
        self._link: Link | None = None

    def __repr__(self) -> str:
        return f'<Client {self.url} {self.state}>'

    # -- the connection ----------------------------------------------------

    @property
    def state(self) -> str:
        """'new', 'connecting', 'open', 'waiting' or 'closed'."""
        if self._inbox.ended:
            return 'closed'
        link = self._link
        return 'new' if link is None else link.state.value

    @property
    def is_closed(self) -> bool:
        """Whether it has ended for good; ``connect`` begins anew."""
        return self._inbox.ended

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection now."""
        return self.state == 'open'

    def connect(self) -> Client:
        """Begin; while it waits for its next attempt, make it now.

        Returns at once.  Once begun it goes on by itself until ``close``
        or a final refusal.
        """
        while True:
            with self._lock:
                link = self._link
                if link is None or link.state is LinkState.CLOSED:
                    self._begin()
                    break
                if not link.is_stopping:
                    link.hurry()
                    break
            # It is closed in a moment: its thread waits for nothing.
            if not link.wait_closed(5.0):
                raise CallTimeout(f'{self.url}: the former connection '
                                  'does not end')
        return self

    def _begin(self) -> None:
        assert self._lock.locked()
        again, self._inbox.ended = self._inbox.ended, False
        self.backoff.reset()
        self._routes.open()
        link = self._link = self._inbox.link = self._make_link()
        self._outbox.begin(link, again)
        link.start()

    def wait_connected(self, timeout: float | None = None) -> None:
        """Wait for the connection, ``timeout`` seconds at most.

        Raises what the attempt under way (or the next one) fails with:
        HandshakeError or ConnectionLostError; CallTimeout.
        """
        link = self._link
        if link is None:
            raise ConnectionLostError('connect() was not called',
                                      maybe_executed=False)
        failures = link.failures
        with link.changed:
            if not link.changed.wait_for(
                    lambda: link.state in (LinkState.OPEN, LinkState.CLOSED)
                    or link.failures != failures, timeout):
                raise CallTimeout(f'{self.url}: no connection within '
                                  f'{timeout} s')
        if link.state is not LinkState.OPEN:
            raise link.error or closed_error()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is closed for good; False if the time was up.

        Raises the error that ended it (HandshakeError: refused;
        ConnectionLostError: the server closed it so that it must not come
        back); returns True after a ``close`` of ours.
        """
        link = self._link
        if link is not None:
            if not link.wait_closed(timeout):
                return False
            if link.error is not None:
                raise link.error
        return True

    def close(self, code: int = 1000, reason: str = '',
              timeout: float = 5.0) -> None:
        """End it: what waits fails, the server is told, threads end.

        Routes and subscriptions stay, and ``connect`` works again.  May be
        repeated.  Waits ``timeout`` seconds at most; not at all when a
        function calls it that the client runs.  ValueError for a ``code``
        other than 1000-1003, 1007-1014 and 3000-4999.
        """
        check_close_code(code)
        with self._lock:
            link = self._link
            if link is None:
                self._inbox.on_end(None)
            else:
                link.stop(code, reason)
        if not in_thread_of(self):
            if link is not None and not link.join(timeout):
                log.warning('%r has not ended within %s s', self, timeout)
            self._routes.join(1.0)

    def __enter__(self) -> Client:
        return self.connect()

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def on_close(self, function: Callable[[int, str], object]) -> None:
        """Have ``function(code, reason)`` called when a connection ends.

        Each time an open one ends, and when the client was refused for
        good (4401 or 4403); ``is_closed`` says whether it will be back.
        Before ``on_connect`` of the next one, unless it takes over a
        second; whatever listeners are still at.
        """
        self._inbox.close_functions.append(function)

    # -- calling -----------------------------------------------------------

    def call(self, name: str, /, *args: Any, timeout: float | None = 30.0,
             callback: Callable[[PendingReply], object] | None = None,
             idempotency_key: str | Literal[True] | None = None,
             **kwargs: Any) -> PendingReply:
        """Call a method of the server; the reply that is to come.

        ``args`` or ``kwargs``, not both.  ``timeout``: seconds from now,
        or from ``connect`` if that is later; None: no limit.
        ``callback``: called with the reply, settled, in a thread of the
        client's.  Without a connection it waits for one.
        ``idempotency_key``: the call has one effect, though it is sent
        again when its connection is lost, for up to 100 s.  16 to 128
        characters, another one for each call, best random: True makes one.

        The reply's ``result()`` raises RemoteError (the method did),
        CallTimeout, or ConnectionLostError with ``maybe_executed``.  Here:
        ConnectionLostError once it is closed, Busy when 1 000 calls wait
        already, TypeError or ValueError for what is not JSON.
        """
        key = (secrets.token_hex(16) if idempotency_key is True else
               None if idempotency_key is None else
               check_key(idempotency_key))
        reply = self._outbox.call(name, args, kwargs, timeout, key)
        if callback is not None:
            reply.watch(functools.partial(
                self._routes.post, f'the callback of {name}', callback))
        return reply

    @property
    def proxy(self) -> Any:
        """``client.proxy.calc.add(1, 2)``: calls, waits, and returns."""
        return _Proxy(self._outbox, '')

    def notify(self, name: str, /, *args: Any, **kwargs: Any) -> None:
        """Call without an answer.  Raises as ``call``."""
        self._outbox.notify(name, args, kwargs)

    def publish(self, topic: str, data: Any, key: str | None = None,
                ) -> PendingReply:
        """Publish on a topic that lets this client do so.

        The reply's value is the event's ``{'epoch', 'offset'}``, None on a
        topic without history.  ``key``: as :func:`cp_wsrpc.publish`.
        """
        params = {'topic': topic, 'data': data}
        if key is not None:
            params['key'] = key
        return self._outbox.call('rpc.publish', (), params, 30.0)

    def who(self, topic: str) -> PendingReply:
        """Ask who is on a topic, where the server keeps presence.

        The reply's value: ``{'users': [{'user': 'ada', 'count': 2,
        'connections': ['#7', '#12']}], 'anonymous': 0, 'epoch': 'kX3p',
        'offset': 3}``.  Joins and leaves after that position come on
        ``rpc.presence.<topic>``: ``presence`` follows both.
        """
        return self._outbox.call('rpc.who', (topic,), {}, 30.0)

    # -- being called ------------------------------------------------------

    @overload
    def route(self, name: T) -> T: ...
    @overload
    def route(self, name: str, function: T) -> T: ...
    @overload
    def route(self, name: str | None = None) -> Callable[[T], T]: ...

    def route(self, name: Any = None, function: Any = None) -> Any:
        """Let the server call a function of ours.

        ``client.route('whoAreYou', function)``, or as a decorator:
        ``@client.route`` and ``@client.route('whoAreYou')``.  It runs in a
        thread of the client's, may call back and wait, may be ``async``.
        Annotated parameters are checked.  What it raises goes back.
        """
        if function is not None:
            self._routes.add(name, function)
            return function
        if callable(name):
            self._routes.add(name.__name__, name)
            return name

        def register(function: T) -> T:
            self._routes.add(name or function.__name__, function)
            return function
        return register

    def delete_route(self, name: str) -> bool:
        """The server may call it no more; whether it could."""
        return self._routes.remove(name)

    # -- topics ------------------------------------------------------------

    def subscribe(self, topic: str, function: Callable[..., object], *,
                  onjoin: Callable[[bool | None], object] | None = None,
                  onerror: Callable[[Exception], object] | None = None,
                  since: Any = None) -> Callable[[], None]:
        """Follow a topic, over reconnects, until the returned ``off()``.

        ``function(data)``, in a thread of the client's, one event after
        the other; if it has two required parameters, ``function(data,
        publication)`` with its offset and epoch.
        ``onjoin(recovered)``: at each join, before its events, and when
        the server has lost some.  None at the first; True: all that was
        missed follows; False: something may have been missed, load the
        state anew.
        ``since``: (epoch, offset) of a state that is there already, as
        ``publish`` returned it; what came after it follows.
        ``onerror(error)``: the server refused; without it that is logged.
        """
        if not isinstance(topic, str):
            raise TypeError('subscribe(topic, function)')
        listener = Listener(function, onjoin, onerror, since)
        self._on_loop(self._topics.add, topic, listener)

        def off() -> None:
            listener.active = False
            self._on_loop(self._topics.remove, topic, listener)
        return off

    def presence(self, topic: str, function: Callable[..., object], *,
                 onerror: Callable[[BaseException], object] | None = None,
                 ) -> Callable[[], None]:
        """Follow who is on a topic, over reconnects, until ``off()``.

        ``function(users, change)``, in a thread of the client's, one after
        the other: all users, each once, at first and whenever that has
        changed; ``change`` is ``{'event': 'join', 'user': 'ada'}``, or
        None where all were asked for anew.  It makes nobody appear there:
        that does ``subscribe(topic, ...)``.  ``onerror(error)``: the server
        refused; without it that is logged.
        """
        def refuse(error: BaseException) -> None:
            if onerror is not None:
                onerror(error)
            else:
                log.warning('who is on %s: %s', escape(topic), escape(error))

        def post(run: Callable[..., object], *args: Any) -> None:
            self._routes.post(f'a follower of {topic}', run, *args)

        present = Presences(
            function, refuse,
            lambda answered: self.who(topic).watch(
                lambda reply: post(answered, reply)),
            lambda delay_s: self._on_loop(self._call_later, delay_s, post,
                                          present.load))

        def take(change: Any, publication: Publication) -> None:
            present.take(change, publication)

        leave = self.subscribe(f'{PRESENCE}{topic}', take,
                               onjoin=present.on_join, onerror=refuse)

        def off() -> None:
            present.end()
            leave()
        return off

    def _on_loop(self, function: Callable[..., object], *args: Any) -> None:
        """There, or here as long as there is no loop."""
        with self._lock:
            link = self._link
            if link is not None and link.state is not LinkState.CLOSED \
                    and link.post(function, *args):
                return
            function(*args)

    def _call_later(self, delay_s: float, function: Callable[..., object],
                    *args: Any) -> None:
        if self._link is not None:
            self._link.call_later(delay_s, function, *args)


class _Proxy:
    """``proxy.a.b(1, 2)`` -> the value of ``a.b(1, 2)``.

    Names that begin with ``_`` are Python's own business (copying,
    showing): no server exposes such.
    """

    __slots__ = ('_outbox', '_path')

    def __init__(self, outbox: Outbox, path: str) -> None:
        self._outbox = outbox
        self._path = path

    def __repr__(self) -> str:
        return f'<proxy {self._path}>'

    def __getattr__(self, name: str) -> _Proxy:
        if name.startswith('_'):
            raise AttributeError(name)
        path = f'{self._path}.{name}' if self._path else name
        return _Proxy(self._outbox, path)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self._path:
            raise TypeError('call client.proxy.<name>(...)')
        return self._outbox.call(self._path, args, kwargs, 30.0).result()
