"""The demo as a cluster: nginx, three processes, Redis, and what dies."""
from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import struct
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import expect

import demo.cluster
import demo.programs
from demo.cluster import Cluster, Ticker

from .attack import in_time
from .browsing import chromium
from .clusters import (
    Listener,
    is_serving,
    restart_under,
    running_cluster,
    send,
)
from .need import need as _need
from .rawhttp import http_request
from .rawpeer import CLOSE, PeerClosed, RawPeer
from .serving import free_port, spawn, wait_until
from .test_readme import NGINX_AROUND, block

_need('python:redis')

SLOW_START_MS = 10_000


@pytest.fixture(scope='module')
def cluster(need: Callable[[str], str],
            tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with pytest.MonkeyPatch.context() as patch:
        # Who is killed twice in 2 s comes back at once, as at other times.
        patch.setattr(demo.programs, 'SHORT_LIFE_S', 0.0)
        with running_cluster(need, tmp_path_factory.mktemp('cluster')) as it:
            yield it


@pytest.fixture(scope='module')
def browser(need: Callable[[str], str]) -> Iterator[Any]:
    with chromium(need('chromium')) as browser:
        yield browser


@pytest.fixture
def page(browser: Any, cluster: Cluster) -> Iterator[Any]:
    """The demo's page, which hears the ticks."""
    context = browser.new_context()
    page = context.new_page()
    faults: list[str] = []
    page.on('pageerror', lambda error: faults.append(str(error)))
    page.goto(cluster.url)
    expect(page.locator('#joins li')).to_contain_text(
        'recovered null', timeout=SLOW_START_MS)
    yield page
    context.close()
    assert faults == []


def text_of(page: Any, id: str) -> str:
    text: str = page.locator(f'#{id}').inner_text()
    return text


def newest_tick(page: Any) -> int:
    text = text_of(page, 'ticks')
    return int(text) if text.isdigit() else 0


def assert_page_is_whole(page: Any, until: int) -> None:
    # Not wait_until: Playwright's events come while it waits itself.
    page.wait_for_function(
        'n => Number(document.querySelector("#ticks").textContent) >= n',
        arg=until)
    assert (text_of(page, 'lost'), text_of(page, 'doubled')) == ('0', '0')


# -- a process dies ----------------------------------------------------------

def test_pages_and_programs_go_on_at_another_process_without_a_hole(
        cluster: Cluster, page: Any) -> None:
    with Listener(cluster.port) as listener, \
            Ticker(cluster.broker, period_s=0.05) as ticker:
        for victim in ('page', 'client'):
            before = int(text_of(page, 'pid')), listener.pid()
            joins = page.locator('#joins li').count(), len(listener.joins)
            pid = before[victim == 'client']
            os.kill(pid, signal.SIGKILL)
            if before[0] == pid:
                expect(page.locator('#joins li')).to_have_count(
                    joins[0] + 1, timeout=SLOW_START_MS)
                expect(page.locator('#joins li').last).to_contain_text(
                    'recovered true')
                assert int(text_of(page, 'pid')) != pid
            if before[1] == pid:
                wait_until(lambda joins=joins:
                           len(listener.joins) > joins[1], 20)
                assert listener.pid() != pid
            wait_until(lambda pid=pid: pid not in {
                program.pid for program in cluster.processes}, 10)
        newest = ticker.last + 5
        assert_page_is_whole(page, newest)
        listener.assert_whole(newest)
        assert set(listener.joins[1:]) <= {True}


def test_a_login_outlives_its_process(cluster: Cluster, page: Any) -> None:
    page.click('#sign button:not([type])')
    expect(page.locator('#user')).to_have_text('signed in as Ada')
    pid = text_of(page, 'pid')
    os.kill(int(pid), signal.SIGKILL)
    expect(page.locator('#pid')).not_to_have_text(pid,
                                                  timeout=SLOW_START_MS)
    expect(page.locator('#user')).to_have_text('signed in as Ada')
    page.click('#sign button[type=button]')
    expect(page.locator('#user')).to_have_text('not signed in')


def test_a_logout_at_one_process_ends_sockets_at_all(
        cluster: Cluster) -> None:
    """A5: no push comes after."""
    first = cluster.ports[0]
    answer = http_request(first, '/login', method='POST', headers={
        'Content-Type': 'application/x-www-form-urlencoded'},
        body=urllib.parse.urlencode({'name': 'Ada'}).encode())
    cookie = {'Cookie': answer.headers['set-cookie'].partition(';')[0]}
    peers = [RawPeer(port, '/api', cookie) for port in cluster.ports]
    try:
        for peer in peers:
            assert peer.call('process')['user'] == 'Ada'
            peer.call('rpc.subscribe', ['news'])
        assert http_request(first, '/logout', method='POST',
                            headers=cookie).status == 200
        for peer in peers:
            with pytest.raises(PeerClosed) as closed:
                peer.recv_text(timeout_s=in_time(1))
            assert closed.value.code == 4401
        http_request(first, '/notify?msg=secret')
        for peer in peers:
            peer.send_frame(CLOSE, struct.pack('!H', 4401))
            assert peer.recv_eof() == b''
    finally:
        for peer in peers:
            peer.__exit__(None, None, None)


SHOP = """
import os
import cherrypy, cp_wsrpc

cherrypy.config.update({
    'server.socket_host': '127.0.0.1', 'server.socket_port': PORT,
    'engine.autoreload.on': False, 'engine.wsrpc.broker': 'BROKER',
    'engine.wsrpc.topics': {'news': {}}})

class Root:
    class Api:
        @cp_wsrpc.expose
        def process(self):
            return {'pid': os.getpid()}
    api = Api()

config = {'/api': {'tools.wsrpc.on': True, 'tools.wsrpc.subscribe': ['news']}}
"""


def test_who_shares_a_port_with_the_dead_goes_on(
        cluster: Cluster, tmp_path: Any) -> None:
    """Without nginx: the kernel deals the connections out."""
    port = free_port()
    broker = f'{cluster.broker}?prefix=shop:'
    (tmp_path / 'shop.py').write_text(
        SHOP.replace('PORT', str(port)).replace('BROKER', broker))
    start = tmp_path / 'start.py'
    start.write_text(block('code-reuse-port'))
    with contextlib.ExitStack() as stack:
        shops = [stack.enter_context(spawn(str(start), cwd=tmp_path))
                 for _ in range(2)]
        for shop in shops:
            shop.wait_for('Bus STARTED')
        ticker = stack.enter_context(Ticker(broker, 'news', 0.05))
        listeners = [stack.enter_context(Listener(port, 'news'))
                     for _ in range(6)]
        victim, other = shops
        if listeners[0].pid() == other.pid:
            victim, other = other, victim
        victim.kill()
        wait_until(lambda: len(listeners[0].joins) > 1, 20)
        for listener in listeners:
            listener.assert_whole(ticker.last)
            assert listener.pid() == other.pid
            assert listener.joins in ([None], [None, True])


# -- Redis dies --------------------------------------------------------------

def test_redis_is_silent_and_then_killed_and_nothing_is_missing(
        cluster: Cluster, page: Any) -> None:
    said: list[str] = []
    with Listener(cluster.port) as listener, \
            Ticker(cluster.broker, period_s=0.05, say=said.append) as ticker:
        wait_until(lambda: listener.heard)
        pids = int(text_of(page, 'pid')), listener.pid()
        pid = send(cluster.redis, 'SIGSTOP')
        wait_until(lambda: said and 'has to wait' in said[-1], 5)
        # Who does not need it goes on.
        assert listener.client.call('calc.add', 1, 2).result(
            in_time(1)) == 3
        answer = http_request(cluster.port, '/notify?msg=x')
        assert answer.status == 504 and b'Redis' in answer.body, answer
        send(cluster.redis, 'SIGCONT')
        wait_until(lambda: 'is through' in said[-1], 10)
        send(cluster.redis, 'SIGKILL')
        wait_until(lambda: cluster.redis.pid != pid, 10)
        newest = ticker.last + 5
        assert_page_is_whole(page, newest)
        listener.assert_whole(newest)
        # On the connections that they had.
        assert listener.joins == [None]
        assert (int(text_of(page, 'pid')), listener.pid()) == pids


def test_redis_comes_back_without_its_data_and_all_are_told(
        cluster: Cluster, page: Any) -> None:
    with Listener(cluster.port) as listener, \
            Ticker(cluster.broker, period_s=0.05, say=lambda text: None):
        wait_until(lambda: listener.heard)
        shutil.rmtree(cluster.folder / 'appendonlydir')
        send(cluster.redis, 'SIGKILL')
        wait_until(lambda: listener.joins == [None, False], 10)
        expect(page.locator('#joins li').last).to_contain_text(
            'recovered false', timeout=SLOW_START_MS)
        count = len(listener.heard)
        wait_until(lambda: len(listener.heard) > count + 3, 10)
        page.wait_for_function(
            'Number(document.querySelector("#ticks").textContent) > 0')


# -- the operator restarts ---------------------------------------------------

def test_a_rolling_restart_loses_nothing(cluster: Cluster) -> None:
    with Listener(cluster.port, 'news') as listener:
        seen = restart_under(cluster, 60, 'SIGTERM')
        listener.assert_whole(seen.newest)
    assert (seen.lost, seen.doubled) == (0, 0), seen
    # Who was told 1001 came back, and each time with all that it missed.
    assert seen.closed.keys() == {1001}, seen
    assert seen.recovered == {None: 60, True: seen.closed[1001]}, seen
    assert set(listener.joins[1:]) <= {True}


def test_no_handshake_is_refused_with_the_lines_of_the_docs(
        cluster: Cluster, need: Callable[[str], str], tmp_path: Any,
        ) -> None:
    nginx, site, port = need('nginx'), block('code-nginx-several'), free_port()
    for printed, ours in zip((8080, 8081, 8082, 8083),
                             (port, *cluster.ports), strict=True):
        assert f':{printed}' in site
        site = site.replace(f':{printed}', f':{ours}')
    (tmp_path / 'site.conf').write_text(site)
    (tmp_path / 'nginx.conf').write_text(NGINX_AROUND)
    with spawn(nginx, '-p', str(tmp_path), '-c', 'nginx.conf'):
        wait_until(lambda: is_serving(port), 10)
        served = set()
        for program, its_port, how in zip(
                cluster.processes, cluster.ports, ('SIGTERM', 'SIGKILL'),
                strict=False):
            pid = send(program, how)
            while program.pid == pid or not is_serving(its_port):
                with RawPeer(port, '/api') as peer:
                    assert peer.status == 101
                    served.add(peer.call('process')['pid'])
        assert len(served) >= 3


# -- the program -------------------------------------------------------------

def test_the_program_shows_its_processes_restarts_them_and_ends_all(
        need: Callable[[str], str]) -> None:
    need('nginx'), need('redis-server')
    port = free_port()
    with spawn('demo.cluster', '--port', str(port), ready='Logs:') as shell:
        try:
            pids = {int(pid) for pid in
                    re.findall(r'(?m)^  [\w-]+.* pid (\d+)$', shell.output)}
            assert len(pids) == 5
            assert http_request(port).status == 200
            victim = re.search(r'kill -9 (\d+): its pages', shell.output)
            assert victim is not None
            os.kill(int(victim[1]), signal.SIGKILL)
            again = shell.wait_for(r'pid (\d+) has ended \(SIGKILL\), '
                                   r'started again as (\d+)')
            assert again[1] == victim[1]
            pids = pids - {int(again[1])} | {int(again[2])}
        finally:
            shell.send_signal(signal.SIGINT)
            code = shell.wait(25)
        assert code == 0, shell.output
        assert not [pid for pid in pids if os.path.exists(f'/proc/{pid}')]


def test_it_says_what_is_missing_and_how_to_get_it(
        monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv('PATH', str(tmp_path))
    monkeypatch.setattr(demo.programs, '_MORE_PATH', '')
    with pytest.raises(SystemExit, match='apt-get install nginx-light '
                                         'redis-server'):
        demo.cluster.main([])


def test_a_port_that_is_taken_is_named(cluster: Cluster) -> None:
    with pytest.raises(SystemExit, match=f'{cluster.port} is in use'):
        demo.cluster.main(['--port', str(cluster.port)])
