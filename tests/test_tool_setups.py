"""The tool on servers of other kinds than that of ``test_tool``."""
from __future__ import annotations

import cherrypy
import pytest

import cp_wsrpc

from .rawpeer import client_frame, TEXT
from .serving import serving, wait_until
from .test_tool import (ASKS, ON, PING, REFUSING, assert_refused,
                        assert_served, build_root)


def test_a_full_server_says_503_to_both_questions():
    with serving(build_root(), {'/api': ON},
                 engine={'wsrpc.max_connections': 1}) as server:
        with server.peer('/api') as first:
            assert_served(first)
            with server.peer('/api') as second:
                assert_refused(second, 503)
            assert server.http('/api', method='POST').status == 503
            assert server.http('/api').status == 426
        wait_until(lambda: len(cherrypy.engine.wsrpc.manager) == 0)
        with server.peer('/api') as third:
            assert_served(third)
        assert server.logged('503: as many connections are open as '
                             'engine.wsrpc.max_connections allows (1)')


def test_a_guard_of_all_posts_does_not_hide_that_it_will_pass():
    """Its 403 is final for a client, which a 503 is not."""
    def forbid():
        if cherrypy.request.method == 'POST':
            raise cherrypy.HTTPError(403, 'where is your token?')

    with serving(build_root(), {'/': {'hooks.before_handler': forbid},
                                '/api': ON},
                 engine={'wsrpc.max_connections': 1}) as server:
        assert server.http('/api', method='POST', headers=ASKS).status == 403
        with server.peer('/api') as first:
            assert_served(first)
            answer = server.http('/api', method='POST', headers=ASKS)
            assert answer.status == 503


@pytest.mark.parametrize('tls', ['builtin', 'pyopenssl'])
def test_over_tls_as_well(tls):
    with serving(build_root(), {'/api': ON, '/basic': REFUSING['basic'][0]
                                | ON}, tls=tls) as server:
        origin = {'Origin': f'https://127.0.0.1:{server.port}'}
        with server.peer('/api', headers=origin,
                         early=client_frame(TEXT, PING)) as peer:
            assert peer.recv_json()['result'] == 'pong'
            assert_served(peer)
        with server.peer('/basic') as peer:
            assert_refused(peer, 401)
        plain = {'Origin': f'http://127.0.0.1:{server.port}'}
        with server.peer('/api', headers=plain) as peer:
            assert_refused(peer, 403)


class Echo(cp_wsrpc.WebSocket):
    def opened(self):
        self.send('Welcome!')

    def received_message(self, message):
        self.send(str(message).upper())


def test_a_plain_handler_has_the_socket():
    config = {'/api': ON | {'tools.wsrpc.handler_cls': Echo,
                            'tools.wsrpc.subprotocols': ['chat']}}
    with serving(build_root(), config) as server:
        headers = {'Sec-WebSocket-Protocol': 'jsonrpc, chat'}
        with server.peer('/api', headers=headers) as peer:
            # The dialects are of RPC; here they mean nothing.
            assert peer.headers['sec-websocket-protocol'] == 'chat'
            assert peer.recv_text() == 'Welcome!'
            peer.send_text('hello')
            assert peer.recv_text() == 'HELLO'
        answer = server.http('/api')
        assert answer.status == 426
        assert b'new WebSocket("/api")' in answer.body
        assert server.http('/api/wsrpc.js').status == 404


def test_a_tree_mounted_after_the_start_is_served():
    with serving(build_root(), {'/api': ON}) as server:
        cherrypy.tree.mount(build_root(), '/late', {'/api': ON})
        with server.peer('/late/api') as peer:
            assert_served(peer)


def test_the_engine_may_stop_and_start_again():
    with serving(build_root(), {'/api': ON}) as server:
        with server.peer('/api') as peer:
            assert_served(peer)
        cherrypy.engine.stop()
        cherrypy.server.httpserver = None
        cherrypy.engine.start()
        with server.peer('/api') as peer:
            assert_served(peer)


def test_a_static_page_may_share_the_path(tmp_path):
    (tmp_path / 'index.html').write_text('a static page')
    root = build_root().api
    config = {'/': ON | {'tools.staticdir.on': True,
                         'tools.staticdir.dir': str(tmp_path),
                         'tools.staticdir.index': 'index.html'}}
    with serving(root, config) as server:
        assert server.http('/').body == b'a static page'
        assert server.http('/wsrpc.js').status == 200
        with server.peer('/') as peer:
            assert_served(peer)


@pytest.mark.parametrize('header', ['Host', 'X-Forwarded-Host'])
def test_a_virtual_host_has_endpoints_below_its_prefix(header):
    virtual = cherrypy.dispatch.VirtualHost(
        cherrypy.dispatch.MethodDispatcher(), **{'one.test': '/paged',
                                                 'two.test': '/kept'})
    hosts = ON | {'tools.wsrpc.hosts': '*'}
    root = build_root()
    root.paged.api = build_root().resource
    config = {'/': {'request.dispatch': virtual}, '/paged/api': hosts,
              '/kept/other': hosts}
    with serving(root, config) as server:
        one, two = {header: 'one.test'}, {header: 'two.test'}
        with server.peer('/api/', headers=one) as peer:
            assert_served(peer)
        with server.peer('/paged/api') as peer:     # as it is for pages
            assert_served(peer)
        assert server.http('/api', headers=one).body == b'got'
        assert server.http('/api/wsrpc.js', headers=one).status == 200
        for path, headers in (('/api', two), ('/other', one),
                              ('/api', {}), ('/paged/api', one)):
            with server.peer(path, headers=headers) as peer:
                assert peer.status == 404, (path, headers)


def test_a_probe_meets_what_the_user_hook_says():
    """Else a page whose visitor is not signed in would try for ever."""
    def nobody():
        raise cherrypy.HTTPError(401)

    config = {'/api': {'tools.wsrpc.on': True, 'tools.wsrpc.user': nobody}}
    with serving(build_root(), config) as server:
        assert server.http('/api', method='POST').status == 401
