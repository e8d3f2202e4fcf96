"""Pushes to many sockets: straight into them, or through their queues."""
from __future__ import annotations

import hashlib
import threading
from queue import SimpleQueue

import cherrypy
import pytest

import cp_wsrpc
from cp_wsrpc import expose, logs
from cp_wsrpc.fanout import make_room, once_each
from cp_wsrpc.frames import text_frame
from cp_wsrpc.states import State

from .rawpeer import TEXT
from .serving import serving, wait_until

#: Small buffers, so that a socket soon takes a frame in part.
SMALL = 4096


class Handler(cp_wsrpc.WebSocket):
    made = SimpleQueue()

    def __init__(self, sock, *args, **kwargs):
        super().__init__(sock, *args, **kwargs)
        sock.setsockopt(1, 7, SMALL)        # SOL_SOCKET, SO_SNDBUF
        self.closings = SimpleQueue()
        Handler.made.put(self)

    def closed(self, code, reason=None):
        self.closings.put(code)


class Api:
    @expose
    def ping(self):
        return 'pong'


class Root:
    api = Api()


CONFIG = {
    '/api': {'tools.wsrpc.on': True, 'tools.wsrpc.subscribe': ['*']},
    '/ws': {'tools.wsrpc.on': True, 'tools.wsrpc.handler_cls': Handler},
}


@pytest.fixture
def server():
    while not Handler.made.empty():
        Handler.made.get()
    with serving(Root(), CONFIG) as server:
        yield server


def pushes():
    return cherrypy.engine.wsrpc.manager.pushes


def connect(server, **options):
    peer = server.peer('/ws', **options)
    made = Handler.made.get(timeout=5)
    wait_until(lambda: made.state is State.OPEN)
    return peer, made


def push(text, *websockets, first=lambda: None):
    """Push to these alone; ``first`` runs on the loop before that."""
    def targets():
        first()
        return [(list(websockets),
                 once_each(lambda _, framer: framer.text_frame(text)))]

    cherrypy.engine.wsrpc.manager.fan_out(targets, len(text))


def settle():
    """Wait until the loop has done what it does now."""
    done = threading.Event()
    cherrypy.engine.wsrpc.manager.post(done.set)
    assert done.wait(5)


def make_direct(peer, made):
    """Have a flush find the socket with nothing in its way."""
    push(b'through the queue', made)
    assert peer.recv_text() == 'through the queue'
    wait_until(lambda: made.direct is not None)
    settle()


def test_a_push_alone_goes_straight_into_idle_sockets(server):
    with connect(server)[0] as peer:
        for number in range(4):
            cherrypy.engine.publish('websocket-broadcast', str(number))
            assert peer.recv_text() == str(number)
        wait_until(lambda: pushes().sent_frames == 3)
        assert pushes().sent_bytes == 3 * 3
        figures = cherrypy.engine.wsrpc.statistics()
        assert figures['Messages Out'] == figures['Pushes Delivered'] == 4
        assert figures['Bytes Out'] == 4 * 3


def test_several_pushes_that_wait_are_joined_for_each_socket(server):
    with connect(server)[0] as peer, connect(server)[0] as other:
        def publish_ten():
            for number in range(10):
                cherrypy.engine.publish('websocket-broadcast', str(number))

        cherrypy.engine.wsrpc.manager.post(publish_ten)
        for each in (peer, other):
            assert [each.recv_text() for _ in range(10)] == [
                str(number) for number in range(10)]
        assert pushes().sent_frames == 0


def test_a_push_that_fails_has_a_line_and_costs_no_other(server, caplog):
    logs.limited.__self__._causes.clear()       # one line a second
    peer, made = connect(server)
    with peer:
        def push_two():
            push(b'lost', made, first=lambda: 1 / 0)
            push(b'next', made)

        cherrypy.engine.wsrpc.manager.post(push_two)
        assert peer.recv_text() == 'next'
    assert [(record.message, record.exc_info[0]) for record in caplog.records
            if record.name == 'cp_wsrpc.fanout'] == [
        ('a push failed', ZeroDivisionError)]


def test_a_push_comes_after_what_its_publisher_has_sent_before(server):
    with server.peer('/api') as peer:
        peer.call('rpc.subscribe', ['news'])
        connection, = cp_wsrpc.connections()

        cp_wsrpc.publish('news', 1)
        assert peer.recv_json()['params']['result'] == 1
        wait_until(lambda: connection.direct is not None)

        def say():
            connection.notify('f')
            cp_wsrpc.publish('news', 2)

        push(b'', first=say)        # when nothing is sent before the next
        assert [peer.recv_json()['method'] for _ in range(2)] == [
            'f', 'rpc.subscription']


def test_the_bytes_of_pushes_and_of_workers_do_not_mix(server):
    peer, made = connect(server, receive_buffer=SMALL)
    count = 150

    def body(name, number):
        text = f'{name}{number} ' * (number * 97 % 1500)
        return f'{hashlib.sha1(text.encode()).hexdigest()}{text}'

    def work(name):
        for number in range(count):
            made.send_alone(text_frame(body(name, number).encode()))

    def publish():
        for number in range(count):
            cherrypy.engine.publish('websocket-broadcast',
                                    body('p', number))

    threads = [threading.Thread(target=work, args=(name,)) for name in 'ab']
    threads.append(threading.Thread(target=publish))
    with peer:
        for thread in threads:
            thread.start()
        for _ in range(3 * count):
            opcode, payload = peer.recv_frame()
            assert opcode == TEXT
            assert hashlib.sha1(payload[40:]).hexdigest() == \
                payload[:40].decode()
        for thread in threads:
            thread.join()
        assert made.state is State.OPEN


def test_the_rest_of_a_push_that_is_taken_in_part_follows(server):
    peer, made = connect(server, receive_buffer=SMALL)
    with peer:
        make_direct(peer, made)
        big = 'x' * 300_000
        push(big.encode(), made)
        wait_until(lambda: made.out.refusing)
        assert made.direct is None
        push(b'next', made)
        assert peer.recv_text() == big
        assert peer.recv_text() == 'next'


def test_a_socket_that_is_lost_costs_no_other_its_push(server):
    peer, made = connect(server)
    with connect(server)[0] as other:
        last = next(websocket for websocket in cherrypy.engine.wsrpc.manager
                    if websocket is not made)
        make_direct(peer, made)
        push(b'x', made, last, first=peer.reset)
        assert other.recv_text() == 'x'
        assert made.closings.get(timeout=5) == 1006


def test_no_push_goes_straight_where_a_worker_sends(server):
    peer, made = connect(server)
    with peer:
        make_direct(peer, made)
        straight = pushes().sent_frames
        pushes().senders.append(made)       # as send_alone does
        push(b'x', made)
        assert peer.recv_text() == 'x'
        settle()
        pushes().senders.remove(made)
        assert pushes().sent_frames == straight


def test_no_push_goes_straight_behind_a_worker_that_ends_meanwhile(server):
    peer, made = connect(server)
    manager, held = cherrypy.engine.wsrpc.manager, threading.Event()
    with peer:
        make_direct(peer, made)
        straight = pushes().sent_frames
        pushes().senders.append(made)       # as send_alone does
        manager.loop.call_soon_threadsafe(held.wait, 5)
        push(b'x', made)
        # It may have left the rest of a frame, and posted that only now.
        manager.post(pushes().senders.remove, made)
        held.set()
        assert peer.recv_text() == 'x'
        settle()
        assert pushes().sent_frames == straight


def test_a_flush_opens_no_way_past_a_worker_that_still_sends(server):
    peer, made = connect(server)
    manager, held = cherrypy.engine.wsrpc.manager, threading.Event()
    with peer:
        make_direct(peer, made)
        straight = pushes().sent_frames
        pushes().senders.append(made)       # as send_alone does
        manager.loop.call_soon_threadsafe(held.wait, 5)
        push(b'x', made)
        made.send('before')
        manager.post(made.flush)
        held.set()
        assert [peer.recv_text() for _ in range(2)] == ['before', 'x']
        settle()
        pushes().senders.remove(made)
        assert pushes().sent_frames == straight


def test_no_worker_sends_by_itself_while_a_push_is_sent(server):
    peer, made = connect(server)
    waiting = []
    with peer:
        make_direct(peer, made)

        def send():
            made.send_alone(text_frame(b'reply'))
            waiting.extend(made.out.frames)

        push(b'push', made, first=send)
        assert [peer.recv_text() for _ in range(2)] == ['reply', 'push']
        assert waiting == [text_frame(b'reply')]
        assert pushes().senders == []


def test_a_pause_of_a_push_tells_whether_another_thread_made_use_of_it():
    assert not all(make_room() for _ in range(10))
    ended = threading.Event()

    def hunger():
        while not ended.is_set():
            pass

    thread = threading.Thread(target=hunger)
    thread.start()
    try:
        # The first, unless other processes have all cores meanwhile.
        assert any(make_room() for _ in range(200))
    finally:
        ended.set()
        thread.join()
