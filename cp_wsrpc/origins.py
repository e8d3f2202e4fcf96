"""Who may connect from where: the Origin and Host checks.  Layer 1, pure.

::

    origin_refusal(['https://evil.example'], 'http://localhost:8080')
        -> 'refused Origin https://evil.example (this server thinks ...'
    origin_refusal(['http://localhost:8080'], 'http://localhost:8080')
        -> None
    host_refusal('evil.example:8080', '127.0.0.1')
        -> 'refused Host evil.example:8080 (...'

A WebSocket handshake carries the visitor's cookies whatever page began it,
and no preflight guards it: the Origin header is the only thing that tells
(RFC 6455 10.2).  A name that an attacker points at 127.0.0.1 makes Origin
and Host agree with each other (DNS rebinding): so a server on loopback
looks at the Host too.  Neither function raises, whatever bytes it is given.
"""
from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from .logs import escape

__all__ = ['HostPort', 'Origin', 'host_refusal', 'is_loopback',
           'origin_refusal', 'parse_host', 'parse_origin']

# A longest name has 253 characters; what is longer is no origin, and need
# not be looked at.
MAX_ORIGIN_CHARS = 300
DEFAULT_PORTS = {'http': 80, 'https': 443, 'ws': 80, 'wss': 443}
_PAGE_SCHEMES = {'ws': 'http', 'wss': 'https'}
LOCAL_HOSTS = ('localhost', '127.0.0.1', '[::1]')

_HOST = r'(\[[0-9A-Fa-f:.]{2,45}\]|[0-9A-Za-z._-]{1,253})'
_PORT = r'(?::([1-9][0-9]{0,4}))?'
_HOST_PORT = re.compile(_HOST + _PORT, re.ASCII)
_ORIGIN = re.compile(r'([A-Za-z][0-9A-Za-z+.-]{0,31})://' + _HOST + _PORT,
                     re.ASCII)


class Origin(NamedTuple):
    """``Origin('https', 'example.com', 443)``: RFC 6454's tuple.

    ``port`` is None for a scheme without a default (``app://x``).
    """

    scheme: str
    host: str
    port: int | None

    def __str__(self) -> str:
        if self.port == DEFAULT_PORTS.get(self.scheme):
            return f'{self.scheme}://{self.host}'
        return f'{self.scheme}://{self.host}:{self.port}'


class HostPort(NamedTuple):
    """``HostPort('example.com', None)``; None: no port was given."""

    host: str
    port: int | None


def parse_origin(text: str) -> Origin | None:
    """Return the tuple of an origin, None if ``text`` is not one.

    Exactly ``scheme://host`` or ``scheme://host:port``: no path, user,
    space, nor character outside of ASCII (browsers send punycode).
    """
    if len(text) > MAX_ORIGIN_CHARS:
        return None
    return _parse_origin(text)


def parse_host(text: str) -> HostPort | None:
    """Return name and port of a Host header, None if it is not one."""
    if len(text) > MAX_ORIGIN_CHARS:
        return None
    return _parse_host(text)


# Most handshakes say one of a few, and the way through the
# pattern takes 2 us.  What a stranger can have kept is 256 short texts.

@functools.lru_cache(maxsize=128)
def _parse_origin(text: str) -> Origin | None:
    match = _ORIGIN.fullmatch(text)
    if match is None:
        return None
    scheme = match[1].lower()
    where = _normalize(match[2], match[3])
    if where is None:
        return None
    return Origin(scheme, where.host, where.port or DEFAULT_PORTS.get(scheme))


@functools.lru_cache(maxsize=128)
def _parse_host(text: str) -> HostPort | None:
    match = _HOST_PORT.fullmatch(text)
    return _normalize(match[1], match[2]) if match else None


def _base_origin(base: str) -> Origin | None:
    """Return the origin of a base, which may go on with a path."""
    return parse_origin('/'.join(base.split('/', 3)[:3]))


def _normalize(host: str, port: str | None) -> HostPort | None:
    if host.startswith('['):
        try:
            address = ipaddress.IPv6Address(host[1:-1])
        except ValueError:
            return None
        host = f'[{address.compressed}]'
    number = int(port) if port else None
    if number is not None and number > 65535:
        return None
    return HostPort(host.lower(), number)


def origin_refusal(values: Sequence[str], base: str,
                   origins: Iterable[str] | Literal['*'] = (),
                   ) -> str | None:
    """Say why a handshake with these Origin headers is refused.

    ``values``
        Every Origin header of the request.  None at all is let in: only
        browsers send one, and they always do.
    ``base``
        What the server takes itself for, ``request.base``:
        ``'http://localhost:8080'``, after ``tools.proxy``.
    ``origins``
        ``tools.wsrpc.origins``: further exact origins, or ``'*'`` for any.

    Returns None to let it in, or the sentence for the log.
    """
    if not values or origins == '*':
        return None
    if len(values) > 1:
        return f'refused {len(values)} Origin headers in one request'
    given = parse_origin(values[0])
    own = _base_origin(base)
    if given is not None and given.scheme in _PAGE_SCHEMES:
        # ws4py's client sends its own URL.  No page can have that origin,
        # so letting it in lets in no page.
        given = given._replace(scheme=_PAGE_SCHEMES[given.scheme])
    if given is not None and (given == own
                              or given in map(parse_origin, origins)):
        return None
    head = (f'refused Origin {escape(values[0]) or "(empty)"} (this server'
            f' thinks it is {own or escape(base)})')
    return f'{head}: {_origin_advice(given, own)}'


def _origin_advice(given: Origin | None, own: Origin | None) -> str:
    if given is None:
        return 'that is no origin of a page; nothing to set'
    paste = f"tools.wsrpc.origins = ['{given}']"
    if own is None or given.host != own.host:
        return f'if that site is yours, set {paste}'
    if given.scheme != own.scheme:
        return f'set tools.proxy.on with X-Forwarded-Proto, or {paste}'
    return ('let the proxy pass the port (nginx: proxy_set_header Host'
            f' $http_host), or set {paste}')


def host_refusal(host: str, local_address: str,
                 hosts: Iterable[str] | Literal['*'] | None = None,
                 proxy_base: str = '') -> str | None:
    """Say why a handshake with this Host header is refused.

    ``host``
        The Host header as it came, ``''`` for none.
    ``local_address``
        The address of our end of the connection, ``'127.0.0.1'``; ``''``
        where there is none (a Unix socket).
    ``hosts``
        ``tools.wsrpc.hosts``: ``'example.com'`` (any port) or
        ``'example.com:8080'``; ``'*'``: any.  Default: on loopback the
        local names and the host of ``proxy_base``, elsewhere any.

    Returns None to let it in, or the sentence for the log.
    """
    if hosts is None:
        known = _local_hosts(local_address, proxy_base)
        if not known:
            return None
    elif hosts == '*':
        return None
    else:
        known = _parse_hosts(tuple(hosts))
    given = parse_host(host)
    if given is not None:
        for each in known:
            if (given.host == each.host
                    and each.port in (None, given.port)):
                return None
    names = ', '.join(dict.fromkeys(each.host for each in known))
    paste = (f"set tools.wsrpc.hosts = ['{given.host}'] or tools.proxy.base"
             if given else 'that is no name of a host; nothing to set')
    return (f'refused Host {escape(host) or "(empty)"} (this server answers'
            f' on {local_address or "its socket"} to {names}): {paste}')


# Of what the server is given, not of what a client says: few, and the same
# at every handshake.

@functools.lru_cache(maxsize=64)
def _local_hosts(local_address: str, proxy_base: str
                 ) -> tuple[HostPort, ...]:
    """Return the names of a server on loopback; none: it is elsewhere."""
    if not is_loopback(local_address):
        return ()
    hosts = [*LOCAL_HOSTS, _literal(local_address)]
    proxied = _base_origin(proxy_base)
    if proxied is not None:
        hosts.append(proxied.host)
    return _parse_hosts(tuple(hosts))


@functools.lru_cache(maxsize=64)
def _parse_hosts(hosts: tuple[str, ...]) -> tuple[HostPort, ...]:
    return tuple(found for found in map(parse_host, hosts) if found)


def is_loopback(address: str) -> bool:
    """Whether a socket's own address can be reached from here only."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(found, 'ipv4_mapped', None)
    return (mapped or found).is_loopback


def _literal(address: str) -> str:
    return f'[{address}]' if ':' in address else address
