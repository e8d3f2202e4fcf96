"""Taking a socket out of cheroot, without CherryPy above it."""
from __future__ import annotations

import contextlib
import gc
import io
import logging
import socket
import ssl
import threading
import weakref
from wsgiref.util import setup_testing_defaults

import pytest
from cheroot import wsgi
from cheroot.server import get_ssl_adapter_class

from cp_wsrpc import host_socket

from .rawhttp import connect
from .serving import certificates, wait_until

HEAD = b'HTTP/1.1 101 Switching Protocols\r\n'
REQUEST = b'GET / HTTP/1.1\r\nHost: x\r\n\r\n'


class Taking:
    """A WSGI application that answers 101 and takes the socket.

    ``found`` is what it saw: of the carrier before the head was sent, and
    what ``take`` returned after it.
    """

    def __init__(self, status='101 Switching Protocols', take=True):
        self.status, self.wants = status, take
        self.taken = threading.Event()
        self.found = {}

    def __call__(self, environ, start_response):
        carrier = host_socket.find_carrier()
        self.connection = weakref.ref(carrier._connection)
        self.found['sent before'] = carrier.has_sent(101)
        self.found['address'] = carrier.local_address
        carrier.close_after_response()
        start_response(self.status, [('Upgrade', 'websocket'),
                                     ('Connection', 'Upgrade')])
        return self

    def __iter__(self):
        return iter(())

    def close(self):
        carrier = host_socket.find_carrier()
        self.found['sent after'] = carrier.has_sent(101)
        if self.wants and carrier.has_sent(101):
            self.sock, self.early = carrier.take()
            self.found['second'] = host_socket.find_carrier()
        self.taken.set()


@contextlib.contextmanager
def cheroot(app, tls=None):
    server = wsgi.Server(('127.0.0.1', 0), app, numthreads=1, timeout=3,
                         shutdown_timeout=1)
    if tls is not None:
        files = certificates()
        server.ssl_adapter = get_ssl_adapter_class(tls)(
            files.certificate, files.private_key)
    server.prepare()
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join(5)


def shake(server, tls=None, data=REQUEST):
    context = certificates().client_context() if tls else None
    sock = connect(server.bind_addr[1], tls=context, timeout_s=3)
    sock.sendall(data)
    head = b''
    while b'\r\n\r\n' not in head:
        head += sock.recv(4096)
    assert head.startswith(HEAD)
    return sock


@pytest.mark.parametrize('tls', [None, 'builtin', 'pyopenssl'])
def test_the_socket_is_whole_and_ours(tls):
    app = Taking()
    with cheroot(app, tls) as server:
        peer = shake(server, tls, REQUEST + b'early')
        assert app.taken.wait(3)
        wait_until(lambda: server.requests.idle == 1)
        assert app.found == {'sent before': False, 'address': '127.0.0.1',
                             'sent after': True, 'second': None}
        assert app.early == b'early'
        assert app.sock.gettimeout() == 0
        assert app.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        with pytest.raises((BlockingIOError, ssl.SSLWantReadError)
                           if tls != 'pyopenssl' else Exception):
            app.sock.recv(10)
        app.sock.send(b'hello')
        assert peer.recv(10) == b'hello'
        peer.sendall(b'world')
        app.sock.setblocking(True)
        assert app.sock.recv(10) == b'world'
    # cheroot has stopped; the socket has not.
    app.sock.send(b'still')
    assert peer.recv(10) == b'still'
    host_socket.abort(app.sock)
    with contextlib.suppress(ConnectionError):
        assert peer.recv(10) == b''
    peer.close()


def test_nothing_of_the_connection_waits_for_the_collector():
    app = Taking()
    gc.collect()
    gc.disable()
    try:
        with cheroot(app) as server:
            with shake(server):
                assert app.taken.wait(3)
                app.sock.close()
                first, app.taken = app.connection, threading.Event()
            # cheroot's worker has a variable for the connection, until
            # the next one comes.
            with shake(server):
                assert app.taken.wait(3)
                assert first() is None
                app.sock.close()
    finally:
        gc.enable()


def test_a_connection_that_was_not_taken_is_closed_by_cheroot():
    app = Taking(take=False)
    with cheroot(app) as server:
        with shake(server) as peer:
            assert peer.recv(10) == b''


def test_a_take_that_fails_leaves_no_socket():
    class Failing(Taking):
        def close(self):
            carrier = host_socket.find_carrier()

            def fail():
                raise SystemExit('a reader of another kind')

            carrier._connection.rfile.has_data = fail
            with pytest.raises(SystemExit):
                carrier.take()
            self.taken.set()

    app = Failing()
    with cheroot(app) as server, shake(server) as peer:
        assert app.taken.wait(3)
        with contextlib.suppress(ConnectionResetError):
            assert peer.recv(10) == b''


def test_another_status_is_no_101():
    app = Taking('200 OK')
    with cheroot(app) as server:
        sock = connect(server.bind_addr[1], timeout_s=3)
        sock.sendall(REQUEST)
        assert sock.recv(100).startswith(b'HTTP/1.1 200 ')
        assert app.taken.wait(3)
        assert app.found['sent after'] is False
        sock.close()


def test_a_peer_that_is_gone_before_the_take_is_no_error():
    app = Taking()
    with cheroot(app) as server:
        for _ in range(8):
            app.taken.clear()
            app.sock = None
            sock = connect(server.bind_addr[1], timeout_s=3)
            sock.sendall(REQUEST)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                            b'\1\0\0\0\0\0\0\0')
            sock.close()
            if app.taken.wait(0.05) and app.sock is not None:
                app.sock.close()
        wait_until(lambda: server.requests.idle == 1)


def test_cheroots_pool_stops_without_touching_what_was_taken():
    inside, go_on = threading.Event(), threading.Event()

    class Slow(Taking):
        def close(self):
            super().close()
            inside.set()
            go_on.wait(5)

    app = Slow()
    with cheroot(app) as server:
        peer = shake(server)
        assert inside.wait(3)
        # What its stop does to a worker that does not end in time.
        server.requests._force_close(server.requests._threads[0].conn)
        app.sock.send(b'alive')
        assert peer.recv(10) == b'alive'
        go_on.set()
        app.sock.close()
        peer.close()


def test_there_is_no_carrier_outside_of_cheroot():
    environ = {'wsgi.input': io.BytesIO()}
    setup_testing_defaults(environ)
    assert host_socket.find_carrier() is None


def test_statistics_go_on_after_a_take():
    app = Taking()
    with cheroot(app) as server:
        server.stats['Enabled'] = True
        peer = shake(server)
        assert app.taken.wait(3)
        wait_until(lambda: server.requests.idle == 1)
        worker = server.requests._threads[0]
        assert worker.bytes_read >= len(REQUEST)
        assert worker.bytes_written > len(HEAD)
        app.sock.close()
        peer.close()


def test_repeated_lines_of_the_handshake_are_joined_once():
    from cheroot import server as cheroot_server
    host_socket.keep_repeated_headers()
    host_socket.keep_repeated_headers()
    names = cheroot_server.comma_separated_headers
    assert names.count(b'Origin') == 1
    lines = io.BytesIO(b'Origin: http://evil\r\nOrigin: http://good\r\n'
                       b'X: 1\r\nX: 2\r\n\r\n')
    assert cheroot_server.HeaderReader()(lines) == {
        b'Origin': b'http://evil, http://good', b'X': b'2'}


@pytest.mark.parametrize('sock', [None, object(), socket.socket()])
def test_abort_never_raises(sock, caplog):
    caplog.set_level(logging.DEBUG)
    host_socket.abort(sock)
    host_socket.abort(sock)
    assert caplog.messages == []


def test_abort_resets():
    ours, theirs = _pair()
    host_socket.abort(ours)
    with pytest.raises(ConnectionResetError):
        theirs.recv(1)
    theirs.close()


def _pair():
    with socket.create_server(('127.0.0.1', 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        return listener.accept()[0], client
