"""protocol.md, 5: what a client does after each close code."""
from __future__ import annotations

import pytest

from cp_wsrpc.backoff import HELD_S, MAX_DELAY_S, Backoff


def backoff(random: float = 1.0, base_s: float = 1.0) -> Backoff:
    return Backoff(base_s, lambda: random)


@pytest.mark.parametrize('code', [1000, 1008, 4400, 4401, 4403])
def test_a_final_close_is_not_followed_by_an_attempt(code):
    assert backoff().after_close(code, 1) is None


@pytest.mark.parametrize('code', [1006, 1009, 1011, 4408, 1005, 3000, 4999])
def test_other_closes_back_off_twice_as_long_each_time(code):
    tested = backoff()
    delays = [tested.after_close(code, 1) for _ in range(7)]
    assert delays == [1, 2, 4, 8, 16, MAX_DELAY_S, MAX_DELAY_S]


@pytest.mark.parametrize('code', [1001, 1012])
def test_after_a_restart_clients_come_back_within_5_seconds(code):
    assert backoff(0.0).after_close(code, 1) == 0
    assert backoff(1.0).after_close(code, 1) == 5


@pytest.mark.parametrize('code', [1013, 4429])
def test_an_overloaded_server_is_left_alone_for_10_seconds(code):
    assert backoff(0.0).after_close(code, 1) == 10
    assert backoff(1.0).after_close(code, 1) == 15


@pytest.mark.parametrize('code', [1002, 1003, 1007])
def test_the_third_protocol_error_in_a_row_is_the_last(code):
    tested = backoff()
    assert [tested.after_close(code, 1) for _ in range(3)] == [1, 2, None]


def test_another_close_between_protocol_errors_starts_the_count_anew():
    tested = backoff()
    closes = [1002, 1002, 1006, 1007, 1007]
    assert None not in [tested.after_close(code, 1) for code in closes]


def test_jitter_is_full():
    assert backoff(0.0).after_close(1006, 1) == 0
    assert backoff(0.25).after_close(1006, 1) == 0.25


def test_only_a_connection_that_held_starts_the_backoff_anew():
    tested = backoff()
    for _ in range(3):
        tested.after_close(1006, 1)
    assert tested.after_close(1006, HELD_S - 1) == 8
    assert tested.after_close(1006, HELD_S) == 1


@pytest.mark.parametrize('status', [301, 302, 303, 307, 308, 401, 403, 404])
def test_a_refusal_that_stays_stops(status):
    assert backoff().after_failure(status) is None


@pytest.mark.parametrize('status', [None, 200, 400, 426, 429, 500, 502, 503])
def test_no_network_and_a_server_in_trouble_are_tried_again(status):
    assert backoff().after_failure(status) == 1


def test_attempts_and_closes_count_together():
    tested = backoff()
    assert [tested.after_close(1006, 1), tested.after_failure(),
            tested.after_failure(503)] == [1, 2, 4]


def test_ten_thousand_failures_do_not_overflow():
    tested = backoff()
    assert {tested.after_failure() for _ in range(10_000)} <= {
        1, 2, 4, 8, 16, 30}
