"""The harness itself: serving, rawpeer, need, and what conftest watches."""
from __future__ import annotations

import itertools
import pathlib
import re
import socket
import ssl
import threading
import time

import cherrypy
import pytest
from ws4py.websocket import WebSocket

from .need import PROGRAMS, missing
from .need import need as need_tool
from .plain import plain_ws4py
from .rawpeer import (
    PeerClosed,
    RawPeer,
    client_frame,
    http_request,
)
from .serving import free_port, serving, spawn, wait_until

TESTS = pathlib.Path(__file__).parent


class Hello:
    @cherrypy.expose
    def index(self):
        return 'hello'

    @cherrypy.expose
    def fail(self):
        raise KeyError('on purpose')


@pytest.mark.parametrize('tls', [None, 'builtin', 'pyopenssl'])
def test_a_page_is_served_over_http_and_https(tls):
    with serving(Hello(), {'/': {}}, script_name='/app', tls=tls) as server:
        answer = server.http('/app/')
        assert (answer.status, answer.body) == (200, b'hello')
        assert server.url('/app/').startswith('https' if tls else 'http:')
        assert server.http('/').status == 404


def test_a_client_without_the_ca_does_not_trust_the_server():
    with serving(Hello(), tls='builtin') as server:
        with pytest.raises(ssl.SSLCertVerificationError):
            server.http('/', tls=ssl.create_default_context())


def test_several_applications_stand_in_one_tree():
    with serving(Hello(), apps=[(Hello(), '/two', None)]) as server:
        assert server.http('/two/').body == server.http('/').body


def test_what_cherrypy_logs_can_be_asserted():
    with serving(Hello()) as server:
        assert server.http('/fail').status == 500
        line, = server.logged('on purpose')
        assert line.startswith('cherrypy.error') and 'Traceback' in line


def test_cherrypy_is_left_as_it_was():
    def state():
        bus, server = cherrypy.engine, cherrypy.server
        return (dict(cherrypy.config), dict(cherrypy.tree.apps),
                {**vars(server)}, bus.state, cherrypy.log.screen,
                {name: set(them) for name, them in bus.listeners.items()
                 if them}, bus.autoreload.frequency)

    with serving(Hello()):      # the first start makes the bus's own things
        pass
    before = state()
    with serving(Hello(), engine={'autoreload.frequency': 77},
                 settings={'server.thread_pool': 2,
                           'tools.gzip.on': True}) as server:
        assert cherrypy.engine.autoreload.frequency == 77
        assert cherrypy.server.thread_pool == 2
        assert server.http('/').status == 200
        cherrypy.engine.subscribe('main', lambda: None)
        cherrypy.tree.mount(Hello(), '/late')
    assert state() == before


def test_the_engine_may_be_stopped_and_started_inside():
    with serving(Hello()) as server:
        server.engine.stop()
        server.engine.start()
        assert server.http('/').status == 200
        server.engine.exit()
    with serving(Hello()) as server:
        assert server.http('/').status == 200


def test_starting_and_stopping_is_quick():
    started = time.perf_counter()
    with serving(Hello()):
        pass
    assert time.perf_counter() - started < 1.5


def test_an_http_request_may_be_any_bytes():
    with serving(Hello()) as server:
        answer = server.http(raw=b'nonsense\r\n\r\n')
        assert answer.status == 400


def test_a_refused_upgrade_shows_status_headers_and_body():
    with serving(Hello()) as server, server.peer('/nowhere') as peer:
        assert peer.status == 404
        assert peer.headers['server'].startswith('CherryPy')
        assert b'nowhere' in peer.body


@pytest.mark.parametrize('size', [0, 1, 125, 126, 65535, 65536])
def test_frames_are_those_of_the_websockets_library(size):
    from websockets.frames import Frame, Opcode
    from websockets.streams import StreamReader
    reader = StreamReader()
    payload = bytes(range(256)) * (size // 256 + 1)
    reader.feed_data(client_frame(1, payload[:size], fin=False))
    parsing = Frame.parse(reader.read_exact, mask=True)
    with pytest.raises(StopIteration) as done:
        next(parsing)
    frame = done.value.value
    assert (frame.opcode, bytes(frame.data), frame.fin) == (
        Opcode.TEXT, payload[:size], False)


def test_a_raw_peer_reads_frames_and_the_end():
    with _listening(b'\x81\x02hi' b'\x89\x00' b'\x01\x01"' b'\x80\x01"'
                    b'\x88\x05\x03\xe9bye') as port:
        with RawPeer(port, '/', early=b'\x81\x80abcd') as peer:
            assert peer.status == 101
            assert peer.recv_text() == 'hi'
            assert peer.recv_json() == ''
            assert peer.recv_close() == (1001, 'bye')
            assert peer.recv_eof() == b''
            with pytest.raises(PeerClosed):
                peer.recv_frame()


def test_a_raw_peer_that_waits_in_vain_says_so():
    with _listening(b'\x81') as port, RawPeer(port, '/') as peer:
        peer.timeout_s = 0.05
        with pytest.raises((TimeoutError, PeerClosed)):
            peer.recv_frame()


class Silent:
    @cherrypy.expose
    def index(self):    # plain ws4py sends what it returns after the 101
        return ''


class Upper(WebSocket):
    def received_message(self, message):
        self.send(str(message).upper())


def test_a_raw_peer_speaks_with_plain_ws4py():
    def listeners():
        return {name: set(them) for name, them
                in cherrypy.engine.listeners.items() if them}

    before = listeners()
    config = {'/': {'tools.websocket.on': True,
                    'tools.websocket.handler_cls': Upper}}
    with plain_ws4py(), serving(Silent(), config) as server:
        with server.peer('/') as peer:
            peer.send_text('hello')
            assert peer.recv_text() == 'HELLO'
            assert peer.close(1000, 'bye') == (1000, 'bye')
    assert listeners() == before


class _listening:
    """A server of one connection: 101, ``frames``, end of stream."""

    def __init__(self, frames):
        self.frames = frames

    def __enter__(self):
        self.sock = socket.create_server(('127.0.0.1', 0))
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()
        return self.sock.getsockname()[1]

    def __exit__(self, *exc_info):
        self.thread.join(5)
        self.sock.close()

    def _serve(self):
        from websockets.http11 import Request
        from websockets.server import ServerProtocol
        conn, _ = self.sock.accept()
        with conn:
            protocol = ServerProtocol()
            while not (events := protocol.events_received()):
                protocol.receive_data(conn.recv(4096))
            assert isinstance(events[0], Request)
            protocol.send_response(protocol.accept(events[0]))
            conn.sendall(b''.join(protocol.data_to_send()) + self.frames)
            conn.shutdown(socket.SHUT_WR)
            while conn.recv(4096):
                pass


def test_a_spawned_program_is_read_and_killed(tmp_path):
    program = tmp_path / 'program.py'
    program.write_text('import sys, time\n'
                       'print("Serving on http://127.0.0.1:4321")\n'
                       'print("oh", file=sys.stderr)\n'
                       'time.sleep(600)\n')
    with spawn(program, ready='Serving') as process:
        assert process.port == 4321
        process.wait_for('oh')
    assert process.popen.poll() is not None


def test_a_spawned_program_that_ends_early_shows_what_it_said(tmp_path):
    program = tmp_path / 'program.py'
    program.write_text('print("no such option"); raise SystemExit(3)')
    with pytest.raises(AssertionError, match='no such option'):
        with spawn(program, ready='Serving'):
            pass
    with spawn(program) as process:
        assert process.wait() == 3


def test_waiting_ends_with_a_sentence():
    with pytest.raises(AssertionError, match='a unicorn: still'):
        wait_until(lambda: None, timeout_s=0.01, what='a unicorn')


def test_a_free_port_has_no_listener():
    with pytest.raises(ConnectionRefusedError):
        http_request(free_port())


def test_a_missing_tool_skips_and_fails_where_nothing_may(monkeypatch):
    name = 'npm:no-such-package'
    assert 'no-such-package' in missing(name)
    monkeypatch.delenv('WSRPC_NO_SKIP', raising=False)
    with pytest.raises(pytest.skip.Exception):
        need_tool(name)
    monkeypatch.setenv('WSRPC_NO_SKIP', '1')
    with pytest.raises(pytest.fail.Exception, match='no-such-package'):
        need_tool(name)


def test_every_tool_has_a_debian_package():
    assert all(package for _, package in PROGRAMS.values())
    assert need_tool('python:pytest')


LEAVES = """
import socket, threading, warnings
event, kept = threading.Event(), []

def test_a_thread():
    threading.Thread(target=event.wait, name='Forgotten').start()

def test_a_worker():
    threading.Thread(target=event.wait, name='wsrpc-worker-1',
                     daemon=True).start()

def test_a_socket():
    kept.append(socket.create_server(('127.0.0.1', 0)))

def test_a_warning():
    warnings.warn('old')

def test_nothing():
    threading.Thread(target=event.wait, name='other', daemon=True).start()

def teardown_module():
    event.set()
    kept.pop().close()
"""


def test_what_a_test_leaves_behind_fails_it(tmp_path):
    (tmp_path / 'test_it.py').write_text(LEAVES)
    (tmp_path / 'conftest.py').write_text(
        'from tests.conftest import *\n'
        'import tests.conftest\n'
        'tests.conftest._GRACE_S = 0.05\n')
    with spawn('pytest', '-c', 'setup.cfg', '-p', 'no:cacheprovider', '-rA',
               str(tmp_path)) as process:
        assert process.wait(60) == 1
    for line in ('ERROR .*a_thread - .*left behind: thread Forgotten',
                 'ERROR .*a_worker - .*left behind: thread wsrpc-worker-1',
                 r'left behind: socket \d+ port \d+ -> 0 listening',
                 'FAILED .*a_warning - UserWarning: old',
                 '1 failed, 4 passed, 3 errors'):
        assert re.search(line, process.output), process.output


def test_tests_skip_in_one_place_and_never_sleep():
    banned = re.compile(r'\bpytest\.skip\(|\bskipif\b|\bimportorskip\b'
                        r'|\b(time|asyncio)\.sleep\((?!0\))')
    here = {'need.py', 'serving.py', 'hasty.py',
            pathlib.Path(__file__).name}
    found = []
    for path in sorted(TESTS.rglob('*.py')):
        if path.name in here or 'node_modules' in path.parts:
            continue
        lines = path.read_text().split('\n')
        found += [f'{path.name}:{number}: {line.strip()}'
                  for number, line in enumerate(lines, 1)
                  if banned.search(line)
                  and not is_slow_on_purpose(lines[:number])]
    assert not found, '\n'.join(found)


def is_slow_on_purpose(lines):
    """Whether the last line is marked so, in a method that is served."""
    if not re.search(r'\.sleep\(.*# slow on purpose$', lines[-1]):
        return False
    head = re.compile(r' *(async )?def ')
    start = max((number for number, line in enumerate(lines)
                 if head.match(line)), default=0)
    decorators = itertools.takewhile(
        lambda line: line.lstrip().startswith('@'), reversed(lines[:start]))
    return any('expose' in line for line in decorators)


@pytest.mark.parametrize('text, allowed', [
    ('@expose\ndef wait(self):\n    time.sleep(9)  # slow on purpose', True),
    ('@expose\ndef wait(self):\n    time.sleep(9)', False),
    ('def test_it():\n    time.sleep(9)  # slow on purpose', False),
    ('@expose\ndef f():\n    pass\n'
     'def test_it():\n    time.sleep(9)  # slow on purpose', False),
    ('@expose\n@nonblocking\ndef f():\n'
     '    pytest.skip()  # slow on purpose', False)])
def test_only_what_is_served_may_be_slow(text, allowed):
    assert is_slow_on_purpose(text.split('\n')) is allowed
