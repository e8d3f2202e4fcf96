"""``python -m bench [--only NAME ...] [--rounds N] [--seconds S]``.

For each measurement all its servers are started; then the load is put on
one after the other, round by round, so that what disturbs the machine for
a while disturbs all of them.  The round before the first is thrown away.

The figures of every round go to ``bench/results.json`` (measurements that
were not run keep theirs), and from there to ``docs/bench.rst`` and
``docs/bench.svg``.
"""
from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import trustme

from . import report
from .measurements import MEASUREMENTS, Contender, Measurement, Server

_ROOT = pathlib.Path(__file__).parent.parent
_RESULTS = _ROOT / 'bench' / 'results.json'
_START_TIMEOUT_S = 30
_RUN_TIMEOUT_S = 300
#: Runs of one server in one round, until one is not disturbed.
_TRIES = 4
#: Ports below those that the kernel gives to outgoing connections.
_PORTS = iter(range(20000, 30000))


class Certificates:
    """PEM files of a CA of this run and of a server on 127.0.0.1."""

    def __init__(self, folder: pathlib.Path) -> None:
        authority = trustme.CA()
        leaf = authority.issue_cert('127.0.0.1')
        self.authority = str(folder / 'ca.pem')
        self.certificate = str(folder / 'cert.pem')
        self.key = str(folder / 'key.pem')
        authority.cert_pem.write_to_path(self.authority)
        leaf.private_key_pem.write_to_path(self.key)
        leaf.cert_chain_pems[0].write_to_path(self.certificate)


class Fleet:
    """The servers of one measurement, each started when first wanted."""

    def __init__(self, certificates: Certificates, log: Any) -> None:
        self._certificates = certificates
        self._log = log
        self._running: dict[Server, tuple[subprocess.Popen[bytes], int]] = {}

    def start(self, server: Server) -> tuple[int, int]:
        """(its port, its process id), when it listens."""
        if server not in self._running:
            port = _free_port()
            command = [*server.command, '--port', str(port)]
            if server.tls:
                command += ['--tls', self._certificates.certificate,
                            self._certificates.key]
            process = subprocess.Popen(command, cwd=_ROOT, stdout=self._log,
                                       stderr=self._log)
            self._running[server] = process, port
            _await_listener(process, port)
        process, port = self._running[server]
        return port, process.pid

    def stop(self) -> None:
        for process, _ in self._running.values():
            process.terminate()
        for process, _ in self._running.values():
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def load(self, contender: Contender, seconds: float) -> dict[str, Any]:
        """Put the load of a contender on its server; what it measured."""
        server = contender.server
        port, pid = self.start(server)
        if contender.load[0] == 'bench.clients':
            command = ['-m', *contender.load]
        else:
            command = ['-m', 'bench.load', contender.load[0],
                       '--path', server.path, '--wire', server.wire,
                       '--pid', str(pid), *contender.load[1:]]
            if server.tls:
                command += ['--tls', self._certificates.authority]
        done = subprocess.run(
            [sys.executable, *command, '--port', str(port),
             '--seconds', str(seconds)],
            cwd=_ROOT, stdout=subprocess.PIPE, stderr=self._log,
            timeout=_RUN_TIMEOUT_S, check=True)
        figures: dict[str, Any] = json.loads(done.stdout)
        return figures

    def last_words(self) -> str:
        """The end of what servers and loads wrote."""
        self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - 2000))
        text: bytes = self._log.read()
        return text.decode(errors='replace')


def _free_port() -> int:
    for port in _PORTS:
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(('127.0.0.1', port))
            return port
    raise RuntimeError('no port is free')


def _await_listener(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while True:
        with contextlib.suppress(OSError):
            socket.create_connection(('127.0.0.1', port), 1).close()
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f'{process.args!r} does not listen on {port}')
        time.sleep(0.05)


def run(measurement: Measurement, fleet: Fleet, rounds: int, seconds: float
        ) -> report.Figures:
    """What each contender measured, round by round."""
    first = -1
    if measurement.once_s:
        rounds, seconds, first = 1, measurement.once_s, 0
    figures: report.Figures = {
        contender.name: [] for contender in measurement.contenders}
    left = list(measurement.contenders)
    for number in range(first, rounds):
        for contender in tuple(left):
            try:
                found = _load_undisturbed(fleet, contender, seconds)
            except (RuntimeError, subprocess.SubprocessError) as error:
                # The others' figures are worth having all the same.
                print(f'  {contender.name} failed: {error}\n'
                      f'{fleet.last_words()}', file=sys.stderr)
                left.remove(contender)
                figures[contender.name].clear()
                continue
            _warn_of_busy_load(contender, found)
            if number >= 0:
                figures[contender.name].append(found)
    return figures


def _load_undisturbed(fleet: Fleet, contender: Contender, seconds: float
                      ) -> dict[str, Any]:
    """One run while others take little CPU, or the quietest of some.

    Server and load want a core each: where others left the server 0.76 of
    one, calls at 1 000 connections fell from 390 000 to 327 000 a second,
    and its CPU for each did not rise.
    """
    runs = []
    for _ in range(_TRIES):
        runs.append(fleet.load(contender, seconds))
        if runs[-1].get('others', 0) <= report.DISTURBED:
            break
    return min(runs, key=lambda found: found.get('others', 0))


def _warn_of_busy_load(contender: Contender, found: dict[str, Any]) -> None:
    if found.get('busy', 0) > 0.9:
        print(f'  {contender.name}: the load generator was busy to '
              f'{found["busy"]:.0%}', file=sys.stderr)


@contextlib.contextmanager
def _surroundings() -> Iterator[tuple[Certificates, Any]]:
    """Certificates, and a file for what servers and loads say."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory(prefix='wsrpc-bench-') as folder:
        path = pathlib.Path(folder)
        with open(path / 'log', 'w+b') as log:
            yield Certificates(path), log


def _is_wanted(name: str, only: list[str], names: list[str]) -> bool:
    """``calls`` means all that begin so, ``calls-32x1`` itself alone."""
    return any(name == each if each in names else name.startswith(each)
               for each in only)


def main() -> None:
    names = [measurement.name for measurement in MEASUREMENTS]
    parser = argparse.ArgumentParser(prog='python -m bench')
    parser.add_argument('--only', nargs='+', metavar='NAME', default=[''],
                        help='names or beginnings of names: '
                             + ', '.join(names))
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--seconds', type=float, default=3,
                        help='of one run (default %(default)s)')
    parser.add_argument('--report', action='store_true',
                        help='measure nothing, write the report anew')
    given = parser.parse_args()
    results = (json.loads(_RESULTS.read_text()) if _RESULTS.exists()
               else {})
    chosen = [measurement for measurement in MEASUREMENTS
              if _is_wanted(measurement.name, given.only, names)]
    if not chosen:
        parser.error(f'nothing begins with {given.only}')
    failed = False
    if not given.report:
        with _surroundings() as (certificates, log):
            for measurement in chosen:
                fleet = Fleet(certificates, log)
                try:
                    figures = run(measurement, fleet, given.rounds,
                                  given.seconds)
                finally:
                    fleet.stop()
                results[measurement.name] = {
                    'figures': figures, 'seconds': given.seconds}
                _RESULTS.write_text(json.dumps(results, indent=1) + '\n')
                print(report.as_text(measurement, figures), flush=True)
                failed = failed or not all(figures.values())
        results['machine'] = report.machine()
        _RESULTS.write_text(json.dumps(results, indent=1) + '\n')
    report.write(results, _ROOT / 'docs')
    sys.exit(failed)


if __name__ == '__main__':
    main()
