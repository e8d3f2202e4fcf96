"""The engine plugin: its options, its life, several applications in it."""
from __future__ import annotations

import threading
import time

import cherrypy
import pytest

import cp_wsrpc
from cp_wsrpc import ConfigError, expose, shutdown
from cp_wsrpc.errors import WrongThread

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


    @expose
    async def stop(self):
        cherrypy.engine.stop()

    @expose
    async def restart(self):
        cherrypy.engine.stop()
        try:
            plugin().start()
        except BaseException as error:
            Api.raised = error


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


def test_a_start_waits_for_the_stop_of_an_async_method(monkeypatch):
    monkeypatch.setattr(shutdown, 'CLOSE_TIMEOUT_S', 0.5)
    with serving(Root(), ON) as server:
        # One that does not answer the Close, so that the stop takes time.
        with server.peer('/api') as deaf, server.peer('/api') as peer:
            deaf.call('ping')
            peer.send_json({'jsonrpc': '2.0', 'method': 'stop', 'id': 1})
            wait_until(lambda: cherrypy.engine.state
                       is cherrypy.engine.states.STOPPED)
            # Who ends the process must wait for it: it is no daemon,
            # though the loop's thread, which began it, is one.
            [stopper] = [thread for thread in threading.enumerate()
                         if thread.name == 'wsrpc-stop']
            assert not stopper.daemon
            cherrypy.engine.start()
            with server.peer('/api') as again:
                assert again.call('ping') == 'pong'


def test_a_start_on_the_loop_is_refused_before_it_touches_anything():
    Api.raised = None
    with serving(Root(), ON) as server:
        with server.peer('/api') as peer:
            hub = plugin().hub
            peer.send_json({'jsonrpc': '2.0', 'method': 'restart', 'id': 1})
            wait_until(lambda: Api.raised)
            assert isinstance(Api.raised, WrongThread)
            assert 'engine.restart()' in str(Api.raised)
            assert plugin().hub in (hub, None)
        wait_until(lambda: plugin().hub is None)
        cherrypy.engine.start()
        with server.peer('/api') as again:
            assert again.call('ping') == 'pong'


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
    assert cp_wsrpc.position('t') is None
    assert cp_wsrpc.broadcast('f') is None
    assert cp_wsrpc.connections() == []
    plugin().broadcast_raw('x')
    with serving(Root(), ON):
        pass
    assert cp_wsrpc.publish('t', 1) is None
    assert cp_wsrpc.broadcast('f', 2) is None
    assert cherrypy.engine.publish('wsrpc-publish', 't', 1) == [None]
    assert cherrypy.engine.publish('wsrpc-broadcast', 'f', 2) == [None]


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


def test_graceful_with_a_wrong_option_says_so_and_changes_nothing():
    with serving(Root(), ON) as server, server.peer('/api') as peer:
        peer.call('ping')
        cherrypy.tree.apps[''].merge(
            {'/api': {'tools.wsrpc.subscrbe': ['t']}})
        cherrypy.engine.graceful()
        [line] = server.logged('goes on with its old endpoints')
        assert ' ERROR ' in line and 'tools.wsrpc.subscribe' in line
        with server.peer('/api') as later:
            assert later.call('ping') == peer.call('ping') == 'pong'


class Admin:
    @expose
    def drop(self):
        return 'dropped'


class Echo(cp_wsrpc.WebSocket):
    def received_message(self, message):
        self.send(str(message))


def test_open_connections_go_by_the_new_endpoints_after_a_graceful():
    class Guarded:
        admin = Admin()

    class Site:
        api = Guarded()

    on = {'/api': {'tools.wsrpc.on': True},
          '/ws': {'tools.wsrpc.on': True, 'tools.wsrpc.handler_cls': Echo}}
    with serving(Site(), on) as server, server.peer('/api') as peer, \
            server.peer('/ws') as plain:
        assert peer.call('admin.drop') == 'dropped'
        cherrypy.tree.apps[''].merge(
            {'/api/admin': {'tools.auth_basic.on': True},
             '/ws': {'tools.wsrpc.out_max_bytes': 4321}})
        old = cp_wsrpc.connections('/api')[0].endpoint
        cherrypy.engine.graceful()
        wait_until(lambda: cp_wsrpc.connections('/api')[0].endpoint
                   is not old)
        assert _error_of(peer, 'admin.drop').code == -32601
        plain.send_text('still there')
        assert plain.recv_text() == 'still there'
        [echo] = cp_wsrpc.connections('/ws')
        wait_until(lambda: echo.endpoint.options.out_max_bytes == 4321)


@pytest.mark.parametrize('remove', [
    lambda app: app.config['/api'].pop('tools.wsrpc.on'),
    lambda app: cherrypy.tree.apps.clear(),
    lambda app: app.merge({'/api': {'tools.wsrpc.handler_cls': Echo}})])
def test_a_connection_whose_endpoint_is_no_more_is_closed(remove):
    with serving(Root(), ON) as server, server.peer('/api') as peer:
        peer.call('ping')
        remove(cherrypy.tree.apps[''])
        cherrypy.engine.graceful()
        assert peer.recv_close() == (4403, 'this endpoint is no more')


def test_graceful_renews_what_stands_in_no_tree():
    class Shop:
        api = Api()

    shop = cherrypy.Application(Shop(), '', {'/api': {
        'tools.wsrpc.on': True, 'tools.wsrpc.hosts': ['shop.example']}})
    with serving(Root(), ON) as server:
        cherrypy.tree.graft(cherrypy._cpwsgi.VirtualHost(
            cherrypy.tree.apps[''], {'shop.example': shop}), '')
        headers = {'Host': 'shop.example'}
        with server.peer('/api', headers=headers) as peer:
            peer.call('ping')
            assert cp_wsrpc.connections()[0].handshake.app is shop
            shop.merge({'/api': {'tools.wsrpc.routes': {'now': time.time}}})
            cherrypy.engine.graceful()
            wait_until(lambda: 'now'
                       in cp_wsrpc.connections()[0].endpoint.registry)
            assert peer.call('now') > 0
            shop.merge({'/api': {'tools.wsrpc.on': False}})
            cherrypy.engine.graceful()
            assert peer.recv_close()[0] == 4403


def test_no_method_is_taken_for_a_listener_because_of_its_name():
    # pitfalls 27: SimplePlugin.subscribe would.
    listened = {channel for channel, listeners
                in cherrypy.engine.listeners.items()
                for listener in listeners
                if getattr(listener, '__self__', None) is plugin()}
    assert listened == {'start', 'stop', 'graceful', 'wsrpc-publish',
                        'wsrpc-broadcast', 'wsrpc-close-user'}


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
