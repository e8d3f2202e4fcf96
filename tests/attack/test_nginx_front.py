"""Threats D8: nginx in front, which ends what is idle, reloads, buffers."""
from __future__ import annotations

import contextlib
import signal
import threading
import time

import pytest

from cp_wsrpc.client import Client

from ..processes import spawn
from ..rawpeer import PING, PONG, RawPeer, http_request
from ..serving import free_port, wait_until
from . import FULL, in_time
from .victim import target

CONF = """
daemon off;
pid nginx.pid;
error_log stderr;
worker_processes 2;
worker_shutdown_timeout {drain}s;
events {{}}
http {{
    access_log off;
    client_body_temp_path temp_body;
    proxy_temp_path temp_proxy;
    fastcgi_temp_path temp_fastcgi;
    uwsgi_temp_path temp_uwsgi;
    scgi_temp_path temp_scgi;
    proxy_http_version 1.1;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection "upgrade";
    proxy_set_header Host $http_host;
    proxy_read_timeout {idle}s;
    proxy_send_timeout {idle}s;
    server {{
        listen 127.0.0.1:{port};
        location / {{ proxy_buffering on; proxy_pass {site}; }}
        location /plain/ {{ proxy_buffering off; proxy_pass {site}/; }}
    }}
}}
"""
#: nginx's idle limit, and the server's ping; both are defaults in full size.
IDLE_S, PING_S, HELD_S = (60, 25, 130) if FULL else (2, 0.8, 2.6)
DRAIN_S = 5 if FULL else 1


class Front:
    def __init__(self, process, port):
        self.process = process
        self.port = port

    def peer(self, path, **options):
        return RawPeer(self.port, path, **options)

    def workers(self):
        """Process ids of nginx's workers; those that shut down count."""
        pid = self.process.pid
        with open(f'/proc/{pid}/task/{pid}/children') as children:
            return set(children.read().split())


@pytest.fixture(scope='module')
def front(need, tmp_path_factory):
    folder = tmp_path_factory.mktemp('front')
    port = free_port()
    with target(f'engine.wsrpc.ping_interval_s={PING_S}') as site:
        (folder / 'nginx.conf').write_text(CONF.format(
            port=port, idle=IDLE_S, drain=DRAIN_S,
            site=f'http://127.0.0.1:{site.port}'))
        with spawn(need('nginx'), '-p', str(folder), '-c',
                   'nginx.conf') as process:
            def answers():
                with contextlib.suppress(OSError):
                    return http_request(port, '/stats').status == 200

            wait_until(answers, what='nginx')
            front = Front(process, port)
            front.site = site
            yield front


@pytest.mark.timeout(200)
def test_d8_an_idle_connection_outlives_nginxs_limit(front):
    """The pings keep it; without an answer to them nginx ends it."""
    begun, lost = time.monotonic(), []
    with Client(f'ws://127.0.0.1:{front.port}/api', ping_interval_s=1000,
                on_connect=lambda client: lost.append(0)) as client, \
            front.peer('/echo') as plain:
        pings = 0
        while time.monotonic() - begun < HELD_S:
            assert plain.recv_frame(timeout_s=IDLE_S) == (PING, b'')
            plain.send_frame(PONG)
            pings += 1
        print(f'{pings} pings in {time.monotonic() - begun:.0f} s')
        assert pings >= 2
        plain.send_text('here')
        assert plain.recv_text() == 'here'
        assert client.call('add', 1, 2).result(5) == 3
        assert lost == [0]


@pytest.mark.parametrize('prefix', ['', '/plain'], ids=['on', 'off'])
def test_d8_buffering_neither_delays_nor_cuts(front, prefix):
    with front.peer(prefix + '/api') as peer:
        took_s = []
        for number in range(20):
            begun = time.monotonic()
            assert peer.call('add', [number, 1]) == number + 1
            took_s.append(time.monotonic() - begun)
        assert sorted(took_s)[10] < in_time(0.1)
        text = 'x' * 1_000_000
        assert peer.call('echo', [text]) == text
        peer.call('rpc.subscribe', ['t'])
        front.site.page('/publish?count=50&size=10000')
        while len(peer.events) < 50:
            peer.events.append(peer.recv_json())
        assert peer.call('ping') == 'pong'


@pytest.mark.parametrize('prefix', ['', '/plain'], ids=['on', 'off'])
def test_d8_a_reader_that_is_slow_behind_nginx_gets_it_all(front, prefix):
    with front.peer(prefix + '/echo', receive_buffer=4096) as peer:
        texts = [bytes([65 + n]) * 200_000 for n in range(20)]
        sender = threading.Thread(target=lambda: [
            peer.send_frame(1, text) for text in texts])
        peer.timeout_s = 20
        peer.sock.settimeout(20)
        sender.start()
        try:
            assert [peer.recv_message()[1] for _ in texts] == texts
        finally:
            sender.join(20)


def test_d8_clients_come_back_after_a_reload(front):
    """nginx's old workers go on with open sockets, then cut them."""
    clients = [Client(f'ws://127.0.0.1:{front.port}/api',
                      reconnect_delay_s=0.01) for _ in range(20)]
    lost = []
    with contextlib.ExitStack() as stack:
        for client in clients:
            client.on_close(lambda code, reason: lost.append(code))
            stack.enter_context(client)
            assert client.call('add', 1, 2).result(5) == 3
        old = front.workers()
        lost.clear()
        front.process.send_signal(signal.SIGHUP)
        wait_until(lambda: front.workers() - old, 5, 'new workers')
        for client in clients:          # by the old ones, or the new
            assert client.call('add', 1, 2).result(5) == 3
        wait_until(lambda: not front.workers() & old, DRAIN_S + 5,
                   'the old workers to end')
        wait_until(lambda: len(lost) == len(clients), 5)
        assert set(lost) == {1006}
        for client in clients:
            assert client.call('add', 1, 2).result(10) == 3
        assert len(lost) == len(clients)
        lost.clear()
    assert front.process.popen.poll() is None
