"""Calls of the client's functions: from every thread, nested, and lost."""
from __future__ import annotations

import asyncio
import threading
import time

import cherrypy
import pytest

import cp_wsrpc
from cp_wsrpc import (
    CallTimeout,
    ConnectionLostError,
    RemoteError,
    expose,
    logs,
    nonblocking,
    peer as peer_module,
)

from .apps import (
    WAIT_S,
    Gate,
    failure_of,
    only_connection,
    recv_all,
    request,
    result,
    serving_api,
    settle,
    take_call,
)
from .serving import wait_until


class Asking:
    """Each kind asks the client and says what it answered."""

    @expose
    def pool(self, *args):
        return cp_wsrpc.connection.call('f', *args).result(timeout=WAIT_S)

    @expose
    def pool_reply(self, *args):
        return cp_wsrpc.connection.call('f', *args)

    @expose
    async def later(self, *args):
        return await cp_wsrpc.connection.call('f', *args)

    @expose
    async def later_reply(self, *args):
        return cp_wsrpc.connection.call('f', *args)

    @expose
    @nonblocking
    def here(self, *args):
        return cp_wsrpc.connection.call('f', *args)

    @expose
    def kept_pool(self):
        return self._kept()

    @expose
    async def kept_later(self):
        return self._kept()

    @expose
    @nonblocking
    def kept_here(self):
        return self._kept()

    def _kept(self):
        connection = cp_wsrpc.connection
        if 'f' not in connection.data:
            connection.data['f'] = connection.call('f')
        return connection.data['f']

    @expose
    def keywords(self):
        return cp_wsrpc.connection.call('f', width=3, height=0)

    @expose
    def both(self):
        cp_wsrpc.connection.call('f', 1, width=3)

    @expose
    def no_json(self):
        cp_wsrpc.connection.call('f', object())

    @expose
    @nonblocking
    def wait_here(self):
        cp_wsrpc.connection.call('f').result()

    @expose
    async def wait_later(self):
        cp_wsrpc.connection.call('f').result()


KINDS = ['pool', 'pool_reply', 'later', 'later_reply', 'here']


@pytest.fixture(autouse=True)
def _every_line(monkeypatch):
    # None is held back for those of the test before.
    monkeypatch.setattr(peer_module, 'limited', logs.LineLimiter().log)


@pytest.fixture
def asking():
    with serving_api(Asking()) as server, server.peer('/api') as peer:
        yield peer


@pytest.mark.parametrize('kind', KINDS)
def test_a_method_gets_what_the_clients_function_returned(asking, kind):
    for value in ({'a': [1]}, 0, '', False, None, [], {}, 2 ** 70):
        asking.send_json(request(kind, [1, 'x'], kind))
        call = take_call(asking, 'f')
        assert call['params'] == [1, 'x'] and call['jsonrpc'] == '2.0'
        assert isinstance(call['id'], int) and call['id'] % 2 == 0
        settle(asking, call, value)
        assert repr(asking.recv_json()['result']) == repr(value)


def test_arguments_go_positional_or_by_name_or_not_at_all(asking):
    asking.send_json(request('pool'))
    call = take_call(asking, 'f')
    assert 'params' not in call
    settle(asking, call)
    asking.recv_json()
    asking.send_json(request('keywords'))
    call = take_call(asking, 'f')
    assert call['params'] == {'width': 3, 'height': 0}
    settle(asking, call)
    asking.recv_json()
    for wrong in ('both', 'no_json'):
        assert failure_of(asking, wrong)[0] == -32000


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('error', [
    {'code': 5, 'message': 'no', 'data': {
        'type': 'TypeError', 'stack': 'TypeError: no\n    at f (x.js:1:2)'}},
])
def test_the_clients_error_is_hidden_from_it_and_its_stack_logged(
        kind, error):
    with serving_api(Asking()) as server, server.peer('/api') as peer:
        peer.send_json(request(kind, id=kind))
        call = take_call(peer, 'f')
        peer.send_json({'jsonrpc': '2.0', 'id': call['id'], 'error': error})
        answer = peer.recv_json()
        assert answer['id'] == kind
        assert answer['error']['message'] == 'internal error'
        line, = server.logged('the client raised')
        assert 'TypeError: no' in line and 'at f (x.js:1:2)' in line


@pytest.mark.parametrize(('error', 'seen'), [
    ({'code': 5, 'message': 'no', 'data': {'type': 'T', 'stack': 's'}},
     ['no', 5, 'T', {'type': 'T', 'stack': 's'}, 's']),
    ({'code': 5, 'message': 'no'}, ['no', 5, None, None, None]),
    ({'message': 7}, ['the peer failed', None, None, None, None]),
    ('bare', ['bare', None, None, 'bare', None])])
def test_a_remote_error_has_what_the_client_sent(error, seen):
    class Api:
        @expose
        def ask(self):
            try:
                cp_wsrpc.connection.call('f').result(WAIT_S)
            except RemoteError as error:
                return [error.message, error.code, error.type, error.data,
                        error.stack]

    with serving_api(Api()) as server, server.peer('/api') as peer:
        peer.send_json(request('ask'))
        call = take_call(peer, 'f')
        peer.send_json({'jsonrpc': '2.0', 'id': call['id'], 'error': error})
        assert peer.recv_json() == result(1, seen)


@pytest.mark.parametrize('kind', ['wait_here', 'wait_later'])
def test_a_wait_on_the_loop_raises_at_once_and_says_await(kind):
    with serving_api(Asking(), {'debug': True}) as server:
        with server.peer('/api') as peer:
            peer.send_json(request(kind))
            take_call(peer, 'f')
            error = peer.recv_json()['error']
            assert error['data']['type'] == 'WrongThread'
            assert 'await' in error['message']


def test_a_callback_is_called_with_the_reply_on_the_pool():
    told = []
    done = threading.Event()

    def callback(reply):
        told.append((reply.result(), threading.current_thread().name))
        if len(told) == 3:
            done.set()

    class Api:
        @expose
        @nonblocking
        def ask(self, n):
            cp_wsrpc.connection.call('f', n, callback=callback)

    with serving_api(Api()) as server, server.peer('/api') as peer:
        calls = []
        for n in range(3):
            peer.send_json(request('ask', [n], n))
            answers = [peer.recv_json(), peer.recv_json()]
            assert result(n, None) in answers
            calls += [a for a in answers if 'method' in a]
        for call in calls:
            settle(peer, call, call['params'][0])
        assert done.wait(WAIT_S)
    assert [value for value, _ in told] == [0, 1, 2]
    assert all(name.startswith('wsrpc-worker') for _, name in told)


def test_a_callback_that_raises_is_logged_and_harms_nothing():
    class Api:
        @expose
        def ask(self):
            cp_wsrpc.connection.call('f', callback=lambda reply: 1 / 0)
            cp_wsrpc.connection.call('g', callback=told.append)

    told = []
    with serving_api(Api()) as server, server.peer('/api') as peer:
        peer.send_json(request('ask'))
        messages = [peer.recv_json() for _ in range(3)]
        for call in messages:
            if 'method' in call:
                settle(peer, call)
        wait_until(lambda: told)
        line, = server.logged('ZeroDivisionError: division')
        assert 'f of' in line


def test_the_reason_of_a_close_writes_no_line_of_its_own_into_the_log():
    class Api:
        @expose
        def ask(self):
            cp_wsrpc.connection.call(
                'f', callback=lambda reply: reply.result())

    with serving_api(Api()) as server:
        with server.peer('/api') as peer:
            peer.send_json(request('ask'))
            for _ in range(2):
                peer.recv_json()
            peer.close(1000, 'bye\r\nFAKE \x1b[31m')
        line, = wait_until(lambda: server.logged('ConnectionLostError: '))
        assert r'bye\r\nFAKE \x1b[31m' in line
        assert '\x1b' not in line and '\nFAKE' not in line


@pytest.mark.parametrize('where', ['result', 'call'])
def test_an_answer_that_does_not_come_is_a_timeout(where):
    class Api:
        @expose
        def ask(self):
            connection = cp_wsrpc.connection
            begun = time.monotonic()
            try:
                if where == 'call':
                    connection.call('f', timeout=0.01).result()
                else:
                    connection.call('f').result(timeout=0.01)
            except CallTimeout as error:
                return [str(error), time.monotonic() - begun < 2]

        @expose
        async def ask_async(self):
            try:
                await cp_wsrpc.connection.call('f', timeout=0.01)
            except CallTimeout as error:
                return [str(error), True]

    with serving_api(Api()) as server, server.peer('/api') as peer:
        for method in ('ask', 'ask_async'):
            peer.send_json(request(method))
            call = take_call(peer, 'f')
            assert peer.recv_json() == result(
                1, ['no answer from f() within 0.01 s', True])
            settle(peer, call, 'late')      # ignored
        assert peer.call('rpc.ping', [1]) == [1]


def test_any_other_thread_may_call_and_wait():
    with serving_api(Asking()) as server, server.peer('/api') as peer:
        connection = only_connection()
        told = []

        def ask(n):
            told.append(connection.call('f', n).result(WAIT_S))

        threads = [threading.Thread(target=ask, args=(n,))
                   for n in range(8)]
        for thread in threads:
            thread.start()
        calls = [take_call(peer, 'f') for _ in threads]
        assert len({call['id'] for call in calls}) == 8
        for call in reversed(calls):
            settle(peer, call, call['params'][0])
        for thread in threads:
            thread.join(WAIT_S)
        assert sorted(told) == list(range(8))


def test_a_page_handler_may_call_a_client_and_wait():
    class Site:
        api = Asking()

        @cherrypy.expose
        def ask(self):
            return str(only_connection().call('f').result(WAIT_S))

    from .serving import serving
    with serving(Site(), {'/api': {'tools.wsrpc.on': True}}) as server:
        with server.peer('/api') as peer:
            got = []
            thread = threading.Thread(
                target=lambda: got.append(server.http('/ask').body))
            thread.start()
            settle(peer, take_call(peer, 'f'), 'answer')
            thread.join(WAIT_S)
            assert got == [b'answer']


class Nested:
    @expose
    def down(self, depth: int):
        if depth:
            return cp_wsrpc.connection.call('down', depth - 1).result(WAIT_S)
        return 'bottom'

    @expose
    async def down_async(self, depth: int):
        if depth:
            return await cp_wsrpc.connection.call('down', depth - 1)
        return 'bottom'


@pytest.mark.parametrize('method', ['down', 'down_async'])
def test_calls_nest_in_both_directions(method):
    """Server -> client -> server ..., five deep, on a pool of two."""
    with serving_api(Nested(), engine={'wsrpc.thread_pool': 2}) as server:
        with server.peer('/api') as peer:
            peer.send_json(request(method, [5], 'top'))
            asked = []
            for depth in range(4, -1, -1):
                call = take_call(peer, 'down')
                assert call['params'] == [depth]
                asked.append(call)
                # the client's function calls the server before it answers
                peer.send_json(request(method, [depth], f'd{depth}'))
            answer = peer.recv_json()
            while asked:
                call = asked.pop()
                assert answer == result(f"d{call['params'][0]}", 'bottom')
                settle(peer, call, answer['result'])
                answer = peer.recv_json()
            assert answer == result('top', 'bottom')


def test_eight_callers_whose_clients_call_back_finish_on_a_pool_of_eight():
    barrier = threading.Barrier(8)

    class Api:
        @expose
        def outer(self):
            barrier.wait(WAIT_S)        # all workers are taken
            return cp_wsrpc.connection.call('f').result(WAIT_S)

        @expose
        def inner(self):
            return 'inner'

    with serving_api(Api(), engine={'wsrpc.thread_pool': 8}) as server:
        peers = [server.peer('/api') for _ in range(8)]
        try:
            for peer in peers:
                peer.send_json(request('outer', id='outer'))
            calls = [take_call(peer, 'f') for peer in peers]
            for peer, call in zip(peers, calls, strict=True):
                settle(peer, call, peer.call('inner'))
            for peer in peers:
                assert peer.recv_json() == result('outer', 'inner')
        finally:
            for peer in peers:
                peer.drop()
        # the spare threads have gone
        wait_until(lambda: cherrypy.engine.wsrpc.hub.pool.threads == 8)


def test_four_times_the_pool_may_wait_and_then_it_is_busy():
    class Api:
        @expose
        def ask(self):
            return cp_wsrpc.connection.call('f').result(WAIT_S)

    with serving_api(Api(), engine={'wsrpc.thread_pool': 1}) as server:
        with server.peer('/api') as peer:
            calls = []
            for n in range(3):
                peer.send_json(request('ask', id=n))
                calls.append(take_call(peer, 'f'))
            # the fourth is the last thread: it may run, but not wait
            peer.send_json(request('ask', id=3))
            take_call(peer, 'f')
            busy = peer.recv_json()
            assert busy['id'] == 3 and busy['error']['code'] == -32009
            for call in calls:
                settle(peer, call, 'answer')
            assert recv_all(peer, 3) == {n: result(n, 'answer')
                                         for n in range(3)}
            peer.send_json(request('ask', id='again'))
            settle(peer, take_call(peer, 'f'), 5)
            assert peer.recv_json() == result('again', 5)


def test_all_that_is_pending_fails_at_once_when_the_connection_goes():
    ended = []
    gate = Gate()

    class Api:
        @expose
        def pool(self):
            self._wait(lambda reply: reply.result())

        @expose
        async def later(self):
            try:
                await cp_wsrpc.connection.call('f', timeout=None)
            except ConnectionLostError as error:
                ended.append(error)

        @expose
        @nonblocking
        def here(self):
            cp_wsrpc.connection.call('f', callback=lambda reply: ended.append(
                reply.exception()))

        @expose
        def mute(self):
            pass

        def _wait(self, wait):
            try:
                wait(cp_wsrpc.connection.call('f', timeout=None))
            except ConnectionLostError as error:
                ended.append(error)

    with serving_api(Api()) as server:
        with server.peer('/api') as peer:
            connection = only_connection()
            for n in range(3):
                for kind in ('pool', 'later', 'here'):
                    peer.send_json(request(kind, id=f'{kind}{n}'))
            messages = [peer.recv_json() for _ in range(9 + 3)]
            assert sum('method' in m for m in messages) == 9
            begun = time.monotonic()
            peer.reset()
        wait_until(lambda: len(ended) == 9)
        assert time.monotonic() - begun < 2
        assert all(isinstance(error, ConnectionLostError)
                   and error.maybe_executed for error in ended)
        with pytest.raises(ConnectionLostError) as caught:
            connection.call('f')
        assert not caught.value.maybe_executed
        connection.notify('f')          # nothing, and no error
        assert connection.is_closed
    gate.open()


def test_a_notification_to_the_client_wants_no_answer():
    class Api:
        @expose
        def tell(self):
            cp_wsrpc.connection.notify('f', 1, 'x')
            cp_wsrpc.connection.notify('g', a=0)
            cp_wsrpc.connection.notify('h')
            return 'told'

    with serving_api(Api()) as server, server.peer('/api') as peer:
        assert peer.call('tell') == 'told'
        assert peer.events == [
            {'jsonrpc': '2.0', 'method': 'f', 'params': [1, 'x']},
            {'jsonrpc': '2.0', 'method': 'g', 'params': {'a': 0}},
            {'jsonrpc': '2.0', 'method': 'h'}]


def test_what_is_too_big_is_the_callers_error():
    class Api:
        @expose
        def tell(self, how, size: int):
            try:
                getattr(cp_wsrpc.connection, how)('f', 'x' * size)
            except cp_wsrpc.MessageTooBig as error:
                return str(error)

        @expose
        def give(self, size: int):
            return 'x' * size

    with serving_api(Api(), {'out_max_bytes': 1000}) as server:
        with server.peer('/api') as peer:
            for how in ('call', 'notify'):
                assert 'out_max_bytes is 1000' in peer.call(
                    'tell', [how, 1000])
                assert peer.call('tell', [how, 900]) is None
            code, message, _ = failure_of(peer, 'give', [1000])
            assert code == -32008 and 'give' in message
            assert len(peer.call('give', [900])) == 900


def test_more_than_1024_unanswered_calls_are_busy():
    class Api:
        @expose
        def flood(self, count: int):
            connection = cp_wsrpc.connection
            for n in range(count):
                try:
                    connection.call('f', timeout=None)
                except cp_wsrpc.Busy:
                    return n
            return count

    with serving_api(Api()) as server, server.peer('/api') as peer:
        assert peer.call('flood', [2000]) == 1024
        settle(peer, peer.events[0])
        assert peer.call('flood', [2]) == 1


@pytest.mark.parametrize('answer', [
    {'id': 999999, 'result': 1}, {'id': '2', 'result': 1},
    {'id': None, 'result': 1}, {'id': None, 'error': {'code': 1}},
    {'id': -1, 'error': {'code': 1, 'message': 'x'}}])
def test_an_answer_that_nobody_waits_for_is_ignored_and_counted(
        asking, answer):
    counters = cherrypy.engine.wsrpc.manager.counters
    before = counters['ignored_replies']
    asking.send_json({'jsonrpc': '2.0', **answer})
    assert asking.call('rpc.ping', [1]) == [1]
    assert asking.events == []
    assert counters['ignored_replies'] == before + 1


def test_an_answer_of_another_connection_is_not_taken():
    with serving_api(Asking()) as server:
        with server.peer('/api') as peer, server.peer('/api') as thief:
            peer.send_json(request('pool'))
            call = take_call(peer, 'f')
            settle(thief, call, 'stolen')
            assert thief.call('rpc.ping', [1]) == [1]
            settle(peer, call, 'mine')
            assert peer.recv_json() == result(1, 'mine')


def test_an_answer_that_was_kept_may_be_returned_again(asking):
    asking.send_json(request('kept_here'))
    settle(asking, take_call(asking, 'f'), 5)
    assert asking.recv_json() == result(1, 5)
    for kind in ('kept_here', 'kept_later', 'kept_pool'):
        assert asking.call(kind) == 5
        asking.send_json([request(kind, id='b')])
        assert asking.recv_json() == [result('b', 5)]
        asking.notify(kind)
    assert asking.call('rpc.ping', [1]) == [1]
    wait_until(lambda: not only_connection().conversation.running)


def test_an_answer_in_a_batch_settles_too(asking):
    asking.send_json(request('pool', id='a'))
    call = take_call(asking, 'f')
    asking.send_json([result(call['id'], 5)])
    assert asking.recv_json() == result('a', 5)


def test_an_answer_that_cannot_be_decoded_is_an_error_of_the_call(asking):
    asking.send_json(request('pool', id='a'))
    call = take_call(asking, 'f')
    asking.send_text('{"jsonrpc":"2.0","result":"\\ud800","id":'
                     + str(call['id']) + '}')
    answer = asking.recv_json()
    assert answer['id'] == 'a' and answer['error']['code'] == -32000


def test_a_method_may_await_several_clients_at_once():
    class Api:
        @expose
        async def gather(self):
            replies = [connection.call('f') for connection
                       in cp_wsrpc.connections('/api')]
            return sorted(await asyncio.gather(*replies))

    with serving_api(Api()) as server:
        with server.peer('/api') as one, server.peer('/api') as other:
            wait_until(lambda: len(cp_wsrpc.connections()) == 2)
            one.send_json(request('gather', id='g'))
            settle(other, take_call(other, 'f'), 'other')
            settle(one, take_call(one, 'f'), 'one')
            assert one.recv_json() == result('g', ['one', 'other'])
