"""What comes from the server -> who waits for it.  Layer 4.

::

    a text    Result, Failure    -> client_outbox: the call is settled
              Call               -> client_routes, in a thread of the pool
              rpc.subscription   -> client_subscriptions
              no JSON            -> the connection is given up
    a link    open, lost, ended  -> the same three; on_connect, on_close

``client_link`` calls it, as its :class:`~cp_wsrpc.client_link.LinkOwner`;
``client`` makes it.
"""
from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable
from typing import Any

from .client_handshake import HandshakeError
from .client_link import Link
from .client_outbox import Outbox
from .client_routes import Routes
from .client_socket import ClientSocket
from .client_subscriptions import Subscriptions
from .decoding import decode
from .dialects import JSONRPC
from .errors import CloseCode, ConnectionLostError, ParseError
from .logs import escape, limited
from .messages import NO_ID, Batch, Call, Failure, Result

__all__ = ['Inbox']

log = logging.getLogger('cp_wsrpc.client')

#: Answers that wait behind a server that asks and does not read.
MAX_ANSWERS = 1024
#: Seconds that ``on_connect`` waits for ``on_close`` of the connection
#: before, which may itself wait for a call, and that for ``on_connect``.
ON_CLOSE_WAIT_S = 1.0
#: msgspec has a limit of its own; what a server sends may be deep.
_ANY_DEPTH = 1 << 62


class Inbox:
    """Of one client, over whatever connections there will be.

    What is named ``on_`` something runs on the loop's thread (``on_end`` of a
    client that was never connected where it is closed).  What the
    application gave, ``on_connect`` too, runs in threads of ``client_routes``.

    ``link``   the client's link, which it sets before that starts
    ``ended``  for good: set by ``on_end``, and taken back by the client's
               next ``connect``; one attribute, read by any thread
    ``close_functions``  called with (code, reason); the client appends
    """

    def __init__(self, url: str, outbox: Outbox, routes: Routes,
                 topics: Subscriptions,
                 on_connect: Callable[[], object] | None) -> None:
        self._url = url
        self._outbox = outbox
        self._routes = routes
        self._topics = topics
        self._on_connect = on_connect
        self.link: Link | None = None
        self.ended = False
        self.close_functions: list[Callable[[int, str], object]] = []
        #: set when those have run for the last connection; link's thread
        self._told_closed: threading.Event | None = None

    # -- the link's: its course, on the loop's thread ----------------------

    def on_open(self, ws: ClientSocket) -> None:
        self._outbox.opened()
        if self._on_connect is None:
            self._greeted(ws)
        else:
            # Not after the events: a listener may wait for a call, which
            # waits for this.
            self._routes.post_apart('on_connect', self._greet, ws,
                                    self._told_closed)

    def _greet(self, ws: ClientSocket,
               told_closed: threading.Event | None) -> None:
        assert self._on_connect is not None
        if told_closed is not None:
            # Not for long: such a function may wait for a call, too.
            told_closed.wait(ON_CLOSE_WAIT_S)
        try:
            with self._outbox.greeting(ws):
                self._on_connect()
        finally:
            if self.link is not None:
                self.link.post(self._greeted, ws)

    def _greeted(self, ws: ClientSocket) -> None:
        """The queue, then the topics."""
        if self.link is not None and self.link.ws is ws:
            self._outbox.greeted(ws)
            self._topics.open(ws)

    def on_paused(self, ws: ClientSocket) -> None:
        self._outbox.pause()

    def on_resumed(self, ws: ClientSocket) -> None:
        self._outbox.resume(ws)

    def on_lost(self, code: int, reason: str) -> None:
        self._topics.lost()
        self._outbox.lost(f'the connection was lost ({int(code)}'
                          f'{": " + escape(reason) if reason else ""})')
        self._tell_closed(code, reason)

    def on_failed(self, error: ConnectionLostError) -> None:
        self._outbox.failed(error)

    def on_end(self, error: ConnectionLostError | None) -> None:
        self.ended = True
        self._outbox.end(error)
        if isinstance(error, HandshakeError):
            self._tell_closed(
                CloseCode.FORBIDDEN if error.status in (403, 404)
                else CloseCode.UNAUTHORIZED, str(error))
        self._routes.retire()

    def _tell_closed(self, code: int, reason: str) -> None:
        functions = list(self.close_functions)
        for function in functions:
            self._routes.post_closing('on_close', function, int(code), reason)
        if functions:
            self._told_closed = told = threading.Event()
            self._routes.post_closing('on_close', told.set)

    # -- the link's: what the server says, on the loop's thread ------------

    def on_text(self, ws: ClientSocket, text: bytes) -> None:
        message = decode(text, _ANY_DEPTH)
        kind = type(message)
        if kind is Result or kind is Failure:
            self._outbox.settle(message)        # type: ignore[arg-type]
        elif type(message) is Batch:
            for item in message.items:
                self._take(ws, item, len(text))
        else:
            self._take(ws, message, len(text))

    def _take(self, ws: ClientSocket, message: Any, size: int) -> None:
        kind = type(message)
        if kind is Result or kind is Failure:
            self._outbox.settle(message)
        elif kind is Call:
            if message.name == 'rpc.subscription':
                self._take_event(ws, message, size)
            else:
                self._routes.serve(message,
                                   functools.partial(self._answer, ws))
        elif isinstance(message.error, ParseError):
            # No endpoint of ours, or something garbles the stream, and an
            # answer may have been in it.  What follows is as after a 1007.
            self._lose(ws, CloseCode.INVALID_DATA,
                       'the server sent no JSON', CloseCode.BAD_PROTOCOL)
        else:
            limited(log, 'no message', logging.WARNING,
                    'the server sent no message: %s', escape(message.error))
            self._answer(ws, (message.dialect or JSONRPC).encode_failure(
                message.id, message.error.code, message.error.message))

    def _take_event(self, ws: ClientSocket, call: Call, size: int) -> None:
        if call.id is not NO_ID:        # WSRPC's pushes want an answer
            self._answer(ws, call.dialect.encode_result(call.id, None))
        if not self._topics.take_event(call.params, size):
            self._lose(ws, CloseCode.SLOW_READER,
                       'the listeners are too slow', CloseCode.SLOW_READER)

    def _answer(self, ws: ClientSocket, text: bytes) -> None:
        """Any thread."""
        ws.send_text(text)
        if ws.backlog > MAX_ANSWERS and self.link is not None:
            self.link.post(self._lose, ws, CloseCode.SLOW_READER,
                            'the server asks and does not read',
                            CloseCode.SLOW_READER)

    def _lose(self, ws: ClientSocket, code: int, reason: str,
              wire_code: int) -> None:
        assert self.link is not None
        log.warning('%s: %s', self._url, reason)
        self.link.lose(ws, code, reason, wire_code)
