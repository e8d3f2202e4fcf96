"""Threats D6: the process stands still.  With an injected clock, and in
every run: ``test_ioloop.test_a_process_that_stood_still_blames_nobody``.
"""
from __future__ import annotations

import signal

import pytest

from ..processes import spawn
from ..rawpeer import PING, PONG, RawPeer
from ..serving import free_port


@pytest.mark.full      # stands still for 60 s
@pytest.mark.timeout(120)
def test_d6_sigstop_disconnects_nobody():
    port = free_port()
    with spawn('tests.stopping_app', str(port),
               'engine.wsrpc.ping_interval_s=0.5',
               'engine.wsrpc.ping_timeout_s=5', ready='Ready') as process:
        with RawPeer(port, '/api') as peer:
            assert peer.recv_frame() == (PING, b'')
            process.send_signal(signal.SIGSTOP)
            with pytest.raises(TimeoutError):
                peer.recv_frame(timeout_s=60)
            process.send_signal(signal.SIGCONT)
            process.wait_for('stood still', 2)
            peer.send_frame(PONG)
            assert peer.call('ping') == 'pong'
