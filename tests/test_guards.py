"""An HTTP guard must not be walked around (threats.md, A4)."""
from __future__ import annotations

import functools

import cherrypy
import pytest
from cherrypy._cptree import Tree

from cp_wsrpc.exposure import expose
from cp_wsrpc.registry import build

ON = 'tools.wsrpc.on'


def require_login(): ...


class Toolbox(cherrypy._cptools.Toolbox):
    """A namespace of tools that an application has of its own."""


auth = Toolbox('auth')
auth.login = cherrypy.Tool('before_handler', require_login, 'login')


class Admin:
    @expose
    def drop(self): ...

    @cherrypy.expose
    def page(self): ...


class Api:
    def __init__(self):
        self.admin = Admin()

    @expose
    def free(self): ...


class Root:
    def __init__(self, api=None):
        self.api = api or Api()


def methods(root, config, path='/api', **options):
    """Return (sorted names, warnings) of the endpoint of a real tree."""
    app = Tree().mount(root, '', {'/api': {ON: True}, **config})
    controller = options.pop('controller', None)
    if controller is None:
        controller = root.api
    registry = build(controller, app=app, path=path, **options)
    return sorted(registry), [warning for warning in registry.warnings
                              if 'left out' in warning]


ALL = ['admin.drop', 'admin.page', 'free']


def test_without_a_difference_all_methods_may_be_called():
    assert methods(Root(), {}) == (ALL, [])


GUARDS = [
    {'tools.auth_basic.on': True},
    {'tools.auth_digest.on': True, 'tools.auth_digest.realm': 'x'},
    {'tools.session_auth.on': True}, {'tools.referer.on': True},
    {'tools.sessions.on': True}, {'auth.require': ['admin']},
    {'auth.login.on': True}, {'hooks.before_handler': require_login},
    {'hooks.before_handler.own': require_login},
    {'tools.allow.on': True, 'tools.allow.methods': ['GET']},
    {'tools.allow.on': True}, {'request.dispatch.own': 1},
    {'request.show_tracebacks': False}, {'role': 'admin'},
    {'tools.wsrpc.authorize': require_login}, {'tools.wsrpc.user': len},
    {'tools.wsrpc.origins': ['https://a']}, {'tools.wsrpc.hosts': ['a']},
    {'tools.wsrpc.around': require_login},
]


@pytest.mark.parametrize('guard', GUARDS, ids=str)
def test_a_guard_of_a_section_leaves_methods_out(guard):
    names, warnings = methods(Root(), {'/api/admin': guard})
    assert names == ['free'] and len(warnings) == 2
    key = next(key for key in sorted(guard) if key in warnings[0])
    assert key and 'admin.drop is left out' in ' '.join(warnings)


@pytest.mark.parametrize('guard', GUARDS, ids=str)
def test_a_guard_of_an_object_leaves_its_methods_out(guard):
    root = Root()
    root.api.admin._cp_config = guard
    assert methods(root, {})[0] == ['free']


@pytest.mark.parametrize('guard', GUARDS, ids=str)
def test_a_guard_of_a_method_leaves_it_out(guard):
    class Guarded(Admin):
        @expose
        @cherrypy.config(**guard)
        def drop(self): ...

    root = Root()
    root.api.admin = Guarded()
    names, [warning] = methods(root, {})
    assert names == ['admin.page', 'free']
    assert warning.startswith('admin.drop is left out') and any(
        key in warning for key in guard)


@pytest.mark.parametrize('guard', GUARDS, ids=str)
def test_a_guard_that_the_endpoint_has_too_guards_it(guard):
    names, _ = methods(Root(), {'/api': {ON: True, **guard}})
    assert names == ALL
    assert methods(Root(), {'/': guard})[0] == ALL
    different = {key: ['other'] if not key.endswith('.on') else False
                 for key in guard}
    if 'tools.allow.on' not in guard:
        assert methods(Root(), {'/api': {ON: True, **guard},
                                '/api/admin': different})[0] == ['free']


def test_a_guard_that_is_off_below_counts():
    on = {'/': {'tools.auth_basic.on': True}, '/api': {
        ON: True, 'tools.auth_basic.on': False}}
    assert methods(Root(), on)[0] == ALL
    assert methods(Root(), {**on, '/api/admin': {
        'tools.auth_basic.on': True}})[0] == ['free']


def test_a_tool_that_opens_the_endpoint_alone_counts():
    class Page(Api):
        @cherrypy.expose
        @cherrypy.config(**{'tools.public.on': True})
        def index(self): ...

    assert methods(Root(Page()), {})[0] == []


def test_a_decorator_of_cherrypy_leaves_a_method_out():
    class Decorated(Api):
        @expose
        @cherrypy.tools.auth_basic(realm='x', checkpassword=len)
        def first(self): ...

        @cherrypy.tools.referer(pattern='x')
        @cherrypy.expose
        def second(self): ...

        @cherrypy.tools.referer(pattern='x')
        @expose
        @staticmethod
        def third(): ...

        @auth.login()
        @expose
        def fourth(self): ...

    names, warnings = methods(Root(Decorated()), {})
    assert names == ALL and len(warnings) == 4
    assert 'tools.auth_basic.on' in warnings[0]


def test_a_decorated_class_guards_its_methods():
    @cherrypy.tools.auth_basic(realm='x', checkpassword=len)
    class Decorated(Admin):
        pass

    root = Root()
    root.api.admin = Decorated()
    assert methods(root, {})[0] == ['free']


@pytest.mark.parametrize('section', [
    '/api/admin/drop', '/api/admin/drop/', '/api/admin/drop/index',
    '/api//admin/drop'])
def test_a_section_of_the_method_itself_counts(section):
    assert methods(Root(), {section: {'auth.require': 1}})[0] == [
        'admin.page', 'free']


def test_a_section_that_is_written_with_punctuation_counts():
    root = Root()
    root.api.my_tool = Admin()
    names, _ = methods(root, {'/api/my-tool': {'auth.require': 1}})
    assert names == ALL


@pytest.mark.parametrize('config', [
    {'tools.json_out.on': True}, {'tools.encode.on': True},
    {'tools.gzip.on': True}, {'tools.json_in.force': False},
    {'tools.staticdir.on': True, 'tools.staticdir.dir': '/srv'},
    {'tools.response_headers.on': True}, {'tools.caching.on': True},
    {'tools.expires.secs': 5}, {'tools.trailing_slash.on': False},
    {'tools.log_tracebacks.on': False}, {'tools.log_hooks.on': True},
    {'response.stream': True}, {'response.headers.X': 'y'},
    {'request.body.maxbytes': 5}, {'error_page.404': 'x'},
    {'log.screen': False}, {'tools.wsrpc.max_batch': 5},
    {'tools.wsrpc.debug': True}, {'tools.allow.on': False},
    {'tools.allow.on': True, 'tools.allow.methods': ['post']},
    {'tools.allow.on': True, 'tools.allow.methods': 'POST'},
    {'tools.allow.methods': ['GET']}, {'tools.referer.on': False}], ids=str)
def test_what_guards_nothing_leaves_nothing_out(config):
    assert methods(Root(), {'/api/admin': config}) == (ALL, [])


@pytest.mark.parametrize('harmless', [
    ['theme.*'], ['theme'], ['theme.name', 'theme.size'], ['*'], ['th*']])
def test_the_operator_can_name_what_is_harmless(harmless):
    config = {'/api/admin': {'theme.name': 'dark', 'theme.size': 5}}
    assert methods(Root(), config)[0] == ['free']
    assert methods(Root(), config, harmless=harmless)[0] == ALL


@pytest.mark.parametrize('harmless', [
    ['them'], ['theme.nam'], ['heme.*'], ['theme.size'], ['th.me'], ['.*']])
def test_a_harmless_pattern_means_no_more_than_it_says(harmless):
    config = {'/api/admin': {'theme.name': 'dark'}}
    assert methods(Root(), config, harmless=harmless)[0] == ['free']


def test_a_method_can_say_yes_all_the_same():
    class Mixed(Admin):
        @expose(guarded=False)
        def drop(self): ...

    root = Root()
    root.api.admin = Mixed()
    names, [warning] = methods(root, {'/api/admin': {'auth.require': 1}})
    assert names == ['admin.drop', 'free'] and 'admin.page' in warning


def test_a_config_that_is_computed_cannot_be_compared():
    class Computed(Admin):
        @property
        def _cp_config(self):
            raise AssertionError('was run')

    root = Root()
    root.api.admin = Computed()
    names, warnings = methods(root, {})
    assert names == ['free'] and '_cp_config' in warnings[0]


def test_values_that_cannot_be_compared_are_different():
    class Odd:
        def __eq__(self, other):
            raise ValueError('ambiguous')

        __hash__ = None

    odd = Odd()
    same = {'/api': {ON: True, 'k': odd}, '/api/admin': {'k': odd}}
    assert methods(Root(), same)[0] == ALL
    assert methods(Root(), {**same, '/api/admin': {'k': Odd()}})[0] == [
        'free']


def test_the_value_of_a_guard_is_in_no_warning():
    _, warnings = methods(Root(), {'/api/admin': {'auth.key': 'secret'}})
    assert 'auth.key' in warnings[0] and 'secret' not in warnings[0]


# -- controllers and functions from elsewhere -----------------------------

def test_a_controller_from_another_path_keeps_the_guard_of_that_path():
    root = Root()
    root.back = Root(Admin())
    guarded = {'/back': {'auth.require': 1}}
    for controller in (root.back.api, root.back):
        names, warnings = methods(root, guarded, controller=controller)
        assert names == [] and len(warnings) == 2
    assert methods(root, {}, controller=root.back.api)[0] == ['drop', 'page']


def test_a_controller_from_nowhere_has_the_guards_it_carries():
    admin = Admin()
    assert methods(Root(), {}, controller=admin)[0] == ['drop', 'page']
    admin._cp_config = {'auth.require': 1}
    assert methods(Root(), {}, controller=admin)[0] == []


def test_a_routed_function_keeps_its_guards():
    @cherrypy.tools.auth_basic(realm='x', checkpassword=len)
    def decorated(): ...

    def free(): ...

    root = Root()
    root.back = Admin()
    app = Tree().mount(root, '', {
        '/api': {ON: True}, '/back/drop': {'auth.require': 1},
        '/api/routed': {'auth.require': 1}})
    registry = build(None, {
        'a.decorated': decorated, 'free': free, 'b.drop': root.back.drop,
        'p': functools.partial(root.back.drop),
        'q': functools.partial(functools.partial(decorated)),
        'page': root.back.page, 'routed': free, 'len': len,
        'back': root.back}, app=app, path='/api')
    assert sorted(registry) == ['back.page', 'free', 'len', 'page']
    assert len([w for w in registry.warnings if 'left out' in w]) == 6


def test_a_routed_function_can_say_yes_all_the_same():
    @expose(guarded=False)
    @cherrypy.config(**{'auth.require': 1})
    def decorated(): ...

    app = Tree().mount(Root(), '', {'/api': {ON: True}})
    assert list(build(None, {'f': decorated}, app=app, path='/api')) == ['f']


# -- endpoints below an endpoint ------------------------------------------

@pytest.mark.parametrize('value', [True, False])
def test_an_endpoint_below_keeps_its_methods(value):
    assert methods(Root(), {'/api/admin': {ON: value}}) == (['free'], [])


def test_an_object_that_is_an_endpoint_keeps_its_methods():
    class Inner(Admin):
        _cp_config = {ON: True}

    class Page(Admin):
        @cherrypy.expose
        @cherrypy.config(**{ON: True})
        def index(self): ...

    for inner in (Inner(), Page()):
        root = Root()
        root.api.admin = inner
        assert methods(root, {}) == (['free'], [])


def test_a_method_that_is_an_endpoint_is_not_callable():
    class Sockets(Api):
        @cherrypy.expose
        @cherrypy.config(**{ON: True})
        def ws(self): ...

    assert methods(Root(Sockets()), {}) == (ALL, [])


def test_the_endpoint_may_be_set_up_by_its_own_page():
    class Page(Api):
        @cherrypy.expose
        @cherrypy.config(**{ON: True, 'tools.wsrpc.authorize': len,
                            'tools.wsrpc.origins': '*'})
        def index(self): ...

    root = Root(Page())
    app = Tree().mount(root, '', {})
    assert sorted(build(root.api, app=app, path='/api')) == ALL


def test_the_endpoint_may_be_the_root():
    root = Api()
    app = Tree().mount(root, '/shop', {
        '/': {ON: True}, '/admin/drop': {'auth.require': 1}})
    assert sorted(build(root, app=app, path='')) == ['admin.page', 'free']
