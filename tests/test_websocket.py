"""One socket's life, over real connections to plain handlers.

``Noting`` notes its hooks; ``connect`` gives both ends of a connection::

    peer, socket = connect(server)
    peer.close(1000, 'bye')
    assert socket.next() == ('opened',)
    assert socket.next() == ('closed', 1000, 'bye')
"""
from __future__ import annotations

import random
import socket as sockets
import struct
import sys
import threading
import time
from collections import deque
from queue import Empty, SimpleQueue

import cherrypy
import pytest
from ws4py.messaging import BinaryMessage, TextMessage

import cp_wsrpc
from cp_wsrpc import MessageTooBig, expose, logs, timers
from cp_wsrpc.outqueue import OutQueue
from cp_wsrpc.states import State

from .rawpeer import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    client_frame,
)
from .serving import serving, wait_until


class Noting(cp_wsrpc.WebSocket):
    made = SimpleQueue()

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.events = SimpleQueue()
        self.gate = threading.Event()
        self.gate.set()
        Noting.made.put(self)

    def next(self, timeout_s=5):
        return self.events.get(timeout=timeout_s)

    def opened(self):
        self.events.put(('opened',))

    def received_message(self, message):
        self.gate.wait(10)
        kind = 'text' if message.is_text else 'binary'
        self.events.put((kind, message.data))

    def ponged(self, pong):
        self.events.put(('ponged', bytes(pong.data)))

    def closed(self, code, reason=None):
        self.events.put(('closed', code, reason))


class Faulty(Noting):
    """Raises in the hook that the query string names."""

    def _raise(self, name):
        if self.environ['QUERY_STRING'] == name:
            raise SystemExit(f'from {name}')

    def opened(self):
        super().opened()
        self._raise('opened')

    def received_message(self, message):
        super().received_message(message)
        self._raise('received_message')

    def ponged(self, pong):
        super().ponged(pong)
        self._raise('ponged')

    def closed(self, code, reason=None):
        super().closed(code, reason)
        self._raise('closed')

    def unhandled_error(self, error):
        self.events.put(('error', threading.current_thread().name))
        self._raise('unhandled_error')


class Answering(Noting):
    def received_message(self, message):
        super().received_message(message)
        self.send(message.data)


class Hasty(cp_wsrpc.WebSocket):
    """Does in its constructor what the query string names."""

    def __init__(self, sock, protocols=None, extensions=None, environ=None):
        super().__init__(sock, protocols, extensions, environ)
        getattr(self, environ['QUERY_STRING'])('x')


class Unmade(cp_wsrpc.WebSocket):
    def __init__(self, *args, **kwargs):
        raise RuntimeError('from the constructor')


class Greeting(Noting):
    def opened(self):
        self.send('Welcome!')


class Api:
    @expose
    def ping(self):
        return 'pong'

    @expose
    def echo(self, text):
        return text


class Root:
    api = Api()


def handler(cls, **options):
    return {'tools.wsrpc.on': True, 'tools.wsrpc.handler_cls': cls,
            **{f'tools.wsrpc.{name}': value
               for name, value in options.items()}}


CONFIG = {
    '/api': {'tools.wsrpc.on': True},
    '/ws': handler(Noting),
    '/faulty': handler(Faulty),
    '/unmade': handler(Unmade),
    '/hasty': handler(Hasty),
    '/greeting': handler(Greeting),
    '/small': handler(Noting, out_max_bytes=1000),
    '/lifted': handler(Noting, out_max_bytes=1 << 30),
    '/hurry': handler(Noting, message_timeout_s=2),
    '/answering': handler(Answering),
}


@pytest.fixture(scope='module')
def server():
    with pytest.MonkeyPatch.context() as patch:
        # Deadlines are looked at every 20 ms, so that a clock can jump.
        patch.setattr(timers, 'TICK_S', 0.02)
        with serving(Root(), CONFIG) as server:
            yield server


@pytest.fixture(autouse=True)
def nobody_stays():
    while not Noting.made.empty():
        Noting.made.get()
    yield
    while PEERS:
        PEERS.pop().drop()


PEERS = []


def io():
    return cherrypy.engine.wsrpc.manager


@pytest.fixture(scope='module')
def later(server):
    """``later(3)`` lets three seconds pass for the loop's deadlines.

    For the rest of the module: a clock does not go back.
    """
    offset = [0.0]
    io().now = lambda: time.monotonic() + offset[0]

    def pass_by(seconds):
        offset[0] += seconds

    yield pass_by
    io().now = time.monotonic


def connect(server, path='/ws', **options):
    peer = server.peer(path, **options)
    PEERS.append(peer)
    assert peer.status == 101, peer.body
    made = Noting.made.get(timeout=5)
    assert made.next() == ('opened',)
    return peer, made


def assert_over(made, *ending):
    """The one ``closed()`` was this, and the socket is let go."""
    assert made.next() == ('closed', *ending)
    wait_until(lambda: made.state is State.CLOSED and made.sock is None
               and made not in io())
    cherrypy.engine.wsrpc.hub.pool.wait_for_strands(5)
    with pytest.raises(Empty):
        made.events.get_nowait()


def close_body(code, reason=b''):
    return struct.pack('!H', code) + reason


# -- the states ------------------------------------------------------------


def test_the_peer_closes_and_is_answered_with_its_code(server):
    peer, made = connect(server)
    assert peer.close(4321, 'bye') == (4321, '')
    assert_over(made, 4321, 'bye')


def test_an_empty_close_is_answered_with_an_empty_one(server):
    peer, made = connect(server)
    assert peer.close(None) == (1005, '')
    assert_over(made, 1005, '')


def test_we_close_and_the_peer_answers(server):
    peer, made = connect(server)
    made.close(4000, 'enough')
    assert made.is_closed
    assert peer.recv_close() == (4000, 'enough')
    peer.send_frame(CLOSE, close_body(4000))
    assert peer.recv_eof() == b''
    peer.drop()
    assert_over(made, 4000, '')


def test_both_close_at_once(server):
    peer, made = connect(server)
    io().post(made._begin_close, 4000, b'\x88\x02\x0f\xa0')
    io().post(made._take, client_frame(CLOSE, close_body(4001)),
              io().now())
    assert peer.recv_close() == (4000, '')
    assert peer.recv_eof() == b''
    peer.drop()
    assert_over(made, 4001, '')


def test_we_close_and_the_peer_says_nothing(server, later):
    peer, made = connect(server)
    made.close(4000)
    peer.recv_close()
    wait_until(lambda: made._deadline)
    later(3)
    assert_over(made, 4000, 'no Close in time')
    with pytest.raises(ConnectionResetError):
        while peer.sock.recv(100):
            pass
    peer.drop()


def test_we_close_and_the_peer_goes(server):
    peer, made = connect(server)
    made.close(4000)
    peer.recv_close()
    peer.drop()
    assert_over(made, 4000, 'the peer went away')


@pytest.mark.parametrize('go', ['drop', 'reset'])
def test_the_peer_goes_without_a_word(server, go):
    peer, made = connect(server)
    getattr(peer, go)()
    assert_over(made, 1006, 'the peer went away')


def test_a_half_closed_peer_is_gone(server):
    peer, made = connect(server)
    peer.sock.shutdown(sockets.SHUT_WR)
    assert peer.recv_eof() == b''
    peer.drop()
    assert_over(made, 1006, 'the peer went away')


def test_a_peer_that_breaks_the_protocol_hears_why(server):
    peer, made = connect(server)
    peer.send_frame(TEXT, b'not masked', mask=False)
    code, reason = peer.recv_close()
    assert code == 1002
    assert peer.recv_eof() == b''
    peer.drop()
    assert_over(made, 1002, reason)


def test_a_peer_may_break_the_protocol_after_our_close(server):
    peer, made = connect(server)
    made.close(4000)
    peer.recv_close()
    peer.send_frame(3, b'')
    assert peer.recv_eof() == b''
    peer.drop()
    assert made.next()[:2] == ('closed', 1002)


def test_a_peer_that_stays_after_both_closes_is_cut_off(server, later):
    peer, made = connect(server)
    peer.send_frame(CLOSE, close_body(1000))
    peer.recv_close()
    assert made.next() == ('closed', 1000, '')
    peer.send_text('still here')
    assert made.state is State.LEAVING
    later(2)
    wait_until(lambda: made.state is State.CLOSED)
    assert made.events.empty()
    peer.drop()


def test_what_stands_after_the_peers_close_is_not_served(server):
    peer, made = connect(server)
    peer.send_raw(client_frame(TEXT, b'before')
                  + client_frame(CLOSE, close_body(1000))
                  + client_frame(TEXT, b'after'))
    assert peer.recv_close() == (1000, '')
    assert made.next() == ('text', b'before')
    peer.drop()
    assert_over(made, 1000, '')


@pytest.mark.parametrize('path, text', [
    ('/ws', 'late'), ('/api', '{"jsonrpc":"2.0","method":"ping","id":1}')])
def test_a_message_in_one_segment_with_the_answer_to_our_close(
        server, path, text):
    old = set(io())
    with server.peer(path) as peer:
        wait_until(lambda: set(io()) - old)
        [made] = set(io()) - old
        made.close(4000)
        assert peer.recv_close() == (4000, '')
        peer.send_raw(client_frame(TEXT, text.encode())
                      + client_frame(CLOSE, close_body(4000)))
        # At once, and not when we are tired of waiting for its Close.
        assert peer.recv_eof(timeout_s=1.8) == b''
        peer.drop()
        wait_until(lambda: made.state is State.CLOSED)


@pytest.mark.parametrize('code', [1005, 1006, 1015, 999, 2999, 5000, 0])
def test_codes_that_may_not_be_sent_are_the_callers_fault(server, code):
    peer, made = connect(server)
    with pytest.raises(ValueError, match=f'code {code} may not be sent'):
        made.close(code)
    assert not made.is_closed
    peer.drop()


@pytest.mark.parametrize('reason, sent', [
    ('x' * 200, 'x' * 123),
    ('\N{EURO SIGN}' * 100, '\N{EURO SIGN}' * 41),
    (b'y' * 124, 'y' * 123),
])
def test_a_long_reason_is_cut_at_a_code_point(server, reason, sent):
    peer, made = connect(server)
    made.close(1000, reason)
    assert peer.recv_close() == (1000, sent)
    peer.drop()


def test_a_second_close_does_nothing(server):
    peer, made = connect(server)
    made.close(4000)
    made.close(4001)
    assert peer.recv_close() == (4000, '')
    peer.send_frame(CLOSE, close_body(4000))
    assert peer.recv_eof() == b''
    peer.drop()


def test_send_after_close_writes_nothing(server):
    peer, made = connect(server)
    made.send('before')
    made.close()
    made.send('after')
    made.ping()
    assert peer.recv_text() == 'before'
    assert peer.recv_frame()[0] == CLOSE
    peer.send_frame(CLOSE)
    assert peer.recv_eof() == b''
    peer.drop()
    made.send('long after')


def test_nothing_follows_our_close_whoever_sends_meanwhile(server):
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(30):
            peer, made = connect(server)
            going = threading.Event()

            def send(made=made, going=going):
                for _ in range(50):
                    made.send_alone(b'\x81\x01a')
                    made.enqueue(b'\x81\x01b')
                    going.set()

            threads = [threading.Thread(target=send) for _ in range(3)]
            for thread in threads:
                thread.start()
            going.wait(5)
            io().post(made._begin_close, 1000, b'\x88\x02\x03\xe8')
            assert peer.recv_close() == (1000, '')
            for thread in threads:
                thread.join()
            peer.send_frame(CLOSE, close_body(1000))
            assert peer.recv_eof() == b''
            peer.drop()
    finally:
        sys.setswitchinterval(interval)


def test_a_frame_sent_between_the_look_and_the_close_is_swallowed(server):
    peer, made = connect(server)
    done = threading.Event()

    def close():
        made._begin_close(1000, b'\x88\x02\x03\xe8')
        # What a thread does that found the socket open just before.
        made.out.frames.append(b'\x81\x01x')
        io().flush_soon(made)
        io().post(done.set)

    io().post(close)
    done.wait(5)
    assert peer.recv_close() == (1000, '')
    peer.send_frame(CLOSE, close_body(1000))
    assert peer.recv_eof() == b''
    peer.drop()


def test_a_handler_whose_constructor_raises_leaves_no_socket(server):
    before = set(io())
    with server.peer('/unmade') as peer:
        assert peer.recv_eof() == b''
    wait_until(lambda: server.logged('from the constructor'))
    assert set(io()) <= before


# -- hooks -----------------------------------------------------------------


def test_hooks_run_in_order_on_the_pool(server):
    peer, made = connect(server)
    names = set()
    made.received_message = lambda message: (
        names.add(threading.current_thread().name),
        made.events.put(message.data))
    peer.send_raw(b''.join(client_frame(TEXT, b'%d' % n)
                           for n in range(50)))
    assert [int(made.next()) for _ in range(50)] == list(range(50))
    assert all(name.startswith('wsrpc-worker-') for name in names)
    peer.close()
    assert_over(made, 1000, '')


def test_what_opened_sends_goes_out_first(server):
    with server.peer('/greeting', early=client_frame(TEXT, b'hi')) as peer:
        assert peer.recv_text() == 'Welcome!'
        made = Noting.made.get(timeout=5)
        assert made.next() == ('text', b'hi')


def test_early_bytes_are_served(server):
    with server.peer('/ws', early=client_frame(TEXT, b'a')
                     + client_frame(BINARY, b'b')) as peer:
        made = Noting.made.get(timeout=5)
        assert [made.next() for _ in range(3)] == [
            ('opened',), ('text', b'a'), ('binary', b'b')]
        assert peer.status == 101


@pytest.mark.parametrize('hook', ['opened', 'received_message', 'ponged',
                                  'closed', 'unhandled_error'])
def test_a_hook_that_raises_hurts_nobody(server, hook):
    with server.peer('/api') as other:
        peer, made = connect(server, f'/faulty?{hook}')
        peer.send_text('one')
        assert made.next() == ('text', b'one')
        peer.send_frame(PONG, b'x')
        assert made.next() == ('ponged', b'x')
        peer.send_text('two')
        assert made.next() == ('text', b'two')
        peer.reset()
        assert made.next()[0] == 'error'
        assert_over(made, 1006, 'the peer went away')
        assert other.call('ping') == 'pong'
    assert any(f'from {hook}' in line for line in server.log_lines)


def test_a_hook_that_raises_and_raises_has_a_line_a_second(server):
    server.log_lines.clear()
    peer, made = connect(server, '/faulty?received_message')
    begun = time.monotonic()
    for _ in range(50):
        peer.send_text('x')
        assert made.next() == ('text', b'x')
    peer.drop()
    lines = server.logged('from received_message')
    assert len(lines) <= 2 + time.monotonic() - begun
    assert not server.logged('a hook failed')


def test_unhandled_error_runs_on_the_pool(server):
    peer, made = connect(server, '/faulty')
    peer.reset()
    kind, thread = made.next()
    assert (kind, thread.startswith('wsrpc-worker-')) == ('error', True)
    assert_over(made, 1006, 'the peer went away')


def test_ping_is_answered_and_heard(server):
    peer, made = connect(server)
    made.ping('are you there')
    assert peer.recv_frame() == (PING, b'are you there')
    peer.send_frame(PONG, b'are you there')
    assert made.next() == ('ponged', b'are you there')
    peer.send_frame(PING, b'and you')
    assert peer.recv_frame() == (PONG, b'and you')
    peer.drop()


def test_a_handler_that_lags_stops_the_reading_and_goes_on(server):
    peer, made = connect(server)
    made.gate.clear()
    peer.send_text('first')
    for n in range(200):
        peer.send_text(str(n))
        if n == 80:
            wait_until(lambda: not made._reading)
    waiting = len(made.strand)
    made.gate.set()
    assert made.next() == ('text', b'first')
    assert [made.next()[1] for _ in range(200)] == [
        b'%d' % n for n in range(200)]
    assert waiting < 200
    wait_until(lambda: made._reading)
    peer.close()
    assert_over(made, 1000, '')


def test_a_handler_that_has_caught_up_before_the_stop_is_read_on(server):
    peer, made = connect(server)
    done = threading.Event()

    class Slow:
        """Full at the first look, by which time it has been emptied."""

        def __init__(self, real):
            self.real = real
            self.looks = 0

        def __len__(self):
            if not io().in_loop():
                return len(self.real)
            self.looks += 1
            if self.looks == 1:
                wait_until(lambda: not self.real._active)
                return 64
            return 0

        def post(self, *args):
            self.real.post(*args)

    def lag():
        made.strand = Slow(made.strand)
        made._hand_over(TextMessage(b'x'))
        made.strand = made.strand.real
        done.set()

    io().post(lag)
    assert done.wait(5)
    assert made.next() == ('text', b'x')
    peer.send_text('still heard')
    assert made.next() == ('text', b'still heard')


# -- send ------------------------------------------------------------------


@pytest.mark.parametrize('payload, binary, frame', [
    ('text', False, (TEXT, b'text')),
    ('\N{EURO SIGN}', False, (TEXT, b'\xe2\x82\xac')),
    (b'bytes', False, (TEXT, b'bytes')),
    (bytearray(b'bytes'), True, (BINARY, b'bytes')),
    ('text', True, (BINARY, b'text')),
    (TextMessage('message'), False, (TEXT, b'message')),
    (BinaryMessage(b'\xff\x00'), False, (BINARY, b'\xff\x00')),
    ('', False, (TEXT, b'')),
    ('x' * 70_000, False, (TEXT, b'x' * 70_000)),
])
def test_send_takes_what_ws4pys_takes(server, payload, binary, frame):
    peer, made = connect(server)
    made.send(payload, binary)
    assert peer.recv_frame() == frame
    peer.drop()


def test_a_generators_parts_make_one_message(server):
    peer, made = connect(server)
    made.send(part for part in ['a', b'b', '\xe4'])
    assert peer.recv_frame() == (TEXT, b'ab\xc3\xa4')
    peer.drop()


def test_a_large_message_is_sent_by_the_thread_that_has_it(server):
    peer, made = connect(server)
    text = bytes(range(32, 96)) * 2048
    held = threading.Event()
    io().post(held.wait, 5)
    made.send(text)                 # the loop stands still
    assert peer.recv_frame()[1] == text
    held.set()
    made.send(b'small')
    made.send(text)
    assert peer.recv_frame()[1] == b'small'
    assert peer.recv_frame()[1] == text
    peer.drop()


def test_large_messages_reach_a_slow_reader_whole_and_in_order(server):
    peer, made = connect(server, '/lifted')
    texts = [random.Random(number).randbytes(4_000_000).hex().encode()
             for number in range(3)]
    for number, text in enumerate(texts):
        made.send(text, binary=number % 2 == 1)
        made.send(str(number))
    for number, text in enumerate(texts):
        assert peer.recv_message() == (TEXT + number % 2, text)
        assert peer.recv_text() == str(number)
    peer.drop()


@pytest.mark.parametrize('payload', [None, 5, ['x'], {'a': 1}])
def test_send_refuses_anything_else(server, payload):
    peer, made = connect(server)
    with pytest.raises(TypeError, match=type(payload).__name__):
        made.send(payload)
    peer.drop()


@pytest.mark.parametrize('wrap', [str, str.encode, TextMessage])
def test_one_message_past_the_limit_is_the_senders_error(server, wrap):
    peer, made = connect(server, '/small')
    made.send(wrap('x' * 1000))
    with pytest.raises(MessageTooBig, match='out_max_bytes is 1000'):
        made.send(wrap('x' * 1001))
    assert peer.recv_text() == 'x' * 1000
    made.close()
    assert peer.recv_close() == (1000, '')
    peer.drop()


def test_a_raw_broadcast_reaches_plain_handlers_alone(server):
    peer, _made = connect(server)
    with server.peer('/api') as rpc:
        rpc.call('ping')
        cherrypy.engine.publish('websocket-broadcast', 'to all')
        cherrypy.engine.publish('websocket-broadcast', b'raw', binary=True)
        cherrypy.engine.publish('websocket-broadcast', TextMessage('m'))
        assert [peer.recv_frame() for _ in range(3)] == [
            (TEXT, b'to all'), (BINARY, b'raw'), (TEXT, b'm')]
        rpc.call('ping')
        assert rpc.events == []
    peer.drop()


def test_ws4pys_own_ways_to_the_socket_are_barred(server):
    peer, made = connect(server)
    for way in (made.once, made.run, made.terminate):
        with pytest.raises(NotImplementedError):
            way()
    made._write(b'\x81\x01w')
    assert peer.recv_frame() == (TEXT, b'w')
    made.close_connection()
    assert peer.recv_eof() == b''
    assert_over(made, 1006, 'closed')
    peer.drop()


# -- a message's time, control frames --------------------------------------


def test_a_message_that_never_ends_is_ended(server, later):
    peer, made = connect(server, '/hurry')
    peer.send_frame(TEXT, b'begun', fin=False)
    wait_until(lambda: made._partial_since)
    for _ in range(3):
        later(1)
        peer.send_raw(client_frame(CONTINUATION, b'x', fin=False))
    assert peer.recv_close()[0] == 1008
    assert made.next()[:2] == ('closed', 1008)
    peer.drop()


def test_each_message_has_its_own_time(server, later):
    peer, made = connect(server, '/hurry')
    peer.send_frame(TEXT, b'a', fin=False)
    for _n in range(3):
        wait_until(lambda: made._partial_since)
        later(1.4)
        peer.send_raw(client_frame(CONTINUATION, b'b')
                      + client_frame(TEXT, b'a', fin=False))
        assert made.next() == ('text', b'ab')
    assert made.state is State.OPEN
    peer.drop()


def test_while_we_do_not_read_no_message_is_late(server, later):
    peer, made = connect(server, '/hurry')
    made.gate.clear()
    peer.send_raw(client_frame(TEXT, b'x') * 80
                  + client_frame(TEXT, b'a', fin=False))
    wait_until(lambda: made._partial_since and not made._reading)
    ticked = io().timers.tick
    later(3)
    wait_until(lambda: io().timers.tick > ticked + 8)
    assert made.state is State.OPEN
    made.gate.set()
    assert [made.next() for _n in range(80)] == [('text', b'x')] * 80
    wait_until(lambda: made._reading)
    later(1)
    peer.send_frame(CONTINUATION, b'b')
    assert made.next() == ('text', b'ab')
    peer.send_frame(TEXT, b'a', fin=False)
    wait_until(lambda: made._partial_since)
    for _n in range(3):
        later(1)
    assert peer.recv_close()[0] == 1008
    peer.drop()


def test_control_frames_up_to_the_rate_are_answered(server):
    peer, made = connect(server)
    peer.send_raw(client_frame(PING, b'p') * 250)
    for _ in range(250):
        assert peer.recv_frame() == (PONG, b'p')
    peer.send_frame(PING, b'one more')
    assert peer.recv_close() == (1008, 'too many control frames')
    assert made.next()[:2] == ('closed', 1008)
    peer.drop()


def test_the_control_frames_of_another_window_count_anew(server, later):
    peer, made = connect(server)
    for _ in range(3):
        peer.send_raw(client_frame(PING, b'p') * 200)
        for _ in range(200):
            assert peer.recv_frame() == (PONG, b'p')
        later(4.9)
        later(0.2)
    assert made.state is State.OPEN
    peer.drop()


# -- before it is opened, and after the peer's Close -------------------------


@pytest.fixture
def unopened(server):
    """Both ends of a connection that the loop has not taken over yet."""
    go_on = threading.Event()
    io().post(go_on.wait, 5)
    peer = server.peer('/ws')
    PEERS.append(peer)
    made = Noting.made.get(timeout=5)
    wait_until(lambda: hasattr(made, 'hub'))
    assert made.state is State.NEW
    yield peer, made, go_on
    go_on.set()


def test_what_is_sent_before_it_is_opened_goes_out_when_it_is(unopened):
    peer, made, go_on = unopened
    large = 'x' * 100_000
    made.send('one')
    made.send(large)
    made.send('two')
    go_on.set()
    assert peer.recv_text() == 'one'
    assert peer.recv_text() == large
    assert peer.recv_text() == 'two'
    assert made.next() == ('opened',)
    made.send('three')
    assert peer.recv_text() == 'three'


def test_what_is_sent_while_it_is_opened_is_not_left_lying(unopened):
    peer, made, go_on = unopened

    class Frames(type(made.out.frames)):
        def append(self, frame):
            super().append(frame)
            made.io.post(go_on.set)
            go_on.set()
            wait_until(lambda: made.state is State.OPEN)

    made.out.frames = Frames()
    made.send('one')
    assert peer.recv_text() == 'one'


def test_a_close_before_it_is_opened_is_sent_when_it_is(unopened):
    peer, made, go_on = unopened
    made.send('one')
    made.close(4001, 'not today')
    go_on.set()
    assert peer.recv_text() == 'one'
    assert peer.recv_close() == (4001, 'not today')
    peer.send_frame(CLOSE, close_body(4001))
    assert made.next() == ('opened',)
    assert_over(made, 4001, '')


@pytest.mark.parametrize('name', ['send', 'unhandled'])
def test_a_constructor_that_sends_is_told_where_to(server, name):
    with server.peer(f'/hasty?{name}') as peer:
        assert peer.recv_eof() == b''
        wait_until(lambda: server.logged(
            'belong into opened(), not into __init__()'
            if name != 'unhandled' else f"no attribute '{name}'"))
        server.log_lines.clear()
        logs.limited.__self__._causes.clear()       # one line a second


def send_and_close(peer, made, *texts):
    made.gate.clear()
    peer.send_raw(b''.join(client_frame(TEXT, text) for text in texts)
                  + client_frame(CLOSE, close_body(4001, b'bye')))
    wait_until(lambda: made._last_step)


def test_what_came_before_the_peers_close_is_answered_before_ours(server):
    """RFC 6455 5.5.1: what is under way may be sent."""
    peer, made = connect(server, '/answering')
    send_and_close(peer, made, b'one', b'two')
    assert made.state is State.OPEN and made.client_terminated
    made.gate.set()
    assert peer.recv_frame() == (TEXT, b'one')
    assert peer.recv_frame() == (TEXT, b'two')
    assert peer.recv_frame() == (CLOSE, close_body(4001))
    assert peer.recv_eof() == b''
    peer.drop()
    assert [made.next()[1] for _ in range(2)] == [b'one', b'two']
    assert_over(made, 4001, 'bye')


def test_a_handler_that_closes_after_the_peer_has_is_done(server):
    peer, made = connect(server, '/answering')
    send_and_close(peer, made, b'one')
    made.close(4002, 'me too')
    assert peer.recv_frame() == (CLOSE, close_body(4002, b'me too'))
    made.gate.set()
    assert peer.recv_eof() == b''
    peer.drop()
    assert made.next() == ('text', b'one')
    assert_over(made, 4001, 'bye')


def test_a_handler_that_holds_delays_our_close_two_seconds(server, later):
    peer, made = connect(server, '/answering')
    send_and_close(peer, made, b'one')
    later(2.1)
    assert peer.recv_frame() == (CLOSE, close_body(4001))
    peer.drop()
    made.gate.set()
    assert made.next() == ('text', b'one')
    assert_over(made, 4001, 'bye')


# -- a peer that breaks the protocol ----------------------------------------


def send_and_fail(peer, made, *texts):
    made.gate.clear()
    peer.send_raw(b''.join(client_frame(TEXT, text) for text in texts)
                  + client_frame(TEXT, b'no', mask=False))


def test_what_came_before_a_bad_frame_is_answered_before_the_close(server):
    peer, made = connect(server, '/answering')
    send_and_fail(peer, made, b'one', b'two')
    wait_until(lambda: made._last_step)
    assert made.state is State.OPEN and not made._reading
    made.gate.set()
    assert peer.recv_frame() == (TEXT, b'one')
    assert peer.recv_frame() == (TEXT, b'two')
    assert peer.recv_close() == (1002, 'a client masks its frames')
    peer.drop()
    assert [made.next()[1] for _ in range(2)] == [b'one', b'two']
    assert_over(made, 1002, 'a client masks its frames')


def test_a_handler_that_holds_does_not_hold_that_close_up(server, later):
    peer, made = connect(server, '/answering')
    send_and_fail(peer, made, b'one')
    wait_until(lambda: made._last_step)
    later(2.1)
    assert peer.recv_close()[0] == 1002
    made.gate.set()
    peer.drop()
    assert made.next() == ('text', b'one')
    assert_over(made, 1002, 'a client masks its frames')


def test_it_is_closed_at_once_where_nothing_is_under_way(server):
    peer, made = connect(server)
    peer.send_frame(TEXT, b'no', mask=False)
    assert peer.recv_close()[0] == 1002
    assert made._last_step is None
    peer.drop()


class Growing(deque):
    """Another thread appends as soon as one looks at it."""

    def __iter__(self):
        yield from [*super().__iter__()]
        self.append(b'late')

    def popleft(self):
        self.append(b'late')
        return super().popleft()


def test_what_comes_as_a_socket_begins_to_refuse_is_kept():
    out = OutQueue(None)
    out.frames = Growing([b'one'])
    out.unsent = memoryview(b'the rest of a frame')
    out.begin_refusing()
    assert deque.copy(out.frames) == deque([b'late'])
    assert (list(out.behind), out.behind_messages) == ([b'one'], 0)


# -- what else lives here --------------------------------------------------


def test_it_says_who_it_is(server):
    peer, made = connect(server)
    port = peer.sock.getsockname()[1]
    assert repr(made) == f'<Noting {made.id} 127.0.0.1:{port} OPEN>'
    assert made.peer_address == ('127.0.0.1', port)
    peer.drop()


def test_the_log_says_how_it_began_and_ended(server):
    peer, made = connect(server)
    peer.send_text('x')
    made.next()
    peer.close(4000, 'a\x1b[31m')
    wait_until(lambda: server.logged(f'{made.id} '))
    wait_until(lambda: len(server.logged(f'{made.id} ')) == 2)
    opened, closed = server.logged(f'{made.id} ')
    assert opened.endswith('opened: /ws')
    assert 'closed: 4000 a\\x1b[31m (sent 4000)' in closed
    assert closed.endswith('1 messages in')


def test_a_socket_leaves_an_application_room_for_attributes(server):
    """With more than 30 outside of slots each has a table of its own."""
    _, made = connect(server)
    assert len(vars(made)) <= 15
