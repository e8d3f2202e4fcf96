"""A TCP proxy that cuts a connection at a given byte (threats D10), or
forwards nothing any more (threats D2).

::

    with cutting(server.port) as proxy:
        url = proxy.url('/api', Cut('up', 17, 'reset'))

Bytes are counted from the end of the handshake.  ``'up'``: the server gets
17 bytes and no more; ``'down'``: the client does.  The URL carries the cut,
which is made once: the connection that follows is left whole, and goes to
another server, if there is one: ``cutting(one.port, other.port)``.

    proxy.fall_silent()     # from now on nothing passes, no FIN either

What is cut is called by either client: ``call_with_keys``, ``call_from_node``.
"""
from __future__ import annotations

import contextlib
import itertools
import json
import re
import select
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from cp_wsrpc import Client

from .processes import ROOT

__all__ = ['Cut', 'Proxy', 'call_from_node', 'call_with_keys', 'cutting']


class Cut(NamedTuple):
    """``how``: 'close' (FIN) or 'reset' (RST), towards both."""

    direction: str
    at: int
    how: str = 'close'


class Proxy:
    def __init__(self, target_port: int, later_port: int,
                 has_heads: bool) -> None:
        self._has_heads = has_heads
        self._target_port = target_port
        self._later_port = later_port
        self._ids = itertools.count(1)
        self._lock = threading.Lock()       # guards the two sets
        self._done: set[str] = set()
        self._open: set[socket.socket] = set()
        self._silent = threading.Event()
        self.connections = self.came_later = 0
        self._listener = socket.create_server(('127.0.0.1', 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    def url(self, path: str, cut: Cut) -> str:
        """The WebSocket URL whose first connection is cut so."""
        return (f'ws://127.0.0.1:{self.port}{path}?cut={next(self._ids)}-'
                f'{cut.direction}-{cut.at}-{cut.how}')

    def fall_silent(self) -> None:
        """Be a network that has gone: both ends think they are connected."""
        self._silent.set()

    def stop(self) -> None:
        # A close alone does not wake who waits in accept().
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._acceptor.join(5)
        with self._lock:
            for sock in self._open:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                thread = threading.Thread(target=self._serve, args=(sock,),
                                          daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self, client: socket.socket) -> None:
        with self._lock:
            self._open.add(client)
            self.connections += 1
        how = 'close'
        server = socket.socket()
        try:
            head = _read_head(client) if self._has_heads else b''
            cut = self._cut_of(head)
            server.connect(('127.0.0.1', self._target_port if cut
                            else self._later_port))
            with self._lock:
                self._open.add(server)
                self.came_later += cut is None
            server.sendall(head)
            if self._has_heads:
                client.sendall(_read_head(server))
            if _pump(client, server, cut, self._silent) and cut is not None:
                how = cut.how
        except OSError:
            pass            # one of the two has gone
        finally:
            with self._lock:
                self._open -= {client, server}
            for sock in (client, server):
                if how == 'reset':
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                                    struct.pack('ii', 1, 0))
                sock.close()

    def _cut_of(self, head: bytes) -> Cut | None:
        found = re.search(rb'cut=(\d+-(\w+)-(\d+)-(\w+))', head)
        if found is None:
            return None
        with self._lock:
            if found[1].decode() in self._done:
                return None
            self._done.add(found[1].decode())
        return Cut(found[2].decode(), int(found[3]), found[4].decode())


def _read_head(source: socket.socket) -> bytes:
    head = b''
    while not head.endswith(b'\r\n\r\n'):
        byte = source.recv(1)
        if not byte:
            raise ConnectionError('the head has no end')
        head += byte
    return head


def _pump(client: socket.socket, server: socket.socket, cut: Cut | None,
          silent: threading.Event) -> bool:
    """Pass bytes on until an end, or the cut; whether it was that."""
    left = {client: cut.at if cut and cut.direction == 'up' else None,
            server: cut.at if cut and cut.direction == 'down' else None}
    while 0 not in left.values():
        for source in select.select([client, server], [], [])[0]:
            data = source.recv(65536)
            if silent.is_set():
                return _swallow(client, server)
            if not data:
                return False
            data = data[:left[source]]
            (server if source is client else client).sendall(data)
            if left[source] is not None:
                left[source] -= len(data)
                if not left[source]:
                    break
    return True


def _swallow(*sources: socket.socket) -> bool:
    """Take what comes, ends as well, and tell nobody.  False."""
    left = list(sources)
    while left:
        for source in select.select(left, [], [])[0]:
            try:
                data = source.recv(65536)
            except OSError:
                data = b''
            if not data:
                left.remove(source)
    return False


@contextlib.contextmanager
def cutting(target_port: int, later_port: int | None = None, *,
            has_heads: bool = True) -> Iterator[Proxy]:
    """Run a proxy before 127.0.0.1:target_port.

    ``has_heads``: False for TLS, where it cannot read them, nor cut.
    """
    proxy = Proxy(target_port, later_port or target_port, has_heads)
    try:
        yield proxy
    finally:
        proxy.stop()


def call_with_keys(urls: list[str], methods: Iterable[str]) -> list[Any]:
    """What ``method(n)`` gives, each with a key, over the URL number n."""
    def call(number: int, method: str) -> Any:
        with Client(urls[number], reconnect_delay_s=0.001) as client:
            return client.call(method, number, idempotency_key=True,
                               timeout=20).result()

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(call, range(len(urls)),
                             itertools.cycle(methods)))


def call_from_node(need: Callable[[str], str], urls: list[str], *,
                   key: bool = True, timeout: float) -> list[Any]:
    """The same by the JavaScript client, of ``pay``; or an error's text."""
    need('npm:ws')
    done = subprocess.run(
        [need('node'), 'cuts.mjs'], cwd=ROOT / 'tests' / 'js',
        input=json.dumps({'urls': urls, 'method': 'pay', 'key': key}),
        text=True, capture_output=True, timeout=timeout)
    assert done.returncode == 0, done.stderr
    results: list[Any] = json.loads(done.stdout)
    return results
