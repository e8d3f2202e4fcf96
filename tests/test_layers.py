"""A module imports only from those above it in the table here, and in that
of ``docs/architecture.rst``.

Imports under ``if TYPE_CHECKING`` do not count: a name in an annotation is
no dependency, a reader of the module does without it.
"""
from __future__ import annotations

import ast
import itertools
import pathlib
import re
from collections.abc import Iterator

import pytest

PACKAGE = pathlib.Path(__file__).resolve().parent.parent / 'cp_wsrpc'

#: Layer and modules, in the order in which they are to be read.
LAYERS = [
    (0, ['errors', 'messages', 'logs', 'current', 'host_config',
         'host_serving', 'host_socket', 'host_identity', 'host_session',
         'host_lazy_session',
         'host_sighting', 'host_log', 'host_accept', 'recording']),
    (1, ['origins', 'options', 'upgrade', 'client_files', 'nesting',
         'json_text', 'dialects', 'diagnosis', 'decoding', 'batch',
         'utf8', 'frame_rules', 'frames', 'unfinished', 'framing',
         'compression', 'transport', 'readiness',
         'failures', 'hints', 'signatures', 'arguments', 'controllers',
         'exposure',
         'guards', 'registry', 'backoff', 'client_handshake',
         'client_topics', 'history', 'idempotency', 'memory_keys', 'users']),
    (2, ['endpoint', 'endpoint_table', 'conversation', 'taskqueue',
         'strands', 'workers', 'turns', 'topics', 'presence', 'backend',
         'fanout', 'broker', 'statistics', 'session_watch', 'hub',
         'outqueue', 'states', 'timers']),
    (3, ['redis_scripts', 'redis_store', 'redis_presence', 'redis_feed',
         'redis_broker', 'redis_publisher',
         'redis_keys', 'sending', 'closing', 'receiving', 'websocket',
         'seats', 'waits', 'invocation', 'coroutines', 'repeats',
         'service_steps', 'joining', 'services', 'admission', 'client_calls']),
    (4, ['ioloop', 'caller', 'peer', 'audience', 'publishing', 'shutdown',
         'client_routes', 'client_socket', 'client_link', 'client_outbox',
         'client_subscriptions', 'client_presence', 'client_inbox',
         'client']),
    (5, ['plugin', 'pages']),
    (6, ['tool', 'testing', '__init__', '__main__']),
]
ORDER = [module for _, modules in LAYERS for module in modules]

#: The same for people: ``[(0, 'errors'), ...]``, as the table there has it.
DOCUMENTED = [
    (int(layer), module)
    for layer, names in re.findall(
        r'^   \* - (\d)\n     - (.*?)\n     - ', (
            PACKAGE.parent / 'docs' / 'architecture.rst').read_text(
            encoding='utf-8'), flags=re.MULTILINE | re.DOTALL)
    for module in re.findall(r'``(\w+)``', names)]

#: Text and bytes in, objects out: no socket, no server, no loop.
PURE = ['errors', 'messages', 'nesting', 'json_text', 'dialects', 'diagnosis',
        'decoding', 'frame_rules', 'frames', 'unfinished', 'framing',
        'conversation']
IMPURE = {'cherrypy', 'cheroot', 'socket', 'select', 'selectors'}

MODULES = sorted(path.stem for path in PACKAGE.glob('*.py'))


def tree(module: str) -> ast.Module:
    return ast.parse((PACKAGE / f'{module}.py').read_text(encoding='utf-8'))


def running(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes of a tree but those that only a type checker sees."""
    yield node
    children = list(ast.iter_child_nodes(node))
    if isinstance(node, ast.If) and ast.unparse(node.test) == 'TYPE_CHECKING':
        children = list(node.orelse)
    for child in children:
        yield from running(child)


def imported(module: str) -> Iterator[tuple[int, str]]:
    """``(12, 'cp_wsrpc.errors')`` for each import, in functions too."""
    for node in running(tree(module)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = '.'.join(filter(None, [
                'cp_wsrpc' if node.level else '', node.module]))
            yield node.lineno, base
            for alias in node.names:
                yield node.lineno, f'{base}.{alias.name}'


def test_every_module_stands_in_the_table_once():
    assert [name for name in MODULES if name not in ORDER] == []
    assert len(ORDER) == len(set(ORDER))


def test_the_table_of_the_documents_has_them_in_the_same_layers():
    assert sorted(DOCUMENTED) == sorted(
        (layer, module) for layer, modules in LAYERS for module in modules)


@pytest.mark.parametrize('module', MODULES)
def test_a_module_imports_only_from_above(module):
    assert module in ORDER, f'{module} stands in no layer of the table'
    for order in (ORDER, [name for _, name in DOCUMENTED]):
        above = order[:order.index(module)]
        wrong = [f'line {line}: {name}' for line, name in imported(module)
                 if name.startswith('cp_wsrpc.')
                 and (other := name.split('.')[1]) in order
                 and other != module and other not in above]
        assert not wrong, f'{module} imports from below: {wrong}'


@pytest.mark.parametrize('module', MODULES)
def test_only_the_host_family_knows_cherrypys_insides(module):
    if module.startswith('host_'):
        return
    wrong = [f'line {line}: {name}' for line, name in imported(module)
             if name.split('.')[0] == 'cheroot'
             or name.startswith('cherrypy._')]
    assert not wrong, f'{module} is no host_* module: {wrong}'


@pytest.mark.parametrize('module', PURE)
def test_a_pure_module_does_no_io(module):
    wrong = [f'line {line}: {name}' for line, name in imported(module)
             if name.split('.')[0] in IMPURE]
    assert not wrong, f'{module} is to be pure: {wrong}'


@pytest.mark.parametrize('module', MODULES)
def test_a_module_says_what_it_is_and_its_layer(module):
    text = ast.get_docstring(tree(module))
    assert text, f'{module} has no docstring'
    layer = next((n for n, names in LAYERS if module in names), None)
    if module not in ('__init__', '__main__'):
        assert re.search(rf'\blayer {layer}\b', text, re.IGNORECASE), (
            f'the docstring of {module} is to say "Layer {layer}"')


@pytest.mark.parametrize('name', ['connection', 'call'])
def test_no_module_hides_a_name_of_the_package(name):
    # cp_wsrpc.connection and cp_wsrpc.call are what is current; a module
    # of that name would stand in their place once it has been imported.
    assert name not in MODULES
    assert not (PACKAGE / name).exists()


@pytest.mark.parametrize('module', MODULES)
def test_a_broad_except_says_why(module):
    lines = (PACKAGE / f'{module}.py').read_text('utf-8').splitlines()
    for line, following in itertools.pairwise(lines):
        if re.match(r'\s*except( (Base)?Exception\b.*)?:', line):
            assert '#' in line or following.lstrip().startswith('#'), line
