"""Several processes through a real Redis, and what may happen to it (D9)."""
from __future__ import annotations

import json
import os
import pickle
import signal
import threading
import time

import cherrypy
import pytest

import cp_wsrpc
from cp_wsrpc.__main__ import main
from cp_wsrpc.client import Client
from cp_wsrpc.errors import BrokerUnavailable, Overloaded
from cp_wsrpc.history import Position, read_rules

from .attack import in_time
from .need import need
from .rawpeer import CallFailed
from .serving import free_port, serving, spawn, wait_until

need('python:redis')

import cp_wsrpc.redis_feed as redis_feed  # noqa: E402
import cp_wsrpc.redis_store as redis_store  # noqa: E402
from cp_wsrpc.redis_broker import RedisBackend  # noqa: E402
from cp_wsrpc.redis_publisher import Publisher  # noqa: E402
from cp_wsrpc.redis_store import RedisStore, connect, read_entry  # noqa: E402

from .redis_server import redis_server  # noqa: E402

PROGRAM = '''
import sys
import cherrypy, cp_wsrpc

class Api:
    @cp_wsrpc.expose
    def publish(self, topic, data):
        return cp_wsrpc.publish(topic, data)

class Root:
    api = Api()

cherrypy.config.update({
    'server.socket_host': '127.0.0.1', 'checker.on': False,
    'server.socket_port': int(sys.argv[1]), 'engine.autoreload.on': False,
    'engine.wsrpc.broker': sys.argv[2],
    'engine.wsrpc.topics': {'n*': {}, 'mouse': {'mode': 'volatile'}}})
cherrypy.quickstart(Root(), '/', {'/api': {
    'tools.wsrpc.on': True, 'tools.wsrpc.subscribe': ['*']}})
'''


class Root:
    class Api:
        @cp_wsrpc.expose
        def add(self, a, b):
            return a + b

        @cp_wsrpc.expose
        def publish(self, topic, data):
            return cp_wsrpc.publish(topic, data)

        @cp_wsrpc.expose
        async def publish_all(self, topic, count):
            return [cp_wsrpc.publish(topic, number)
                    for number in range(count)]

        @cp_wsrpc.expose
        async def publish_nonsense(self):
            cp_wsrpc.publish('news', object())

        @cp_wsrpc.expose
        async def ask_in_vain(self):
            return cp_wsrpc.position('news')

        @cp_wsrpc.expose
        async def tell(self, text):
            cp_wsrpc.broadcast('told', text)

    api = Api()


TOPICS = {'n*': {}, 'mouse': {'mode': 'volatile'}}


def serve(redis):
    return serving(
        Root(), {'/api': {'tools.wsrpc.on': True,
                          'tools.wsrpc.subscribe': ['*'],
                          'tools.wsrpc.publish': ['news']}},
        engine={'wsrpc.broker': redis.url, 'wsrpc.topics': TOPICS,
                'wsrpc.thread_pool': 4})


@pytest.fixture(autouse=True)
def look_often(monkeypatch):
    """Whether an empty feed is still the same."""
    monkeypatch.setattr(redis_feed, 'BLOCK_S', 0.1)


@pytest.fixture
def server(redis):
    with serve(redis) as server:
        yield server


def subscribe(peer, topic, since=None, timeout_s=None):
    return peer.call('rpc.subscribe', {
        'topic': topic, 'since': since and Position(*since)._asdict()},
        timeout_s)


def offsets(reply):
    return [event['offset'] for event in reply['publications']]


def event_of(peer):
    """The next event, as (offset, data), or ('lost', offset)."""
    params = peer.recv_json()['params']
    if 'recovered' in params:
        assert params['recovered'] is False
        return 'lost', params['offset']
    return params['offset'], params['result']


def refusal_of_publish(peer):
    with pytest.raises(CallFailed) as caught:
        peer.call('rpc.publish', {'topic': 'news', 'data': 1})
    return caught.value.code, caught.value.data


def publish_when_it_is_back(topic, data):
    def tried():
        try:
            return cp_wsrpc.publish(topic, data)
        except BrokerUnavailable:
            return None
    return wait_until(tried, 10, 'Redis to be back')


# -- as one process ----------------------------------------------------------

def test_two_processes_push_as_one_in_one_order(redis, server, tmp_path):
    path = tmp_path / 'other.py'
    path.write_text(PROGRAM)
    port = free_port()
    with spawn(str(path), str(port), redis.url, ready='Bus STARTED'), \
            server.peer('/api') as here, \
            type(here)(port, '/api') as there:
        for peer in (here, there):
            assert subscribe(peer, 'news')['offset'] == 0
        asked = [threading.Thread(target=lambda peer=peer: [
            peer.notify('publish', ['news', n]) for n in range(50)])
            for peer in (here, there)]
        for thread in asked:
            thread.start()
        for thread in asked:
            thread.join()
        seen = [[event_of(peer) for _ in range(100)]
                for peer in (here, there)]
        assert seen[0] == seen[1]
        assert [offset for offset, _ in seen[0]] == list(range(1, 101))
        cp_wsrpc.broadcast('hello', {'n': 2 ** 60})
        for peer in (here, there):
            assert peer.recv_json() == {
                'jsonrpc': '2.0', 'method': 'hello',
                'params': [{'n': 2 ** 60}]}
        # A position of one process is a position of the other.
        position = there.call('publish', ['news', 'x'])
        there.call('publish', ['news', 'y'])
        with server.peer('/api') as third:
            assert offsets(subscribe(third, 'news', position)) == [102]


def test_topics_without_history_come_through_the_feed_too(server):
    with server.peer('/api') as peer:
        for name in ('plain', 'mouse'):
            id = peer.call('rpc.subscribe', [name])
            assert cp_wsrpc.publish(name, 5) is None
            assert peer.recv_json()['params'] == {
                'subscription': id, 'topic': name, 'result': 5}


def test_async_methods_publish_in_order_without_waiting(server):
    with server.peer('/api') as peer:
        subscribe(peer, 'nasync')
        assert peer.call('publish_all', ['nasync', 20]) == [None] * 20
        events = [message['params']['result'] for message in peer.events]
        while len(events) < 20:
            events.append(event_of(peer)[1])
        assert events == list(range(20))
        with pytest.raises(CallFailed):
            peer.call('publish_nonsense')
        peer.call('tell', ['hi'])
        told = peer.events[-1] if peer.events and peer.events[-1].get(
            'method') == 'told' else peer.recv_json()
        assert told['params'] == ['hi']


def test_a_position_is_redis_to_tell(fragile):
    with serve(fragile) as server:
        before = cp_wsrpc.position('nplace')
        with Publisher(fragile.url) as publisher, server.peer('/api') as peer:
            publisher.publish('nplace', 1)
            assert cp_wsrpc.position('nplace') == (before.epoch, 1)
            assert offsets(subscribe(peer, 'nplace', before)) == [1]
            with pytest.raises(CallFailed) as caught:
                peer.call('ask_in_vain')
            assert caught.value.code == -32000
        assert cp_wsrpc.position('plain') is None
        fragile.kill()
        with pytest.raises(BrokerUnavailable):
            cp_wsrpc.position('nplace')


def test_a_broadcast_reaches_one_user_alone(server):
    with server.peer('/api') as peer:
        peer.call('rpc.ping')       # the loop has it
        cp_wsrpc.broadcast('for', 1, user='ada')
        cp_wsrpc.broadcast('for', 2, endpoint='/other')
        cp_wsrpc.broadcast('for', 3, endpoint='/api')
        assert peer.recv_json()['params'] == [3]
        with pytest.raises(TypeError):
            cp_wsrpc.broadcast('for', object())


def test_what_the_publisher_may_broadcast_no_reader_skips(server):
    with server.peer('/api') as peer:
        peer.call('rpc.ping')
        around = len(b'{"name":"n","args":[""],"endpoint":null,"user":null}')
        largest = 'x' * ((4 << 20) - around)
        with pytest.raises(cp_wsrpc.MessageTooBig):
            cp_wsrpc.broadcast('n', largest + 'x')
        cp_wsrpc.broadcast('n', largest)
        assert peer.recv_json()['params'] == [largest]


def test_who_joins_amid_a_storm_has_every_event_once(server):
    go_on = threading.Event()
    start = cp_wsrpc.publish('nstorm', None)

    def publish():
        while not go_on.is_set():
            cp_wsrpc.publish('nstorm', None)
            go_on.wait(0.001)

    threads = [threading.Thread(target=publish) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        seen = start.offset
        for _ in range(30):
            with server.peer('/api') as peer:
                joined = subscribe(peer, 'nstorm', (start.epoch, seen))
                assert joined['recovered'] is True
                live = [event_of(peer)[0] for _ in range(3)]
            assert offsets(joined) + live == list(range(
                seen + 1, live[-1] + 1))
            seen = live[-1]
    finally:
        go_on.set()
        for thread in threads:
            thread.join()


# -- from outside ------------------------------------------------------------

def test_a_publisher_keeps_to_the_rules_of_the_servers(redis, server):
    with server.peer('/api') as peer, Publisher(redis.url) as publisher:
        joined = subscribe(peer, 'nout')
        assert peer.call('rpc.subscribe', ['plain'])
        assert publisher.publish('nout', {'a': 1}) == (joined['epoch'], 1)
        assert event_of(peer) == (1, {'a': 1})
        assert publisher.publish('plain', 1) is None
        assert peer.recv_json()['params']['topic'] == 'plain'
        publisher.broadcast('hello', 1)
        assert peer.recv_json()['method'] == 'hello'
        with pytest.raises(cp_wsrpc.MessageTooBig):
            publisher.publish('plain', 'x' * (4 << 20))
        with pytest.raises(TypeError):
            publisher.publish('nout', 1, key=5)


def test_a_publisher_may_be_there_first_and_bring_its_rules(fragile):
    with Publisher(fragile.url, {'news': {}}) as publisher:
        position = publisher.publish('news', 1)
        with serve(fragile) as server, server.peer('/api') as peer:
            publisher.publish('news', 2)
            assert offsets(subscribe(peer, 'news', position)) == [2]


def test_the_shell_publishes_through_redis(capsys, redis, server):
    with server.peer('/api') as peer:
        joined = subscribe(peer, 'nshell')
        assert main(['publish', redis.url, 'nshell', '{"a": 1}',
                     '--key', 'x']) == 0
        assert json.loads(capsys.readouterr().out) == {
            'epoch': joined['epoch'], 'offset': 1}
        assert event_of(peer) == (1, {'a': 1})
    assert main(['publish', redis.url, 'plain', '5']) == 0
    assert capsys.readouterr().out == 'null\n'


@pytest.mark.parametrize('url, code', [
    ('redis://127.0.0.1:{}/0', 3), ('redis://localhost:x', 2)])
def test_the_shell_is_told_what_is_wrong(capsys, url, code):
    assert main(['publish', url.format(free_port()), 'news', '5']) == code
    said = capsys.readouterr()
    assert said.out == ''
    assert said.err.startswith('cp_wsrpc: ')
    assert said.err.count('\n') == 1


def test_several_applications_share_a_redis_by_prefix(redis):
    one = RedisStore(redis.url)
    other = RedisStore(f'{redis.url}?prefix=other:')
    try:
        keep = read_rules({'news': {}}).find('news')
        start = one.publish('nprefix', b'1', None, keep)
        assert other.publish('nprefix', b'1', None, keep).offset == 1
        assert one.recover('nprefix', start, keep, 9, 99).events == []
    finally:
        one.close()
        other.close()


# -- Redis is away -----------------------------------------------------------

def test_a_stopped_redis_holds_up_nobody_who_does_not_need_it(fragile):
    with serve(fragile) as server, server.peer('/api') as peer, \
            server.peer('/api') as victim:
        subscribe(peer, 'news')
        assert cp_wsrpc.publish('news', 1).offset == 1
        assert event_of(peer) == (1, 1)
        fragile.pause()
        try:
            begun = time.monotonic()
            with pytest.raises(BrokerUnavailable):
                cp_wsrpc.publish('news', 'perhaps')
            assert time.monotonic() - begun < in_time(2)     # 1.5
            for _ in range(20):         # more than there are threads
                begun = time.monotonic()
                for what in (lambda: cp_wsrpc.publish('news', 'no'),
                             lambda: cp_wsrpc.broadcast('f')):
                    with pytest.raises(BrokerUnavailable):
                        what()
                assert time.monotonic() - begun < in_time(1)
            for _ in range(20):
                peer.notify('publish', ['news', 'no'])
                begun = time.monotonic()
                assert victim.call('add', [1, 2]) == 3
                assert time.monotonic() - begun < in_time(1)
            with pytest.raises(CallFailed) as caught:
                subscribe(victim, 'nother')
            assert caught.value.code == -32009
            assert caught.value.data['retryable'] is True
            assert isinstance(victim.call('rpc.subscribe', ['x']), str)
        finally:
            fragile.go_on()
        last = publish_when_it_is_back('news', 'last')
        # What was told to have failed may have come through; no hole.
        seen = []
        while not seen or seen[-1] != (last.offset, 'last'):
            seen.append(event_of(peer))
        assert [offset for offset, _ in seen] == list(range(
            2, last.offset + 1))


@pytest.mark.full       # stands still for 10 s
@pytest.mark.timeout(60)
def test_d9_a_redis_that_stands_still_for_10_s(fragile):
    with serve(fragile) as server, server.peer('/api') as peer, \
            server.peer('/api') as victim:
        joined = subscribe(peer, 'news')
        first = cp_wsrpc.publish('news', 'first')
        assert event_of(peer) == (1, 'first')
        pause, took, refused = threading.Event(), [], []
        fragile.pause()
        until = time.monotonic() + 10
        while (begun := time.monotonic()) < until:
            assert victim.call('add', [1, 2]) == 3
            took.append(time.monotonic() - begun)
            begun = time.monotonic()
            with pytest.raises(BrokerUnavailable):
                cp_wsrpc.publish('news', 'no')
            refused.append(time.monotonic() - begun)
            pause.wait(0.05)
        fragile.go_on()
        begun = time.monotonic()
        last = publish_when_it_is_back('news', 'last')
        seen = []
        while not seen or seen[-1] != (last.offset, 'last'):
            seen.append(event_of(peer))
        back_s = time.monotonic() - begun
        print(f'calls {max(took) * 1000:.1f} ms at most, publish refused '
              f'after {max(refused):.2f} s at most, back after {back_s:.2f} s')
        assert max(took) < 0.1 and max(refused) < 2 and back_s < 3
        assert [offset for offset, _ in seen] == list(range(
            2, last.offset + 1))
        with server.peer('/api') as other:
            found = subscribe(other, 'news', first)
            assert found['recovered'] and found['epoch'] == joined['epoch']


def test_a_killed_redis_that_kept_its_data_leaves_no_hole(need):
    with redis_server(need('redis-server'), '--appendonly', 'yes',
                      '--appendfsync', 'always') as redis, \
            serve(redis) as server, server.peer('/api') as peer:
        joined = subscribe(peer, 'news')
        first = cp_wsrpc.publish('news', 1)
        assert event_of(peer) == (1, 1)
        redis.kill()
        with pytest.raises(BrokerUnavailable):
            cp_wsrpc.publish('news', 'no')
        redis.start()
        assert publish_when_it_is_back('news', 2) == (joined['epoch'], 2)
        assert event_of(peer) == (2, 2)
        with server.peer('/api') as other:
            assert offsets(subscribe(other, 'news', first)) == [2]


@pytest.mark.parametrize('how', ['kill', 'flush'])
def test_a_redis_that_lost_its_data_begins_anew_and_says_so(fragile, how):
    with serve(fragile) as server, server.peer('/api') as peer, \
            server.peer('/api') as short:
        joined = subscribe(peer, 'news')
        short.call('rpc.subscribe', ['news'])
        start = cp_wsrpc.publish('news', 1)
        assert event_of(peer) == event_of(short) == (1, 1)
        if how == 'kill':
            fragile.kill()
            fragile.start()
        else:
            fragile.do('FLUSHALL')
        # Before anything is published again.
        assert event_of(peer) == ('lost', 0)
        position = publish_when_it_is_back('news', 2)
        assert position.offset == 1
        assert position.epoch != joined['epoch']
        assert event_of(peer) == event_of(short) == (1, 2)
        with server.peer('/api') as other:
            assert subscribe(other, 'news', start)['recovered'] is False


def test_a_client_is_told_so_and_stays_connected(fragile):
    heard = []
    with serve(fragile) as server, Client(server.ws_url('/api')) as client:
        client.subscribe('news', heard.append, onjoin=heard.append)
        wait_until(lambda: heard == [None])
        cp_wsrpc.publish('news', 'a')
        wait_until(lambda: heard == [None, 'a'])
        connection, = cp_wsrpc.connections()
        fragile.do('FLUSHALL')
        wait_until(lambda: heard == [None, 'a', False])
        cp_wsrpc.publish('news', 'b')
        wait_until(lambda: heard == [None, 'a', False, 'b'])
        assert cp_wsrpc.connections() == [connection]


def test_events_right_after_a_flush_are_told_as_lost_or_come(fragile):
    """Published before the reader had a look: the feed itself says it."""
    with serve(fragile) as server, server.peer('/api') as peer:
        subscribe(peer, 'news')
        cp_wsrpc.publish('news', 1)
        assert event_of(peer) == (1, 1)
        fragile.do('FLUSHALL')
        position = cp_wsrpc.publish('news', 2)
        assert position.offset == 1
        cp_wsrpc.publish('news', 3)
        events = [event_of(peer)]
        while events[-1] not in ((2, 3), ('lost', 2)):
            events.append(event_of(peer))
        assert events[0][0] == 'lost'


@pytest.mark.parametrize('more', [0, 3, 8])
def test_a_redis_that_came_back_with_older_data_begins_anew(fragile, more):
    """Else new events would bear offsets that clients have seen."""
    with serve(fragile) as server, server.peer('/api') as peer:
        joined = subscribe(peer, 'news')
        for number in range(3):
            cp_wsrpc.publish('news', number)
        fragile.do('SAVE')
        for number in range(3, 8):
            cp_wsrpc.publish('news', number)
        for offset in range(1, 9):
            assert event_of(peer) == (offset, offset - 1)
        fragile.kill()
        fragile.start()
        with Publisher(fragile.url, TOPICS) as publisher:
            for number in range(more):      # perhaps before the reader
                publisher.publish('news', f'new {number}')
        assert event_of(peer)[0] == 'lost'
        position = publish_when_it_is_back('news', 'x')
        assert position.epoch != joined['epoch']
        event = event_of(peer)
        while event[1] != 'x':
            assert event[0] == 'lost' or str(event[1]).startswith('new')
            event = event_of(peer)
        with server.peer('/api') as other:
            assert subscribe(other, 'news', (joined['epoch'], 8))[
                'recovered'] is False


def test_who_starts_with_a_restarted_redis_trusts_nobodys_positions(need):
    with redis_server(need('redis-server')) as redis:
        with serve(redis):
            position = cp_wsrpc.publish('news', 1)
            redis.do('SAVE')
            cp_wsrpc.publish('news', 2)
        redis.kill()
        redis.start()
        with serve(redis) as server, server.peer('/api') as peer:
            wait_until(lambda: subscribe(peer, 'news')['epoch']
                       != position.epoch)
            assert subscribe(peer, 'news', position)['recovered'] is False


def test_a_redis_that_takes_no_writes(fragile):
    with serve(fragile) as server, server.peer('/api') as peer:
        joined = subscribe(peer, 'news')
        position = cp_wsrpc.publish('news', 1)
        assert event_of(peer) == (1, 1)
        fragile.do('REPLICAOF', '127.0.0.1', free_port())
        with pytest.raises(BrokerUnavailable, match='ReadOnly'):
            cp_wsrpc.publish('news', 2)
        with server.peer('/api') as other:      # what is only read goes on
            joined = subscribe(other, 'news', position._replace(offset=0))
            assert offsets(joined) == [1]
        fragile.do('REPLICAOF', 'NO', 'ONE')
        assert publish_when_it_is_back('news', 2) == (joined['epoch'], 2)
        assert event_of(peer) == (2, 2)


def test_what_async_methods_push_without_redis_is_lost_with_a_line(fragile):
    with serve(fragile) as server, server.peer('/api') as peer:
        fragile.kill()
        assert peer.call('publish_all', ['nasync', 3]) == [None] * 3
        wait_until(lambda: server.logged('published on nasync is lost'))
        assert peer.call('tell', ['hi']) is None
        assert peer.call('rpc.ping', [1]) == [1]
        assert not server.logged('a hook failed')


def test_a_join_that_fails_after_its_reading_is_answered(
        server, monkeypatch):
    def fail(*args):
        raise SystemExit('a fault of ours')

    with server.peer('/api') as peer:
        with monkeypatch.context() as patched:
            patched.setattr(cherrypy.engine.wsrpc.hub.broker, 'enter', fail)
            with pytest.raises(CallFailed) as caught:
                subscribe(peer, 'news')
        assert caught.value.code == -32000
        assert subscribe(peer, 'news')['recovered'] is None


def test_a_redis_without_memory(fragile):
    with serve(fragile) as server, server.peer('/api') as peer:
        subscribe(peer, 'news')
        fragile.do('CONFIG', 'SET', 'maxmemory', '1')
        with pytest.raises(BrokerUnavailable, match='OutOfMemory'):
            cp_wsrpc.publish('news', 'no')
        with pytest.raises(BrokerUnavailable, match='OutOfMemory'):
            cp_wsrpc.broadcast('no')
        assert refusal_of_publish(peer) == (
            -32009, {'maybeExecuted': True})    # so it is not tried again
        assert peer.call('add', [1, 2]) == 3
        with server.peer('/api') as other:
            assert subscribe(other, 'news')['offset'] == 0
        fragile.do('CONFIG', 'SET', 'maxmemory', '0')
        # Nothing was done in part: no number, and no hole in the feed.
        assert publish_when_it_is_back('news', 1).offset == 1
        assert event_of(peer) == (1, 1)


# -- garbage -----------------------------------------------------------------

class Bomb:
    def __reduce__(self):
        return os.kill, (os.getpid(), signal.SIGKILL)


GARBAGE = [b'', b'{', b'5', b'null', b'[]', b'{"f":5}', b'\xff\xfe',
           b'{"f":"x","n":1,"d":"\xff","t":"news"}', b'[' * 100_000,
           b'{"f":"x","n":1,"d":5}', b'{"f":"x","n":"1","d":5,"t":"a"}',
           b'{"f":"x","n":1,"d":5,"t":"a","e":"e"}',
           b'{"f":"x","n":1,"t":"a"}', pickle.dumps(Bomb()),
           pickle.dumps({'msg': 1})]


@pytest.mark.parametrize('text', GARBAGE)
def test_what_is_no_entry_is_refused(text):
    with pytest.raises(ValueError):
        read_entry({b'data': text})
    with pytest.raises(ValueError):
        read_entry({b'other': text})


def test_garbage_in_the_feed_is_counted_and_skipped(fragile):
    with serve(fragile) as server, server.peer('/api') as peer:
        backend = server.engine.wsrpc.hub.broker._backend
        subscribe(peer, 'news')
        for text in GARBAGE:
            fragile.do('XADD', 'wsrpc:feed', '*', 'data', text)
            fragile.do('XADD', 'wsrpc:feed', '*', text, text)
        wait_until(lambda: backend.skipped == 2 * len(GARBAGE))
        cp_wsrpc.publish('news', 1)
        assert event_of(peer) == (1, 1)
        assert backend.skipped == 2 * len(GARBAGE)
        assert server.logged('not ours')


def test_a_broadcast_that_nobody_of_us_wrote_is_skipped(fragile):
    with serve(fragile) as server, server.peer('/api') as peer:
        backend = server.engine.wsrpc.hub.broker._backend
        wait_until(lambda: fragile.do('HGET', 'wsrpc:state', 'topics'))
        store = RedisStore(fragile.url)
        for what, text in (('broadcast', b'5'), ('broadcast', b'{"name":5}'),
                           ('other', b'{}')):
            store.tell(what, text)
        store.close()
        cp_wsrpc.broadcast('hello')
        assert peer.recv_json()['method'] == 'hello'
        assert backend.skipped == 2


def test_a_forged_number_stops_nothing(fragile):
    with serve(fragile) as server, server.peer('/api') as peer:
        subscribe(peer, 'news')
        cp_wsrpc.publish('news', 1)
        assert event_of(peer) == (1, 1)
        feed = fragile.do('HGET', 'wsrpc:state', 'feed').decode()
        fragile.do('XADD', 'wsrpc:feed', '*', 'data',
                   f'{{"f":"{feed}","n":1000000,"d":0,"t":"other"}}')
        # The next true number is lower: as after a loss.
        cp_wsrpc.publish('news', 2)
        while (event := event_of(peer))[0] != 'lost':
            assert event == (2, 2)
        position = cp_wsrpc.publish('news', 3)
        assert event_of(peer) == (position.offset, 3)


@pytest.mark.parametrize('spoil', [
    ('SET', 'wsrpc:t:news', pickle.dumps(Bomb())),
    ('HSET', 'wsrpc:t:news', 'offset', 'many'),
    ('HSET', 'wsrpc:t:news', 'held', b'\xff'),
    ('HDEL', 'wsrpc:t:news', 'held'),
    ('HSET', 'wsrpc:t:news', 'epoch', b'\xff\xfe'),
    ('SET', 'wsrpc:h:news', 'x'), ('SET', 'wsrpc:feed', 'x'),
    ('SET', 'wsrpc:state', 'x'), ('HSET', 'wsrpc:state', 'n', 'x'),
    ('HSET', 'wsrpc:state', 'held', 'x'), ('DEL', 'wsrpc:h:news'),
    ('XADD', 'wsrpc:h:news', '1000-0', 'some', 'thing'),
    ('XTRIM', 'wsrpc:h:news', 'MAXLEN', '0'),
    ('HSET', 'wsrpc:state', 'topics', pickle.dumps(Bomb()))],
    ids=lambda command: ' '.join(command[:2]))
def test_keys_with_something_else_are_put_right(fragile, spoil):
    with serve(fragile) as server, server.peer('/api') as peer:
        subscribe(peer, 'news')
        start = cp_wsrpc.publish('news', 1)
        cp_wsrpc.publish('news', 2)
        assert [event_of(peer), event_of(peer)] == [(1, 1), (2, 2)]
        if spoil[0] == 'SET':
            fragile.do('DEL', spoil[1])
        fragile.do(*spoil)
        with server.peer('/api') as other, Publisher(fragile.url) as outside:
            joined = subscribe(other, 'news', start)
            # All of it, or nothing.
            assert offsets(joined) == ([2] if joined['recovered'] else [])
            outside.publish('plain', 1)
        positions = [cp_wsrpc.publish('news', n) for n in range(5)]
        assert positions[-1].offset == positions[-3].offset + 2
        # They come, or are said to be lost, up to the last of them.
        last = positions[-1].offset
        while (event := event_of(peer)) not in ((last, 4), ('lost', last)):
            assert event[0] == 'lost' or event[1] in range(5)


def test_a_history_that_holds_no_json_is_not_recovered(fragile):
    store = RedisStore(fragile.url)
    keep = read_rules({'news': {}}).find('news')
    start = store.publish('news', b'0', None, keep)
    for text in (b'1', b'\xff', b'{'):
        store.publish('news', text, None, keep)
        found = store.recover('news', start, keep, 9, 99)
        assert found.recovered is (text == b'1')
    assert store.skipped == 2
    store.close()


# -- the reader --------------------------------------------------------------

class Feed:
    """What a reader feeds, with a loop that may have no time."""

    def __init__(self):
        self.events = []
        self.busy = threading.Event()
        self.refused = threading.Event()

    def deliver(self, event):
        if self.busy.is_set():
            self.refused.set()
            raise Overloaded('no')
        self.events.append(event.offset)

    def reset(self, topic, position):
        self.events.append(('lost', position.offset))

    def known_positions(self):
        known = [offset for offset in self.events if type(offset) is int]
        return [('news', Position(self.epoch, known[-1] if known else 0))]

    def hear(self, what, text):
        self.events.append(what)


@pytest.fixture
def feeding(fragile):
    feed = Feed()
    rules = read_rules({'news': {'history_size': 20},
                        'mouse': {'mode': 'volatile'}})
    backend = RedisBackend(fragile.url, rules)
    feed.epoch = backend.recover_now('news', None, 9, 99).position.epoch
    backend.start(feed)
    wait_until(lambda: backend._reader._place)
    yield backend, feed
    backend.stop(3.0)


def test_a_loop_without_time_holds_the_feed_up_and_loses_nothing(feeding):
    backend, feed = feeding
    feed.busy.set()
    for _ in range(5):
        backend.publish('news', b'1')
    assert feed.refused.wait(5)
    assert feed.events == []
    feed.busy.clear()
    wait_until(lambda: feed.events == [1, 2, 3, 4, 5])


def test_the_key_of_an_event_comes_through_the_feed(feeding):
    backend, feed = feeding
    events = []
    feed.deliver = events.append
    for key in ('car-7', None, '"'):
        backend.publish('news', b'1', key)
    wait_until(lambda: [event.key for event in events] == [
        'car-7', None, '"'])


def test_an_entry_over_which_we_stumble_holds_up_no_other(feeding, caplog):
    backend, feed = feeding
    heard = feed.hear

    def stumble(what, text):
        heard(what, text)
        raise LookupError('of ours')

    feed.hear = stumble
    backend.tell('done', b'1')
    backend.publish('news', b'1')
    wait_until(lambda: feed.events[1:])
    assert feed.events == ['done', 1]
    assert 'is skipped' in caplog.text and 'of ours' in caplog.text


def test_volatile_events_are_dropped_there(feeding):
    backend, feed = feeding
    feed.busy.set()
    backend.publish('mouse', b'1')
    assert feed.refused.wait(5)
    backend.tell('done', b'1')
    wait_until(lambda: feed.events == ['done'])


@pytest.mark.parametrize('count, first', [(15, 2), (40, ('lost', 41))])
def test_what_the_feed_has_let_go_comes_from_the_history(
        feeding, monkeypatch, count, first):
    monkeypatch.setattr(redis_store, 'FEED_SIZE', 3)
    backend, feed = feeding
    feed.busy.set()
    backend.publish('news', b'1')
    assert feed.refused.wait(5)
    for _ in range(count):
        backend.publish('news', b'1')
    feed.busy.clear()
    wait_until(lambda: feed.events[-1:] in ([count + 1],
                                            [('lost', count + 1)]))
    seen = [offset for offset in feed.events if type(offset) is int]
    assert feed.events[1] == first
    if count == 15:
        # Again what the feed still had; the broker drops it as seen.
        assert sorted(set(seen)) == list(range(1, 17))


def test_a_feed_of_which_nothing_is_left_is_seen_too(fragile, feeding):
    backend, feed = feeding
    feed.busy.set()
    backend.publish('news', b'1')
    assert feed.refused.wait(5)
    backend.publish('news', b'2')
    fragile.do('XTRIM', 'wsrpc:feed', 'MAXLEN', '0')
    feed.busy.clear()
    wait_until(lambda: 2 in feed.events)


def test_it_stops_at_once_whatever_redis_does(fragile):
    def start():
        backend = RedisBackend(fragile.url, read_rules({}))
        backend.start(Feed())
        wait_until(lambda: backend._reader._place)
        return backend

    for hurt in (lambda: None, fragile.pause, fragile.kill):
        backend = start()
        hurt()
        begun = time.monotonic()
        backend.stop(3.0)
        assert time.monotonic() - begun < 2
        with pytest.raises(BrokerUnavailable):
            backend.publish('news', b'1')
        if hurt == fragile.pause:
            fragile.go_on()


def test_a_server_starts_without_its_redis_and_finds_it_later(need):
    with redis_server(need('redis-server')) as redis:
        redis.kill()
        with serve(redis) as server, server.peer('/api') as peer:
            assert peer.call('add', [1, 2]) == 3
            with pytest.raises(BrokerUnavailable):
                cp_wsrpc.publish('news', 1)
            assert refusal_of_publish(peer) == (
                -32009, {'retryable': True, 'executed': False})
            redis.start()
            assert publish_when_it_is_back('news', 1).offset == 1


@pytest.mark.parametrize('url', ['redis://localhost:x/0', 'redis://h/0?n=5',
                                 'redis://h?socket_timeout=x'])
def test_a_url_that_cannot_be_is_told_at_the_start(url):
    with pytest.raises(cp_wsrpc.ConfigError, match='broker'):
        connect(url)


def test_the_reader_is_the_only_thread(server):
    names = [thread.name for thread in threading.enumerate()]
    assert names.count('wsrpc-redis') == 1
    assert redis_feed.BLOCK_S < redis_feed.READ_TIMEOUT_S
