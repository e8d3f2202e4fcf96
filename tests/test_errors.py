"""The tree of exceptions, as its docstring and protocol.md draw it."""
from __future__ import annotations

import copy
import inspect
import pickle
import re

import pytest

from cp_wsrpc import errors
from cp_wsrpc.errors import CloseCode, RemoteError, RPCError, WsrpcError

#: protocol.md, 4
CODES = {
    'ParseError': -32700, 'InvalidRequest': -32600,
    'MethodNotFound': -32601, 'InvalidParams': -32602,
    'InternalError': -32603, 'RPCError': -32000, 'Unauthorized': -32001,
    'TooManySubscriptions': -32006, 'RequestTooBig': -32007,
    'ResponseTooBig': -32008, 'Busy': -32009, 'BatchTooLarge': -32010,
    'GoingAway': -32011, 'TopicRefused': -32012}
OF_THE_PROTOCOL = [name for name in CODES if name != 'RPCError']
CLASSES = [value for value in vars(errors).values()
           if inspect.isclass(value) and issubclass(value, WsrpcError)
           and not value.__name__.startswith('_')]


def drawn() -> list[tuple[str, str | None]]:
    """``[('WsrpcError', None), ('RPCError', 'WsrpcError'), ...]``."""
    above: list[str] = []
    tree = []
    for line in (errors.__doc__ or '').splitlines():
        found = re.match(r'    ((?:\|   |    )*)(\+-- )?([A-Z]\w+)', line)
        if found is None or (not above and found[3] != 'WsrpcError'):
            continue
        depth = len(found[1]) // 4 + bool(found[2])
        del above[depth:]
        tree.append((found[3], above[-1] if above else None))
        above.append(found[3])
    return tree


def test_the_docstring_draws_every_class_under_its_parent() -> None:
    tree = drawn()
    assert sorted(name for name, _ in tree) == sorted(
        each.__name__ for each in CLASSES)
    for name, parent in tree:
        if parent is not None:
            bases = [base.__name__ for base in getattr(errors, name).__mro__
                     if base in CLASSES]
            assert bases[1] == parent, name


def test_everything_public_is_exported() -> None:
    assert sorted(errors.__all__) == sorted(
        [each.__name__ for each in CLASSES] + ['CloseCode'])


@pytest.mark.parametrize(('name', 'code'), CODES.items())
def test_each_class_has_the_code_of_the_protocol(name: str,
                                                 code: int) -> None:
    error = getattr(errors, name)()
    assert error.code == code
    assert str(code) in str(error)
    assert getattr(errors, name).__doc__


@pytest.mark.parametrize(('name', 'builtin'), [
    ('ConnectionLostError', ConnectionError), ('CallTimeout', TimeoutError),
    ('NoConnection', LookupError), ('NoConnection', AttributeError),
    ('WrongThread', RuntimeError),
    ('ConfigError', ValueError), ('MessageTooBig', ValueError)])
def test_those_that_python_has_a_word_for_are_that_too(
        name: str, builtin: type[Exception]) -> None:
    assert issubclass(getattr(errors, name), builtin)


def test_an_error_of_the_application_stays_as_written() -> None:
    error = RPCError(7, 'closed', {'id': 4})
    assert (error.code, error.message, error.data) == (7, 'closed', {'id': 4})
    assert str(error) == 'closed (7)'


def test_a_class_of_the_application_brings_its_own_code() -> None:
    class AccountClosed(RPCError):
        code = 7
        default_message = 'the account is closed'

    assert str(AccountClosed()) == 'the account is closed (7)'
    assert AccountClosed(8).code == 8
    assert AccountClosed(0, '').code == 0
    assert AccountClosed(0, '').message == ''


@pytest.mark.parametrize('name', OF_THE_PROTOCOL)
def test_an_error_of_the_protocol_takes_a_sentence_and_keeps_its_code(
        name: str) -> None:
    error = getattr(errors, name)('a sentence', {'a': 1})
    assert (error.code, error.message, error.data) == (
        CODES[name], 'a sentence', {'a': 1})


@pytest.mark.parametrize('name', ['Busy', 'GoingAway'])
def test_what_was_not_run_says_so_in_data_of_its_own(name: str) -> None:
    error = getattr(errors, name)('full')
    assert error.data == {'retryable': True, 'executed': False}
    error.data['ref'] = 'x'
    assert getattr(errors, name)().data == {
        'retryable': True, 'executed': False}


@pytest.mark.parametrize(('data', 'executed', 'retryable'), [
    (None, True, False), ('x', True, False), ({}, True, False),
    ({'executed': False, 'retryable': True}, False, True),
    ({'executed': True, 'retryable': False}, True, False),
    ({'executed': 0, 'retryable': 1}, True, False)])
def test_a_remote_error_tells_whether_it_was_run(
        data: object, executed: bool, retryable: bool) -> None:
    error = RemoteError('no', data=data)
    assert (error.executed, error.retryable) == (executed, retryable)


@pytest.mark.parametrize(('error', 'text'), [
    (RemoteError('no'), 'no'),
    (RemoteError('no', code=0), 'no (0)'),
    (RemoteError('no', type='KeyError'), 'KeyError: no'),
    (RemoteError('no', type='KeyError', code=5, stack='at f'),
     'KeyError: no (5)')])
def test_a_remote_error_reads_as_its_traceback_would(error: RemoteError,
                                                     text: str) -> None:
    assert str(error) == text


@pytest.mark.parametrize('duplicate', [
    copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
@pytest.mark.parametrize('error', [
    RPCError(7, 'no', [1]), RemoteError('no', code=5, type='E', data=[1]),
    errors.ConnectionLostError('gone', maybe_executed=False),
    errors.CallTimeout('late'),
    *[getattr(errors, name)('no', [1]) for name in OF_THE_PROTOCOL]],
    ids=lambda value: type(value).__name__)
def test_errors_can_be_copied_and_pickled(duplicate: object,
                                          error: Exception) -> None:
    again = duplicate(error)        # type: ignore[operator]
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)


def test_a_lost_connection_may_have_run_the_call_unless_said() -> None:
    assert errors.ConnectionLostError().maybe_executed
    assert not errors.ConnectionLostError('x', False).maybe_executed


def test_close_codes_are_those_of_the_protocol() -> None:
    # protocol.md, 5
    assert {code.value for code in CloseCode} == {
        1000, 1001, 1002, 1003, 1005, 1006, 1007, 1008, 1009, 1011, 1012,
        1013, 4400, 4401, 4403, 4408, 4429}
