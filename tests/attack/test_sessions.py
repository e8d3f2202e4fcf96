"""Threats A5: the session goes, and with it the right to be here."""
from __future__ import annotations

import struct
import time

import pytest

from . import in_time
from ..rawpeer import CLOSE, CallFailed, PeerClosed


def log_in(attacked):
    answer = attacked.page('/session/login')
    assert answer.status == 200, answer
    return {'Cookie': answer.headers['set-cookie'].partition(';')[0]}


@pytest.mark.parametrize('how', ['delete', 'regenerate', 'age'])
@pytest.mark.parametrize('method', ['count', 'count_async', 'count_loop'])
def test_a5_the_next_call_of_a_gone_session_is_refused(
        wire, how, method):
    cookie = log_in(wire)
    with wire.peer('/session/api', headers=cookie) as peer:
        peer.call('ping')
        peer.call('rpc.subscribe', ['t'])
        before = wire.stats()['run']
        assert wire.page(f'/session/{how}', headers=cookie).status == 200
        begun = time.monotonic()
        try:
            with pytest.raises(CallFailed) as caught:
                peer.call(method)
        except PeerClosed as closed:
            assert closed.code == 4401      # found out before the call
        else:
            assert caught.value.code == -32001
            assert peer.recv_close()[0] == 4401
        peer.send_frame(CLOSE, struct.pack('!H', 4401))
        assert time.monotonic() - begun < in_time(1)
        assert wire.stats()['run'] == before
        wire.page('/publish?count=1&size=1')
        assert peer.recv_eof(timeout_s=2) == b''
    with wire.peer('/session/api', headers=cookie) as again:
        # A new visitor, who is nobody.
        assert again.status == 101


def test_a5_a_connection_without_a_user_is_bound_to_no_session(wire):
    with wire.peer('/session/api') as peer:
        assert peer.call('ping') == 'pong'
