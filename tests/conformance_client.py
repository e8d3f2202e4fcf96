"""The Python client against the Autobahn Testsuite's fuzzing server.

::

    python -m tests.conformance_client [CASES]      e.g. '1.*,12.1.*'

Runs ``wstest -m fuzzingserver`` of the environment CONFORMANCE_ENV (which
``../shared/conformance/run`` has made), has the client's connection echo
whatever comes, and prints every case that is not OK.  Exits 1 if a case
failed, was not strict, not implemented, or ended uncleanly.

An RPC client refuses binary messages; :class:`EchoLink` sends them back.
The rest - handshake, frames, compression, pongs, the close handshake - is
the client's own.
"""
from __future__ import annotations

import collections
import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

from ws4py.messaging import BinaryMessage

from cp_wsrpc.backoff import Backoff
from cp_wsrpc.client_link import Link
from cp_wsrpc.client_socket import ClientSocket
from cp_wsrpc.errors import ConnectionLostError
from cp_wsrpc.frame_rules import BINARY

from .serving import wait_until

__all__ = ['main']

AGENT = 'cp_wsrpc'
#: Longer than the slowest case takes.
CASE_TIMEOUT_S = 120.0
MAX_MESSAGE_BYTES = 1 << 28

BAD = ('FAILED', 'NON-STRICT', 'UNIMPLEMENTED')
BAD_CLOSES = ('FAILED', 'WRONG CODE', 'UNCLEAN')


class EchoLink(Link):
    """A client's connection that sends binary messages back."""

    def _on_control(self, ws: ClientSocket, item: Any) -> None:
        if isinstance(item, BinaryMessage):
            ws.send_frame(ws.framer.frame(BINARY, item.data,
                                          mask=True))
        else:
            super()._on_control(ws, item)


class Conversation:
    """One connection; ``on_text(ws, text)`` is called with each text."""

    def __init__(self, url: str, on_text: Callable[[ClientSocket, bytes],
                                                   None]) -> None:
        self._on_text = on_text
        self.error: ConnectionLostError | None = None
        self._link = EchoLink(
            self, lambda: ClientSocket(
                url, compression=True, max_message_bytes=MAX_MESSAGE_BYTES),
            Backoff(1.0), 1e6, 1e6)

    def run(self) -> None:
        """Connect, and return when the connection is over."""
        self._link.start()
        if not self._link.join(CASE_TIMEOUT_S):
            self._link.stop()
            self._link.join(5)
            raise TimeoutError('a case does not end')
        if self.error is not None:
            raise self.error

    # What a Link's owner is told.

    def on_open(self, ws: ClientSocket) -> None:
        ws.stream.max_fragments = 1 << 30

    def on_text(self, ws: ClientSocket, text: bytes) -> None:
        self._on_text(ws, text)

    def on_paused(self, ws: ClientSocket) -> None:
        pass

    def on_resumed(self, ws: ClientSocket) -> None:
        pass

    def on_lost(self, code: int, reason: str) -> None:
        self._link.stop()

    def on_failed(self, error: ConnectionLostError) -> None:
        self.error = error
        self._link.stop()

    def on_end(self, error: ConnectionLostError | None) -> None:
        pass


def echo(ws: ClientSocket, text: bytes) -> None:
    ws.send_text(text)


@contextlib.contextmanager
def fuzzing_server(cases: list[str], out: pathlib.Path) -> Iterator[str]:
    """The testsuite's server on a free port: its URL."""
    env = os.environ.get('CONFORMANCE_ENV') or os.path.join(
        tempfile.gettempdir(), 'autobahn-testsuite')
    with socket.create_server(('127.0.0.1', 0)) as found:
        port = found.getsockname()[1]
    spec = out / 'spec.json'
    spec.write_text(json.dumps({
        'url': f'ws://127.0.0.1:{port}', 'outdir': str(out / 'reports'),
        'cases': cases, 'exclude-cases': [], 'exclude-agent-cases': {}}))
    with (out / 'log').open('w') as log, subprocess.Popen(
            [os.path.join(env, 'bin', 'wstest'), '-m', 'fuzzingserver',
             '-w', '0', '-s', str(spec)],
            stdout=log, stderr=log) as process:
        try:
            wait_for(port, process)
            yield f'ws://127.0.0.1:{port}'
        finally:
            process.terminate()


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    def listens() -> bool:
        assert process.poll() is None, 'wstest has ended: see its log'
        with contextlib.suppress(OSError):
            socket.create_connection(('127.0.0.1', port), 1).close()
            return True
        return False

    wait_until(listens, 30, 'wstest')


def run_cases(url: str) -> None:
    told: list[bytes] = []
    Conversation(f'{url}/getCaseCount',
                 lambda ws, text: told.append(text)).run()
    for case in range(1, int(told[0]) + 1):
        Conversation(f'{url}/runCase?case={case}&agent={AGENT}',
                     echo).run()
    Conversation(f'{url}/updateReports?agent={AGENT}', echo).run()


def report(index: pathlib.Path) -> bool:
    """Print what became of the cases; whether all are well."""
    cases = json.loads(index.read_text())[AGENT]
    good = True
    for name, case in sorted(cases.items(), key=lambda item: [
            int(part) for part in item[0].split('.')]):
        if case['behavior'] in BAD or case['behaviorClose'] in BAD_CLOSES:
            print(name, case['behavior'], case['behaviorClose'])
            good = False
    for key in ('behavior', 'behaviorClose'):
        print(len(cases), key, dict(collections.Counter(
            case[key] for case in cases.values())))
    return good


def main(cases: str = '*') -> int:
    with tempfile.TemporaryDirectory() as name:
        out = pathlib.Path(name)
        with fuzzing_server(cases.split(','), out) as url:
            run_cases(url)
        return 0 if report(out / 'reports' / 'index.json') else 1


if __name__ == '__main__':
    sys.exit(main(*sys.argv[1:]))
