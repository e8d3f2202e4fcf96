"""Threats D1, D2 and D6: no files left, a network that has gone, a clock
that jumps, a process that stands still.

With an injected clock, for every time: ``tests/test_ioloop.py``.
"""
from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time

import pytest

from ..cutting import cutting
from ..rawpeer import PING, PONG, RawPeer
from ..serving import wait_until
from . import FULL, in_time
from .victim import Victim, target

#: ws, and wss by either adapter of cheroot's.
WIRES = ['ws', 'builtin', 'pyopenssl']


@contextlib.contextmanager
def target_by(wire, *options):
    """A process of its own, reached by one of WIRES."""
    if wire != 'ws':
        options += (f'adapter={wire}',)
    with target(*options) as site:
        yield site if wire == 'ws' else site.secure


def ledger(site):
    return json.loads(site.page('/counted/ledger').body)


# -- D1 --------------------------------------------------------------------

ATTACKED_S = 10 if FULL else 1


def cpu_seconds(pid):
    with open(f'/proc/{pid}/stat') as stat:
        fields = stat.read().rpartition(')')[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')


class Load:
    """What the server makes of an attack: CPU, and lines of its log."""

    def __init__(self, process):
        self._process = process
        self._lines = len(process.lines)
        self._began = time.monotonic()
        self._cpu_s = cpu_seconds(process.pid)

    def check(self):
        took_s = time.monotonic() - self._began
        cpu = (cpu_seconds(self._process.pid) - self._cpu_s) / took_s
        lines = list(self._process.lines)[self._lines:]
        print(f'{cpu:.2%} CPU, {len(lines)} lines in {took_s:.1f} s')
        assert cpu < 0.05
        assert len(lines) <= 15, lines
        assert not any('Traceback' in line for line in lines)
        return lines


def test_d1_without_files_left_the_server_rests_and_comes_back():
    with target('files=64') as site, contextlib.ExitStack() as stack:
        victim = Victim(site)
        stack.callback(victim.stop)
        sockets = [stack.enter_context(socket.create_connection(
            ('127.0.0.1', site.port))) for _ in range(200)]
        site.process.wait_for('no new connection can be accepted', 5)
        load = Load(site.process)
        with pytest.raises(TimeoutError), RawPeer(
                site.port, '/api', timeout_s=ATTACKED_S):
            pass
        load.check()
        # One line a second: it may have come before the load was watched.
        assert 'Too many open files' in site.lines_since(0)
        for sock in sockets:
            sock.close()
        released = time.monotonic()
        with site.peer() as peer:
            assert peer.call('ping') == 'pong'
        assert time.monotonic() - released < in_time(1)
        victim.check()


@pytest.mark.parametrize('wire', WIRES if FULL else WIRES[:2])
def test_d1_connections_are_refused_while_files_are_left(wire):
    with target_by(wire, 'files=64') as site, \
            contextlib.ExitStack() as stack:
        victim = Victim(site)
        stack.callback(victim.stop)
        lines = len(site.process.lines)
        statuses = []
        for _ in range(200):
            peer = stack.enter_context(site.peer())
            statuses.append(peer.status)
            if peer.status == 101:      # counted when it is handed over
                assert peer.call('ping') == 'pong'
        assert set(statuses) == {101, 503}
        assert statuses.count(101) == 31        # and the victim's: half
        said = site.lines_since(lines)
        assert said.count('as many connections are open') <= 15
        assert 'Too many open files' not in said
        stack.pop_all().close()
        wait_until(lambda: site.stats()['sockets'] == 0, 5)
        with site.peer() as peer:
            assert peer.call('ping') == 'pong'


# -- D2 --------------------------------------------------------------------

#: For the quick forms below, of a process that all of them share.
PING_S, ANSWER_S = 0.3, 1.2
IMPATIENT = (f'engine.wsrpc.ping_interval_s={PING_S}',
             f'engine.wsrpc.ping_timeout_s={ANSWER_S}')


@pytest.fixture(scope='module')
def impatient():
    with target(*IMPATIENT) as site:
        yield site


def check_half_open_peers(site, count, within_s):
    """Have ``count`` peers of each kind vanish, and wait for their ends."""
    before = ledger(site)
    with cutting(site.port, has_heads=site.tls is None) as proxy, \
            contextlib.ExitStack() as stack:
        for path in ('/counted/api', '/counted/ws'):
            for _ in range(count):
                peer = stack.enter_context(
                    RawPeer(proxy.port, path, tls=site.tls))
                if path == '/counted/ws':
                    peer.send_text('here')
                    assert peer.recv_text() == 'here'
                else:
                    assert peer.call('ping') == 'pong'
        heard = time.monotonic()
        proxy.fall_silent()

        def ended():
            after = ledger(site)
            return all(after[kind]['closed'] - before[kind]['closed']
                       == count for kind in ('plain', 'api'))

        wait_until(ended, within_s + 5, 'the ends of half-open peers')
        took_s = time.monotonic() - heard
        print(f'{took_s:.1f} s')
        assert took_s < within_s
        after = ledger(site)
        for kind in ('plain', 'api'):
            assert not after[kind]['twice']
            assert (after[kind]['codes']['1006']
                    - before[kind]['codes'].get('1006', 0)) == count


def test_d2_a_half_open_peer_is_given_up_once_with_1006(impatient):
    check_half_open_peers(impatient, 3,
                          PING_S * 1.1 + ANSWER_S + in_time(1))


@pytest.mark.full      # the defaults: 47.5 s
@pytest.mark.timeout(120)
@pytest.mark.parametrize('wire', WIRES)
def test_d2_with_the_defaults_it_takes_47_s_at_most(wire):
    with target_by(wire) as site:
        check_half_open_peers(site, 20, 47.5)


# -- D6 --------------------------------------------------------------------


def test_d6_the_time_of_day_jumps_and_nobody_is_disconnected(impatient):
    with impatient.peer() as peer, impatient.peer('/echo') as plain:
        for days in (1, -2):
            page = impatient.page(f'/set_clock?days={days}')
            assert page.status == 200
            for _ in range(5 if FULL else 1):
                for one in (peer, plain):
                    assert one.recv_frame() == (PING, b'')
                    one.send_frame(PONG)
            assert peer.call('ping') == 'pong'
            plain.send_text('here')
            assert plain.recv_text() == 'here'


@pytest.mark.parametrize('wire', WIRES if FULL else WIRES[:1])
@pytest.mark.timeout(120)
def test_d6_a_process_that_stood_still_disconnects_nobody(wire, impatient):
    """Also when it stood so shortly that it cannot know."""
    with contextlib.ExitStack() as stack:
        site = impatient if wire == 'ws' else stack.enter_context(
            target_by(wire, *IMPATIENT))
        for seconds in (3, 60) if FULL else (2,):
            with site.peer() as peer, site.peer('/echo') as plain:
                for one in (peer, plain):
                    assert one.recv_frame() == (PING, b'')
                site.process.send_signal(signal.SIGSTOP)
                for one in (peer, plain):
                    one.send_frame(PONG)
                with pytest.raises(TimeoutError):
                    peer.recv_frame(timeout_s=seconds)
                site.process.send_signal(signal.SIGCONT)
                assert peer.call('ping') == 'pong'
                plain.send_text('here')
                assert plain.recv_text() == 'here'
