"""What an exception becomes on the wire, whatever it does itself."""
from __future__ import annotations

import pytest

from cp_wsrpc import RPCError
from cp_wsrpc.failures import failure_of


class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError('no words')

    __repr__ = __str__


class Unprintable(SyntaxError):
    """The traceback module trusts what a SyntaxError carries."""

    text = 5
    lineno = 1


KINDS = [KeyError, Unspeakable, Unprintable]


@pytest.mark.parametrize('kind', KINDS)
def test_debug_tells_of_every_exception_what_can_be_told(kind):
    try:
        raise kind('x')
    except Exception as error:
        code, message, data = failure_of(error, debug=True, ref='r1')
    assert code == -32000
    assert isinstance(message, str)
    assert data['type'] == kind.__name__
    assert data['ref'] == 'r1'
    assert 'raise kind' in data['traceback']


@pytest.mark.parametrize('kind', KINDS)
def test_without_it_nothing_is_told_but_the_reference(kind):
    assert failure_of(kind('x'), ref='r1') == (
        -32000, 'internal error', {'ref': 'r1'})


def test_an_answer_is_told_as_written():
    assert failure_of(RPCError(7, 'closed', 5)) == (7, 'closed', 5)
