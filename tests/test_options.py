"""The options of an endpoint: defaults, what is refused, and how."""
from __future__ import annotations

import time

import cherrypy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cp_wsrpc.errors import ConfigError
from cp_wsrpc.options import (
    Options,
    TopicRules,
    attached_configs,
    check_app_config,
    resolve,
)


def test_the_defaults_are_those_of_the_design():
    options = Options.from_config({})
    assert options == Options()
    assert options.origins == () and options.hosts is None
    assert not options.debug and not options.compression
    assert options.dialect == 'jsonrpc'
    assert (options.max_message_bytes, options.max_fragments,
            options.message_timeout_s) == (1 << 20, 1024, 30.0)
    assert (options.out_max_bytes, options.out_max_messages) == (4 << 20,
                                                                 1024)
    assert (options.max_calls_per_connection,
            options.max_waiting_per_connection, options.max_batch,
            options.max_depth, options.max_subscriptions
            ) == (32, 128, 100, 100, 100)
    assert options.subscribe.find('news') is None


def test_options_cannot_be_changed():
    with pytest.raises(AttributeError):
        Options().debug = True


@pytest.mark.parametrize('name, near', [
    ('debg', 'debug'), ('origin', 'origins'), ('subscribes', 'subscribe'),
    ('max_messages_bytes', 'max_message_bytes'), ('handler', 'handler_cls'),
    ('sub_protocols', 'subprotocols'), ('Debug', 'debug'),
])
def test_an_unknown_option_names_the_nearest_known_one(name, near):
    with pytest.raises(ConfigError) as caught:
        Options.from_config({name: 1})
    assert str(caught.value) == (
        f'tools.wsrpc.{name}: no such option;'
        f' did you mean tools.wsrpc.{near}?')


def test_an_option_like_no_other_names_all():
    with pytest.raises(ConfigError, match=r'known are: around, authorize'):
        Options.from_config({'qqq': 1})


@pytest.mark.parametrize('name, value', [
    ('debug', 'yes'), ('debug', 1), ('compression', 'on'),
    ('max_message_bytes', 0), ('max_message_bytes', -1),
    ('max_message_bytes', '1024'), ('max_message_bytes', 1.5),
    ('max_depth', True), ('message_timeout_s', 0),
    ('message_timeout_s', float('inf')), ('message_timeout_s', '3'),
    ('message_timeout_s', float('nan')),
    ('origins', ['example.com']), ('origins', ['https://example.com/']),
    ('origins', [None]), ('origins', 5), ('hosts', ['http://x']),
    ('hosts', ['a b']), ('routes', ['time.time']), ('routes', {'x': 5}),
    ('routes', {'': time.time}), ('routes', {'x': 'no.such.module'}),
    ('routes', {'x': 'time.no_such'}), ('authorize', 5),
    ('around', 'nowhere'), ('user', 'time'), ('opened', ''),
    ('handler_cls', time.time), ('handler_cls', 'time.time'),
    ('controller', 'no.such'), ('dialect', 'wsrpc3'), ('dialect', []),
    ('subprotocols', ['a b']), ('subprotocols', ['a,b']),
    ('subprotocols', ['a\r\nX: y']), ('subprotocols', [5]),
    ('subscribe', 5), ('subscribe', [5]), ('subscribe', {'x': 5}),
    ('subscribe', {5: True}), ('publish', {'x': 'time.no_such'}),
    ('harmless', 5),
])
def test_a_value_that_cannot_be_is_an_error_with_the_options_name(
        name, value):
    with pytest.raises(ConfigError) as caught:
        Options.from_config({name: value})
    assert str(caught.value).startswith(f'tools.wsrpc.{name} = ')


def test_callables_and_classes_may_be_dotted_strings():
    options = Options.from_config({
        'routes': {'getTime': 'time.time', 'here': len},
        'authorize': 'operator.attrgetter', 'user': 'os.path.join',
        'handler_cls': 'collections.OrderedDict',
        'controller': 'os.path',
        'subscribe': {'a': True, 'b.*': 'builtins.callable'}})
    import collections
    import operator
    import os.path
    assert options.routes == {'getTime': time.time, 'here': len}
    assert options.authorize is operator.attrgetter
    assert options.user is os.path.join
    assert options.handler_cls is collections.OrderedDict
    assert options.controller is os.path
    assert options.subscribe.find('b.1') is callable
    assert list(options.subscribe.callables()) == [callable]


def test_none_is_the_default_and_one_string_is_a_list_of_it():
    options = Options.from_config({
        'debug': None, 'origins': 'https://a.example', 'hosts': 'a.example',
        'subscribe': 'news', 'subprotocols': 'chat', 'harmless': 'auth'})
    assert options.debug is False
    assert options.origins == ('https://a.example',)
    assert options.hosts == ('a.example',)
    assert options.subscribe.find('news') is True
    assert options.subscribe.find('n') is None
    assert options.subprotocols == ('chat',)
    assert options.harmless == ('auth',)
    assert Options.from_config({'origins': '*', 'hosts': '*'}).hosts == '*'


def test_a_module_that_misses_another_says_so(tmp_path, monkeypatch):
    tmp_path.joinpath('wsrpc_broken.py').write_text('import nowhere_at_all')
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match='nowhere_at_all'):
        resolve('wsrpc_broken.thing')
    with pytest.raises(ConfigError, match='nowhere_at_all'):
        Options.from_config({'user': 'wsrpc_broken.thing'})


def ask(connection, topic):
    return True


@pytest.mark.parametrize('rules, topic, expected', [
    (['news'], 'news', True), (['news'], 'newsx', None),
    (['news'], 'New', None), ([], 'news', None), (['*'], '', True),
    (['*'], 'any\nthing', True), (['chat.*'], 'chat.', True),
    (['chat.*'], 'chat.1.2', True), (['chat.*'], 'chat', None),
    (['*.log'], 'a.log', True), (['*.log'], 'a.log2', None),
    (['a*b*c'], 'abc', True), (['a*b*c'], 'a-b-b-c', True),
    (['a*b*c'], 'acb', None), (['a*a'], 'a', None), (['a*a'], 'aa', True),
    (['a**a'], 'a-a', True), (['[ab]?'], 'a1', None),
    (['[ab]?'], '[ab]?', True), (['a.b'], 'axb', None),
    ({'x': ask}, 'x', ask), ({'x*': ask}, 'x1', ask),
    ({'*': True, 'x': ask}, 'x', ask), ({'*': True, 'x': False}, 'x', None),
    ({'a*': ask, '*': True}, 'a1', ask), ({'a*': ask, '*': True}, 'b', True),
    ({'a*': False, '*': True}, 'a1', None),
])
def test_a_topic_finds_its_rule(rules, topic, expected):
    assert TopicRules(rules).find(topic) is expected


@given(st.text('ab*', max_size=6), st.text('ab', max_size=8))
def test_patterns_match_as_their_regular_expression_would(pattern, topic):
    import re
    regex = '.*'.join(map(re.escape, pattern.split('*')))
    expected = True if re.fullmatch(regex, topic) else None
    assert TopicRules([pattern]).find(topic) is expected


def test_a_pattern_of_many_stars_is_matched_in_no_time():
    started = time.thread_time()
    assert TopicRules(['*a' * 50 + 'b']).find('a' * 100_000) is None
    assert time.thread_time() - started < 0.5


class Leaf:
    _cp_config = {'tools.wsrpc.debg': True}


class Tree:
    def __init__(self, **children):
        vars(self).update(children)

    @property
    def trap(self):
        raise AssertionError('a property was run')


def test_a_misspelt_key_is_found_in_the_apps_sections():
    app = cherrypy.Application(Tree(), '', {
        '/api': {'tools.wsrpc.on': True, 'tools.gzip.no': 1},
        '/': {'tools.wsrpc.orgins': []}})
    with pytest.raises(ConfigError) as caught:
        check_app_config(app)
    assert str(caught.value) == (
        'tools.wsrpc.orgins in [/]: no such option;'
        ' did you mean tools.wsrpc.origins?')


def test_a_misspelt_key_is_found_on_an_object_of_the_tree():
    app = cherrypy.Application(Tree(api=Tree(leaf=Leaf())), '', {})
    with pytest.raises(ConfigError, match=r'debg of root\.api\.leaf: no'):
        check_app_config(app)


def test_a_tree_that_holds_itself_is_walked_once():
    root = Tree()
    root.api = Tree(parent=root, _cp_config={'tools.wsrpc.on': True})
    assert list(attached_configs(root)) == [
        (('api',), {'tools.wsrpc.on': True})]
    check_app_config(cherrypy.Application(root, '', {}))
