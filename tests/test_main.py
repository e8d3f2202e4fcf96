"""``python -m cp_wsrpc``, as typed in a shell."""
from __future__ import annotations

import json
import signal
import ssl
import subprocess
import sys
import threading

import cherrypy
import pytest

import cp_wsrpc
from cp_wsrpc.__main__ import main

from .processes import ROOT, spawn
from .scripted import refuse, scripted, serve, text
from .serving import certificates, free_port, serving, wait_until


class Api:
    @cp_wsrpc.expose
    def add(self, a: int, b: int):
        return a + b

    @cp_wsrpc.expose
    def echo(self, *args, **kwargs):
        return [args, kwargs]

    @cp_wsrpc.expose
    def fail(self, message):
        raise cp_wsrpc.RPCError(7, message)

    @cp_wsrpc.expose
    def wait(self, seconds):
        threading.Event().wait(seconds)

    @cp_wsrpc.expose
    def close(self, code):
        for connection in cp_wsrpc.connections():
            connection.close(code)


class Root:
    api = Api()


@pytest.fixture
def server():
    with serving(Root(), {'/api': {
            'tools.wsrpc.on': True,
            'tools.wsrpc.subscribe': ['news', 'chat'],
            'tools.wsrpc.publish': ['news', 'kept', 'price']}},
            engine={'wsrpc.topics': {
                'kept': {}, 'price': {'mode': 'latest'}}}) as server:
        yield server


def run(capsys, *arguments):
    """(exit code, stdout, stderr) of one command, in this process."""
    try:
        code = main(list(arguments))
    except SystemExit as error:
        code = error.code
    told = capsys.readouterr()
    return code, told.out, told.err


@pytest.mark.parametrize('arguments, printed', [
    (['add', '1', '2'], '3'), (['add', 'a=1', 'b=2'], '3'),
    (['echo'], '[[], {}]'),
    (['echo', '"é"', '[1]', '{"a": null}'], '[["é", [1], {"a": null}], {}]'),
    (['echo', '-5', '-1e5', '-2.5E-1'], '[[-5, -100000.0, -0.25], {}]'),
    (['echo', 'x="a=b"'], '[[], {"x": "a=b"}]'),
    (['echo', '123456789012345678901234567890'],
     '[[123456789012345678901234567890], {}]')])
def test_a_call_prints_its_result_as_json(capsys, server, arguments,
                                          printed):
    code, out, err = run(capsys, 'call', server.ws_url('/api'), *arguments)
    assert (code, out, err) == (0, printed + '\n', '')


def test_an_error_of_the_method_is_one_line_and_1(capsys, server):
    code, out, err = run(capsys, 'call', server.ws_url('/api'), 'fail',
                         '"a\\nb\\u001b[31m"')
    assert (code, out) == (1, '')
    assert err == 'cp_wsrpc: fail: a\\nb\\x1b[31m (7)\n'


def test_an_unknown_method_is_1(capsys, server):
    code, _, err = run(capsys, 'call', server.ws_url('/api'), 'nope')
    assert code == 1
    assert 'nope: Method not found' in err


@pytest.mark.parametrize('arguments, words', [
    (['call', 'ws://h', 'f', 'hello'], 'a text is written \'"hello"\''),
    (['call', 'ws://h', 'f', '1', 'a=2'], 'all by position'),
    (['call', 'ws://h', 'f', 'timeout=2'], 'by position'),
    (['call', 'ws://h', 'f', 'idempotency_key="a"'], 'by position'),
    (['call', 'ws://h', 'f', '--user', 'a:\udcd0'], 'no Unicode'),
    (['call', 'ws://h', 'f', '-H', 'A: \udcd0'], 'not a header'),
    (['call', 'ftp://h', 'f'], 'no ws, wss'),
    (['call', 'ws://h', 'f', '-H', 'nonsense'], 'is no header'),
    (['call', 'ws://h', 'f', '-H', 'a b: c'], 'not a header'),
    (['listen', 'ws://h'], 'TOPIC'), (['nonsense'], 'nonsense'),
    ([], 'COMMAND')])
def test_a_wrong_command_line_is_2_and_told(capsys, arguments, words):
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, '')
    assert words in err
    assert 'Traceback' not in err


def test_nobody_there_is_3(capsys):
    code, _, err = run(capsys, 'call', f'ws://127.0.0.1:{free_port()}', 'f')
    assert code == 3
    assert err.count('\n') == 1
    assert 'refused' in err


@pytest.mark.parametrize('command', [['call'], ['listen']])
@pytest.mark.parametrize('status', [401, 503])
def test_a_refusal_is_3_and_has_the_status(capsys, status, command):
    with scripted(refuse(status)) as server:
        code, _, err = run(capsys, *command, server.url, 'f')
    assert code == 3
    assert f'answered {status}' in err
    assert err.count('\n') == 1


def test_no_answer_in_time_is_4(capsys, server):
    code, _, err = run(capsys, 'call', server.ws_url('/api'), 'wait', '0.3',
                       '--timeout', '0.05')
    assert code == 4
    assert 'within 0.05 s' in err


def test_headers_and_credentials_are_sent(capsys):
    with scripted(serve({'f': 1})) as server:
        assert run(capsys, 'call', server.url, 'f', '-H', 'Cookie: a=1',
                   '--header', 'X-Y:z', '--user', 'a:b')[0] == 0
        head = server.peers[0].head
    assert 'Cookie: a=1\r\nX-Y: z\r\nAuthorization: Basic YTpi' in head


def test_an_unknown_certificate_is_refused_unless_told_insecure(capsys):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates().certificate,
                            certificates().private_key)
    with scripted(serve({'f': 1}), tls=context) as server:
        code, _, err = run(capsys, 'call', server.url, 'f')
        assert code == 3
        assert 'certificate verify failed' in err
        assert run(capsys, 'call', server.url, 'f', '--insecure')[0] == 0


def test_the_version_is_the_packages(capsys):
    code, out, _ = run(capsys, '--version')
    assert (code, out) == (0, f'cp_wsrpc {cp_wsrpc.__version__}\n')


@pytest.mark.parametrize('arguments', [[], ['call'], ['listen']])
def test_help_tells_the_exit_codes(capsys, arguments):
    code, out, _ = run(capsys, *arguments, '--help')
    assert code == 0
    assert 'exit codes' in out


def test_the_module_runs_as_a_program(server):
    done = subprocess.run(
        [sys.executable, '-m', 'cp_wsrpc', 'call', server.ws_url('/api'),
         'add', '1', '2'], cwd=ROOT, capture_output=True, text=True,
        timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, '3\n', '')


# -- listen ------------------------------------------------------------------

def subscribers(server, topic='news'):
    broker = server.engine.wsrpc.hub.broker
    found = broker._topics.get(topic)
    return len(found.subscribers) if found else 0


def test_events_are_printed_as_they_come_until_ctrl_c(server):
    with spawn('cp_wsrpc', 'listen', server.ws_url('/api'), 'news',
               'chat') as process:
        wait_until(lambda: subscribers(server, 'news')
                   and subscribers(server, 'chat'), 20)
        cp_wsrpc.publish('news', {'msg': 'hi'})
        cp_wsrpc.publish('chat', None)
        process.wait_for('chat')
        process.send_signal(signal.SIGINT)
        assert process.wait() == 0
        lines = [json.loads(line) for line in process.lines]
    assert sorted(lines, key=lambda line: line['topic']) == [
        {'topic': 'chat', 'data': None},
        {'topic': 'news', 'data': {'msg': 'hi'}}]


def test_listening_goes_on_after_a_lost_connection(server):
    with spawn('cp_wsrpc', 'listen', server.ws_url('/api'),
               'news') as process:
        wait_until(lambda: subscribers(server), 20)
        for connection in cp_wsrpc.connections():
            connection.close(1011, 'on purpose')
        process.wait_for(r'lost \(1011: on purpose\)')
        # The old connection may still be subscribed, so once is not enough.
        wait_until(lambda: cp_wsrpc.publish('news', 5)
                   or '"data": 5' in process.output, 10)


def test_a_refused_topic_is_1(capsys, server):
    code, out, err = run(capsys, 'listen', server.ws_url('/api'), 'news',
                         'secret')
    assert (code, out) == (1, '')
    assert 'secret: Topic refused' in err


def test_a_final_close_ends_the_listening_with_3(capsys):
    def script(peer):
        peer.shake()
        call = peer.recv()
        peer.sock.sendall(text({'jsonrpc': '2.0', 'id': call['id'],
                                'result': 's1'}))
        peer.close(4401, 'signed out')

    with scripted(script) as server:
        code, _, err = run(capsys, 'listen', server.url, 'news')
    assert code == 3
    assert '4401' in err
    assert 'signed out' in err


def test_a_reader_that_has_seen_enough_ends_it_quietly(server):
    with subprocess.Popen(
            [sys.executable, '-m', 'cp_wsrpc', 'listen',
             server.ws_url('/api'), 'news'], cwd=ROOT,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            wait_until(lambda: subscribers(server), 20)
            process.stdout.close()
            wait_until(lambda: cp_wsrpc.publish('news', 1)
                       or process.poll() is not None, 20)
            assert (process.returncode, process.stderr.read()) == (0, b'')
        finally:
            process.kill()


# -- publish -----------------------------------------------------------------

def test_publish_prints_the_position_of_the_event(capsys, server):
    for offset in (1, 2):
        code, out, _ = run(capsys, 'publish', server.url('/api'), 'kept',
                           '{"msg": "hi"}')
        said = json.loads(out)
        assert (code, said['offset']) == (0, offset)
    assert run(capsys, 'publish', server.url('/api'), 'news', '5') == (
        0, 'null\n', '')
    with server.peer('/api') as peer:
        assert isinstance(peer.call('rpc.subscribe', ['news']), str)
        run(capsys, 'publish', server.ws_url('/api'), 'news', '{"msg": "hi"}')
        assert peer.recv_json()['params']['result'] == {'msg': 'hi'}


def test_publish_under_a_key_replaces_the_one_before(capsys, server):
    start = cp_wsrpc.publish('price', 0, key='car-1')
    for key, price in (('car-1', 1), ('car-2', 2), ('car-1', 3)):
        assert run(capsys, 'publish', server.url('/api'), 'price', f'{price}',
                   '--key', key)[0] == 0
    found = cherrypy.engine.wsrpc.hub.broker.recover('price', start, 1000)
    assert [text for _, text in found.events] == [b'2', b'3']


@pytest.mark.parametrize('arguments, code, word', [
    (['chat', '5'], 1, 'chat: Topic refused'), (['news', 'hi'], 2, 'JSON'),
    (['news', '5', '--key', 'a' * 201], 1, 'key'), (['news'], 2, 'JSON')])
def test_what_cannot_be_published_is_one_line(capsys, server, arguments,
                                              code, word):
    found, out, err = run(capsys, 'publish', server.ws_url('/api'),
                          *arguments)
    assert (found, out) == (code, '')
    assert word in err
