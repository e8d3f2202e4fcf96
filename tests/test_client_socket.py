"""One connection of the client; pitfalls 36 and 37, on bare sockets."""
from __future__ import annotations

import os
import socket
import ssl
import threading
import time

import pytest
import trustme
from ws4py.client import WebSocketBaseClient

from cp_wsrpc.client_handshake import HandshakeError
from cp_wsrpc.client_socket import ClientSocket

from .scripted import frame, refuse, scripted, text
from .serving import certificates, free_port, wait_until


def plain_ws4py_hears(url):
    """The messages that ws4py's own client gets, without its thread."""
    heard = []

    class Plain(WebSocketBaseClient):
        def received_message(self, message):
            heard.append(message.data)

    client = Plain(url)
    client.connect()
    sock = client.sock
    sock.settimeout(5)
    while client.once():
        pass
    sock.close()
    return heard


def hears(url, expected, **options):
    """What ours gets until there are ``expected`` items."""
    ws = ClientSocket(url, **options)
    ws.connect()
    items = []
    try:
        wait_until(lambda: items.extend(ws.receive()[0])
                   or len(items) >= expected)
    finally:
        ws.close_connection()
    return items


# -- pitfalls 36 -------------------------------------------------------------

def greet(peer):
    peer.shake(early=frame(1, b'x' * 100) * 5)


def test_pushes_in_one_segment_with_the_101_are_kept():
    with scripted(greet) as server:
        assert hears(server.url, 5) == [b'x' * 100] * 5


def test_plain_ws4py_loses_them():
    with scripted(greet) as server:
        assert len(plain_ws4py_hears(server.url)) < 5


def test_a_push_that_is_cut_in_the_segment_with_the_101_is_whole():
    def cut(peer):
        whole = frame(1, b'hello')
        peer.shake(early=whole[:3])
        peer.sock.sendall(whole[3:])
        peer.recv_eof()

    with scripted(cut) as server:
        assert hears(server.url, 1) == [b'hello']


# -- pitfalls 37: certificates -----------------------------------------------

def tls_server(*names):
    """A server's context, by an authority that nobody knows."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if names:
        trustme.CA().issue_cert(*names).configure_cert(context)
    else:
        context.load_cert_chain(certificates().certificate,
                                certificates().private_key)
    return context


def test_a_certificate_of_an_unknown_authority_is_refused():
    with scripted(greet, tls=tls_server('127.0.0.1')) as server:
        with pytest.raises(ssl.SSLCertVerificationError):
            ClientSocket(server.url).connect()


def test_plain_ws4py_takes_it():
    with scripted(greet, tls=tls_server('127.0.0.1')) as server:
        plain_ws4py_hears(server.url)


def test_a_certificate_for_another_name_is_refused():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority = trustme.CA()
    authority.issue_cert('example.com').configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    with scripted(greet, tls=context) as server:
        with pytest.raises(ssl.SSLCertVerificationError):
            ClientSocket(server.url, ssl_context=trusting).connect()


def test_a_given_context_says_whom_to_trust():
    context = certificates().client_context()
    with scripted(greet, tls=tls_server()) as server:
        assert hears(server.url, 5, ssl_context=context) == [b'x' * 100] * 5


def test_the_server_is_told_the_name():
    asked = []
    context = tls_server()
    context.sni_callback = lambda sock, name, _: asked.append(name)
    with scripted(greet, tls=context) as server:
        hears(server.url.replace('127.0.0.1', 'localhost'), 5,
              ssl_context=certificates().client_context())
    assert asked == ['localhost']


def test_tls_brings_all_records_of_a_burst():
    def burst(peer):
        peer.shake()
        for _ in range(200):
            peer.sock.sendall(text('y' * 1000))
        peer.recv_eof()

    with scripted(burst, tls=tls_server()) as server:
        assert len(hears(server.url, 200,
                         ssl_context=certificates().client_context())) == 200


# -- pitfalls 37: addresses, time, the accept key ----------------------------

def test_every_address_of_a_name_is_tried(monkeypatch):
    # localhost is ::1 first on many machines, and nobody listens there.
    asked = []

    def both(host, port, **kwargs):
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, '',
                 ('127.0.0.1', closed)),
                (socket.AF_INET, socket.SOCK_STREAM, 6, '',
                 ('127.0.0.1', port))]

    closed = free_port()
    with scripted(greet) as server:
        monkeypatch.setattr(socket, 'getaddrinfo', both)
        url = server.url.replace('127.0.0.1', 'localhost')
        assert len(hears(url, 5)) == 5
    assert asked == ['localhost']


def test_plain_ws4py_tries_the_first_alone(monkeypatch):
    closed = free_port()
    with scripted(greet) as server:
        monkeypatch.setattr(socket, 'getaddrinfo', lambda *args: [
            (socket.AF_INET, socket.SOCK_STREAM, 6, '',
             ('127.0.0.1', port)) for port in (closed, server.port)])
        client = WebSocketBaseClient(
            server.url.replace(str(server.port), str(closed)))
        with pytest.raises(ConnectionRefusedError):
            client.connect()
        client.sock.close()


def test_nobody_there_is_the_os_error():
    ws = ClientSocket(f'ws://127.0.0.1:{free_port()}')
    with pytest.raises(ConnectionRefusedError):
        ws.connect()
    assert ws.sock is None


@pytest.mark.parametrize('server_does', [
    lambda peer: peer.recv_eof(),
    lambda peer: (peer.read_head(), peer.sock.sendall(b'HTTP/1.1 101 S'),
                  peer.recv_eof())])
def test_a_server_that_is_silent_in_the_handshake_is_left(server_does):
    with scripted(server_does) as server:
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            ClientSocket(server.url, connect_timeout_s=0.2).connect()
        assert time.monotonic() - started < 2


@pytest.mark.parametrize('changes', [
    {'Sec_WebSocket_Accept': None}, {'Sec_WebSocket_Accept': 'x'},
    {'Connection': 'close'}, {'Upgrade': None}])
def test_an_answer_that_is_none_is_refused(changes):
    with scripted(lambda peer: peer.shake(**changes)) as server:
        ws = ClientSocket(server.url)
        with pytest.raises(HandshakeError):
            ws.connect()
        assert ws.sock is None


def test_a_handshake_may_be_ended_from_another_thread():
    with scripted(lambda peer: peer.recv_eof()) as server:
        ws = ClientSocket(server.url)
        failed = []

        def connect():
            try:
                ws.connect()
            except OSError as error:
                failed.append(error)

        thread = threading.Thread(target=connect)
        thread.start()
        wait_until(lambda: server.peers)
        ws.abort()
        thread.join(5)
        assert failed


# -- refusals ----------------------------------------------------------------

@pytest.mark.parametrize('status', [200, 303, 401, 403, 404, 503])
def test_a_refusal_has_status_headers_and_body(status):
    with scripted(refuse(status, 'X-Why: so\r\n', 'b' * 500)) as server:
        with pytest.raises(HandshakeError) as caught:
            ClientSocket(server.url).connect()
    error = caught.value
    assert (error.status, error.body) == (status, b'b' * 200)
    assert ('X-Why', 'so') in error.headers
    assert str(status) in str(error)


def test_a_refusal_whose_body_never_comes_is_told_all_the_same(monkeypatch):
    monkeypatch.setattr('cp_wsrpc.client_socket.BODY_TIMEOUT_S', 0.05)

    def promise(peer):
        peer.read_head()
        peer.sock.sendall(b'HTTP/1.1 401 No\r\nContent-Length: 50\r\n\r\nab')
        peer.recv_eof()

    with scripted(promise) as server:
        with pytest.raises(HandshakeError) as caught:
            ClientSocket(server.url).connect()
    assert (caught.value.status, caught.value.body) == (401, b'ab')


def test_an_endless_head_is_refused():
    def endless(peer):
        peer.read_head()
        peer.sock.sendall(b'HTTP/1.1 101 S\r\n' + b'A: b\r\n' * 20_000)
        peer.recv_eof()

    with scripted(endless) as server:
        with pytest.raises(HandshakeError, match='longer than'):
            ClientSocket(server.url).connect()


def test_early_hints_before_the_101_are_passed_over():
    def hint(peer):
        peer.sock.sendall(b'HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n')
        greet(peer)

    with scripted(hint) as server:
        assert len(hears(server.url, 5)) == 5


# -- what is asked -----------------------------------------------------------

def asked(url='ws://h/', **options):
    return ClientSocket(url, **options).handshake_request.decode()


def test_no_origin_is_sent_unless_it_is_given():
    assert 'origin' not in asked().lower()
    assert 'Origin: http://h' in asked(headers=[('Origin', 'http://h')])
    plain = WebSocketBaseClient('ws://127.0.0.1:1/')
    plain.sock.close()
    assert 'Origin: ws://' in plain.handshake_request.decode()


def test_a_header_of_the_user_stands_in_the_place_of_ours():
    request = asked(headers=[('host', 'other'), ('Cookie', 'a=1')])
    assert request.lower().count('host:') == 1
    assert 'host: other\r\nCookie: a=1' in request


def test_credentials_of_the_url_are_not_in_the_request_as_they_are():
    assert 'a:b' not in asked('ws://a:b@h/')


def test_subprotocols_are_offered_and_the_chosen_one_is_kept():
    def choose(peer):
        peer.shake(Sec_WebSocket_Protocol='b')
        assert peer.header('Sec-WebSocket-Protocol') == 'a, b'

    with scripted(choose) as server:
        ws = ClientSocket(server.url, protocols=['a', 'b'])
        ws.connect()
        ws.close_connection()
    assert ws.protocols == ['b']


def test_a_unix_socket_is_connected_to(tmp_path):
    path = os.fspath(tmp_path / 's')
    requests = []

    def script(peer):
        greet(peer)
        requests.append(peer.head)

    with scripted(script, family=socket.AF_UNIX, address=path):
        assert len(hears(f'ws+unix://{path}:/api', 5)) == 5
    assert requests[0].startswith('GET /api HTTP/1.1\r\nHost: localhost')


# -- sending -----------------------------------------------------------------

def connected(server, **options):
    ws = ClientSocket(server.url, **options)
    ws.connect()
    return ws


def count(peer):
    """Take texts until the Close; say how many of which size came whole."""
    peer.shake()
    sizes = []
    while True:
        opcode, payload = peer.recv_frame()
        if opcode == 8:
            peer.counted = sizes
            return
        assert payload == payload[:1] * len(payload), 'frames are mixed up'
        sizes.append(len(payload))


@pytest.mark.parametrize('tls', [False, True])
def test_four_threads_send_whole_messages_to_a_slow_reader(tls):
    # ws4py's sendall is not locked: frames of several threads are mixed.
    with scripted(count, tls=tls_server() if tls else None) as server:
        ws = connected(server, ssl_context=certificates().client_context()
                       if tls else None)
        sent = threading.Barrier(5)

        def send(letter):
            for _ in range(20):
                ws.send_text(letter * 30_000)
            sent.wait(10)

        threads = [threading.Thread(target=send, args=(letter,))
                   for letter in (b'a', b'b', b'c', b'd')]
        for thread in threads:
            thread.start()
        sent.wait(10)       # it is not the reader that they wait for
        ws.close()
        wait_until(ws.on_writable, what='all to be written')
        wait_until(lambda: hasattr(server.peers[0], 'counted'))
        for thread in threads:
            thread.join(5)
        ws.close_connection()
    assert server.peers[0].counted == [30_000] * 80


def test_a_reader_that_does_not_read_is_told_of_and_waited_for():
    refused = []
    go_on = threading.Event()

    def slow(peer):
        peer.shake()
        go_on.wait(10)
        peer.recv_close()

    with scripted(slow) as server:
        ws = connected(server)
        ws.on_refused = lambda: refused.append(1)
        started = time.monotonic()
        while not ws.is_refusing:
            ws.send_text(b'z' * 100_000)
        assert time.monotonic() - started < 5
        assert refused == [1]
        ws.send_text(b'more')
        assert ws.backlog == 1
        ws.close()
        go_on.set()
        wait_until(ws.on_writable)
        ws.close_connection()


def test_nothing_is_sent_after_the_close_and_a_second_one_is_none():
    def script(peer):
        peer.shake()
        server.said.put(peer.recv_frame()[0])
        peer.recv_eof()
        server.said.put(peer._buffer)

    with scripted(script) as server:
        ws = connected(server)
        ws.close(1000, 'r' * 200)
        ws.send_text(b'late')
        ws.close(1001)
        ws.close_connection()
        ws.close_connection()
        ws.send_text(b'gone')
        assert [server.next(), server.next()] == [8, b'']


def test_a_close_of_plain_ws4py_raises_when_the_connection_has_gone():
    client = WebSocketBaseClient('ws://127.0.0.1:1/')
    client.sock.close()
    client.sock = None
    with pytest.raises(RuntimeError):
        client.close()
