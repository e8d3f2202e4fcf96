"""Where endpoints are, and what stands in each."""
from __future__ import annotations

import logging
import textwrap

import cherrypy
import pytest
from ws4py.websocket import WebSocket as Ws4pyWebSocket

import cp_wsrpc
from cp_wsrpc.endpoint import Endpoint, find_endpoints, place_of
from cp_wsrpc.errors import ConfigError

ON = {'tools.wsrpc.on': True}


class Api:
    @cp_wsrpc.expose
    def add(self, a, b):
        return a + b


class Tree:
    def __init__(self, **children):
        vars(self).update(children)


class Switched(Api):
    _cp_config = ON


class Paged:
    @cherrypy.expose
    @cherrypy.tools.wsrpc(debug=True)
    def index(self):
        return 'page'


def mounted(root, config=None, script_name=''):
    tree = cherrypy._cptree.Tree()
    return tree, tree.mount(root, script_name, config)


@pytest.mark.parametrize('path_info, expected', [
    ('/api', ('/api', '')), ('/api/', ('/api', '')),
    ('//api//', ('/api', '')), ('/api/wsrpc.js', ('/api', 'wsrpc.js')),
    ('/api/wsrpc.mjs', ('/api', 'wsrpc.mjs')),
    ('/api/wsrpc.d.ts', ('/api', 'wsrpc.d.ts')),
    ('/api/wsrpc.js/', ('/api', 'wsrpc.js')), ('/api/add', None),
    ('/api/x/wsrpc.js', None), ('/api/wsrpc.css', None), ('/', None),
    ('', None), ('/wsrpc.js', None), ('/ap', None), ('/apis', None),
    ('/switched', ('/switched', '')), ('/switched/api', None),
    ('/paged', ('/paged', '')), ('/paged/index', None),
    ('/off', None), ('/api/inner', ('/api/inner', '')),
    ('/my_api', ('/my_api', '')), ('/my-api', ('/my_api', '')),
    ('/my-api/wsrpc.js', ('/my_api', 'wsrpc.js')),
    ('/guarded_api', ('/guarded_api', '')), ('/guarded-api', None),
    ('/switched/itself', None),
])
def test_a_path_belongs_to_an_endpoint_or_to_none(path_info, expected):
    switched = Switched()
    switched.child = Tree(itself=switched)
    root = Tree(api=Api(), switched=switched, paged=Paged(), off=Switched(),
                my_api=Switched(), guarded_api=Switched())
    _, app = mounted(root, {
        '/api': ON, '/api/inner': ON, '/off': {'tools.wsrpc.on': False},
        '/guarded_api': {'tools.auth_basic.on': True}})
    assert place_of(app, path_info) == expected


@pytest.mark.parametrize('path_info, expected', [
    ('', ('', '')), ('/', ('', '')), ('/wsrpc.js', ('', 'wsrpc.js')),
    ('/add', None),
])
def test_the_root_can_be_an_endpoint(path_info, expected):
    _, app = mounted(Api(), {'/': ON}, '/shop')
    assert place_of(app, path_info) == expected


def test_objects_that_know_each_other_make_no_endless_endpoints():
    root = Tree(api=Switched())
    root.api.root = root
    tree, app = mounted(root)
    assert place_of(app, '/api').path == '/api'
    assert place_of(app, '/api/root/api/root/api') is None
    assert len(find_endpoints(tree)) <= 2


def test_an_object_at_two_paths_is_two_endpoints():
    api = Switched()
    tree, _ = mounted(Tree(one=api, two=api))
    assert [each.url_path for each in find_endpoints(tree)] == ['/one',
                                                                '/two']


def test_endpoints_are_found_in_every_application():
    tree, _ = mounted(Tree(api=Api(), other=Switched()), {'/api': ON})
    tree.mount(Api(), '/shop', {'/': ON})
    tree.mount(Paged(), '/page')
    tree.graft(lambda environ, start_response: [b''], '/wsgi')
    found = {each.url_path: each for each in find_endpoints(tree)}
    assert sorted(found) == ['/api', '/other', '/page', '/shop']
    assert repr(found['/api']) == '<Endpoint /api: 1 method>'
    assert found['/api'].registry['add'].function(1, 2) == 3
    assert found['/shop'].path == ''
    assert found['/shop'].script_name == '/shop'
    assert found['/page'].options.debug is True
    assert not found['/api'].options.debug
    assert found['/api'].config['tools.wsrpc.on'] is True


def test_options_differ_from_endpoint_to_endpoint_and_are_inherited():
    tree, _ = mounted(Tree(a=Tree(b=Api())), {
        '/a': ON | {'tools.wsrpc.max_batch': 7},
        '/a/b': ON | {'tools.wsrpc.max_depth': 8}})
    outer, inner = find_endpoints(tree)
    assert (outer.options.max_batch, outer.options.max_depth) == (7, 100)
    assert (inner.options.max_batch, inner.options.max_depth) == (7, 8)


def test_an_ini_file_is_enough(tmp_path):
    file = tmp_path / 'app.conf'
    file.write_text(textwrap.dedent('''\
        [/]
        tools.sessions.on: True
        [/api]
        tools.wsrpc.on: True
        tools.wsrpc.controller: 'tests.test_endpoint.Api'
        tools.wsrpc.routes: {'getTime': 'time.time'}
        tools.wsrpc.subscribe: ['news', 'chat.*']
        tools.wsrpc.origins: ['https://app.example']
        [/echo]
        tools.wsrpc.on: True
        tools.wsrpc.handler_cls: 'tests.test_endpoint.Handler'
        '''))
    tree, _ = mounted(Tree(), str(file))
    api, echo = find_endpoints(tree)
    assert sorted(api.registry) == ['add', 'getTime']
    assert isinstance(api.controller, Api)
    assert api.options.subscribe.find('chat.1') is True
    assert api.options.origins == ('https://app.example',)
    assert echo.registry is None
    assert echo.options.handler_cls is Handler
    assert repr(echo) == ('<Endpoint /echo: sockets of'
                          ' tests.test_endpoint.Handler>')


class Handler(cp_wsrpc.WebSocket):
    pass


class PlainHandler(Ws4pyWebSocket):
    pass


@pytest.mark.parametrize('config, sentence', [
    ({'tools.wsrpc.handler_cls': PlainHandler},
     '/api: tools.wsrpc.handler_cls = tests.test_endpoint.PlainHandler:'
     ' change its base class to cp_wsrpc.WebSocket'),
    ({'tools.wsrpc.handler_cls': Ws4pyWebSocket},
     'change its base class to cp_wsrpc.WebSocket'),
    ({'tools.wsrpc.max_depth': 0}, '/api: tools.wsrpc.max_depth = 0: must'),
    ({'tools.wsrpc.max_dept': 0},
     'tools.wsrpc.max_dept in [/api]: no such option; did you mean'
     ' tools.wsrpc.max_depth?'),
])
def test_what_cannot_be_is_an_error_at_the_start(config, sentence):
    tree, _ = mounted(Tree(api=Api()), {'/api': ON | config})
    with pytest.raises(ConfigError) as caught:
        find_endpoints(tree)
    assert sentence in str(caught.value)


def test_the_global_config_is_no_place_for_the_switch():
    cherrypy.config.update(ON)
    try:
        with pytest.raises(ConfigError, match=r'set it there, as in \[/api'):
            find_endpoints(cherrypy._cptree.Tree())
    finally:
        dict.pop(cherrypy.config, 'tools.wsrpc.on')


def test_the_log_says_at_the_start_what_there_is(caplog):
    caplog.set_level(logging.INFO)
    _, app = mounted(Tree(api=Api()), {'/api': ON | {
        'tools.wsrpc.debug': True, 'tools.auth_basic.on': True,
        'tools.gzip.on': True, 'tools.log_hooks.on': True,
        'tools.session_auth.on': True, 'tools.referer.on': False}}, '/shop')
    assert list(Endpoint.build(app, '/api').start_lines()) == [
        'wsrpc endpoint /shop/api: 1 method',
        '/shop/api: tools.auth_basic, tools.session_auth run once, at the'
        ' handshake, not at each call',
        '/shop/api: debug is on: clients see the type, message and'
        ' traceback of every exception']
