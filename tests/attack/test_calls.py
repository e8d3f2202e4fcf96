"""Threats C1-C5, C7-C11; C6 is in ``test_clients``."""
from __future__ import annotations

import contextlib
import json
import queue
import random
import socket
import threading
import time
from collections import Counter

import pytest

from ..rawpeer import TEXT, CallFailed, PeerClosed, client_frame
from ..serving import wait_until
from . import FULL, in_time
from .target import BOMBS, HOOKS, SECRET, VALUES


@pytest.fixture
def peer(attacked):
    with attacked.peer() as peer:
        yield peer


@pytest.fixture
def frames(monkeypatch):
    """Every text that a peer has received."""
    from ..rawpeer import RawPeer
    received = []
    recv_frame = RawPeer.recv_frame

    def noting(self, timeout_s=None):
        opcode, payload = recv_frame(self, timeout_s)
        received.append(payload)
        return opcode, payload

    monkeypatch.setattr(RawPeer, 'recv_frame', noting)
    return received


def answer(peer, text, timeout_s=5):
    """Send a text as it is; the JSON that comes back."""
    if isinstance(text, str):
        text = text.encode()
    peer.send_frame(TEXT, text)
    return strict(peer.recv_text(timeout_s))


def strict(text):
    def refuse(constant):
        raise AssertionError(f'{constant} is no JSON')
    return json.loads(text, parse_constant=refuse)


def call_text(method, params='[]', id='1'):
    return (f'{{"jsonrpc":"2.0","method":{method},"params":{params},'
            f'"id":{id}}}')


# -- C1 --------------------------------------------------------------------

PARTS = ['__init__', '__class__', '__globals__', '__dict__', '__call__',
         '__func__', '__self__', '__wrapped__', 'add', 'ping', 'prop',
         'attribute', 'plain', '_hidden', 'default', 'index', 'inner',
         '_cp_config', 'exposed', 'func_globals', 'mro', 'Api', 'self',
         'rpcx', 'constructor', '__proto__', 'init', 'closed', 'connection',
         'popargs', '_cp_dispatch', 'tools', 'on', '', ' ', '.', '..', '/',
         '\0', 'ad\0d', 'add ', ' add', 'ADD', 'Add', 'ａｄｄ', 'a\u0301dd',
         'add\u200b', 'add/', '/add', 'add()', 'ad%64', 'add;', '*', 'a*']
REGISTERED = {'add', 'ping'}


def names(count):
    chosen = random.Random(1)
    yield from (name for name in PARTS if name not in REGISTERED)
    for _ in range(count):
        name = '.'.join(chosen.choices(PARTS, k=chosen.randrange(2, 5)))
        yield name


def test_c1_only_registered_names_can_be_called(attacked, peer):
    before = attacked.stats()
    for name in names(100_000 if FULL else 3000):
        with pytest.raises(CallFailed) as caught:
            peer.call(name)
        assert caught.value.code == -32601, name
        assert caught.value.message == 'Method not found'
    after = attacked.stats()
    assert after['property'] == 0
    assert after['run'] == before['run']


def test_c1_the_methods_of_an_inner_endpoint_are_its_own(attacked, peer):
    with pytest.raises(CallFailed) as caught:
        peer.call('inner.inner')
    assert caught.value.code == -32601
    with attacked.peer('/api/inner') as inner:
        assert inner.call('inner') == 'inner'
        with pytest.raises(CallFailed):
            inner.call('ping')


@pytest.mark.parametrize('method', [
    '1', '1.5', 'true', 'null', '[]', '["add"]', '{}', '{"add":1}', '-1'])
def test_c1_a_name_is_a_string(peer, method):
    assert answer(peer, call_text(method))['error']['code'] == -32600
    assert peer.call('ping') == 'pong'


def test_c1_a_name_of_a_megabyte_is_unknown_like_any_other(peer):
    reply = answer(peer, call_text('"' + 'a' * 1_000_000 + '"'))
    assert reply['error']['code'] in (-32600, -32601)
    assert len(json.dumps(reply)) < 1000


@pytest.mark.parametrize('name', ['rpc.', 'rpc.x', 'rpc.subscribe.x', '$/x',
                                  'rpc.__class__', 'RPC.ping'])
def test_c1_nothing_hides_among_the_reserved_names(peer, name):
    with pytest.raises(CallFailed) as caught:
        peer.call(name)
    assert caught.value.code == -32601


# -- C2, C3, C4, C5 --------------------------------------------------------


@pytest.mark.parametrize('text', [
    '[' * 100_000, '{"a":' * 100_000, '[' * 100_000 + ']' * 100_000,
    call_text('"echo"', '[' * 50_000 + ']' * 50_000),
    call_text('"echo"', id='[' * 50_000 + ']' * 50_000),
    '{"jsonrpc":"2.0","id":2,"result":' + '[' * 50_000 + ']' * 50_000 + '}',
    '{"jsonrpc":"2.0","id":2,"error":{"code":1,"message":"x","data":'
    + '[' * 50_000 + ']' * 50_000 + '}}',
    '{"id":3,"method":"echo","params":' + '{"a":' * 900 + '1' + '}' * 901,
    '"' + '\\"[' * 1000 + '"',
], ids=lambda text: text[:40])
def test_c2_deep_nesting_is_an_error_and_no_more(peer, text):
    assert 'error' in answer(peer, text)
    assert peer.call('ping') == 'pong'


def test_c2_megabytes_of_brackets_hold_the_loop_for_moments(attacked, peer):
    inner = b','.join([b'{}'] * 340_000)
    texts = [b'[' + inner + b']', b'[]' * 500_000, b'[[' + inner + b']]',
             b'{"jsonrpc":"2.0","id":1,"method":5,"params":[%s]}' % inner,
             b'{"jsonrpc":"2.0","id":1,"method":"x","params":[%s]}' % inner,
             b'[' * 1_000_000, b'"' * 1_000_000]
    frames = [client_frame(TEXT, text) for text in texts]
    rounds = 50 if FULL else 2
    before_s = attacked.stats()['loop_s']
    for frame in frames * rounds:
        peer.send_raw(frame)
        answer_to_it = peer.recv_json()
        assert 'error' in str(answer_to_it)
    each_s = (attacked.stats()['loop_s'] - before_s) / len(frames) / rounds
    print(f'{each_s * 1000:.1f} ms of the loop for each MB of brackets')
    assert each_s < 0.025       # 40 ms before they were counted first
    assert peer.call('ping') == 'pong'


@pytest.mark.parametrize('text', ['9' * 5000, '-' + '9' * 5000, '1e999',
                                  '-1e999', '1e-999', '-0', '-0.0',
                                  str(2 ** 53 + 1), str(2 ** 64),
                                  '0.' + '1' * 5000, '1e5000'])
def test_c3_numbers_are_exact_or_an_error(peer, text):
    reply = answer(peer, call_text('"echo"', f'[{text}]'))
    if 'result' in reply:
        assert reply['result'] == json.loads(text)
    else:
        assert reply['error']['code'] in (-32700, -32600, -32602, -32000)
    assert peer.call('ping') == 'pong'


@pytest.mark.parametrize('kind', ['pool', 'async', 'loop'])
@pytest.mark.parametrize('name', VALUES)
def test_c3_results_are_json_or_an_error(peer, kind, name):
    reply = answer(peer, call_text(f'"{kind}.{name}"'))
    if name in ('nan', 'inf'):
        assert 'error' in reply
    elif 'result' in reply:
        assert reply['result'] == VALUES[name]()
    assert peer.call('ping') == 'pong'


@pytest.mark.parametrize('text', [
    call_text('"\\ud800"'), call_text('"echo"', '["\\ud800"]'),
    call_text('"echo"', '{"value":"\\udfff\\ud800"}'),
    call_text('"echo"', '{"\\ud800":1}'), call_text('"ping"', id='"\\ud800"'),
    '{"jsonrpc":"2.0","method":"\\ud800\\n\\u001b[31m","id":1}',
    '{"id":5,"method":"\\ud800"}', '{"serial":5,"call":"\\ud800"}',
    '{"jsonrpc":"2.0","id":2,"error":{"code":1,"message":"\\ud800",'
    '"data":{"type":"\\ud800","stack":"\\ud800"}}}',
])
def test_c4_lone_surrogates_end_no_thread(peer, text):
    peer.send_text(text)
    # An answer to nothing is not answered, all else is, in any order.
    assert peer.call('ping') == 'pong'
    for event in peer.events:
        json.dumps(event).encode()


@pytest.mark.parametrize('id', [
    '{}', '[]', '{"__proto__":1}', '1.5', '1e3', 'true', '9007199254740993',
    '"' + 'i' * 65 + '"', '"' + 'i' * 1_000_000 + '"', '-1e400'])
def test_c5_ids_that_are_none_get_one_error_with_id_null(peer, id):
    reply = answer(peer, call_text('"ping"', id=id))
    assert reply['error']['code'] in (-32600, -32700)
    assert reply['id'] is None
    assert peer.call('ping') == 'pong'
    assert peer.events == []


@pytest.mark.parametrize('id', ['"__proto__"', '"constructor"', '0', '-1',
                                '""', '"' + 'i' * 64 + '"',
                                '9007199254740991'])
def test_c5_odd_ids_come_back_as_they_are(peer, id):
    assert answer(peer, call_text('"ping"', id=id)) == {
        'jsonrpc': '2.0', 'id': json.loads(id), 'result': 'pong'}


def test_c5_a_duplicate_in_flight_is_not_run(attacked, peer):
    peer.send_text(call_text('"ask"', id='7'))
    question = peer.recv_json()
    before = attacked.stats()['run']
    refused = answer(peer, call_text('"count"', id='7'))
    assert refused['id'] is None
    assert refused['error']['code'] == -32600
    assert attacked.stats()['run'] == before
    peer.send_json({'jsonrpc': '2.0', 'id': question['id'], 'result': 'yes'})
    assert peer.recv_json() == {'jsonrpc': '2.0', 'id': 7, 'result': 'yes'}


# -- C7 --------------------------------------------------------------------


def test_c7_replies_to_nobody_are_ignored_and_counted(attacked, peer):
    def ignored():
        return json.loads(attacked.page('/questions/statistics').body)[
            'Ignored Replies']

    before = ignored()
    with attacked.peer() as other:
        other.send_text(call_text('"ask"'))
        foreign = other.recv_json()['id']
        for id in (foreign, 2, 4, 10 ** 9, 0, -2, '2', None, True):
            peer.send_json({'jsonrpc': '2.0', 'id': id, 'result': 'forged'})
            peer.send_json({'jsonrpc': '2.0', 'id': id, 'error': {
                'code': 1, 'message': 'forged'}})
            peer.send_json({'id': id, 'result': 'forged'})
            peer.send_json({'serial': id, 'type': 'callback', 'data': 0})
        assert peer.call('ping') == 'pong'
        for _ in range(2):      # the second one is late
            other.send_json({'jsonrpc': '2.0', 'id': foreign,
                             'result': 'mine'})
        assert other.recv_json()['result'] == 'mine'
        assert other.call('ping') == 'pong'
    # Four for each of nine ids, but for what is no message: three an id of
    # True, two serials and ids of null; and the late one.
    assert 30 <= ignored() - before <= 37


# -- C8 --------------------------------------------------------------------


@pytest.mark.parametrize('kind', ['pool', 'async', 'loop'])
@pytest.mark.parametrize('name', BOMBS)
def test_c8_what_a_method_raises_stays_here(peer, frames, kind, name):
    with pytest.raises(CallFailed) as caught:
        peer.call(f'{kind}.{name}')
    error = caught.value
    assert error.code in (-32000, -32603, 7, 418)
    if error.code in (-32000, -32603):
        assert error.message.lower().startswith('internal error'), error
        assert set(error.data) == {'ref'}
    assert peer.call('ping') == 'pong'
    wire = b''.join(frames)
    assert SECRET.encode() not in wire
    assert b'Traceback' not in wire


@pytest.mark.parametrize('kind', ['pool', 'async', 'loop'])
def test_c8_an_exception_raised_again_and_again_does_not_grow(
        attacked, peer, kind):
    # Each raise adds its frames to the traceback that is there: after
    # 12 000 calls, writing it into the log held the loop for 9 s.
    for _ in range(20):
        with pytest.raises(CallFailed):
            peer.call(f'{kind}.error')
    assert attacked.stats()['frames'] < 20


def test_c8_each_reference_stands_in_the_log(attacked, peer):
    for _ in range(30):
        with pytest.raises(CallFailed) as caught:
            peer.call('pool.cause')
        attacked.process.wait_for(f'ref {caught.value.data["ref"]}')
    assert f'ValueError: {SECRET}' in attacked.process.output


@pytest.mark.parametrize('hook', HOOKS)
def test_c8_hooks_that_raise_hurt_nobody(attacked, peer, frames, hook):
    with attacked.peer(f'/hook/{hook}/api') as hooked:
        if hook == 'user':
            assert hooked.status == 500
            assert SECRET.encode() not in hooked.body
        else:
            for method, params in [
                    ('ping', []), ('seat', []), ('on_close', []),
                    ('callback', []), ('guarded', []),
                    ('rpc.subscribe', ['t']),
                    ('rpc.publish', {'topic': 't', 'data': 1}),
                    ('rpc.on', ['t'])]:
                try:
                    hooked.call(method, params)
                except CallFailed as failed:
                    assert failed.code in (-32000, -32603, -32012)
                for question in hooked.events:
                    if 'id' in question:
                        hooked.send_json({'jsonrpc': '2.0', 'result': 1,
                                          'id': question['id']})
                hooked.events.clear()
    assert peer.call('ping') == 'pong'
    assert SECRET.encode() not in b''.join(frames)


# -- C9 --------------------------------------------------------------------


def test_c9_what_comes_from_the_wire_is_logged_escaped(attacked, peer):
    position = len(attacked.process.lines)
    evil = 'x\r\nLOG forged\x1b[31m\u202e' + 'y' * 10_000
    with attacked.peer(headers={
            'Origin': 'http://evil\x1b[31m/' + 'y' * 5000}) as refused:
        assert refused.status == 403
    with attacked.peer() as closing:
        closing.send_text(call_text('"ask"'))
        id = closing.recv_json()['id']
        closing.send_json({'jsonrpc': '2.0', 'id': id, 'error': {
            'code': 1, 'message': evil, 'data': {'stack': evil,
                                                 'type': evil}}})
        closing.recv_json()
        with pytest.raises(CallFailed):
            closing.call(evil)
        closing.close(4000, 'r\r\nLOG forged\x1b[31m\u202e')
    attacked.process.wait_for('LOG .* 4000 ', 2)
    said = attacked.lines_since(position)
    for char in '\x1b\u202e\r':
        assert not [repr(line) for line in said.split('\n') if char in line]
    assert not any(line.startswith('LOG forged')
                   for line in said.splitlines())
    for line in said.splitlines():
        assert len(line) < 500, line[:200]


def test_c9_errors_in_masses_are_few_lines(attacked, peer):
    position = len(attacked.process.lines)
    rounds = 400 if FULL else 8
    burst = b''.join(client_frame(TEXT, text) for n in range(250) for text in (
        call_text('"loop.error"', id=str(n)).encode(), b'no json',
        call_text('"pool.error"', id=f'"{n}"').encode(),
        call_text(f'"evil\\u001b[31m{n}"', id='0').encode()))
    begun = time.monotonic()
    for _ in range(rounds):
        peer.send_raw(burst)
        for _ in range(1000):
            assert 'error' in peer.recv_json()
    seconds = time.monotonic() - begun
    print(f'{rounds * 1000 / seconds:.0f} errors a second')
    attacked.process.wait_for('loop.error of .* raised KeyError', 2)
    said = attacked.lines_since(position)
    for name in ('loop.error', 'pool.error'):
        assert said.count(f'WSRPC {name} of') <= seconds + 2
    assert said.count('\nLOG') <= 4 * (seconds + 2) + 10
    assert 'evil' not in said


# -- C10 -------------------------------------------------------------------


def test_c10_one_client_with_10_000_calls_leaves_room_for_others(
        attacked, victim):
    took_before = len(victim.took_s)
    with attacked.peer() as greedy, attacked.peer() as other:
        reader = threading.Thread(target=_read_all, args=(greedy,))
        reader.start()
        for n in range(10_000):
            greedy.send_text(call_text('"nap"', id=str(n)))
        took_s = []
        until = time.monotonic() + (5 if FULL else 0.1)
        while time.monotonic() < until or len(took_s) < 20:
            begun = time.monotonic()
            assert other.call('add', [1, 1]) == 2
            took_s.append(time.monotonic() - begun)
        assert sorted(took_s)[len(took_s) * 9 // 10] < in_time(0.1)
        attacked.page('/release')
        greedy.send_text(call_text('"ping"', id='"end"'))
        reader.join(10)
        assert not reader.is_alive()
        assert greedy.busy >= 10_000 - 160
    assert len(victim.took_s) > took_before


def _read_all(peer):
    peer.busy = 0
    try:
        while True:
            message = peer.recv_json()
            if message['id'] == 'end':
                return
            if 'error' in message:
                assert message['error']['code'] == -32009
                peer.busy += 1
    except (PeerClosed, TimeoutError):
        return


# -- C11 -------------------------------------------------------------------

MAX_PENDING = 1024


def ask(attacked, count, timeout_s=0.3, callback=''):
    return json.loads(attacked.page(
        f'/questions/ask?count={count}&timeout={timeout_s}'
        f'&callback={callback}', timeout_s=30).body)


def ended(attacked):
    return Counter(json.loads(attacked.page('/questions/waiting').body))


def test_c11_who_never_answers_is_asked_no_more_than_so_often(attacked):
    before = attacked.stats()
    with attacked.peer('/questions/api') as mute, _Answers(mute) as answers:
        # All of it before the first has timed out.
        count = 100_000 if FULL else 5_000
        told = ask(attacked, count, timeout_s=1)
        assert told == {'asked': MAX_PENDING, 'Busy': count - MAX_PENDING}
        assert ended(attacked)['waiting'] == MAX_PENDING
        wait_until(lambda: answers.count == MAX_PENDING)
        assert attacked.stats()['rss'] < before['rss'] + (8 << 20)
        wait_until(lambda: not ended(attacked)['waiting'], 5)
        # Each has timed out once, and it may be asked again.
        rounds = 98 if FULL else 1
        timed_out = ended(attacked)['CallTimeout']
        for _ in range(rounds):
            assert ask(attacked, MAX_PENDING, 0.1, 'yes') == {
                'asked': MAX_PENDING}
            wait_until(lambda: not ended(attacked)['waiting'], 5)
        wait_until(lambda: ended(attacked)['CallTimeout']
                   == timed_out + rounds * MAX_PENDING, 5)
        # It is a connection as ever.
        assert answers.call('ping') == 'pong'
        assert attacked.stats()['threads'] <= before['threads'] + 1
    print(f'{(rounds + 1) * MAX_PENDING} calls timed out')


def test_c11_pushes_and_calls_to_who_reads_nothing_end_with_it(attacked):
    before = attacked.stats()
    lost = ended(attacked)['ConnectionLostError']
    with attacked.peer('/questions/api', receive_buffer=4096) as deaf:
        deaf.call('ping')
        assert ask(attacked, 500, 60, 'yes') == {'asked': 500}
        count = 1000 if FULL else 100
        attacked.page(f'/questions/push?count={count}&size=100000',
                      timeout_s=30)
        wait_until(lambda: attacked.stats()['sockets'] < before['sockets']
                   + 1, 15, 'the slow reader to be closed')
        # At once, and not after the 60 s.
        wait_until(lambda: ended(attacked)['ConnectionLostError']
                   == lost + 500, 5)
    wait_until(lambda: attacked.stats()['rss'] < before['rss'] + (16 << 20),
               10, 'memory to be back')


class _Answers(threading.Thread):
    """Reads what comes, and answers no question."""

    def __init__(self, peer):
        super().__init__(daemon=True)
        self.count = 0
        self._peer = peer
        self._replies = queue.SimpleQueue()

    def __enter__(self):
        self._peer.call('ping')         # it is there
        self.start()
        return self

    def __exit__(self, *exc_info):
        self._peer.sock.shutdown(socket.SHUT_RDWR)
        self.join(5)

    def run(self):
        with contextlib.suppress(PeerClosed, OSError, ValueError):
            while True:
                message = self._peer.recv_json(60)
                if 'method' in message:
                    self.count += 1
                else:
                    self._replies.put(message)

    def call(self, name):
        self._peer.send_text(call_text(f'"{name}"', id='"mine"'))
        return self._replies.get(timeout=5)['result']
