"""The engine plugin: its options, its life, several applications in it."""
from __future__ import annotations

import threading
import time

import cherrypy
import pytest

import cp_wsrpc
from cp_wsrpc import ConfigError, expose

from .rawpeer import CallFailed, RawPeer
from .serving import serving, wait_until


class Api:
    @expose
    def ping(self):
        return 'pong'

    @expose
    def thread(self):
        return threading.current_thread().name

    @expose
    def publish(self):
        cp_wsrpc.publish('t', 1)


class Root:
    api = Api()


ON = {'/api': {'tools.wsrpc.on': True, 'tools.wsrpc.subscribe': ['t']}}


def plugin():
    return cherrypy.engine.wsrpc


def wsrpc_threads():
    return {thread.name for thread in threading.enumerate()
            if thread.name.startswith('wsrpc-')}


# -- options ---------------------------------------------------------------


@pytest.mark.parametrize('option, advice', [
    ('thread_pol', 'did you mean engine.wsrpc.thread_pool?'),
    ('drain_timeout', 'did you mean engine.wsrpc.drain_timeout_s?'),
    ('ping_interval', 'did you mean engine.wsrpc.ping_interval_s?'),
    ('zzz', 'known are: thread_pool, max_connections'),
    ('publish', 'no such option'),
    ('on_progress', 'no such option'),
])
def test_an_unknown_option_of_the_engine_is_an_error(option, advice):
    with pytest.raises(ConfigError) as caught:
        cherrypy.config.update({f'engine.wsrpc.{option}': 5})
    assert str(caught.value).startswith(f'engine.wsrpc.{option}: ')
    assert advice in str(caught.value)


@pytest.mark.parametrize('value', [0, -1, '10', True, []])
def test_numbers_must_be_above_0(value):
    with pytest.raises(ConfigError, match='thread_pool must be a number'):
        cherrypy.config.update({'engine.wsrpc.thread_pool': value})
    assert plugin().thread_pool == 10


def test_a_misspelt_option_of_a_path_ends_the_start():
    class Bad:
        api = Api()

    with pytest.raises(cherrypy.process.wspbus.ChannelFailures) as caught:
        with serving(Bad(), {'/api': {'tools.wsrpc.on': True,
                                      'tools.wsrpc.debugg': True}}):
            pass
    assert 'did you mean tools.wsrpc.debug?' in str(caught.value)
    assert not wsrpc_threads()


def test_options_are_read_at_start():
    with serving(Root(), ON, engine={'wsrpc.thread_pool': 3}) as server:
        workers = [name for name in wsrpc_threads() if 'worker' in name]
        assert len(workers) == 3
        with server.peer('/api') as peer:
            assert peer.call('thread') in workers


def test_it_can_be_turned_off_and_on():
    cherrypy.config.update({'engine.wsrpc.on': False})
    try:
        with serving(Root(), ON) as server:
            assert not wsrpc_threads()
            with server.peer('/api') as peer:
                assert peer.status == 503
    finally:
        cherrypy.config.update({'engine.wsrpc.on': True})


def test_one_connection_past_the_limit_is_a_503():
    with serving(Root(), ON, engine={'wsrpc.max_connections': 2}) as server:
        with server.peer('/api') as one, server.peer('/api') as two:
            assert one.call('ping') == two.call('ping') == 'pong'
            with server.peer('/api') as three:
                assert three.status == 503
                assert three.headers['retry-after']
            wait_until(lambda: server.logged('engine.wsrpc.max_connections'))
            one.close()
            wait_until(lambda: len(plugin().manager) == 1)
            with server.peer('/api') as again:
                assert again.call('ping') == 'pong'


# -- life ------------------------------------------------------------------


def test_it_can_be_stopped_and_started_again():
    with serving(Root(), ON) as server:
        for _ in range(3):
            with server.peer('/api') as peer:
                assert peer.call('ping') == 'pong'
                stopping = threading.Thread(target=cherrypy.engine.stop)
                stopping.start()
                assert peer.recv_close() == (1001, 'going away')
            stopping.join(10)
            assert not wsrpc_threads()
            cherrypy.engine.start()
        with server.peer('/api') as peer:
            assert peer.call('ping') == 'pong'


def test_what_a_stopped_loop_is_told_does_not_deafen_the_next():
    with serving(Root(), ON) as server:
        cherrypy.engine.stop()
        # As a method does that outlived the stop and returns now.
        plugin().manager.post(lambda: None)
        plugin().manager.note_progress()
        cherrypy.engine.start()
        with server.peer('/api') as peer:
            assert peer.call('ping') == 'pong'


def test_stopping_twice_and_starting_late_listeners_is_harmless():
    with serving(Root(), ON) as server:
        plugin().stop()
        plugin().stop()
        with server.peer('/api') as peer:
            assert peer.status == 503
        plugin().start()
        with server.peer('/api') as peer:
            assert peer.call('ping') == 'pong'


def test_pushes_before_the_start_and_after_the_stop_are_dropped():
    assert cp_wsrpc.publish('t', 1) is None
    assert cp_wsrpc.broadcast('f') is None
    assert cp_wsrpc.connections() == []
    plugin().broadcast_raw('x')
    with serving(Root(), ON):
        pass
    assert cp_wsrpc.publish('t', 1) is None
    assert cp_wsrpc.broadcast('f', 2) is None
    assert cherrypy.engine.publish('wsrpc-publish', 't', 1) == []


def test_the_bus_channels_push_as_the_functions_do():
    with serving(Root(), ON) as server, server.peer('/api') as peer:
        peer.call('rpc.subscribe', ['t'])
        cherrypy.engine.publish('wsrpc-publish', 't', {'a': 1})
        assert peer.recv_json()['params']['result'] == {'a': 1}
        cherrypy.engine.publish('wsrpc-broadcast', 'f', 1, 2)
        assert peer.recv_json() == {'jsonrpc': '2.0', 'method': 'f',
                                    'params': [1, 2]}


def test_graceful_keeps_sockets_and_rebuilds_all_else():
    given = []

    def note(channel):
        return lambda *args: given.append(
            (channel, threading.current_thread().name))

    acquired, released = note('acquire'), note('release')
    cherrypy.engine.subscribe('acquire_thread', acquired)
    cherrypy.engine.subscribe('release_thread', released)
    with serving(Root(), ON, engine={'wsrpc.thread_pool': 2}) as server:
        with server.peer('/api') as peer:
            name = peer.call('thread')
            assert given.count(('acquire', name)) == 1
            cherrypy.tree.apps[''].merge(
                {'/api': {'tools.wsrpc.routes': {'now': time.time}}})
            cherrypy.engine.graceful()

            def refreshed():
                name = peer.call('thread')
                return (given.count(('acquire', name)) == 2
                        and given.count(('release', name)) == 1)

            wait_until(refreshed)
            with server.peer('/api') as later:
                assert later.call('now') > 0
            assert peer.call('ping') == 'pong'
    workers = [name for channel, name in given if channel == 'acquire'
               and name.startswith('wsrpc-worker')]
    assert sorted(workers) == sorted(
        name for channel, name in given if channel == 'release'
        and name.startswith('wsrpc-worker'))


def test_no_method_is_taken_for_a_listener_because_of_its_name():
    # pitfalls 27: SimplePlugin.subscribe would.
    listened = {channel for channel, listeners
                in cherrypy.engine.listeners.items()
                for listener in listeners
                if getattr(listener, '__self__', None) is plugin()}
    assert listened == {'start', 'stop', 'graceful'}


def test_sockets_hear_of_a_stop_before_the_http_server():
    priorities = cherrypy.engine._priorities
    assert priorities['stop', plugin().stop] < 25
    assert 50 < priorities['start', plugin().start] < 75


# -- several of them -------------------------------------------------------


class Named:
    def __init__(self, name):
        self.name = name

    @expose
    def name_of(self):
        return self.name

    @expose
    def fail(self):
        raise KeyError('x')


class Two:
    def __init__(self, name):
        self.open = Named(f'{name}-open')
        self.debug = Named(f'{name}-debug')


TWO = {'/open': {'tools.wsrpc.on': True},
       '/debug': {'tools.wsrpc.on': True, 'tools.wsrpc.debug': True,
                  'tools.wsrpc.max_message_bytes': 300}}


def test_applications_and_endpoints_with_options_of_their_own():
    with serving(Two('a'), TWO, script_name='/a',
                 apps=[(Two('b'), '/b', TWO), (Two('root'), '', TWO)],
                 ) as server:
        for mount, name in (('/a', 'a'), ('/b', 'b'), ('', 'root')):
            for path in ('open', 'debug'):
                with server.peer(f'{mount}/{path}') as peer:
                    assert peer.call('name_of') == f'{name}-{path}'
                    error = _error_of(peer, 'fail')
                    assert ('traceback' in (error.data or {})) == (
                        path == 'debug')
                    peer.send_text('x' * 301)
                    if path == 'debug':
                        assert peer.recv_close()[0] == 1009
                    else:
                        assert peer.recv_json()['error']['code'] == -32700


def _error_of(peer, method):
    with pytest.raises(CallFailed) as caught:
        peer.call(method)
    return caught.value


def test_connections_and_broadcasts_are_told_apart_by_endpoint():
    with serving(Two('a'), TWO, script_name='/a') as server:
        with server.peer('/a/open') as one, server.peer('/a/debug') as two:
            one.call('name_of')
            two.call('name_of')
            assert len(cp_wsrpc.connections()) == 2
            [only] = cp_wsrpc.connections('/a/open/')
            assert only.endpoint.url_path == '/a/open'
            assert cp_wsrpc.connections('/other') == []
            cp_wsrpc.broadcast('f', endpoint='/a/debug')
            assert two.recv_json()['method'] == 'f'
            assert one.call('name_of') == 'a-open'
            assert one.events == []


def test_a_tree_that_is_mounted_late_is_found():
    with serving(Root(), ON) as server:
        cherrypy.tree.mount(Two('late'), '/late', TWO)
        with RawPeer(server.port, '/late/open') as peer:
            assert peer.call('name_of') == 'late-open'
