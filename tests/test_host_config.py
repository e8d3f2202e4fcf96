"""host_config against CherryPy's own dispatchers."""
from __future__ import annotations

import cherrypy
import pytest
from cherrypy._cprequest import Request, Response
from cherrypy._cptree import Tree

from cp_wsrpc import host_config

ON = 'tools.wsrpc.on'


class Leaf:
    _cp_config = {'leaf': 1, 'tools.staticdir.dir': '/srv'}

    @cherrypy.expose
    @cherrypy.config(own='page', leaf=2)
    def page(self):
        return 'page'

    @cherrypy.expose
    @cherrypy.config(own='index')
    def index(self):
        return 'index'

    @cherrypy.config(own='hidden')
    def hidden(self):
        return 'not exposed'


class Fallback:
    _cp_config = {'fallback': 1}

    @cherrypy.expose
    @cherrypy.config(own='default', **{'tools.staticdir.dir': '/srv'})
    def default(self, *args):
        return 'default'

    @cherrypy.config(own='inner')
    def inner(self):
        return 'not exposed'


class Resource:
    exposed = True
    _cp_config = {'resource': 1}

    @cherrypy.config(own='GET')
    def GET(self):
        return 'GET'

    @cherrypy.config(own='POST')
    def POST(self):
        return 'POST'


class Root:
    _cp_config = {'root': 1, 'both': 'object'}

    def __init__(self):
        self.leaf = Leaf()
        self.fall_back = Fallback()
        self.rest = Resource()

    @cherrypy.expose
    def index(self):
        return 'root'


CONFIG = {
    '/': {'both': 'section', 'site': 1},
    '/leaf': {'leaf': 3, 'section': '/leaf'},
    '/leaf/page': {'section': '/leaf/page'},
    '/leaf/page/index': {'section': '/leaf/page/index'},
    '/fall-back': {'section': '/fall-back'},
    '/nowhere/at/all': {'section': '/nowhere/at/all',
                        'tools.staticdir.dir': '/srv'},
    '/rest': {'request.dispatch': cherrypy.dispatch.MethodDispatcher()},
}
PATHS = ['', '/', '/leaf', '/leaf/', '//leaf//', '/leaf/page',
         '/leaf/page/more', '/leaf/hidden', '/leaf/index', '/fall-back',
         '/fall_back', '/fall.back/inner', '/fall-back/x/y', '/nowhere',
         '/nowhere/at/all', '/nowhere/at/all/below', '/rest', '/rest/1',
         '/leaf/__class__', '/index']


@pytest.fixture
def app():
    return Tree().mount(Root(), '/shop', {
        path: dict(config) for path, config in CONFIG.items()})


def dispatched(app, path, verb='GET'):
    """Return request.config after CherryPy itself has dispatched."""
    request = Request(None, None)
    request.app, request.method, request.params = app, verb, {}
    cherrypy.serving.load(request, Response())
    try:
        request.get_resource(path)
        return request.config
    finally:
        cherrypy.serving.clear()


@pytest.mark.parametrize('path', PATHS)
@pytest.mark.parametrize('verb', ['GET', 'POST'])
def test_config_is_what_the_dispatcher_finds(app, path, verb):
    expected = dispatched(app, path or '/', verb)
    assert host_config.config_of(app, path, verb) == expected
    assert expected['site'] == 1


@pytest.mark.parametrize('given, headers, expected', [
    ({}, {'Host': 'one.test'}, '/one/api'),
    ({}, {'Host': 'other.test'}, '/api'), ({}, {}, '/api'),
    ({}, {'Host': 'x', 'X-Forwarded-Host': 'one.test'}, '/one/api'),
    ({'use_x_forwarded_host': False},
     {'Host': 'one.test', 'X-Forwarded-Host': 'x'}, '/one/api')])
def test_the_path_is_that_which_a_virtual_host_has_looked_up(
        given, headers, expected):
    seen = []
    virtual = cherrypy.dispatch.VirtualHost(seen.append, **given,
                                            **{'one.test': '/one'})
    request = Request(None, None)
    request.app = Tree().mount(None, '/app', {
        '/': {'request.dispatch': virtual}})
    request.path_info, request.config = '/api', {}
    request.headers.update(headers)
    cherrypy.serving.load(request, Response())
    try:
        request.get_resource('/api')
    finally:
        cherrypy.serving.clear()
    assert [host_config.dispatched_path(request)] == seen == [expected]


def test_config_holds_the_global_config(app, monkeypatch):
    monkeypatch.setitem(cherrypy.config, 'site.key', 1)
    monkeypatch.setitem(cherrypy.config, 'leaf', 'global')
    config = host_config.config_of(app, '/leaf')
    assert (config['site.key'], config['leaf']) == (1, 3)


def test_what_pages_inherit_is_without_the_page_of_the_path(app):
    inherited = host_config.config_down_to(app, '/leaf')
    assert 'own' not in inherited
    assert inherited['leaf'] == 3
    assert host_config.config_of(app, '/leaf')['own'] == 'index'


@pytest.mark.parametrize('path', ['', '/', '/leaf', '/fall-back/inner',
                                  '/fall_back', '/nowhere/at', '/leaf/'])
def test_objects_are_found_by_attributes(app, path):
    root = app.root
    assert host_config.object_at(app, path) == {
        '': root, '/': root, '/leaf': root.leaf, '/leaf/': root.leaf,
        '/fall-back/inner': root.fall_back.inner,
        '/fall_back': root.fall_back, '/nowhere/at': None}[path]


def test_nothing_of_the_found_config_is_the_application_s_own(app):
    host_config.config_of(app, '/leaf')['leaf'] = 'changed'
    host_config.config_of(app, '/')['site'] = 'changed'
    assert host_config.config_of(app, '/leaf')['leaf'] == 3
    assert host_config.config_of(app, '/')['site'] == 1


class Endpoint:
    _cp_config = {ON: True}


class Page:
    @cherrypy.expose
    @cherrypy.config(**{ON: True})
    def index(self):
        return 'page'


class Default:
    @cherrypy.expose
    @cherrypy.config(**{ON: True})
    def default(self, *args):
        return 'default'


class Site:
    def __init__(self):
        self.api = Endpoint()
        self.api.calc = Leaf()
        self.page = Page()
        self.page.inner = Leaf()
        self.rest = Default()
        self.plain = Leaf()

    @cherrypy.expose
    @cherrypy.config(**{ON: True})
    def ws(self):
        return 'ws'


@pytest.mark.parametrize('path, owner', [
    ('/api', '/api'), ('/api/', '/api'), ('/api/calc', '/api'),
    ('/api/calc/page', '/api'), ('/api/wsrpc.js', '/api'),
    ('/page', '/page'), ('/page/inner', None), ('/rest', '/rest'),
    ('/rest/any/thing', '/rest'), ('/ws', '/ws'), ('/ws/x', '/ws'),
    ('/plain', None), ('/plain/page', None), ('/', None),
    ('/section', '/section'), ('/section/below', '/section'),
    ('/section/off', '/section/off')])
def test_the_owner_of_a_key_is_where_it_is_set(path, owner):
    app = Tree().mount(Site(), '', {'/section': {ON: True},
                                    '/section/off': {ON: False}})
    assert host_config.owner_of_key(app, path, ON) == owner


def test_the_owner_of_a_key_set_at_the_root_is_empty():
    app = Tree().mount(Root(), '', {'/': {ON: True}})
    assert host_config.owner_of_key(app, '/', ON) == ''
    assert host_config.owner_of_key(app, '/leaf/page', ON) == ''


def test_the_global_config_owns_nothing(app, monkeypatch):
    key = 'site.key'
    monkeypatch.setitem(cherrypy.config, key, 1)
    assert key in host_config.config_of(app, '/')
    assert host_config.owner_of_key(app, '/', key) is None


def test_an_application_without_a_root_has_its_sections():
    app = Tree().mount(None, '/x', {'/a': {ON: True}})
    assert host_config.owner_of_key(app, '/a/b', ON) == '/a'
    assert host_config.config_of(app, '/a')[ON] is True
    assert host_config.object_at(app, '/a') is None


def test_dispatch_methods_are_not_run():
    ran = []

    class Dynamic:
        def _cp_dispatch(self, vpath):
            ran.append(vpath)

    app = Tree().mount(Dynamic(), '', {'/a/b': {'k': 1}})
    assert host_config.config_of(app, '/a/b')['k'] == 1
    assert host_config.object_at(app, '/a') is None
    assert ran == []


def test_sections_that_lead_to_one_attribute_are_one():
    app = Tree().mount(Root(), '', {
        '/fall-back': {'a': 1}, '/fall_back/': {'b': 2}, '/': {'c': 3},
        '/fall.back/x': {'d': 4}})
    assert host_config.sections_of(app) == {
        ('fall_back',): {'a': 1, 'b': 2}, (): {'c': 3},
        ('fall_back', 'x'): {'d': 4}}
