"""A client's handshake: URL -> request, answer -> checked.  Layer 1, pure.

::

    target = parse_url('wss://example.com/api?v=2')
    build_request(target, key, [('Cookie', 'a=1')])  -> b'GET /api?v=2 ...'
    answer = parse_answer(b'HTTP/1.1 101 Switching Protocols\\r\\n...')
    check_answer(answer, key)       # HandshakeError unless all is right

ws4py's client compares header values as wholes (``Connection: Upgrade,
keep-alive`` fails), lower-cases the accept key, and takes an answer that
has none (pitfalls 37); RFC 6455 4.1 is done here instead.
"""
from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha1
from typing import TypeAlias
from urllib.parse import quote, unquote, urlsplit

from ws4py import WS_KEY
from ws4py.exc import HandshakeError as Ws4pyHandshakeError

from . import compression
from .errors import ConnectionLostError
from .logs import escape

__all__ = ['Answer', 'HandshakeError', 'HeaderList', 'Target', 'accept_of',
           'agreed_compression', 'basic_auth', 'build_request',
           'check_answer', 'header_list', 'parse_answer', 'parse_url']

HeaderList: TypeAlias = 'list[tuple[str, str]]'

MAX_BODY_BYTES = 200

_SCHEMES = {'ws': 'ws', 'wss': 'wss', 'http': 'ws', 'https': 'wss',
            'ws+unix': 'ws+unix'}
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
#: Lone surrogates are what argv has of a shell without UTF-8.
_NOT_IN_A_VALUE = re.compile('[\r\n\0\ud800-\udfff]')
#: Of an answer: what a user may know by its status alone.
_HINTS = {
    401: 'not signed in',
    403: "refused; the server's log says what",
    404: 'there is no endpoint at this URL',
    426: 'a proxy may have dropped the Upgrade header',
    503: 'the server stops, or has too many connections',
}


class HandshakeError(ConnectionLostError,
                     Ws4pyHandshakeError):      # type: ignore[misc]
    """The server answered, but there is no connection.

    ``status``   of the HTTP answer, or None if it was no HTTP
    ``headers``  its ``[(name, value), ...]``
    ``body``     the first 200 bytes of it

    Nothing was executed.  Also a ``ws4py.exc.HandshakeError``.
    """

    def __init__(self, message: str, status: int | None = None,
                 headers: Iterable[tuple[str, str]] = (),
                 body: bytes = b'') -> None:
        ConnectionLostError.__init__(self, message, maybe_executed=False)
        self.msg = message              # as ws4py names it
        self.status = status
        self.headers = list(headers)
        self.body = body

    def __str__(self) -> str:
        return self.msg


# -- the request -----------------------------------------------------------

@dataclass(frozen=True)
class Target:
    """Where an endpoint is; see :func:`parse_url`.

    ``scheme``     'ws', 'wss' or 'ws+unix'
    ``host``       'example.com', '::1' (without brackets)
    ``resource``   '/api?v=2', percent-encoded
    ``unix_path``  of the socket, for ws+unix, else None
    ``userinfo``   ('ada', 'secret') if the URL had it, else None
    """

    scheme: str
    host: str
    port: int
    resource: str = '/'
    unix_path: str | None = None
    userinfo: tuple[str, str] | None = None

    @property
    def is_tls(self) -> bool:
        return self.scheme == 'wss'

    @property
    def host_header(self) -> str:
        """``example.com``, ``[::1]:8080``: the port if not the default."""
        host = f'[{self.host}]' if ':' in self.host else self.host
        default = 443 if self.is_tls else 80
        return host if self.port == default else f'{host}:{self.port}'

    def __str__(self) -> str:
        if self.unix_path is not None:
            return f'ws+unix://{self.unix_path}:{self.resource}'
        return f'{self.scheme}://{self.host_header}{self.resource}'


def parse_url(url: str) -> Target:
    """Where ``url`` points to.

    ``ws``, ``wss``, and ``http``, ``https`` for the same; ``ws+unix`` with
    the socket's path, and after a colon the endpoint's:
    ``ws+unix:///run/app.sock:/api``.  Raises ValueError.
    """
    given = url.strip()
    parts = urlsplit(given)
    scheme = _SCHEMES.get(parts.scheme.lower())
    if scheme is None:
        raise ValueError(f'{url!r} is no ws, wss, http, https or ws+unix '
                         'URL')
    if scheme == 'ws+unix':
        path, _, resource = parts.path.partition(':')
        if not path:
            raise ValueError(f'{url!r} names no socket: '
                             'ws+unix:///run/app.sock:/api')
        return Target(scheme, 'localhost', 80,
                      _resource(resource, parts.query), unquote(path))
    if not parts.hostname:
        raise ValueError(f'{url!r} names no host')
    host = parts.hostname
    if not host.isascii():
        host = host.encode('idna').decode('ascii')
    port = parts.port or (443 if scheme == 'wss' else 80)
    userinfo = None
    if parts.username is not None:
        userinfo = (unquote(parts.username), unquote(parts.password or ''))
    return Target(scheme, host, port, _resource(parts.path, parts.query),
                  None, userinfo)


def _resource(path: str, query: str) -> str:
    # What is percent-encoded already stays as it is.
    resource = quote(path or '/', safe="/%:@!$&'()*+,;=~")
    if query:
        resource += '?' + quote(query, safe="/?%:@!$&'()*+,;=~")
    return resource


def header_list(headers: Mapping[str, str] | Iterable[tuple[str, str]],
                ) -> HeaderList:
    """``[(name, value)]`` of a dict or of pairs.

    Raises ValueError for what would break the request in two, or cannot
    be encoded.
    """
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    checked = []
    for name, value in pairs:
        if not _TOKEN.fullmatch(name) or _NOT_IN_A_VALUE.search(value):
            raise ValueError(f'not a header: {name!r}: {value!r}')
        checked.append((name, value))
    return checked


def basic_auth(credentials: tuple[str, str]) -> tuple[str, str]:
    """The header of RFC 7617, for (user, password); ValueError."""
    if not isinstance(credentials, (tuple, list)) or [
            type(part) for part in credentials] != [str, str]:
        raise ValueError("auth must be ('user', 'password')")
    try:
        token = b64encode(':'.join(credentials).encode())
    except UnicodeEncodeError:      # argv of a shell without UTF-8
        raise ValueError('the user name or the password is no Unicode '
                         'text') from None
    return 'Authorization', f'Basic {token.decode("ascii")}'


def build_request(target: Target, headers: HeaderList) -> bytes:
    """The upgrade request; ``headers`` in their order, all of them."""
    lines = [f'GET {target.resource} HTTP/1.1']
    lines += [f'{name}: {value}' for name, value in headers]
    return ('\r\n'.join(lines) + '\r\n\r\n').encode('utf-8')


# -- the answer ------------------------------------------------------------

@dataclass(frozen=True)
class Answer:
    """Answer(101, 'Switching Protocols', [('Upgrade', 'websocket'), ...])."""

    status: int
    reason: str
    headers: HeaderList = field(default_factory=list)

    def all(self, name: str) -> list[str]:
        """The values of every header of that name, in order."""
        name = name.lower()
        return [value for key, value in self.headers if key.lower() == name]

    def tokens(self, name: str) -> set[str]:
        """``Connection: keep-alive, Upgrade`` -> {'keep-alive', 'upgrade'}.

        In lower case, over all headers of the name (RFC 9110 5.3).
        """
        return {token.strip().lower() for value in self.all(name)
                for token in value.split(',')} - {''}


def parse_answer(head: bytes) -> Answer:
    """What stands above the empty line; HandshakeError if no HTTP/1.1."""
    status_line, *lines = head.decode('latin-1').split('\r\n')
    found = re.fullmatch(r'HTTP/1\.\d (\d{3})(?: (.*))?', status_line)
    if found is None:
        raise HandshakeError('the server does not speak HTTP: '
                             f'it began with {escape(status_line, 60)!r}')
    headers: HeaderList = []
    for line in lines:
        if line[:1] in (' ', '\t') and headers:     # obs-fold, RFC 9112 5.2
            name, value = headers.pop()
            headers.append((name, f'{value} {line.strip()}'.strip()))
            continue
        name, colon, value = line.partition(':')
        if not colon or not _TOKEN.fullmatch(name):
            raise HandshakeError('the answer has a line that is no header: '
                                 f'{escape(line, 60)!r}')
        headers.append((name, value.strip()))
    return Answer(int(found[1]), found[2] or '', headers)


def refusal(answer: Answer, body: bytes, target: Target) -> HandshakeError:
    """The error for an answer that is no 101."""
    status = answer.status
    if 300 <= status < 400:
        location = (answer.all('Location') or ['nowhere'])[0]
        hint = f'redirected to {escape(location)}'
    else:
        hint = _HINTS.get(status, '')
    message = f'{target} answered {status} {escape(answer.reason, 60)}'
    return HandshakeError(message.strip() + (f': {hint}' if hint else ''),
                          status, answer.headers, body[:MAX_BODY_BYTES])


def accept_of(key: bytes) -> str:
    """What ``Sec-WebSocket-Accept`` must be (RFC 6455 4.2.2)."""
    return b64encode(sha1(key + WS_KEY).digest()).decode('ascii')


def check_answer(answer: Answer, key: bytes,
                 protocols: Iterable[str] = (), *,
                 offered: bool = False) -> str | None:
    """The subprotocol of a 101 that is right (RFC 6455 4.1).

    ``offered``: an extension was, and :func:`agreed_compression` looks what
    became of it.  Raises HandshakeError for all that is not right: a proxy
    or a server that does not know WebSocket must not be taken for one that
    does.
    """
    def refuse(what: str) -> HandshakeError:
        return HandshakeError(f'the server answered 101, but {what}',
                              answer.status, answer.headers)

    if 'websocket' not in answer.tokens('Upgrade'):
        raise refuse('without "Upgrade: websocket"')
    if 'upgrade' not in answer.tokens('Connection'):
        raise refuse('without "Connection: Upgrade"')
    accepts = answer.all('Sec-WebSocket-Accept')
    if accepts != [accept_of(key)]:
        raise refuse('with a wrong Sec-WebSocket-Accept' if accepts
                     else 'without a Sec-WebSocket-Accept')
    if not offered and answer.tokens('Sec-WebSocket-Extensions'):
        raise refuse('with an extension that was not offered')
    chosen = answer.all('Sec-WebSocket-Protocol')
    if not chosen:
        return None
    if len(chosen) > 1 or chosen[0] not in list(protocols):
        raise refuse('with a subprotocol that was not offered: '
                     f'{escape(", ".join(chosen), 60)}')
    return chosen[0]


def agreed_compression(answer: Answer) -> compression.Agreement | None:
    """What became of ``compression.OFFER``; None: it was declined.

    Raises HandshakeError for any other extension (RFC 6455 4.1).
    """
    try:
        return compression.check_answer(
            answer.all('Sec-WebSocket-Extensions'))
    except ValueError as error:
        raise HandshakeError(
            f'the server answered 101, but with {escape(error)}',
            answer.status, answer.headers) from None
