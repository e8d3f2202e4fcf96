"""``python -m bench.compression``: what permessage-deflate costs and saves.

For each value of ``tools.wsrpc.compression``, in a server of its own: KiB of
its memory for each of 300 connections that have sent and got 50 messages
of about 1 kB (a context is a window of 32 KiB: fewer would not fill it), and
the bytes of a message on the wire either way.
Below it, what a server pays that keeps both contexts (the usual default:
here the codec of ``websockets`` alone), and the time to deflate a push,
which is done once for all who get it.
"""
from __future__ import annotations

import argparse
import gc
import json
import os
import random
import socket
import subprocess
import sys
import timeit
from typing import Any

import cherrypy
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode

import cp_wsrpc
from cp_wsrpc.compression import negotiate

from .load.server_process import memory_kib
from .load.wire import TEXT, connect, split_frames

MODES = {'off': False, 'on': True, 'context': 'client_context'}
MESSAGES = 50
_WORDS = random.Random(7)


def make_message(size: int) -> bytes:
    """A JSON-RPC event as pages get them, of about ``size`` bytes."""
    rows: list[dict[str, Any]] = []
    while True:
        rows.append({'id': _WORDS.randrange(10 ** 6), 'name': _WORDS.choice(
            ('Ada', 'Grace', 'Alan', 'Edsger')), 'price': round(
                _WORDS.random() * 100, 2), 'open': True})
        text = json.dumps({'jsonrpc': '2.0', 'method': 'news',
                           'params': rows}).encode()
        if len(text) >= size:
            return text


class Echo(cp_wsrpc.WebSocket):
    def received_message(self, message: Any) -> None:
        self.send(message.data)


def serve(port: int) -> None:
    root = type('Root', (), {mode: object() for mode in MODES})()
    cherrypy.config.update({
        'server.socket_port': port, 'server.socket_host': '127.0.0.1',
        'server.socket_queue_size': 100, 'log.screen': False,
        'engine.autoreload.on': False})
    cherrypy.tree.mount(root, '', {f'/{mode}': {
        'tools.wsrpc.on': True, 'tools.wsrpc.handler_cls': Echo,
        'tools.wsrpc.compression': value} for mode, value in MODES.items()})
    cherrypy.engine.start()
    print('Ready', flush=True)
    cherrypy.engine.block()


def measure(mode: str, count: int) -> tuple[float, float, float]:
    """KiB a connection, bytes of a message to the server and from it."""
    with socket.create_server(('127.0.0.1', 0)) as found:
        port = found.getsockname()[1]
    with subprocess.Popen(
            [sys.executable, '-m', 'bench.compression', '--serve', str(port)],
            stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None and server.stdout.readline()
            talk(port, mode, 50)        # what is made once
            before = memory_kib(server.pid)
            socks, sent, received = talk(port, mode, count)
            after = memory_kib(server.pid)
        finally:
            server.terminate()
    for sock in socks:
        sock.close()
    return (after - before) / count, sent, received


def talk(port: int, mode: str, count: int
         ) -> tuple[list[socket.socket], float, float]:
    socks, sent, received = [], 0, 0
    for _ in range(count):
        sock, _ = connect(port, f'/{mode}', headers=(
            'Sec-WebSocket-Extensions: permessage-deflate\r\n'))
        socks.append(sock)
        # The client's end, with its context where the server keeps one.
        codec = PerMessageDeflate(False, mode != 'context', 15, 15)
        for _ in range(MESSAGES):
            data = Frame(Opcode.TEXT, make_message(1000)).serialize(
                mask=True, extensions=[codec] if MODES[mode] else [])
            sock.sendall(data)
            sent += len(data)
            received += len(read_frame(sock))
    return socks, sent / count / MESSAGES, received / count / MESSAGES


def read_frame(sock: socket.socket) -> bytes:
    data = b''
    while not any(opcode == TEXT for opcode, _, _ in split_frames(data)):
        data += sock.recv(65536)
    return data


def both_contexts(count: int) -> float:
    """KiB for each, of codecs that keep both and have been used."""
    gc.collect()
    before, codecs = memory_kib(os.getpid()), []
    for _ in range(count):
        codec = PerMessageDeflate(False, False, 15, 15)
        client = PerMessageDeflate(False, False, 15, 15)
        for _ in range(MESSAGES):
            message = Frame(Opcode.TEXT, make_message(1000))
            codec.decode(client.encode(message))
            codec.encode(message)
        codecs.append(codec)
    return (memory_kib(os.getpid()) - before) / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--connections', type=int, default=300)
    parser.add_argument('--serve', type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given.serve)
        return
    for mode, value in MODES.items():
        each, sent, received = measure(mode, given.connections)
        print(f'{value!s:>15}: {each:6.1f} KiB a connection, '
              f'{sent:6.0f} B in, {received:6.0f} B out')
    print(f'  both contexts: {both_contexts(given.connections):6.1f} KiB '
          'more a connection')
    agreed = negotiate(['permessage-deflate'])
    assert agreed is not None
    for size in (130, 1000, 10_000, 100_000):
        text = make_message(size)
        number = max(3, 10 ** 6 // size)
        took = timeit.timeit(lambda text=text: agreed.framer.text_frame(text),
                             number=number) / number
        print(f'a push of {len(text):6} B: {took * 1e6:6.0f} us, '
              f'{len(agreed.framer.text_frame(text)):6} B on the wire')


if __name__ == '__main__':
    main()
