"""Nothing published is missed without being told: server and client.

First the joining, step by step and in any order, between a real ``Broker``
and a real client's ``Topic``, without sockets; then over sockets.
"""
from __future__ import annotations

import collections
import itertools
import json
import threading

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    precondition,
    rule,
    run_state_machine_as_test,
)

import cp_wsrpc
from cp_wsrpc import frames, joining, topics
from cp_wsrpc.backend import MemoryBackend, resync
from cp_wsrpc.broker import Broker
from cp_wsrpc.client import Client as RpcClient
from cp_wsrpc.client_topics import Listener, Topic
from cp_wsrpc.dialects import JSONRPC
from cp_wsrpc.errors import Busy, ConfigError, Overloaded
from cp_wsrpc.history import History, Position, Retention, read_rules
from cp_wsrpc.messages import Event
from cp_wsrpc.plugin import WsrpcPlugin

from .rawpeer import CallFailed
from .recovery_model import model_settings
from .serving import ROOT, serving, spawn, wait_until

RULES = {'news': Retention(6, 1e9, 10_000, 'stream')}


# -- joining, step by step ---------------------------------------------------

class Member:
    """What the broker needs of a peer, and the client at its other end."""

    dialect = JSONRPC
    framer = frames

    def __init__(self) -> None:
        self.topics: set[str] = set()
        self.heard: set[str] = set()
        self.out = self
        self.refusing = False


class Client:
    """One ``Topic`` over all its connections, and what its page saw."""

    def __init__(self) -> None:
        self.topic = Topic('news')
        self.listener = Listener(print)
        self.topic.listeners.append(self.listener)
        self.member: Member | None = None
        self.arrival = None
        self.found = None
        self.inbox: collections.deque = collections.deque()
        #: (epoch, offset) up to which the page is sure to know all
        self.sure: Position | None = None

    def is_told_gap(self, position) -> None:
        self.sure = position
        self.listener.since = None

    def sees(self, position, text) -> None:
        assert self.sure is not None
        assert position == (self.sure.epoch, self.sure.offset + 1), \
            f'a silent gap: {self.sure} -> {position}'
        assert text == f'{position.epoch}/{position.offset}'
        self.sure = position


class SeveralProcesses:
    """A backend whose feed lags behind its history, as that of Redis.

    ``air``: what the history has and the process has not been told yet;
    None where the reader sees that something is missing.
    """

    is_shared = True
    has_presence = False

    def __init__(self) -> None:
        self.air: collections.deque = collections.deque()
        self.flush()

    def flush(self) -> None:
        self._history = History(read_rules(RULES), clock=lambda: 0.0)

    def start(self, feed) -> None:
        self.feed = feed

    def mode(self, topic):
        return 'stream'

    def publish(self, topic, text, key=None):
        epoch, offset = self._history.position(topic)
        text = b'"%s/%d"' % (epoch.encode(), offset + 1)
        self._history.append(topic, text)
        self.air.append(Event(topic, text, offset + 1, epoch))

    def recover(self, topic, since, max_events, max_bytes):
        return self._history.recover(topic, since, 4, max_bytes)


class OneProcess(MemoryBackend):
    """The real one, with texts that say which event they are."""

    air: collections.deque = collections.deque()

    def __init__(self) -> None:
        super().__init__(read_rules(RULES))

    def flush(self) -> None:
        self._history = History(read_rules(RULES))

    def publish(self, topic, text, key=None):
        epoch, offset = self._history.position(topic)
        return super().publish(
            topic, b'"%s/%d"' % (epoch.encode(), offset + 1), key)

    def recover(self, topic, since, max_events, max_bytes):
        return super().recover(topic, since, 4, max_bytes)


class Joining(RuleBasedStateMachine):
    """Clients come, go and listen while others publish.

    At each event a client's page is sure of all before it, or has been
    told that it is not; at the end, when all has been delivered, it is
    sure of everything up to the head.
    """

    backend_class: type = OneProcess
    clients = st.integers(0, 2)

    def __init__(self) -> None:
        super().__init__()
        self.backend = self.backend_class()
        self.loop: collections.deque = collections.deque()
        self.broker = Broker(self.backend, self.fan_out)
        self.broker.start()
        self.waits_for_loop = False
        self.all = [Client() for _ in range(3)]

    def fan_out(self, targets, size):
        self.loop.append(targets)
        if self.waits_for_loop:
            self.turn(1000)

    @rule(count=st.sampled_from([1, 1, 1, 2, 5, 7]))
    def publish(self, count):
        for _ in range(count):
            self.broker.publish('news', None)

    @rule(count=st.integers(1, 4))
    def feed(self, count):
        """The reader's thread."""
        for _ in range(min(count, len(self.backend.air))):
            event = self.backend.air.popleft()
            if event is None:
                self.waits_for_loop = True
                resync(self.backend.recover, self.broker)
                self.waits_for_loop = False
            else:
                self.broker.deliver(event)

    @rule(count=st.integers(1, 3))
    def turn(self, count):
        """The loop's thread: frames into the out-queues."""
        for _ in range(min(count, len(self.loop))):
            for members, frame_for in self.loop.popleft()():
                for member in members:
                    self.send(member, frame_for(member.dialect,
                                                member.framer))

    def send(self, member, frame):
        payload = frame[2:] if frame[1] < 126 else frame[4:]
        for client in self.all:
            if client.member is member:
                client.inbox.append(json.loads(payload))

    @rule(who=clients)
    def arrive(self, who):
        client = self.all[who]
        if client.member is None:
            client.member = Member()
            _, said = client.topic.join_params()
            since = said['since'] and Position(**said['since'])
            client.arrival = self.broker.arrive(client.member, 'news', 9)
            client.found = None
            client.since = since
            if not self.broker.is_shared:
                self.read(who)
                self.enter(who)

    @rule(who=clients)
    def read(self, who):
        """A worker's thread, if that may wait; else it follows at once."""
        client = self.all[who]
        if client.arrival is not None and client.found is None:
            client.found = self.broker.recover('news', client.since, 1 << 20)

    @rule(who=clients)
    def enter(self, who):
        client = self.all[who]
        found = client.found
        if client.arrival is None or found is None:
            return
        arrival, client.arrival = client.arrival, None
        try:
            frames = self.broker.enter(arrival, found)
        except Busy:
            self.broker.turn_away(arrival)
            self.hang_up(client)
            return
        if frames is None:
            client.arrival, client.found = arrival, None
            return
        client.inbox.append(json.loads(JSONRPC.encode_result(
            1, joining.joined_result(arrival.id, client.since, found))))
        for frame in frames:
            self.send(arrival.peer, frame)

    @rule(who=clients)
    def drop(self, who):
        client = self.all[who]
        if client.member is not None:
            self.broker.leave(client.member)
            self.hang_up(client)

    def hang_up(self, client):
        client.member = client.arrival = client.found = None
        client.inbox.clear()
        client.topic.leave()

    @rule(who=clients, count=st.integers(1, 4))
    def read_socket(self, who, count):
        client = self.all[who]
        for _ in range(min(count, len(client.inbox))):
            self.take(client, client.inbox.popleft())

    def take(self, client, message):
        """As ``client_subscriptions`` does it."""
        topic, listener = client.topic, client.listener
        if 'result' in message:
            reply = message['result']
            missed = topic.adopt(reply)
            listener.known = True
            if listener.recovered is not True:
                assert not missed
                client.is_told_gap(Position(reply['epoch'], reply['offset']))
            for event in missed:
                self.deliver(client, event)
            return
        event = message['params']
        place = event['offset'], event['epoch']
        if event.get('recovered') is False:
            if topic.reset(*place):
                client.is_told_gap(Position(*reversed(place)))
            return
        is_gap = topic.is_gap_before(*place)
        publication = topic.take(event['result'], *place)
        assert publication is not None, 'sent twice'
        if publication is not None:
            if is_gap:
                client.is_told_gap(Position(
                    publication.epoch, publication.offset - 1))
            self.deliver(client, publication)

    def deliver(self, client, event):
        if not client.listener.has(event):
            client.sees(Position(event.epoch, event.offset), event.data)

    def teardown(self):
        for who, client in enumerate(self.all):
            while client.arrival is not None:
                self.read(who)
                self.enter(who)
        while self.backend.air or self.loop:
            self.feed(100)
            self.turn(100)
        head = self.backend.recover('news', None, 0, 0).position
        for who, client in enumerate(self.all):
            self.read_socket(who, 1000)
            if client.member is not None:
                assert client.sure == head


class JoiningSeveral(Joining):
    backend_class = SeveralProcesses

    @precondition(lambda self: self.backend.air)
    @rule(chance=st.integers(0, 3))
    def lose_some_of_the_feed(self, chance):
        if chance == 0:
            self.backend.air[0] = None

    @rule(chance=st.integers(0, 9))
    def flush(self, chance):
        if chance == 0:
            self.backend.flush()
            self.backend.air.append(None)


@pytest.mark.timeout(600)       # with WSRPC_FULL=1
@pytest.mark.parametrize('machine', [Joining, JoiningSeveral])
def test_whatever_the_order_nothing_is_missed_in_silence(machine):
    run_state_machine_as_test(machine, settings=model_settings(6000))


# -- over sockets ------------------------------------------------------------

class Root:
    class Api:
        @cp_wsrpc.expose
        def publish(self, topic, data):
            return cp_wsrpc.publish(topic, data)

    api = Api()


TOPICS = {'small': {'history_size': 3}, 'cars': {'mode': 'latest'},
          'mouse': {'mode': 'volatile'}, 'plain': None, 'secret': {},
          'n*': {}}
allowed = threading.Event()


def may_read(connection, topic):
    return allowed.is_set()


CONFIG = {'/api': {
    'tools.wsrpc.on': True, 'tools.wsrpc.out_max_bytes': 20_000,
    'tools.wsrpc.subscribe': {'secret': may_read, '*': True},
    'tools.wsrpc.publish': ['*']}}


@pytest.fixture(scope='module')
def server():
    with serving(Root(), CONFIG, engine={'wsrpc.topics': TOPICS}) as server:
        yield server


_numbers = itertools.count()


@pytest.fixture
def topic():
    """A topic with history that no other test uses."""
    return f'n{next(_numbers)}'


def subscribe(peer, topic, since=None):
    return peer.call('rpc.subscribe', {
        'topic': topic, 'since': since and Position(*since)._asdict()})


def offsets(reply):
    return [event['offset'] for event in reply['publications']]


def test_events_carry_their_position(server, topic):
    with server.peer('/api') as peer:
        joined = subscribe(peer, topic)
        assert joined == {
            'subscription': joined['subscription'], 'offset': 0,
            'epoch': joined['epoch'], 'recovered': None, 'publications': []}
        assert cp_wsrpc.publish(topic, {'a': 1}) == (joined['epoch'], 1)
        assert peer.recv_json() == {
            'jsonrpc': '2.0', 'method': 'rpc.subscription', 'params': {
                'subscription': joined['subscription'], 'topic': topic,
                'result': {'a': 1}, 'offset': 1, 'epoch': joined['epoch']}}


def test_an_id_is_all_that_the_short_form_gets(server, topic):
    with server.peer('/api') as peer:
        assert isinstance(peer.call('rpc.subscribe', [topic]), str)
        cp_wsrpc.publish(topic, 1)
        assert peer.recv_json()['params']['offset'] == 1


@pytest.mark.parametrize('name', ['plain', 'mouse'])
def test_a_topic_without_history_has_no_position(server, name):
    with server.peer('/api') as peer:
        for since, recovered in ((None, None), (('e', 1), False)):
            joined = subscribe(peer, name, since)
            assert (joined['epoch'], joined['offset']) == (None, None)
            assert joined['recovered'] is recovered
            assert joined['publications'] == []
        assert cp_wsrpc.publish(name, 5) is None
        assert 'offset' not in peer.recv_json()['params']


@pytest.mark.parametrize('since', [
    5, 'e', [], ['e', 1], {}, {'epoch': 'e'}, {'epoch': 5, 'offset': 5},
    {'epoch': 'e', 'offset': '5'}, {'epoch': 'e', 'offset': 1.5},
    {'epoch': 'e', 'offset': True}, {'epoch': None, 'offset': None}])
def test_a_wrong_since_is_the_callers_fault(server, topic, since):
    with server.peer('/api') as peer:
        with pytest.raises(CallFailed) as caught:
            peer.call('rpc.subscribe', {'topic': topic, 'since': since})
        assert caught.value.code == -32602
        assert 'since' in caught.value.message


def test_the_gap_comes_with_the_reply_and_then_what_is_new(server, topic):
    start = cp_wsrpc.publish(topic, 1)
    for number in (2, 3):
        cp_wsrpc.publish(topic, number)
    with server.peer('/api') as peer:
        joined = subscribe(peer, topic, start)
        assert joined['recovered'] is True
        assert joined['publications'] == [{'offset': 2, 'data': 2},
                                          {'offset': 3, 'data': 3}]
        cp_wsrpc.publish(topic, 4)
        assert peer.recv_json()['params']['offset'] == 4
        assert subscribe(peer, topic, start._replace(offset=5))[
            'recovered'] is False
        assert subscribe(peer, topic, start._replace(epoch='other'))[
            'recovered'] is False


@pytest.mark.parametrize('count, size, whole', [
    (300, 1, True), (301, 1, False), (2, 4990, True), (2, 5000, False)])
def test_more_than_fits_is_not_sent_in_part(server, topic, count, size,
                                             whole):
    # 300 events, half of out_max_bytes
    start = cp_wsrpc.publish(topic, 0)
    for _ in range(count):
        cp_wsrpc.publish(topic, 'x' * size)
    with server.peer('/api') as peer:
        joined = subscribe(peer, topic, start)
        assert joined['recovered'] is whole
        assert len(joined['publications']) == (count if whole else 0)
        assert joined['offset'] == count + 1


def test_limits_are_those_of_the_pattern(server):
    start = cp_wsrpc.publish('small', 0)
    for number in range(3):
        cp_wsrpc.publish('small', number)
    with server.peer('/api') as peer:
        assert offsets(subscribe(peer, 'small', start)) == [2, 3, 4]
        cp_wsrpc.publish('small', 3)
        assert subscribe(peer, 'small', start)['recovered'] is False


def test_latest_brings_the_newest_of_each_key(server):
    start = cp_wsrpc.publish('cars', {'car': 1}, key='1')
    cp_wsrpc.publish('cars', {'car': 2}, key='2')
    server.engine.publish('wsrpc-publish', 'cars', {'car': 2}, '2')
    with server.peer('/api') as peer:
        assert offsets(subscribe(peer, 'cars', start)) == [3]
    with pytest.raises(TypeError, match='key'):
        cp_wsrpc.publish('cars', 1, key=5)


def test_who_publishes_from_a_client_is_told_the_position(server, topic):
    with server.peer('/api') as peer:
        said = peer.call('rpc.publish', {'topic': topic, 'data': [1]})
        assert said == {'epoch': said['epoch'], 'offset': 1}
        assert peer.call('rpc.publish', {'topic': 'plain', 'data': 1}) is None


def test_the_right_to_read_is_asked_at_each_join(server):
    allowed.set()
    start = cp_wsrpc.publish('secret', 1)
    with server.peer('/api') as peer:
        assert subscribe(peer, 'secret', start)['recovered'] is True
        cp_wsrpc.publish('secret', 2)
        assert peer.recv_json()['params']['result'] == 2
        allowed.clear()
        for params in (['secret'], {'topic': 'secret'}, {
                'topic': 'secret', 'since': start._asdict()}):
            with pytest.raises(CallFailed) as caught:
                peer.call('rpc.subscribe', params)
            assert caught.value.code == -32012


def test_who_joins_amid_a_storm_has_every_event_once(server, topic):
    """Four publishers, and connections that come and go among them."""
    go_on = threading.Event()
    start = cp_wsrpc.publish(topic, None)

    def publish():
        while not go_on.is_set():
            cp_wsrpc.publish(topic, None)
            go_on.wait(0.0005)

    threads = [threading.Thread(target=publish) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        seen, epoch = start.offset, start.epoch
        for _ in range(60):
            with server.peer('/api') as peer:
                joined = subscribe(peer, topic, (epoch, seen))
                assert joined['recovered'] is True
                live = [peer.recv_json()['params']['offset']
                        for _ in range(3)]
            assert offsets(joined) + live == list(range(
                seen + 1, live[-1] + 1))
            assert joined['offset'] == live[0] - 1
            seen = live[-1]
    finally:
        go_on.set()
        for thread in threads:
            thread.join()


def test_a_python_client_comes_back_and_misses_nothing(server, topic):
    heard, joins = [], []
    with RpcClient(server.ws_url('/api'), reconnect_delay_s=0.05) as client:
        client.backoff.random = lambda: 0.0
        client.subscribe(topic, heard.append, onjoin=lambda recovered:
                         (joins.append(recovered), heard.append(recovered)))
        wait_until(lambda: joins == [None])
        for number in range(3):
            cp_wsrpc.publish(topic, number)
        wait_until(lambda: heard == [None, 0, 1, 2])
        connection, = cp_wsrpc.connections()
        server.engine.wsrpc.manager.post(connection.abort, 1006, 'a test')
        wait_until(lambda: connection.is_closed)
        for number in range(3, 6):
            cp_wsrpc.publish(topic, number)
        wait_until(lambda: joins == [None, True])
        cp_wsrpc.publish(topic, 6)
        wait_until(lambda: heard == [None, 0, 1, 2, True, 3, 4, 5, 6])


def test_a_page_goes_on_from_the_state_that_it_was_made_with(server, topic):
    for number in range(3):
        position = cp_wsrpc.publish(topic, number)
    cp_wsrpc.publish(topic, 3)
    heard, joins = [], []
    with RpcClient(server.ws_url('/api')) as client:
        client.subscribe(topic, heard.append, since=position,
                         onjoin=joins.append)
        wait_until(lambda: heard == [3])
        assert joins == [True]


def test_a_position_may_be_asked_for_and_nothing_be_published(server, topic):
    before = cp_wsrpc.position(topic)
    assert before == (before.epoch, 0)
    assert cp_wsrpc.publish(topic, 1) == (before.epoch, 1)
    assert cp_wsrpc.position(topic) == (before.epoch, 1)
    with server.peer('/api') as peer:
        joined = subscribe(peer, topic, before)
        assert (joined['recovered'], offsets(joined)) == (True, [1])
    assert cp_wsrpc.position('plain') is cp_wsrpc.position('mouse') is None


PAGE = """
globalThis.WebSocket = require('%s').WebSocket;
const rpc = require('%s')(process.argv[1], { reconnectDelayMs: 50 });
rpc.subscribe(process.argv[2], (data, { offset }) => console.log(data, offset),
  { onjoin: ({ recovered }) => console.log(recovered) });
rpc.connect();
"""


def test_a_page_comes_back_and_misses_nothing(server, topic, need, tmp_path):
    page = tmp_path / 'page.cjs'
    page.write_text('process.argv.splice(1, 1);' + PAGE % (
        need('npm:ws'), ROOT / 'static' / 'wsrpc.js'))
    with spawn(need('node'), str(page), server.ws_url('/api'), topic,
               ready='null') as process:
        cp_wsrpc.publish(topic, 'a')
        process.wait_for('a 1')
        connection, = cp_wsrpc.connections()
        server.engine.wsrpc.manager.post(connection.abort, 1006, 'a test')
        wait_until(lambda: connection.is_closed)
        for letter in 'bcd':
            cp_wsrpc.publish(topic, letter)
        process.wait_for('d 4')
        cp_wsrpc.publish(topic, 'e')
        process.wait_for('e 5')
        assert process.output.split('\n')[:-1] == [
            'null', 'a 1', 'true', 'b 2', 'c 3', 'd 4', 'e 5']


def test_wsrpc_peers_recover_too(server, topic):
    start = cp_wsrpc.publish(topic, 1)
    cp_wsrpc.publish(topic, 2)
    with server.peer('/api') as peer:
        peer.send_json({'serial': 3, 'call': 'rpc.subscribe', 'arguments': {
            'topic': topic, 'since': start._asdict()}})
        reply = peer.recv_json()
        assert reply['serial'] == 3
        assert offsets(reply['data']) == [2]
        cp_wsrpc.publish(topic, 3)
        event = peer.recv_json()
        assert event['call'] == 'rpc.subscription'
        assert event['arguments']['offset'] == 3


# -- one process -------------------------------------------------------------

class Full:
    """A feed whose loop has no time."""

    def __init__(self):
        self.events = []
        self.is_full = False

    def deliver(self, event):
        if self.is_full:
            raise Overloaded('no')
        self.events.append((event.topic, event.offset))


def test_what_the_loop_does_not_take_has_no_offset():
    backend, feed = MemoryBackend(read_rules(TOPICS)), Full()
    backend.start(feed)
    start = backend.publish('news', b'1')
    feed.is_full = True
    for name in ('news', 'plain'):
        with pytest.raises(Overloaded):
            backend.publish(name, b'2')
    assert backend.publish('mouse', b'2') is None
    assert backend.dropped == 1
    feed.is_full = False
    assert backend.publish('news', b'3').offset == 2
    assert feed.events == [('news', 1), ('news', 2)]
    assert backend.recover('news', start).events == [(2, b'3')]


def test_volatile_events_are_not_kept_for_who_takes_no_bytes():
    given = []
    broker = Broker(MemoryBackend(read_rules(TOPICS)),
                    lambda targets, size: given.extend(
                        members for members, _ in targets()))
    broker.start()
    slow, quick = Member(), Member()
    slow.refusing = True
    for member in (slow, quick):
        for name in ('mouse', 'plain'):
            broker.subscribe(member, name, 9)
    broker.publish('mouse', 1)
    assert given == [[quick]]
    assert broker._counters == {'pushes_skipped': 1}
    broker.publish('plain', 1)
    assert given[1:] == [[slow, quick]]


def test_what_nobody_hears_does_not_wake_the_loop():
    pushed = []
    broker = Broker(MemoryBackend(), lambda *given: pushed.append(given))
    broker.start()
    broker.publish('news', 1)
    assert pushed == []
    broker.listen(Member(), 'news', 9)
    broker.publish('news', 1)
    assert len(pushed) == 1


def test_a_flood_while_one_joins_is_held_to_a_limit():
    broker = Broker(SeveralProcesses(), lambda targets, size: list(targets()))
    broker.start()
    member = Member()
    arrival = broker.arrive(member, 'news', 9)
    found = broker.recover('news', None, 100)
    for _ in range(3):
        for number in range(topics.MAX_HELD_EVENTS + 1):
            broker.deliver(Event('news', b'1', number + 1, 'e'))
            broker._topics['news'].delivered = None
        assert len(arrival.held) == topics.MAX_HELD_EVENTS
        if arrival._tries < topics.MAX_TRIES:
            assert broker.enter(arrival, found) is None
    with pytest.raises(Busy):
        broker.enter(arrival, found)


def test_rules_that_cannot_be_are_told_when_they_are_set():
    for name, value in (('topics', {'news': {'size': 5}}), ('topics', 5)):
        with pytest.raises(ConfigError):
            setattr(cp_wsrpc.cherrypy.engine.wsrpc, name, value)


@pytest.mark.parametrize('broker', ['rabbit://localhost', 'Memory', 5, None])
def test_a_broker_that_is_not_known_does_not_start(broker):
    plugin = WsrpcPlugin(cp_wsrpc.cherrypy.engine)
    plugin.broker = broker
    with pytest.raises(ConfigError, match='redis://'):
        plugin._make_backend()


def test_topics_are_set_from_an_ini_file(tmp_path):
    path = tmp_path / 'app.conf'
    path.write_text("""
[global]
engine.wsrpc.topics = {'news': {'history_size': 2}, 'chat.*': {}}
""")
    plugin = cp_wsrpc.cherrypy.engine.wsrpc
    try:
        cp_wsrpc.cherrypy.config.update(str(path))
        backend = plugin._make_backend()
        assert backend.mode('chat.7') == 'stream'
        assert backend.mode('chat') is None
    finally:
        plugin.topics = {}
        del cp_wsrpc.cherrypy.config['engine.wsrpc.topics']
