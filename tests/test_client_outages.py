"""The client and servers that need a login, speak TLS, die, come back."""
from __future__ import annotations

import ssl
import threading
import time

import pytest
from cherrypy.lib import auth_basic

import cp_wsrpc
from cp_wsrpc.client import Client, HandshakeError
from cp_wsrpc.errors import ConnectionLostError

from .serving import certificates, free_port, serving, spawn, wait_until

PROGRAM = '''
import sys, time
import cherrypy, cp_wsrpc

class Api:
    @cp_wsrpc.expose
    def add(self, a, b):
        return a + b
    @cp_wsrpc.expose
    def wait(self, seconds):
        time.sleep(seconds)     # slow on purpose
    @cp_wsrpc.expose
    def publish(self, data):
        cp_wsrpc.publish('news', data)

class Root:
    api = Api()

cherrypy.config.update({
    'server.socket_host': '127.0.0.1', 'checker.on': False,
    'server.socket_port': int(sys.argv[1]), 'engine.autoreload.on': False})
cherrypy.quickstart(Root(), '/', {'/api': {
    'tools.wsrpc.on': True, 'tools.wsrpc.subscribe': ['news']}})
'''


class Root:
    class Api:
        @cp_wsrpc.expose
        def add(self, a, b):
            return a + b

    api = Api()


def quick(url, **options):
    """A client that is not patient: what it waits for is in the test."""
    client = Client(url, reconnect_delay_s=0.05, **options)
    client.backoff.random = lambda: 0.5 if client.backoff._failures else 0.0
    return client


@pytest.mark.parametrize('adapter', ['builtin', 'pyopenssl'])
def test_wss_is_spoken_and_the_certificate_verified(adapter):
    with serving(Root(), {'/api': {'tools.wsrpc.on': True}},
                 tls=adapter) as server:
        url = server.ws_url('/api')
        with Client(url, ssl_context=certificates().client_context()) as c:
            replies = [c.call('add', n, 'x' * 0 or 1) for n in range(100)]
            assert [reply.result() for reply in replies] == list(
                range(1, 101))
            big = c.call('add', 'x' * 300_000, 'y').result()
            assert len(big) == 300_001
        with quick(url) as client:
            with pytest.raises(ConnectionLostError,
                               match='certificate verify failed'):
                client.call('add', 1, 2).result(10)


@pytest.mark.parametrize('version', [ssl.TLSVersion.TLSv1_2,
                                     ssl.TLSVersion.TLSv1_3])
def test_four_threads_call_over_tls_at_once(version):
    context = certificates().client_context()
    context.minimum_version = context.maximum_version = version
    with serving(Root(), {'/api': {'tools.wsrpc.on': True}},
                 tls='builtin') as server, \
            Client(server.ws_url('/api'), ssl_context=context) as client:
        wrong = []

        def use(size):
            for n in range(50):
                text = f'{n}' * size
                if client.call('add', text, '!').result(10) != text + '!':
                    wrong.append(n)

        threads = [threading.Thread(target=use, args=(size,))
                   for size in (1, 10, 1000, 20_000)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert wrong == []


def test_basic_authentication_lets_in_and_its_lack_is_a_clear_error():
    with serving(Root(), {'/api': {
            'tools.wsrpc.on': True, 'tools.auth_basic.on': True,
            'tools.auth_basic.realm': 'here',
            'tools.auth_basic.checkpassword':
                auth_basic.checkpassword_dict({'ada': 'secret'})}}) as server:
        url = server.ws_url('/api')
        with Client(url, auth=('ada', 'secret')) as client:
            assert client.proxy.add(1, 2) == 3
        with Client(url.replace('//', '//ada:secret@')) as client:
            assert client.proxy.add(1, 2) == 3
        with Client(url, auth=('ada', 'wrong')) as client:
            with pytest.raises(HandshakeError) as caught:
                client.proxy.add(1, 2)
            assert caught.value.status == 401
            with pytest.raises(HandshakeError):
                client.wait(5)


def test_a_wrong_path_is_a_404_and_final():
    with serving(Root(), {'/api': {'tools.wsrpc.on': True}}) as server:
        with Client(server.ws_url('/nowhere')) as client:
            with pytest.raises(HandshakeError) as caught:
                client.wait(5)
            assert caught.value.status == 404


@pytest.fixture
def program(tmp_path):
    path = tmp_path / 'server.py'
    path.write_text(PROGRAM)
    return str(path)


def test_a_killed_server_fails_the_call_at_once_and_is_found_again(program):
    port = free_port()
    heard, joins = [], []
    with spawn(program, str(port), ready='Bus STARTED') as process:
        client = quick(f'ws://127.0.0.1:{port}/api')
        with client:
            client.subscribe('news', heard.append, onjoin=joins.append)
            wait_until(lambda: joins == [None])
            running = client.call('wait', 30)
            assert client.proxy.add(1, 2) == 3
            process.kill()
            started = time.monotonic()
            with pytest.raises(ConnectionLostError) as caught:
                running.result(10)
            assert caught.value.maybe_executed is True
            assert time.monotonic() - started < 2
            with pytest.raises(ConnectionLostError) as caught:
                client.call('add', 1, 2).result(10)
            assert caught.value.maybe_executed is False
            with spawn(program, str(port), ready='Bus STARTED'):
                wait_until(lambda: joins == [None, False], 20)
                client.proxy.publish(7)
                wait_until(lambda: heard == [7])


def test_a_stopping_server_closes_with_1001_and_the_client_comes_back(
        program):
    port = free_port()
    closes = []
    with spawn(program, str(port), ready='Bus STARTED') as process:
        with quick(f'ws://127.0.0.1:{port}/api') as client:
            client.backoff.random = lambda: 0.1     # of 5 s, after a 1001
            client.on_close(lambda code, reason: closes.append(code))
            slow = client.call('wait', 0.3)
            assert client.proxy.add(1, 2) == 3
            process.terminate()
            assert slow.result(10) is None      # what runs is finished
            wait_until(lambda: closes == [1001])
            with spawn(program, str(port), ready='Bus STARTED'):
                wait_until(lambda: client.is_connected, 20)
                assert client.proxy.add(1, 2) == 3
