"""Three dialects on one URL, told per message, over real sockets."""
from __future__ import annotations

import itertools
import json

import pytest

import cp_wsrpc
from cp_wsrpc import RPCError, Route, expose, nonblocking

from .apps import Gate, only_connection, request, result, serving_api
from .rawpeer import client_frame

FALSY = [0, '', False, [], {}, None, 0.0]


class Page(Route):
    def init(self, **kwargs):
        return kwargs

    def visits(self):
        return 1


class Api:
    page = Page

    @expose
    def all(self, *args, **kwargs):
        return [args, kwargs]

    @expose
    def echo(self, value):
        return value

    @expose
    async def later(self, value):
        return value

    @expose
    @nonblocking
    def here(self, value):
        return value

    @expose
    def ask(self, *args, **kwargs):
        return cp_wsrpc.connection.call('f', *args, **kwargs).result(10)

    @expose
    async def ask_async(self, *args, **kwargs):
        return await cp_wsrpc.connection.call('f', *args, **kwargs)

    @expose
    def catch(self):
        try:
            cp_wsrpc.connection.call('f').result(10)
        except cp_wsrpc.RemoteError as error:
            return [error.message, error.type, error.code]

    @expose
    def tell(self):
        cp_wsrpc.connection.notify('f', 1)
        return 'told'

    @expose
    def fail(self):
        raise KeyError('x')

    @expose
    def refuse(self):
        raise RPCError(7, 'closed', {'id': 4})


class Speaker:
    """A peer that speaks one dialect, as the client libraries write it."""

    def __init__(self, peer, dialect):
        self.peer = peer
        self.dialect = dialect
        self.ids = itertools.count(3, 2)

    def send_call(self, name, arguments=None):
        id = next(self.ids)
        self.peer.send_json({
            'jsonrpc': lambda: request(name, arguments, id),
            'wsrpc1': lambda: {'serial': id, 'call': name,
                               'arguments': arguments},
            'wsrpc2': lambda: {'id': id, 'method': name,
                               'params': arguments}}[self.dialect]())
        return id

    def result_of(self, id, value):
        return {'jsonrpc': {'jsonrpc': '2.0', 'id': id, 'result': value},
                'wsrpc1': {'data': value, 'serial': id, 'type': 'callback'},
                'wsrpc2': {'id': id, 'result': value}}[self.dialect]

    def call(self, name, arguments=None):
        """The result, which must be written as the dialect writes it."""
        id = self.send_call(name, arguments)
        answer = self.peer.recv_json()
        member = 'data' if self.dialect == 'wsrpc1' else 'result'
        assert answer == self.result_of(id, answer.get(member)), answer
        assert member in answer
        return answer[member]

    def error_of(self, name, arguments=None):
        id = self.send_call(name, arguments)
        answer = self.peer.recv_json()
        if self.dialect == 'wsrpc1':
            assert answer['serial'] == id and answer['type'] == 'error'
            return answer['data']
        assert answer['id'] == id and 'result' not in answer
        return answer['error']

    def take_call(self, name):
        """(id, arguments) of the server's call, which is even."""
        call = self.peer.recv_json()
        id_, name_, arguments = {
            'jsonrpc': ('id', 'method', 'params'),
            'wsrpc1': ('serial', 'call', 'arguments'),
            'wsrpc2': ('id', 'method', 'params')}[self.dialect]
        assert call.get(name_) == name, call
        assert ('jsonrpc' in call) == (self.dialect == 'jsonrpc')
        if self.dialect == 'wsrpc1':
            assert call['type'] == 'call'
        return call.get(id_), call.get(arguments)

    def settle(self, id, value):
        self.peer.send_json(self.result_of(id, value))


@pytest.fixture
def server():
    with serving_api(Api()) as server:
        yield server


@pytest.fixture
def peer(server):
    with server.peer('/api') as peer:
        yield peer


@pytest.fixture(params=['jsonrpc', 'wsrpc1', 'wsrpc2'])
def speaker(request, peer):
    return Speaker(peer, request.param)


@pytest.mark.parametrize(('given', 'seen'), [
    (None, [[], {}]), ([1, 'x'], [[1, 'x'], {}]), ({'a': 1}, [[], {'a': 1}]),
    (5, [[5], {}]), ('x', [['x'], {}]), (False, [[False], {}]),
    (0, [[0], {}]), ('', [[''], {}]), ([], [[], {}]), ({}, [[], {}])])
def test_arguments_mean_the_same_in_every_dialect(speaker, given, seen):
    assert speaker.call('all', given) == seen


@pytest.mark.parametrize('value', FALSY)
def test_falsy_values_arrive_as_they_are_in_both_directions(speaker, value):
    for method in ('echo', 'later', 'here'):
        assert repr(speaker.call(method, [value])) == repr(value)
    for method in ('ask', 'ask_async'):
        top = speaker.send_call(method)
        id, _ = speaker.take_call('f')
        speaker.settle(id, value)
        answer = speaker.peer.recv_json()
        assert repr(answer) == repr(speaker.result_of(top, value)) or (
            answer == speaker.result_of(top, value))


@pytest.mark.parametrize('given', [None, [1, [2]], {'a': 1}])
def test_the_server_calls_in_the_dialect_of_its_caller(speaker, given):
    speaker.send_call('ask', given)
    id, arguments = speaker.take_call('f')
    assert arguments == given and isinstance(id, int) and id % 2 == 0
    speaker.settle(id, {'x': 1})
    speaker.peer.recv_json()


def test_a_name_without_a_dot_is_the_init_of_its_route(speaker):
    assert speaker.call('page', {'a': 1}) == {'a': 1}
    assert speaker.call('page.visits') == 1


def test_errors_have_type_and_message(speaker):
    error = speaker.error_of('fail')
    assert error['message'] == 'internal error' and error['code'] == -32000
    error = speaker.error_of('refuse')
    assert (error['code'], error['message']) == (7, 'closed')
    assert error['data'] == {'id': 4}
    error = speaker.error_of('no.such')
    assert error['code'] == -32601
    error = speaker.error_of('echo', [1, 2])
    assert error['code'] == -32602 and 'takes 1 argument' in error['message']
    if speaker.dialect != 'jsonrpc':
        assert error['type'] == 'InvalidParams'


def test_debug_names_the_class_in_every_dialect():
    with serving_api(Api(), {'debug': True}) as server:
        with server.peer('/api') as peer:
            for dialect in ('wsrpc1', 'wsrpc2'):
                error = Speaker(peer, dialect).error_of('fail')
                assert (error['type'], error['message']) == (
                    'KeyError', "'x'")
            error = Speaker(peer, 'jsonrpc').error_of('fail')
            assert error['data']['type'] == 'KeyError'


def test_a_push_to_a_wsrpc_peer_is_a_call_and_its_answer_ignored(speaker):
    top = speaker.send_call('tell')
    id, arguments = speaker.take_call('f')
    assert arguments == [1]
    assert speaker.peer.recv_json() == speaker.result_of(top, 'told')
    if speaker.dialect == 'jsonrpc':
        assert id is None
    else:
        assert id % 2 == 0
        speaker.settle(id, 'thanks')
    assert speaker.call('echo', [1]) == 1


@pytest.mark.parametrize('answer', [
    {'serial': 2 ** 40, 'type': 'callback', 'data': 1},
    {'serial': 4, 'type': 'error', 'data': 'bare'},
    {'serial': '4', 'type': 'callback'}, {'id': 2 ** 40, 'result': None},
    {'id': 2 ** 40, 'error': 'bare'}])
def test_an_answer_to_an_unknown_serial_is_ignored(peer, answer):
    peer.send_json(answer)
    assert peer.call('echo', [1]) == 1
    assert peer.events == []


@pytest.mark.parametrize(('dialect', 'failure', 'seen'), [
    ('wsrpc1', lambda id: {'serial': id, 'type': 'error',
                           'data': {'type': 'TypeError', 'message': 'no'}},
     ['no', 'TypeError', None]),
    ('wsrpc1', lambda id: {'serial': id, 'type': 'error', 'data': 'bare'},
     ['bare', None, None]),
    ('wsrpc2', lambda id: {'id': id, 'error': 'bare'}, ['bare', None, None]),
    ('wsrpc2', lambda id: {'id': id, 'result': None, 'error': {
        'type': 'TypeError', 'message': 'no', 'code': -32000}},
     ['no', 'TypeError', -32000])])
def test_an_error_is_taken_in_every_form(peer, dialect, failure, seen):
    speaker = Speaker(peer, dialect)
    top = speaker.send_call('catch')
    id, _ = speaker.take_call('f')
    peer.send_json(failure(id))
    assert peer.recv_json() == speaker.result_of(top, seen)


def test_the_null_of_the_javascript_client_is_a_result(peer):
    speaker = Speaker(peer, 'wsrpc2')
    top = speaker.send_call('ask')
    id, _ = speaker.take_call('f')
    peer.send_json({'id': id, 'result': None})
    assert peer.recv_json() == speaker.result_of(top, None)


def test_the_articles_own_messages(peer):
    peer.send_text('{"serial":3,"call":"page","arguments":null}')
    assert peer.recv_json() == {'data': {}, 'serial': 3, 'type': 'callback'}
    peer.send_text('{"serial":5,"type":"call","call":"fail",'
                   '"arguments":{}}')
    answer = peer.recv_json()
    assert answer['serial'] == 5 and answer['type'] == 'error'


def test_dialects_may_be_mixed_on_one_connection(peer):
    speakers = [Speaker(peer, name) for name in (
        'jsonrpc', 'wsrpc1', 'wsrpc2', 'wsrpc1', 'jsonrpc', 'wsrpc2')]
    for n, speaker in enumerate(speakers):
        speaker.ids = itertools.count(100 * n + 1, 2)
        assert speaker.call('echo', [n]) == n
        # what the server says unasked follows the last one
        connection = only_connection()
        assert connection.dialect.name == speaker.dialect
        connection.notify('f', n)
        assert speaker.take_call('f')[1] == [n]


@pytest.mark.parametrize('first', ['wsrpc1', 'wsrpc2'])
def test_the_newest_dialect_is_remembered_also_within_one_read(peer, first):
    old, new = Speaker(peer, first), Speaker(peer, 'jsonrpc')
    texts = [{'wsrpc1': {'serial': 3, 'call': 'here', 'arguments': [3]},
              'wsrpc2': {'id': 3, 'method': 'here', 'params': [3]}}[first],
             request('here', [5], 5)]
    for speakers in ((old, new), (new, old)):
        peer.send_raw(b''.join(client_frame(1, json.dumps(text).encode())
                               for text in texts))
        for speaker in speakers:
            id = 3 if speaker is old else 5
            assert peer.recv_json() == speaker.result_of(id, id)
        only_connection().notify('f', 0)
        assert speaker.take_call('f')[1] == [0]
        texts.reverse()


class Slow(Api):
    def __init__(self, gate):
        self.gate = gate

    @expose
    def hold(self):
        return self.gate.enter()


def test_calls_in_flight_are_answered_in_their_own_dialect():
    gate = Gate()
    with serving_api(Slow(gate)) as server, server.peer('/api') as peer:
        one, two = Speaker(peer, 'wsrpc1'), Speaker(peer, 'wsrpc2')
        two.ids = itertools.count(101, 2)
        first = one.send_call('hold')
        gate.wait_entered()
        second = two.send_call('hold')
        gate.wait_entered()
        gate.open('held')
        answers = [peer.recv_json(), peer.recv_json()]
        assert one.result_of(first, 'held') in answers
        assert two.result_of(second, 'held') in answers


@pytest.mark.parametrize(('options', 'offered', 'dialect'), [
    ({}, None, 'jsonrpc'), ({'dialect': 'wsrpc1'}, None, 'wsrpc1'),
    ({'dialect': 'wsrpc2'}, None, 'wsrpc2'),
    ({'subprotocols': ['wsrpc2', 'wsrpc1']}, 'wsrpc1', 'wsrpc1'),
    ({'subprotocols': ['wsrpc2'], 'dialect': 'wsrpc1'}, 'wsrpc2, other',
     'wsrpc2'),
    ({'subprotocols': ['chat'], 'dialect': 'wsrpc1'}, 'chat', 'wsrpc1')])
def test_before_the_peer_has_spoken_its_handshake_decides(
        options, offered, dialect):
    with serving_api(Api(), options) as server:
        headers = {'Sec-WebSocket-Protocol': offered} if offered else {}
        with server.peer('/api', headers=headers) as peer:
            only_connection().notify('f', 0)
            assert Speaker(peer, dialect).take_call('f')[1] == [0]


@pytest.mark.parametrize('dialect', ['wsrpc1', 'wsrpc2'])
def test_a_topic_reaches_a_wsrpc_peer_as_a_call(dialect):
    with serving_api(Api(), {'subscribe': ['news']}) as server:
        with server.peer('/api') as peer:
            speaker = Speaker(peer, dialect)
            subscription = speaker.call('rpc.subscribe', ['news'])
            ids = []
            for data in (1, None):
                cp_wsrpc.publish('news', data)
                id, params = speaker.take_call('rpc.subscription')
                assert params['subscription'] == subscription
                assert params['topic'] == 'news'
                assert params['result'] == data
                ids.append(id)
            assert ids[0] % 2 == ids[1] % 2 == 0 and ids[0] != ids[1]


def test_a_message_that_is_no_json_gets_json_rpcs_answer(speaker):
    speaker.call('echo', [1])
    speaker.peer.send_text('no json')
    assert speaker.peer.recv_json() == {
        'jsonrpc': '2.0', 'id': None,
        'error': {'code': -32700, 'message': 'Parse error'}}


@pytest.mark.parametrize('dialect', ['jsonrpc', 'wsrpc1', 'wsrpc2'])
def test_a_duplicate_serial_is_refused_in_its_dialect(dialect):
    gate = Gate()
    with serving_api(Slow(gate)) as server, server.peer('/api') as peer:
        speaker = Speaker(peer, dialect)
        speaker.ids = itertools.repeat(3)
        speaker.send_call('hold')
        gate.wait_entered()
        speaker.send_call('echo', [1])
        answer = peer.recv_json()
        assert answer.get('serial', answer.get('id')) is None
        assert (answer.get('error') or answer['data'])['code'] == -32600
        gate.open()
        assert peer.recv_json() == speaker.result_of(3, None)


def test_a_result_is_what_apps_say(peer):
    peer.send_json(request('echo', [1], 'x'))
    assert peer.recv_json() == result('x', 1)
