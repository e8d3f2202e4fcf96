"""The I/O thread: liveness, slow readers, fan-out, faults; real sockets."""
from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import sys
import threading
import time
import weakref
from queue import SimpleQueue
from types import SimpleNamespace

import cherrypy
import pytest

import cp_wsrpc
from cp_wsrpc import (
    Overloaded,
    closing,
    expose,
    fanout,
    ioloop,
    logs,
    nonblocking,
    timers,
)
from cp_wsrpc.frames import text_frame
from cp_wsrpc.states import State

from .attack import in_time
from .rawpeer import PING, PONG, TEXT, CallFailed, RawPeer, client_frame
from .serving import serving, wait_until

#: Small buffers, so that a peer that reads nothing is soon told apart.
SMALL = 4096


class Handler(cp_wsrpc.WebSocket):
    made = SimpleQueue()

    def __init__(self, sock, *args, **kwargs):
        super().__init__(sock, *args, **kwargs)
        sock.setsockopt(1, 7, SMALL)        # SOL_SOCKET, SO_SNDBUF
        self.closings = SimpleQueue()
        Handler.made.put(self)

    def received_message(self, message):
        self.send(message)

    def closed(self, code, reason=None):
        self.closings.put((code, reason))


class Odd:
    """A user that cannot be compared."""

    def __eq__(self, other):
        raise RuntimeError('not to be compared')

    __hash__ = None


class Api:
    @expose
    def ping(self):
        return 'pong'

    @expose
    def echo(self, text):
        return text

    @expose
    @nonblocking
    def hold(self, seconds):
        time.sleep(seconds)     # slow on purpose

    @expose
    async def hold_async(self, seconds):
        time.sleep(seconds)     # slow on purpose

    @expose
    async def leave(self, how):
        async def child():
            raise {'exit': SystemExit, 'interrupt': KeyboardInterrupt}[how]

        task = asyncio.get_running_loop().create_task(child())
        await asyncio.wait([task], timeout=1)
        return 'left'

    @expose
    @nonblocking
    def leave_later(self):
        def leave():
            raise SystemExit

        asyncio.get_running_loop().call_soon(leave)
        return 'leaving'


class Root:
    api = Api()


CONFIG = {
    '/api': {'tools.wsrpc.on': True, 'tools.wsrpc.subscribe': ['*']},
    '/odd': {'tools.wsrpc.on': True, 'tools.wsrpc.controller': Api(),
             'tools.wsrpc.user': Odd},
    '/ws': {'tools.wsrpc.on': True, 'tools.wsrpc.handler_cls': Handler},
    '/limits': {'tools.wsrpc.on': True, 'tools.wsrpc.handler_cls': Handler,
                'tools.wsrpc.out_max_messages': 50,
                'tools.wsrpc.out_max_bytes': 10_000},
}
PEERS = []


@pytest.fixture
def server(monkeypatch):
    # Deadlines are looked at every 20 ms, so that a clock can jump fast.
    monkeypatch.setattr(timers, 'TICK_S', 0.02)
    while not Handler.made.empty():
        Handler.made.get()
    logs.limited.__self__._causes.clear()       # one line a second
    with serving(Root(), CONFIG) as server:
        yield server
        while PEERS:
            PEERS.pop().drop()


def io():
    return cherrypy.engine.wsrpc.manager


def connect(server, path='/ws', **options):
    peer = server.peer(path, **options)
    PEERS.append(peer)
    assert peer.status == 101, peer.body
    made = Handler.made.get(timeout=5)
    wait_until(lambda: made.state is State.OPEN)
    return peer, made


def on_loop(run):
    """Run it on the loop's thread and wait for it; what it returns."""
    done = SimpleQueue()
    io().post(lambda: done.put(run()))
    return done.get(timeout=5)


class Clock:
    """The loop's clock, which jumps; ``pass_by`` waits for its tick."""

    def __init__(self):
        self.offset = 0.0
        io().now = self

    def __call__(self):
        return time.monotonic() + self.offset

    def jump(self, seconds):
        self.offset += seconds
        now = self()
        wait_until(lambda: io()._ticked_at >= now)

    def pass_by(self, seconds):
        """In steps that no standstill makes."""
        while seconds > 0:
            self.jump(min(seconds, 4))
            seconds -= 4


@pytest.fixture
def cut_off_soon(monkeypatch):
    """Who does not read the Close is given 0.2 s for it, not 1."""
    monkeypatch.setattr(closing, 'SHED_TIMEOUT_S', 0.2)


@pytest.fixture
def clock(server):
    clock = Clock()
    clock.server = server
    yield clock
    io().now = time.monotonic


# -- liveness --------------------------------------------------------------


def test_a_silent_peer_is_pinged_and_may_answer_with_anything(clock):
    peer, made = connect(clock.server)
    for answer in (client_frame(PONG), client_frame(TEXT, b'x')):
        clock.pass_by(30)
        assert peer.recv_frame() == (PING, b'')
        last = made.last_read
        peer.send_raw(answer)
        wait_until(lambda last=last: made.last_read > last)
    peer.recv_text()
    assert made.state is State.OPEN


def test_a_half_open_peer_is_given_up_once_with_1006(clock):
    peer, made = connect(clock.server)
    clock.pass_by(28)
    assert peer.recv_frame() == (PING, b'')
    assert made.state is State.OPEN
    clock.pass_by(24)
    assert made.closings.get(timeout=5) == (1006, 'no answer to a ping')
    wait_until(lambda: made.state is State.CLOSED)
    assert made.closings.empty()
    assert peer.recv_eof() == b''


def test_an_answer_that_waits_in_the_socket_counts(clock):
    """A loop that was held, uvloop's at least, runs its timers first."""
    peer, made = connect(clock.server)
    clock.pass_by(28)
    assert peer.recv_frame() == (PING, b'')

    def hold():
        peer.send_frame(PONG)
        clock.offset += 24
        made.on_timer(clock())

    on_loop(hold)
    assert made.state is State.OPEN


def test_a_process_that_stood_still_blames_nobody(clock):
    peer, made = connect(clock.server)
    clock.pass_by(28)
    assert peer.recv_frame() == (PING, b'')
    clock.jump(3600)
    assert made.state is State.OPEN
    assert clock.server.logged('stood still')
    clock.pass_by(8)
    assert made.state is State.OPEN
    clock.pass_by(16)
    assert made.closings.get(timeout=5) == (1006, 'no answer to a ping')


def test_the_options_of_liveness_are_the_plugins():
    with serving(Root(), CONFIG, engine={
            'wsrpc.ping_interval_s': 0.2,
            'wsrpc.ping_timeout_s': 0.2}) as server:
        with server.peer('/ws') as peer:
            assert peer.recv_frame() == (PING, b'')
            assert peer.recv_eof() == b''


# -- slow readers ----------------------------------------------------------


def fill(made, size=200_000):
    """Have its socket refuse bytes; what was queued by now is grace."""
    def burst():
        for _ in range(size // 1000):
            made.enqueue(text_frame(b'g' * 1000))

    on_loop(burst)
    wait_until(lambda: made.out.refusing)


def test_messages_behind_a_refusing_socket_are_counted(
        server, cut_off_soon):
    _peer, made = connect(server, '/limits', receive_buffer=SMALL)
    fill(made)
    on_loop(lambda: [made.send('x') for _ in range(50)])
    assert made.state is State.OPEN
    made.send('one past it')
    assert made.closings.get(timeout=5)[0] == 4408
    assert server.logged('slow reader, closed (4408): 51 messages')


def test_bytes_behind_a_refusing_socket_are_counted(server, cut_off_soon):
    _peer, made = connect(server, '/limits', receive_buffer=SMALL)
    fill(made)
    on_loop(lambda: [made.send(b'x' * 996) for _ in range(10)])
    assert made.out.behind_bytes == 10_000
    assert made.state is State.OPEN
    made.send('')
    assert made.closings.get(timeout=5)[0] == 4408


def test_a_slow_reader_that_reads_at_last_hears_why(server):
    peer, made = connect(server, '/limits', receive_buffer=SMALL)
    fill(made)
    for _ in range(60):
        made.send('x')
    assert peer.recv_close() == (4408, 'slow reader')
    wait_until(lambda: made.closings.qsize() == 1)


def test_a_slow_reader_that_never_reads_is_cut_off_in_a_second(server):
    _peer, made = connect(server, '/limits', receive_buffer=SMALL)
    fill(made)
    begun = time.monotonic()
    for _ in range(60):
        made.send('x')
    wait_until(lambda: made.state is State.CLOSED)
    assert time.monotonic() - begun < 4     # and not 10
    assert made.closings.get(timeout=5)[0] == 4408


def test_a_socket_that_takes_no_byte_for_10_s_is_given_up(
        clock, cut_off_soon):
    _peer, made = connect(clock.server, receive_buffer=SMALL)
    fill(made)
    clock.pass_by(8)
    assert made.state is State.OPEN
    clock.pass_by(4)
    assert made.closings.get(timeout=5)[0] == 4408
    assert clock.server.logged('no byte taken in 10')


def test_a_burst_to_a_reader_is_no_offence(server):
    peer, made = connect(server)

    def burst():
        for number in range(5000):
            made.send(f'{number:0100}')

    on_loop(burst)
    assert [int(peer.recv_text()) for _ in range(5000)] == list(range(5000))
    assert made.state is State.OPEN


def test_reading_pauses_while_the_peer_takes_nothing_and_goes_on(server):
    peer, made = connect(server, receive_buffer=SMALL)
    text = b'y' * 50_000
    sent = 0
    peer.timeout_s = 0.3
    frame = client_frame(TEXT, text)
    with pytest.raises(TimeoutError):
        while sent < 400:
            peer.send_raw(frame)
            sent += 1
    assert not made._reading
    peer.timeout_s = 5
    received = 0
    while received < sent:
        assert peer.recv_frame() == (TEXT, text)
        received += 1
    wait_until(lambda: made._reading)
    assert made.state is State.OPEN


def test_frames_of_four_threads_to_a_slow_reader_are_whole(server):
    peer, made = connect(server, receive_buffer=SMALL)
    frames_each = 60

    def send(name):
        for number in range(frames_each):
            body = (f'{name}{number} ' * (number * 97 % 3000)).encode()
            digest = hashlib.sha1(body).hexdigest().encode()
            frame = text_frame(digest + body)
            (made.send_alone if number % 3 else made.enqueue)(frame)

    threads = [threading.Thread(target=send, args=(name,))
               for name in 'abcd']
    for thread in threads:
        thread.start()
    for _ in range(4 * frames_each):
        opcode, payload = peer.recv_frame()
        assert opcode == TEXT
        assert hashlib.sha1(payload[40:]).hexdigest() == \
            payload[:40].decode()
    for thread in threads:
        thread.join()
    assert made.state is State.OPEN


# -- pushes ----------------------------------------------------------------


def test_publishers_do_not_wait_for_a_peer_that_never_reads(server):
    with server.peer('/api', receive_buffer=SMALL) as deaf, \
            server.peer('/api') as reader:
        deaf.call('rpc.subscribe', ['big'])
        reader.call('rpc.subscribe', ['big'])
        took = []
        for number in range(100):
            begun = time.monotonic()
            cp_wsrpc.publish('big', [number, 'x' * 100_000])
            took.append(time.monotonic() - begun)
            event = reader.recv_json()
            assert event['params']['result'][0] == number
        assert sorted(took)[94] < in_time(0.005)
        wait_until(lambda: len(cp_wsrpc.connections('/api')) == 1)


def test_too_many_waiting_pushes_are_the_publishers_error(server):
    with server.peer('/api') as peer:
        peer.call('rpc.subscribe', ['t'])
        held, go_on = threading.Event(), threading.Event()
        io().post(lambda: (held.set(), go_on.wait(20)))
        held.wait(5)
        try:
            for number in range(fanout.MAX_EVENTS):
                cp_wsrpc.publish('t', number)
            with pytest.raises(Overloaded, match='10000 pushes wait'):
                cp_wsrpc.publish('t', 'one past it')
        finally:
            go_on.set()
        for number in range(fanout.MAX_EVENTS):
            assert peer.recv_json()['params']['result'] == number
        cp_wsrpc.publish('t', 'again')
        assert peer.recv_json()['params']['result'] == 'again'


def test_too_many_waiting_bytes_are_the_publishers_error(server):
    held, go_on = threading.Event(), threading.Event()
    io().post(lambda: (held.set(), go_on.wait(20)))
    held.wait(5)
    size = 4 << 20
    try:
        for _ in range(fanout.MAX_EVENT_BYTES // size):
            io().fan_out(tuple, size)
        with pytest.raises(Overloaded):
            io().fan_out(tuple, 1)
    finally:
        go_on.set()
    wait_until(lambda: io().backlog[1] == 0)
    io().fan_out(tuple, 1)


def test_a_user_that_cannot_be_compared_spoils_no_other_push(server):
    with server.peer('/odd') as odd, server.peer('/api') as peer:
        odd.call('ping')
        peer.call('rpc.subscribe', ['t'])
        cp_wsrpc.broadcast('f', user='ada')
        cp_wsrpc.publish('t', 1)
        assert peer.recv_json()['params']['result'] == 1
        assert odd.call('ping') == 'pong'


def test_a_closed_socket_is_not_kept_for_its_next_ping(server):
    """An attacker who opens and resets would fill memory for 25 s."""
    kept = []
    for end in (RawPeer.close, RawPeer.reset):
        peer, made = connect(server)
        on_loop(lambda made=made: io().schedule(made, io().now() + 5))
        kept.append(weakref.ref(made))
        end(peer)
        made.closings.get(timeout=5)
        io().post(io().schedule, made, io().now() + 5)      # too late
        del made
    assert on_loop(lambda: len(io().timers)) == 0

    def gone():
        gc.collect()
        return [ref() for ref in kept] == [None, None]

    wait_until(gone)        # from the hooks' threads, too


# -- faults ----------------------------------------------------------------


@pytest.mark.parametrize('step', ['on_items', 'on_control', 'flush',
                                  'on_timer', 'on_writable'])
def test_a_fault_of_ours_ends_one_socket_alone(server, step):
    with server.peer('/api') as other:
        peer, made = connect(server, receive_buffer=SMALL)

        def fail(*args):
            raise SystemExit('a fault of ours')

        setattr(made, step, fail)
        if step == 'on_timer':
            io().post(io().schedule, made, io().now())
        elif step == 'on_writable':
            fill(made)
            peer.recv_eof()
        elif step == 'on_control':
            peer.send_frame(PING)
        else:
            peer.send_text('x')
        assert made.closings.get(timeout=5) == (1011, 'internal error')
        assert made not in io()
        peer.recv_eof()
        assert other.call('ping') == 'pong'
    assert any('a fault of' in line for line in server.log_lines)


def test_a_fault_that_cannot_even_be_logged_ends_one_socket_alone(server):
    class Fault(Exception):
        harms = True

        @property
        def __class__(self):            # what isinstance() looks at
            if Fault.harms:
                raise SystemExit
            return Fault

    def fail(*args):
        raise Fault

    with server.peer('/api') as other:
        peer, made = connect(server)
        made.on_items = fail
        peer.send_text('x')
        try:
            assert made.closings.get(timeout=5) == (1011, 'internal error')
        finally:
            Fault.harms = False         # pytest looks at it, too
        assert other.call('ping') == 'pong'


def test_a_socket_that_cannot_even_be_closed_hurts_nobody(server):
    def fail(*args):
        raise SystemExit('a fault of ours')

    server.log_lines.clear()
    with server.peer('/api') as other:
        peer, made = connect(server)
        made.on_items, abort, made.abort = fail, made.abort, fail
        peer.send_text('x')
        wait_until(lambda: server.logged('could not be closed'))
        assert other.call('ping') == 'pong'
        del made.abort
        io().post(abort, 1011, 'at last')
        peer.recv_eof()


@pytest.mark.parametrize('new_loop', [None, asyncio.new_event_loop],
                         ids=['default', 'asyncio'])
@pytest.mark.parametrize('call', [
    ('leave', ['exit']), ('leave', ['interrupt']), ('leave_later', [])])
def test_an_exit_in_a_task_or_callback_does_not_end_the_loop(new_loop, call):
    default = io().new_loop
    io().new_loop = new_loop or default
    try:
        with serving(Root(), CONFIG) as server, server.peer('/api') as peer:
            assert peer.call(*call) in ('left', 'leaving')
            assert peer.call('ping') == 'pong'
    finally:
        io().new_loop = default


@pytest.mark.parametrize('method', ['hold', 'hold_async'])
def test_what_holds_the_loop_is_named(server, method):
    with server.peer('/api') as peer:
        peer.call(method, [0.15])
        wait_until(lambda: server.logged(f'{method} held the I/O loop for'))
        server.log_lines.clear()
        logs.limited.__self__._causes.clear()
        peer.call(method, [0.01])
        assert not server.logged('held the I/O loop')


class Flood:
    """A socket with more to handle, as far as the loop's turns go."""

    def __init__(self, loop, slices, is_busy):
        self.loop, self.slices = loop, slices
        self.stream = SimpleNamespace(has_more=True, take_less=lambda: None)
        self.hub = SimpleNamespace(pool=SimpleNamespace(is_busy=is_busy))

    def on_turn(self):
        self.loop.took_s += 0.004
        self.loop.done.append('slice')
        self.slices -= 1
        if self.slices:
            self.loop.read_soon(self)


@pytest.mark.parametrize('is_busy', [True, False])
def test_floods_share_10_ms_of_a_turn_and_let_the_workers_in(
        monkeypatch, is_busy):
    loop = ioloop.IOLoop()
    loop.took_s, loop.done = 0.0, []
    loop.now = lambda: loop.took_s
    monkeypatch.setattr(ioloop, 'time', SimpleNamespace(
        sleep=lambda s: loop.done.append('yield')))

    def others():
        loop.done.append('others')
        if any(flood.slices for flood in floods):
            loop.loop.call_soon(others)
        else:
            loop.loop.stop()

    with contextlib.closing(asyncio.SelectorEventLoop()) as loop.loop:
        floods = [Flood(loop, 3, is_busy) for _ in range(4)]
        for flood in floods:
            loop.read_soon(flood)
        loop.loop.call_soon(others)
        loop.loop.run_forever()
    begin = ['yield'] if is_busy else []
    assert loop.done == [
        *begin, 'slice', 'slice', 'slice', 'others'] * 4


def test_posts_that_raise_are_logged_in_one_line_and_the_next_runs(server):
    logs.limited.__self__._causes.clear()
    server.log_lines.clear()
    for _ in range(20):
        io().post(sys.exit)
    assert on_loop(lambda: 'run') == 'run'
    assert len(server.logged('SystemExit')) == 1


def test_it_is_a_manager_of_sockets_as_ws4py_has_them(server):
    _peer, made = connect(server)
    assert made in io()
    assert made in list(io())
    assert len(io()) == len(list(io()))
    assert on_loop(io().in_loop)
    assert not io().in_loop()


def test_a_call_on_the_loop_may_not_wait_for_it(server):
    class Waiting:
        @expose
        @nonblocking
        def wait(self):
            return cp_wsrpc.connection.call('f').result(1)

    with serving_beside(Waiting()) as peer:
        with pytest.raises(CallFailed) as caught:
            peer.call('wait')
        assert 'use "await"' in caught.value.message


def serving_beside(controller):
    """A connection to a controller that is mounted late."""
    class Late:
        api = controller

    app = cherrypy.tree.mount(Late(), '/late', {'/api': {
        'tools.wsrpc.on': True, 'tools.wsrpc.debug': True}})
    assert app is not None
    return RawPeer(cherrypy.server.socket_port, '/late/api')
