"""Our lines in CherryPy's error log, where nobody set up ``logging``."""
from __future__ import annotations

import logging

import cherrypy
import pytest

from cp_wsrpc.host_log import join_logs, leave_logs


@pytest.fixture
def lines():
    """What CherryPy's error log says."""
    said = []

    class Keeper(logging.Handler):
        def emit(self, record):
            said.append(record.getMessage())

    keeper = Keeper()
    cherrypy.log.error_log.addHandler(keeper)
    join_logs()
    yield said
    leave_logs()
    cherrypy.log.error_log.removeHandler(keeper)


def have_handlers(monkeypatch, *handlers):
    """No others: pytest gives the root logger some before each test."""
    monkeypatch.setattr(logging.getLogger(), 'handlers', list(handlers))


def test_warnings_and_errors_stand_in_cherrypys_log(lines, monkeypatch):
    have_handlers(monkeypatch)
    log = logging.getLogger('cp_wsrpc.somewhere')
    log.info('too little to tell')
    log.warning('%s: slow', '#7')
    try:
        raise KeyError('x')
    except KeyError:
        log.exception('it failed')
    assert len(lines) == 2
    assert lines[0].endswith('WSRPC #7: slow')
    assert 'WSRPC it failed\nTraceback' in lines[1]
    assert lines[1].rstrip().endswith("KeyError: 'x'")


def test_who_has_handlers_of_his_own_hears_it_there_alone(
        lines, monkeypatch):
    heard = []

    class Own(logging.Handler):
        def emit(self, record):
            heard.append(record.getMessage())

    have_handlers(monkeypatch, Own())
    logging.getLogger('cp_wsrpc.somewhere').warning('slow')
    assert heard == ['slow'] and lines == []


def test_a_line_that_cannot_be_written_stops_nobody(
        lines, monkeypatch, capsys):
    have_handlers(monkeypatch)
    logging.getLogger('cp_wsrpc.somewhere').warning('%d', 'no number')
    assert lines == []
    assert 'Logging error' in capsys.readouterr().err
