"""Route classes: one instance a connection, one call at a time."""
from __future__ import annotations

import asyncio
import threading

import pytest

import cp_wsrpc
from cp_wsrpc import RPCError, Route, expose, nonblocking

from .apps import (
    WAIT_S,
    Gate,
    Root,
    failure_of,
    recv_all,
    request,
    result,
    serving_api,
    settle,
    take_call,
)
from .serving import wait_until


class Visitor(Route):
    made = []
    ended = []
    secret = 'not callable'

    def __init__(self):
        # the connection is there already
        Visitor.made.append(self.connection.id)
        self.visits = 0

    def init(self, **kwargs):
        self.kwargs = kwargs
        return ['hello', kwargs]

    def count(self):
        self.visits += 1
        return self.visits

    async def count_async(self):
        self.visits += 1
        return self.visits

    @nonblocking
    def count_here(self):
        self.visits += 1
        return self.visits

    @staticmethod
    def double(n: int):
        return 2 * n

    @expose(name='import')
    def import_(self):
        return 'imported'

    def _hidden(self):
        raise AssertionError

    def closed(self):
        Visitor.ended.append(self.connection.id)


@pytest.fixture(autouse=True)
def _clean():
    Visitor.made.clear()
    Visitor.ended.clear()


def test_each_connection_has_an_instance_that_lives_as_long():
    with serving_api(Root(visitor=Visitor)) as server:
        with server.peer('/api') as one, server.peer('/api') as other:
            assert one.call('visitor', {'a': 1}) == ['hello', {'a': 1}]
            assert [one.call('visitor.count') for _ in range(3)] == [1, 2, 3]
            assert one.call('visitor.count_async') == 4
            assert one.call('visitor.count_here') == 5
            assert other.call('visitor.count') == 1
            assert one.call('visitor.double', [4]) == 8
            assert one.call('visitor.import') == 'imported'
            assert len(set(Visitor.made)) == 2 == len(Visitor.made)
            assert Visitor.ended == []
            one.close()
            wait_until(lambda: Visitor.ended == [Visitor.made[0]])
        wait_until(lambda: Visitor.ended == Visitor.made)


@pytest.mark.parametrize('name', [
    'visitor.init', 'visitor.closed', 'visitor.connection',
    'visitor._hidden', 'visitor.secret', 'visitor.__init__',
    'visitor.import_', 'visitor.nothing'])
def test_names_that_route_defines_cannot_be_called(name):
    with serving_api(Root(visitor=Visitor)) as server:
        with server.peer('/api') as peer:
            assert failure_of(peer, name)[0] == -32601
    assert Visitor.made == []


def test_a_route_may_stand_in_the_option_routes_and_have_no_init():
    class Bare(Route):
        def hello(self):
            return 'hello'

    with serving_api(None, {'routes': {'a.b': Bare}}) as server:
        with server.peer('/api') as peer:
            assert peer.call('a.b') is None
            assert peer.call('a.b.hello') == 'hello'


def test_a_connection_that_never_called_has_no_instance():
    with serving_api(Root(visitor=Visitor)) as server:
        with server.peer('/api') as peer:
            assert peer.call('rpc.ping', [1]) == [1]
    assert Visitor.made == [] == Visitor.ended


def test_an_init_that_raises_is_the_callers_error_and_tried_again():
    class Shy(Route):
        tries = 0

        def __init__(self):
            Shy.tries += 1
            if Shy.tries < 3:
                raise RPCError(3, f'try {Shy.tries}')

        def hello(self):
            return 'hello'

        def closed(self):
            closed.append(1)

    closed = []
    with serving_api(Root(shy=Shy)) as server, server.peer('/api') as peer:
        assert failure_of(peer, 'shy')[:2] == (3, 'try 1')
        assert failure_of(peer, 'shy.hello')[:2] == (3, 'try 2')
        assert peer.call('shy.hello') == 'hello'
        assert Shy.tries == 3
        peer.close()
        wait_until(lambda: closed == [1])


class Turns(Route):
    """Writes down who is in, and lets the test say who goes on."""

    gates = {}
    log = []

    def _note(self, word):
        self.log.append(word)

    def hold(self, name):
        self._note(f'{name} in')
        self.gates[name].enter()
        self._note(f'{name} out')
        return name

    def ask(self, name):
        self._note(f'{name} in')
        answer = self.connection.call('answer', name).result(WAIT_S)
        self._note(f'{name} on')
        return answer

    async def ask_async(self, name):
        self._note(f'{name} in')
        answer = await self.connection.call('answer', name)
        self._note(f'{name} on')
        return answer

    async def ask_briefly(self, name):
        self._note(f'{name} in')
        try:
            async with asyncio.timeout(0.01):
                await self.connection.call('answer', name)
        except TimeoutError:
            self._note(f'{name} on')
        return name

    async def ask_many(self, name):
        self._note(f'{name} in')
        answers = await asyncio.gather(*(
            self.connection.call('answer', n) for n in range(2)))
        self._note(f'{name} on')
        return answers

    async def ask_and_drop(self, name, grant):
        """Destroy a coroutine that waits for its client, or its turn."""
        self._note(f'{name} in')

        async def ask():
            await self.connection.call('answer', name)

        waiting = ask()
        future = waiting.send(None)
        if grant != 'not asked':
            await asyncio.to_thread(self.gates['a'].wait_entered)
            future.set_result(None)
            granted = waiting.send(None)    # the turn is another's
        if grant == 'granted':
            self.gates['a'].open()
            await asyncio.wait([granted])
        waiting.close()
        return name

    def closed(self):
        self._note('closed')

    @nonblocking
    def ask_here(self, name):
        self._note(f'{name} in')
        return self.connection.call('answer', name)

    async def later(self, name):
        self._note(f'{name} in')
        self._note(f'{name} out')
        return name

    @nonblocking
    def here(self, name):
        self._note(f'{name} in')
        self._note(f'{name} out')
        return name


@pytest.fixture
def turns():
    Turns.log.clear()
    Turns.gates = {name: Gate() for name in 'abc'}
    with serving_api(Root(t=Turns)) as server, server.peer('/api') as peer:
        yield peer
        for gate in Turns.gates.values():
            gate.open()


def _ping(peer):
    """All that was sent before has been taken up."""
    assert peer.call('rpc.ping', [0]) == [0]


def test_calls_to_an_instance_run_one_at_a_time_as_they_arrived(turns):
    turns.send_json(request('t.hold', ['a'], 'a'))
    for name, method in (('1', 'later'), ('2', 'here'), ('b', 'hold'),
                         ('3', 'here'), ('4', 'later')):
        turns.send_json(request(f't.{method}', [name], name))
    Turns.gates['a'].wait_entered()
    _ping(turns)
    assert Turns.log == ['a in']
    Turns.gates['b'].open()
    Turns.gates['a'].open()
    answers = recv_all(turns, 6)
    assert set(answers) == {'a', 'b', '1', '2', '3', '4'}
    order = ['a', '1', '2', 'b', '3', '4']
    assert Turns.log == [f'{name} {word}' for name in order
                         for word in ('in', 'out')]


def test_another_connections_instance_is_not_waited_for(turns):
    turns.send_json(request('t.hold', ['a'], 'a'))
    Turns.gates['a'].wait_entered()
    port = turns.sock.getpeername()[1]
    from .rawpeer import RawPeer
    with RawPeer(port, '/api') as other:
        assert other.call('t.here', ['x']) == 'x'


@pytest.mark.parametrize('ask', ['ask', 'ask_async'])
def test_the_next_call_runs_while_a_method_waits_for_its_client(turns, ask):
    turns.send_json(request(f't.{ask}', ['w'], 'w'))
    call = take_call(turns, 'answer')
    # a client that calls the same Route before it answers
    assert turns.call('t.here', ['1']) == '1'
    assert turns.call('t.later', ['2']) == '2'
    settle(turns, call, 'done')
    assert turns.recv_json() == result('w', 'done')
    assert Turns.log == ['w in', '1 in', '1 out', '2 in', '2 out', 'w on']


@pytest.mark.parametrize('ask', ['ask', 'ask_async'])
def test_the_one_that_waited_goes_on_before_those_not_yet_begun(turns, ask):
    turns.send_json(request(f't.{ask}', ['w'], 'w'))
    call = take_call(turns, 'answer')
    turns.send_json(request('t.hold', ['a'], 'a'))
    Turns.gates['a'].wait_entered()
    turns.send_json(request('t.here', ['1'], '1'))
    settle(turns, call, 'done')
    _ping(turns)        # 'here' waits for the turn, and the answer is there
    seat, = _the_peer().seats._seats.values()
    wait_until(lambda: seat.turn._returning)
    assert Turns.log == ['w in', 'a in']
    Turns.gates['a'].open()
    assert set(recv_all(turns, 3)) == {'w', 'a', '1'}
    assert Turns.log == ['w in', 'a in', 'a out', 'w on', '1 in', '1 out']


def _the_peer():
    peer, = cp_wsrpc.connections()
    return peer


def test_a_nonblocking_method_that_returns_a_reply_gives_its_turn_up(turns):
    turns.send_json(request('t.ask_here', ['w'], 'w'))
    call = take_call(turns, 'answer')
    assert turns.call('t.here', ['1']) == '1'
    settle(turns, call, 'done')
    assert turns.recv_json() == result('w', 'done')


def test_a_wait_that_was_cut_short_takes_its_turn_all_the_same(turns):
    turns.send_json(request('t.ask_briefly', ['w'], 'w'))
    take_call(turns, 'answer')
    turns.send_json(request('t.hold', ['a'], 'a'))
    Turns.gates['a'].wait_entered()
    seat, = _the_peer().seats._seats.values()
    wait_until(lambda: seat.turn._returning or len(Turns.log) > 2)
    assert Turns.log == ['w in', 'a in']
    Turns.gates['a'].open()
    recv_all(turns, 2)
    assert Turns.log == ['w in', 'a in', 'a out', 'w on']
    # and the turn is free again
    assert turns.call('t.hold', ['a']) == 'a'


@pytest.mark.parametrize('grant', ['not asked', 'asked', 'granted'])
def test_a_coroutine_that_is_destroyed_gives_its_turn_back(turns, grant):
    turns.send_json(request('t.ask_and_drop', ['w', grant], 'w'))
    take_call(turns, 'answer')
    if grant != 'not asked':
        turns.send_json(request('t.hold', ['a'], 'a'))
    if grant != 'granted':
        assert turns.recv_json() == result('w', 'w')
    if grant == 'asked':
        Turns.gates['a'].open()
        assert turns.recv_json() == result('a', 'a')
    elif grant == 'granted':
        assert recv_all(turns, 2).keys() == {'w', 'a'}
    # It is free again, and its last one comes.
    assert turns.call('t.here', ['b']) == 'b'
    turns.close()
    wait_until(lambda: Turns.log[-1] == 'closed')


def test_several_replies_may_be_awaited_at_once(turns):
    turns.send_json(request('t.ask_many', ['w'], 'w'))
    calls = [take_call(turns, 'answer') for _ in range(2)]
    assert turns.call('t.here', ['1']) == '1'
    for call in calls:
        settle(turns, call, call['params'][0])
    assert turns.recv_json() == result('w', [0, 1])
    assert turns.call('t.here', ['2']) == '2'


def test_a_refused_call_gives_its_turn_on():
    class Guarded(Turns):
        pass

    Turns.log.clear()
    with serving_api(Root(t=Guarded), {
            'authorize': lambda call: call.args[0] != 'no'}) as server:
        with server.peer('/api') as peer:
            for method in ('later', 'here', 'hold'):
                assert failure_of(peer, f't.{method}', ['no'])[0] == -32601
                assert failure_of(peer, f't.{method}', [])[0] == -32602
            assert peer.call('t.here', ['yes']) == 'yes'
            assert peer.call('t.later', ['yes']) == 'yes'


def test_what_waits_for_a_route_is_not_run_when_the_connection_is_gone():
    ran, ended = [], []

    class Slow(Route):
        def hold(self):
            gate.enter()
            ran.append('hold')

        def run(self):
            ran.append('run')

        async def later(self):
            ran.append('later')

        @nonblocking
        def here(self):
            ran.append('here')

        def closed(self):
            ended.append(list(ran))

    gate = Gate()
    with serving_api(Root(s=Slow)) as server:
        with server.peer('/api') as peer:
            peer.send_json(request('s.hold', id='hold'))
            gate.wait_entered()
            for name in ('run', 'later', 'here'):
                peer.send_json(request(f's.{name}', id=name))
            _ping(peer)
            it = _the_peer()
            peer.drop()
        wait_until(lambda: it.is_closed and not cp_wsrpc.connections())
        gate.open()
        # the calls that waited come, or do not, before the next one
        with server.peer('/api') as other:
            wait_until(lambda: ended)
            assert other.call('s.here') is None
            assert ended == [['hold']]
    assert ran == ['hold', 'here']


def test_closed_runs_once_for_an_instance_made_while_the_connection_goes():
    made, ended = [], []

    class Slow(Route):
        def __init__(self):
            gate.enter()
            made.append(self)

        def hello(self):
            return 'hello'

        def closed(self):
            ended.append(self)

    gate = Gate()
    with serving_api(Root(s=Slow)) as server:
        with server.peer('/api') as peer:
            peer.send_json(request('s.hello'))
            gate.wait_entered()
        wait_until(lambda: not cp_wsrpc.connections())
        gate.open()
        wait_until(lambda: ended)
    assert made == ended and len(made) == 1


@pytest.mark.parametrize('ask', ['pool', 'later'])
def test_closed_waits_for_a_method_that_was_away_at_its_client(ask):
    told, gate = [], Gate()

    class Asking(Route):
        def pool(self):
            try:
                self.connection.call('f').result()
            finally:
                gate.enter()
                told.append('goes on')

        async def later(self):
            try:
                await self.connection.call('f')
            finally:
                await asyncio.to_thread(gate.enter)
                told.append('goes on')

        def closed(self):
            told.append('closed')

    with serving_api(Root(s=Asking)) as server:
        with server.peer('/api') as peer:
            peer.send_json(request(f's.{ask}'))
            take_call(peer, 'f')
        gate.wait_entered()
        wait_until(lambda: not cp_wsrpc.connections())
        gate.open()
        wait_until(lambda: len(told) == 2)
    assert told == ['goes on', 'closed']


def test_many_calls_from_many_connections_each_count_right():
    with serving_api(Root(visitor=Visitor)) as server:
        peers = [server.peer('/api') for _ in range(5)]
        try:
            methods = ['count', 'count_async', 'count_here']
            for n in range(60):
                for peer in peers:
                    peer.send_json(request(
                        f'visitor.{methods[n % 3]}', id=n))
            for peer in peers:
                answers = recv_all(peer, 60)
                # in arrival order, whatever the kind
                assert [answers[n]['result'] for n in range(60)] == list(
                    range(1, 61))
        finally:
            for peer in peers:
                peer.drop()


def test_too_many_calls_to_a_route_are_busy():
    gate = Gate()

    class Slow(Route):
        def hold(self):
            return gate.enter()

    with serving_api(Root(s=Slow), {
            'max_waiting_per_connection': 3}) as server:
        with server.peer('/api') as peer:
            for n in range(6):
                peer.send_json(request('s.hold', id=n))
            busy = recv_all(peer, 2)
            assert set(busy) == {4, 5}
            for answer in busy.values():
                assert answer['error']['code'] == -32009
                assert answer['error']['data']['executed'] is False
            gate.open()
            assert set(recv_all(peer, 4)) == {0, 1, 2, 3}
            assert gate.most == 1


def test_closed_runs_however_many_calls_were_waiting():
    gate, ended = Gate(), []

    class Slow(Route):
        def hold(self):
            return gate.enter()

        def closed(self):
            ended.append(1)

    with serving_api(Root(s=Slow)) as server:
        with server.peer('/api') as peer:
            for n in range(129):
                peer.send_json(request('s.hold', id=n))
            gate.wait_entered()
            _ping(peer)
        wait_until(lambda: not cp_wsrpc.connections())
        gate.open()
        wait_until(lambda: ended)
    assert ended == [1] and gate.most == 1


def test_two_routes_of_a_connection_do_not_wait_for_each_other():
    gate = Gate()

    class One(Route):
        def hold(self):
            return gate.enter()

    class Two(Route):
        def thread(self):
            return threading.current_thread().name

    with serving_api(Root(one=One, two=Two)) as server:
        with server.peer('/api') as peer:
            peer.send_json(request('one.hold', id='one'))
            gate.wait_entered()
            assert peer.call('two.thread').startswith('wsrpc-worker')
            gate.open()
            assert peer.recv_json() == result('one', None)
