"""Non-blocking reads and writes on the three kinds of socket.  Layer 1.

A socket that came out of cheroot is a plain ``socket.socket``, an
``ssl.SSLSocket``, or pyOpenSSL's connection behind cheroot's wrapper; each
says "not now" and "gone" in exceptions of its own.  Here they are one.

TLS has a trap (pitfalls 13): OpenSSL reads whole records, so bytes may
wait in it that epoll knows nothing of.  Who reads must go on until it says
"not now"; that is what :func:`read_all` does.
"""
from __future__ import annotations

import contextlib
import socket
import ssl
import struct
from typing import Any, TypeAlias

_Errors: TypeAlias = 'tuple[type[BaseException], ...]'

_NOT_NOW: _Errors = ()
_GONE: _Errors = ()
_WRITE_FIRST: _Errors = (ssl.SSLWantWriteError,)
try:
    from OpenSSL import SSL as _pyopenssl
except ImportError:
    pass        # then cheroot's pyOpenSSL adapter cannot be in use either
else:
    _NOT_NOW = (_pyopenssl.WantReadError, _pyopenssl.WantWriteError)
    _GONE = (_pyopenssl.Error,)
    _WRITE_FIRST += (_pyopenssl.WantWriteError,)

__all__ = ['GONE', 'NOT_NOW', 'READ_BYTES', 'close_hard', 'half_close',
           'is_tls', 'read_all', 'read_some']

#: The socket has nothing to give, or cannot take more.
NOT_NOW: _Errors = (BlockingIOError, InterruptedError, ssl.SSLWantReadError,
                    ssl.SSLWantWriteError, *_NOT_NOW)
#: The connection is gone.  Test NOT_NOW first: some are OSErrors too.
GONE: _Errors = (OSError, ValueError, *_GONE)

#: One read takes what a burst of small calls can bring (design.md, 3).
READ_BYTES = 256 * 1024
#: Records read in one turn, so that one peer does not hold the loop.
_MAX_RECORDS = 64


def is_tls(sock: Any) -> bool:
    """Whether bytes may wait inside of it: it can say how many."""
    return callable(getattr(sock, 'pending', None))


def read_some(sock: Any, buffer: memoryview) -> memoryview:
    """One read of a plain socket; raises what ``recv`` does.

    Returns the part of ``buffer`` that it filled.  The buffer is kept:
    ``recv(256 KiB)`` has malloc map and unmap as much each time, 12 us
    where a small read takes 2.
    """
    return buffer[:sock.recv_into(buffer)]


def read_all(sock: Any) -> tuple[bytes, bool, bool]:
    """(what a TLS socket has, whether it ended, whether more may wait).

    At most 64 records of 16 KiB; when more may wait, epoll will not say
    so: the caller comes back by itself.

    Who asks for new keys (TLS 1.3) again and again and never reads the
    answers, until one cannot be written, counts as gone: epoll would go on
    to say that there is something to read, which is not read before that.
    (One such peer kept the loop busy for good.)
    """
    parts: list[bytes] = []
    for _ in range(_MAX_RECORDS):
        try:
            data = sock.recv(16384)
        except _WRITE_FIRST:
            return b''.join(parts), True, False
        except NOT_NOW:
            return b''.join(parts), False, False
        except GONE:
            return b''.join(parts), True, False
        if not data:
            return b''.join(parts), True, False
        parts.append(data)
    return b''.join(parts), False, True


def half_close(sock: Any) -> None:
    """Say that nothing more comes from us; the peer may still send."""
    if isinstance(sock, ssl.SSLSocket):
        # Sends close_notify; that the peer's is not there yet is no error.
        with contextlib.suppress(*GONE):
            sock.unwrap()
    elif is_tls(sock):
        with contextlib.suppress(*GONE):
            sock.shutdown()
    shutdown = getattr(sock, 'sock_shutdown', sock.shutdown)
    with contextlib.suppress(*GONE, TypeError):
        shutdown(socket.SHUT_WR)


def close_hard(sock: Any, reset: bool = False) -> None:
    """Close the socket; with ``reset``, dropping what it still holds."""
    if reset:
        with contextlib.suppress(*GONE, AttributeError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                            struct.pack('ii', 1, 0))
    with contextlib.suppress(*GONE):
        sock.close()
