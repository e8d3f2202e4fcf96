"""What is marked, where it is found, and that nothing is run for it."""
from __future__ import annotations

import functools
import threading

import cherrypy
import pytest

from cp_wsrpc import exposure
from cp_wsrpc.controllers import (
    MAX_DEPTH,
    ControllerTree,
    attributes_of,
    static_attribute,
)
from cp_wsrpc.exposure import Mark, Route, expose, kind_of, nonblocking


def find(controller, **options):
    """Return {dotted name: function} and what was said."""
    said = []
    found = {'.'.join(f.names): f.function for f in exposure.find_methods(
        controller, say=said.append, **options)}
    return found, said


class Node:
    """An object without methods of its own."""

    def __init__(self, **children):
        vars(self).update(children)


class Calculator:
    @expose
    def add(self, a, b):
        return a + b

    @cherrypy.expose
    def page(self):
        return 'page'

    def unmarked(self):
        return 'no'


def test_marked_methods_are_found_under_dotted_names():
    calc = Calculator()
    found, said = find(Node(calc=calc, inner=Node(calc=calc)))
    assert sorted(found) == ['calc.add', 'calc.page', 'inner.calc.add',
                             'inner.calc.page']
    assert found['calc.add'](1, 2) == 3
    assert not said


class Proxy:
    """Counts what should never be run."""

    ran: list = []

    def __call__(self):
        self.ran.append('__call__')

    def __getattr__(self, name):
        self.ran.append(name)
        raise AttributeError(name)

    @property
    def __class__(self):
        self.ran.append('__class__')
        return type(self)

    def __bool__(self):
        self.ran.append('__bool__')
        return True

    def __eq__(self, other):
        self.ran.append('__eq__')
        return True

    __hash__ = None


class Trap(Proxy):
    def __get__(self, instance, owner=None):
        self.ran.append('__get__')
        return Calculator()


class Trapped:
    trap = Trap()
    proxy = Proxy()

    def __init__(self):
        self.inside = Trap()
        self.lazy = Proxy()
        self.exposed = Trap()
        vars(self)['hidden_by_property'] = Calculator()

    @property
    def counter(self):
        Trap.ran.append('counter')
        return Calculator()

    @property
    def hidden_by_property(self):
        Trap.ran.append('hidden_by_property')

    @functools.cached_property
    def cached(self):
        Trap.ran.append('cached')
        return Calculator()

    @property
    def _cp_config(self):
        Trap.ran.append('_cp_config')
        return {}

    def __getattribute__(self, name):
        Trap.ran.append(name)
        return object.__getattribute__(self, name)

    @expose
    def add(self, a):
        return a


def test_no_code_of_the_application_is_run():
    trapped = Trapped()
    Trap.ran.clear()
    found, _ = find(trapped)
    assert Trap.ran == []
    assert list(found) == ['add']


class Slotted:
    __slots__ = ('calc',)

    @expose
    def add(self):
        return 1


class FakeDict:
    @property
    def __dict__(self):
        raise AssertionError('was run')

    @expose
    def add(self):
        return 1


@pytest.mark.parametrize('kind', [Slotted, FakeDict])
def test_an_object_without_a_real_dict_has_the_methods_of_its_class(kind):
    assert list(find(kind())[0]) == ['add']


class Names:
    """Everything that has a name which is never callable."""

    @cherrypy.expose
    def index(self): ...

    @cherrypy.expose
    def default(self): ...

    @cherrypy.expose
    def _hidden(self): ...

    @cherrypy.expose
    def __call__(self): ...

    @cherrypy.expose
    def GET(self): ...

    @cherrypy.expose
    def POST(self): ...

    @cherrypy.expose
    def good(self): ...


def test_hidden_names_pages_and_verbs_are_never_found():
    found, said = find(Node(x=Names(), _y=Calculator(), index=Calculator(),
                            default=Calculator(), GET=Calculator()))
    assert list(found) == ['x.good']
    assert not said


@pytest.mark.parametrize('name', ['index', 'default', '_x', 'GET', '__a__'])
def test_a_mark_that_cannot_help_is_told(name):
    controller = Node(**{name: expose(lambda: 1)})
    found, [said] = find(controller)
    assert found == {} and said.startswith(f'{name} is marked, but')


def test_every_upper_case_name_of_a_resource_is_a_verb():
    class Resource:
        exposed = True

        @expose
        def PROPFIND(self): ...

        @expose
        def find(self): ...

    found, said = find(Node(r=Resource()))
    assert list(found) == ['r.find'] and 'r.PROPFIND' in said[0]


def marked(function):
    return expose(function)


class Kinds:
    def __init__(self, other):
        self.bound = other.add                  # marked
        self.of_instance = marked(lambda a: a)
        self.unmarked = lambda a: a
        self.callback = print
        self.marked_callable = marked(Adder())
        self.plain_callable = Adder()
        self.partial = marked(functools.partial(max, 1))

    @expose
    @staticmethod
    def outer_static(a): return ('static', a)

    @staticmethod
    @expose
    def inner_static(a): return ('static', a)

    @expose
    @classmethod
    def made(cls, a): return (cls.__name__, a)

    @functools.lru_cache  # noqa: B019
    @expose
    def cached(self, a): return a

    @expose
    @functools.wraps(len)
    def wrapped(self, a): return a

    page = Calculator.page
    number = 5
    text = 'x'
    module = threading
    kind = dict


class Adder:
    def __call__(self, a): return a


def test_all_kinds_of_marked_callables_are_taken_and_bound():
    found, said = find(Kinds(Calculator()))
    assert sorted(found) == [
        'bound', 'cached', 'inner_static', 'made', 'marked_callable',
        'of_instance', 'outer_static', 'page', 'partial', 'wrapped']
    assert found['bound'](1, 2) == 3
    assert found['of_instance'](7) == found['wrapped'](7) == 7
    assert found['cached'](7) == found['marked_callable'](7) == 7
    assert found['outer_static'](1) == found['inner_static'](1)
    assert found['made'](1) == ('Kinds', 1)
    assert found['page']() == 'page'
    assert found['partial'](0) == 1
    assert not said


def test_a_marked_property_is_told_and_not_run():
    class Lazy:
        def __init__(self, function):
            self.function = function

        def __get__(self, instance, owner=None):
            raise AssertionError('was run')

        def __call__(self): ...

    class Controller:
        lazy = marked(Lazy(len))

    found, [said] = find(Controller())
    assert found == {} and 'without running it' in said


def test_what_a_subclass_takes_back_is_not_found():
    class Less(Calculator):
        add = None

        def page(self): ...

    assert find(Less()) == ({}, [])


def test_classes_are_not_controllers():
    found, said = find(Node(calc=Calculator, text=str))
    assert found == {}
    assert said == ['calc is a class: make an instance of it, or a'
                    ' cp_wsrpc.Route of the class']


def test_a_class_as_the_controller_is_told():
    found, [said] = find(Calculator)
    assert found == {} and 'make an instance' in said


def test_dynamic_dispatch_is_told():
    @cherrypy.popargs('year')
    class Blog:
        pass

    assert find(Node(blog=Blog())) == ({}, [
        'blog: what _cp_dispatch or popargs find while a request runs is'
        ' not callable'])


def test_circles_end():
    a, b = Calculator(), Calculator()
    a.b, b.a, a.me = b, a, a
    assert sorted(find(a)[0]) == ['add', 'b.add', 'b.page', 'page']


def chain(length):
    """Return a controller above ``length`` others, the last a Calculator."""
    node = Calculator()
    for _ in range(length):
        node = Node(n=node)
    return node


def test_the_depth_has_a_limit():
    found, said = find(chain(MAX_DEPTH))
    assert '.'.join(['n'] * MAX_DEPTH + ['add']) in found and not said
    found, [said] = find(chain(MAX_DEPTH + 1))
    assert not found and 'too deep' in said
    assert find(chain(MAX_DEPTH + 3)) == ({}, [])


def test_objects_that_all_know_each_other_end(monkeypatch):
    monkeypatch.setattr('cp_wsrpc.controllers.MAX_PATHS', 50)
    nodes = [Calculator() for _ in range(12)]
    for node in nodes:
        vars(node).update({f'n{i}': other for i, other in enumerate(nodes)})
    found, said = find(nodes[0])
    assert len(found) == 100 and 'one of too many names' in said[-1]


def test_a_huge_graph_is_cut_and_told(monkeypatch):
    monkeypatch.setattr('cp_wsrpc.controllers.MAX_OBJECTS', 50)
    near, far = Calculator(), Node(calc=Calculator())
    wide = Node(near=near, **{f'n{i}': Node() for i in range(100)})
    wide.far = far
    found, [said] = find(wide)
    assert sorted(found) == ['near.add', 'near.page']
    assert 'too many objects' in said


def test_nothing_is_found_where_a_path_stops():
    found, _ = find(Node(a=Calculator(), b=Node(c=Calculator())),
                    stops=lambda path: path.names == ('b',))
    assert sorted(found) == ['a.add', 'a.page']


def test_paths_lead_to_what_is_wanted():
    wanted = Node()
    tree = ControllerTree(Node(a=wanted, b=Node(c=wanted), d=Node()))
    assert [path.names for path in tree.paths(lambda obj: obj is wanted)] == [
        ('a',), ('b', 'c')]


def test_attributes_come_in_the_order_of_python():
    class Base:
        x = 1
        y = 1

    class Derived(Base):
        y = 2

    derived = Derived()
    derived.x = 3
    found = attributes_of(derived)
    assert found['x'] == (3, False) and found['y'] == (2, True)
    assert '__class__' not in found
    assert static_attribute(derived, 'y') == 2


class Visitor(Route):
    public = 'no method'

    def init(self, **kwargs): return kwargs
    def count(self): return 1
    def _secret(self): ...
    def index(self): ...
    def closed(self): ...

    @property
    def prop(self):
        raise AssertionError('was run')

    @staticmethod
    def static(a): return a

    @classmethod
    async def made(cls, a): return (cls, a)


class Mixin:
    def mixed(self): ...


class Child(Mixin, Visitor):
    def own(self): ...


@pytest.mark.parametrize('route, names', [
    (Visitor, ['count', 'init', 'made', 'static']),
    (Child, ['count', 'init', 'made', 'mixed', 'own', 'static']),
    (type('Empty', (Route,), {}), ['init']),
    (type('Less', (Visitor,), {'count': None}), ['init', 'made', 'static']),
])
def test_a_route_class_brings_what_it_adds(route, names):
    assert sorted(found.name for found in exposure.find_route_methods(route)
                  ) == names


def test_methods_of_a_route_take_the_instance_first():
    functions = {found.name: found.function
                 for found in exposure.find_route_methods(Visitor)}
    visitor = exposure.make_route(Visitor, 'connection')
    assert functions['init'](visitor, a=1) == {'a': 1}
    assert functions['static'](visitor, 2) == 2
    assert visitor.connection == 'connection'
    coroutine = functions['made'](visitor, 3)
    with pytest.raises(StopIteration) as stopped:
        coroutine.send(None)
    assert stopped.value.value == (Visitor, 3)


def test_a_route_has_its_connection_while_it_is_made():
    class Early(Route):
        def __init__(self):
            self.seen = self.connection

    assert exposure.make_route(Early, 'connection').seen == 'connection'


def test_an_instance_of_a_route_is_told():
    class Odd(Route):
        @expose
        def method(self): ...

    found, [said] = find(Node(odd=Odd(), route=Odd))
    assert found == {'route': Odd} and 'give the class' in said


async def coroutine(): ...
def generator(): yield 1
async def async_generator(): yield 1


class AsyncCallable:
    async def __call__(self): ...


@pytest.mark.parametrize('function, kind', [
    (len, 'pool'), (Calculator().add, 'pool'), (coroutine, 'async'),
    (functools.partial(coroutine), 'async'), (AsyncCallable(), 'async'),
    (functools.partial(functools.partial(AsyncCallable())), 'async'),
    (nonblocking(lambda: 1), 'nonblocking'),
    (functools.partial(nonblocking(lambda: 1)), 'nonblocking'),
    (nonblocking(functools.partial(len)), 'nonblocking'),
    (nonblocking(expose(lambda: 1)), 'nonblocking'),
    (generator, 'pool'), (async_generator, 'pool')])
def test_where_a_function_runs_is_told_by_what_it_is(function, kind):
    assert kind_of(function) == kind


@pytest.mark.parametrize('function, expected', [
    (generator, True), (async_generator, True), (coroutine, False),
    (functools.partial(generator), True), (len, False)])
def test_generators_are_told(function, expected):
    assert exposure.is_generator(function) is expected


def test_marks_are_kept_by_both_orders_and_by_wraps():
    def authorize(call): ...

    @expose(name='x', timeout_s=2, authorize=authorize, guarded=False)
    def function(): ...

    @functools.wraps(function)
    def outer(): ...

    mark = Mark('x', 2, authorize, False)
    assert exposure.mark_of(function) == exposure.mark_of(outer) == mark


@pytest.mark.parametrize('options', [
    {'name': ''}, {'name': '_x'}, {'name': 'a._b'}, {'name': 'index'},
    {'name': 'a..b'}, {'name': 'GET'}, {'name': 5}, {'timeout_s': 0},
    {'timeout_s': -1}])
def test_what_cannot_be_asked_of_a_method_is_refused(options):
    with pytest.raises(ValueError):
        expose(**options)


@pytest.mark.parametrize('value', [Calculator, len, 5, 'name', None.__class__])
def test_what_cannot_be_marked_is_refused(value):
    with pytest.raises(TypeError, match='cannot be marked'):
        expose(value)
