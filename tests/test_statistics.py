"""``logging.statistics['cp_wsrpc']``, the pages of cpstats, the log lines."""
from __future__ import annotations

import contextlib
import html
import json
import re
import threading
import time
from types import SimpleNamespace
from urllib.parse import urlencode

import cherrypy
import pytest
from cherrypy.lib import cpstats

import cp_wsrpc
from cp_wsrpc import closing, expose, invocation, nonblocking
from cp_wsrpc.errors import CloseCode, Overloaded
from cp_wsrpc.fanout import MAX_EVENTS
from cp_wsrpc.ioloop import IOLoop
from cp_wsrpc.logs import MAX_CAUSES
from cp_wsrpc.messages import Call
from cp_wsrpc.registry import Method
from cp_wsrpc.statistics import Statistics, Stretch, tally_of

from .apps import Gate, Root, failure_of, request, result, serving_api
from .apps import settle, take_call
from .rawpeer import CLOSE, TEXT, client_frame
from .serving import serving, wait_until


def read():
    return cherrypy.engine.wsrpc.statistics()


def counts(collection):
    return {key: record['Count'] for key, record in collection.items()}


def wait_for(name, value):
    return wait_until(lambda: read()[name] == value,
                      what=f'{name} {value!r}, with {read()}')


# -- counting, without a server


def a_call(statistics, name='add', path='/api', code=None):
    call = Call(1, name, None, None)
    call.method = Method(name, lambda: None)
    call.connection = SimpleNamespace(
        hub=SimpleNamespace(statistics=statistics),
        endpoint=SimpleNamespace(url_path=path))
    return call


def in_threads(count, run):
    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)


def test_many_threads_lose_no_count_and_ended_ones_leave_nothing():
    statistics = Statistics()
    call = a_call(statistics)
    start = threading.Barrier(8)

    def run():
        tallies = {}
        start.wait(5)
        for _ in range(5000):
            tally_of(call, tallies).note(1, 0.5)
            statistics.count_failure(call, -32000, ran=True)

    in_threads(8, run)
    in_threads(8, run)
    assert statistics.methods() == {'/api add': {
        'Count': 80_000, 'Errors': 80_000, 'Not Run': 0, 'Sum': 40_000.0,
        'Max': 0.5, 'Avg': 0.5}}
    assert not statistics._tallies and not statistics._threads


def test_the_same_name_at_two_endpoints_is_counted_apart():
    statistics, tallies = Statistics(), {}
    tally_of(a_call(statistics, path='/a'), tallies).note(1, 1.0)
    tally_of(a_call(statistics, path='/b'), tallies).note(2, 3.0)
    # What graceful made anew is the same method to who reads.
    tally_of(a_call(statistics, path='/b'), tallies).note(1, 2.0)
    assert {name: (record['Count'], record['Sum'], record['Max'])
            for name, record in statistics.methods().items()} == {
        '/a add': (1, 1.0, 1.0), '/b add': (3, 5.0, 3.0)}


def test_calls_of_one_read_are_timed_together():
    statistics = Statistics()
    add, sub = a_call(statistics), a_call(statistics, 'sub')
    stretch = Stretch({})
    begun = time.monotonic()
    for call in [add, add, sub, sub, sub, add]:
        if stretch.method is not call.method:
            stretch.begin(call)
        stretch.calls += 1
    stretch.end()
    stretch.end()                       # harmless
    took_s = time.monotonic() - begun
    methods = statistics.methods()
    assert counts(methods) == {'/api add': 3, '/api sub': 3}
    assert sum(record['Sum'] for record in methods.values()) <= took_s
    assert all(0 <= record['Max'] <= record['Sum']
               for record in methods.values())


def test_what_a_peer_can_choose_makes_a_bounded_number_of_keys():
    statistics = Statistics()
    out = SimpleNamespace(sent_frames=0, sent_bytes=0)
    for code in range(1 << 16):
        statistics.count_closed(code, 0, out)
    call = a_call(statistics)
    call.method = None
    for code in [*range(-40_000, 40_000, 7), -32601, 2 ** 70, 'x', None,
                 True]:
        statistics.count_failure(call, code, ran=False)
    closes = statistics._collect(statistics._closes)
    assert closes['1001'] == {'Count': 1}
    assert closes['4xxx'] == {'Count': 1000 - sum(
        4000 <= code < 5000 for code in CloseCode)}
    assert len(closes) < 100
    codes = statistics._collect(statistics._codes)
    assert codes['-32601']['Count'] == 2 and codes['other']['Count'] > 4
    assert len(codes) < 1500
    assert statistics.methods() == {}


def test_pushes_that_the_loop_cannot_take_are_counted():
    io = IOLoop()
    for _ in range(MAX_EVENTS):
        io.fan_out(lambda: (), 3)
    with pytest.raises(Overloaded):
        io.fan_out(lambda: (), 3)
    assert io.backlog == (MAX_EVENTS, 3 * MAX_EVENTS)
    assert io.counters['pushes'] == MAX_EVENTS
    assert io.counters['pushes_refused'] == 1


# -- a server


class Api:
    def __init__(self):
        self.gate = Gate()

    @expose
    def add(self, a: int, b: int):
        return a + b

    @expose
    @nonblocking
    def ping(self):
        return 'pong'

    @expose
    async def later(self):
        return 'later'

    @expose
    def boom(self):
        raise KeyError('secret\r\n\x1b[31m' + 'x' * 1000)

    @expose
    def flood(self):
        self.boom()

    @expose
    def hold(self):
        return self.gate.enter()

    @expose
    def ask(self):
        return cp_wsrpc.connection.call('confirm').result(5)


@pytest.fixture
def server():
    with serving_api(Api()) as server:
        yield server


def test_calls_are_counted_by_method(server):
    with server.peer('/api') as peer:
        for _ in range(3):
            assert peer.call('add', [1, 2]) == 3
            assert peer.call('ping') == 'pong'
            assert peer.call('later') == 'later'
        peer.send_json([request('ping', id=i) for i in range(5)])
        assert len(peer.recv_json()) == 5
        peer.send_json({'jsonrpc': '2.0', 'method': 'ping'})
        for method, params, code in [
                ('boom', None, -32000), ('add', ['x', 1], -32602),
                ('ping', [1], -32602), ('later', [1], -32602),
                ('nope', None, -32601), ('__class__', None, -32601),
                ('rpc.subscribe', ['news'], -32012)]:
            assert failure_of(peer, method, params)[0] == code
        wait_until(lambda: read()['Methods']['/api later']['Count'] == 4)
        found = read()
    assert {name: (record['Count'], record['Errors'], record['Not Run'])
            for name, record in found['Methods'].items()} == {
        '/api add': (4, 1, 0), '/api ping': (10, 1, 0),
        '/api later': (4, 1, 1), '/api boom': (1, 1, 0)}
    assert found['Calls'] == 19 and found['Calls/Second'] > 0
    assert found['Errors'] == 7
    assert counts(found['Errors by Code']) == {
        '-32000': 1, '-32602': 3, '-32601': 2, '-32012': 1}
    for record in found['Methods'].values():
        assert 0 < record['Max'] <= record['Sum'] < 5 or record['Sum'] == 0
        assert record['Avg'] <= record['Max']


def test_no_call_of_many_connections_is_lost(server):
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(server.peer('/api')) for _ in range(8)]
        burst = b''.join(client_frame(TEXT, json.dumps(request(
            ('add', 'ping', 'later')[i % 3], [1, 2] if i % 3 == 0 else None,
            i)).encode()) for i in range(60))
        for _ in range(10):
            for peer in peers:
                peer.send_raw(burst)
            for peer in peers:
                for _ in range(60):
                    peer.recv_json()
    wait_for('Calls', 8 * 600)
    assert counts(read()['Methods']) == dict.fromkeys(
        ['/api add', '/api ping', '/api later'], 8 * 200)


def test_the_seconds_are_those_of_the_method():
    api = Api()
    with serving_api(api) as server, server.peer('/api') as peer:
        begun = time.monotonic()
        peer.send_json(request('hold', id=1))
        peer.send_json(request('hold', id=2))
        api.gate.wait_entered(2)
        entered = time.monotonic()
        api.gate.open()
        least = time.monotonic() - entered
        peer.recv_json(), peer.recv_json()
        most = time.monotonic() - begun
        record = read()['Methods']['/api hold']
    rounding = 1e-5
    assert 2 * least <= record['Sum'] + rounding
    assert least <= record['Max'] + rounding <= most + 2 * rounding
    assert record['Max'] <= record['Sum'] <= 2 * record['Max'] + rounding


def test_bytes_and_messages_are_those_on_the_wire(server):
    with server.peer('/api') as peer:
        call = json.dumps(request('add', [1, 2], 7)).encode()
        reply = len(b'{"jsonrpc":"2.0","id":7,"result":3}') + 2
        frames = [client_frame(TEXT, call)] * 20
        for frame in frames:
            peer.send_raw(frame)
            assert peer.recv_json() == result(7, 3)
        # The peer may have the last reply before its sender has noted it.
        wait_for('Bytes Out', 20 * reply)
        found = read()
        assert found['Bytes In'] == sum(map(len, frames))
        assert found['Messages In'] == found['Messages Out'] == 20
        cp_wsrpc.broadcast('notify', 'x')
        push = len(peer.recv_frame()[1]) + 2
        close = client_frame(CLOSE, b'\x03\xe8')
        peer.send_raw(close)
        assert peer.recv_close() == (1000, '')
        peer.drop()
    wait_for('Connections Open', 0)
    found = read()
    assert found['Bytes In'] == sum(map(len, frames)) + len(close)
    assert found['Bytes Out'] == 20 * reply + push + 4
    assert (found['Messages In'], found['Messages Out']) == (20, 22)
    assert (found['Pushes'], found['Pushes Delivered']) == (1, 1)


def test_connections_are_counted_by_how_they_ended(server):
    for code in (1000, 1000, 1001, 4999, None):
        with server.peer('/api') as peer:
            assert peer.call('ping') == 'pong'
            assert read()['Connections Open'] == 1
            if code:
                peer.send_frame(CLOSE, code.to_bytes(2, 'big'))
                peer.recv_close()
        wait_for('Connections Open', 0)
    found = read()
    assert found['Connections Opened'] == found['Connections Closed'] == 5
    assert counts(found['Closed by Code']) == {
        '1000': 2, '1001': 1, '4xxx': 1, '1006': 1}


def test_what_is_no_call_is_counted_apart(server):
    with server.peer('/api') as peer:
        peer.send_text('no json')
        assert peer.recv_json()['error']['code'] == -32700
        peer.send_json(result(2, 'an answer that nobody waits for'))
        assert peer.call('ping') == 'pong'
    found = read()
    assert (found['Bad Messages'], found['Ignored Replies']) == (1, 1)
    assert found['Errors'] == 0


def test_the_queue_and_the_threads_of_the_pool_are_shown():
    api = Api()
    with serving_api(api, engine={'wsrpc.thread_pool': 2}) as server, \
            server.peer('/api') as peer, server.peer('/api') as other:
        peer.send_json(request('ask'))
        call = take_call(peer, 'confirm')
        wait_for('Threads Lent', 1)
        assert read()['Threads'] == 3
        for id in (2, 3, 4):
            peer.send_json(request('hold', id=id))
            other.send_json(request('hold', id=id))
        api.gate.wait_entered(2)
        wait_for('Calls Waiting', 4)
        api.gate.open()
        settle(peer, call, True)
        for _ in range(3):
            peer.recv_json(), other.recv_json()
        peer.recv_json()
        wait_for('Threads Lent', 0)
        wait_for('Calls', 7)


def test_a_peer_that_never_reads_is_seen_and_then_counted(monkeypatch):
    monkeypatch.setattr(closing, 'SHED_TIMEOUT_S', 0.2)
    options = {'out_max_bytes': 60_000}
    with serving_api(Api(), options) as server, \
            server.peer('/api', receive_buffer=4096) as peer:
        assert peer.call('ping') == 'pong'

        def push():
            cp_wsrpc.broadcast('notify', 'x' * 50_000)
            return read()['Slow Reader Bytes'] > 0

        wait_until(push)
        assert read()['Slow Readers'] == 1
        cp_wsrpc.broadcast('notify', 'x' * 50_000)
        cp_wsrpc.broadcast('notify', 'x' * 50_000)
        wait_for('Slow Readers Dropped', 1)
        wait_for('Connections Open', 0)
        assert counts(read()['Closed by Code']) == {'4408': 1}
        assert read()['Slow Readers'] == 0


# -- handshakes


@pytest.mark.parametrize('headers, key', [
    ({'Origin': 'http://evil'}, '403 origin'),
    ({'Host': 'evil'}, '403 host'),
    ({'Sec-WebSocket-Version': '8'}, '426 form'),
    ({'Sec-WebSocket-Key': 'short'}, '400 form'),
    ({'X-Guard': 'no'}, '401 application'),
])
def test_refused_handshakes_are_counted_by_cause(headers, key):
    def guard():
        if 'X-Guard' in cherrypy.serving.request.headers:
            raise cherrypy.HTTPError(401)

    cherrypy.tools.test_guard = cherrypy.Tool('before_handler', guard)
    try:
        with serving_api(Api(), {'tools.test_guard.on': True}) as server:
            with server.peer('/api', headers=headers) as peer:
                assert str(peer.status) == key[:3]
            wait_for('Handshakes Refused', 1)
            assert counts(read()['Refusals']) == {key: 1}
            assert read()['Connections Opened'] == 0
    finally:
        del cherrypy.tools.test_guard


def test_the_question_of_a_refused_client_is_no_handshake():
    with serving_api(Api()) as server:
        assert server.http('/api', method='POST', headers={
            'Origin': 'http://evil'}).status == 403
        assert server.http('/api').status == 426
    assert read()['Handshakes Refused'] == 0    # all threads have ended


def test_too_many_connections_are_counted_so():
    with serving_api(Api(), engine={'wsrpc.max_connections': 1}) as server, \
            server.peer('/api') as peer:
        assert peer.call('ping') == 'pong'
        with server.peer('/api') as other:
            assert other.status == 503
        wait_for('Handshakes Refused', 1)
        assert counts(read()['Refusals']) == {'503 too many connections': 1}


# -- start and stop


def test_figures_outlive_a_stop_and_begin_anew_with_a_start(server):
    plugin = cherrypy.engine.wsrpc
    with server.peer('/api') as peer:
        assert peer.call('ping') == 'pong'
        assert peer.call('add', [1, 2]) == 3
    wait_for('Connections Open', 0)
    plugin.stop()
    stopped = read()
    assert stopped['Calls'] == 2 and stopped['Connections Closed'] == 1
    assert stopped['Threads'] == 0
    plugin.start()
    begun = read()
    assert begun['Start Time'] > stopped['Start Time']
    assert {name for name, value in begun.items() if value} == {
        'Enabled', 'Start Time', 'Uptime', 'Threads'}
    with server.peer('/api') as peer:
        assert peer.call('ping') == 'pong'
        assert counts(read()['Methods']) == {'/api ping': 1}
        assert len(plugin.manager.cell.tallies) == 1


def test_graceful_goes_on_counting(server):
    with server.peer('/api') as peer:
        for round in (1, 2, 3):
            assert peer.call('ping') == 'pong'
            assert peer.call('add', [1, 2]) == 3
            cherrypy.engine.wsrpc.graceful()
            with server.peer('/api') as other:
                assert other.call('ping') == 'pong'
            assert counts(read()['Methods']) == {
                '/api ping': 2 * round, '/api add': round}
            # Of the methods that it replaced nothing is kept.
            assert len(cherrypy.engine.wsrpc.manager.cell.tallies) == 1


# -- cpstats


class RootWithPage(Root):
    cpstats = cpstats.StatsPage()


@pytest.fixture
def page_server():
    with serving(RootWithPage(api=Api()),
                 {'/api': {'tools.wsrpc.on': True}}) as server, \
            server.peer('/api') as peer:
        assert peer.call('add', [1, 2]) == 3
        with server.peer('/api', headers={'Origin': 'http://evil'}):
            wait_for('Handshakes Refused', 1)
        server.connected = peer
        yield server


def test_the_page_of_cpstats_shows_it(page_server):
    answer = page_server.http('/cpstats/')
    assert answer.status == 200
    text = html.unescape(answer.body.decode())
    assert '<h1>cp_wsrpc</h1>' in text
    assert re.search(r"id='cp_wsrpc-Connections Open'>1<", text)
    for collection in ('Methods', 'Closed by Code', 'Refusals',
                       'Errors by Code'):
        assert f'<h2>{collection}</h2>' in text
    assert '<td>/api add</td>' in text and '<td>403 origin</td>' in text


def test_the_data_of_cpstats_are_what_the_plugin_says(page_server):
    answer = page_server.http('/cpstats/data')
    shown = json.loads(answer.body)['cp_wsrpc']
    said = read()
    for moving in ('Uptime', 'Calls/Second'):
        assert 0 < shown.pop(moving) != said.pop(moving)
    assert shown == said


def test_pause_and_resume_of_cpstats_stop_the_counting_of_calls(page_server):
    peer = page_server.connected

    def press(button):
        answer = page_server.http(
            f'/cpstats/{button}?' + urlencode({'namespace': 'cp_wsrpc'}),
            method='POST', headers={'Content-Length': '0'})
        assert answer.status == 303
        page_server.http('/cpstats/')

    try:
        press('pause')
        for _ in range(2):
            assert peer.call('add', [1, 2]) == 3
            assert peer.call('ping') == 'pong'
            assert failure_of(peer, 'boom')[0] == -32000
        assert counts(read()['Methods']) == {'/api add': 1}
        assert read()['Errors'] == 0
    finally:
        press('resume')
    assert peer.call('add', [1, 2]) == 3
    assert peer.call('ping') == 'pong'
    assert counts(read()['Methods']) == {'/api add': 2, '/api ping': 1}


# -- log lines


def test_a_connection_has_a_line_at_its_opening_and_one_at_its_end(server):
    with server.peer('/api') as peer:
        peer.call('ping')
        port = peer.sock.getsockname()[1]
        peer.send_frame(CLOSE, b'\x03\xe8' + 'bye\r\n\u202e'.encode())
        peer.recv_close()
    wait_for('Connections Open', 0)
    opened, = server.logged('opened')
    closed, = server.logged('closed')
    assert re.fullmatch(rf'cp_wsrpc\.\w+ INFO #\d+ 127\.0\.0\.1:{port} '
                        'opened: /api', opened)
    assert re.fullmatch(
        rf'cp_wsrpc\.\w+ INFO #\d+ 127\.0\.0\.1:{port} closed: 1000 '
        r'bye\\r\\n\\u202e \(sent 1000\), \d+\.\d s, 1 messages in', closed)


def test_an_address_from_a_header_cannot_forge_a_line():
    with serving_api(Api(), {'tools.proxy.on': True}) as server:
        forged = '10.0.0.1\x1b[31m' + 'x' * 500
        with server.peer('/api', headers={'X-Forwarded-For': forged}) as peer:
            assert peer.status == 101
            peer.call('ping')
        wait_for('Connections Open', 0)
        lines = server.logged('opened') + server.logged('closed')
        assert len(lines) == 2
        for line in lines:
            assert '10.0.0.1\\x1b' in line
            assert line.isprintable() and len(line) < 400


def test_a_flood_of_errors_is_a_line_a_second(server):
    burst = b''.join(client_frame(TEXT, json.dumps(request(
        'flood', None, i)).encode()) for i in range(100))
    begun = time.monotonic()
    with server.peer('/api') as peer:
        for _ in range(20):
            peer.send_raw(burst)
            for _ in range(100):
                assert 'error' in peer.recv_json()
    took_s = time.monotonic() - begun
    lines = server.logged('WSRPC flood')
    assert 1 <= len(lines) <= took_s + 1
    assert read()['Methods']['/api flood']['Errors'] == 2000
    assert len(invocation._limiter._causes) <= MAX_CAUSES
