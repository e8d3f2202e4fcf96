"""Reads and writes on the three kinds of socket: real ones, both ends."""
from __future__ import annotations

import _ssl
import contextlib
import ctypes
import itertools
import socket
import ssl
import threading

import pytest
from cheroot.ssl import pyopenssl
from OpenSSL import SSL

from cp_wsrpc import transport

from .serving import certificates, wait_until


def plain_pair():
    return socket.socketpair()


@contextlib.contextmanager
def tcp_pair():
    with socket.create_server(('127.0.0.1', 0)) as listening:
        client = socket.create_connection(listening.getsockname())
        server, _ = listening.accept()
    with client, server:
        yield server, client


def shake(server_side, client_side):
    """Both handshakes at once, each in a thread of its own."""
    thread = threading.Thread(target=server_side)
    thread.start()
    client = client_side()
    thread.join(5)
    return client


@contextlib.contextmanager
def tls_pair(kind):
    """(the server's end as cheroot makes it, the client's)."""
    files = certificates()
    with tcp_pair() as (server, client):
        ends = []

        def builtin():
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(files.certificate, files.private_key)
            ends.append(context.wrap_socket(server, server_side=True))

        def cheroots():
            context = SSL.Context(SSL.TLS_SERVER_METHOD)
            context.use_privatekey_file(files.private_key)
            context.use_certificate_chain_file(files.certificate)
            connection = pyopenssl.SSLConnection(context, server)
            connection.set_accept_state()
            connection._ssl_conn.do_handshake()
            ends.append(connection)

        peer = shake(
            builtin if kind == 'builtin' else cheroots,
            lambda: files.client_context().wrap_socket(
                client, server_hostname='localhost'))
        [ours] = ends
        ours.setblocking(False)
        try:
            yield ours, peer
        finally:
            peer.close()
            with contextlib.suppress(Exception):
                ours.close()


TLS = pytest.mark.parametrize('kind', ['builtin', 'pyopenssl'])


@TLS
def test_tls_is_told_by_what_it_can_say(kind):
    with tls_pair(kind) as (ours, _):
        assert transport.is_tls(ours)
    with tcp_pair() as (server, _):
        assert not transport.is_tls(server)


@TLS
def test_an_idle_tls_socket_gives_nothing_and_goes_on(kind):
    with tls_pair(kind) as (ours, _):
        assert transport.read_all(ours) == (b'', False, False)


@TLS
def test_all_that_openssl_holds_is_read(kind):
    with tls_pair(kind) as (ours, peer):
        text = b'x' * 50_000
        peer.sendall(text)
        got = []

        def complete():
            data, ended, _again = transport.read_all(ours)
            assert not ended
            got.append(data)
            return b''.join(got) == text

        wait_until(complete)


@TLS
def test_who_asks_for_keys_and_reads_none_is_gone(kind):
    """By OpenSSL itself, for the ssl module cannot ask for keys."""
    openssl = ctypes.CDLL(_ssl.__file__)
    with tls_pair(kind) as (ours, peer):
        # It stands behind the head of the object and its socket.
        its = ctypes.c_void_p(ctypes.c_void_p.from_address(
            id(peer._sslobj) + object.__basicsize__ + 8).value)
        assert openssl.SSL_version(its) == 0x304
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        with socket.socket(fileno=socket.dup(ours.fileno())) as plain:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        peer.settimeout(5)
        rounds = itertools.count()
        while not transport.read_all(ours)[1]:
            assert openssl.SSL_key_update(its, 1) == 1
            openssl.SSL_do_handshake(its)
            peer.send(b'x')         # 32 in a row would be an error
            assert next(rounds) < 20_000
        assert next(rounds) > 100


@TLS
def test_reading_stops_after_64_records_and_says_so(kind):
    with tls_pair(kind) as (ours, peer):
        for _ in range(100):
            peer.sendall(b'y')
        wait_until(lambda: len(ours_fd_peek(ours)) > 100)
        data, ended, again = transport.read_all(ours)
        assert (len(data), ended, again) == (64, False, True)
        data, ended, again = transport.read_all(ours)
        assert (len(data), ended, again) == (36, False, False)


def ours_fd_peek(ours):
    """What the kernel holds for it, still in records."""
    with socket.socket(fileno=socket.dup(ours.fileno())) as plain:
        return plain.recv(1 << 16, socket.MSG_PEEK)


@TLS
@pytest.mark.parametrize('end', ['close_notify', 'fin', 'reset'])
def test_the_end_of_a_tls_peer_is_told_after_its_last_bytes(kind, end):
    with tls_pair(kind) as (ours, peer):
        peer.sendall(b'last')
        if end == 'close_notify':
            peer.setblocking(False)
            with pytest.raises(ssl.SSLWantReadError):
                peer.unwrap()
        elif end == 'fin':
            socket.socket.shutdown(peer, socket.SHUT_WR)
        got = b''

        def ended():
            nonlocal got
            data, over, _ = transport.read_all(ours)
            got += data
            if end == 'reset' and got == b'last':
                transport.close_hard(peer, reset=True)
            return over

        wait_until(ended)
        assert got == b'last'


@TLS
def test_half_closing_says_so_in_tls_and_in_tcp(kind):
    with tls_pair(kind) as (ours, peer):
        ours.send(b'bye')
        transport.half_close(ours)
        assert peer.recv(10) == b'bye'
        assert peer.recv(10) == b''         # close_notify, no error
        peer.sendall(b'still heard')        # and nothing raises there
        transport.half_close(ours)          # nor when it is said twice


def test_half_closing_a_plain_socket_leaves_the_other_way_open():
    with tcp_pair() as (server, client):
        transport.half_close(server)
        assert client.recv(10) == b''
        client.sendall(b'x')
        assert server.recv(10) == b'x'


def test_half_closing_what_is_gone_does_not_raise():
    server, client = plain_pair()
    client.close()
    server.close()
    transport.half_close(server)
    transport.close_hard(server)


@pytest.mark.parametrize('reset', [False, True])
def test_closing_hard_resets_if_it_is_told_to(reset):
    with tcp_pair() as (server, client):
        transport.close_hard(server, reset=reset)
        if reset:
            with pytest.raises(ConnectionResetError):
                client.recv(1)
        else:
            assert client.recv(1) == b''


@TLS
def test_closing_hard_resets_below_tls(kind):
    with tls_pair(kind) as (ours, peer):
        ours.send(b'x')
        assert peer.recv(1) == b'x'     # and the tickets of TLS 1.3
        transport.close_hard(ours, reset=True)
        with pytest.raises(ConnectionResetError):
            socket.socket.recv(peer, 1)


@TLS
def test_a_full_tls_socket_says_not_now(kind):
    with tls_pair(kind) as (ours, _), pytest.raises(transport.NOT_NOW):
        for _ in range(1000):
            ours.send(b'z' * 100_000)


def test_a_full_plain_socket_says_not_now():
    with tcp_pair() as (server, _), pytest.raises(transport.NOT_NOW):
        server.setblocking(False)
        for _ in range(1000):
            server.send(b'z' * 100_000)


def test_a_closed_socket_is_gone():
    with tcp_pair() as (server, _):
        server.close()
        with pytest.raises(transport.GONE):
            server.send(b'x')
