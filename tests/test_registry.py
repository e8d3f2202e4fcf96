"""All that may be called, and that nothing else may (threats.md, C1)."""
from __future__ import annotations

import functools
import logging
import time
import unicodedata

import cherrypy
import msgspec
import pytest
from cherrypy._cptree import Tree
from hypothesis import given
from hypothesis import strategies as st

from cp_wsrpc import registry as module
from cp_wsrpc.errors import ConfigError, InvalidParams
from cp_wsrpc.registry import Route, build, expose, nonblocking

ran = []


class Calculator:
    limit = 5

    def __init__(self):
        self.callback = print
        self.rate = 1.5

    @expose
    def add(self, a: int, b: int) -> int:
        return a + b

    @expose
    async def later(self, seconds: float): ...

    @expose
    @nonblocking
    def ping(self):
        return 'pong'

    @expose(name='import', timeout_s=60, authorize=len)
    def import_(self, rows: list[int]): ...

    @cherrypy.expose
    def page(self): ...

    @cherrypy.expose(alias=['other'])
    def aliased(self): ...

    @property
    def counter(self):
        ran.append('counter')
        return self.add

    def unmarked(self): ...

    @cherrypy.expose
    def index(self): ...

    @cherrypy.expose
    def default(self, *args): ...

    @cherrypy.expose
    def _hidden(self): ...


class Visitor(Route):
    def init(self, **kwargs):
        return kwargs

    def count(self, step: int = 1):
        return step

    @expose(timeout_s=3, name='named')
    async def own_name(self): ...

    def _secret(self): ...

    def closed(self): ...


class Api:
    visitor = Visitor
    kind = dict

    def __init__(self):
        self.calc = Calculator()
        self._private = Calculator()

    @expose
    def numbers(self):
        yield 1


class Root:
    def __init__(self):
        self.api = Api()


NAMES = ['calc.add', 'calc.aliased', 'calc.import', 'calc.later',
         'calc.other', 'calc.page', 'calc.ping', 'getTime', 'numbers',
         'visitor', 'visitor.count', 'visitor.named']


@pytest.fixture(scope='module')
def registry():
    root = Root()
    app = Tree().mount(root, '', {'/api': {'tools.wsrpc.on': True}})
    return build(root.api, {'getTime': time.time}, app=app, path='/api')


def test_the_names_are_those_of_the_rules(registry):
    assert sorted(registry) == NAMES
    assert registry.routes == {'visitor': Visitor}
    assert ran == []


HOSTILE = [
    '', '.', '..', 'calc', 'calc.', '.calc.add', 'calc..add', 'calc.add.',
    'calc.add.__call__', 'calc.add.__func__', 'calc.add.__globals__',
    'calc.__init__.__globals__', 'calc.__class__', 'calc.__dict__',
    '__init__', '__class__', '__globals__', '_private', '_private.add',
    'calc._hidden', '_hidden', 'calc.counter', 'calc.limit', 'calc.rate',
    'calc.callback', 'calc.unmarked', 'calc.index', 'calc.default', 'index',
    'default', 'calc._cp_config', '_cp_config', '_cp_dispatch', 'kind',
    'kind.fromkeys', 'calc.import_', 'calc.ADD', 'Calc.add', 'CALC.ADD',
    'calc.add\0', '\0', 'calc\0.add', 'calc/add', '/api/calc/add',
    'calc.add ', ' calc.add', 'calc\n.add', 'calc.add\r\n',
    '\uff43\uff41\uff4c\uff43.\uff41\uff44\uff44', 'calc.a\u0064\u0301d',
    'calc\u2024add', 'cal\u217d.add', 'visitor.init', 'visitor.closed',
    'visitor.connection', 'visitor._secret', 'visitor.own_name',
    'visitor.__init__', 'Visitor', 'visitor.visitor', 'getTime.__self__',
    'getTime.x', 'x' * 1_000_000, 'constructor', '__proto__', 'get',
    'rpc.ping', 'toString', 'numbers.send', 'calc.add.timeout_s',
]


@pytest.mark.parametrize('name', HOSTILE, ids=lambda name: repr(name)[:30])
def test_other_names_are_not_there(registry, name):
    assert registry.get(name) is None


@pytest.mark.parametrize('name', [0, 1, 1.5, None, True, (), 2**70])
def test_names_that_are_no_text_are_not_there(registry, name):
    assert registry.get(name) is None


@given(st.text() | st.lists(st.sampled_from(
    ['calc', 'add', 'visitor', 'init', '_private', '__class__', 'counter',
     'index', '']), max_size=4).map('.'.join))
def test_any_other_text_is_not_there(registry, name):
    assert (name in registry) is (name in NAMES)
    folded = unicodedata.normalize('NFKC', name).lower()
    if folded != name:
        assert registry.get(name) is None or name in NAMES
    assert ran == []


@pytest.mark.parametrize('name, kind', [
    ('calc.add', 'pool'), ('calc.later', 'async'),
    ('calc.ping', 'nonblocking'), ('visitor', 'pool'),
    ('visitor.named', 'async'), ('getTime', 'pool')])
def test_a_method_knows_where_it_runs(registry, name, kind):
    assert registry[name].kind == kind


def test_a_method_carries_what_expose_was_given(registry):
    method = registry['calc.import']
    assert (method.timeout_s, method.authorize) == (60, len)
    assert registry['calc.add'].timeout_s is None
    assert registry['visitor.named'].timeout_s == 3
    assert repr(method) == ('<Method calc.import(rows: list[int]) pool>')


def test_a_method_binds_and_runs(registry):
    method = registry['calc.add']
    args, kwargs = method.bind(msgspec.Raw(b'[1,2]'))
    assert method.function(*args, **kwargs) == 3
    with pytest.raises(InvalidParams, match=r'calc\.add\(a: int, b: int\)'):
        method.bind(b'[1]')


def test_a_role_may_stand_on_the_function(registry):
    Calculator.add.role = 'user'
    try:
        assert registry['calc.add'].function.role == 'user'
    finally:
        del Calculator.add.role


def test_methods_of_a_route_know_their_class(registry):
    init, count = registry['visitor'], registry['visitor.count']
    assert (init.route, init.attribute) == (Visitor, 'init')
    assert (count.route, count.attribute) == (Visitor, 'count')
    assert registry['visitor.named'].attribute == 'own_name'
    assert count.function is Visitor.count
    assert count.bind(b'[2]') == ((2,), {})
    assert init.bind(b'{"a":1}') == ((), {'a': 1})
    assert registry['calc.add'].route is None
    with pytest.raises(InvalidParams, match='self'):
        init.bind(b'{"self":1}')


def test_a_static_method_of_a_route_takes_what_it_was_written_with():
    class Static(Route):
        @staticmethod
        async def plain(a: int): return a

        @classmethod
        def made(cls, a: int): return cls, a

    registry = build(None, {'s': Static})
    plain, made = registry['s.plain'], registry['s.made']
    assert plain.kind == 'async'
    assert plain.bind(b'[1]') == made.bind(b'[1]') == ((1,), {})
    assert made.function('instance', 1) == (Static, 1)


def test_a_generator_is_kept_and_told(registry):
    assert registry['numbers'].is_generator
    assert not registry['calc.add'].is_generator
    assert any('numbers is a generator' in w for w in registry.warnings)


def test_urls_are_listed_in_one_line(registry):
    [line] = [w for w in registry.warnings if 'cherrypy.expose' in w]
    assert 'calc.aliased' in line and 'calc.other' in line
    assert 'calc.page' in line and 'calc.add' not in line


def test_pages_that_cherrypy_brings_are_no_methods():
    root = Calculator()
    root.files = cherrypy.tools.staticdir.handler('/files', dir='/srv')
    app = Tree().mount(root, '', {'/': {'tools.wsrpc.on': True}})
    assert root.favicon_ico.exposed and root.files.exposed
    assert sorted(build(root, app=app)) == [
        'add', 'aliased', 'import', 'later', 'other', 'page', 'ping']


def test_warnings_go_to_the_log_once(caplog):
    class Odd:
        @expose
        def f(self, a: Missing): ...  # type: ignore # noqa: F821

    with caplog.at_level(logging.WARNING, 'cp_wsrpc.registry'):
        registry = build(Odd(), path='/odd')
    [warning] = registry.warnings
    assert "f: the parameter 'a' is not checked" in warning
    assert [record.getMessage() for record in caplog.records] == [
        f'/odd: {warning}']


def test_a_registry_needs_no_application():
    assert list(build(None, {'who': len})) == ['who']
    assert build(None, None) == {}
    assert sorted(build(Calculator())) == [
        'add', 'aliased', 'import', 'later', 'other', 'page', 'ping']


class Adder:
    def __call__(self, a: int): return a

    @expose
    def more(self): ...


def test_routes_take_functions_classes_and_objects():
    registry = build(None, {
        'f': len, 'a.b': functools.partial(max, 1), 'bound': Adder().more,
        'v': Visitor, 'd.v': Visitor, 'callable': Adder(),
        'calc': Calculator()})
    assert {'f', 'a.b', 'bound', 'v', 'v.count', 'd.v', 'd.v.count',
            'callable', 'callable.more', 'calc.add'} <= set(registry)
    assert registry.routes == {'v': Visitor, 'd.v': Visitor}
    assert registry['callable'].bind(b'[5]') == ((5,), {})
    assert 'calc.callback' not in registry and 'calc.unmarked' not in registry


@pytest.mark.parametrize('name', [
    '', '_x', 'a._x', 'a.', '.a', 'index', 'a.default', 'GET', 'rpc.x',
    '$/x', '__class__', 5, None])
def test_a_route_with_a_name_that_cannot_be_is_an_error(name):
    with pytest.raises(ConfigError, match='cannot be a name'):
        build(None, {name: len})


@pytest.mark.parametrize('value', [dict, 5, 'time.time', None, object()])
def test_a_route_that_is_nothing_to_call_is_an_error(value):
    with pytest.raises(ConfigError, match=r'tools\.wsrpc\.routes'):
        build(None, {'x': value})


def test_a_route_of_the_config_wins_over_the_tree():
    registry = build(Calculator(), {'add': len})
    assert registry['add'].function is len
    assert any('add is there twice' in w for w in registry.warnings)


def test_names_of_the_protocol_are_taken():
    class Api:
        def __init__(self):
            self.rpc = Calculator()

    registry = build(Api())
    assert not registry and 'rpc.add is left out' in registry.warnings[0]


def test_a_guarded_method_of_a_route_is_left_out():
    class Guarded(Route):
        def free(self): ...

        @cherrypy.config(**{'auth.require': 1})
        def guarded(self): ...

    class Whole(Route):
        _cp_config = {'auth.require': 1}

        def method(self): ...

    class Site:
        guarded = Guarded
        whole = Whole
        section = Visitor

    site = Site()
    app = Tree().mount(site, '', {
        '/': {'tools.wsrpc.on': True}, '/section/count': {'k': 1}})
    registry = build(site, app=app, path='')
    assert sorted(registry) == ['guarded', 'guarded.free', 'section',
                                'section.named']
    assert registry.routes == {'guarded': Guarded, 'section': Visitor}


def test_all_names_that_the_module_offers_are_there():
    assert all(hasattr(module, name) for name in module.__all__)
