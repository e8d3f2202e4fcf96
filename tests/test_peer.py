"""Limits, fairness and hooks of one RPC connection, over real sockets."""
from __future__ import annotations

import asyncio
import json
import os
import threading
import time

import cherrypy
import pytest

import cp_wsrpc
from cp_wsrpc import (
    ConnectionLostError,
    RPCError,
    expose,
    ioloop,
    logs,
    nonblocking,
    peer as peer_module,
)

from .apps import (
    WAIT_S,
    Exiting,
    Gate,
    assert_sent_away,
    failure_of,
    only_connection,
    recv_all,
    request,
    result,
    serving_api,
    settle,
    take_call,
)
from .rawpeer import BINARY, client_frame
from .serving import wait_until


class Holding:
    """Methods that stay until the test lets them go."""

    def __init__(self):
        self.gate = Gate()
        self.event = None
        self.inside = 0

    @expose
    def hold(self):
        return self.gate.enter()

    @expose
    async def hold_async(self):
        if self.event is None:
            self.event = asyncio.Event()
        self.inside += 1
        try:
            await self.event.wait()
        finally:
            self.inside -= 1
        return 'held'

    @expose
    @nonblocking
    def let_go(self):
        self.event.set()

    @expose
    @nonblocking
    def here(self, value=None):
        return value

    @expose
    def echo(self, value=None):
        return value


def _ping(peer):
    """All that was sent before has been taken up."""
    assert peer.call('rpc.ping', [0]) == [0]


def _assert_busy(answer):
    assert answer['error']['code'] == -32009, answer
    assert answer['error']['data'] == {'retryable': True, 'executed': False}


# -- limits ----------------------------------------------------------------


def test_so_many_calls_run_and_wait_and_one_more_is_busy():
    api = Holding()
    with serving_api(api, {'max_calls_per_connection': 3,
                           'max_waiting_per_connection': 4},
                     engine={'wsrpc.thread_pool': 20}) as server:
        with server.peer('/api') as peer:
            for n in range(8):
                peer.send_json(request('hold', id=n))
            answer = peer.recv_json()
            assert answer['id'] == 7
            _assert_busy(answer)
            api.gate.wait_entered(3)
            assert api.gate.inside == 3
            api.gate.open('held')
            assert recv_all(peer, 7) == {n: result(n, 'held')
                                         for n in range(7)}
            assert api.gate.most == 3
            assert peer.call('echo', [1]) == 1


def test_the_defaults_are_32_running_and_128_waiting():
    api = Holding()
    with serving_api(api, engine={'wsrpc.thread_pool': 64}) as server:
        with server.peer('/api') as peer:
            for n in range(161):
                peer.send_json(request('hold', id=n))
            answer = peer.recv_json()
            assert answer['id'] == 160
            _assert_busy(answer)
            api.gate.wait_entered(32)
            api.gate.open()
            assert len(recv_all(peer, 160)) == 160
            assert api.gate.most == 32


def test_one_connection_has_at_most_half_of_the_pool():
    api = Holding()
    with serving_api(api, engine={'wsrpc.thread_pool': 4}) as server:
        with server.peer('/api') as hog, server.peer('/api') as victim:
            for n in range(10):
                hog.send_json(request('hold', id=n))
            api.gate.wait_entered(2)
            assert victim.call('echo', [1]) == 1
            assert api.gate.inside == 2
            api.gate.open()
            assert len(recv_all(hog, 10)) == 10
            assert api.gate.most == 2


def test_the_pool_holds_1024_waiting_calls():
    api = Holding()
    with serving_api(api, {'max_waiting_per_connection': 3000},
                     engine={'wsrpc.thread_pool': 1}) as server:
        with server.peer('/api') as peer:
            peer.send_json(request('hold', id='first'))
            api.gate.wait_entered()
            for n in range(1025):
                peer.send_json(request('hold', id=n))
            answer = peer.recv_json()
            assert answer['id'] == 1024
            _assert_busy(answer)
            with server.peer('/api') as other:
                code, _, data = failure_of(other, 'echo')
                assert code == -32009 and data['executed'] is False
                assert other.call('here', [1]) == 1     # needs no thread
            api.gate.open()
            assert len(recv_all(peer, 1025)) == 1025


def test_async_calls_run_and_wait_within_the_same_limits():
    api = Holding()
    with serving_api(api, {'max_calls_per_connection': 3,
                           'max_waiting_per_connection': 4}) as server:
        with server.peer('/api') as peer:
            for n in range(8):
                peer.send_json(request('hold_async', id=n))
            answer = peer.recv_json()
            assert answer['id'] == 7
            _assert_busy(answer)
            with server.peer('/api') as other:
                _ping(other)
                assert api.inside == 3
                assert other.call('let_go') is None
            assert recv_all(peer, 7) == {n: result(n, 'held')
                                         for n in range(7)}


def test_replies_that_wait_for_the_client_count_as_under_way():
    class Api:
        @expose
        @nonblocking
        def ask(self):
            return cp_wsrpc.connection.call('f', timeout=None)

    with serving_api(Api(), {'max_calls_per_connection': 1,
                             'max_waiting_per_connection': 2}) as server:
        with server.peer('/api') as peer:
            calls = []
            for n in range(3):
                peer.send_json(request('ask', id=n))
                calls.append(take_call(peer, 'f'))
            peer.send_json(request('no.such', id='late'))
            assert peer.recv_json()['error']['code'] in (-32009, -32601)
            for call in calls:
                settle(peer, call, 5)
            assert len(recv_all(peer, 3)) == 3


def test_500_notifications_leave_nothing_behind():
    with serving_api(Holding()) as server, server.peer('/api') as peer:
        for n in range(500):
            peer.notify(('echo', 'here', 'no.such')[n % 3], [n])
            if n % 50 == 0:
                assert peer.call('echo', [n]) == n
        assert peer.call('echo', ['x']) == 'x'
        assert peer.events == []
        it = only_connection()
        wait_until(lambda: not it.conversation.running)


def test_a_victim_is_served_beside_a_hog():
    """Threat C10, the quick form: p99 under 100 ms."""
    api = Holding()
    with serving_api(api, engine={'wsrpc.thread_pool': 8}) as server:
        with server.peer('/api') as hog, server.peer('/api') as victim:
            for n in range(2000):
                hog.send_json(request('hold', id=n))
            # most are refused, and the hog does not read
            took = []
            for n in range(100):
                begun = time.perf_counter()
                assert victim.call('echo', [n]) == n
                took.append(time.perf_counter() - begun)
            assert sorted(took)[98] < 0.1, sorted(took)[-5:]
            api.gate.open()
            assert len(recv_all(hog, 2000)) == 2000


def test_a_binary_message_closes_with_1003():
    with serving_api(Holding()) as server, server.peer('/api') as peer:
        peer.send_frame(BINARY, b'{}')
        assert peer.recv_close()[0] == 1003


# -- a slow step on the loop -----------------------------------------------


def _stand_still():
    # In the loop's thread, where nothing may wait: that is the test.
    threading.Event().wait(0.12)


class Slow:
    @expose
    @nonblocking
    def slow_here(self):
        _stand_still()

    @expose
    @nonblocking
    def quick(self):
        pass

    @expose
    async def slow_step(self):
        await asyncio.sleep(0)
        _stand_still()
        await asyncio.sleep(0)

    @expose(authorize=lambda call: True)
    @nonblocking
    def slow_after_a_question(self):
        _stand_still()


@pytest.mark.parametrize('method', ['slow_here', 'slow_step',
                                    'slow_after_a_question'])
def test_a_slow_step_on_the_loop_is_logged_with_the_methods_name(
        method, monkeypatch):
    monkeypatch.setattr(ioloop, 'limited', logs.LineLimiter().log)
    with serving_api(Slow()) as server, server.peer('/api') as peer:
        assert peer.call('quick') is None
        assert not server.logged('held the I/O loop')
        assert peer.call(method) is None
        line, = wait_until(lambda: server.logged('held the I/O loop'))
        assert f' {method} held' in line


# -- hooks -----------------------------------------------------------------


def test_opened_runs_before_the_first_call_and_may_ask_the_client():
    order = []

    def opened(connection):
        assert threading.current_thread().name.startswith('wsrpc-worker')
        order.append('opened')
        connection.data['name'] = connection.call('who').result(WAIT_S)
        order.append('asked')

    class Api:
        @expose
        def name(self):
            order.append('name')
            return cp_wsrpc.connection.data['name']

        @expose
        @nonblocking
        def here(self):
            order.append('here')
            return cp_wsrpc.connection.data['name']

    with serving_api(Api(), {'opened': opened}) as server:
        with server.peer('/api') as peer:
            call = take_call(peer, 'who')
            peer.send_json(request('here', id='here'))
            peer.send_json(request('name', id='name'))
            peer.send_json(request('rpc.ping', id='ping'))
            settle(peer, call, 'ada')
            answers = recv_all(peer, 3)
            assert answers['here'] == result('here', 'ada')
            assert answers['name'] == result('name', 'ada')
        assert order == ['opened', 'asked', 'here', 'name']


def test_an_opened_that_raises_is_logged_and_calls_go_on():
    def opened(connection):
        raise SystemExit('no')

    with serving_api(Holding(), {'opened': opened}) as server:
        with server.peer('/api') as peer:
            assert peer.call('echo', [1]) == 1
            line, = server.logged('opened of')
            assert 'SystemExit' in line


def test_an_opened_may_send_the_peer_away():
    def opened(connection):
        connection.close(4403, 'not today')

    with serving_api(Holding(), {'opened': opened}) as server:
        with server.peer('/api') as peer:
            peer.send_json(request('echo'))
            assert peer.recv_close() == (4403, 'not today')


def test_calls_before_opened_has_run_are_bounded():
    gate = Gate()
    with serving_api(Holding(), {
            'opened': lambda connection: gate.enter(),
            'max_calls_per_connection': 1,
            'max_waiting_per_connection': 2}) as server:
        with server.peer('/api') as peer:
            gate.wait_entered()
            for n in range(4):
                peer.send_json(request('here', [n], n))
            answer = peer.recv_json()
            assert answer['id'] == 3
            _assert_busy(answer)
            gate.open()
            assert recv_all(peer, 3) == {n: result(n, n) for n in range(3)}


def test_on_close_functions_run_in_order_once_also_a_late_one():
    told = []

    class Api:
        @expose
        def watch(self):
            for n in range(3):
                cp_wsrpc.connection.on_close(
                    lambda code, reason, n=n: told.append((n, code, reason)))
            cp_wsrpc.connection.on_close(lambda code, reason: 1 / 0)
            cp_wsrpc.connection.on_close(
                lambda code, reason: told.append(
                    threading.current_thread().name[:12]))

    with serving_api(Api()) as server:
        with server.peer('/api') as peer:
            peer.call('watch')
            it = only_connection()
            assert told == [] and not it.is_closed
            peer.close(4000, 'bye')
        wait_until(lambda: len(told) == 4)
        assert told == [(n, 4000, 'bye') for n in range(3)] + [
            'wsrpc-worker']
        assert server.logged('on_close of')
        it.on_close(lambda code, reason: told.append('late'))
        wait_until(lambda: told[-1] == 'late')


def test_calls_that_cannot_be_sent_wait_for_nothing():
    with serving_api(Holding()) as server, server.peer('/api') as peer:
        peer.call('rpc.ping')
        connection = only_connection()
        for _ in range(1100):       # 1 024 may wait
            with pytest.raises(TypeError):
                connection.call('f', object())
        with pytest.raises(SystemExit):
            connection.call('f', Exiting())
        assert len(connection.conversation) == 0


def test_a_method_may_close_its_connection():
    class Api:
        @expose
        def leave(self):
            cp_wsrpc.connection.close(4000, 'enough')
            return cp_wsrpc.connection.is_closed

        @expose
        def badly(self, code: int):
            cp_wsrpc.connection.close(code)

    with serving_api(Api()) as server:
        with server.peer('/api') as peer:
            for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000):
                assert failure_of(peer, 'badly', [code])[0] == -32000
            peer.send_json(request('leave'))
            assert peer.recv_close() == (4000, 'enough')
        wait_until(lambda: not cp_wsrpc.connections())


def test_waiting_async_calls_of_a_connection_that_is_gone_are_not_run():
    ran = []

    class Api(Holding):
        @expose
        async def run(self):
            ran.append(1)

    api = Api()
    with serving_api(api, {'max_calls_per_connection': 1}) as server:
        with server.peer('/api') as peer, server.peer('/api') as other:
            peer.send_json(request('hold_async', id='hold'))
            peer.send_json(request('run', id='run'))
            _ping(peer)
            peer.drop()
            wait_until(lambda: len(cp_wsrpc.connections()) == 1)
            other.call('let_go')
            wait_until(lambda: not api.inside)
            assert other.call('run') is None
    assert ran == [1]


@pytest.mark.parametrize('method', ['later', 'here'])
def test_a_call_whose_connection_goes_during_authorize_is_not_run(method):
    gate, ran = Gate(), []

    class Api:
        @expose
        async def later(self):
            ran.append('later')

        @expose
        @nonblocking
        def here(self):
            ran.append('here')

    def authorize(call):
        gate.enter()
        return True

    with serving_api(Api(), {'authorize': authorize},
                     engine={'wsrpc.thread_pool': 2}) as server:
        with server.peer('/api') as peer:
            peer.send_json(request(method))
            gate.wait_entered()
        wait_until(lambda: not cp_wsrpc.connections())
        gate.open()
        with server.peer('/api') as other:
            assert other.call(method) is None
    assert ran == [method]


# -- whose connection ------------------------------------------------------


def test_connections_are_told_by_endpoint_and_user():
    from .apps import Root
    from .serving import serving
    config = {path: {'tools.wsrpc.on': True,
                     'tools.wsrpc.user':
                     lambda: cherrypy.request.params.get('as')}
              for path in ('/api', '/other')}
    with serving(Root(api=Holding(), other=Holding()), config) as server:
        assert cp_wsrpc.connections() == []
        with server.peer('/api?as=ada'), server.peer('/api?as=bob'), \
                server.peer('/other?as=ada'):
            wait_until(lambda: len(cp_wsrpc.connections()) == 3)

            def users(**of):
                return sorted(c.user for c in cp_wsrpc.connections(**of))

            assert users() == ['ada', 'ada', 'bob']
            assert users(endpoint='/api') == users(
                endpoint='/api/') == ['ada', 'bob']
            assert users(user='ada') == ['ada', 'ada']
            assert users(endpoint='/other', user='bob') == []
        wait_until(lambda: not cp_wsrpc.connections())


# -- stop ------------------------------------------------------------------


def test_at_stop_new_and_waiting_calls_hear_going_away():
    api = Holding()
    with serving_api(api, {'max_calls_per_connection': 1},
                     engine={'wsrpc.thread_pool': 2}) as server:
        with server.peer('/api') as peer:
            peer.send_json(request('hold', id='runs'))
            api.gate.wait_entered()
            peer.send_json(request('hold', id='waits'))
            _ping(peer)
            stop = threading.Thread(target=server.engine.stop)
            stop.start()
            answer = peer.recv_json()
            assert answer['id'] == 'waits'
            assert answer['error']['code'] == -32011
            assert answer['error']['data'] == {'retryable': True,
                                               'executed': False}
            for method in ('echo', 'here', 'hold_async', 'rpc.ping'):
                assert failure_of(peer, method)[0] == -32011
            api.gate.open('done')
            assert peer.recv_json() == result('runs', 'done')
            assert_sent_away(peer)
            stop.join(WAIT_S)


def test_pending_calls_of_a_stopped_engine_are_lost():
    ended = []

    class Api:
        @expose
        def ask(self):
            try:
                cp_wsrpc.connection.call('f', timeout=None).result()
            except ConnectionLostError as error:
                ended.append(error)
                raise RPCError(1, 'lost') from None

    with serving_api(Api(), engine={'wsrpc.drain_timeout_s': 0.1}) as server:
        with server.peer('/api') as peer:
            peer.send_json(request('ask'))
            take_call(peer, 'f')
            stop = threading.Thread(target=server.engine.stop)
            stop.start()
            assert_sent_away(peer)
            stop.join(WAIT_S)
    assert len(ended) == 1


def test_a_message_is_as_deep_as_it_may_be():
    with serving_api(Holding(), {'max_depth': 5}) as server:
        with server.peer('/api') as peer:
            # the message itself and its params are two
            assert peer.call('echo', [[[[]]]]) == [[[]]]
            assert failure_of_text(peer, [[[[[]]]]]) == -32600
            # brackets in a string are none
            assert peer.call('echo', ['[[[[[[{{{{"\\']) == '[[[[[[{{{{"\\'


def failure_of_text(peer, params):
    peer.send_json(request('echo', params))
    return peer.recv_json()['error']['code']


def test_a_duplicate_id_in_flight_is_not_run():
    gate, ran = Gate(), []

    class Api:
        @expose
        def hold(self):
            return gate.enter()

        @expose
        def count(self):
            ran.append(1)

    with serving_api(Api()) as server, server.peer('/api') as peer:
        for id in (7, 'x', None):
            peer.send_json(request('hold', id=id))
            gate.wait_entered()
            peer.send_json(request('count', id=id))
            answer = peer.recv_json()
            assert answer['id'] is None
            assert answer['error']['code'] == -32600
            assert answer['error']['data'] == {'executed': False}
        # 1 and "1" are two ids
        peer.send_json(request('count', id='7'))
        assert peer.recv_json() == result('7', None)
        gate.open('held')
        assert recv_all(peer, 3) == {id: result(id, 'held')
                                     for id in (7, 'x', None)}
        peer.send_json(request('count', id=7))
        assert peer.recv_json() == result(7, None)
    assert ran == [1, 1]


def test_items_of_a_batch_run_concurrently():
    gates = [Gate(), Gate()]

    class Api:
        @expose
        def hold(self, number: int):
            return gates[number].enter()

    with serving_api(Api()) as server, server.peer('/api') as peer:
        peer.send_json([request('hold', [0], 'a'),
                        request('hold', [1], 'b')])
        for gate in gates:
            gate.wait_entered()
        gates[1].open('B')
        gates[0].open('A')
        assert sorted(peer.recv_json(), key=lambda a: a['id']) == [
            result('a', 'A'), result('b', 'B')]


def test_a_batch_is_as_large_as_it_may_be():
    with serving_api(Holding(), {'max_batch': 3}) as server:
        with server.peer('/api') as peer:
            calls = [request('echo', [n], n) for n in range(4)]
            peer.send_json(calls[:3])
            assert len(peer.recv_json()) == 3
            peer.send_json(calls)
            answer = peer.recv_json()
            assert answer['id'] is None
            assert answer['error']['code'] == -32010


def test_calls_may_finish_in_any_order():
    gate = Gate()

    class Api(Holding):
        @expose
        async def later(self, value):
            return value

        @expose
        def hold(self):
            return gate.enter()

    with serving_api(Api()) as server, server.peer('/api') as peer:
        peer.send_json(request('hold', id='slow'))
        gate.wait_entered()
        for method in ('echo', 'later', 'here'):
            assert peer.call(method, [1]) == 1
        gate.open('done')
        assert peer.recv_json() == result('slow', 'done')


# -- names -----------------------------------------------------------------


class Hidden:
    ran = []

    def plain(self):
        Hidden.ran.append('plain')

    @property
    def trap(self):
        Hidden.ran.append('trap')
        return self.plain

    @expose
    def _secret(self):
        Hidden.ran.append('_secret')

    @cherrypy.expose
    def index(self):
        Hidden.ran.append('index')

    @cherrypy.expose
    def default(self, *args):
        Hidden.ran.append('default')

    @expose
    def open(self):
        return 'open'

    @cherrypy.expose
    def page(self):
        return 'page'


def test_only_registered_names_can_be_called():
    names = [
        'plain', 'trap', 'trap.__func__', '_secret', 'index', 'default',
        'open.__func__', 'open.__globals__', '__init__', '__class__',
        '__class__.__mro__', '_cp_config', 'OPEN', 'open ', ' open',
        'open\0', 'ｏpen', '/open', '.open', 'open.', 'api.open', '',
        'open()', 'x' * 100_000, '__proto__', 'rpc.', 'rpc.discover', '$/x']
    with serving_api(Hidden()) as server, server.peer('/api') as peer:
        for name in names:
            assert failure_of(peer, name) == (
                -32601, 'Method not found', None), name
        for name in (5, None, [], {}, True):
            peer.send_json({'jsonrpc': '2.0', 'method': name, 'id': 1})
            assert peer.recv_json()['error']['code'] == -32600
        assert peer.call('open') == 'open' and peer.call('page') == 'page'
    assert Hidden.ran == []


def test_functions_of_the_option_routes_can_be_called():
    routes = {'time.now': lambda: 5, 'sum': sum,
              'deep.er.echo': Holding().echo, 'os.getpid': 'os.getpid'}
    with serving_api(None, {'routes': routes,
                            'controller': Hidden()}) as server:
        with server.peer('/api') as peer:
            assert peer.call('time.now') == 5
            assert peer.call('sum', [[1, 2]]) == 3
            assert peer.call('deep.er.echo', [3]) == 3
            assert peer.call('os.getpid') == os.getpid()
            assert peer.call('open') == 'open'


# -- a call that closes its connection -------------------------------------


class Closing:
    """Methods that close the connection of their caller."""

    def __init__(self):
        self.gate = Gate()
        self.later = None
        self.ran = []

    @expose
    async def at_once(self):
        cp_wsrpc.connection.close(4000, 'bye')
        return 'done'

    @expose
    def note(self):
        self.ran.append('note')

    @expose
    async def note_task(self):
        self.ran.append('note_task')

    @expose
    @nonblocking
    def note_here(self):
        self.ran.append('note_here')

    @expose
    def pool(self):
        cp_wsrpc.connection.close(4000, 'bye')
        cp_wsrpc.connection.close(4001, 'a second one does nothing')
        return 'done'

    @expose
    async def task(self):
        cp_wsrpc.connection.close(4000, 'bye')
        await asyncio.sleep(0)
        return 'done'

    @expose
    @nonblocking
    def here(self):
        cp_wsrpc.connection.close(4000, 'bye')
        return 'done'

    @expose
    def ask_pool(self):
        cp_wsrpc.connection.close(4000, 'bye')
        return cp_wsrpc.connection.call('f')

    @expose
    async def ask_task(self):
        return self.ask_pool()

    @expose
    @nonblocking
    def ask_here(self):
        return self.ask_pool()

    @expose
    def fail(self):
        cp_wsrpc.connection.close(4000, 'bye')
        raise RPCError(7, 'no')

    @expose
    def thread(self):
        connection = cp_wsrpc.connection
        thread = threading.Thread(target=lambda: connection.close(4000))
        thread.start()
        thread.join()
        assert connection.is_closed
        return self.gate.enter()

    @expose
    def hold(self):
        return self.gate.enter()

    @expose
    def note_and_hold(self):
        cp_wsrpc.connection.close(4002, 'slow')
        return self.gate.enter()

    @expose
    async def after(self):
        async def close():
            await self.later.wait()
            cp_wsrpc.connection.close(4000, 'bye')

        self.later = asyncio.Event()
        self.task_of_close = asyncio.create_task(close())
        return 'done'

    @expose
    @nonblocking
    def go_on(self):
        self.later.set()

    @expose
    def wrong(self):
        cp_wsrpc.connection.close(999)


@pytest.mark.parametrize('method', ['pool', 'task', 'here'])
@pytest.mark.parametrize('busy', [False, True])
def test_a_method_that_closes_its_connection_is_answered_first(method, busy):
    with serving_api(Closing()) as server, server.peer('/api') as peer:
        peer.send_json([request(method)] if busy else request(method))
        answer = peer.recv_json()
        assert answer == ([result(1, 'done')] if busy else result(1, 'done'))
        assert peer.recv_close() == (4000, 'bye')


@pytest.mark.parametrize('method', ['ask_pool', 'ask_task', 'ask_here'])
def test_so_is_one_whose_answer_is_the_clients_reply(method):
    with serving_api(Closing()) as server, server.peer('/api') as peer:
        peer.send_json(request(method))
        settle(peer, take_call(peer, 'f'), 5)
        assert peer.recv_json() == result(1, 5)
        assert peer.recv_close() == (4000, 'bye')


def test_the_rest_of_its_batch_is_answered_too():
    api = Closing()
    with serving_api(api) as server, server.peer('/api') as peer:
        peer.send_json([request('pool', id=1), request('hold', id=2)])
        api.gate.wait_entered()
        wait_until(lambda: len(only_connection().conversation.running) == 1)
        api.gate.open('held')
        assert peer.recv_json() == [result(1, 'done'), result(2, 'held')]
        assert peer.recv_close() == (4000, 'bye')


def test_so_is_one_that_fails():
    with serving_api(Closing()) as server, server.peer('/api') as peer:
        assert failure_of(peer, 'fail')[:2] == (7, 'no')
        assert peer.recv_close() == (4000, 'bye')


@pytest.mark.parametrize('method', ['pool', 'task', 'here'])
def test_a_notification_may_close_its_connection(method):
    with serving_api(Closing()) as server, server.peer('/api') as peer:
        peer.send_json({'jsonrpc': '2.0', 'method': method})
        assert peer.recv_close() == (4000, 'bye')


@pytest.mark.parametrize('method, after', [
    ('here', 'note_here'), ('here', 'note_task'), ('here', 'note'),
    ('at_once', 'note_task'), ('pool', 'note')])
def test_what_came_behind_a_call_that_closes_is_not_run(method, after):
    api = Closing()
    with serving_api(api, {'max_calls_per_connection': 1}) as server, \
            server.peer('/api') as peer:
        _ping(peer)
        connection = only_connection()
        peer.send_raw(b''.join(
            client_frame(1, json.dumps(request(name, id=id)).encode())
            for id, name in enumerate([method, after, after], 1)))
        assert peer.recv_json() == result(1, 'done')
        assert peer.recv_close() == (4000, 'bye')
        peer.drop()
        wait_until(lambda: not (connection.conversation.running
                                or connection.lane.taken))
        assert api.ran == []


def test_a_close_from_another_thread_waits_for_no_call():
    api = Closing()
    with serving_api(api) as server, server.peer('/api') as peer:
        peer.send_json(request('thread'))
        assert peer.recv_close()[0] == 4000
        api.gate.open()


@pytest.mark.parametrize('method', ['pool', 'task', 'here'])
def test_whichever_call_that_closes_is_answered_first_closes(method):
    api = Closing()
    with serving_api(api) as server, server.peer('/api') as peer:
        peer.send_json(request('note_and_hold', id='slow'))
        api.gate.wait_entered()
        assert peer.call('rpc.ping', [1]) == [1]
        peer.send_json(request(method))
        assert peer.recv_json() == result(1, 'done')
        assert peer.recv_close() == (4000, 'bye')
        api.gate.open()


def test_a_task_that_outlives_its_call_closes_at_once():
    with serving_api(Closing()) as server, server.peer('/api') as peer:
        assert peer.call('after') == 'done'
        assert peer.call('go_on') is None
        assert peer.recv_close() == (4000, 'bye')


def test_a_code_that_cannot_be_sent_is_told_to_the_method_that_gave_it():
    with serving_api(Closing(), {'debug': True}) as server:
        with server.peer('/api') as peer:
            assert 'ValueError' in str(failure_of(peer, 'wrong'))
            _ping(peer)


def test_every_look_at_an_attribute_of_a_connection_is_a_fast_one():
    # With a __getattr__ in the class CPython specialises none of them.
    assert not any(name in vars(kind) for kind in peer_module.Peer.__mro__[:-1]
                   for name in ('__getattr__', '__getattribute__'))
