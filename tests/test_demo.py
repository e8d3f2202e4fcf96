"""The demo without a browser: its server, its clients, its INI file."""
from __future__ import annotations

import json
import pathlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from .browsing import demo
from .rawpeer import CallFailed, RawPeer, http_request
from .serving import ROOT, free_port, spawn, wait_until

CLIENTS = ROOT / 'demo' / 'clients'


@pytest.fixture(scope='module')
def port() -> Iterator[int]:
    with demo() as (_process, port):
        yield port


def recv_starting(peer: RawPeer, start: str) -> str:
    """The first message that begins so; what others caused is skipped."""
    while not (text := peer.recv_text()).startswith(start):
        pass
    return text


CALLS = [
    ('calc.add', [42, 23], 65),
    ('calc.add', {'a': 1, 'b': 2}, 3),
    ('calc.divide', [1, 4], 0.25),
    ('test.serverSideFunction', [1, 2], [[1, 2], {}]),
    ('test.serverSideFunction', {'size': 1}, [[], {'size': 1}]),
    ('test.serverSideFunction', None, [[], {}]),
    ('ping', None, 'pong'),
]


@pytest.mark.parametrize(('name', 'params', 'result'), CALLS)
def test_a_call_is_answered(port: int, name: str, params: object,
                            result: object) -> None:
    with RawPeer(port, '/api') as peer:
        assert peer.call(name, params) == result


FAILURES = [
    ('calc.divide', [1, 0], -32000, 'division by zero'),
    ('calc.add', [1, 2.5], -32602, 'int'),
    ('calc.add', ['two', 1], -32602, 'int'),
    ('slow', [11], -32602, '10'),
    ('chat.say', [''], -32602, '1'),
    ('total.add', [1e300], -32602, '1'),
    ('fail', ['no such cherry'], 1404, 'no such cherry'),
    ('notify', ['x'], -32601, 'not found'),
    ('Root.notify', ['x'], -32601, 'not found'),
]


@pytest.mark.parametrize(('name', 'params', 'code', 'says'), FAILURES)
def test_a_call_fails_with_its_reason(port: int, name: str, params: object,
                                      code: int, says: str) -> None:
    with RawPeer(port, '/api') as peer:
        with pytest.raises(CallFailed) as caught:
            peer.call(name, params)
    assert caught.value.code == code
    assert says in caught.value.message


def test_an_exception_shows_its_type_and_traceback(port: int) -> None:
    with RawPeer(port, '/api') as peer:
        with pytest.raises(CallFailed) as caught:
            peer.call('calc.divide', [1, 0])
    assert caught.value.data['type'] == 'ZeroDivisionError'
    assert 'return a / b' in caught.value.data['traceback']


def test_the_route_counts_each_connection_for_itself(port: int) -> None:
    with RawPeer(port, '/api') as one, RawPeer(port, '/api') as other:
        assert [one.call('test.count') for _ in range(3)] == [1, 2, 3]
        assert other.call('test.count') == 1


def test_blocking_and_async_methods_say_where_they_ran(port: int) -> None:
    with RawPeer(port, '/api') as peer:
        assert peer.call('slow', [0.01]).startswith('wsrpc-worker')
        assert peer.call('later', [0.01]) == 'wsrpc-io'


@pytest.mark.parametrize(('path', 'said', 'heard'), [
    ('/echo', 'hello', 'HELLO'),
    ('/echo', 'stra\u00dfe', 'STRASSE'),
    ('/said', 'hello', 'You said: hello'),
    ('/total', 'abc', "'abc' is not a number that can be added: "
                      'send one such as 5 or 2.5'),
    ('/total', 'nan', "'nan' is not a number that can be added: "
                      'send one such as 5 or 2.5'),
    ('/total', '1e300', "'1e300' is not a number that can be added: "
                        'send one such as 5 or 2.5'),
    ('/total', '', "'' is not a number that can be added: "
                   'send one such as 5 or 2.5'),
])
def test_a_plain_handler_answers(port: int, path: str, said: str,
                                 heard: str) -> None:
    with RawPeer(port, path) as peer:
        if path == '/echo':
            assert peer.recv_text() == 'Welcome!'
        peer.send_text(said)
        assert peer.recv_text() == heard


def test_the_total_is_told_to_all_sockets_and_clients(port: int) -> None:
    with RawPeer(port, '/total') as one, RawPeer(port, '/total') as other, \
            RawPeer(port, '/api') as page:
        page.call('ping')
        other.send_text('abc')          # it is there when it is answered
        other.recv_text()
        one.send_text('5')
        news = recv_starting(one, 'Server records total=')
        assert other.recv_text() == news
        assert page.recv_json()['params'] == [news]
        after = int(news.partition('=')[2]) + 2
        assert page.call('total.add', [2]) == after
        assert one.recv_text() == f'Server records total={after}'


def test_what_one_sends_to_ws_all_of_its_sockets_get(port: int) -> None:
    with RawPeer(port, '/ws') as one, RawPeer(port, '/ws') as other:
        one.send_text('first')          # so that both are known to be there
        assert one.recv_text() == 'first'
        other.send_text('second')
        assert recv_starting(other, 'second') == 'second'
        assert one.recv_text() == 'second'


def test_notify_reaches_functions_topics_and_raw_sockets(port: int) -> None:
    with RawPeer(port, '/api') as page, RawPeer(port, '/ws') as raw, \
            RawPeer(port, '/echo') as echo:
        page.call('rpc.subscribe', ['news'])
        raw.send_text('here')
        raw.recv_text()
        answer = http_request(port, '/notify?msg=HelloWorld')
        assert answer.status == 200
        assert re.fullmatch(rb'sent to [1-9]\d* RPC clients and [1-9]\d* '
                            rb'more\n', answer.body)
        told = [page.recv_json(), page.recv_json()]
        assert [message['method'] for message in told] == [
            'notify', 'rpc.subscription']
        assert told[0]['params'] == ['HelloWorld']
        assert told[1]['params']['result'] == {'msg': 'HelloWorld'}
        assert raw.recv_text() == 'HelloWorld'
        assert echo.recv_text() == 'Welcome!'
        echo.send_text('only this')
        assert echo.recv_text() == 'ONLY THIS'


def test_what_notify_answers_is_never_read_as_html(port: int) -> None:
    answer = http_request(port, '/notify?msg=%3Cscript%3E')
    assert 'text/plain' in answer.headers['content-type']
    assert b'script' not in answer.body


def test_topics_that_the_demo_does_not_name_are_refused(port: int) -> None:
    with RawPeer(port, '/api') as peer:
        with pytest.raises(CallFailed) as caught:
            peer.call('rpc.subscribe', ['secrets'])
        assert caught.value.code == -32012


def test_the_page_shows_the_source_of_every_example(port: int) -> None:
    sources = json.loads(http_request(port, '/source').body)
    assert 'return a + b' in sources['calc.add']
    page = (ROOT / 'demo' / 'page' / 'index.html').read_text()
    wanted = {name for part in page.split('data-source="')[1:]
              for name in part.split('"')[0].split()}
    assert wanted <= set(sources)
    assert all(sources.values())


# ---- the clients ---------------------------------------------------------

def test_the_subscriber_prints_length_and_text(port: int) -> None:
    with spawn(CLIENTS / 'subscriber.py', f'ws://127.0.0.1:{port}/ws',
               ready='listening') as process:
        heard_by_one(port, 'HelloWorld',
                     lambda: '=> 10 HelloWorld\n' in process.output)
        http_request(port, '/notify?msg=Gr%C3%BC%C3%9Fe')
        process.wait_for('=> 5 Gr\u00fc\u00dfe')


def heard_by_one(port: int, text: str, heard: Callable[[], bool]) -> None:
    """Notify until ``heard()``: the program's ``opened`` may come before
    the server's."""
    wait_until(lambda: (http_request(port, f'/notify?msg={text}').status
                        == 200 and heard()))


def test_the_echo_client_prints_greeting_and_answer(port: int) -> None:
    done = run(CLIENTS / 'echo.py', 'Hello,', 'World',
               '--url', f'ws://127.0.0.1:{port}/echo')
    assert done.splitlines() == ['Welcome!', 'HELLO, WORLD']


def test_the_total_client_reads_numbers(port: int) -> None:
    done = run(CLIENTS / 'total.py', f'ws://127.0.0.1:{port}/total',
               given='5\n2.5\nabc\n')
    first, second, third = done.splitlines()
    start = float(first.removeprefix('Server records total='))
    assert second == f'Server records total={start + 2.5}'
    assert third.startswith("'abc' is not a number")


def test_the_rpc_client_calls_is_called_and_listens(port: int) -> None:
    with spawn(CLIENTS / 'rpc.py', f'ws://127.0.0.1:{port}/api',
               ready='listening') as process:
        assert 'calc.add(42, 23) = 65' in process.output
        assert 'raised ZeroDivisionError: division by zero' in process.output
        assert 'and heard: Python 3.' in process.output
        heard_by_one(port, 'HelloWorld',
                     lambda: "news: {'msg': 'HelloWorld'}" in process.output)


def run(program: pathlib.Path, *args: str, given: str = '') -> str:
    done = subprocess.run([sys.executable, str(program), *args],
                          input=given, capture_output=True, text=True,
                          timeout=20, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


# ---- the INI file --------------------------------------------------------

@pytest.mark.parametrize('command', [
    ('demo', '--config'),
    ('cherrypy', '-i', 'demo.application', '-c'),
])
def test_the_ini_file_alone_sets_all_of_it_up(
        command: tuple[str, ...], tmp_path: pathlib.Path) -> None:
    port = free_port()
    conf = tmp_path / 'app.conf'
    text = (ROOT / 'demo' / 'app.conf').read_text()
    assert 'server.socket_port: 8080' in text
    conf.write_text(text.replace('8080', str(port)))
    with spawn(*command, str(conf), ready='Bus STARTED'):
        with RawPeer(port, '/api') as peer:
            assert peer.call('calc.add', [1, 2]) == 3
            assert peer.call('getTime') > 1e9
            assert peer.call('rpc.subscribe', ['news'])
        with RawPeer(port, '/echo') as echo:
            assert echo.recv_text() == 'Welcome!'
        for path, said, heard in [('/said', 'x', 'You said: x'),
                                  ('/ws', 'x', 'x'),
                                  ('/total', '5',
                                   'Server records total=5')]:
            with RawPeer(port, path) as peer:
                peer.send_text(said)
                assert peer.recv_text() == heard
        assert b'cp_wsrpc' in http_request(port, '/').body
        assert http_request(port, '/page/demo.css').status == 200


def test_the_demo_ends_at_once_when_it_is_told_to() -> None:
    with demo() as (process, port):
        with RawPeer(port, '/api') as peer:
            assert peer.call('ping') == 'pong'
            process.popen.terminate()
            assert peer.recv_close()[0] == 1001
        assert process.wait() == 0
