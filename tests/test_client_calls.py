"""What becomes of calls when connections come and go."""
from __future__ import annotations

import itertools

import pytest

from cp_wsrpc import client_calls
from cp_wsrpc.client_calls import ClientCalls
from cp_wsrpc.errors import (Busy, CallTimeout, ConnectionLostError,
                             RemoteError)
from cp_wsrpc.messages import Result

BUSY = RemoteError('busy', data={'retryable': True, 'executed': False})


@pytest.fixture
def calls():
    return ClientCalls(itertools.count(1, 2))


def opened(calls, name='f', timeout_s=30.0, now=0.0, text=b'{}'):
    reply = calls.open_call(name, timeout_s, now)
    reply.text = text
    return reply


def not_sent(name):
    return ConnectionLostError(name, maybe_executed=False)


def test_the_queue_goes_out_in_order_once(calls):
    calls.enqueue(opened(calls, text=b'1'))
    calls.enqueue(b'2')
    calls.enqueue(opened(calls, text=b'3'))
    assert calls.take_queue() == [b'1', b'2', b'3']
    assert calls.take_queue() == []


def test_a_call_that_has_timed_out_in_the_queue_is_not_sent(calls):
    reply = opened(calls, timeout_s=5)
    calls.enqueue(reply)
    assert calls.expire(5.0) is None
    assert isinstance(reply.exception(), CallTimeout)
    assert calls.take_queue() == []


def test_a_lost_connection_fails_what_was_sent_and_keeps_the_rest(calls):
    sent, queued, resting = (opened(calls, name) for name in 'abc')
    calls.enqueue(queued)
    calls.retry_delay(resting.id, BUSY, 0.0, 0.5)
    calls.lose_sent('lost')
    error = sent.exception()
    assert isinstance(error, ConnectionLostError)
    assert error.maybe_executed is True
    assert 'a: lost' in str(error)
    assert not queued.done
    assert not resting.done
    assert calls.wake(resting)


def test_a_failed_attempt_rejects_what_was_not_sent(calls):
    queued, resting = opened(calls, 'q'), opened(calls, 'r')
    calls.enqueue(queued)
    calls.enqueue(b'a notification')
    calls.retry_delay(resting.id, BUSY, 0.0, 0.5)
    calls.reject_queued(not_sent)
    for reply in (queued, resting):
        assert reply.exception().maybe_executed is False
        assert str(reply.exception()) == reply.name
    assert len(calls) == 0
    assert not calls.wake(resting)
    assert calls.take_queue() == []


@pytest.mark.parametrize('error', [
    RemoteError('x'), RemoteError('x', data={'retryable': True}),
    RemoteError('x', data={'executed': False}),
    RemoteError('x', data={'retryable': True, 'executed': True})])
def test_only_what_surely_did_not_run_is_tried_again(calls, error):
    assert calls.retry_delay(opened(calls).id, error, 0.0, 1.0) is None


def test_a_refused_call_is_tried_three_times_with_growing_jitter(calls):
    reply = opened(calls)
    delays = []
    while (again := calls.retry_delay(reply.id, BUSY, 0.0, 1.0)):
        assert again[0] is reply
        delays.append(again[1])
        assert calls.wake(reply)
    assert delays == [1, 2, 4]
    assert not reply.done           # who asked settles it with the error


def test_a_refused_call_is_not_tried_past_its_time(calls):
    reply = opened(calls, timeout_s=2)
    assert calls.retry_delay(reply.id, BUSY, 1.0, 0.5) == (reply, 0.5)
    assert calls.retry_delay(reply.id, BUSY, 1.5, 0.5) is None


def test_an_answer_ends_a_resting_call(calls):
    reply = opened(calls)
    calls.retry_delay(reply.id, BUSY, 0.0, 1.0)
    calls.settle(Result(reply.id, b'7'))
    assert not calls.wake(reply)
    assert reply.result() == 7


def test_a_clock_that_starts_late_counts_from_then(calls):
    reply = opened(calls, timeout_s=None)
    calls.start_clocks({reply: 5.0}, 100.0)
    assert calls.expire(104.9) == 105.0
    calls.expire(105.0)
    assert isinstance(reply.exception(), CallTimeout)


def test_the_queue_holds_so_many_and_no_more(calls, monkeypatch):
    monkeypatch.setattr(client_calls, 'MAX_QUEUED', 2)
    replies = [opened(calls, timeout_s=t) for t in (1, 30)]
    for reply in replies:
        calls.enqueue(reply)
    with pytest.raises(Busy):
        calls.enqueue(opened(calls))
    calls.expire(1.0)               # what has ended makes room
    calls.enqueue(opened(calls))


def test_the_queue_holds_so_many_bytes_and_no_more(calls, monkeypatch):
    monkeypatch.setattr(client_calls, 'MAX_QUEUED_BYTES', 10)
    calls.enqueue(b'x' * 10)
    with pytest.raises(Busy):
        calls.enqueue(b'x')
    calls.take_queue()
    calls.enqueue(b'x')
