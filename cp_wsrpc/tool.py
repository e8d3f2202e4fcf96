"""The HTTP side of an endpoint: checks, handshake, plain requests.
Layer 6.

``cherrypy.tools.wsrpc`` runs at every request for which ``tools.wsrpc.on``
is in force, and takes over the page handler::

    GET  /api  with Upgrade      101, and the socket goes to the plugin
    GET  /api                    the controller's page, else 426
    GET  /api  Accept: ...+json  the session of an open page is renewed
    POST /api  Accept: ...+json  426: the question of a client that was
                                 refused (a browser shows it no status);
                                 so any POST where there is no page
    GET  /api/wsrpc.js           the client; also .mjs and .d.ts
    anything below /api          CherryPy, as if the tool were not there

The way of a handshake through CherryPy's hooks, in the names that ws4py's
tool gave these steps:

1. ``upgrade``, at before_request_body 35: Origin and Host, the
   handshake's form, room for it.  ``tools.proxy`` (30) has run, no login.
2. every guard of the application, at whatever point, as for a page;
3. the page handler, ours: ``tools.wsrpc.user``, the session, status 101;
4. ``drop_body``, at before_finalize 99, and ``complete``, at
   on_end_resource 99: if it is 101 still, no body and its headers;
5. ``start_handler``, at on_end_request 99, last of all: if cheroot did
   send a 101, the socket is taken out and handed over; else cheroot
   closes it.

Nothing but step 5 touches the socket, so a hook or a handler that raises
at any point of 1-4 leaves an ordinary response on a connection that is
then closed (threats A3).  ``complete`` writes past ``response.headers``,
into the lines that CherryPy has made of them: what fails later has its
lines made anew, without those of a 101.
"""
from __future__ import annotations

import logging
import time
from typing import Any

import cherrypy
from ws4py.server.cherrypyserver import WebSocketTool

from . import compression, host_socket, upgrade
from .endpoint import Endpoint, place_of_request
from .host_identity import find_user
from .host_serving import Handshake
from .host_session import SessionKey
from .logs import escape, limited
from .options import DIALECTS
from .origins import host_refusal, origin_refusal
from .pages import (KEEP_ALIVE_TYPE, PROBE_TYPE, Refusal, answer_plain,
                    has_no_page, keep_session_alive, serve_client_file)
from .upgrade import Fault

__all__ = ['Exchange', 'WsrpcTool']

log = logging.getLogger('cp_wsrpc.tool')

# After tools.proxy (30), before sessions (50) and every login.
CHECK_PRIORITY = 35
LAST_PRIORITY = 99
# Spelt as CherryPy writes them: of a body there is none, and ours.
_NOT_OF_A_101 = frozenset({
    b'Content-Type', b'Content-Encoding', b'Content-Length',
    b'Content-Range', b'Vary', b'Upgrade', b'Connection',
    b'Sec-Websocket-Accept', b'Sec-Websocket-Protocol',
    b'Sec-Websocket-Extensions'})
# tools.caching shall neither wait for a page to be made, serve one, nor keep
# what this is answered.  Browsers send these two.
_PAST_CACHES = {'Pragma': 'no-cache', 'Cache-Control': 'no-cache, no-store'}


class Exchange:
    """One request to an endpoint, while CherryPy works on it.

    Stands at ``request.wsrpc``; touched by that request's thread alone.
    ``handshake`` is set once the handshake was granted, ``sentence`` once
    it was refused by us: what the log shall say.
    """

    def __init__(self, endpoint: Endpoint, request: Any) -> None:
        self.endpoint = endpoint
        self.began = time.monotonic()
        self.fields = upgrade.fields_of(request.header_list)
        self.is_attempt = upgrade.is_attempt(self.fields)
        self.is_probe = self.is_keep_alive = False
        if not self.is_attempt:
            accepted = self.fields.get('accept', ())
            self.is_probe = (request.method == 'POST'
                             and (PROBE_TYPE in accepted
                                  or has_no_page(request)))
            self.is_keep_alive = (request.method == 'GET'
                                  and KEEP_ALIVE_TYPE in accepted)
        # Looked for once: it is some 30 frames away.
        self.carrier = (host_socket.find_carrier()
                        if self.is_attempt or self.is_probe else None)
        self.handshake: Handshake | None = None
        self.sentence = ''
        self.status = 0
        self.cause = ''

    def refuse(self, fault: Fault, message: str = '',
               cause: str = 'form') -> Refusal:
        """Return what is to be raised, and remember why.

        ``message`` goes to the client, the fault's sentence to the log,
        ``cause`` to the statistics: one of their words.
        """
        self.sentence, self.status = fault.sentence, fault.status
        self.cause = cause
        return Refusal(fault, message)


class WsrpcTool(WebSocketTool):     # type: ignore[misc]
    """``cherrypy.tools.wsrpc``; its options are :mod:`cp_wsrpc.options`.

    One for the process, without state: any thread may use it.
    """

    def __init__(self) -> None:
        super().__init__()
        host_socket.keep_repeated_headers()

    def _setup(self) -> None:
        """Take part in this request, if its path is an endpoint's.

        CherryPy calls this where the tool is on, after the dispatcher has
        found the page and before any hook runs.
        """
        request = cherrypy.serving.request
        place = place_of_request(request)
        if place is None:
            return
        endpoint = cherrypy.engine.wsrpc.endpoint_for(request.app, place)
        if place.file:
            if endpoint.registry is not None:
                serve_client_file(request, place.file)
            return
        request.wsrpc = exchange = Exchange(endpoint, request)
        if exchange.is_attempt:
            self._attach_handshake(request)
        elif exchange.is_probe:
            request.process_request_body = False
            request.is_index = None         # no redirect of trailing_slash
            request.hooks.attach('before_request_body', self.upgrade,
                                 priority=CHECK_PRIORITY)
            request.hooks.attach('on_end_request', self.start_handler,
                                 failsafe=True, priority=LAST_PRIORITY)
            request.handler = _answer_probe
        elif exchange.is_keep_alive:
            keep_session_alive(request)
        elif has_no_page(request):
            request.handler = answer_plain

    def _attach_handshake(self, request: Any) -> None:
        # trailing_slash would redirect; WebSocket clients do not follow.
        request.is_index = None
        dict.update(request.headers, _PAST_CACHES)      # titled as they are
        request.handler = _grant
        attach = request.hooks.attach
        attach('before_request_body', self.upgrade, priority=CHECK_PRIORITY)
        attach('before_finalize', self.drop_body, priority=LAST_PRIORITY)
        attach('on_end_resource', self.complete, priority=LAST_PRIORITY)
        attach('on_end_request', self.start_handler, failsafe=True,
               priority=LAST_PRIORITY)
        carrier = request.wsrpc.carrier
        if carrier is not None:
            carrier.close_after_response()

    def upgrade(self) -> None:
        """Let in or refuse by what the headers say (step 1)."""
        request = cherrypy.serving.request
        exchange = request.wsrpc
        carrier = exchange.carrier
        _check_origin_and_host(request, exchange)
        if not exchange.is_attempt:
            # Before a guard of all POSTs: its 403 would be final, while
            # the 503 that the handshake met will pass.
            _check_readiness(exchange)
            return
        fault = upgrade.fault_of(request.method, request.protocol,
                                 exchange.fields)
        if fault is None and carrier is None:
            fault = Fault(501, 'this server does not give its sockets away:'
                          ' serve it with cherrypy.quickstart or cheroot,'
                          ' behind a proxy if need be, and not under'
                          ' mod_wsgi, uwsgi or gunicorn')
        if fault is not None:
            raise exchange.refuse(fault)
        _check_readiness(exchange)
        _drop_static_pages(request)

    def drop_body(self) -> None:
        """Have a 101 no body (step 4).

        json_out makes one of any result, and so may a wrapper of ours.
        """
        response = cherrypy.serving.response
        if (cherrypy.serving.request.wsrpc.handshake is not None
                and str(response.status)[:3] == '101'):
            response.body = None

    def complete(self) -> None:
        """Write the headers of a 101 (step 4)."""
        exchange = cherrypy.serving.request.wsrpc
        response = cherrypy.serving.response
        lines = response.header_list
        if (exchange.handshake is None or lines is None
                or response.output_status[:4] != b'101 '):
            return
        agreed = exchange.handshake.extensions
        response.header_list = [
            line for line in lines if line[0] not in _NOT_OF_A_101]
        response.header_list += upgrade.lines_of_101(
            exchange.fields, exchange.handshake.subprotocol,
            agreed.answer if agreed is not None else None)

    def start_handler(self) -> None:
        """Hand the socket over, if a 101 was sent (step 5).

        Of the application only the constructor of a plain handler runs in
        here, and whatever fails closes the socket.
        """
        request = cherrypy.serving.request
        exchange = request.wsrpc
        carrier = exchange.carrier
        if (exchange.handshake is None or carrier is None
                or not carrier.has_sent(101)):
            _log_refusal(request, exchange)
            return
        try:
            _hand_over(exchange, carrier)
        except Exception:  # the request is over: only the log
            limited(log, 'hand over', logging.ERROR,
                    '%s: the socket of a finished handshake could not be'
                    ' handed over', exchange.endpoint.url_path,
                    exc_info=True)


def _hand_over(exchange: Exchange, carrier: host_socket.Carrier) -> None:
    handshake = exchange.handshake
    assert handshake is not None
    sock, early = carrier.take()
    try:
        websocket = cherrypy.engine.wsrpc.make_websocket(
            exchange.endpoint, sock, handshake)
        websocket.early = early
        if not cherrypy.engine.publish(
                'handle-websocket', websocket,
                (handshake.remote.ip, handshake.remote.port)):
            raise RuntimeError('the plugin has stopped')
    except BaseException:  # nobody else knows of the socket
        host_socket.abort(sock)
        raise


def _grant(*args: Any, **kwargs: Any) -> None:
    """Be the page handler of a handshake (step 3).

    Inside of all wrappers and after all guards, with the request and the
    session live.
    """
    request = cherrypy.serving.request
    exchange = request.wsrpc
    options = exchange.endpoint.options
    known = options.subprotocols
    if exchange.endpoint.registry is not None:
        known += DIALECTS
    found = find_user(request, options.user)
    exchange.handshake = Handshake.of(
        request, user=found.user, bound=found.bound,
        session_key=SessionKey.of_request(request, found.identity),
        subprotocol=upgrade.choose_subprotocol(exchange.fields, known),
        extensions=_agree_on_compression(exchange), began=exchange.began)
    response = cherrypy.serving.response
    response.status = 101
    # tools.encode looks for the charset of what has a type: 8 us.
    dict.pop(response.headers, 'Content-Type', None)
    # A stream's session is saved and unlocked at the end of the request,
    # which is never reached if the peer has gone.
    response.stream = False


def _agree_on_compression(exchange: Exchange
                          ) -> compression.Agreement | None:
    wanted = exchange.endpoint.options.compression
    if not wanted:
        return None
    return compression.negotiate(
        exchange.fields.get('sec-websocket-extensions', ()),
        keep_context=wanted == 'client_context')


def _check_origin_and_host(request: Any, exchange: Exchange) -> None:
    options, fields = exchange.endpoint.options, exchange.fields
    carrier = exchange.carrier
    sentence = origin_refusal(fields.get('origin', ()), request.base,
                              options.origins)
    if sentence is not None:
        raise exchange.refuse(Fault(403, sentence),
                              'pages of this origin may not connect',
                              'origin')
    hosts = fields.get('host', [''])
    sentence = host_refusal(
        hosts[0] if len(hosts) == 1 else '',
        carrier.local_address if carrier is not None else '',
        options.hosts, request.config.get('tools.proxy.base') or '')
    if sentence is not None:
        raise exchange.refuse(Fault(403, sentence),
                              'this server does not go by that name', 'host')


def _check_readiness(exchange: Exchange) -> None:
    reason = cherrypy.engine.wsrpc.refuse_reason()
    if reason is not None:
        raise exchange.refuse(
            Fault(503, reason, {'Retry-After': '5'}),
            'no connection is taken just now; try again in some seconds',
            'stopping' if cherrypy.engine.wsrpc.stopping.is_set()
            else 'too many connections')


def _drop_static_pages(request: Any) -> None:
    """Keep a static page that shares the path from answering."""
    pages = (cherrypy.tools.staticdir, cherrypy.tools.staticfile)
    hooks = request.hooks['before_handler']
    hooks[:] = [hook for hook in hooks
                if getattr(hook.callback, '__self__', None) not in pages]


def _answer_probe(*args: Any, **kwargs: Any) -> None:
    """Say what a handshake would have met: 426 for "come in"."""
    exchange = cherrypy.serving.request.wsrpc
    if exchange.endpoint.options.user is not None:
        exchange.endpoint.options.user()    # may refuse, as at a handshake
    answer_plain()


def _log_refusal(request: Any, exchange: Exchange) -> None:
    response = cherrypy.serving.response
    if not exchange.sentence and not exchange.is_attempt:
        return          # a probe's 426, or a guard's word to it
    # None yet where the request goes on elsewhere (InternalRedirect).
    status = str(getattr(response, 'output_status', b''), 'latin-1')[:3]
    sentence, cause = exchange.sentence, exchange.cause
    if status == '101':
        cause = 'not sent'
        sentence = ('something in it, a header of the application maybe,'
                    ' could not be sent')
    elif str(exchange.status) != status:
        cause = 'application'
        sentence = 'a tool, hook or page of the application answered so'
        location = response.headers.get('Location')
        if location:
            sentence += f', with Location {escape(location)}'
    if exchange.is_attempt:
        cherrypy.engine.wsrpc.count_refusal(status or '-', cause)
    limited(log, f'refused {status} {cause}', logging.WARNING,
            '%s: handshake answered %s: %s (from %s)',
            exchange.endpoint.url_path, status or 'with nothing', sentence,
            escape(request.remote.ip))
