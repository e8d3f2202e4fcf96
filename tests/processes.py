"""Programs beside the test: servers, clients, nginx, redis-server.

::

    with spawn('demo', '--port', '8081', ready='Serving on') as process:
        ...
        assert process.terminate() == 0
"""
from __future__ import annotations

import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping

__all__ = ['Process', 'ROOT', 'spawn']

#: The repository.
ROOT = pathlib.Path(__file__).resolve().parent.parent


class Process:
    """A program that a test started; see :func:`spawn`.

    Its output (both streams, as one) is read by a thread of its own, so it
    never stands still because nobody reads.
    """

    def __init__(self, command: list[str], env: Mapping[str, str] | None,
                 cwd: str | os.PathLike[str]) -> None:
        self.command = command
        self.lines: list[str] = []
        self._changed = threading.Condition()   # guards lines, _finished
        self._finished = False
        environment = {
            **os.environ, 'PYTHONUNBUFFERED': '1',
            'PYTHONPATH': os.pathsep.join(filter(None, [
                str(ROOT), os.environ.get('PYTHONPATH')])),
            **(env or {})}
        self.popen = subprocess.Popen(
            command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors='replace', start_new_session=True)
        self._reader = threading.Thread(
            target=self._read, name=f'output of {self.pid}', daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def output(self) -> str:
        """Everything it has printed so far."""
        with self._changed:
            return ''.join(self.lines)

    @property
    def port(self) -> int:
        """The first port that it printed, as ``:8080`` or ``port 8080``."""
        return int(self.wait_for(r'(?:port[ =:]+|:)(\d{2,5})\b')[1])

    def wait_for(self, pattern: str, timeout_s: float = 20,
                 ) -> re.Match[str]:
        """Wait for a line in which the regular expression is found.

        Lines that were printed before count, too.  AssertionError with the
        whole output when the time is over or the program has ended.
        """
        deadline = time.monotonic() + timeout_s
        seen = 0
        with self._changed:
            while True:
                for line in self.lines[seen:]:
                    if found := re.search(pattern, line):
                        return found
                seen = len(self.lines)
                left_s = deadline - time.monotonic()
                if self._finished or left_s <= 0:
                    break
                self._changed.wait(left_s)
            printed = ''.join(self.lines)
        ended = 'it ended' if self._finished else f'{timeout_s} s passed'
        raise AssertionError(f'{self.command}: {ended} without a line like '
                             f'{pattern!r}; it printed:\n{printed}')

    def wait(self, timeout_s: float = 20) -> int:
        """Wait for its end; its exit code.  The output is then complete."""
        try:
            code = self.popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f'{self.command} still runs after {timeout_s} s; '
                f'it printed:\n{self.output}') from None
        self._reader.join(5)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal to the program alone, not to its children."""
        self.popen.send_signal(number)

    def terminate(self, timeout_s: float = 20) -> int:
        """SIGTERM, as an operator does; its exit code."""
        self.popen.terminate()
        return self.wait(timeout_s)

    def kill(self) -> None:
        """SIGKILL to it and all it started; nothing is left of it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.popen.wait(10)
        self._reader.join(5)
        if self.popen.stdout is not None and not self._reader.is_alive():
            self.popen.stdout.close()

    def _read(self) -> None:
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            with self._changed:
                self.lines.append(line)
                self._changed.notify_all()
        with self._changed:
            self._finished = True
            self._changed.notify_all()


@contextlib.contextmanager
def spawn(program: str | os.PathLike[str], *args: str,
          env: Mapping[str, str] | None = None, ready: str | None = None,
          timeout_s: float = 20,
          cwd: str | os.PathLike[str] = ROOT) -> Iterator[Process]:
    """Run a program beside the test; it is killed at the end.

    ``program``
        A Python module (``'demo'``), a Python file (``'x/echo.py'``) or
        an executable with its path (``'/usr/sbin/nginx'``).
    ``ready``
        A regular expression: wait for such a line, ``timeout_s`` at most.
    ``env``
        Added to the environment; PYTHONPATH has the repository.

    When the test fails, what the program printed stands in its report.
    """
    name = os.fspath(program)
    if name.endswith('.py'):
        command = [sys.executable, name, *args]
    elif os.sep in name:
        command = [name, *args]
    else:
        command = [sys.executable, '-m', name, *args]
    process = Process(command, env, cwd)
    try:
        if ready is not None:
            process.wait_for(ready, timeout_s)
        yield process
    except BaseException:
        print(f'--- output of {command}:\n{process.output}')
        raise
    finally:
        process.kill()
