"""What came over the wire, in a log (threats C9)."""
from __future__ import annotations

import logging
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cp_wsrpc.logs import MAX_CAUSES, LineLimiter, escape


@pytest.mark.parametrize('text, expected', [
    ('plain', 'plain'), ('', ''), ('caf\xe9 \u65e5', 'caf\xe9 \u65e5'),
    ('a\r\nb', r'a\r\nb'), ('\x1b[31m', r'\x1b[31m'), ('\0', r'\x00'),
    ('\u202eevil', r'\u202eevil'), ('\u2066', r'\u2066'),
    ('\u2028', r'\u2028'), ('\u200b', r'\u200b'), ('\x7f', r'\x7f'),
    ('\ud800', r'\ud800'), ('\U000e0041', r'\U000e0041'),
    (b'\xff\n', '\xff\\n'), (None, 'None'), (5, '5'),
])
def test_what_could_forge_a_line_is_escaped(text, expected):
    assert escape(text) == expected


@given(st.text(st.characters(codec=None)) | st.binary(),
       st.integers(3, 300))
def test_the_result_is_short_and_printable(text, limit):
    shown = escape(text, limit)
    assert len(shown) <= limit
    assert shown.isprintable()


def test_text_is_cut_one_past_the_limit_and_not_at_it():
    assert escape('x' * 200) == 'x' * 200
    assert escape('x' * 201) == 'x' * 197 + '...'
    assert escape('\n' * 101) == '\\n' * 98 + '\\...'
    assert len(escape('x' * 1_000_000)) == 200


@pytest.fixture
def logger(caplog):
    caplog.set_level(logging.INFO, 'test_logs')
    return logging.getLogger('test_logs')


def test_one_line_a_second_and_a_count_of_the_rest(logger, caplog):
    now = [10.0]
    limited = LineLimiter(1.0, clock=lambda: now[0]).log
    for _ in range(5):
        limited(logger, 'cause', logging.WARNING, 'refused %s', 'x')
    limited(logger, 'other', logging.WARNING, 'another cause')
    now[0] = 10.999
    limited(logger, 'cause', logging.WARNING, 'refused %s', 'x')
    now[0] = 11.0
    limited(logger, 'cause', logging.WARNING, 'refused %s', 'y')
    now[0] = 12.0
    limited(logger, 'cause', logging.WARNING, 'refused %s', 'z')
    assert caplog.messages == [
        'refused x', 'another cause',
        'refused y (and 5 more like it)', 'refused z']


def test_a_level_that_is_off_neither_writes_nor_counts(logger, caplog):
    limited = LineLimiter(1.0, clock=lambda: 0.0).log
    assert not limited(logger, 'cause', logging.DEBUG, 'no')
    assert limited(logger, 'cause', logging.INFO, 'yes')
    assert caplog.messages == ['yes']


def test_what_is_swallowed_has_the_reference_of_the_line_that_is_there(
        logger, caplog):
    now = [10.0]
    limiter = LineLimiter(1.0, clock=lambda: now[0])

    def log(ref, cause='cause', level=logging.ERROR):
        return limiter.log_under(ref, logger, cause, level, 'it %s', 'broke')

    assert [log('r1'), log('r2'), log('r3')] == ['r1'] * 3
    assert log('r4', cause='other') == 'r4'
    now[0] = 11.0
    assert [log('r5'), log('r6')] == ['r5'] * 2
    assert log('r7', level=logging.DEBUG) == ''
    # The line that is there has none: it tells nothing to who looks for it.
    limiter.log(logger, 'plain', logging.ERROR, 'it broke')
    assert [log('r8', 'plain'), log('r9', 'plain')] == ['r8'] * 2
    assert caplog.messages == [
        'it broke (ref r1)', 'it broke (ref r4)',
        'it broke (ref r5; 2 more like it)', 'it broke', 'it broke (ref r8)']


def test_memory_is_bounded_by_the_number_of_causes(logger):
    limiter = LineLimiter(1.0, clock=lambda: 0.0)
    for number in range(MAX_CAUSES + 1):
        limiter.log(logger, f'cause {number}', logging.INFO, 'x')
    assert len(limiter._causes) == MAX_CAUSES


def test_more_causes_than_are_told_apart_share_a_line(logger, caplog):
    now = [10.0]
    limited = LineLimiter(1.0, clock=lambda: now[0]).log
    for _ in range(5):
        for number in range(MAX_CAUSES + 50):
            limited(logger, f'cause {number}', logging.INFO, '%d', number)
    own = MAX_CAUSES - 1
    assert caplog.messages == [str(number) for number in range(own + 1)]
    now[0] = 11.0
    limited(logger, 'cause 299', logging.INFO, '299')
    limited(logger, 'cause 300', logging.INFO, '300')
    assert caplog.messages[own + 1:] == ['299', '300']


def test_many_threads_write_one_line_between_them(logger, caplog):
    limiter = LineLimiter(1.0, clock=lambda: 0.0)
    start = threading.Barrier(8)

    def log():
        start.wait(5)
        for _ in range(200):
            limiter.log(logger, 'cause', logging.INFO, 'x')

    threads = [threading.Thread(target=log) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert caplog.messages == ['x']
    assert limiter._causes['test_logs', 'cause'].swallowed == 8 * 200 - 1
