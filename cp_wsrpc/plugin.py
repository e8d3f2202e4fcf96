"""The engine plugin, and the wiring: how all is put together.  Layer 5.

``cherrypy.engine.wsrpc`` is the one :class:`WsrpcPlugin` of a process.  It
owns

* the I/O loop (``ioloop``), the pool (``workers``) and the broker, which
  all sockets share as a ``hub``;
* the endpoints, found in ``cherrypy.tree`` when the engine starts
  (``endpoint_table``);
* the bus channels ``handle-websocket`` and ``websocket-broadcast`` of
  ws4py, and ``wsrpc-publish``, ``wsrpc-broadcast``, ``wsrpc-close-user``.

::

    tool.start_handler -> make_websocket -> 'handle-websocket' -> ioloop
    publish(), broadcast(), who()        -> publishing

The engine's ``stop`` has it drain before the HTTP server stops (bus
priority 20, the server's is 25): handlers that wait for a client are set
free before HTTP waits for them (pitfalls 26).

It is longer than a module should be: half of it are the contracts of what
applications set and call.
"""
from __future__ import annotations

import difflib
import itertools
import logging
import resource
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ws4py.server.cherrypyserver import WebSocketPlugin

from .backend import Backend, MemoryBackend
from .broker import Broker
from .endpoint import Endpoint, Place
from .endpoint_table import EndpointTable
from .errors import BrokerUnavailable, CloseCode, ConfigError, WrongThread
from .history import Position, read_rules
from .host_accept import rest_when_full
from .host_log import join_logs
from .host_serving import Handshake
from .hub import Hub, Timing
from .idempotency import KeyStore
from .invocation import enter_worker, leave_worker
from .ioloop import IOLoop
from .memory_keys import MemoryKeyStore
from .peer import Peer
from .presence import Presence
from .publishing import Publishing, path_of
from .recording import recorder
from .shutdown import Budget, let_go, shut_down
from .states import State
from .statistics import Statistics, read_namespace
from .strands import Strand
from .users import Target
from .websocket import WebSocket
from .workers import WorkerPool

__all__ = ['WsrpcPlugin']

log = logging.getLogger('cp_wsrpc.plugin')

#: Seconds that a start waits for the stop before it, which takes 14 s.
_STOP_WAIT_S = 20.0


class WsrpcPlugin(WebSocketPlugin):     # type: ignore[misc]
    """``cherrypy.engine.wsrpc``; its options are set as ``engine.wsrpc.*``.

    ``thread_pool``       threads that run methods (10)
    ``max_connections``   sockets at a time; None: the fd limit less 200
    ``ping_interval_s``, ``ping_timeout_s``, ``write_stall_s``,
    ``drain_timeout_s``   see :class:`cp_wsrpc.hub.Timing`
    ``topics``            which topics keep a history, and how much of it:
                          ``{'news': {'history_size': 1000}}``, see
                          :class:`cp_wsrpc.history.Retention`; ({})
    ``broker``            ``'memory'``, or ``'redis://host:6379/0'`` for
                          several processes, see ``redis_broker``

    Config is applied before the engine starts and may be applied again:
    options are plain attributes, read at ``start``.
    """

    def __init__(self, bus: Any) -> None:
        # Not ws4py's constructor: it makes a manager with a thread that
        # can be started once only (pitfalls 25).
        self.bus = bus
        self.thread_pool = 10
        self.max_connections: int | None = None
        self.ping_interval_s = Timing.ping_interval_s
        self.ping_timeout_s = Timing.ping_timeout_s
        self.write_stall_s = Timing.write_stall_s
        self.drain_timeout_s = Timing.drain_timeout_s
        self.broker = 'memory'
        self.topics: Mapping[str, Any] = {}
        #: set when the engine begins to stop; long methods may look at it
        self.stopping = threading.Event()
        self.stopping.set()
        self.hub: Hub | None = None
        #: ws4py's name for what has the sockets
        self.manager = IOLoop()
        #: the thread that ends what an async method has stopped
        self._stopper: threading.Thread | None = None
        self._ids = itertools.count(1)
        self._counts = Statistics()
        self._endpoints = EndpointTable(bus.log)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _POSITIVE and value is not None:
            if isinstance(value, bool) or not isinstance(
                    value, (int, float)) or value <= 0:
                raise ConfigError(f'engine.wsrpc.{name} must be a number '
                                  f'above 0, not {value!r}')
        elif name == 'topics':
            read_rules(value)       # to say now what cannot be
        elif name not in _NAMES and not name.startswith('_'):
            # CherryPy would set a misspelt option like any other.
            near = difflib.get_close_matches(name, _OPTIONS, 1, 0.5)
            raise ConfigError(
                f'engine.wsrpc.{name}: no such option; '
                + (f'did you mean engine.wsrpc.{near[0]}?' if near
                   else f'known are: {", ".join(_OPTIONS)}'))
        super().__setattr__(name, value)

    # -- life: the engine's thread -----------------------------------------

    def subscribe(self) -> None:
        """Take part in the engine's life.  Done once, at import."""
        # Not SimplePlugin's way: it would subscribe every method that
        # happens to be named like a channel (pitfalls 27).
        # When all else has started (sessions' cleaners, the application's
        # own plugins), but before the HTTP server, which starts at 75.
        self.bus.subscribe('start', self.start, priority=70)
        self.bus.subscribe('stop', self.stop, priority=20)
        self.bus.subscribe('graceful', self.graceful)
        # For good, as cp_wsrpc.publish is there for good: ``testing``
        # records them where no engine runs.
        for channel, listener in self._pushes().items():
            self.bus.subscribe(channel, listener)

    def unsubscribe(self) -> None:
        self.bus.unsubscribe('start', self.start)
        self.bus.unsubscribe('stop', self.stop)
        self.bus.unsubscribe('graceful', self.graceful)
        for channel, listener in self._pushes().items():
            self.bus.unsubscribe(channel, listener)

    def start(self) -> None:
        """Find the endpoints and start the threads.

        Waits for a stop that is still under way, which on the loop's
        thread would wait for itself: there it raises WrongThread.
        """
        self._wait_for_stop()
        join_logs()
        rest_when_full()
        self._endpoints.find_all()
        io = self.manager
        self._counts = Statistics()
        pool = WorkerPool(self.thread_pool, on_thread_start=enter_worker,
                          on_thread_stop=leave_worker)
        broker = Broker(self._make_backend(), io.fan_out, self._hear,
                        io.counters)
        kept = self._make_key_store()
        self._publishing = Publishing(io, pool, broker, kept)
        self.hub = Hub(io, pool, broker,
                       Timing(self.ping_interval_s, self.ping_timeout_s,
                              self.write_stall_s, self.drain_timeout_s),
                       self._counts, kept=kept)
        pool.start()
        io.start()
        broker.start()
        kept.start()
        self._counts.show(io, pool)
        self.stopping.clear()
        for channel, listener in self._channels().items():
            self.bus.subscribe(channel, listener)
        self.bus.log(f'WebSocket loop started, {self.thread_pool} workers')

    def stop(self) -> None:
        """Drain, close all sockets, end the threads; at most 14 s.

        When an async method stops the engine, this *is* the loop's thread:
        the rest is done by one that the engine waits for at its end.
        """
        if self.hub is None or self.stopping.is_set():
            return
        self.stopping.set()
        if self.manager.in_loop():
            self._stopper = threading.Thread(target=self._stop,
                                             name='wsrpc-stop',
                                             daemon=False)
            self._stopper.start()
        else:
            self._stop()

    def _wait_for_stop(self) -> None:
        if self.manager.in_loop():
            raise WrongThread(
                'an async or nonblocking method cannot start the engine: it '
                'runs on the loop that has to end first; start it from a '
                'plain method or another thread, or use engine.restart()')
        if self._stopper is not None:
            self._stopper.join(_STOP_WAIT_S)
            if self._stopper.is_alive():
                raise RuntimeError('the stop that an async method began has '
                                   f'not ended in {_STOP_WAIT_S:.0f} s')
            self._stopper = None

    def _stop(self) -> None:
        hub = self.hub
        assert hub is not None
        self.bus.log(f'Closing {len(self.manager)} WebSockets')
        budget = Budget.of_stop(hub)
        if self.bus.execv:
            shut_down(hub, CloseCode.RESTART, 'restarting', budget)
        else:
            shut_down(hub, CloseCode.GOING_AWAY, 'going away', budget)
        # Not before: a handshake that was under way is adopted, and closed
        # with the others.
        for channel, listener in self._channels().items():
            self.bus.unsubscribe(channel, listener)
        let_go(hub, budget)
        if self.hub is hub:         # else it was started anew since
            self.hub = None
        self.bus.log('WebSocket loop stopped')

    def graceful(self) -> None:
        """Look at the configuration again; sockets stay.

        Those go on by the new one; who finds nothing there any more is
        closed (4403).  A configuration that cannot be is told by the log,
        and all goes on by the old one: raised, it would end ``block()``,
        and with it the process.
        """
        if self.hub is None:
            return
        self.hub.pool.refresh()
        self.manager.post(self.manager.forget_tallies)
        try:
            self._endpoints.renew()
        except ConfigError as error:
            self.bus.log(f'wsrpc goes on with its old endpoints: {error}',
                         level=logging.ERROR)
            return
        self.manager.post(self._renew_all)

    def statistics(self) -> dict[str, Any]:
        """The traffic since the start; see :mod:`cp_wsrpc.statistics`.

        Plain numbers and dicts, of ``logging.statistics['cp_wsrpc']``.
        After a stop those of the run that has ended.  Any thread.
        """
        return read_namespace()

    def count_refusal(self, status: str, cause: str) -> None:
        """A handshake was refused; for ``tool``."""
        self._counts.count_refusal(status, cause)

    def _channels(self) -> dict[str, Callable[..., Any]]:
        return {'handle-websocket': self.handle,
                'websocket-broadcast': self.broadcast_raw}

    def _pushes(self) -> dict[str, Callable[..., Any]]:
        return {'wsrpc-publish': self.publish,
                'wsrpc-broadcast': self.broadcast,
                'wsrpc-close-user': self.close_user}

    def _make_backend(self) -> Backend:
        rules = read_rules(self.topics)
        if self.broker == 'memory':
            return MemoryBackend(rules)
        if not (isinstance(self.broker, str) and self.broker.startswith(
                ('redis://', 'rediss://', 'unix://'))):
            raise ConfigError(
                f"engine.wsrpc.broker = {self.broker!r}: must be 'memory' or "
                "a URL like 'redis://localhost:6379/0'")
        try:
            from .redis_broker import RedisBackend
        except ImportError as error:
            raise ConfigError(
                f'engine.wsrpc.broker = {self.broker!r}: {error}; '
                "pip install 'cp_wsrpc[redis]'") from None
        return RedisBackend(self.broker, rules, dict(self.topics))

    def _make_key_store(self) -> KeyStore:
        if self.broker == 'memory':
            return MemoryKeyStore()
        from .redis_keys import RedisKeyStore
        return RedisKeyStore(self.broker)

    # -- endpoints and handshakes: HTTP workers ----------------------------

    def endpoint_for(self, app: Any, place: Place) -> Endpoint:
        """The endpoint of a request; made now if its tree came late."""
        return self._endpoints.find_or_make(app, place.path)

    def _renew_all(self) -> None:
        """Give every socket its new endpoint.  The loop's thread."""
        for websocket in self.manager:
            self._renew(websocket)

    def _renew(self, websocket: WebSocket) -> None:
        old = websocket.endpoint
        endpoint = self._endpoints.find(old.app, old.path)
        if endpoint is old:
            return
        if (endpoint is not None and endpoint.options.handler_cls
                is old.options.handler_cls):
            websocket.renew(endpoint)
        else:
            websocket.close(CloseCode.FORBIDDEN, 'this endpoint is no more')

    def refuse_reason(self) -> str | None:
        """Why no handshake is taken just now (503); None: it is."""
        if self.stopping.is_set():
            return 'this server is stopping, or has not started yet'
        limit = self.max_connections or _default_max_connections()
        if len(self.manager) >= limit:
            return ('as many connections are open as '
                    f'engine.wsrpc.max_connections allows ({limit})')
        return None

    def make_websocket(self, endpoint: Endpoint, sock: Any,
                       handshake: Handshake) -> WebSocket:
        """The object of a connection whose 101 has been sent."""
        hub = self.hub
        if hub is None:
            raise RuntimeError('the engine has stopped')
        protocols = ([handshake.subprotocol] if handshake.subprotocol
                     else [])
        handler_cls = endpoint.options.handler_cls
        websocket: WebSocket
        if handler_cls is None:
            websocket = Peer(sock, protocols)
        else:
            websocket = handler_cls(sock, protocols, None,
                                    handshake.environ())
        websocket.attach(endpoint, handshake, hub, Strand(hub.pool),
                         f'#{next(self._ids)}')
        return websocket

    def handle(self, ws_handler: Any, peer_addr: Any = None) -> None:
        """Have the loop take a socket over ('handle-websocket').

        A plain ws4py handler is left to ws4py's own plugin, which an
        application may have beside ours.
        """
        if isinstance(ws_handler, WebSocket):
            self.manager.post(self._adopt, ws_handler)

    def _adopt(self, websocket: WebSocket) -> None:
        self._renew(websocket)      # a graceful may have come between
        self._publishing.audience.admit(websocket)
        self.manager.adopt(websocket)

    # -- pushes: any thread ------------------------------------------------

    def publish(self, topic: str, data: Any, key: str | None = None,
                user: Any = ...) -> Position | None:
        """Send ``data`` to all who subscribed; see ``cp_wsrpc.publish``."""
        if user is not ...:
            self._publish_to(topic, data, key, user)
            return None
        recording = recorder.get()
        if recording is not None:
            recording.publish(topic, data, key)
            return None
        if self.hub is None:
            log.debug('publish(%r) while the engine does not run', topic)
            return None
        return self._publishing.publish(topic, data, key)

    def _publish_to(self, topic: str, data: Any, key: str | None,
                    user: Any) -> None:
        if key is not None:
            raise TypeError('key= is for what is kept: an event for one '
                            'user is not')
        recording = recorder.get()
        if recording is not None:
            recording.publish(topic, data, user=user)
        elif self.hub is None:
            log.debug('publish(%r) while the engine does not run', topic)
        else:
            self._publishing.audience.publish(topic, data, user)

    def position(self, topic: str) -> Position | None:
        """Where a topic is just now; see ``cp_wsrpc.position``."""
        if self.hub is None or recorder.get() is not None:
            return None
        return self._publishing.position(topic)

    def close_user(self, user: Any, code: int = CloseCode.FORBIDDEN,
                   reason: str = '') -> int:
        """Close all his connections; see ``cp_wsrpc.close_user``."""
        recording = recorder.get()
        if recording is not None:
            return recording.close_user(user, code, reason)
        if self.hub is None:
            log.debug('close_user() while the engine does not run')
            return 0
        return self._publishing.audience.close_user(user, code, reason)

    def broadcast(self, name: str, *args: Any, endpoint: str | None = None,
                  user: Any = None) -> None:
        """Call a function of all clients; see ``cp_wsrpc.broadcast``."""
        recording = recorder.get()
        if recording is not None:
            recording.broadcast(name, *args, endpoint=endpoint, user=user)
        elif self.hub is None:
            log.debug('broadcast(%r) while the engine does not run', name)
        else:
            self._publishing.broadcast(name, args, endpoint, user)

    def who(self, topic: str) -> Presence:
        """Who is on a topic; see ``cp_wsrpc.who``."""
        recording = recorder.get()
        if recording is not None:
            return recording.who(topic)
        if self.hub is None:
            raise BrokerUnavailable('the engine does not run')
        return self._publishing.who(topic)

    def broadcast_raw(self, message: Any, binary: bool = False) -> None:
        """Send a raw message to the sockets of plain handlers.

        ws4py's 'websocket-broadcast'.  RPC peers could not parse it.
        """
        if self.hub is not None:
            self._publishing.broadcast_raw(message, binary)

    def _hear(self, what: str, text: bytes) -> None:
        self._publishing.hear(what, text)

    def connections(self, endpoint: str | None = None,
                    user: Any = None) -> list[WebSocket]:
        """The open connections; see ``cp_wsrpc.connections``."""
        recording = recorder.get()
        if recording is not None:
            return recording.connections(endpoint, user)
        target = None if user is None else Target(user)
        found: Iterable[WebSocket] = (
            self.manager.peers_at() if endpoint is None else
            [websocket for websocket in self.manager
             if websocket.endpoint.url_path == path_of(endpoint)])
        return [websocket for websocket in found
                if websocket.state is State.OPEN
                and (target is None or target.is_met_by(websocket))]


def _default_max_connections() -> int:
    """The process's limit of open files, less 200 for all else.

    Half of it where it is below 400: "all else" is smaller there, too.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return 100_000
    return max(soft - 200, soft // 2)


_OPTIONS = ('thread_pool', 'max_connections', 'ping_interval_s',
            'ping_timeout_s', 'write_stall_s', 'drain_timeout_s', 'topics',
            'broker')
#: All that is set on the plugin from the outside, or by itself.
_NAMES = frozenset({*_OPTIONS, 'bus', 'hub', 'manager', 'stopping'})
#: Options that are numbers above 0 (or None: the default).
_POSITIVE = frozenset({
    'thread_pool', 'max_connections', 'ping_interval_s', 'ping_timeout_s',
    'write_stall_s', 'drain_timeout_s'})
