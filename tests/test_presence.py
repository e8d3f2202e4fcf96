"""Who is on a topic: the roster alone, one process, three through Redis."""
from __future__ import annotations

import contextlib
import itertools
import json
import signal
import sys
import threading
import time

import cherrypy
import pytest

import cp_wsrpc
from cp_wsrpc import redis_broker, redis_presence
from cp_wsrpc.backend import MemoryBackend
from cp_wsrpc.client import Client
from cp_wsrpc.client_presence import Presences
from cp_wsrpc.conversation import PendingReply
from cp_wsrpc.errors import BrokerUnavailable, CallTimeout, Overloaded
from cp_wsrpc.history import PRESENCE, Position, read_rules
from cp_wsrpc.presence import Change, Keeper, Presence, Present, Roster

from .attack import in_time
from .need import need
from .presence_app import CONFIG, TOPICS, Root, as_user, expire_after
from .rawpeer import CallFailed, RawPeer
from .redis_server import redis_server
from .serving import free_port, serving, spawn, wait_until

need('python:redis')

from cp_wsrpc.redis_store import RedisStore  # noqa: E402

#: A process that is held up for so long by the other tests is given up.
EXPIRY_S = 3.0
REAL_EXPIRY_S = redis_presence.EXPIRY_S
DICT = {'id': 7, 'name': 'grace'}


# -- the roster --------------------------------------------------------------

@pytest.fixture
def roster(clock):
    return Roster('n', clock)


def told(roster):
    changes = roster.take()
    roster.confirm(changes)
    return [change[1:] for change in changes]


def test_who_comes_and_goes_all_the_time_does_not_fill_it(roster, clock):
    for _ in range(5000):
        clock.now += 0.001
        roster.enter('room', b'"ada"', '#1')
        roster.leave('room', b'"ada"', '#1', 30.0)
    assert len(roster._queue) < 2000
    roster.enter('room', b'"bob"', '#2')
    assert told(roster) == [(b'"bob"', 1, ('n#2',))]
    clock.now += 30
    assert told(roster) == [] and roster.wait_s() is None


def test_what_has_changed_is_taken_once(roster):
    assert roster.take() == [] and roster.wait_s() is None
    roster.enter('room', b'"ada"', '#1')
    roster.enter('room', b'"ada"', '#2')
    roster.enter('room', b'', '#3')
    assert roster.wait_s() == 0
    assert roster.take() == [Change('room', b'"ada"', 2, ('n#1', 'n#2')),
                             Change('room', b'', 1, ('n#3',))]
    assert roster.take() == []


def test_a_tab_leaves_at_once_and_a_user_after_the_grace(roster, clock):
    for id in ('#1', '#2'):
        roster.enter('room', b'"ada"', id)
    told(roster)
    roster.leave('room', b'"ada"', '#1', 2)
    assert told(roster) == [(b'"ada"', 1, ('n#2',))]
    roster.leave('room', b'"ada"', '#2', 2)
    assert told(roster) == [] and roster.wait_s() == 2
    clock.now += 2
    assert told(roster) == [(b'"ada"', 0, ())]
    assert not len(roster)


def test_who_is_back_within_the_grace_has_never_left(roster, clock):
    roster.enter('room', b'"ada"', '#1')
    told(roster)
    roster.leave('room', b'"ada"', '#1', 2)
    clock.now += 1
    roster.enter('room', b'"ada"', '#2')
    assert told(roster) == [(b'"ada"', 1, ('n#2',))]
    clock.now += 9
    assert told(roster) == []


def test_who_is_gone_before_anybody_was_told_was_never_there(roster, clock):
    roster.enter('room', b'"ada"', '#1')
    roster.leave('room', b'"ada"', '#1', 2)
    assert told(roster) == []
    clock.now += 2
    assert told(roster) == [] and not len(roster)


def test_the_anonymous_are_counted_and_have_no_grace(roster):
    for number in range(300):
        roster.enter('room', b'', f'#{number}')
    (user, number, ids), = told(roster)
    assert (user, number, len(ids)) == (b'', 300, 100)
    roster.leave('room', b'', '#0', 2)
    assert told(roster)[0][1] == 299


def test_what_could_not_be_told_is_told_again_as_it_is_then(roster):
    roster.enter('room', b'"ada"', '#1')
    changes = roster.take()
    roster.give_back(changes)
    roster.leave('room', b'"ada"', '#1', 0)
    # Perhaps it was told all the same, so the end has to be told, too.
    assert told(roster) == [(b'"ada"', 0, ())]
    assert not len(roster)


def test_all_is_told_anew_to_who_knows_nothing_of_us(roster):
    for number in range(3):
        roster.enter('room', b'%d' % number, '#1')
    told(roster)
    roster.tell_anew()
    assert [change[0] for change in told(roster)] == [b'0', b'1', b'2']


def test_many_changes_are_taken_in_parts(roster):
    for number in range(250):
        roster.enter('room', b'%d' % number, '#1')
    assert [len(told(roster)) for _ in range(4)] == [100, 100, 50, 0]


# -- the options -------------------------------------------------------------

@pytest.mark.parametrize('topic, mode', [
    ('room.1', 'stream'), ('plain', None), ('shut', None)])
def test_what_is_kept_of_joins_and_leaves_is_a_rule_of_its_own(topic, mode):
    rules = read_rules({'room.*': {'presence': True, 'mode': 'latest'},
                        'shut': False, 'plain': {},
                        '*': {'mode': 'volatile'}})
    backend = MemoryBackend(rules)
    assert backend.mode(PRESENCE + topic) == mode
    assert (backend.presence_grace_s(topic) is None) == (mode is None)
    assert backend.has_presence
    assert not MemoryBackend(read_rules({'room': {}})).has_presence


@pytest.mark.parametrize('option', [
    {'presence': 1}, {'presence': 'yes'}, {'presence_grace_s': -1},
    {'presence_grace_s': True}, {'presence_grace_s': float('inf')}])
def test_an_option_that_cannot_be_is_told(option):
    with pytest.raises(cp_wsrpc.ConfigError,
                       match=r'\bpresence must be|presence_grace_s must be '
                             'a number of at least 0'):
        read_rules({'room': option})


# -- one process, or three ---------------------------------------------------

@contextlib.contextmanager
def process(url, expiry_s=EXPIRY_S):
    port = free_port()
    with spawn('tests/presence_app.py', str(port), url, str(expiry_s),
               ready='Bus STARTED') as made:
        made.at = port
        yield made


@pytest.fixture(scope='module')
def others(redis):
    with process(redis.url) as one, process(redis.url) as two:
        yield [one.at, two.at]


@pytest.fixture(autouse=True)
def soon_given_up(monkeypatch):
    monkeypatch.setattr(redis_presence, 'EXPIRY_S', None)
    monkeypatch.setattr(redis_broker.RedisBackend, 'heartbeat_s', None)
    expire_after(EXPIRY_S)


def here(url):
    return serving(Root(), CONFIG, engine={
        'wsrpc.topics': TOPICS, 'wsrpc.broker': url})


@pytest.fixture(params=['memory', 'redis'])
def ports(request):
    """Of all processes; the first is this one."""
    url, more = 'memory', []
    if request.param == 'redis':
        url = request.getfixturevalue('redis').url
        more = request.getfixturevalue('others')
    with here(url) as server:
        yield [server.port, *more]


names = (f'{number}' for number in itertools.count())


@pytest.fixture
def room():
    return 'room.' + next(names)


@pytest.fixture
def calm():
    return 'calm.' + next(names)


@contextlib.contextmanager
def on(topic, port, *users):
    """A connection of each on the topic."""
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(RawPeer(port, as_user(user)))
                 for user in users]
        for peer in peers:
            peer.call('rpc.subscribe', [topic])
        yield peers


def users_of(topic):
    """{user: how many connections}, of what is there now."""
    found = cp_wsrpc.who(topic)
    return {json.dumps(present.user): present.count
            for present in found.users}, found.anonymous


def wait_for(topic, users, anonymous=0, timeout_s=5):
    expected = {json.dumps(user): count for user, count in users}, anonymous
    wait_until(lambda: users_of(topic) == expected, timeout_s,
               f'{expected}, not {users_of(topic)}')


class Follower:
    """Keeps a list by ``rpc.who`` and the events after it, as pages do."""

    def __init__(self, peer, topic):
        self.peer = peer
        found = peer.call('rpc.who', [topic])
        self.users = [present['user'] for present in found['users']]
        self.seen = []
        reply = peer.call('rpc.subscribe', {
            'topic': PRESENCE + topic,
            'since': {name: found[name] for name in ('epoch', 'offset')}})
        assert reply['recovered'] is True
        for publication in reply['publications']:
            self.take(publication['data'])

    def take(self, data):
        """Each user comes once, and goes once: anything else fails."""
        self.seen.append((data['event'], data['user']))
        if data['event'] == 'join':
            assert data['user'] not in self.users
            self.users.append(data['user'])
        else:
            self.users.remove(data['user'])

    def next(self, timeout_s=5):
        params = self.peer.recv_json(timeout_s)['params']
        assert params['offset'] > 0
        self.take(params['result'])
        return self.seen[-1]


def test_a_user_is_counted_once_with_all_his_tabs(ports, room):
    with contextlib.ExitStack() as stack:
        for port in ports:
            stack.enter_context(on(room, port, 'ada', 'ada', DICT, None))
        n = len(ports)
        wait_for(room, [('ada', 2 * n), (DICT, n)], n)
        found = cp_wsrpc.who(room)
        assert isinstance(found, Presence)
        ids = [id for present in found.users for id in present.connections]
        assert len(set(ids)) == 3 * n
        assert all(peer.id in {'#' + id.partition('#')[2] for id in ids}
                   for peer in cp_wsrpc.connections(user='ada'))
    wait_for(room, [])


def test_what_who_says_and_the_events_are_one_tale(ports, room):
    with RawPeer(ports[-1], '/api') as watching, contextlib.ExitStack() as at:
        at.enter_context(on(room, ports[0], 'ada'))
        wait_for(room, [('ada', 1)])
        follower = Follower(watching, room)
        assert follower.users == ['ada']
        with on(room, ports[-1], 'bob'), on(room, ports[0], 'bob', None):
            assert follower.next() == ('join', 'bob')
            wait_for(room, [('ada', 1), ('bob', 2)], 1)
        assert follower.next() == ('leave', 'bob')
        at.close()
        assert follower.next() == ('leave', 'ada')
        assert follower.users == []


def test_who_reloads_the_page_has_never_left(ports, calm):
    with RawPeer(ports[0], '/api') as watching:
        with on(calm, ports[-1], 'ada'):
            wait_for(calm, [('ada', 1)])
            follower = Follower(watching, calm)
        with on(calm, ports[0], 'ada'):         # at another process, perhaps
            with on(calm, ports[0], 'eve'):
                assert follower.next() == ('join', 'eve')
            assert follower.next() == ('leave', 'eve')
            wait_for(calm, [('ada', 1)])
        assert follower.next() == ('leave', 'ada')


def test_joins_and_leaves_that_were_missed_are_recovered(ports, room):
    with RawPeer(ports[-1], '/api') as peer:
        at = peer.call('rpc.who', [room])
    since = {name: at[name] for name in ('epoch', 'offset')}
    with on(room, ports[0], 'ada'):
        wait_for(room, [('ada', 1)])
    wait_for(room, [])
    with RawPeer(ports[-1], '/api') as peer:
        reply = peer.call('rpc.subscribe', {'topic': PRESENCE + room,
                                            'since': since})
        assert reply['recovered'] is True
        assert [event['data']['event'] for event in
                reply['publications']] == ['join', 'leave']


def test_who_listens_by_rpc_on_is_there_too(ports, room):
    with RawPeer(ports[0], as_user('ada')) as peer:
        peer.call('rpc.on', [room])
        id = peer.call('rpc.subscribe', [room])
        wait_for(room, [('ada', 1)])
        peer.call('rpc.unsubscribe', [id])
        wait_for(room, [('ada', 1)])
        peer.call('rpc.off', [room])
        wait_for(room, [])


def test_a_second_subscribe_of_a_page_is_one_presence(ports, room):
    with RawPeer(ports[-1], as_user('ada')) as peer:
        ids = [peer.call('rpc.subscribe', [room]) for _ in range(2)]
        wait_for(room, [('ada', 1)])
        peer.call('rpc.unsubscribe', [ids[0]])
        wait_for(room, [('ada', 1)])
        peer.call('rpc.unsubscribe', [ids[1]])
        wait_for(room, [])


def test_who_has_just_subscribed_finds_himself(ports, room):
    with on(room, ports[-1], 'ada') as (peer,):
        assert [present['user'] for present in
                peer.call('rpc.who', [room])['users']] == ['ada']
        assert peer.call('who', [room])['users'][0]['count'] == 1


def test_the_python_client_follows_who_is_there(ports, room):
    seen, joins = [], []
    with Client(f'ws://127.0.0.1:{ports[-1]}/api') as client:
        found = client.who(room).result(5)
        client.subscribe(PRESENCE + room, seen.append, onjoin=joins.append,
                         since=found)
        wait_until(lambda: joins)
        with on(room, ports[0], DICT):
            wait_until(lambda: seen)
        wait_until(lambda: len(seen) == 2)
    assert (found['users'], found['anonymous'], joins) == ([], 0, [True])
    assert seen == [{'event': 'join', 'user': DICT},
                    {'event': 'leave', 'user': DICT}]


def test_the_python_client_keeps_the_list_over_a_lost_connection(ports, room):
    told = []

    def tell(users, change):
        told.append((sorted(map(str, users)), change and change['event']))

    with Client(f'ws://127.0.0.1:{ports[0]}/api',
                reconnect_delay_s=0.01) as client, on(room, ports[-1], 'ada'):
        off = client.presence(room, tell)
        wait_until(lambda: told == [(['ada'], None)])
        with on(room, ports[-1], DICT):
            both = sorted(['ada', str(DICT)])
            wait_until(lambda: told[1:] == [(both, 'join')])
            connection, = (one for one in cp_wsrpc.connections()
                           if one.user is None)
            cherrypy.engine.wsrpc.manager.post(
                connection.abort, 1006, 'a test')
        wait_until(lambda: told[-1][0] == ['ada'])
        off()
        with on(room, ports[-1], DICT):
            client.who(room).result(5)
        assert told[2:] in ([(['ada'], 'leave')], [(['ada'], None)])
        refused = []
        client.presence('kept', tell, onerror=refused.append)
        wait_until(lambda: refused)
        assert refused[0].code == -32012


def test_the_python_client_asks_again_though_its_onerror_raises():
    def refused(error):
        raise RuntimeError('a fault of the application')

    reply = PendingReply(1, 'rpc.who')
    reply.fail(CallTimeout('no answer'))
    delays = []
    presences = Presences(print, refused, lambda answered: answered(reply),
                          delays.append)
    with pytest.raises(RuntimeError):
        presences.on_join(None)
    assert len(delays) == 1


# -- permission --------------------------------------------------------------

RIGHTS = [
    ('ada', 'secret.1', True), ('eve', 'secret.1', False),
    (None, 'room.x', True), (None, 'kept', False), (None, 'plain', False),
    (None, PRESENCE + 'room.x', False), (None, 'rpc.room', False)]


def test_who_may_subscribe_may_ask_where_presence_is_on(ports):
    for user, topic, granted in RIGHTS:
        with RawPeer(ports[0], as_user(user)) as peer:
            for method, name in (('rpc.who', topic),
                                 ('rpc.subscribe', PRESENCE + topic),
                                 ('rpc.on', PRESENCE + topic)):
                assert is_refused(peer, method, [name], -32012) \
                    is not granted, (user, method, name)


def is_refused(peer, method, params, code):
    try:
        peer.call(method, params)
    except CallFailed as error:
        assert error.code == code, (method, params)
        return True
    return False


def test_clients_publish_no_joins(ports, room):
    with RawPeer(ports[0], '/api') as peer:
        for name in (PRESENCE + room, 'rpc.x'):
            assert is_refused(peer, 'rpc.publish',
                              {'topic': name, 'data': 1}, -32012)


WRONG = [
    (None, -32602), ([], -32602), ([1], -32602), (['a', 'b'], -32602),
    ({'topic': 'room.x'}, -32602), (['room.' + 'x' * 200], -32600)]


def test_a_wrong_question_is_told_so(ports):
    with RawPeer(ports[0], '/api') as peer:
        for params, code in WRONG:
            assert is_refused(peer, 'rpc.who', params, code), params


def test_a_topic_without_presence_is_the_callers_error(ports):
    for topic in ('kept', 'plain'):
        with pytest.raises(ValueError, match='has no presence'):
            cp_wsrpc.who(topic)


def test_an_async_method_asks_only_where_nobody_waits(ports, room):
    with RawPeer(ports[0], '/api') as peer:
        if len(ports) == 1:
            assert peer.call('who_async', [room])['users'] == []
        else:
            with pytest.raises(CallFailed):
                peer.call('who_async', [room])


def test_without_an_engine_nobody_is_there_to_be_asked():
    with pytest.raises(BrokerUnavailable):
        cp_wsrpc.who('room.x')


# -- bad days ----------------------------------------------------------------

def test_a_process_that_is_killed_drops_out(redis, others, room):
    with here(redis.url) as server, server.peer('/api') as watching, \
            process(redis.url) as victim:
        follower = Follower(watching, room)
        with on(room, victim.at, 'ada', 'bob', None), \
                on(room, others[0], 'bob'):
            wait_for(room, [('ada', 1), ('bob', 2)], 1)
            assert {follower.next(), follower.next()} == {
                ('join', 'ada'), ('join', 'bob')}
            victim.kill()
            killed = time.monotonic()
            assert follower.next() == ('leave', 'ada')
            assert time.monotonic() - killed < EXPIRY_S * 1.25 + 2
            wait_for(room, [('bob', 1)])
        assert follower.next() == ('leave', 'bob')


@pytest.mark.full
def test_a_process_that_is_killed_drops_out_as_fast_as_is_said(
        need, monkeypatch):
    expire_after(REAL_EXPIRY_S)
    monkeypatch.setattr(redis_broker.RedisBackend, 'heartbeat_s',
                        redis_presence.HEARTBEAT_S)
    with redis_server(need('redis-server')) as redis, \
            here(redis.url) as server, server.peer('/api') as watching, \
            process(redis.url, REAL_EXPIRY_S) as victim, \
            on('room.x', victim.at, 'ada'):
        wait_for('room.x', [('ada', 1)])
        follower = Follower(watching, 'room.x')
        victim.kill()
        killed = time.monotonic()
        wait_for('room.x', [], timeout_s=11)
        assert follower.next(14) == ('leave', 'ada')
        print(f'out after {time.monotonic() - killed:.1f} s')


def test_a_process_that_stops_leaves_at_once(redis, others):
    patient = 'patient.' + next(names)      # a grace of 30 s
    with here(redis.url) as server, server.peer('/api') as watching, \
            process(redis.url, expiry_s=60) as other:
        follower = Follower(watching, patient)
        with on(patient, other.at, 'ada') as (ada,):
            assert follower.next() == ('join', 'ada')
            other.send_signal(signal.SIGTERM)
            assert ada.recv_close()[0] == 1001
            assert follower.next() == ('leave', 'ada')
        assert users_of(patient) == ({}, 0)


def test_a_redis_that_stands_still_makes_nobody_leave(redis, others, room):
    with here(redis.url) as server, server.peer('/api') as watching, \
            on(room, others[0], 'ada'), on(room, others[1], 'bob'):
        wait_for(room, [('ada', 1), ('bob', 1)])
        follower = Follower(watching, room)
        redis.pause()
        begun = time.monotonic()
        with pytest.raises(BrokerUnavailable):
            cp_wsrpc.who(room)
        assert time.monotonic() - begun < in_time(2)     # 1.5
        with pytest.raises(CallFailed) as caught:
            watching.call('rpc.who', [room])
        assert caught.value.code == -32009
        wait_until(lambda: time.monotonic() - begun > EXPIRY_S + 0.5)
        redis.go_on()
        wait_until(lambda: answers(room), 10, 'Redis to be back')
        with on(room, server.port, 'eve'):
            assert follower.next() == ('join', 'eve')
            wait_for(room, [('ada', 1), ('bob', 1), ('eve', 1)])


def answers(room):
    try:
        return cp_wsrpc.who(room)
    except BrokerUnavailable:
        return None


def test_who_comes_and_goes_while_redis_is_away_is_told_later(need):
    with redis_server(need('redis-server')) as redis, \
            here(redis.url) as server, \
            on('room.x', server.port, 'ada') as (ada,):
        wait_for('room.x', [('ada', 1)])
        redis.kill()
        with on('room.x', server.port, 'eve'), \
                on('room.x', server.port, 'bob'):
            ada.close()
        with on('room.x', server.port, 'bob'):
            redis.start()               # without what it knew
            wait_until(lambda: answers('room.x'), 10)
            wait_for('room.x', [('bob', 1)])


def test_a_redis_that_has_forgotten_all_is_told_anew(need):
    with redis_server(need('redis-server')) as redis, \
            process(redis.url) as other, here(redis.url) as server, \
            on('room.x', server.port, 'ada'), on('room.x', other.at, 'bob'):
        wait_for('room.x', [('ada', 1), ('bob', 1)])
        redis.do('FLUSHALL')
        wait_for('room.x', [('ada', 1), ('bob', 1)])


def test_what_others_have_put_onto_its_keys_is_put_away(need):
    with redis_server(need('redis-server')) as redis, \
            here(redis.url) as server, on('room.x', server.port, 'ada'):
        wait_for('room.x', [('ada', 1)])
        node = redis.do('ZRANGE', 'wsrpc:nodes', 0, 0)[0].decode()
        redis.do('HSET', f'wsrpc:p:{node}:room.x', 'no json', '1 x#1',
                 '"eve"', 'many', '"mal"', '1 <script>')
        assert users_of('room.x') == ({'"ada"': 1}, 0)
        for key in ('nodes', f'n:{node}', f'p:{node}:room.x',
                    't:rpc.presence.room.x', 'p:gone'):
            redis.do('SET', f'wsrpc:{key}', 'garbage')
            wait_for('room.x', [('ada', 1)])
        with on('room.x', server.port, 'bob'):
            wait_for('room.x', [('ada', 1), ('bob', 1)])


def test_a_backend_that_fails_once_is_told_all_the_same(room, monkeypatch):
    attend, faults = MemoryBackend.attend, [AssertionError('of ours')]

    def fail_once(self, changes):
        if faults:
            raise faults.pop()
        return attend(self, changes)

    with here('memory') as server, monkeypatch.context() as patched:
        patched.setattr(MemoryBackend, 'attend', fail_once)
        with on(room, server.port, 'ada') as (peer,):
            wait_until(lambda: server.logged('presence failed'))
            wait_for(room, [('ada', 1)])
            patched.setattr(MemoryBackend, 'who', sys.exit)
            with pytest.raises(CallFailed) as caught:
                peer.call('rpc.who', [room])
            assert caught.value.code == -32000


class Deaf:
    def deliver(self, event):
        pass


def test_who_asks_while_the_process_stops_brings_nobody_back():
    backend = MemoryBackend(read_rules(TOPICS))
    backend.start(Deaf())
    keeper = Keeper(backend)
    keeper.start()
    for id in ('#1', '#2'):
        keeper.enter('room.x', b'"ada"', id)
    assert keeper.who('room.x').users == [Present('ada', 2, ['#1', '#2'])]
    keeper.stop(3.0)
    keeper.leave('room.x', b'"ada"', '#1', 0)   # the first of two tabs
    assert keeper.who('room.x').users == []
    backend.stop(3.0)


def test_an_event_that_the_loop_has_no_room_for_comes_later():
    class Full:
        full = True

        def deliver(self, event):
            if self.full:
                raise Overloaded
    feed = Full()
    backend = MemoryBackend(read_rules(TOPICS))
    backend.start(feed)
    join = [Change('room.x', b'"ada"', 1, ('#1',))]
    with pytest.raises(Overloaded):
        backend.attend(join)
    assert backend.who('room.x').users == []
    feed.full = False
    assert backend.attend(join) and backend.attend(join)
    found = backend.who('room.x')
    assert (found.users, found.offset) == ([Present('ada', 1, ['#1'])], 1)
    backend.stop(3.0)


# -- in Redis, by a clock of the test's own ----------------------------------

@pytest.fixture
def stores(redis, clock):
    """Of two processes."""
    with contextlib.ExitStack() as stack:
        url = f'{redis.url}?prefix={next(names)}:'
        made = [redis_presence.PresenceStore(stack.enter_context(
            contextlib.closing(RedisStore(url, clock=clock))), node)
            for node in 'AB']
        for store in made:
            assert store.attend([]) is False    # nobody knew it
            assert store.attend([]) is True
        yield made


def join(store, *users, topic='room'):
    return store.attend([Change(topic, b'"%s"' % user.encode(), 1, ('#1',))
                         for user in users])


def names_in(store):
    found = store.who('room')
    return [present.user for present in found.users], found.offset


def test_who_is_silent_for_too_long_is_let_go_by_the_others(stores, clock):
    one, two = stores
    join(one, 'ada')
    join(two, 'ada', 'bob')
    for _ in range(4):
        clock.now += EXPIRY_S / 2
        assert one.attend([]) is True
    # ada is at the other still, so two have joined and one has left
    assert names_in(one) == (['ada'], 3)
    assert join(two, 'bob') is False            # it is to tell all anew
    assert names_in(one) == (['ada', 'bob'], 4)


def test_whose_own_time_is_over_judges_nobody(stores, clock):
    one, two = stores
    join(two, 'bob')
    clock.now += 3 * EXPIRY_S                   # Redis stood still
    assert join(one, 'ada') is False
    assert join(one, 'ada') is True
    assert names_in(one) == (['ada', 'bob'], 2)
    assert two.attend([]) is True


def test_a_process_with_many_users_is_let_go_in_steps(stores, clock,
                                                      monkeypatch):
    monkeypatch.setattr(redis_presence, 'LEAVES_A_STEP', 2)
    monkeypatch.setattr(redis_presence, 'PATIENCE_S', 0)
    one, two = stores
    join(two, 'a', 'b', 'c', 'd', 'e')
    clock.now += EXPIRY_S * 0.6
    one.attend([])
    clock.now += EXPIRY_S * 0.6
    assert len(names_in(one)[0]) == 3
    assert two.attend([]) is False              # back, and not all is there
    assert join(two, 'a', 'b', 'c', 'd', 'e') is True
    assert names_in(one)[0] == ['a', 'b', 'c', 'd', 'e']
    for _ in range(2):
        with pytest.raises(BrokerUnavailable, match='too many'):
            two.depart()
    two.depart()
    assert names_in(one)[0] == []


def test_a_redis_whose_clock_goes_back_keeps_everybody(stores, clock):
    one, two = stores
    join(two, 'bob')
    clock.now -= 90
    join(one, 'ada')
    join(one, 'ada')
    assert names_in(one)[0] == ['ada', 'bob']


# -- many --------------------------------------------------------------------

def test_a_storm_of_joins_takes_few_steps_and_holds_no_loop(ports, room,
                                                            monkeypatch):
    backend = cherrypy.engine.wsrpc.hub.broker._backend
    steps, attend = [], backend.attend

    def count(changes):
        steps.append(len(changes))
        return attend(changes)

    monkeypatch.setattr(backend, 'attend', count)
    hub = cherrypy.engine.wsrpc.hub
    done = threading.Event()

    class Fake:
        """A peer, as far as the broker looks at it."""

        def __init__(self, number):
            self.id, self.user_key = f'#{number}', b'%d' % number
            self.topics, self.heard = set(), set()

    took = []

    def join_all():
        begun = time.thread_time()
        peers = [Fake(number) for number in range(1000)]
        for peer in peers:
            hub.broker.subscribe(peer, room, 9)
        took.append(time.thread_time() - begun)
        done.peers = peers
        done.set()

    hub.io.post(join_all)
    assert done.wait(10)
    assert len(cp_wsrpc.who(room).users) == 1000
    assert len(steps) < 100 and sum(steps) >= 1000
    assert took[0] < 0.5
    hub.io.post(lambda: [hub.broker.leave(peer) for peer in done.peers])
    wait_for(room, [])


def test_a_program_that_is_no_server_may_ask_too(redis, others, room):
    with on(room, others[0], 'ada'), \
            cp_wsrpc.Publisher(redis.url) as publisher:
        wait_until(lambda: publisher.who(room).users)
        found = publisher.who(room)
        assert [present.user for present in found.users] == ['ada']
        assert Position(found.epoch, found.offset).offset == 1
        with pytest.raises(ValueError):
            publisher.who('plain')
