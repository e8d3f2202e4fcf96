"""Programs beside this one: found, started, started again, ended.

What ``cluster`` is made of, and ``bench.cluster``.
"""
from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable

__all__ = ['Program', 'await_listener', 'find_program', 'free_ports']

START_TIMEOUT_S = 20.0
#: A program that ends sooner is not started again at once.
SHORT_LIFE_S = 2.0
_ROOT = pathlib.Path(__file__).resolve().parent.parent

#: Where Debian keeps nginx; not in an ordinary user's PATH.
_MORE_PATH = ':/usr/sbin:/usr/local/sbin'


class Program:
    """A child process that is started again when it dies.

    ``start``, ``stop``: one thread, in this order, once each.  Between
    them a thread of its own waits for the end of the process.
    """

    def __init__(self, name: str, command: list[str], log: pathlib.Path,
                 say: Callable[[str], None]) -> None:
        self.name = name
        self.log = log
        self._command = command
        self._say = say
        self._stopping = threading.Event()
        self._lock = threading.Lock()   # guards _process
        self._process: subprocess.Popen[bytes] | None = None
        self._watch = threading.Thread(target=self._run, daemon=True,
                                       name=f'watches {name}')

    @property
    def pid(self) -> int:
        with self._lock:
            return self._process.pid if self._process is not None else 0

    def start(self) -> None:
        self._spawn()
        self._watch.start()

    def stop(self) -> None:
        """Tell it to end; :meth:`join` waits."""
        with self._lock:
            self._stopping.set()
            if self._process is not None:
                self._process.terminate()
                # Who was stopped (kill -STOP) hears of it only now.
                self._process.send_signal(signal.SIGCONT)

    def join(self, timeout_s: float) -> None:
        """Wait for its end; past that time it is killed."""
        if self._watch.ident is not None:
            self._watch.join(max(0.0, timeout_s))
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def _spawn(self) -> None:
        with self._lock:
            if self._stopping.is_set():
                return
            with open(self.log, 'ab') as log:
                # A group of its own: Ctrl-C is for us, who stop them in
                # order.
                self._process = subprocess.Popen(
                    self._command, stdin=subprocess.DEVNULL, stdout=log,
                    stderr=log, cwd=_ROOT, start_new_session=True)

    def _run(self) -> None:
        while not self._stopping.is_set():
            assert self._process is not None
            process, begun = self._process, time.monotonic()
            code = process.wait()
            if self._stopping.is_set():
                return
            if time.monotonic() - begun < SHORT_LIFE_S:
                self._stopping.wait(1.0)
            self._spawn()
            self._say(f'{self.name}: pid {process.pid} has ended '
                      f'({_ended(code)}), started again as {self.pid}')


def _ended(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f'exit code {code}'


def await_listener(program: Program, host: str, port: int) -> None:
    """Wait until something listens there; SystemExit with its last words."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        with contextlib.suppress(OSError):
            socket.create_connection((host, port), 1).close()
            return
        if time.monotonic() > deadline:
            raise SystemExit(f'{program.name} does not listen on {host}:'
                             f'{port}.  It said:\n'
                             + program.log.read_text(errors='replace')[-2000:])
        time.sleep(0.05)


def find_program(program: str) -> str | None:
    """Its path, or None."""
    return shutil.which(program,
                        path=os.environ.get('PATH', '') + _MORE_PATH)


def free_ports(count: int) -> list[int]:
    """TCP ports of 127.0.0.1 on which nobody listens."""
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(socket.create_server(('127.0.0.1', 0)))
                 for _ in range(count)]
        return [sock.getsockname()[1] for sock in socks]
