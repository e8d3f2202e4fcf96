"""wss: both of cheroot's adapters, TLS 1.2 and 1.3, both loops.

Pitfalls 13 and 20, threats D7.
"""
from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import socket
import ssl
import struct
import threading
import time
from queue import SimpleQueue

import cherrypy
import pytest
import uvloop

import cp_wsrpc
from cp_wsrpc import expose

from .attack import FULL
from .rawpeer import CLOSE, PING, PONG, TEXT, client_frame
from .serving import serving, wait_until

VERSIONS = {'1.2': ssl.TLSVersion.TLSv1_2, '1.3': ssl.TLSVersion.TLSv1_3}
KINDS = [(adapter, version, loop) for adapter in ('builtin', 'pyopenssl')
         for version in VERSIONS for loop in ('uvloop', 'asyncio')]


class Handler(cp_wsrpc.WebSocket):
    endings = SimpleQueue()

    def received_message(self, message):
        self.send(message)

    def closed(self, code, reason=None):
        Handler.endings.put(code)


class Api:
    @expose
    def add(self, a: int, b: int):
        return a + b

    @expose
    def echo(self, text):
        return text

    @expose
    async def later(self, text):
        await asyncio.sleep(0)
        return text


class Root:
    api = Api()


CONFIG = {'/api': {'tools.wsrpc.on': True, 'tools.wsrpc.subscribe': ['*']},
          '/ws': {'tools.wsrpc.on': True,
                  'tools.wsrpc.handler_cls': Handler}}


@pytest.fixture(scope='module', params=KINDS, ids='-'.join)
def server(request):
    adapter, version, loop = request.param
    io = cherrypy.engine.wsrpc.manager
    default = io.new_loop
    if loop == 'asyncio':
        io.new_loop = asyncio.new_event_loop
    else:
        io.new_loop = uvloop.new_event_loop
    try:
        with serving(Root(), CONFIG, tls=adapter) as server:
            context = server.ssl_context
            context.minimum_version = VERSIONS[version]
            context.maximum_version = VERSIONS[version]
            server.version = f'TLSv{version}'
            yield server
    finally:
        io.new_loop = default


@pytest.fixture(autouse=True)
def nobody_stays(server):
    yield
    wait_until(lambda: not len(cherrypy.engine.wsrpc.manager))
    cherrypy.engine.wsrpc.hub.pool.wait_for_strands(5)
    while not Handler.endings.empty():
        Handler.endings.get()


def ask(number):
    return json.dumps({'jsonrpc': '2.0', 'method': 'add',
                       'params': [number, 1], 'id': number})


def test_the_first_reply_needs_no_second_message(server):
    took_s = []
    for _ in range(3):
        with server.peer('/api') as peer:
            assert peer.sock.version() == server.version
            begun = time.monotonic()
            assert peer.call('add', [1, 2]) == 3
            took_s.append(time.monotonic() - begun)
            assert peer.call('add', [2, 2]) == 4
    assert min(took_s) < 0.1


def test_a_call_in_one_record_with_the_handshake_is_served(server):
    with server.peer('/api', early=client_frame(
            TEXT, ask(7).encode())) as peer:
        assert peer.recv_json()['result'] == 8


def test_records_of_one_byte_are_put_together(server):
    with server.peer('/api') as peer:
        for byte in client_frame(TEXT, ask(1).encode()):
            peer.send_raw(bytes([byte]))
        assert peer.recv_json()['result'] == 2


def test_many_messages_in_one_record_are_all_served(server):
    with server.peer('/api') as peer:
        frames = b''.join(client_frame(TEXT, ask(n).encode())
                          for n in range(120))
        assert len(frames) < 16384
        peer.send_raw(frames)
        assert sorted(peer.recv_json()['result']
                      for _ in range(120)) == list(range(1, 121))


def test_more_records_than_one_turn_reads_are_all_served(server):
    with server.peer('/api') as peer:
        for n in range(150):
            peer.send_text(ask(n))
        assert {peer.recv_json()['id'] for _ in range(150)} == set(
            range(150))


@pytest.mark.parametrize('method', ['echo', 'later'])
def test_large_messages_go_both_ways(server, method):
    with server.peer('/api') as peer:
        text = 'x' * 900_000
        assert peer.call(method, [text]) == text


def test_a_peer_that_reads_late_loses_nothing(server):
    with server.peer('/ws', receive_buffer=4096) as peer:
        texts = [bytes([65 + n % 26]) * (n * 977 % 60_000)
                 for n in range(60)]
        reader = threading.Thread(target=lambda: [
            peer.send_frame(TEXT, text) for text in texts])
        peer.sock.settimeout(5)
        reader.start()
        reader.join(5)
        assert [peer.recv_frame()[1] for _ in texts] == texts


def test_four_threads_send_and_nothing_breaks(server):
    seconds = 60 if FULL else 0.25
    with server.peer('/api') as peer:
        peer.call('rpc.subscribe', ['t'])
        until = time.monotonic() + seconds

        [connection] = cp_wsrpc.connections()
        # Of 1 024 messages behind, the peer would be a slow reader.
        room = threading.Semaphore(500)

        def push(name, said):
            if name in 'ab':
                cp_wsrpc.publish('t', said)
            else:
                connection.notify('rpc.subscription', result=said)

        def publish(name):
            for number in itertools.count():
                if time.monotonic() > until:
                    break
                assert room.acquire(timeout=10)
                push(name, [name, number, 'x' * 2000])
                time.sleep(0)           # lets the others go on

        threads = [threading.Thread(target=publish, args=(name,))
                   for name in 'abcd']

        def publish_end():
            for thread in threads:
                thread.join()
            cp_wsrpc.publish('t', ['end', 0, ''])

        for thread in threads:
            thread.start()
        last = threading.Thread(target=publish_end)
        last.start()
        seen = dict.fromkeys('abcd', 0)
        while True:
            name, number, _ = peer.recv_json()['params']['result']
            if name == 'end':
                break
            room.release()
            assert number == seen[name]
            seen[name] += 1
        last.join()
        assert all(seen.values())
        assert peer.call('add', [1, 1]) == 2


def test_ping_and_close_work_as_without_tls(server):
    with server.peer('/ws') as peer:
        peer.send_frame(PING, b'x')
        assert peer.recv_frame() == (PONG, b'x')
        assert peer.close(4000) == (4000, '')
    assert Handler.endings.get(timeout=5) == 4000


def test_the_servers_close_ends_with_close_notify(server):
    with server.peer('/ws') as peer:
        wait_until(lambda: len(cherrypy.engine.wsrpc.manager))
        [made] = cherrypy.engine.wsrpc.manager
        made.close(4001)
        assert peer.recv_close() == (4001, '')
        peer.send_frame(CLOSE, struct.pack('!H', 4001))
        # A FIN without close_notify would be an SSLEOFError.
        peer.sock.settimeout(5)
        assert peer.sock.recv(10) == b''
    assert Handler.endings.get(timeout=5) == 4001


@pytest.mark.parametrize('how', ['close_notify', 'fin', 'reset'])
def test_a_peer_that_goes_is_gone(server, how):
    with server.peer('/ws') as peer:
        if how == 'close_notify':
            peer.sock.setblocking(False)
            with contextlib.suppress(ssl.SSLError):
                peer.sock.unwrap()
        elif how == 'fin':
            socket.socket.shutdown(peer.sock, socket.SHUT_WR)
        else:
            peer.reset()
        assert Handler.endings.get(timeout=5) == 1006
    wait_until(lambda: not len(cherrypy.engine.wsrpc.manager))
    assert Handler.endings.empty()


def test_garbage_below_tls_ends_one_socket(server):
    with server.peer('/api') as other, server.peer('/ws') as peer:
        os.write(peer.sock.fileno(), b'no record at all')
        assert Handler.endings.get(timeout=5) == 1006
        assert other.call('add', [1, 1]) == 2


@pytest.mark.parametrize('scheme, status', [('https', 101), ('http', 403)])
def test_the_origin_of_a_wss_endpoint_is_https(server, scheme, status):
    origin = f'{scheme}://127.0.0.1:{server.port}'
    with server.peer('/api', headers={'Origin': origin}) as peer:
        assert peer.status == status
