"""HTTP requests of any bytes on a bare socket, one connection each."""
from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
from collections.abc import Mapping, Sequence
from typing import NamedTuple

__all__ = ['Answer', 'HeaderValue', 'by_name', 'connect', 'http_request',
           'merged', 'request_head']

#: A value, several for a repeated header, or None to leave it out.
HeaderValue = str | bytes | Sequence[str] | None


class Answer(NamedTuple):
    """What an HTTP request brought; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


def http_request(port: int, path: str = '/', *, method: str = 'GET',
                 headers: Mapping[str, HeaderValue] | None = None,
                 body: bytes = b'', raw: bytes | None = None,
                 tls: ssl.SSLContext | None = None,
                 timeout_s: float = 5) -> Answer:
    """One HTTP request on a connection of its own.

    ``headers`` replace the defaults of the same name; None leaves one out.
    ``raw``: send these bytes and nothing else.
    """
    if raw is None:
        defaults: dict[str, HeaderValue] = {
            'Host': f'127.0.0.1:{port}', 'Connection': 'close'}
        if body or method in ('POST', 'PUT', 'PATCH'):
            defaults['Content-Length'] = str(len(body))
        raw = request_head(method, path, 'HTTP/1.1',
                           merged(defaults, headers)) + body
    with connect(port, tls=tls, timeout_s=timeout_s) as sock:
        # A server may answer, and close, before it has read all of it.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            sock.sendall(raw)
        response = http.client.HTTPResponse(sock, method=method)
        try:
            response.begin()
            text = response.read()
        finally:
            response.close()
        return Answer(response.status, by_name(response.getheaders()),
                      text)


def connect(port: int, *, tls: ssl.SSLContext | None = None,
            host: str = '127.0.0.1', timeout_s: float = 5,
            receive_buffer: int | None = None) -> socket.socket:
    """A connected TCP socket, over TLS if a context is given.

    ``receive_buffer``: SO_RCVBUF in bytes, small for a slow reader.
    """
    sock = socket.socket()
    try:
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF,
                            receive_buffer)
        sock.settimeout(timeout_s)
        sock.connect((host, port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is None:
            return sock
        return tls.wrap_socket(sock, server_hostname=host)
    except BaseException:
        sock.close()
        raise


def request_head(method: str, path: str, version: str,
                 headers: Mapping[str, HeaderValue]) -> bytes:
    """A request line and headers, whatever they say."""
    lines = [f'{method} {path} {version}'.encode('latin-1')]
    for name, values in headers.items():
        if values is None:
            continue
        for value in [values] if isinstance(values, str | bytes) else values:
            raw = value if isinstance(value, bytes) else value.encode(
                'latin-1')
            lines.append(name.encode('latin-1') + b': ' + raw)
    return b'\r\n'.join(lines) + b'\r\n\r\n'


def merged(defaults: dict[str, HeaderValue],
           given: Mapping[str, HeaderValue] | None,
           ) -> dict[str, HeaderValue]:
    """The defaults, but for those that ``given`` names in any case."""
    given = given or {}
    names = {name.lower() for name in given}
    kept = {k: v for k, v in defaults.items() if k.lower() not in names}
    return {**kept, **given}


def by_name(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """``{'upgrade': 'websocket'}``; repeated ones joined by a comma."""
    headers: dict[str, str] = {}
    for name, value in pairs:
        name = name.lower()
        headers[name] = (f'{headers[name]}, {value}' if name in headers
                         else value)
    return headers
