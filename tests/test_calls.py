"""Arguments, results, batches and ids of calls, over real sockets."""
from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import json
import random
import threading
import uuid
from typing import Literal, Optional

import msgspec
import pytest

from cp_wsrpc import expose, invocation, logs, nonblocking

from .apps import (
    failure_of,
    recv_all,
    request,
    result,
    serving_api,
)
from .rawpeer import CallFailed


class Colour(enum.Enum):
    RED = 'red'
    BLUE = 'blue'


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


class Order(msgspec.Struct):
    name: str
    at: datetime.datetime
    points: list[Point] = []


class Typed:
    """Methods that say what of Python they were given."""

    @expose
    def int(self, value: int):
        return repr(value)

    @expose
    def str(self, value: str):
        return repr(value)

    @expose
    def float(self, value: float):
        return repr(value)

    @expose
    def list(self, value: list[int]):
        return repr(value)

    @expose
    def point(self, value: Point):
        return repr(value)

    @expose
    def order(self, value: Order):
        return repr(value)

    @expose
    def moment(self, value: datetime.datetime):
        return value.isoformat()

    @expose
    def colour(self, value: Colour):
        return value.name

    @expose
    def literal(self, value: Literal['a', 'b']):
        return repr(value)

    @expose
    def optional(self, value: Optional[int] = None):
        return repr(value)

    @expose
    def union(self, value: int | str):
        return repr(value)

    @expose
    def bytes(self, value: bytes):
        return repr(value)

    @expose
    def uuid(self, value: uuid.UUID):
        return repr(value)

    @expose
    def decimal(self, value: decimal.Decimal):
        return repr(value)

    @expose
    def set(self, value: set[int]):
        return repr(sorted(value))

    @expose
    def anything(self, value):
        return value


class Values:
    """Results: what Python has, JSON has in one way."""

    given: object = None

    @expose
    def give(self):
        return Values.given

    @expose
    async def give_async(self):
        return Values.given

    @expose
    @nonblocking
    def give_here(self):
        return Values.given


class Api:
    typed = Typed()
    values = Values()

    @expose
    def add(self, a: int, b: int):
        return a + b

    @expose
    def nothing(self):
        return 'nothing'

    @expose
    def all(self, *args, **kwargs):
        return [args, kwargs]

    @expose
    def echo(self, value=None):
        return value

    @expose
    async def later(self, value=None):
        return value

    @expose
    @nonblocking
    def here(self, value=None):
        return value

    @expose
    def thread(self):
        return threading.current_thread().name

    @expose
    async def thread_async(self):
        return threading.current_thread().name

    @expose
    @nonblocking
    def thread_here(self):
        return threading.current_thread().name


@pytest.fixture(scope='module')
def server():
    with serving_api(Api()) as server:
        yield server


@pytest.fixture(autouse=True)
def _every_line(monkeypatch):
    # None is held back for those of the test before.
    monkeypatch.setattr(invocation, '_limiter', logs.LineLimiter())


@pytest.fixture
def peer(server):
    with server.peer('/api') as peer:
        yield peer


@pytest.mark.parametrize(('method', 'thread'), [
    ('thread', 'wsrpc-worker-'), ('thread_async', 'wsrpc-io'),
    ('thread_here', 'wsrpc-io')])
def test_a_method_runs_where_its_kind_says(peer, method, thread):
    assert peer.call(method).startswith(thread)


@pytest.mark.parametrize(('params', 'arguments'), [
    (None, [[], {}]), ([], [[], {}]), ({}, [[], {}]),
    ([1, 2], [[1, 2], {}]), ({'a': 1}, [[], {'a': 1}]),
    ([{'a': 1}], [[{'a': 1}], {}]), (5, [[5], {}]), ('x', [['x'], {}]),
    (False, [[False], {}]), (0, [[0], {}]), ('', [[''], {}]),
    ([None], [[None], {}]), ([[]], [[[]], {}])])
def test_arguments_arrive_as_the_box_says(peer, params, arguments):
    assert peer.call('all', params) == arguments


def test_a_null_for_params_is_none_given(peer):
    peer.send_text('{"jsonrpc":"2.0","method":"all","params":null,"id":1}')
    assert peer.recv_json() == result(1, [[], {}])


@pytest.mark.parametrize(('kind', 'given', 'seen'), [
    ('int', 2 ** 60, str(2 ** 60)), ('str', 'ü\0"', repr('ü\0"')),
    ('float', 1, '1.0'), ('list', [1, 2], '[1, 2]'),
    ('point', {'x': 1}, 'Point(x=1, y=0)'),
    ('order', {'name': 'n', 'at': '2026-01-02T03:04:05Z',
               'points': [{'x': 1, 'y': 2}]},
     "Order(name='n', at=datetime.datetime(2026, 1, 2, 3, 4, 5, "
     'tzinfo=datetime.timezone.utc), points=[Point(x=1, y=2)])'),
    ('moment', '2026-01-02T03:04:05+01:00', '2026-01-02T03:04:05+01:00'),
    ('colour', 'red', 'RED'), ('literal', 'b', "'b'"),
    ('optional', None, 'None'), ('optional', 3, '3'),
    ('union', 'x', "'x'"), ('union', 4, '4'),
    ('bytes', 'aGk=', "b'hi'"),
    ('uuid', '12345678-1234-5678-1234-567812345678',
     "UUID('12345678-1234-5678-1234-567812345678')"),
    ('decimal', '1.10', "Decimal('1.10')"), ('set', [3, 1, 3], '[1, 3]')])
def test_a_typed_argument_is_converted(peer, kind, given, seen):
    assert peer.call(f'typed.{kind}', [given]) == seen
    assert peer.call(f'typed.{kind}', {'value': given}) == seen


@pytest.mark.parametrize(('method', 'params', 'words'), [
    ('add', [1, 'x'], 'b: expected int, got str'),
    ('add', {'a': 1, 'b': None}, 'b: expected int, got null'),
    ('add', [1], 'takes 2 arguments, 1 given'),
    ('add', None, 'try [1, 2] or {"a": 1, "b": 2}'),
    ('add', {'a': 1, 'c': 2}, 'has no parameter "c"'),
    ('add', {'a': 1}, 'needs "b", not given'),
    ('add', 5, 'takes 2 arguments, 1 given'),
    ('nothing', [1], 'takes no arguments, 1 given'),
    ('typed.int', [True], 'expected int, got bool'),
    ('typed.int', ['1'], 'expected int, got str'),
    ('typed.int', [1.5], 'expected int, got float'),
    ('typed.list', [[1, 'x']], 'value[1]: expected int, got str'),
    ('typed.order', [{'name': 'n', 'at': '2026-01-02T03:04:05Z',
                      'points': [{'x': 'one'}]}], 'value.points[0].x'),
    ('typed.colour', ['green'], "invalid enum value 'green'"),
    ('typed.moment', ['yesterday'], 'invalid RFC3339'),
    ('typed.bytes', ['%'], 'base64')])
def test_a_wrong_call_is_told_what_was_given_and_what_fits(
        peer, method, params, words):
    code, message, _ = failure_of(peer, method, params)
    assert code == -32602 and words.lower() in message.lower(), message


def test_a_method_with_wrong_arguments_is_not_run(server, peer):
    Values.given = ['untouched']
    assert failure_of(peer, 'values.give', [1])[0] == -32602
    assert not server.logged('Traceback')


@pytest.mark.parametrize(('given', 'seen'), [
    (Point(1, 2), {'x': 1, 'y': 2}),
    (Order('n', datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)),
     {'name': 'n', 'at': '2026-01-02T00:00:00Z', 'points': []}),
    (datetime.date(2026, 1, 2), '2026-01-02'),
    (uuid.UUID(int=5), '00000000-0000-0000-0000-000000000005'),
    (decimal.Decimal('1.10'), '1.10'), ({7}, [7]), (b'hi', 'aGk='),
    (Colour.BLUE, 'blue'), ((1, 'x'), [1, 'x']), ({1: 2}, {'1': 2}),
    (2 ** 63 + 1, 2 ** 63 + 1), (10 ** 400, 10 ** 400),
    (2 ** 53 + 1, 2 ** 53 + 1), (-0.0, -0.0), (1e300, 1e300),
    (msgspec.Raw(b'{"ready":1}'), {'ready': 1})])
@pytest.mark.parametrize('method', ['give', 'give_async', 'give_here'])
def test_a_result_arrives_as_json_has_it(peer, method, given, seen):
    Values.given = given
    assert repr(peer.call(f'values.{method}')) == repr(seen)


@pytest.mark.parametrize('value', [
    0, '', False, [], {}, None, 0.0, [None], {'': ''}])
@pytest.mark.parametrize('method', ['echo', 'later', 'here'])
def test_a_falsy_value_stays_what_it_is(peer, method, value):
    assert repr(peer.call(method, [value])) == repr(value)


class Secretive:
    def __repr__(self):
        return 'a secret'

    __str__ = __repr__


def _nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize('given', [
    float('nan'), [float('inf')], {'a': (None, float('-inf'))},
    Secretive(), {Secretive(): 1}, '\ud800', {'\udfff': 1}, _nested(10_000),
    (x for x in [1])],
    ids=['nan', 'inf', '-inf', 'object', 'key', 'surrogate',
         'surrogate key', 'deep', 'generator'])
@pytest.mark.parametrize('method', ['give', 'give_async', 'give_here'])
def test_a_result_that_is_no_json_is_an_error_and_no_more(
        server, peer, method, given):
    Values.given = given
    code, message, data = failure_of(peer, f'values.{method}')
    assert (code, message) == (-32000, 'internal error')
    assert set(data) == {'ref'}
    assert peer.call('echo', [1]) == 1


@pytest.mark.parametrize('number', [
    '9007199254740993', '-9223372036854775809', '1' * 400, '-0', '-0.0',
    '1.5e300', '1e-400'])
def test_a_number_comes_back_exactly(peer, number):
    for method in ('echo', 'later', 'here'):
        peer.send_text(f'{{"jsonrpc":"2.0","method":"{method}",'
                       f'"params":[{number}],"id":1}}')
        assert repr(peer.recv_json()['result']) == repr(json.loads(number))


@pytest.mark.parametrize('value', [
    '1e999', '1' * 5000, 'NaN', 'Infinity', '"\\ud800"', '{"\\udc00":1}'])
def test_what_is_no_value_is_an_error_and_no_more(peer, value):
    peer.send_text('{"jsonrpc":"2.0","method":"echo","id":1,"params":['
                   + value + ']}')
    answer = peer.recv_json()
    assert answer['error']['code'] in (-32700, -32600, -32602), answer
    assert peer.call('echo', [1]) == 1


@pytest.mark.parametrize('place', ['params', 'id', 'method', 'batch'])
def test_a_hundred_thousand_brackets_are_one_error(peer, place):
    deep = '[' * 100_000 + ']' * 100_000
    text = {'params': '{"jsonrpc":"2.0","method":"echo","id":1,"params":%s}',
            'id': '{"jsonrpc":"2.0","method":"echo","id":%s}',
            'method': '{"jsonrpc":"2.0","method":%s,"id":1}',
            'batch': '%s'}[place]
    peer.send_text(text % deep)
    assert peer.recv_json()['error']['code'] == -32600
    assert peer.call('echo', [1]) == 1


@pytest.mark.parametrize('id', [
    0, -1, 2 ** 53 - 1, 1 - 2 ** 53, '', 'x' * 64, '__proto__', 'ü' * 64,
    None, '1'])
def test_an_id_comes_back_as_it_was(peer, id):
    peer.send_json(request('echo', [1], id))
    answer = peer.recv_json()
    assert answer == result(id, 1) and type(answer['id']) is type(id)


@pytest.mark.parametrize('id', [
    2 ** 53, -2 ** 53, 'x' * 65, 1.5, True, [], {}, {'a': 1}])
def test_an_id_beyond_the_limits_is_refused(peer, id):
    peer.send_json(request('echo', [1], id))
    answer = peer.recv_json()
    assert answer['id'] is None and answer['error']['code'] == -32600


# -- notifications and batches ---------------------------------------------


@pytest.mark.parametrize('method', [
    'echo', 'later', 'here', 'no.such', 'values.give', 'rpc.ping',
    'rpc.nothing', '$/cancelRequest'])
def test_a_notification_is_never_answered(peer, method):
    Values.given = Secretive()
    peer.notify(method, [1, 2, 3])      # a wrong call, too
    peer.notify(method)
    # in one thread after it, so a reply would come first
    assert peer.call('echo', ['after']) == 'after'
    assert peer.events == []


def test_a_batch_is_answered_by_one_array(peer):
    peer.send_json([
        request('add', [1, 2], 1), {'jsonrpc': '2.0', 'method': 'echo'},
        {'foo': 1}, 5, [], request('later', ['x'], 'two'),
        request('here', [None], 3), request('no.such', id=4),
        request('rpc.ping', [9], 5)])
    answers = peer.recv_json()
    by_id = {answer['id']: answer for answer in answers if 'result'
             in answer}
    assert by_id == {1: result(1, 3), 'two': result('two', 'x'),
                     3: result(3, None), 5: result(5, [9])}
    errors = sorted((answer['error']['code'], str(answer['id']))
                    for answer in answers if 'error' in answer)
    assert errors == [(-32601, '4')] + [(-32600, 'None')] * 3 or (
        sorted(errors) == sorted([(-32601, '4')] + [(-32600, 'None')] * 3))
    assert len(answers) == 8


@pytest.mark.parametrize(('text', 'code', 'is_array'), [
    ('[]', -32600, False), ('[1]', -32600, True), ('[[]]', -32600, True),
    ('[1', -32700, False), ('', -32700, False), ('nonsense', -32700, False),
    ('{"jsonrpc":"2.0","method":"echo","params":[1],"id":1', -32700, False),
    ('{}', -32600, False), ('5', -32600, False), ('null', -32600, False),
    ('{"jsonrpc":"1.0","method":"echo","id":1}', -32600, False)])
def test_what_is_no_message_is_answered_as_json_rpc_says(
        peer, text, code, is_array):
    peer.send_text(text)
    answer = peer.recv_json()
    if is_array:
        answer, = answer
    assert answer['error']['code'] == code and 'id' in answer


def test_a_batch_of_notifications_is_not_answered(peer):
    peer.send_json([{'jsonrpc': '2.0', 'method': 'echo'}] * 3)
    assert peer.call('echo', [1]) == 1
    assert peer.events == []


def test_a_duplicate_within_a_batch_is_an_error_in_it(peer):
    peer.send_json([request('later', [1], 5), request('later', [2], 5)])
    answers = peer.recv_json()
    assert result(5, 1) in answers and len(answers) == 2
    other, = (a for a in answers if a != result(5, 1))
    assert other['id'] is None and other['error']['code'] == -32600


def test_many_calls_on_many_connections_get_their_own_answers(server):
    peers = [server.peer('/api') for _ in range(4)]
    numbers = random.Random(5)
    try:
        for id in range(120):
            for place, peer in enumerate(peers):
                method = numbers.choice(['echo', 'later', 'here'])
                peer.send_json(request(method, [[place, id]], id))
        for place, peer in enumerate(peers):
            assert recv_all(peer, 120) == {
                id: result(id, [place, id]) for id in range(120)}
    finally:
        for peer in peers:
            peer.drop()


def test_a_failed_call_says_what_rawpeer_raises(peer):
    with pytest.raises(CallFailed) as caught:
        peer.call('no.such')
    assert caught.value.code == -32601


def test_unknown_members_and_meta_are_ignored(peer):
    peer.send_json({**request('echo', [1]), '_meta': {'timeoutMs': 5},
                    'whatever': [1]})
    assert peer.recv_json() == result(1, 1)
