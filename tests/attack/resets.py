"""The states of a connection in which its peer goes with a RST (D3).

``STATES``: {name: function(site)}; each connects to the site (a
``victim.Target``), brings the connection into the state and returns what is
to be reset: a ``RawPeer`` or a socket.  It is seen from what the server
sends that the state is reached, or it is no state of the server's: its own
buffers hold what it was sent, in whatever order it gets to it.
"""
from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import ssl
import struct

from ..rawhttp import connect, request_head
from ..rawpeer import (BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT,
                       client_frame)

__all__ = ['STATES', 'TLS_STATES', 'reset']

API, PLAIN, SLOW, DEFLATE = ('/counted/' + name for name in (
    'api', 'ws', 'slow', 'deflate'))
STATES, TLS_STATES = {}, {}
_ids = itertools.count(1)


def state(function):
    STATES[function.__name__] = function
    return function


def tls_state(function):
    TLS_STATES[function.__name__] = function
    return function


def reset(connection):
    """Go with a RST, whatever has been read or written."""
    sock = getattr(connection, 'sock', connection)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                    struct.pack('ii', 1, 0))
    sock.close()


def request(path):
    return request_head('GET', path, 'HTTP/1.1', {
        'Host': '127.0.0.1', 'Upgrade': 'websocket', 'Connection': 'Upgrade',
        'Sec-WebSocket-Key': 'AAAAAAAAAAAAAAAAAAAAAA==',
        'Sec-WebSocket-Version': '13'})


def sending(site, data):
    """A socket on which these bytes were sent, and none read."""
    sock = connect(site.port, tls=site.tls)
    sock.sendall(data)
    return sock


def call(method, *params, id=True, **more):
    return json.dumps({
        'jsonrpc': '2.0', 'method': method, 'params': params,
        **({'id': next(_ids)} if id else {}), **more}).encode()


def frame(method, *params):
    return client_frame(TEXT, call(method, *params))


def calling(site, path, *frames, **options):
    """A peer whose calls have begun: a ``ping`` after them is answered."""
    peer = site.peer(path, **options)
    peer.send_raw(b''.join(frames))
    assert peer.call('ping') == 'pong'
    return peer


# -- the handshake -----------------------------------------------------------


@state
def connected(site):
    return sending(site, b'')


@state
def in_the_request_line(site):
    return sending(site, b'GET /counted/a')


@state
def in_a_header(site):
    return sending(site, request(API)[:60])


@state
def before_the_last_byte_of_the_request(site):
    return sending(site, request(API)[:-1])


@state
def request_sent(site):
    return sending(site, request(PLAIN))


@state
def request_and_frames_sent(site):
    return sending(site, request(API) + frame('ping') * 3)


@state
def refused(site):
    return site.peer(API, headers={'Origin': 'http://evil.example'})


@state
def in_the_answer(site):
    sock = sending(site, request(PLAIN))
    assert len(sock.recv(20)) == 20
    return sock


@state
def after_the_101(site):
    return site.peer(PLAIN)


@state
def opened_runs(site):
    peer = site.peer(SLOW)
    peer.send_raw(frame('ping') * 3)        # held
    return peer


# -- frames ------------------------------------------------------------------


def beginning(site, data, path=PLAIN):
    peer = site.peer(path)
    peer.send_raw(data)
    return peer


@state
def in_a_frames_head(site):
    return beginning(site, client_frame(TEXT, b'x')[:1])


@state
def in_a_frames_length(site):
    return beginning(site, client_frame(TEXT, b'x' * 70_000)[:6])


@state
def in_a_frames_mask(site):
    return beginning(site, client_frame(TEXT, b'x')[:4])


@state
def before_the_payload(site):
    return beginning(site, client_frame(TEXT, b'x' * 100)[:6], API)


@state
def in_the_payload(site):
    return beginning(site, client_frame(TEXT, b'x' * 50_000)[:30_000], API)


@state
def between_fragments(site):
    return beginning(site, client_frame(TEXT, b'x', fin=False))


@state
def in_a_fragment(site):
    return beginning(site, client_frame(TEXT, b'x', fin=False)
                     + client_frame(CONTINUATION, b'y' * 90)[:40])


@state
def in_a_ping(site):
    return beginning(site, client_frame(PING, b'x' * 100)[:50])


@state
def before_the_pong(site):
    return beginning(site, client_frame(PING, b'x') * 20)


@state
def unasked_pong_sent(site):
    return beginning(site, client_frame(PONG, b'x'))


@state
def bad_frame_sent(site):
    return beginning(site, client_frame(TEXT, b'x', mask=False), API)


@state
def bad_frame_answered(site):
    peer = beginning(site, client_frame(TEXT, b'\xff'))
    assert peer.recv_close()[0] == 1007
    return peer


@state
def bad_frame_while_a_handler_runs(site):
    return beginning(site, client_frame(TEXT, b'pause')
                     + client_frame(3, b'x'))


@state
def binary_sent_to_rpc(site):
    return beginning(site, client_frame(BINARY, b'x'), API)


@state
def handler_runs(site):
    peer = site.peer(PLAIN)
    peer.send_text('first')
    assert peer.recv_text() == 'first'
    peer.send_text('hold')
    return peer


@state
def handler_is_behind(site):
    """Reading has stopped: 64 messages wait, and a RST is not heard of."""
    return beginning(site, client_frame(TEXT, b'pause')
                     + client_frame(TEXT, b'x') * 200)


# -- calls -------------------------------------------------------------------


@state
def pooled_call_runs(site):
    return calling(site, API, frame('hold'))


@state
def async_call_runs(site):
    return calling(site, API, frame('hold_async'))


@state
def calls_wait_for_the_pool(site):
    peer = site.peer(API)
    peer.send_raw(b''.join(frame('hold') for _ in range(20)))
    assert peer.call('add', [1, 2]) == 3
    return peer


@state
def nonblocking_replies_are_written(site):
    return beginning(site, frame('add', 1, 2) * 50, API)


@state
def pooled_replies_are_written(site):
    return beginning(site, b''.join(frame('ping') for _ in range(50)), API)


@state
def in_a_reply(site):
    peer = site.peer(API, receive_buffer=4096)
    peer.send_raw(frame('big', 600_000))
    peer.sock.recv(1000)
    return peer


@state
def in_a_reply_of_the_loops(site):
    peer = site.peer(API, receive_buffer=4096)
    peer.send_raw(frame('big_at_once', 600_000))
    peer.sock.recv(1000)
    return peer


@state
def out_queue_is_full(site):
    peer = site.peer(API, receive_buffer=4096)
    peer.send_raw(b''.join(frame('big', 300_000) for _ in range(10)))
    peer.sock.recv(1000)
    return peer


@state
def batch_runs(site):
    batch = b'[' + b','.join(call(method) for method in (
        'ping', 'hold', 'hold_async')) + b']'
    return calling(site, API, client_frame(TEXT, batch))


@state
def notification_runs(site):
    return calling(site, API, client_frame(TEXT, call('hold', id=False)))


@state
def call_under_a_key_runs(site):
    return calling(site, API, client_frame(TEXT, call(
        'hold', _meta={'idempotencyKey': f'key {next(_ids)}'})))


@state
def server_call_waits(site):
    peer = site.peer(API)
    peer.send_raw(frame('ask'))
    assert peer.recv_json()['method'] == 'answer'
    return peer


@state
def server_call_of_a_task_waits(site):
    peer = site.peer(API)
    peer.send_raw(frame('ask_async'))
    assert peer.recv_json()['method'] == 'answer'
    return peer


@state
def in_the_answer_to_a_server_call(site):
    peer = server_call_waits(site)
    peer.send_raw(client_frame(TEXT, b'{"jsonrpc":"2.0","id":2,')[:20])
    return peer


@state
def route_is_made(site):
    return calling(site, API, client_frame(TEXT, json.dumps(
        {'jsonrpc': '2.0', 'method': 'seat', 'params': {'wait': True},
         'id': 1}).encode()))


@state
def route_runs_and_others_wait(site):
    return calling(site, API, frame('seat'), frame('seat.hold'),
                   frame('seat.hold'))


@state
def route_waits_for_its_client(site):
    peer = calling(site, API, frame('seat'))
    peer.send_raw(frame('seat.ask'))
    while True:
        if peer.recv_json().get('method') == 'answer':
            return peer


# -- pushes ------------------------------------------------------------------


@state
def subscribed(site):
    peer = site.peer(API)
    peer.call('rpc.subscribe', [f'topic {next(_ids)}'])
    return peer


@state
def pushes_are_written(site):
    peer = site.peer(API, receive_buffer=4096)
    topic = f'topic {next(_ids)}'
    peer.call('rpc.subscribe', [topic])
    publish = client_frame(TEXT, json.dumps(
        {'jsonrpc': '2.0', 'method': 'rpc.publish', 'params': {
            'topic': topic, 'data': 'x' * 20_000}}).encode())
    peer.send_raw(publish * 50)
    peer.sock.recv(1000)
    return peer


# -- the end -----------------------------------------------------------------


@state
def close_sent(site):
    return beginning(site, client_frame(CLOSE, b'\x03\xe8'))


@state
def close_sent_while_a_call_runs(site):
    peer = calling(site, API, frame('hold'))
    peer.send_frame(CLOSE, b'\x03\xe8')
    return peer


@state
def close_sent_while_a_handler_runs(site):
    return beginning(site, client_frame(TEXT, b'pause')
                     + client_frame(CLOSE, b'\x03\xe8'))


@state
def close_sent_in_a_message(site):
    return beginning(site, client_frame(TEXT, b'x', fin=False)
                     + client_frame(CLOSE, b'\x03\xe8'))


@state
def close_answered(site):
    peer = close_sent(site)
    assert peer.recv_close()[0] == 1000
    return peer


@state
def close_received(site):
    peer = site.peer(API)
    peer.send_raw(frame('leave'))
    assert peer.recv_close()[0] == 4001
    return peer


@state
def both_have_closed(site):
    peer = close_received(site)
    peer.send_frame(CLOSE, struct.pack('!H', 4001))
    return peer


@state
def half_closed(site):
    peer = calling(site, API, frame('hold'))
    socket.socket.shutdown(peer.sock, socket.SHUT_WR)
    return peer


# -- deflate -----------------------------------------------------------------


def deflating(site):
    peer = site.peer(DEFLATE, headers={
        'Sec-WebSocket-Extensions': 'permessage-deflate'})
    assert 'permessage-deflate' in peer.headers['sec-websocket-extensions']
    return peer


@state
def in_a_compressed_message(site):
    peer = deflating(site)
    peer.send_raw(client_frame(TEXT, b'\x4a\x4c\x4a', rsv=4, fin=False)
                  + client_frame(CONTINUATION, b'\x06' * 50)[:20])
    return peer


@state
def bad_compression_sent(site):
    peer = deflating(site)
    peer.send_frame(TEXT, b'\xff' * 20, rsv=4)
    return peer


@state
def in_a_compressed_reply(site):
    peer = deflating(site)
    peer.send_raw(frame('big', 900_000) * 5)
    peer.sock.recv(100)
    return peer


# -- TLS alone ---------------------------------------------------------------


def below_tls(site, data):
    sock = connect(site.port)
    sock.sendall(data)
    return sock


def client_hello(site):
    """What a client says first, as bytes."""
    outgoing = ssl.MemoryBIO()
    tls = site.tls.wrap_bio(ssl.MemoryBIO(), outgoing,
                            server_hostname='127.0.0.1')
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError('a handshake without an answer')


@tls_state
def in_the_client_hello(site):
    return below_tls(site, client_hello(site)[:100])


@tls_state
def client_hello_sent(site):
    return below_tls(site, client_hello(site))


@tls_state
def server_hello_received(site):
    sock = client_hello_sent(site)
    sock.recv(100)
    return sock


@tls_state
def tls_handshake_done(site):
    return connect(site.port, tls=site.tls)


@tls_state
def in_a_record(site):
    peer = site.peer(API)
    # The head of a record of application data, and a part of the rest.
    os.write(peer.sock.fileno(), b'\x17\x03\x03\x00\x40' + b'x' * 20)
    return peer


@tls_state
def garbage_below_tls(site):
    peer = site.peer(PLAIN)
    os.write(peer.sock.fileno(), b'no record at all')
    return peer


@tls_state
def close_notify_sent(site):
    peer = site.peer(PLAIN)
    peer.sock.setblocking(False)
    with contextlib.suppress(ssl.SSLError):
        peer.sock.unwrap()
    return peer
