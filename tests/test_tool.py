"""The HTTP side of an endpoint, over real sockets.

Threats A1, A2, A3, A6 and A7, and the pitfalls of the handshake: what of
them plain ws4py does is shown in ``test_handshake_pitfalls``.
"""
from __future__ import annotations

import gc
import io
import json
import os
import socket
import struct
import time
from wsgiref.util import setup_testing_defaults

import cherrypy
import pytest
from cherrypy.lib import sessions

import cp_wsrpc
from cp_wsrpc import expose, logs

from .attack import in_time
from .rawhttp import connect, request_head
from .rawpeer import TEXT, client_frame
from .refusing import REFUSING, fail
from .serving import serving, wait_until

PING = json.dumps({'jsonrpc': '2.0', 'method': 'ping', 'id': 1}).encode()
ON = {'tools.wsrpc.on': True}
GZIP = {'Accept-Encoding': 'gzip'}
BASIC = {'Authorization': 'Basic YWRhOnNlY3JldA=='}


class Api:
    """A controller whose calls are counted, over all of its instances."""

    calls = 0

    @expose
    def ping(self):
        Api.calls += 1
        return 'pong'

    @expose
    def whoami(self):
        return cp_wsrpc.connection.user


class Paged(Api):
    @cherrypy.expose
    def index(self, **params):
        return f'a page {sorted(params)}'


class Catching(Api):
    @cherrypy.expose
    def default(self, *names):
        return f'caught {names}'


class Configured(Api):
    _cp_config = ON


class Decorated(Api):
    @cherrypy.expose
    @cherrypy.tools.wsrpc()
    def index(self):
        return 'never at an upgrade'


@cherrypy.expose
class Resource(Api):
    def GET(self):
        return 'got'


def name_user():
    return [cherrypy.request.params['name'], cherrypy.request.path_info]


def return_oddly(next_handler, *args, **kwargs):
    next_handler(*args, **kwargs)
    return object()


def check_session_is_unlocked():
    assert not cherrypy.serving.session.locked


cherrypy.tools.odd = cherrypy._cptools.HandlerWrapperTool(return_oddly)

#: What the JavaScript client says when it asks why it was refused.
ASKS = {'Accept': 'application/vnd.cp-wsrpc.probe+json'}

#: Tools beside which a handshake is as ever.
BESIDE = {
    'gzip': {'tools.gzip.on': True}, 'encode': {'tools.encode.on': True},
    'json_out': {'tools.json_out.on': True},
    'json_in': {'tools.json_in.on': True},
    'odd': {'tools.odd.on': True, 'tools.odd.priority': 20,
            'tools.json_out.on': True},
    'streamed_session': {'response.stream': True, 'tools.sessions.on': True,
                         'hooks.on_end_resource': check_session_is_unlocked},
    'caching': {'tools.caching.on': True},
    'etags': {'tools.etags.on': True, 'tools.etags.autotags': True},
    'expires': {'tools.expires.on': True, 'tools.expires.force': True},
    'cpstats': {'tools.cpstats.on': True},
    'proxy': {'tools.proxy.on': True},
    'stream': {'response.stream': True},
    'trailing_slash': {'tools.trailing_slash.missing': True,
                       'tools.trailing_slash.extra': True},
    'headers': {'tools.response_headers.on': True,
                'tools.response_headers.headers': [('X-A', 'b')]},
    'late_hook': {'hooks.on_end_request': fail},
    **{f'sessions_{locking}': {'tools.sessions.on': True,
                               'tools.sessions.locking': locking}
       for locking in ('implicit', 'early', 'explicit')},
}


class Root:
    pass


def build_root():
    root = Root()
    for name in (*REFUSING, *BESIDE, 'api', 'origins', 'hosts', 'named',
                 'named_user'):
        setattr(root, name, Api())
    root.paged = Paged()
    root.kept = Paged()
    root.catching = Catching()
    root.configured = Configured()
    root.decorated = Decorated()
    root.resource = Resource()
    return root


@pytest.fixture(scope='module')
def server(tmp_path_factory):
    from cherrypy.lib import cpstats  # noqa: F401 (registers the tool)
    config = {f'/{name}': ON | more for name, (more, _) in REFUSING.items()}
    config |= {f'/{name}': ON | more for name, more in BESIDE.items()}
    config |= {
        '/kept': ON | BESIDE['caching'],
        '/api': ON, '/paged': ON, '/catching': ON, '/ghost': ON,
        '/origins': ON | {'tools.wsrpc.origins': ['https://app.example']},
        '/hosts': ON | {'tools.wsrpc.hosts': ['app.example']},
        '/named': ON | {'tools.wsrpc.subprotocols': ['chat']},
        '/named_user': ON | {'tools.wsrpc.user': name_user},
        '/resource': ON | {
            'request.dispatch': cherrypy.dispatch.MethodDispatcher()},
        '/files': ON | {'tools.sessions.on': True,
                        'tools.sessions.storage_class': sessions.FileSession,
                        'tools.sessions.storage_path': str(
                            tmp_path_factory.mktemp('sessions'))},
    }
    whole = {'/': ON}
    with serving(build_root(), config, apps=[
            (Api(), '/shop', whole), (build_root(), '/more', {'/api': ON}),
            ]) as running:
        yield running


def assert_served(peer):
    """The peer's handshake was finished, and a call comes back."""
    assert peer.status == 101
    before = Api.calls
    peer.send_frame(TEXT, PING)
    assert peer.recv_json()['result'] == 'pong'
    assert Api.calls in (before, before + 1)


def assert_refused(peer, status):
    """That status came, and nothing is there any more behind it."""
    before = Api.calls
    assert peer.status == status
    assert 'sec-websocket-accept' not in peer.headers
    try:
        peer.send_frame(TEXT, PING)
    except OSError:
        pass
    peer.recv_eof()
    assert Api.calls == before


# Where an endpoint is

@pytest.mark.parametrize('path', [
    '/api', '/api/', '/api//', '/api?x=1', '/paged', '/paged/', '/catching',
    '/configured', '/configured/', '/decorated', '/decorated/', '/resource',
    '/ghost', '/shop', '/shop/', '/more/api', '/more/configured/',
])
def test_an_endpoint_is_there_with_and_without_a_slash(server, path):
    with server.peer(path) as peer:
        if path == '/ghost':        # nothing stands there but the config
            assert peer.status == 101
        else:
            assert_served(peer)


@pytest.mark.parametrize('path', [
    '/api/ping', '/api/nothing', '/api/wsrpc.js', '/configured/ping',
    '/api/wsrpc.js/more', '/', '/more',
])
def test_an_inherited_switch_makes_no_endpoint_below(server, path):
    with server.peer(path) as peer:
        assert peer.status in (200, 404)
        assert 'upgrade' not in peer.headers


@pytest.mark.parametrize('name', BESIDE)
def test_the_other_tools_do_not_disturb(server, name):
    for _ in range(2):      # the second would meet a cached answer
        server.http(f'/{name}')
        with server.peer(f'/{name}', headers=GZIP) as peer:
            assert_served(peer)


def test_a_cached_page_stays_in_the_cache_and_out_of_the_handshake(server):
    for _ in range(2):
        assert server.http('/kept/').body == b'a page []'
    assert 'age' in server.http('/kept/').headers
    with server.peer('/kept/') as peer:
        assert_served(peer)
    assert 'age' in server.http('/kept/').headers


def test_a_handshakes_answer_is_a_head_and_nothing_else(server):
    for name in BESIDE:
        with server.peer(f'/{name}') as peer:
            assert peer.status == 101
            for header in ('content-type', 'content-length',
                           'content-encoding', 'transfer-encoding'):
                assert header not in peer.headers
            assert peer.headers['connection'] == 'Upgrade'
            assert peer.headers['upgrade'] == 'websocket'
            assert ('Sec-WebSocket-Accept'
                    in [key for key, _ in peer.header_list])
            assert_served(peer)     # the first bytes are a frame


# Plain requests

def test_a_plain_get_is_answered_by_one_sentence(server):
    for path in ('/api', '/api/', '/ghost'):
        answer = server.http(path)
        assert answer.status == 426
        assert answer.headers['upgrade'] == 'websocket'
        assert answer.headers['cache-control'] == 'no-store'
        assert answer.headers['content-type'] == 'text/plain;charset=utf-8'
        assert answer.body.decode() == (
            'This is a WebSocket endpoint: connect to it with'
            f' WSRPC("{path.rstrip("/")}") of {path.rstrip("/")}/wsrpc.js,'
            ' or any WebSocket client.\n')
    assert b'WSRPC("/") ' not in server.http('/shop').body
    assert b'WSRPC("/shop") of /shop/wsrpc.js' in server.http('/shop').body


@pytest.mark.parametrize('name', ['json_out', 'gzip', 'encode', 'wrapper',
                                  'stream', 'sessions_explicit'])
def test_the_sentence_comes_through_every_tool(server, name):
    answer = server.http(f'/{name}?ticket=1')
    assert answer.status == 426
    assert b'This is a WebSocket endpoint' in answer.body


@pytest.mark.parametrize('path, body', [
    ('/paged/', b'a page []'), ('/paged/?x=1', b"a page ['x']"),
    ('/catching', b'caught ()'), ('/resource', b'got'),
])
def test_a_plain_get_shows_the_controllers_page(server, path, body):
    answer = server.http(path)
    assert (answer.status, answer.body) == (200, body)


def test_a_plain_get_is_redirected_to_the_page_as_ever(server):
    assert server.http('/paged').status in (301, 303)


def test_head_and_other_methods(server):
    head = server.http('/api', method='HEAD')
    assert (head.status, head.body) == (426, b'')
    for method in ('PUT', 'DELETE', 'PATCH', 'OPTIONS'):
        answer = server.http('/api', method=method)
        assert answer.status == 405
        assert answer.headers['allow'] == 'GET, HEAD, POST'


# The question of a client that was refused

def test_a_post_learns_that_it_may_come_in(server):
    for path in ('/api', '/api/', '/paged', '/catching', '/resource'):
        answer = server.http(path, method='POST', headers=ASKS)
        assert answer.status == 426, path
        assert answer.headers['cache-control'] == 'no-store'
    assert server.http('/api', method='POST').status == 426     # no page


def test_a_post_learns_what_the_handshake_was_told(server):
    own = server.url('').rstrip('/')
    for headers, status in (
            ({'Origin': own}, 426), ({'Origin': 'http://evil'}, 403),
            ({'Origin': 'null'}, 403), ({'Host': 'evil'}, 403)):
        answer = server.http('/api', method='POST', headers=headers)
        assert answer.status == status, headers
    for name, status in (('basic', 401), ('redirect', 303),
                         ('wrapper', 402)):
        assert server.http(f'/{name}', method='POST').status == status
    assert server.http('/nothing', method='POST').status == 404


def test_a_post_that_does_not_ask_is_the_pages(server):
    answer = server.http('/paged/?a=1', method='POST')
    assert (answer.status, answer.body) == (200, b"a page ['a']")
    answer = server.http('/paged/', method='POST', body=b'a=1', headers={
        'Content-Type': 'application/x-www-form-urlencoded'})
    assert answer.body == b"a page ['a']"
    for body in (b'a=1', b'\xff=\xfe'):     # not even read, let alone parsed
        answer = server.http('/api', method='POST', body=body, headers={
            'Content-Type': 'application/x-www-form-urlencoded'})
        assert answer.status == 426


# The client's files

@pytest.mark.parametrize('path, content_type', [
    ('/api/wsrpc.js', 'text/javascript;charset=utf-8'),
    ('/api/wsrpc.mjs', 'text/javascript;charset=utf-8'),
    ('/shop/wsrpc.js', 'text/javascript;charset=utf-8'),
    ('/more/api/wsrpc.js', 'text/javascript;charset=utf-8'),
    ('/catching/wsrpc.js', 'text/javascript;charset=utf-8'),
    ('/json_out/wsrpc.js', 'text/javascript;charset=utf-8'),
])
def test_an_endpoint_serves_its_client(server, path, content_type):
    answer = server.http(path)
    assert answer.status == 200
    assert answer.headers['content-type'] == content_type
    assert answer.headers['cache-control'] == 'no-cache'
    assert b'WSRPC' in answer.body
    head = server.http(path, method='HEAD')
    assert (head.status, head.body) == (200, b'')
    assert head.headers['content-length'] == str(len(answer.body))


def test_a_client_that_is_known_is_not_sent_again(server):
    first = server.http('/api/wsrpc.js').headers
    for headers, status in (
            ({'If-None-Match': first['etag']}, 304),
            ({'If-Modified-Since': first['last-modified']}, 304),
            ({'If-None-Match': '"other"'}, 200),
            ({'If-None-Match': '"other"',
              'If-Modified-Since': first['last-modified']}, 200)):
        answer = server.http('/api/wsrpc.js', headers=headers)
        assert answer.status == status, headers
        assert (answer.body == b'') == (status == 304)
        assert answer.headers['etag'] == first['etag']


def test_a_client_file_is_a_file(server):
    assert server.http('/api/wsrpc.js', method='POST').status == 405
    assert server.http('/api/wsrpc.css').status == 404
    assert server.http('/api/../wsrpc.js').status == 404
    assert server.http('/basic/wsrpc.js').status == 401
    assert server.http('/basic/wsrpc.js', headers=BASIC).status == 200


# A1, A2: Origin and Host

def evil_origins(port):
    good = f'127.0.0.1:{port}'
    yield from (
        'http://evil.example', f'http://evil.example:{port}', 'null', '',
        'http://127.0.0.1', f'https://{good}', f'http://127.0.0.1:{port+1}',
        f'http://{good}.evil', f'http://{good}@evil', f'http://x@{good}',
        'HTTP://GOOD:80', f'http://{good}/', f'http://{good} ',
        f'http://localhost:{port}', f'http://[::1]:{port}', 'http://[',
        'http://xn--evil', f'http://{good}'.encode() + b'\xff',
        b'http://\xe2\x80\xae', 'x' * 65_536, f'http://{good}\t\x1b[2J',
        [f'http://{good}', 'http://evil'], ['http://evil',
                                            f'http://{good}'],
        [f'http://{good}'] * 2)


def test_a_page_of_another_origin_is_refused(server):
    for origin in evil_origins(server.port):
        if origin == f'http://127.0.0.1:{server.port} ':
            continue            # the space belongs to HTTP
        with server.peer('/api', headers={'Origin': origin}) as peer:
            assert_refused(peer, 403)


def test_a_page_of_our_own_and_a_program_are_let_in(server):
    own = f'http://127.0.0.1:{server.port}'
    for headers in ({}, {'Origin': own}, {'Origin': own.upper()}):
        with server.peer('/api', headers=headers) as peer:
            assert_served(peer)
    for origin in ('https://app.example', own):
        with server.peer('/origins', headers={'Origin': origin}) as peer:
            assert_served(peer)


def test_a_name_that_points_here_is_refused_on_loopback(server):
    evil = f'evil.example:{server.port}'
    headers = {'Host': evil, 'Origin': f'http://{evil}'}
    with server.peer('/api', headers=headers) as peer:
        assert_refused(peer, 403)
    for host in (f'localhost:{server.port}', 'LOCALHOST', '[::1]:1',
                 f'127.0.0.1:{server.port}'):
        with server.peer('/api', headers={'Host': host}) as peer:
            assert_served(peer)


def test_hosts_can_be_named(server):
    with server.peer('/hosts', headers={'Host': 'app.example'}) as peer:
        assert_served(peer)
    with server.peer('/hosts') as peer:
        assert_refused(peer, 403)


def test_behind_a_proxy_the_forwarded_scheme_counts(server):
    headers = {'Host': 'localhost', 'Origin': 'https://localhost',
               'X-Forwarded-Proto': 'https'}
    with server.peer('/proxy', headers=headers) as peer:
        assert_served(peer)
    with server.peer('/api', headers=headers) as peer:
        assert_refused(peer, 403)


# A3: refused by the application

@pytest.mark.parametrize('name', REFUSING)
def test_a_refused_upgrade_is_closed_and_nothing_is_served(server, name):
    with server.peer(f'/{name}') as peer:
        assert_refused(peer, REFUSING[name][1])
    with server.peer(f'/{name}', early=client_frame(TEXT, PING)) as peer:
        assert_refused(peer, REFUSING[name][1])


def test_with_the_proper_identity_it_is_served(server):
    with server.peer('/basic', headers=BASIC) as peer:
        assert_served(peer)
    with server.peer('/wrapper?ticket=1') as peer:
        assert_served(peer)


def test_the_connection_knows_who_it_is(server):
    with server.peer('/basic', headers=BASIC) as peer:
        assert peer.call('whoami') == 'ada'
    with server.peer('/named_user?name=eve') as peer:
        assert peer.call('whoami') == ['eve', '/named_user']
    with server.peer('/api') as peer:
        assert peer.call('whoami') is None


def test_refused_upgrades_leave_no_socket(server):
    def sockets():
        return sum(os.readlink(f'/proc/self/fd/{fd}').startswith('socket:')
                   for fd in os.listdir('/proc/self/fd')
                   if os.path.exists(f'/proc/self/fd/{fd}'))

    gc.collect()
    gc.disable()
    try:
        before = sockets()
        for name in ('basic', 'user_500', 'header', 'before_finalize_fail',
                     'on_end_resource_fail', 'redirect'):
            for _ in range(5):
                with server.peer(f'/{name}') as peer:
                    peer.recv_eof()
        wait_until(lambda: sockets() <= before, what='sockets')
    finally:
        gc.enable()


# A6: bad handshakes

BAD = [
    (400, {'Sec-WebSocket-Key': None}), (400, {'Sec-WebSocket-Key': ''}),
    (400, {'Sec-WebSocket-Key': 'short'}),
    (400, {'Sec-WebSocket-Key': '*' * 24}),
    (400, {'Sec-WebSocket-Key': ['dGhlIHNhbXBsZSBub25jZQ=='] * 2}),
    (400, {'Connection': None}), (400, {'Connection': 'close'}),
    (400, {'Content-Length': '3'}), (400, {'Transfer-Encoding': 'chunked'}),
    (426, {'Upgrade': None}), (426, {'Upgrade': 'nowebsocket'}),
    (426, {'Upgrade': 'websocket2'}), (426, {'Upgrade': ''}),
    (426, {'Sec-WebSocket-Version': None}),
    *((426, {'Sec-WebSocket-Version': version})
      for version in ('0', '8', '14', '-1', '1e1', '\u0661\u0663'.encode())),
    (413, {'X-Long': 'x' * 600_000}),
]


@pytest.mark.parametrize('status, headers', BAD)
def test_a_bad_handshake_gets_its_status(server, status, headers):
    started = time.perf_counter()
    with server.peer('/api', headers=headers) as peer:
        assert peer.status == status
        took_s = time.perf_counter() - started
        assert_refused(peer, status)
    assert took_s < in_time(0.5)


@pytest.mark.parametrize('method, version, status', [
    ('POST', 'HTTP/1.1', 405), ('PUT', 'HTTP/1.1', 405),
    ('OPTIONS', 'HTTP/1.1', 405),
    ('GET', 'HTTP/1.0', 426), ('GET', 'HTTP/2.0', 505),
])
def test_a_handshake_is_a_get_of_http_1_1(server, method, version, status):
    with server.peer('/api', method=method, version=version) as peer:
        assert_refused(peer, status)


@pytest.mark.parametrize('headers', [
    {'Sec-WebSocket-Extensions': 'constructor, __proto__'},
    {'Sec-WebSocket-Extensions': 'permessage-deflate; x="'},
    {'Sec-WebSocket-Extensions': ',' * 1000},
    {f'X-{number}': 'x' for number in range(2000)},
    {'X-Long': 'x' * 400_000},
    {'Cookie': 'a=b; ' * 1000}, {'Upgrade': 'h2c, WebSocket'},
    {'Connection': 'keep-alive, Upgrade'},
])
def test_what_is_merely_odd_is_let_in(server, headers):
    with server.peer('/api', headers=headers) as peer:
        assert 'sec-websocket-extensions' not in peer.headers
        assert_served(peer)


def test_the_version_that_would_do_is_told(server):
    with server.peer('/api', headers={'Sec-WebSocket-Version': '8'}) as peer:
        assert peer.headers['sec-websocket-version'] == '13'
        assert peer.headers['upgrade'] == 'websocket'


# A7

@pytest.mark.parametrize('path, offered, expected', [
    ('/api', 'jsonrpc', 'jsonrpc'), ('/api', 'x, wsrpc2, wsrpc1', 'wsrpc2'),
    ('/api', ['wsrpc1', 'wsrpc2'], 'wsrpc1'), ('/api', 'chat', None),
    ('/named', 'chat, wsrpc1', 'chat'), ('/named', 'wsrpc1,chat', 'wsrpc1'),
])
def test_exactly_one_subprotocol_is_chosen(server, path, offered, expected):
    headers = {'Sec-WebSocket-Protocol': offered}
    with server.peer(path, headers=headers) as peer:
        assert peer.status == 101
        assert peer.headers.get('sec-websocket-protocol') == expected


def test_a_frame_in_the_requests_segment_is_served(server):
    for path in ('/api', '/cpstats', '/sessions_implicit'):
        with server.peer(path, early=client_frame(TEXT, PING)) as peer:
            assert peer.recv_json()['result'] == 'pong'


def test_a_reset_right_after_the_upgrade_leaves_nothing(server):
    # The fixture ``nothing_left`` counts the sockets.
    request = request_head('GET', '/api', 'HTTP/1.1', {
        'Host': 'localhost', 'Upgrade': 'websocket', 'Connection': 'Upgrade',
        'Sec-WebSocket-Version': '13',
        'Sec-WebSocket-Key': 'dGhlIHNhbXBsZSBub25jZQ=='})
    for number in range(1000):
        sock = connect(server.port, timeout_s=5)
        sock.sendall(request)
        if number % 4 == 0:
            sock.recv(1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                        struct.pack('ii', 1, 0))
        sock.close()
    with server.peer('/api') as peer:
        assert_served(peer)
    wait_until(lambda: len(cherrypy.engine.wsrpc.manager) == 0)


# Sessions

@pytest.mark.parametrize('path', [
    '/sessions_implicit', '/sessions_early', '/sessions_explicit', '/files'])
def test_the_session_of_a_handshake_is_stored_and_not_locked(server, path):
    with server.peer(path) as first:
        cookie = first.headers['set-cookie'].split(';')[0]
        assert first.status == 101
        with server.peer(path, headers={'Cookie': cookie}) as second:
            assert second.status == 101
            assert second.headers['set-cookie'].split(';')[0] == cookie


# Where there is no socket, and where there is no room

def test_without_cheroot_the_answer_is_501_with_a_line(server):
    environ = {'wsgi.input': io.BytesIO(), 'PATH_INFO': '/api',
               'HTTP_UPGRADE': 'websocket', 'HTTP_CONNECTION': 'Upgrade',
               'HTTP_SEC_WEBSOCKET_VERSION': '13',
               'HTTP_SEC_WEBSOCKET_KEY': 'dGhlIHNhbXBsZSBub25jZQ==',
               'SERVER_PROTOCOL': 'HTTP/1.1', 'HTTP_HOST': 'localhost'}
    setup_testing_defaults(environ)
    answers = []
    response = cherrypy.tree(
        environ, lambda status, headers, exc=None: answers.append(status))
    body = b''.join(response)
    response.close()
    assert answers == ['501 Not Implemented']
    assert b'mod_wsgi' in body
    assert server.logged('handshake answered 501')


def test_nobody_who_listens_is_a_closed_socket_and_a_line(server):
    listeners = cherrypy.engine.listeners['handle-websocket']
    kept = set(listeners)
    listeners.clear()
    try:
        with server.peer('/api') as peer:
            assert peer.status == 101
            assert peer.recv_eof() == b''
    finally:
        listeners.update(kept)
    wait_until(lambda: server.logged('could not be handed over'))


# What the log says

@pytest.mark.parametrize('path, headers, line', [
    ('/api', {'Origin': 'https://127.0.0.1'},
     '403: refused Origin https://127.0.0.1 (this server thinks it is'
     ' http://127.0.0.1): set tools.proxy.on with X-Forwarded-Proto, or'
     " tools.wsrpc.origins = ['https://127.0.0.1']"),
    ('/api', {'Host': 'my.example'}, "set tools.wsrpc.hosts = ['my.example']"),
    ('/api', {'Upgrade': None, 'Connection': 'close'},
     '426: a proxy dropped Upgrade'),
    ('/redirect', {}, '303: a tool, hook or page of the application'
     ' answered so, with Location '),
    ('/basic', {}, '401: a tool, hook or page of the application'),
])
def test_every_refusal_leaves_the_line_to_paste(server, path, headers,
                                                line):
    logs.limited.__self__._causes.clear()
    server.log_lines.clear()
    with server.peer(path, headers={'Host': '127.0.0.1', **headers}):
        wait_until(lambda: server.logged(line))


def test_many_refusals_are_one_line_of_printable_text(server):
    server.log_lines.clear()
    headers = {'Origin': 'x\x1b[2J\t' + 'y' * 9000}
    for _ in range(30):
        with server.peer('/api', headers=headers):
            pass
    lines = server.logged('handshake answered 403')
    assert len(lines) <= 2
    assert all(line.isprintable() and len(line) < 600 for line in lines)
