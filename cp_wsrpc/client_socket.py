"""One connection of the Python client.  Layer 4.

A subclass of ws4py's ``WebSocketClient``, of which connecting, reading and
writing are replaced (pitfalls 36 and 37)::

    ws = ClientSocket('wss://example.com/api')
    ws.connect()                        # blocks; HandshakeError, OSError
    items, ended, more = ws.receive()   # whenever the socket is readable
    ws.send_text(b'{"jsonrpc":...}')    # any thread, never blocks

* every address of the name is tried, within one timeout;
* certificates are verified, unless an ``ssl_context`` says otherwise;
* what comes in one segment with the 101 is kept, in ``early``;
* ``Sec-WebSocket-Accept`` must be there and right, to the letter;
* no Origin is sent: this is no browser, and ws4py's is a wrong one;
* one writer at a time, and on TLS one *user* at a time: reading and
  writing in two threads corrupts an SSLSocket (pitfalls 20).
"""
from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
import time
from base64 import b64encode
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ws4py.client.threadedclient import WebSocketClient
from ws4py.websocket import WebSocket as Ws4pyWebSocket

from . import frames, transport
from .client_handshake import (Answer, HandshakeError, agreed_compression,
                               build_request, check_answer, header_list,
                               parse_answer, parse_url, refusal)
from .compression import OFFER
from .frame_rules import TEXT
from .framing import FrameStream

__all__ = ['ClientSocket']

MAX_HEAD_BYTES = 64 * 1024
#: How long the rest of a refusal's body is waited for.
BODY_TIMEOUT_S = 1.0
#: One read; the buffer is kept (see ``transport.read_some``).
_READ_BYTES = 64 * 1024
_JOIN_BYTES = 256 * 1024


class ClientSocket(WebSocketClient):        # type: ignore[misc]
    """From nothing to the last byte of one connection.

    ``connect`` runs in any thread, once.  After it ``receive``,
    ``on_writable`` and ``close_connection`` belong to one thread (the
    loop's); ``send_frame``, ``send_text``, ``close`` may be called from
    any.  ``abort`` ends a ``connect`` in another thread.

    ``on_refused()``: called, in the thread that sent, when the socket takes
    no more; the loop is to call ``on_writable`` when it does again.

    ``_io_lock`` guards ``sock`` against two writers, on TLS against a
    reader beside a writer, and against being closed under a write (the fd
    may be another's by then); ``_unsent`` and ``is_refusing``.  ``_out``
    is a deque, appended to by any thread, emptied under ``_io_lock``.
    """

    sock: Any
    protocols: list[str]

    def __init__(self, url: str,
                 headers: Iterable[tuple[str, str]] = (), *,
                 ssl_context: ssl.SSLContext | None = None,
                 protocols: Sequence[str] = (),
                 connect_timeout_s: float = 20.0,
                 max_message_bytes: int = 16 << 20,
                 compression: bool = False) -> None:
        # Not WebSocketBaseClient's: it makes a socket for the first of the
        # addresses, before anybody said connect.
        Ws4pyWebSocket.__init__(self, None, list(protocols), None)
        self.target = parse_url(url)
        self.url = str(self.target)
        self.scheme, self.host = self.target.scheme, self.target.host
        self.port, self.resource = self.target.port, self.target.resource
        self.unix_socket_path = self.target.unix_path
        self.extra_headers = header_list(headers)
        self.ssl_context = ssl_context
        self.connect_timeout_s = connect_timeout_s
        self.stream = FrameStream(
            client=True, max_message_bytes=max_message_bytes,
            max_fragments=1 << 16)
        self.framer: frames.Framer = frames
        self.offers_compression = compression
        self.key = b64encode(os.urandom(16))
        self.early = b''
        self.on_refused: Callable[[], object] = lambda: None
        self.is_refusing = False
        self.close_sent = False
        self._aborted = False
        self._io_lock = threading.Lock()
        self._read_buffer = memoryview(bytearray(_READ_BYTES))
        self._out: deque[bytes] = deque()
        self._unsent: bytes | memoryview = b''

    def __repr__(self) -> str:
        return f'<ClientSocket {self.url}>'

    # -- connecting --------------------------------------------------------

    def connect(self) -> None:
        """Connect, shake hands; the socket is non-blocking afterwards.

        Raises HandshakeError (the server answered), OSError (no
        connection; of several addresses the last one's), ``ssl.SSLError``
        (OSErrors, too).  It is closed then.
        """
        deadline = time.monotonic() + self.connect_timeout_s
        try:
            self._connect_socket(deadline)
            if self.target.is_tls:
                self._start_tls(deadline)
            answer = self._shake_hands(deadline)
            chosen = check_answer(answer, self.key, self.protocols,
                                  offered=self.offers_compression)
            self.protocols = [chosen] if chosen else []
            agreed = agreed_compression(answer)
            if agreed is not None:
                self.stream.inflater = agreed.inflater()
                self.framer = agreed.framer
            self.sock.setblocking(False)
            self._check_not_aborted()
        except BaseException:  # no half-made socket may stay
            self.close_connection()
            raise

    def abort(self) -> None:
        """End a ``connect`` that is under way; it raises OSError."""
        self._aborted = True
        sock = self.sock
        if sock is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def _connect_socket(self, deadline: float) -> None:
        failure: OSError | None = None
        addresses = self._addresses()
        for left, (family, kind, proto, address) in zip(
                range(len(addresses), 0, -1), addresses, strict=True):
            self._check_not_aborted()
            sock = self.sock = socket.socket(family, kind, proto)
            try:
                # Its share, so that one that swallows packets leaves time
                # for the others.
                sock.settimeout(self._left_s(deadline) / left)
                sock.connect(address)
            except OSError as error:
                sock.close()
                self.sock = None
                failure = error
            else:
                if family != getattr(socket, 'AF_UNIX', None):
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY,
                                    1)
                return
        assert failure is not None
        try:
            raise failure
        finally:
            failure = None      # else it and this frame hold each other

    def _addresses(self) -> list[tuple[Any, Any, int, Any]]:
        if self.target.unix_path is not None:
            return [(socket.AF_UNIX, socket.SOCK_STREAM, 0,
                     self.target.unix_path)]
        found = socket.getaddrinfo(self.target.host, self.target.port,
                                   type=socket.SOCK_STREAM)
        return [(family, kind, proto, address)
                for family, kind, proto, _, address in found]

    def _start_tls(self, deadline: float) -> None:
        context = self.ssl_context or ssl.create_default_context()
        self.sock.settimeout(self._left_s(deadline))
        self.sock = context.wrap_socket(self.sock,
                                        server_hostname=self.target.host)
        self._is_secure = True

    @property
    def handshake_headers(self) -> list[tuple[str, str]]:
        """All headers of the request; the user's replace ours."""
        ours = [('Host', self.target.host_header),
                ('Connection', 'Upgrade'), ('Upgrade', 'websocket'),
                ('Sec-WebSocket-Key', self.key.decode('ascii')),
                ('Sec-WebSocket-Version', '13')]
        if self.protocols:
            ours.append(('Sec-WebSocket-Protocol',
                         ', '.join(self.protocols)))
        if self.offers_compression:
            ours.append(('Sec-WebSocket-Extensions', OFFER))
        given = {name.lower() for name, _ in self.extra_headers}
        return [pair for pair in ours if pair[0].lower() not in given] \
            + self.extra_headers

    @property
    def handshake_request(self) -> bytes:
        """The bytes of the request."""
        return build_request(self.target, self.handshake_headers)

    def _shake_hands(self, deadline: float) -> Answer:
        self.sock.settimeout(self._left_s(deadline))
        self.sock.sendall(self.handshake_request)
        received = b''
        while True:
            head, end, rest = received.partition(b'\r\n\r\n')
            if end:
                answer = parse_answer(head)
                if answer.status == 101:
                    self.early = rest
                    return answer
                if answer.status >= 200:
                    raise refusal(answer, self._read_body(answer, rest),
                                  self.target)
                received = rest         # 100 Continue, 103 Early Hints
                continue
            if len(received) > MAX_HEAD_BYTES:
                raise HandshakeError('the answer to the handshake is '
                                     f'longer than {MAX_HEAD_BYTES} bytes')
            data = self._recv(deadline)
            if not data:
                raise HandshakeError(
                    f'{self.target} closed the connection in the handshake')
            received += data

    def _read_body(self, answer: Answer, body: bytes) -> bytes:
        """The beginning of a refusal's body, as far as it comes soon."""
        lengths = answer.all('Content-Length')
        wanted = min(200, int(lengths[0])) \
            if lengths and lengths[0].isdecimal() else 200
        deadline = time.monotonic() + BODY_TIMEOUT_S
        with contextlib.suppress(OSError):
            while len(body) < wanted and (data := self._recv(deadline)):
                body += data
        return body

    def _recv(self, deadline: float) -> bytes:
        self.sock.settimeout(self._left_s(deadline))
        data: bytes = self.sock.recv(transport.READ_BYTES)
        return data

    def _left_s(self, deadline: float) -> float:
        self._check_not_aborted()
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError(f'{self.target}: no connection within '
                               f'{self.connect_timeout_s} s')
        return left_s

    def _check_not_aborted(self) -> None:
        if self._aborted:
            raise ConnectionAbortedError('the client was closed')

    # -- reading: the loop's thread ----------------------------------------

    def receive(self) -> tuple[list[Any], bool, bool]:
        """(what :class:`FrameStream` found, whether the stream has ended,
        whether to come back without waiting for the socket).
        """
        early, self.early = self.early, b''
        stream = self.stream
        data: bytes | memoryview
        if early or stream.has_more:
            return stream.feed(early), False, True
        if self._is_secure:
            with self._io_lock:
                data, ended, more = transport.read_all(self.sock)
            if self._out:       # a sender found the lock taken
                self._flush()
        else:
            more = ended = False
            try:
                data = transport.read_some(self.sock, self._read_buffer)
                ended = not data
            except transport.NOT_NOW:
                return [], False, False
            except transport.GONE:
                return [], True, False
        items = self.stream.feed(data)
        if self.stream.has_more:        # if it has ended, it will again
            return items, False, True
        return items, ended, more

    # -- writing: any thread -----------------------------------------------

    def send_text(self, text: bytes) -> None:
        """Send UTF-8 text as one message."""
        self.send_frame(self.framer.frame(TEXT, text, mask=True))

    def send_texts(self, texts: Iterable[bytes]) -> None:
        """The same for several, joined into as few sends as possible."""
        self._out.extend(self.framer.frame(TEXT, text, mask=True)
                         for text in texts)
        self._flush()

    def send_frame(self, data: bytes) -> None:
        """Queue it and write what the socket takes; never blocks or raises.

        On a connection that has gone it does nothing: who reads hears it.
        """
        if not self.close_sent:
            self._out.append(data)
            self._flush()

    @property
    def backlog(self) -> int:
        """Frames that wait because the socket takes no more."""
        return len(self._out)

    def close(self, code: int = 1000, reason: str = '') -> None:
        """Send a Close, once; nothing is sent after it."""
        with self._io_lock:
            if self.close_sent:
                return
            # What another thread has just looked past this for may follow
            # the Close; a server throws it away (RFC 6455 1.4).
            self.close_sent = True
        self._out.append(frames.close_frame(code, reason, mask=True))
        self._flush()

    def on_writable(self) -> bool:
        """Go on writing; whether the socket took all.  The loop's thread."""
        with self._io_lock:
            self.is_refusing = False
        self._flush()
        return not self.is_refusing

    def close_connection(self) -> None:
        """Close the socket; may be repeated."""
        with self._io_lock:
            sock, self.sock = self.sock, None
            self._out.clear()
            self._unsent = b''
        if sock is not None:
            transport.close_hard(sock)

    def _flush(self) -> None:
        # Whoever has the lock writes for all: what the others append
        # meanwhile is joined with his next send.  The look at _out after
        # the release finds what was appended in the moment before it.
        while (self._out or self._unsent) and not self.is_refusing \
                and self._io_lock.acquire(blocking=False):
            try:
                refused = self._write_all()
            finally:
                self._io_lock.release()
            if refused:
                self.on_refused()

    def _write_all(self) -> bool:
        """Write until there is no more, or (True) the socket refuses."""
        assert self._io_lock.locked()
        while self._out or self._unsent:
            if self.sock is None:
                self._out.clear()
                self._unsent = b''
                return False
            data = self._unsent or self._next_data()
            try:
                sent = self.sock.send(data)
            except transport.NOT_NOW:
                self._unsent = data
                self.is_refusing = True
                return True
            except transport.GONE:
                self._out.clear()
                self._unsent = b''
                return False
            # A view: a message of 16 MiB is not copied for each send.
            self._unsent = (b'' if sent == len(data)
                            else memoryview(data)[sent:])
        return False

    def _next_data(self) -> bytes:
        out = self._out
        first = out.popleft()
        if not out:
            return first
        parts, size = [first], len(first)
        while out and size < _JOIN_BYTES:
            parts.append(out.popleft())
            size += len(parts[-1])
        return b''.join(parts)

