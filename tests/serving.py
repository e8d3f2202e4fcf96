"""A real CherryPy for the tests: in this process, or in one of its own.

::

    with serving(Root(), {'/api': {'tools.wsrpc.on': True}}) as server:
        with server.peer('/api') as peer:
            assert peer.call('calc.add', [1, 2]) == 3

    with spawn('demo', '--port', str(free_port()), ready='Serving on'):
        ...                             # see processes.py

CherryPy has one engine, one tree and one server per process, so there is
one ``serving`` at a time; whatever it changed in them is put back.
"""
from __future__ import annotations

import atexit
import contextlib
import dataclasses
import functools
import logging
import os
import pathlib
import socket
import ssl
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import cherrypy
import trustme
from cherrypy.process import wspbus

import cp_wsrpc  # noqa: F401 (registers the tool and the plugin)

from .hasty import hastened
from .processes import ROOT, Process, spawn
from .rawpeer import Answer, RawPeer, http_request

__all__ = ['Certificates', 'Process', 'ROOT', 'Server', 'certificates',
           'free_port', 'serving', 'spawn', 'wait_until']

T = TypeVar('T')
Config = Mapping[str, Mapping[str, Any]]

#: Nothing of a test run on the screen, no thread that watches files.
_QUIET = {
    'checker.on': False,
    'engine.autoreload.on': False,
    'log.screen': False,
    'server.socket_host': '127.0.0.1',
}


def wait_until(predicate: Callable[[], T], timeout_s: float = 5,
               what: str = '') -> T:
    """Wait until ``predicate()`` is true and return what it returned.

    The one place of the tests that looks again and again.  After
    ``timeout_s`` seconds it raises an AssertionError that names ``what``
    (or the predicate) and the last value.
    """
    deadline = time.monotonic() + timeout_s
    pause_s = 0.001
    while not (value := predicate()):
        if time.monotonic() > deadline:
            raise AssertionError(f'{what or predicate}: still {value!r} '
                                 f'after {timeout_s} s')
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, 0.02)
    return value


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(('127.0.0.1', 0))
        port: int = sock.getsockname()[1]
        return port


@dataclasses.dataclass(frozen=True)
class Certificates:
    """Paths of PEM files for localhost, 127.0.0.1 and ::1, and their CA."""

    certificate: str
    private_key: str
    authority: str

    def client_context(self) -> ssl.SSLContext:
        """A client's context that trusts this CA and checks the name."""
        return ssl.create_default_context(cafile=self.authority)


@functools.cache
def certificates() -> Certificates:
    """The certificates of this test run, made once."""
    folder = tempfile.TemporaryDirectory(prefix='wsrpc-tests-')
    atexit.register(folder.cleanup)
    path = pathlib.Path(folder.name)
    made = Certificates(str(path / 'cert.pem'), str(path / 'key.pem'),
                        str(path / 'ca.pem'))
    authority = trustme.CA()
    leaf = authority.issue_cert('localhost', '127.0.0.1', '::1')
    authority.cert_pem.write_to_path(made.authority)
    leaf.private_key_pem.write_to_path(made.private_key)
    for pem in leaf.cert_chain_pems:
        pem.write_to_path(made.certificate, append=True)
    return made


@dataclasses.dataclass
class Server:
    """A CherryPy that serves in this process; see :func:`serving`."""

    port: int
    tls: str | None
    ssl_context: ssl.SSLContext | None
    #: What CherryPy's error log and cp_wsrpc's loggers said, from INFO up:
    #: ``'cherrypy.error ERROR [..] HTTP Traceback ...'``.
    log_lines: list[str]
    engine: Any = cherrypy.engine

    def url(self, path: str = '/') -> str:
        """``'http://127.0.0.1:40001/api'``, or https."""
        return f'http{"s" if self.tls else ""}://127.0.0.1:{self.port}{path}'

    def ws_url(self, path: str = '/') -> str:
        """``'ws://127.0.0.1:40001/api'``, or wss."""
        return f'ws{"s" if self.tls else ""}://127.0.0.1:{self.port}{path}'

    def peer(self, path: str = '/', **options: Any) -> RawPeer:
        """A :class:`RawPeer` on ``path``; ``options`` are its arguments."""
        options.setdefault('tls', self.ssl_context)
        return RawPeer(self.port, path, **options)

    def http(self, path: str = '/', **options: Any) -> Answer:
        """:func:`http_request` to ``path``; ``options`` are its own."""
        options.setdefault('tls', self.ssl_context)
        return http_request(self.port, path, **options)

    def logged(self, text: str) -> list[str]:
        """The lines of the log that contain ``text``."""
        return [line for line in list(self.log_lines) if text in line]


@contextlib.contextmanager
def serving(root: Any = None, config: Config | None = None, *,
            script_name: str = '', tls: str | None = None,
            engine: Mapping[str, Any] | None = None,
            settings: Mapping[str, Any] | None = None,
            apps: Iterable[tuple[Any, str, Config | None]] = (),
            port: int | None = None) -> Iterator[Server]:
    """Serve ``root`` from a CherryPy in this process.

    ``root``, ``config``, ``script_name``
        As for ``cherrypy.tree.mount``; no application if root is None.
    ``tls``
        None, ``'builtin'`` or ``'pyopenssl'``: cheroot's adapters.
    ``engine``
        Options of the engine and its plugins without the first word:
        ``{'wsrpc.thread_pool': 4}``.
    ``settings``
        Any other global option: ``{'server.thread_pool': 3}``.
    ``apps``
        More applications: ``[(root, script_name, config), ...]``.
    ``port``
        Of 127.0.0.1; a free one by default.
    """
    bus = cherrypy.engine
    assert bus.state in (bus.states.STOPPED, bus.states.EXITING), (
        f'CherryPy is still {bus.state}: one serving() at a time')
    port = port or free_port()
    options = {**_QUIET, 'server.socket_port': port, **(settings or {})}
    options.update({f'engine.{k}': v for k, v in (engine or {}).items()})
    if tls is not None:
        options.update({
            'server.ssl_module': tls,
            'server.ssl_certificate': certificates().certificate,
            'server.ssl_private_key': certificates().private_key})
    with contextlib.ExitStack() as undo:
        server = Server(
            port, tls, certificates().client_context() if tls else None,
            undo.enter_context(_log_kept()))
        undo.enter_context(_globals_kept(options))
        undo.enter_context(_never_a_hard_exit())
        undo.enter_context(hastened())
        cherrypy.config.update(options)
        if root is not None:
            cherrypy.tree.mount(root, script_name, _plain(config))
        for more, its_name, its_config in apps:
            cherrypy.tree.mount(more, its_name, _plain(its_config))
        undo.callback(_stop)
        bus.start()
        yield server


def _plain(config: Config | None) -> dict[str, dict[str, Any]]:
    # A copy: CherryPy writes into what it is given.
    return {path: dict(part) for path, part in (config or {}).items()}


def _stop() -> None:
    bus = cherrypy.engine
    try:
        if bus.state in (bus.states.STARTING, bus.states.STARTED):
            bus.stop()
        else:
            # The test stopped it, or a call of engine.exit() is under way.
            wait_until(lambda: bus.state in (bus.states.STOPPED,
                                             bus.states.EXITING),
                       timeout_s=15, what='the engine to stop')
    finally:
        # Else the bus warns at the end of the process that it was only
        # stopped, and not told to exit.
        atexit.unregister(bus._clean_exit)


@contextlib.contextmanager
def _log_kept() -> Iterator[list[str]]:
    lines: list[str] = []

    class Keeper(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    keeper = Keeper()
    keeper.setFormatter(
        logging.Formatter('%(name)s %(levelname)s %(message)s'))
    loggers = [logging.getLogger(name)
               for name in ('cherrypy.error', 'cp_wsrpc')]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(keeper)
        if logger.getEffectiveLevel() > logging.INFO:
            logger.setLevel(logging.INFO)
    try:
        yield lines
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(keeper)
            logger.setLevel(level)


@contextlib.contextmanager
def _globals_kept(options: Mapping[str, Any]) -> Iterator[None]:
    """Put CherryPy's globals back as they were, on an empty tree."""
    bus, server = cherrypy.engine, cherrypy.server
    config = dict(cherrypy.config)
    apps = dict(cherrypy.tree.apps)
    server_attributes = dict(vars(server))
    listeners = {name: set(them) for name, them in bus.listeners.items()}
    priorities = dict(bus._priorities)
    plugin_options = list(_plugin_options(options))
    screen = cherrypy.log.screen
    cherrypy.tree.apps.clear()
    try:
        yield
    finally:
        dict.clear(cherrypy.config)
        dict.update(cherrypy.config, config)
        cherrypy.tree.apps.clear()
        cherrypy.tree.apps.update(apps)
        # An HTTP server serves once; the next start makes a new one.
        vars(server).clear()
        vars(server).update(server_attributes, httpserver=None,
                            running=False, interrupt=None)
        bus.listeners.clear()
        bus.listeners.update(listeners)
        bus._priorities.clear()
        bus._priorities.update(priorities)
        bus.execv = False
        cherrypy.log.screen = screen
        for plugin, name, value in plugin_options:
            setattr(plugin, name, value)


@contextlib.contextmanager
def _never_a_hard_exit() -> Iterator[None]:
    """A bus that fails raises, where it would end the process at once."""

    class Os:
        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

        def _exit(self, code: int) -> None:
            raise RuntimeError(f'CherryPy would have ended with code {code}')

    wspbus.os = Os()
    try:
        yield
    finally:
        wspbus.os = os


def _plugin_options(options: Mapping[str, Any],
                    ) -> Iterator[tuple[Any, str, Any]]:
    for key in options:
        first, _, rest = key.partition('.')
        plugin_name, _, name = rest.partition('.')
        plugin = getattr(cherrypy.engine, plugin_name, None)
        if first == 'engine' and name and hasattr(plugin, name):
            yield plugin, name, getattr(plugin, name)
