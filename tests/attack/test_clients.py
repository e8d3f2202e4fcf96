"""Threat C6: a server that means harm to its clients.

The JavaScript client runs in Node, on the ``ws`` package; what it makes of
single messages, tests/js/hostile.test.mjs shows.  The Python client runs
here.
"""
from __future__ import annotations

import contextlib
import itertools
import json
import logging
import resource
import struct
import subprocess
import threading
import time

import pytest

from cp_wsrpc import Client, client_link
from cp_wsrpc.errors import ConnectionLostError, RemoteError

from ..processes import ROOT
from ..scripted import frame, refuse, scripted, text
from ..serving import wait_until
from . import FULL

NAMES = ['__proto__', 'constructor', 'toString', 'then', 'hasOwnProperty',
         'prototype', 'valueOf', '__defineGetter__', '__class__', '__init__',
         '__dict__', '__await__', '__del__', 'result', 'cancel']
EVIL = ('{"__proto__":{"polluted":1},"constructor":{"prototype":'
        '{"polluted":1}},"__class__":"x","then":1}')


def say(peer, message):
    """Send a text with %s for what pollutes."""
    peer.sock.sendall(frame(1, message.replace('%s', EVIL).encode()))


def provoke(peer, id, name):
    """All that bears a name, wrong and unasked."""
    quoted = json.dumps(name)
    for message in (
            f'{{"jsonrpc":"2.0","id":{id},"method":{quoted},"params":%s}}',
            f'{{"jsonrpc":"2.0","method":{quoted},"params":[%s]}}',
            f'{{"jsonrpc":"2.0","id":{quoted},"result":%s}}',
            f'{{"jsonrpc":"2.0","id":{quoted},"error":%s}}',
            f'{{"jsonrpc":"2.0","id":{{{quoted}:1}},"result":1}}',
            f'{{{quoted}:%s}}', f'[{{{quoted}:%s}}]',
            '{"jsonrpc":"2.0","method":"rpc.subscription","params":%s}',
            '{"jsonrpc":"2.0","method":"rpc.subscription","params":'
            f'{{"subscription":{quoted},"topic":{quoted},"result":%s}}}}'):
        say(peer, message)


def name_things(server):
    """Use names and values that mean something to either language."""
    def script(peer):
        peer.shake()
        for number, name in enumerate(NAMES):
            provoke(peer, 2 * number + 2, name)
        while True:
            opcode, payload = peer.recv_frame()
            if opcode == 8:
                peer.sock.sendall(frame(8, payload))
                return
            message = json.loads(payload)
            if 'method' not in message:
                server.said.put(message)
            elif message['method'] == 'rpc.subscribe':
                params = message['params']
                topic = params['topic'] if 'topic' in params else params[0]
                told = json.dumps(topic)
                say(peer, f'{{"jsonrpc":"2.0","id":{message["id"]},'
                          f'"result":{{"subscription":{told},"epoch":"e",'
                          '"offset":0,"recovered":null,"publications":[],'
                          '"__proto__":{"recovered":true}}}')
                say(peer, '{"jsonrpc":"2.0","method":"rpc.subscription",'
                          f'"params":{{"subscription":{told},'
                          f'"topic":{told},"offset":1,"result":%s}}}}')
            elif message.get('id') is not None:
                say(peer, f'{{"jsonrpc":"2.0","id":{message["id"]},'
                          '"result":%s}')
    return script


@contextlib.contextmanager
def serving_harm(make):
    """``make(server)`` is the script of each connection."""
    scripts = []
    with scripted(lambda peer: scripts[0](peer)) as server:
        scripts.append(make(server))
        yield server


def run_node(need, url, *names):
    """What the JavaScript client says after it has met that server."""
    need('npm:ws')
    done = subprocess.run(
        [need('node'), 'hostile.mjs', url, *names], cwd=ROOT / 'tests/js',
        capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def assert_nothing_was_run(server):
    """Each name was unknown; what else was answered was no request."""
    unknown = 0
    while unknown < len(NAMES):
        code = server.next()['error']['code']
        assert code in (-32601, -32600)
        unknown += code == -32601


def test_c6_names_pollute_no_javascript(need):
    with serving_harm(name_things) as server:
        told = run_node(need, server.url, *NAMES)
        assert_nothing_was_run(server)
    assert told['clean']
    assert told['calls'] == [['value', 'object', 'undefined']] * len(NAMES)
    assert told['heard'] == [[name, 'undefined'] for name in NAMES]
    assert told['ran'] == []
    assert told['state'] == 'open'


def test_c6_names_are_names_to_python():
    heard = []
    with serving_harm(name_things) as server, Client(server.url) as client:
        for name in NAMES:
            client.subscribe(name, lambda data, name=name: heard.append(
                (name, data)))
        evil = json.loads(EVIL)
        for name in NAMES:
            assert client.call(name).result(5) == evil
        wait_until(lambda: len(heard) == len(NAMES))
        assert_nothing_was_run(server)
        assert not client.is_closed
    assert heard == [(name, evil) for name in NAMES]


# -- redirects -------------------------------------------------------------

def test_c6_endless_redirects_are_followed_by_nobody(need):
    to_itself = refuse(302, 'Location: /again\r\n')
    with scripted(to_itself) as server:
        told = run_node(need, server.url, 'f')
        # The handshake, and the question why it was refused.
        assert len(server.peers) <= 2
    assert told['calls'] == [['error', 'ConnectionLostError', 4401]]
    assert told['state'] == 'closed'
    with scripted(to_itself) as server, Client(server.url) as client:
        with pytest.raises(ConnectionLostError, match='redirected'):
            client.call('f').result(5)
        with pytest.raises(ConnectionLostError):
            client.wait(5)
        assert len(server.peers) == 1


# -- masses ----------------------------------------------------------------

def huge(size):
    """A server whose first answer has that many bytes."""
    def script(peer):
        peer.shake()
        call = peer.recv()
        head = f'{{"jsonrpc":"2.0","id":{call["id"]},"result":"'.encode()
        length = len(head) + size + 2
        peer.sock.sendall(b'\x81\x7f' + struct.pack('!Q', length) + head)
        for _ in range(size >> 20):
            peer.sock.sendall(b'x' * (1 << 20))
        peer.sock.sendall(b'"}')
        peer.recv_close()
    return script


def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def test_c6_an_answer_past_the_limit_is_never_taken_in():
    before = peak_mb()
    with scripted(huge(1 << 30)) as server:
        client = Client(server.url)
        with contextlib.closing(client.connect()):
            begun = time.monotonic()
            with pytest.raises(ConnectionLostError, match='1009'):
                client.call('f').result(5)
            assert time.monotonic() - begun < 2
    assert peak_mb() - before < 50


def test_c6_a_large_answer_is_an_answer():
    size = 8 << 20
    with scripted(huge(size)) as server, Client(server.url) as client:
        assert len(client.call('f').result(10)) == size


def ask_and_ask(count):
    """A server that calls and forges, then answers what it was asked."""
    def script(peer):
        peer.shake()
        call = peer.recv()
        parts = [text({'jsonrpc': '2.0', 'id': n * 2 + 10 ** 6,
                       'result': 'forged'}) for n in range(1000)]
        parts += [text({'jsonrpc': '2.0', 'method': 'nobody', 'params': [n]})
                  for n in range(1000)]
        parts += [text({'jsonrpc': '2.0', 'id': {}, 'method': n})
                  for n in range(1000)]
        parts += [text({'jsonrpc': '2.0', 'method': 'rpc.subscription',
                        'params': {'subscription': f's{n}', 'result': n}})
                  for n in range(1000)]
        reader = threading.Thread(target=peer.recv_eof)
        reader.start()
        for _ in range(count // 4000):
            peer.sock.sendall(b''.join(parts))
        peer.send({'jsonrpc': '2.0', 'id': call['id'], 'result': 'mine'})
        reader.join(30)
    return script


def test_c6_masses_of_messages_are_counted_and_no_more(
        caplog, monkeypatch):
    # This server answers no Close.
    monkeypatch.setattr(client_link, 'LEAVE_TIMEOUT_S', 0.1)
    count = 400_000 if FULL else 8_000
    caplog.set_level(logging.INFO, 'cp_wsrpc')
    before = peak_mb()
    with scripted(ask_and_ask(count)) as server:
        begun = time.monotonic()
        with Client(server.url) as client:
            assert client.call('f', timeout=60).result() == 'mine'
        seconds = time.monotonic() - begun
    print(f'{count / seconds:.0f} unasked messages a second')
    lines = [record.getMessage()[:30] for record in caplog.records]
    assert len(lines) < 20 + 5 * seconds, lines[:20]
    assert peak_mb() - before < 50


def test_c6_results_that_are_none_settle_their_calls():
    odd = itertools.cycle([
        '"result":"\\ud800"', '"result":' + '[' * 900 + ']' * 900,
        '"error":5', '"error":{"code":1e999,"message":[]}',
        '"error":{"message":"\\ud800"}', '"error":null', '"error":[[[]]]',
        '"result":1e999', '"result":' + '9' * 5000])

    def script(peer):
        peer.shake()
        while (received := peer.recv_frame())[0] == 1:
            id = json.loads(received[1])['id']
            say(peer, f'{{"jsonrpc":"2.0","id":{id},{next(odd)}}}')

    with scripted(script) as server, Client(server.url) as client:
        for _ in range(9):
            with contextlib.suppress(RemoteError):
                client.call('f', timeout=5).result()
        assert not client.is_closed
