"""How everything ends: exits from anywhere, SIGTERM, restart.

Pitfalls 18, 21, 25 and 26, threats D4 and D5.  ``tests.stopping_app`` runs
as a process of its own: an exit code is what it is about.
"""
from __future__ import annotations

import contextlib
import signal
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import cherrypy
import pytest

import cp_wsrpc
from cp_wsrpc import expose, shutdown

from .attack import FULL
from .processes import spawn
from .rawpeer import CLOSE, CallFailed, PeerClosed, RawPeer, http_request
from .serving import free_port, serving, wait_until


@contextlib.contextmanager
def stopping_app(*options):
    port = free_port()
    with spawn('tests.stopping_app', str(port), *options,
               ready='Ready in') as process:
        yield port, process


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """In this process, wait less for what never comes."""
    monkeypatch.setattr(shutdown, 'CLOSE_TIMEOUT_S', 0.5)
    monkeypatch.setattr(shutdown, 'HOOKS_WAIT_S', 0.3)
    monkeypatch.setattr(shutdown, 'POOL_WAIT_S', 0.2)


def connect(stack, port, path='/api', **options):
    """A peer that the loop has adopted."""
    peer = stack.enter_context(RawPeer(port, path, timeout_s=20, **options))
    if path == '/ws':
        assert peer.recv_text() == 'Welcome!'
    else:
        peer.call('ping')
    return peer


def request(method, *params, id=1):
    return {'jsonrpc': '2.0', 'method': method, 'params': list(params),
            'id': id}


def answer_close(peer):
    """Read up to the Close, answer it and go.

    Returns (messages, (code, reason)).
    """
    messages = []
    while True:
        try:
            messages.append(peer.recv_json())
        except PeerClosed as closed:
            if closed.code is not None:
                with contextlib.suppress(OSError):
                    peer.send_frame(CLOSE, struct.pack('!H', closed.code))
                    peer.recv_eof()
            peer.drop()
            return messages, (closed.code, closed.reason)


# -- exits -----------------------------------------------------------------


@pytest.mark.parametrize('method', ['exit', 'exit_nonblocking',
                                    'exit_async'])
def test_a_call_may_end_the_process(method):
    with stopping_app() as (port, process):
        with contextlib.ExitStack() as stack:
            peer, plain = connect(stack, port), connect(stack, port, '/ws')
            peer.call('seat')
            peer.send_json(request(method))
            begun = time.monotonic()
            assert answer_close(peer)[1] == (1001, 'going away')
            assert answer_close(plain)[1] == (1001, 'going away')
            assert process.wait(10) == 0
            assert time.monotonic() - begun < 3
        lines = process.output.splitlines()
        for line in ('closed 1001 ', 'on_close 1001 ', 'Route.closed'):
            assert sum(told.startswith(line) for told in lines) == 1, line
        assert 'Traceback' not in process.output


def test_a_plain_handler_may_end_the_process():
    with stopping_app() as (port, process):
        with contextlib.ExitStack() as stack:
            plain = connect(stack, port, '/ws')
            begun = time.monotonic()
            plain.send_text('exit')
            assert answer_close(plain)[1] == (1001, 'going away')
            assert process.wait(10) == 0
            assert time.monotonic() - begun < 4
        assert process.output.count('closed 1001 ') == 1
        assert 'Traceback' not in process.output


def test_a_page_handler_may_end_the_process():
    with stopping_app() as (port, process):
        with contextlib.ExitStack() as stack:
            plain = connect(stack, port, '/ws')
            pool = stack.enter_context(ThreadPoolExecutor(1))
            answer = pool.submit(http_request, port, '/exit')
            assert answer_close(plain)[1] == (1001, 'going away')
            assert answer.result(10).status in (200, 503)
            assert process.wait(10) == 0
        assert 'Traceback' not in process.output


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_at_once_where_nothing_is_in_flight(number):
    with stopping_app() as (port, process):
        with contextlib.ExitStack() as stack:
            peers = [connect(stack, port, path)
                     for path in ('/api', '/ws') for _ in range(10)]
            begun = time.monotonic()
            process.send_signal(number)
            for peer in peers:
                assert answer_close(peer)[1] == (1001, 'going away')
            assert process.wait(10) == 0
            assert time.monotonic() - begun < 3
        assert process.output.count('closed 1001') == 10


def test_sigterm_under_load_flushes_replies_and_ends_in_time():
    count, slow, seconds = (1000, 100, 5) if FULL else (100, 20, 0.6)
    options = () if FULL else ('engine.wsrpc.drain_timeout_s=1.5',)
    with stopping_app('engine.wsrpc.thread_pool=100', *options) as (
            port, process), contextlib.ExitStack() as stack:
        idle = [connect(stack, port) for _ in range(count)]
        deaf = [connect(stack, port, receive_buffer=4096) for _ in range(10)]
        for peer in deaf[:5]:       # with output that they do not take
            peer.send_json(request('big', 3_000_000))
        callers = [connect(stack, port) for _ in range(slow)]
        stuck = connect(stack, port)
        stuck.send_json(request('forever'))
        for number, peer in enumerate(callers):
            peer.send_json(request(
                'sleep_async' if number % 4 == 0 else 'sleep', seconds))
        for peer in callers:        # what was sent before it has begun
            assert peer.call('ping') == 'pong'
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        answers = [answer_close(peer) for peer in callers]
        closings = [answer_close(peer)[1] for peer in idle]
        code = process.wait(20)
        took = time.monotonic() - begun
        print(f'{took:.1f} s')
        assert code == 0
        assert took < 14 if FULL else took < 7
        for messages, closing in answers:
            assert [m['result'] for m in messages] == ['slept']
            assert closing == (1001, 'going away')
        assert closings == [(1001, 'going away')] * count
        assert all(peer.sock.fileno() > 0 for peer in deaf)
        assert 'calls still run after' in process.output


def test_a_reset_while_draining_ends_a_connection_once():
    """Threats D3: the state that ends the process."""
    with stopping_app('engine.wsrpc.thread_pool=20') as (
            port, process), contextlib.ExitStack() as stack:
        peers = [connect(stack, port) for _ in range(10)]
        for number, peer in enumerate(peers):
            peer.call('seat')
            peer.send_json(request(
                'sleep_async' if number % 2 else 'sleep', 0.7))
        for peer in peers:
            assert peer.call('ping') == 'pong'
        stayer = connect(stack, port)
        stayer.send_json(request('ask'))
        asked = stayer.recv_json()
        process.send_signal(signal.SIGTERM)
        process.wait_for('Closing 11 WebSockets')
        for peer in peers:
            peer.reset()
        stayer.send_json({'jsonrpc': '2.0', 'id': asked['id'],
                          'result': None})
        assert answer_close(stayer)[1] == (1001, 'going away')
        assert process.wait(10) == 0
        lines = process.output.splitlines()
        for what in ('on_close 1006', 'Route.closed'):
            assert sum(line.startswith(what) for line in lines) == 10, what
        assert 'Traceback' not in process.output


def test_a_method_that_holds_a_cpu_ends_with_the_process():
    with stopping_app('engine.wsrpc.drain_timeout_s=0.2') as (port, process):
        with RawPeer(port, '/api') as peer:
            peer.send_json(request('spin'))
            peer.send_json(request('ping', id=2))
            peer.recv_json()
            process.send_signal(signal.SIGTERM)
            assert answer_close(peer)[1] == (1001, 'going away')
            assert process.wait(10) == 0


def test_a_method_that_waits_for_its_client_is_set_free():
    with stopping_app('engine.wsrpc.drain_timeout_s=0.2') as (port, process):
        with RawPeer(port, '/api') as peer:
            peer.send_json(request('ask'))
            assert peer.recv_json()['method'] == 'never'
            begun = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert answer_close(peer)[1] == (1001, 'going away')
            assert process.wait(10) == 0
            assert time.monotonic() - begun < 4


def test_a_restart_says_so_and_comes_back():
    with stopping_app() as (port, process):
        with RawPeer(port, '/api') as peer:
            pid = peer.call('pid')
            assert pid == process.pid
            peer.call('seat')
            with RawPeer(port, '/ws') as plain:
                assert plain.recv_text() == 'Welcome!'
                peer.send_json(request('restart'))
                assert answer_close(peer)[1] == (1012, 'restarting')
                assert answer_close(plain)[1] == (1012, 'restarting')
        wait_until(lambda: process.output.count('Ready in') == 2, 10)
        lines = process.output.splitlines()
        for line in ('closed 1012 ', 'on_close 1012 ', 'Route.closed'):
            assert sum(told.startswith(line) for told in lines) == 1, line
        with RawPeer(port, '/api') as peer:
            assert peer.call('ping') == 'pong'
            assert peer.call('pid') == pid      # execv: the same process
        assert process.terminate() == 0


# -- the drain, in this process --------------------------------------------


class Gate:
    """Methods that stay until the test lets them go."""

    def __init__(self):
        self.begun = threading.Semaphore(0)
        self.go_on = threading.Event()

    @expose
    def stay(self, name):
        self.begun.release()
        assert self.go_on.wait(20)
        return name

    @expose
    def ping(self):
        return 'pong'

    @expose
    async def stay_async(self, name):
        import asyncio
        self.begun.release()
        while not self.go_on.is_set():
            await asyncio.sleep(0.01)       # slow on purpose
        return name

    @expose
    def look(self):
        self.begun.release()
        assert cherrypy.engine.wsrpc.stopping.wait(20)
        return 'I stop'


@pytest.fixture
def drain():
    """``drain()`` begins to stop the engine, in a thread of its own."""
    threads = []

    def begin():
        thread = threading.Thread(target=cherrypy.engine.stop)
        thread.start()
        threads.append(thread)
        wait_until(lambda: cherrypy.engine.wsrpc.hub is None
                   or cherrypy.engine.wsrpc.hub.draining)
        return thread

    yield begin
    for thread in threads:
        thread.join(15)
        assert not thread.is_alive()


def gated(gate, **engine):
    class Root:
        api = gate

    return serving(Root(), {'/api': {
        'tools.wsrpc.on': True, 'tools.wsrpc.max_calls_per_connection': 1}},
        engine={f'wsrpc.{name}': value for name, value in engine.items()})


@pytest.mark.parametrize('method', ['stay', 'stay_async'])
def test_while_draining_only_what_runs_goes_on(drain, method):
    gate = Gate()
    with gated(gate) as server, server.peer('/api') as peer:
        peer.send_json(request(method, 'running', id=1))
        assert gate.begun.acquire(timeout=5)
        peer.send_json(request(method, 'waiting', id=2))
        connection = cp_wsrpc.connections()[0]
        wait_until(lambda: len(connection.conversation.running) == 2)
        drain()
        refused = peer.recv_json()
        assert refused['id'] == 2
        assert refused['error']['code'] == -32011
        assert refused['error']['data'] == {'retryable': True,
                                            'executed': False}
        with pytest.raises(CallFailed) as caught:
            peer.call('ping')
        assert caught.value.code == -32011
        with server.peer('/api') as late:
            assert late.status == 503
        gate.go_on.set()
        assert answer_close(peer) == (
            [{'jsonrpc': '2.0', 'id': 1, 'result': 'running'}],
            (1001, 'going away'))


def test_a_method_can_look_whether_the_engine_stops(drain):
    gate = Gate()
    with gated(gate) as server, server.peer('/api') as peer:
        peer.send_json(request('look'))
        assert gate.begun.acquire(timeout=5)
        drain()
        messages, closing = answer_close(peer)
        assert messages[0]['result'] == 'I stop'
        assert closing == (1001, 'going away')


def test_a_drain_that_is_over_time_loses_the_reply_and_says_so(drain):
    gate = Gate()
    with gated(gate, drain_timeout_s=0.3) as server:
        with server.peer('/api') as peer:
            peer.send_json(request('stay', 'x'))
            assert gate.begun.acquire(timeout=5)
            thread = drain()
            assert answer_close(peer) == ([], (1001, 'going away'))
            thread.join(10)
            assert server.logged('calls still run after 0.3 s')
            gate.go_on.set()


def test_a_reply_on_its_way_is_waited_for(drain):
    gate = Gate()
    with gated(gate) as server, server.peer('/api') as peer:
        peer.send_json(request('stay', 'x'))
        assert gate.begun.acquire(timeout=5)
        [connection] = cp_wsrpc.connections()
        send = connection.send_alone
        taken_out, go_on = threading.Event(), threading.Event()

        def hesitate(frame):
            taken_out.set()
            go_on.wait(5)
            send(frame)

        connection.send_alone = hesitate
        gate.go_on.set()
        assert taken_out.wait(5)        # of running, and not yet sent
        assert not connection.conversation.running
        thread = drain()
        thread.join(0.4)
        assert connection.state.name == 'OPEN'
        go_on.set()
        messages, closing = answer_close(peer)
        assert [m['result'] for m in messages] == ['x']
        assert closing == (1001, 'going away')


@pytest.mark.parametrize('step', ['_close_all', '_abort_all'])
def test_a_handshake_that_ends_while_all_are_closed_hears_why(
        drain, monkeypatch, step):
    """The last moment to be adopted in, and one too late."""
    gate, taken, go_on = Gate(), threading.Event(), threading.Event()
    go_on.set()
    plugin = cherrypy.engine.wsrpc
    adopt, do = plugin._adopt, getattr(shutdown, step)

    def adopt_later(websocket):
        if go_on.is_set():
            adopt(websocket)
        else:
            late.append(websocket)
            taken.set()

    def do_and_adopt(*args):
        do(*args)
        for websocket in late:
            adopt(websocket)

    late = []
    monkeypatch.setattr(plugin, '_adopt', adopt_later)
    monkeypatch.setattr(shutdown, step, do_and_adopt)
    with gated(gate) as server:
        go_on.clear()
        with server.peer('/api') as peer:
            assert taken.wait(5)
            drain()
            assert peer.recv_close() == (1001, 'going away')
            peer.send_frame(CLOSE, struct.pack('!H', 1001))
            assert peer.recv_eof() == b''


class Watched(cp_wsrpc.WebSocket):
    endings = []
    gate = threading.Event()

    def closed(self, code, reason=None):
        Watched.gate.wait(5)
        Watched.endings.append(code)


def test_hooks_run_even_if_the_pool_is_stuck(drain):
    gate = Gate()
    Watched.endings.clear()
    Watched.gate.set()

    class Root:
        api = gate

    with serving(Root(), {
            '/api': {'tools.wsrpc.on': True},
            '/ws': {'tools.wsrpc.on': True,
                    'tools.wsrpc.handler_cls': Watched}},
            engine={'wsrpc.thread_pool': 2,
                    'wsrpc.drain_timeout_s': 0.2}) as server:
        peers = [server.peer('/api') for _ in range(2)]
        for peer in peers:
            peer.send_json(request('stay', 'x'))
            assert gate.begun.acquire(timeout=5)
        peers.append(server.peer('/ws'))
        wait_until(lambda: len(cherrypy.engine.wsrpc.manager) == 3)
        thread = drain()
        for peer in peers:
            answer_close(peer)
            peer.drop()
        thread.join(10)
        assert Watched.endings == [1001]
        gate.go_on.set()


def test_each_stop_closes_what_was_opened_since_the_start_once():
    Watched.endings.clear()
    Watched.gate.set()
    with serving(Gate(), {'/ws': {
            'tools.wsrpc.on': True,
            'tools.wsrpc.handler_cls': Watched}}) as server:
        for number in range(1, 4):
            with server.peer('/ws') as peer:
                wait_until(lambda: len(cherrypy.engine.wsrpc.manager))
                thread = threading.Thread(target=cherrypy.engine.stop)
                thread.start()
                assert answer_close(peer)[1] == (1001, 'going away')
                thread.join(10)
                assert Watched.endings == [1001] * number
                cherrypy.engine.start()


def test_a_hook_that_does_not_return_is_not_waited_for_long(drain):
    Watched.endings.clear()
    Watched.gate.clear()
    with serving(Gate(), {'/ws': {
            'tools.wsrpc.on': True,
            'tools.wsrpc.handler_cls': Watched}}) as server:
        with server.peer('/ws') as peer:
            wait_until(lambda: len(cherrypy.engine.wsrpc.manager))
            begun = time.monotonic()
            thread = drain()
            answer_close(peer)
        thread.join(10)
        assert time.monotonic() - begun < 5
        assert server.logged('hooks of closed connections still run')
        Watched.gate.set()
        wait_until(lambda: Watched.endings == [1001])


def test_peers_that_do_not_answer_the_close_are_cut_off(drain):
    gate = Gate()
    with gated(gate) as server, server.peer('/api') as peer:
        assert peer.call('ping') == 'pong'
        begun = time.monotonic()
        thread = drain()
        assert peer.recv_close() == (1001, 'going away')
        thread.join(10)
        assert 0.4 < time.monotonic() - begun < 5
