"""The documents: each snippet runs, each line of a log is provoked.

A snippet is a ``code-block`` with a name.  ``block('code-around')`` is its
text; a test that no block has been forgotten looks for the names in here.
"""
from __future__ import annotations

import contextlib
import contextvars
import functools
import io
import json
import logging
import pathlib
import re
import shlex
import ssl
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from types import SimpleNamespace
from typing import Any, NamedTuple

import cherrypy
import pytest
from cherrypy.lib import reprconf
from cherrypy.process.wspbus import ChannelFailures

import cp_wsrpc
from cp_wsrpc import errors, history, logs
from cp_wsrpc.options import Options
from cp_wsrpc.plugin import WsrpcPlugin

from .browsing import chromium
from .rawpeer import CallFailed, RawPeer, http_request
from .serving import ROOT, free_port, serving, spawn, wait_until

README = ROOT / 'README.rst'
DOCUMENTS = [README, ROOT / 'CHANGES.rst',
             *sorted((ROOT / 'docs').glob('*.rst'))]

_BLOCK = re.compile(
    r'^( *)\.\. code-block:: (\S+)\n'
    r'(?:\1   :name: (\S+)\n)?'
    r'\n((?:\1   .*\n|\n)+)', re.MULTILINE)

#: What a reader is to type or paste elsewhere, and no test can.
NOT_RUN = {'code-systemd', 'code-docker', 'code-systemd-several',
           'code-rolling'}


class Block(NamedTuple):
    language: str
    name: str
    text: str


@functools.cache
def blocks() -> dict[str, Block]:
    found: dict[str, Block] = {}
    for path in DOCUMENTS:
        for match in _BLOCK.finditer(path.read_text() + '\n'):
            made = Block(match[2], match[3],
                         textwrap.dedent(match[4]).strip('\n') + '\n')
            assert made.name not in found, made.name
            found[made.name or f'{path.name} {match.start()}'] = made
    return found


def block(name: str) -> str:
    return blocks()[name].text


def run(name: str, **given: Any) -> SimpleNamespace:
    """Run a Python snippet; what it has defined."""
    names = {'__name__': 'snippet', 'cherrypy': cherrypy,
             'cp_wsrpc': cp_wsrpc, **given}
    exec(compile(block(name), f'README: {name}', 'exec'), names)
    return SimpleNamespace(**names)


def root_of(**children: Any) -> Any:
    root = type('Root', (), {})()
    vars(root).update(children)
    return root


@contextlib.contextmanager
def logging_as_usual(*args: Any, **options: Any) -> Iterator[Any]:
    """``serving``, whose log is CherryPy's as it is without pytest, which
    gives the root logger handlers; and each line may come again."""
    logs.limited.__self__._causes.clear()       # type: ignore[attr-defined]
    root = logging.getLogger()
    handlers, root.handlers = root.handlers, []
    try:
        with serving(*args, **options) as server:
            yield server
    finally:
        root.handlers = handlers


# -- the documents themselves ----------------------------------------------

@pytest.mark.parametrize('path', DOCUMENTS, ids=lambda path: path.name)
def test_a_document_is_valid(path: pathlib.Path,
                             need: Callable[[str], str]) -> None:
    need('python:docutils')
    from docutils.core import publish_doctree
    said = io.StringIO()
    publish_doctree(
        path.read_text(), source_path=str(path), settings_overrides={
            'report_level': 1, 'halt_level': 5, 'warning_stream': said,
            'syntax_highlight': 'none', 'file_insertion_enabled': False})
    assert said.getvalue() == ''


@pytest.mark.parametrize('path', DOCUMENTS, ids=lambda path: path.name)
def test_the_files_that_a_document_leads_to_are_there(
        path: pathlib.Path) -> None:
    text = path.read_text()
    targets = re.findall(r'<([\w./-]+)>`_', text)
    targets += re.findall(r'\.\. image:: (\S+)', text)
    assert [target for target in targets
            if not (path.parent / target).exists()] == []


def test_every_snippet_has_a_test() -> None:
    here = pathlib.Path(__file__)
    source = here.read_text() + here.with_name('test_cluster.py').read_text()
    wild = [name for name, made in blocks().items()
            if made.language != 'console' or made.name]
    assert [name for name in wild if f"'{name}'" not in source] == []


def test_the_picture_is_a_small_png() -> None:
    picture = (ROOT / 'docs' / 'demo.png').read_bytes()
    assert picture.startswith(b'\x89PNG')
    assert len(picture) < 200_000


def test_every_module_stands_in_the_architecture() -> None:
    text = (ROOT / 'docs' / 'architecture.rst').read_text()
    modules = [path.stem for path in (ROOT / 'cp_wsrpc').glob('*.py')]
    assert [name for name in modules if f'``{name}``' not in text] == []


# -- tables -----------------------------------------------------------------

def table(name: str) -> dict[str, str]:
    """``{'thread_pool': '``10``'}``: first and second column."""
    text = README.read_text()
    text = text[text.index(f':name: {name}\n'):]
    lines = text[:text.index('\n\n', text.index('=='))].splitlines()
    return dict(re.findall(r'^ *``(\w+)`` +(\S+(?: \S+)*?)(?:  |$)',
                           '\n'.join(lines), re.MULTILINE))


def written(default: Any) -> str:
    if default is None:
        return 'None'
    if isinstance(default, float):
        default = int(default)
    return f'``{default!r}``'


def test_the_readme_has_every_option_of_an_endpoint() -> None:
    default = Options()
    wanted = {field.name: written(getattr(default, field.name))
              for field in fields(Options)}
    wanted.update(on='off', subscribe='nobody', publish='nobody',
                  dialect=f'``{default.dialect}``')
    assert table('table-options') == wanted


def engine_options() -> dict[str, Any]:
    ours = {'bus', 'stopping', 'hub', 'manager'}
    return {name: value
            for name, value in vars(WsrpcPlugin(cherrypy.engine)).items()
            if not name.startswith('_') and name not in ours}


def test_the_readme_has_every_option_of_the_engine() -> None:
    assert table('table-engine-options') == {
        name: written(value) for name, value in engine_options().items()}


def test_the_page_of_options_has_them_all() -> None:
    text = (ROOT / 'docs' / 'options.rst').read_text()
    terms = re.findall(r'^(``\w+``(?:, ``\w+``)*)$', text, re.MULTILINE)
    told = set(re.findall(r'``(\w+)``', ' '.join(terms)))
    assert told == {field.name for field in fields(Options)} | set(
        engine_options())


def test_every_limit_that_can_be_set_stands_among_the_limits() -> None:
    text = README.read_text()
    text = text[text.index('\nLimits\n'):text.index('\nOptions\n')]
    names = [name for name in (*(f.name for f in fields(Options)),
                               *engine_options())
             if name.startswith(('max_', 'out_')) or name.endswith('_s')]
    assert [name for name in names if f'``{name}``' not in text] == []


def test_every_error_code_is_explained() -> None:
    told = {int(code) for code in re.findall(
        r'^(-32\d\d\d)  ', README.read_text(), re.MULTILINE)}

    def codes(kind: type) -> set[int]:
        return {kind.code}.union(*map(codes, kind.__subclasses__()))

    ours = {code for code in codes(errors.RPCError)
            if -32768 <= code <= -32000}
    assert told == ours | {-32800}


def test_every_close_code_is_explained() -> None:
    text = (ROOT / 'docs' / 'protocol.rst').read_text()
    text = text[text.index('\nClose codes\n'):]
    assert [code for code in errors.CloseCode if str(code.value) not in text
            ] == []


# -- in a browser -----------------------------------------------------------

@pytest.fixture(scope='module')
def browser(need: Callable[[str], str]) -> Iterator[Any]:
    with chromium(need('chromium')) as browser:
        yield browser


@contextlib.contextmanager
def opened(browser: Any) -> Iterator[Any]:
    """A page; at its end nothing may have gone wrong in it.

    To be left before the server stops: Chromium opens connections ahead of
    need, and cheroot waits 5 s for the threads that read them.
    """
    context = browser.new_context()
    page = context.new_page()
    faults: list[str] = []
    page.on('pageerror', lambda error: faults.append(str(error)))
    try:
        yield page
    finally:
        context.close()
    assert faults == []


def test_the_first_example_runs_in_two_pages(
        browser: Any, tmp_path: pathlib.Path) -> None:
    (tmp_path / 'hello.py').write_text(block('code-server'))
    (tmp_path / 'page.html').write_text(block('code-page'))
    port = free_port()
    (tmp_path / 'on_port.py').write_text(
        'import cherrypy, runpy\n'
        f'cherrypy.config.update({{"server.socket_port": {port}}})\n'
        'runpy.run_path("hello.py", run_name="__main__")\n')
    with spawn(str(tmp_path / 'on_port.py'), ready='Bus STARTED',
               cwd=tmp_path) as process:
        with opened(browser) as first:
            for page in (first, first.context.new_page()):
                page.goto(f'http://127.0.0.1:{port}/')
                page.wait_for_function('sum.textContent === "3"')
            first.wait_for_function(
                'heard.textContent.split("added 1 and 2.").length === 3')
        assert process.terminate() == 0


class Blank:
    """A page with the client, the snippets' ``show``, and nothing else."""

    @cherrypy.expose
    def blank(self) -> str:
        return ('<!doctype html><script src="/api/wsrpc.js"></script>'
                '<script>const shown = []; const show = x => shown.push(x);'
                '</script>')


def in_page(page: Any, server: Any, script: str, connected: bool = True,
            ) -> Any:
    page.goto(server.url('/blank'))
    begin = 'const rpc = WSRPC("/api"); rpc.connect();' if connected else ''
    return page.evaluate(
        f'async () => {{ {begin}\n{script}\nwindow.rpc = rpc; }}')


def api_served(root: Any) -> Any:
    return serving(root, {'/api': {'tools.wsrpc.on': True}})


def api_with_calc() -> Any:
    class Calculator:
        @cp_wsrpc.expose
        def add(self, a: int, b: int) -> int:
            return a + b

    class Api:
        calc = Calculator()

        @cp_wsrpc.expose
        def update(self, **changes: Any) -> None:
            pass

        @cp_wsrpc.expose
        def shape(self, *args: Any, **kwargs: Any) -> Any:
            return [args, kwargs]

        class test(cp_wsrpc.Route):
            def init(self, **kwargs: Any) -> Any:
                return kwargs

    return Api()


def test_the_javascript_runs(browser: Any) -> None:
    root = Blank()
    root.api = api_with_calc()
    with api_served(root) as server, opened(browser) as page:
        in_page(page, server, block('code-javascript')
                + 'show(await rpc.proxy.calc.add(40, 2)); rpc.destroy();',
                connected=False)
        page.wait_for_function('shown.length === 3')
        assert page.evaluate('shown') == ['connected', 42, 'closed 1000']
        assert page.evaluate('rpc.state()') == 'destroyed'


def test_the_box_of_arguments_is_true(browser: Any) -> None:
    text = README.read_text()
    rows = re.findall(r'^``rpc\.(\S.*?)`` +``f\((.*)\)``$', text,
                      re.MULTILINE)
    assert len(rows) == 7
    root = Blank()
    root.api = api_with_calc()
    with api_served(root) as server, opened(browser) as page:
        calls = ', '.join(f'await rpc.{call}' for call, _ in rows)
        calls = calls.replace("'f'", "'shape'").replace('.f(', '.shape(')
        in_page(page, server, f'show([{calls}]);')
        got, = page.evaluate('shown')

    def f(*args: Any, **kwargs: Any) -> Any:
        return [list(args), kwargs]

    assert got == [eval(f'f({given})', {'f': f}) for _, given in rows]


def test_an_event_reaches_the_page(browser: Any) -> None:
    members = {'room.42': [None]}
    made = run('code-pushes', MEMBERS=members, Api=api_with_calc)
    root = made.Root()
    root.blank = Blank().blank
    with serving(root, made.config) as server, opened(browser) as page:
        with server.peer('/api') as peer:
            assert peer.call('rpc.subscribe', ['room.42'])
            for topic in ('room.43', 'typing', 'secret'):
                with pytest.raises(CallFailed, match='-32012'):
                    peer.call('rpc.subscribe', [topic])
        in_page(page, server, block('code-subscribe'))
        page.wait_for_function('shown.includes("joined null")')
        assert server.http('/notify?msg=Hello').body == b'sent\n'
        page.wait_for_function('shown.length === 3')
        assert page.evaluate('shown').count('Hello') == 2


def test_an_error_is_caught_as_the_readme_says(browser: Any) -> None:
    root = Blank()
    root.api = run('code-errors').Shop()
    with api_served(root) as server, opened(browser) as page:
        in_page(page, server, block('code-catch'))
        told = re.findall(r'show\((.*)\); +// ([^;\n]*)',
                          block('code-catch'))
        assert page.evaluate('shown') == [
            page.evaluate(f'({expected})') for _, expected in told]
        with server.peer('/api') as peer:
            with pytest.raises(CallFailed) as caught:
                peer.call('find', ['x'])
            assert (caught.value.code, caught.value.message) == (
                404, 'no such item')
            with pytest.raises(CallFailed) as caught:
                peer.call('crash')
        error = caught.value
        wire = f'{error.code} {error.message} {json.dumps(error.data)}'
        log, = server.logged('raised KeyError')
        line = log.splitlines()[0].partition(' ERROR ')[2]
        assert unnumbered(f'{wire}\n{line}\n') == unnumbered(
            block('code-ref'))
        assert error.data['ref'] in line


def unnumbered(text: str) -> str:
    text = re.sub(r'\b[0-9a-f]{8}\b', 'REF', text)
    return re.sub(r'#\d+', '#1', text)


# -- Python on both ends ----------------------------------------------------

def test_the_server_calls_its_client() -> None:
    root = root_of(api=run('code-callback').Api())
    deleted: list[str] = []
    with api_served(root) as server:
        client = cp_wsrpc.Client(server.ws_url('/api'))
        client.route('whoAreYou', lambda: 'a test')
        client.route('confirm', lambda question: question == 'x?')
        client.route('answer', lambda question: f'{question}!')
        client.route('deleted', deleted.append)
        with client:
            assert client.proxy.visitor(lang='en') == 'a test'
            assert [client.proxy.visitor.count() for _ in '12'] == [1, 2]
            assert client.proxy.delete('x') is True
            assert client.proxy.delete('y') is False
            assert client.proxy.ask('a') == 'a!'
            assert client.proxy.forward('b') == 'b!'
            wait_until(lambda: deleted)
        assert deleted == ['x']


def test_the_client_runs() -> None:
    with serving(root_of(api=api_with_calc()), {'/api': {
            'tools.wsrpc.on': True,
            'tools.wsrpc.subscribe': ['news']}}) as server:
        text = block('code-client').replace('ws://localhost:8080',
                                            server.ws_url(''))
        printed: list[Any] = []
        exec(text, {'print': printed.append})
    assert printed == [3, 3]


def test_the_shell_prints_what_the_readme_says() -> None:
    with api_served(root_of(api=api_with_calc())) as server:
        session = session_of('code-shell')
        assert len(session) == 2
        for command, printed in session:
            assert printed == shell(
                command, {'ws://localhost:8080': server.ws_url('')})


def session_of(name: str) -> list[tuple[str, str]]:
    """(command, what it prints), for each line with a ``$``."""
    return re.findall(r'\$ (.*)\n((?:[^$].*\n)*)', block(name))


def shell(command: str, places: dict[str, str]) -> str:
    """What ``python ...`` prints, with our URLs for those printed."""
    for printed, ours in places.items():
        command = command.replace(printed, ours)
    words = shlex.split(command)
    assert words[0] == 'python'
    done = subprocess.run([sys.executable, *words[1:]], cwd=ROOT,
                          capture_output=True, text=True, timeout=20,
                          check=False)
    assert done.returncode == 0, done
    return done.stdout


def test_a_plain_handler_runs() -> None:
    made = run('code-handler')
    with serving(root_of(), made.config) as server:
        with server.peer('/chat') as one, server.peer('/chat') as other:
            assert one.recv_text() == other.recv_text() == 'Welcome!'
            one.send_text('hello')
            assert one.recv_text() == other.recv_text() == 'hello'


def test_a_guarded_method_is_left_out_with_the_line_of_the_readme() -> None:
    made = run('code-guard')
    with logging_as_usual(root_of(api=made.Api()), made.config) as server:
        with server.peer('/api') as peer:
            assert peer.call('admin.health') == 'fine'
            with pytest.raises(CallFailed, match='-32601'):
                peer.call('admin.drop')
        assert cherrypys_lines(server, 'left out') == [
            block('code-guard-warning').strip()]


def cherrypys_lines(server: Any, text: str) -> list[str]:
    """The lines of CherryPy's log with ``text``, without their time."""
    return [line.partition('] ')[2] for line in server.logged(text)
            if line.startswith('cherrypy.error ')]


@pytest.mark.parametrize('roles, fate', [(['editor'], 5), ([], None)])
def test_a_role_is_asked_for(roles: list[str], fate: Any) -> None:
    made = run('code-authorize')
    user = SimpleNamespace(roles=roles)
    with serving(root_of(api=made.Api()), {'/api': {
            'tools.wsrpc.on': True, 'tools.wsrpc.user': lambda: user,
            'tools.wsrpc.authorize': made.authorize}}) as server:
        with server.peer('/api') as peer:
            if fate is not None:
                assert peer.call('save', ['hello']) == fate
            else:
                with pytest.raises(CallFailed, match='-32601'):
                    peer.call('save', ['hello'])


def test_a_call_is_a_transaction(need: Callable[[str], str],
                                 tmp_path: pathlib.Path,
                                 monkeypatch: pytest.MonkeyPatch) -> None:
    need('python:sqlalchemy')
    monkeypatch.chdir(tmp_path)
    made = run('code-around')
    with made.Session.begin():
        made.Session.execute(made.text('CREATE TABLE note (text)'))
    with serving(root_of(notes=made.Notes()), made.config) as server:
        with server.peer('/notes') as peer:
            assert peer.call('add', ['one']) == 1
            with pytest.raises(CallFailed, match='422'):
                peer.call('add', [''])
            assert peer.call('add', ['two']) == 2
    made.Session.bind = None
    made.Session.remove()
    made.Session.session_factory.kw['bind'].dispose()


def test_a_tenant_and_a_timer_surround_a_call() -> None:
    lines: list[str] = []
    log = SimpleNamespace(info=lambda *said: lines.append(said[0] % said[1:]))
    made = run('code-tenant', contextlib=contextlib, contextvars=contextvars,
               time=time, log=log)

    class Api:
        @cp_wsrpc.expose
        def whose(self) -> str:
            return made.tenant.get()

    with serving(root_of(api=Api()), {'/api': {
            'tools.wsrpc.on': True, 'tools.wsrpc.user': lambda: 'ada',
            'tools.wsrpc.around': made.around}}) as server:
        with server.peer('/api') as peer:
            assert peer.call('whose') == 'ada'
    assert re.fullmatch(r'whose took \d+\.\d ms', lines[0])


def test_the_test_of_the_readme_passes() -> None:
    run('code-testing').test_say()


def test_one_method_has_options_of_its_own() -> None:
    user = ['ada']
    with serving(root_of(api=run('code-expose').Import()), {'/api': {
            'tools.wsrpc.on': True,
            'tools.wsrpc.user': lambda: user[0]}}) as server:
        with server.peer('/api') as peer:
            assert peer.call('import', [['a', 'b']]) == 2
        user[0] = 'eve'
        with server.peer('/api') as peer:
            with pytest.raises(CallFailed, match='-32601'):
                peer.call('import', [['a', 'b']])


@pytest.mark.parametrize('shape, sentence', [
    (['[1]'], 'add(a: int, b: int) takes 2 arguments, 1 given: '
              'try [1, 2] or {"a": 1, "b": 2}'),
    (['["x", 1]'], 'a: expected int, got str, in add(a: int, b: int)')])
def test_a_wrong_argument_is_answered_as_the_readme_says(
        shape: list[str], sentence: str) -> None:
    assert f'    {sentence}\n' in README.read_text()
    with api_served(root_of(api=api_with_calc().calc)) as server:
        with server.peer('/api') as peer:
            with pytest.raises(CallFailed) as caught:
                peer.call('add', json.loads(shape[0]))
    assert (caught.value.code, caught.value.message) == (-32602, sentence)


# -- config -----------------------------------------------------------------

def config_of(name: str) -> dict[str, Any]:
    return dict(reprconf.Parser().dict_from_file(io.StringIO(block(name))))


def test_the_config_file_sets_it_up() -> None:
    config = config_of('code-ini')
    settings = config.pop('global')
    with serving(root_of(api=api_with_calc()), config,
                 settings=settings) as server:
        assert cherrypy.engine.wsrpc.thread_pool == 20
        with server.peer('/api') as peer:
            assert abs(peer.call('getTime') - time.time()) < 60
            assert peer.call('rpc.subscribe', ['news'])
            with pytest.raises(CallFailed, match='-32012'):
                peer.call('rpc.subscribe', ['log.x'])


def test_a_misspelt_option_is_named_as_the_page_of_options_says() -> None:
    with pytest.raises(ChannelFailures) as caught:
        with serving(root_of(api=api_with_calc()), {
                '/api': {'tools.wsrpc.subscrbe': ['news']}}):
            raise AssertionError('it started')
    error, = caught.value.get_instances()
    assert isinstance(error, cp_wsrpc.ConfigError)
    assert f'{error}\n' == block('code-misspelt')


def test_the_sizes_are_options_of_cherrypy() -> None:
    settings = config_of('code-sizes')['global']
    with serving(root_of(), settings=settings):
        assert cherrypy.server.httpserver.request_queue_size == 1024
        assert cherrypy.server.httpserver.requests.min == 20
        assert cherrypy.engine.wsrpc.thread_pool == 20


# -- the wire ---------------------------------------------------------------

@pytest.mark.parametrize('name', [
    'wire-jsonrpc', 'wire-wsrpc1', 'wire-wsrpc2', 'wire-topics', 'wire-retry'])
def test_the_wire_says_what_the_page_of_the_protocol_says(name: str) -> None:
    lines = [(line[:3], line[4:]) for line in block(name).splitlines()]
    assert {way for way, _ in lines} == {'-->', '<--'}
    with serving(root_of(api=api_with_calc()), {'/api': {
            'tools.wsrpc.on': True, 'tools.wsrpc.subscribe': ['news'],
            'tools.wsrpc.publish': ['news']}}) as server:
        with server.peer('/api') as peer:
            assert_said(peer, lines)


def assert_said(peer: Any, lines: list[tuple[str, str]]) -> None:
    for way, text in lines:
        if way == '-->':
            peer.send_text(text)
        else:
            assert peer.recv_json() == json.loads(text)
    # Nothing else was said.
    peer.send_text('{"jsonrpc":"2.0","method":"rpc.ping","id":99}')
    assert peer.recv_json()['id'] == 99


def test_a_gap_is_told_as_the_page_of_the_protocol_says(
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, 'new_epoch', lambda: 'kX3pQ9_a')
    lines = [(line[:3], line[4:])
             for line in block('wire-recovery').splitlines()]
    with serving(root_of(api=api_with_calc()), {'/api': {
            'tools.wsrpc.on': True, 'tools.wsrpc.subscribe': ['items'],
            'tools.wsrpc.publish': ['items']}},
            engine={'wsrpc.topics': {'items': {}}}) as server:
        with server.peer('/api') as peer:
            assert_said(peer, lines)


# -- topics with history ----------------------------------------------------

PUSHING = ROOT / 'docs' / 'pushing.rst'


def test_the_page_of_pushing_has_every_option_of_a_topic() -> None:
    told = dict(re.findall(r'^``(\w+)`` +``(\S+)``  ', PUSHING.read_text(),
                           re.MULTILINE))
    assert {name: f'``{value}``' for name, value in told.items()} == {
        name: written(value)
        for name, value in history.Retention()._asdict().items()}


def test_the_topics_of_the_page_keep_what_it_says() -> None:
    settings = config_of('code-topics')['global']
    with serving(root_of(), settings=settings):
        for topic in ('items', 'chat.x', 'price.used'):
            epoch, offset = cp_wsrpc.publish(topic, 9, key='car-7')
            assert (bool(epoch), offset) == (True, 1)
        for topic in ('chat.private', 'mouse', 'other'):
            assert cp_wsrpc.publish(topic, 9) is None


def test_a_page_begins_with_a_state_and_misses_nothing(
        browser: Any) -> None:
    made = run('code-state', threading=threading, Api=api_with_calc)
    between = iter(['two'])

    class Root(Blank, made.Root):       # type: ignore[name-defined]
        @cherrypy.expose
        @cherrypy.tools.json_out()
        def state(self) -> Any:
            told = super().state()
            for item in between:
                self.add(item)
            return told

    root = Root()
    with serving(root, {'/api': {'tools.wsrpc.on': True,
                                 'tools.wsrpc.subscribe': ['items']}},
                 engine={'wsrpc.topics': {'items': {}}}) as server, \
            opened(browser) as page:
        assert server.http('/add?item=one').body == b'added\n'
        in_page(page, server, block('code-since'))
        page.wait_for_function('shown.length === 2')
        server.http('/add?item=three')
        page.wait_for_function('shown.length === 3')
        assert page.evaluate('shown') == [['one'], 'two', 'three']


def test_programs_push_through_redis_as_the_page_says(
        need: Callable[[str], str]) -> None:
    need('python:redis')
    from .redis_server import redis_server
    root = root_of(api=api_with_calc())
    broker = config_of('code-broker')['global']['engine.wsrpc.broker']
    at = 'redis://localhost:6379/0'
    with redis_server(need('redis-server')) as redis, serving(
            root, {'/api': {'tools.wsrpc.on': True,
                            'tools.wsrpc.subscribe': ['news'],
                            'tools.wsrpc.publish': ['typing']}},
            engine={'wsrpc.broker': broker.replace(at, redis.url),
                    'wsrpc.topics': {'news': {}}}) as server:
        with server.peer('/api') as peer:
            peer.call('rpc.subscribe', ['news'])
            exec(block('code-publisher').replace(at, redis.url),
                 {'cp_wsrpc': cp_wsrpc})
            assert peer.recv_json()['params']['result'] == {
                'msg': 'the night run is done'}
            assert peer.recv_json()['method'] == 'reload'
            printed = [shell(command, {at: redis.url, 'http://localhost:8080':
                                       server.url('')}) for command, _
                       in session_of('code-shell-publish')]
            assert peer.recv_json()['params']['result'] == {'msg': 'hi'}
    expected = [text for _, text in session_of('code-shell-publish')]
    assert [re.sub(r'"epoch": "[^"]+"', '"epoch": "kX3pQ9_a"', text)
            for text in printed] == expected


def test_who_comes_and_goes_as_the_page_of_the_protocol_says(
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, 'new_epoch', lambda: 'kX3pQ9_a')
    lines = [(line[:3], line[4:])
             for line in block('wire-presence').splitlines()]
    with serving(root_of(api=api_with_calc()), {'/api': {
            'tools.wsrpc.on': True, 'tools.wsrpc.subscribe': ['room'],
            'tools.wsrpc.user': lambda: 'ada'}}, engine={
            'wsrpc.topics': {'room': {'presence': True,
                                      'presence_grace_s': 0}}}) as server:
        with server.peer('/api') as peer:
            assert_said(peer, lines)


def test_who_is_there_is_told_as_the_page_says() -> None:
    with serving(root_of(api=api_with_calc()), {'/api': {
            'tools.wsrpc.on': True, 'tools.wsrpc.user': lambda: 'ada',
            'tools.wsrpc.subscribe': ['room.*']}},
            settings=config_of('code-presence')['global']) as server:
        with server.peer('/api') as one, server.peer('/api') as two:
            for peer in (one, two):
                peer.call('rpc.subscribe', ['room.7'])
            found = run('code-who').found
            assert [(present.user, present.count, len(present.connections))
                    for present in found.users] == [('ada', 2, 2)]


def test_a_page_follows_who_is_there(browser: Any) -> None:
    with serving(root_of(api=api_with_calc(), blank=Blank().blank), {'/api': {
            'tools.wsrpc.on': True, 'tools.wsrpc.user': lambda: 'ada',
            'tools.wsrpc.subscribe': ['room.*']}},
            settings=config_of('code-presence')['global']) as server, \
            opened(browser) as page:
        in_page(page, server, block('code-presence-js'))
        page.wait_for_function('shown.length === 1')
        with server.peer('/api') as peer:
            peer.call('rpc.subscribe', ['room.7'])
            page.wait_for_function('shown.length === 2')
        assert page.evaluate('shown') == [[], ['ada']]


def test_what_is_for_one_user_is_as_the_page_says() -> None:
    with serving(root_of(api=api_with_calc()), {'/api': {
            'tools.wsrpc.on': True, 'tools.wsrpc.user': lambda: 'ada',
            'tools.wsrpc.subscribe': ['orders']}}) as server:
        with server.peer('/api') as ada:
            ada.call('rpc.subscribe', ['orders'])
            run('code-user')
            assert ada.recv_json()['params']['result'] == {
                'id': 4, 'state': 'sent'}
            assert ada.recv_json()['method'] == 'hello'
            assert ada.recv_close() == (4403, 'blocked')


SHOP = '''
import os
import cherrypy, cp_wsrpc

cherrypy.config.update({
    'server.socket_host': '127.0.0.1', 'server.socket_port': PORT,
    'engine.autoreload.on': False})

class Root:
    class Api:
        @cp_wsrpc.expose
        def pid(self):
            return os.getpid()
    api = Api()

config = {'/api': {'tools.wsrpc.on': True}}
'''


def test_processes_share_a_port(tmp_path: pathlib.Path) -> None:
    port = free_port()
    (tmp_path / 'shop.py').write_text(SHOP.replace('PORT', str(port)))
    program = tmp_path / 'start.py'
    program.write_text(block('code-reuse-port'))
    with spawn(str(program), ready='Bus STARTED', cwd=tmp_path) as one, \
            spawn(str(program), ready='Bus STARTED', cwd=tmp_path) as other:
        seen = set()

        def both_have_answered() -> bool:
            with RawPeer(port, '/api') as peer:
                seen.add(peer.call('pid'))
            return seen == {one.pid, other.pid}

        wait_until(both_have_answered)
        assert one.terminate() == other.terminate() == 0


# -- nginx ------------------------------------------------------------------

NGINX_AROUND = '''\
daemon off;
pid nginx.pid;
error_log stderr;
events {}
http {
    access_log off;
    client_body_temp_path temp_body;
    proxy_temp_path temp_proxy;
    fastcgi_temp_path temp_fastcgi;
    uwsgi_temp_path temp_uwsgi;
    scgi_temp_path temp_scgi;
    include site.conf;
}
'''


class Front(NamedTuple):
    port: int
    tls: ssl.SSLContext


@contextlib.contextmanager
def nginx_of_the_readme(need: Callable[[str], str], folder: pathlib.Path,
                        to_port: int) -> Iterator[Front]:
    """The lines as printed, but for ports and the place of certificates."""
    from .test_nginx import CONF, make_certificate
    nginx, openssl = need('nginx'), need('openssl')
    make_certificate(openssl, CONF.read_text(), folder)
    port, site = free_port(), block('code-nginx')
    for printed, ours in (
            ('listen 443 ssl', f'listen 127.0.0.1:{port} ssl'),
            ('127.0.0.1:8080', f'127.0.0.1:{to_port}'),
            ('/etc/ssl/example.com.pem', 'cert.pem'),
            ('/etc/ssl/example.com.key', 'key.pem')):
        assert printed in site
        site = site.replace(printed, ours)
    (folder / 'site.conf').write_text(site)
    (folder / 'nginx.conf').write_text(NGINX_AROUND)
    tls = ssl.create_default_context(cafile=str(folder / 'cert.pem'))
    with spawn(nginx, '-p', str(folder), '-c', 'nginx.conf'):
        wait_until(lambda: answers(port, tls), what='nginx')
        yield Front(port, tls)


def answers(port: int, tls: ssl.SSLContext) -> bool:
    try:
        return http_request(port, '/api/wsrpc.js', tls=tls).status == 200
    except OSError:
        return False


def test_the_lines_for_nginx_work_as_printed(
        need: Callable[[str], str], tmp_path: pathlib.Path) -> None:
    with serving(root_of(api=api_with_calc()),
                 config_of('code-nginx-app')) as server:
        with nginx_of_the_readme(need, tmp_path, server.port) as front:
            mine = {'Host': 'example.com', 'Origin': 'https://example.com'}
            for path in ('/api', '/live/api'):
                with RawPeer(front.port, path, mine, tls=front.tls) as peer:
                    assert peer.status == 101, peer.body
                    assert peer.call('calc.add', [1, 2]) == 3
                assert http_request(front.port, f'{path}/wsrpc.js',
                                    tls=front.tls).status == 200
            for headers in ({'Origin': 'http://example.com'},
                            {'Origin': 'https://evil.example'},
                            {'Origin': 'https://evil.example',
                             'X-Forwarded-Host': 'evil.example'},
                            {'Host': 'evil.example',
                             'Origin': 'https://evil.example'}):
                with RawPeer(front.port, '/api', {**mine, **headers},
                             tls=front.tls) as peer:
                    assert peer.status == 403, headers


# -- it does not connect ----------------------------------------------------

class Refusal(NamedTuple):
    """How to provoke a line, and what its text says to paste."""

    name: str
    status: int
    headers: dict[str, Any]
    config: dict[str, Any] = {}
    cure: dict[str, Any] = {}
    cured_headers: dict[str, Any] = {}
    version: str = 'HTTP/1.1'


KNOWN = {'tools.wsrpc.hosts': ['example.com']}
REFUSALS = [
    Refusal('code-log-origin-scheme', 403,
            {'Host': 'example.com', 'Origin': 'https://example.com'}, KNOWN,
            {'tools.proxy.on': True}, {'X-Forwarded-Proto': 'https'}),
    Refusal('code-log-origin-scheme', 403,
            {'Host': 'example.com', 'Origin': 'https://example.com'}, KNOWN,
            {'tools.wsrpc.origins': ['https://example.com']}),
    Refusal('code-log-origin-port', 403,
            {'Host': 'example.com', 'Origin': 'http://example.com:8081'},
            KNOWN, {}, {'Host': 'example.com:8081'}),
    Refusal('code-log-origin-site', 403,
            {'Host': 'example.com', 'Origin': 'https://app.example.net'},
            KNOWN, {'tools.wsrpc.origins': ['https://app.example.net']}),
    Refusal('code-log-host', 403, {'Host': 'example.com'}, {}, KNOWN),
    Refusal('code-log-host', 403, {'Host': 'example.com'}, {},
            {'tools.proxy.on': True,
             'tools.proxy.base': 'https://example.com'}),
    # What nginx sends without its lines.
    Refusal('code-log-proxy', 426, {'Upgrade': None, 'Connection': 'close'},
            version='HTTP/1.0'),
]


@pytest.mark.parametrize('refusal', REFUSALS, ids=lambda case: case.name)
def test_a_refused_handshake_has_its_line_and_its_cure(
        refusal: Refusal) -> None:
    config = {'tools.wsrpc.on': True, **refusal.config}
    root = root_of(api=api_with_calc())
    with logging_as_usual(root, {'/api': config}) as server:
        with server.peer('/api', headers=refusal.headers,
                         version=refusal.version) as peer:
            assert peer.status == refusal.status
        wait_until(lambda: cherrypys_lines(server, 'handshake answered'))
        assert cherrypys_lines(server, 'handshake answered') == [
            block(refusal.name).strip()]
    if refusal.cure or refusal.cured_headers:
        config.update(refusal.cure)
        with serving(root, {'/api': config}) as server:
            with server.peer('/api', headers={
                    **refusal.headers, **refusal.cured_headers}) as peer:
                assert peer.status == 101, peer.body


def not_signed_in() -> None:
    raise cherrypy.HTTPError(401)


def to_the_login() -> None:
    raise cherrypy.HTTPRedirect('/login')


def test_a_login_has_its_lines_and_its_cure(
        monkeypatch: pytest.MonkeyPatch) -> None:
    lines = []
    for guard in (not_signed_in, to_the_login):
        monkeypatch.setattr(cherrypy.tools, 'login',
                            cherrypy.Tool('before_handler', guard),
                            raising=False)
        config = {'/': {'tools.login.on': True},
                  '/api': {'tools.wsrpc.on': True}}
        root = root_of(api=api_with_calc())
        with logging_as_usual(root, config) as server:
            with server.peer('/api') as peer:
                assert peer.status in (401, 303)
            wait_until(lambda: cherrypys_lines(server, 'handshake answered'))
            lines += [line.replace(str(server.port), '8080') for line in
                      cherrypys_lines(server, 'handshake answered')]
        config['/api']['tools.login.on'] = False
        with serving(root, config) as server, server.peer('/api') as peer:
            assert peer.status == 101
    assert lines == block('code-log-login').splitlines()


def test_a_wrong_url_has_its_lines() -> None:
    class Keeper(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            kept.append(record.getMessage())

    kept: list[str] = []
    keeper, logger = Keeper(), logging.getLogger('cherrypy.access')
    logger.addHandler(keeper)
    try:
        with logging_as_usual(root_of(api=api_with_calc().calc),
                              {'/api': {'tools.wsrpc.on': True}}) as server:
            with server.peer('/apl') as peer:
                assert peer.status == 404
            wait_until(lambda: kept)
            kept += cherrypys_lines(server, 'wsrpc endpoint')
    finally:
        logger.removeHandler(keeper)

    def undated(line: str) -> str:
        return re.sub(r'\[.*?\]|404 \d+', '', line)

    assert list(map(undated, kept)) == list(map(
        undated, block('code-log-missing').splitlines()))


def test_a_full_server_has_its_line_and_its_cure() -> None:
    with logging_as_usual(root_of(api=api_with_calc()),
                          {'/api': {'tools.wsrpc.on': True}},
                          engine={'wsrpc.max_connections': 1}) as server:
        with server.peer('/api') as first:
            assert first.call('calc.add', [1, 2]) == 3
            with server.peer('/api') as second:
                assert second.status == 503
            wait_until(lambda: cherrypys_lines(server, 'answered 503'))
            line, = cherrypys_lines(server, 'answered 503')
            assert line == block('code-log-full').strip().replace('824', '1')
            cherrypy.engine.wsrpc.max_connections = 2
            with server.peer('/api') as second:
                assert second.status == 101


@pytest.mark.parametrize('path, config, code, status', [
    ('/apl', {}, 4403, 404),
    ('/api', {'tools.wsrpc.hosts': ['example.com']}, 4403, 403),
    ('/api', {'tools.login.on': True}, 4401, 401)])
def test_the_page_is_told_why_it_does_not_connect(
        browser: Any, monkeypatch: pytest.MonkeyPatch, path: str,
        config: dict[str, Any], code: int, status: int) -> None:
    monkeypatch.setattr(cherrypy.tools, 'login',
                        cherrypy.Tool('before_handler', not_signed_in),
                        raising=False)
    root = Blank()
    root.api = api_with_calc()
    root.open = api_with_calc()
    with serving(root, {'/api': {'tools.wsrpc.on': True, **config},
                        '/open': {'tools.wsrpc.on': True}}) as server, \
            opened(browser) as page:
        page.goto(server.url('/blank'))
        page.add_script_tag(url=server.url('/open/wsrpc.js'))
        told = page.evaluate('''path => new Promise(resolve => {
            const rpc = WSRPC(path);
            rpc.addEventListener('onerror', () => {});
            rpc.onEvent('onclose', ({code, status}) => {
                rpc.destroy(); resolve([code, status]); });
            rpc.connect(); })''', path)
    assert told == [code, status]
