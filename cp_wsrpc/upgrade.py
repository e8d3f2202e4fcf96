"""The opening handshake: headers in, verdict out.  Layer 1, pure.

::

    fields = fields_of([('Upgrade', 'websocket'), ...])
        -> {'upgrade': ['websocket'], ...}
    is_attempt(fields)                        -> True
    fault_of('GET', (1, 1), fields)           -> None, or
        Fault(426, 'the version of the protocol must be 13', {...})
    choose_subprotocol(fields, ('wsrpc2',))   -> 'wsrpc2' or None
    accept_of(fields)       -> b's3pPLMBiTxaQ9kYGzzhZRbK+xOo='

RFC 6455 4.2.  What ws4py does with these faults is a 500 with a traceback,
and it finds ``websocket`` in ``Upgrade: nowebsocket`` (pitfalls 3).
"""
from __future__ import annotations

import binascii
import hashlib
import re
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

__all__ = ['Fault', 'Fields', 'accept_of', 'choose_subprotocol', 'fault_of',
           'fields_of', 'has_body', 'is_attempt', 'lines_of_101']

#: Header values by lower-case name, in the order of their lines.
Fields = Mapping[str, list[str]]

#: RFC 6455 1.3
_GUID = b'258EAFA5-E914-47DA-95CA-C5AB0DC85B11'
# 16 bytes in base64, nothing lenient about it.
_KEY = re.compile(r'[A-Za-z0-9+/]{22}==')

DROPPED_UPGRADE = (
    'a proxy dropped Upgrade (nginx: proxy_http_version 1.1;'
    ' proxy_set_header Upgrade $http_upgrade;'
    ' proxy_set_header Connection "upgrade";)')
ASK_FOR_WEBSOCKET = {'Upgrade': 'websocket', 'Connection': 'Upgrade'}


class Fault(NamedTuple):
    """Why a handshake is none: the status, a sentence, headers to send."""

    status: int
    sentence: str
    headers: Mapping[str, str] = {}


def fields_of(lines: Iterable[tuple[str, str]]) -> Fields:
    """Gather header lines by name, as they came, not decoded."""
    fields: dict[str, list[str]] = {}
    for name, value in lines:
        name = name.lower()
        if name in fields:
            fields[name].append(value.strip())
        else:
            fields[name] = [value.strip()]
    return fields


def is_attempt(fields: Fields) -> bool:
    """Whether somebody wants a WebSocket here, however badly he asks."""
    return ('sec-websocket-key' in fields
            or 'websocket' in ','.join(fields.get('upgrade', ())).lower())


def has_body(fields: Fields) -> bool:
    """Whether a body follows the head."""
    return (fields.get('content-length', ['0']) != ['0']
            or 'transfer-encoding' in fields)


def fault_of(method: str, protocol: tuple[int, int], fields: Fields
             ) -> Fault | None:
    """Return the first thing that is wrong with a handshake, or None.

    ``method``, ``protocol``
        ``'GET'`` and ``(1, 1)`` where all is well.
    """
    if method != 'GET':
        return Fault(405, 'a handshake is a GET', {'Allow': 'GET'})
    if protocol < (1, 1):
        return Fault(426, 'a handshake needs HTTP/1.1: ' + DROPPED_UPGRADE,
                     ASK_FOR_WEBSOCKET)
    if has_body(fields):
        return Fault(400, 'a handshake has no body')
    if not _has_token(fields, 'upgrade', 'websocket'):
        sentence = ('Upgrade must say websocket' if 'upgrade' in fields
                    else DROPPED_UPGRADE)
        return Fault(426, sentence, ASK_FOR_WEBSOCKET)
    if not _has_token(fields, 'connection', 'upgrade'):
        return Fault(400, 'Connection must say Upgrade; '
                     + DROPPED_UPGRADE)
    return _fault_of_values(fields)


def _fault_of_values(fields: Fields) -> Fault | None:
    if fields.get('sec-websocket-version') != ['13']:
        return Fault(426, 'Sec-WebSocket-Version must be 13',
                     {**ASK_FOR_WEBSOCKET, 'Sec-WebSocket-Version': '13'})
    keys = fields.get('sec-websocket-key', [])
    if len(keys) != 1 or not _KEY.fullmatch(keys[0]):
        return Fault(400, 'Sec-WebSocket-Key must be 16 bytes in base64')
    return None


def accept_of(fields: Fields) -> bytes:
    """Return Sec-WebSocket-Accept for a handshake without a fault."""
    key = fields['sec-websocket-key'][0].encode('ascii')
    # Nothing is kept secret by it (RFC 6455 10.8).
    digest = hashlib.sha1(key + _GUID, usedforsecurity=False).digest()
    return binascii.b2a_base64(digest, newline=False)


def lines_of_101(fields: Fields, subprotocol: str | None = None,
                 extensions: str | None = None) -> list[tuple[bytes, bytes]]:
    """Return the header lines that make a response the answer to it.

    ``subprotocol`` is one that the client has offered, ``extensions`` the
    value of Sec-WebSocket-Extensions; None: no such line.
    """
    lines = [(b'Upgrade', b'websocket'), (b'Connection', b'Upgrade'),
             (b'Sec-WebSocket-Accept', accept_of(fields))]
    if subprotocol is not None:
        lines.append((b'Sec-WebSocket-Protocol',
                      subprotocol.encode('latin-1')))
    if extensions is not None:
        lines.append((b'Sec-WebSocket-Extensions', extensions.encode()))
    return lines


def choose_subprotocol(fields: Fields, known: Collection[str]
                       ) -> str | None:
    """Return the first of the client's subprotocols that is known here."""
    for line in fields.get('sec-websocket-protocol', ()):
        for name in line.split(','):
            if name.strip() in known:
                return name.strip()
    return None


def _has_token(fields: Fields, name: str, token: str) -> bool:
    """Whether ``token`` is one of the list that these lines make."""
    for line in fields.get(name, ()):
        line = line.lower()
        if line == token or token in [part.strip()
                                      for part in line.split(',')]:
            return True
    return False
