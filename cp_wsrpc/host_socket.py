"""The socket of a request, taken out of cheroot.  Layer 0.

All that cp_wsrpc knows of cheroot's insides stands here::

    carrier = find_carrier()            # None: not served by cheroot
    carrier.close_after_response()      # whatever the answer will be
    ...                                 # CherryPy answers, cheroot sends
    if carrier.has_sent(101):           # on_end_request
        sock, early = carrier.take()

An upgraded connection must change hands after its 101 is on the wire and
at no other time.  cheroot's ``Gateway.respond`` iterates over the body,
sends the head, and then closes the response, by which CherryPy runs
on_end_request: there, ``has_sent`` reads what the wire was really told.
(``response.status`` said 101 while cheroot sent a 500, measured: a header
that cannot be encoded is found after the last hook.)  If sending the head
fails, nothing of ours is called and cheroot closes the socket as always.
"""
from __future__ import annotations

import contextlib
import functools
import socket
import struct
import sys
from typing import Any

from cheroot import server as cheroot_server

__all__ = ['Carrier', 'abort', 'find_carrier', 'keep_repeated_headers']

_COMMUNICATE = cheroot_server.HTTPConnection.communicate.__code__

# cheroot keeps the last of several header lines of one name, so that an
# Origin of another site could stand in front of ours unseen.  The lines of
# these names are joined with commas instead, which no Origin nor key has.
_REPEATED = (b'Origin', b'Sec-Websocket-Extensions', b'Sec-Websocket-Key',
             b'Sec-Websocket-Protocol', b'Sec-Websocket-Version')


def keep_repeated_headers() -> None:
    """Have cheroot join repeated lines of the handshake's headers.

    Of this process, for all servers; may be called again.
    """
    names: list[bytes] = vars(cheroot_server)['comma_separated_headers']
    names.extend(name for name in _REPEATED if name not in names)


def find_carrier() -> Carrier | None:
    """Return what carries the request that this thread serves.

    None when that is not cheroot (mod_wsgi, gunicorn, a test that calls
    the WSGI application): then there is no socket to take.

    cheroot gives no way from the WSGI environ to its HTTPRequest, whose
    ``close_connection`` must be set, or the worker would wait for the next
    request on a socket that is ours: it is but a local of ``communicate``.
    So that frame is looked for by its code, some 30 frames up; no other
    frame is touched (ws4py asks each for its locals).  ``wsgi.input`` is
    not looked at: wrappers around it (cpstats) cannot be in the way.
    """
    frame = sys._getframe(1)
    while frame.f_code is not _COMMUNICATE:
        if frame.f_back is None:
            return None
        frame = frame.f_back
    names = frame.f_locals
    connection, request = names['self'], names.get('req')
    if request is None or connection.socket is None:
        return None
    return Carrier(connection, request)


@functools.lru_cache(maxsize=16)
def _bound_to(listener: Any) -> str:
    """The one address that this socket listens on, ``''`` for several."""
    address = _address_of(listener) if listener is not None else ''
    return '' if address in ('0.0.0.0', '::') else address


def _address_of(sock: Any) -> str:
    try:
        name = sock.getsockname()
    except OSError:         # reset in the meantime
        return ''
    return str(name[0]) if isinstance(name, tuple) and name else ''


class Carrier:
    """cheroot's connection and request behind one CherryPy request.

    For the thread that serves the request, and only while it does.
    """

    __slots__ = ('_connection', '_request')

    def __init__(self, connection: Any, request: Any) -> None:
        self._connection = connection
        self._request = request

    @property
    def local_address(self) -> str:
        """Our end's address, ``'127.0.0.1'``; ``''`` on a Unix socket.

        Where the server listens on one address it is that one: to ask the
        socket would let go of the interpreter, at each handshake.
        """
        connection = self._connection
        return (_bound_to(connection.server.socket)
                or _address_of(connection.socket))

    @property
    def header_was_sent(self) -> bool:
        """Whether the response's head was written to the socket."""
        return bool(self._request.sent_headers)

    def close_after_response(self) -> None:
        """Have cheroot close the connection when it has answered.

        To be said as soon as an upgrade was asked for: a peer that goes on
        with frames after a refusal must not have them read as HTTP.
        """
        self._request.close_connection = True

    def has_sent(self, status: int) -> bool:
        """Whether the head of a response with this status was sent."""
        return (self.header_was_sent
                and self._request.status[:4] == b'%d ' % status)

    def take(self) -> tuple[Any, bytes]:
        """Take the socket, non-blocking, and what was read of it already.

        The socket is a ``socket.socket``, ``ssl.SSLSocket`` or cheroot's
        pyOpenSSL ``SSLConnection``; the caller owns it from here on.  The
        bytes had come in one segment with the request (frames of a peer in
        a hurry); TLS may hold more, see ``pending()``.

        Afterwards cheroot's connection holds nothing of the socket: its
        ``close()``, and its pool's stop, find closed files.
        """
        connection = self._connection
        sock, rfile, wfile = (connection.socket, connection.rfile,
                              connection.wfile)
        connection.linger = True        # else close() shuts the socket down
        connection.rfile = _Nothing(rfile)
        connection.wfile = _Nothing(wfile)
        connection.socket = None
        # Bound methods in caches on the instance: the cycle by which the
        # connection would wait for a collection (cheroot #746).
        for name in ('resolve_peer_creds', 'get_peer_creds'):
            vars(connection).pop(name, None)
        try:
            # peek() would read where nothing is buffered.
            early = bytes(rfile.peek(1)) if rfile.has_data() else b''
            for file in (rfile, wfile):
                file.detach()
            sock.setblocking(False)     # cheroot's timeout was on it
        except BaseException:  # nobody else knows of the socket
            abort(sock)
            raise
        with contextlib.suppress(OSError):      # a Unix socket has no such
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock, early


class _Nothing:
    """What stands for cheroot's files once the socket was taken."""

    __slots__ = ('bytes_read', 'bytes_written')

    closed = True       # asked for when its pool stops

    def __init__(self, file: Any) -> None:
        # cheroot's statistics add these up after the request.
        self.bytes_read = getattr(file, 'bytes_read', 0)
        self.bytes_written = getattr(file, 'bytes_written', 0)

    def close(self) -> None:
        """The socket is another's."""

    def has_data(self) -> bool:
        return False


def abort(sock: Any) -> None:
    """Close a socket for good, with a RST; never raises.

    For one that was taken and that nobody wants to have.
    """
    with contextlib.suppress(Exception):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                        struct.pack('ii', 1, 0))
    # A pyOpenSSL connection raises its own SSL.Error.
    with contextlib.suppress(Exception):
        sock.close()
