"""What an endpoint says to a plain HTTP request.  Layer 5.

The controller's page where it has one, else one sentence of plain text
(:class:`Refusal`), and the files of the JavaScript client.  ``tool``
decides which, and uses Refusal for its handshakes, too.
"""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cherrypy
from cherrypy.lib import cptools, httputil

from . import upgrade
from .client_files import ClientFile, read_client_file
from .host_session import renew_session
from .upgrade import Fault

__all__ = ['KEEP_ALIVE_TYPE', 'PROBE_TYPE', 'Refusal', 'answer_plain',
           'has_no_page', 'keep_session_alive', 'serve_client_file',
           'set_headers']

#: What the client accepts when it asks in order to keep its session.  In
#: a header that a page may send anywhere without being asked first.
KEEP_ALIVE_TYPE = 'application/vnd.cp-wsrpc.session+json'
#: The same when it asks by POST what a handshake of its has met: a page's
#: own POSTs have often no body either.
PROBE_TYPE = 'application/vnd.cp-wsrpc.probe+json'

_HEADERS_OF_A_PAGE = ('Content-Encoding', 'Content-Length', 'ETag',
                      'Expires', 'Last-Modified', 'Location', 'Vary')


class Refusal(cherrypy.HTTPError):      # type: ignore[misc]
    """An answer of one sentence in plain text, kept by no cache.

    ``message`` is for whoever asked.  The log may be told more.
    """

    def __init__(self, fault: Fault, message: str = '') -> None:
        super().__init__(fault.status, message or fault.sentence)
        self.message = message or fault.sentence
        self.headers = fault.headers

    def set_response(self) -> None:
        response = cherrypy.serving.response
        for name in _HEADERS_OF_A_PAGE:
            response.headers.pop(name, None)
        response.status = self.status
        set_headers({'Content-Type': 'text/plain;charset=utf-8',
                     # tools.caching served a kept 426 to an upgrade.
                     'Cache-Control': 'no-store', **self.headers})
        response.body = f'{self.message}\n'.encode()


def answer_plain(*args: Any, **kwargs: Any) -> None:
    """Be the page handler where there is none: raise a 426, or a 405.

    Raised rather than returned, json_out would make JSON of it.
    """
    request = cherrypy.serving.request
    endpoint = request.wsrpc.endpoint
    if request.method not in ('GET', 'HEAD', 'POST'):
        raise Refusal(Fault(405, 'this is a WebSocket endpoint',
                            {'Allow': 'GET, HEAD, POST'}))
    path = endpoint.url_path
    how = (f'new WebSocket("{path}")' if endpoint.registry is None else
           f'WSRPC("{path}") of {path.rstrip("/")}/wsrpc.js')
    raise Refusal(Fault(426, 'This is a WebSocket endpoint: connect to it'
                        f' with {how}, or any WebSocket client.',
                        upgrade.ASK_FOR_WEBSOCKET))


def has_no_page(request: Any) -> bool:
    """Whether the dispatcher has found no page; to be asked in _setup.

    It then leaves NotFound for a handler, or a MethodDispatcher its 405.
    """
    return (request.handler is None
            or isinstance(request.handler, cherrypy.HTTPError))


def serve_client_file(request: Any, name: str) -> None:
    """Answer with a file of the client, behind the endpoint's guards.

    ``name`` is one of ``client_files.CONTENT_TYPES``.  To be called from
    the tool's _setup: it replaces the page handler.
    """

    def accept_method(*args: Any, **kwargs: Any) -> None:
        if request.method not in ('GET', 'HEAD'):
            raise Refusal(Fault(405, 'this is a file',
                                {'Allow': 'GET, HEAD'}))
        file = read_client_file(name)
        # Not in the body yet, which json_out would take for a result.
        request.hooks.attach('before_finalize', write, priority=10,
                             file=file)

    def write(file: ClientFile) -> None:
        # Not again when it raised the 304.
        if httputil.valid_status(cherrypy.serving.response.status)[0] == 200:
            _write_client_file(file)

    request.is_index = None
    request.handler = accept_method


def _write_client_file(file: ClientFile) -> None:
    request, response = cherrypy.serving.request, cherrypy.serving.response
    set_headers({
        'Content-Type': file.content_type, 'ETag': file.etag,
        'Last-Modified': httputil.HTTPDate(file.modified_s),
        # The name has no version: it is asked for each time, and a 304
        # is the usual answer.
        'Cache-Control': 'no-cache'})
    response.body = file.body
    cptools.validate_etags()
    if 'If-None-Match' not in request.headers:      # RFC 9110 13.2.2
        cptools.validate_since()


def keep_session_alive(request: Any) -> None:
    """Answer a page that stays open: renew its session and its cookie.

    It says when to ask again, ``{"keepAliveMs": 1800000}``, half of
    ``tools.sessions.timeout``; 0: there is no session to be kept.  To be
    called from the tool's _setup.
    """

    def renew(*args: Any, **kwargs: Any) -> None:
        timeout_s = renew_session() or 0.0
        request.hooks.attach('before_finalize', write, priority=10,
                             keep_alive_ms=int(timeout_s * 1000 / 2))

    def write(keep_alive_ms: int) -> None:
        set_headers({'Content-Type': KEEP_ALIVE_TYPE,
                     'Cache-Control': 'no-store', 'Vary': 'Accept'})
        cherrypy.serving.response.body = (
            b'{"keepAliveMs":%d}' % keep_alive_ms)

    request.is_index = None
    # tools.caching shall not serve a page that it has kept.
    request.headers['Pragma'] = 'no-cache'
    request.headers['Cache-Control'] = 'no-cache'
    request.handler = renew


def set_headers(headers: Mapping[str, str]) -> None:
    """Set headers of the running response.

    One by one: HeaderMap.update does not title the names, and then cannot
    find the ETag that it holds.
    """
    for name, value in headers.items():
        cherrypy.serving.response.headers[name] = value
