"""What an application sees of one connection.  Layer 3.

A subclass of ws4py's ``WebSocket`` whose reading, writing and closing are
replaced (pitfalls 13-25 say why): ``sending``, ``closing`` and
``receiving``, in that order, each a class that builds upon the one before.
It is what applications subclass for plain handlers::

    class Echo(cp_wsrpc.WebSocket):
        def opened(self):
            self.send('Welcome!')
        def received_message(self, message):
            self.send(str(message).upper())
        def closed(self, code, reason=None):
            ...

and the base of ``peer.Peer``, which speaks RPC.  ``ioloop`` calls
``on_adopted``, ``on_readable``, ``on_turn``, ``on_writable``, ``on_timer``
and ``flush``.
"""
from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ws4py.messaging import BinaryMessage, Message, TextMessage

from .closing import CLOSE_TIMEOUT_S
from .errors import CloseCode
from .framing import FrameStream
from .logs import escape, limited
from .receiving import MAX_UNHANDLED, Receiver
from .states import OPEN
from .users import key_of

if TYPE_CHECKING:
    from .compression import Agreement
    from .endpoint import Endpoint
    from .host_serving import Handshake
    from .hub import Hub
    from .strands import Strand

__all__ = ['WebSocket']

log = logging.getLogger('cp_wsrpc.websocket')


class WebSocket(Receiver):
    """One connection.

    From any thread: ``send``, ``close``, ``ping``, ``is_closed`` and what
    only reads.  From the loop's thread: everything that begins with ``on_``
    and ``flush``.  Hooks (``opened``, ``received_message``, ``ponged``,
    ``closed``) run one at a time, in order, on the pool, and may block.
    """

    __slots__ = ('_peer_address', '_user_key', 'early')

    def __init__(self, sock: Any, protocols: Any = None,
                 extensions: Any = None, environ: Any = None,
                 heartbeat_freq: Any = None) -> None:
        super().__init__(sock, protocols, extensions, environ)
        #: bytes that came in one segment with the request; set by the tool
        self.early = b''
        self._user_key: bytes | None = None

    def attach(self, endpoint: Endpoint, handshake: Handshake, hub: Hub,
               strand: Strand, id: str) -> None:
        """Give it its surroundings, before the loop adopts it."""
        options = endpoint.options
        self.endpoint = endpoint
        self.out_max_bytes = options.out_max_bytes
        self.handshake = handshake
        self.hub = hub
        self.io = hub.io
        self.strand = strand
        self.id = id
        self.stream = FrameStream(
            max_message_bytes=options.max_message_bytes,
            max_fragments=options.max_fragments)
        agreed: Agreement | None = handshake.extensions
        if agreed is not None:
            self.stream.inflater = agreed.inflater()
            self.framer = agreed.framer
        remote = handshake.remote
        # Behind a proxy it is what a header said.
        self.remote = escape(f'{remote.ip}:{remote.port}') if remote else ''
        if remote:
            self._peer_address = (remote.ip, remote.port)
        # So that sockets which came together do not ping together.  At most
        # 10 % late, 4 % of them for the ticks in which the loop looks: a
        # dead peer is given up in 47.5 s (threats D2).
        self._ping_after_s = (hub.timing.ping_interval_s
                              * random.uniform(.9, 1.06))

    def renew(self, endpoint: Endpoint) -> None:
        """Go on by another endpoint of the same path, after a graceful.

        The loop's thread.  What ``attach`` has made of the old options
        stays: the limits of messages that come in, and of calls.
        """
        self.endpoint = endpoint
        self.out_max_bytes = endpoint.options.out_max_bytes

    # -- for applications: any thread ------------------------------------

    @property
    def is_closed(self) -> bool:
        """Whether it is closed or on the way there: nothing can be sent."""
        return self.state is not OPEN or self.server_terminated

    @property
    def user(self) -> Any:
        """What ``tools.wsrpc.user`` returned, or ``request.login``."""
        return self.handshake.user

    @property
    def user_key(self) -> bytes:
        """``users.key_of(user)``, as it was when it was first needed."""
        key = self._user_key
        if key is None:
            key = self._user_key = key_of(self.user)
        return key

    def __repr__(self) -> str:
        return (f'<{type(self).__name__} {self.id} {self.remote} '
                f'{self.state.name}>')

    # -- hooks: on the pool ----------------------------------------------

    def run_hook(self, name: str, *args: Any) -> None:
        """Run a hook of the application's, whatever it does."""
        try:
            getattr(self, name)(*args)
        except BaseException:  # the application's: SystemExit, too
            limited(log, f'hook.{name}', logging.ERROR,
                    '%s: %s() of %s raised', self.id, name,
                    type(self).__name__, exc_info=True)

    def unhandled_error(self, error: BaseException) -> None:
        """Told of a socket error; ws4py's hook.  Default: a debug line."""
        log.debug('%s: %s', self.id, error)

    # -- the loop's thread -------------------------------------------------

    def on_adopted(self) -> None:
        """The loop has it: read what came early, and from now on."""
        self._opened_at = self.last_read = self._last_write = self.io.now()
        self._enter(OPEN)
        if self.handshake.bound:
            self.hub.sessions.join(self)
        self.on_opened()
        self.io.schedule(self, self.last_read + self._ping_after_s)
        if self._early_close is not None:
            self._begin_close(*self._early_close)
        elif self.out.frames:
            self.flush()
        self._go_on_reading()
        early, self.early = self.early, b''
        if early and self.sock is not None:
            self._take(early, self.last_read)
        if self._is_secure and self.state is OPEN:
            # OpenSSL may hold what epoll cannot see.
            self.on_readable(self.io.now())

    def on_opened(self) -> None:
        """The loop has taken the connection; ``peer`` has its own."""
        log.info('%s %s opened: %s', self.id, self.remote,
                 self.endpoint.url_path)
        self.strand.post(self.run_hook, 'opened')

    def on_ended(self, code: int, reason: str) -> None:
        """The connection is over; ``peer`` has its own."""
        self.strand.post(self.run_hook, 'closed', code, reason)

    def on_items(self, items: list[Any]) -> None:
        """Handle what one read brought; ``peer`` has its own."""
        for item in items:
            if type(item) is bytes:
                self.messages_in += 1
                self._hand_over(TextMessage(item))
            elif isinstance(item, BinaryMessage):
                self.messages_in += 1
                self._hand_over(item)
            else:
                self.on_control(item)

    def end_after_hooks(self, step: Callable[[], object]) -> None:
        """The peer has said its last, and ``step`` ends the connection.

        What came before is the handler's, which may still answer: it is
        taken after that, or in 2 s.  ``peer`` has its own.
        """
        if self.state is not OPEN or self.strand.is_idle:
            step()
            return
        self._stop_reading()
        self.client_terminated = True
        self._last_step = step
        self._last_step_at = self.io.now() + CLOSE_TIMEOUT_S
        self.io.schedule(self, self._last_step_at)
        self.strand.post(self.io.post, step)

    def _hand_over(self, message: Message) -> None:
        """Give a plain handler its message; stop reading if it lags."""
        if self.state is not OPEN:
            return
        message.completed = True
        self.strand.post(self._run_message, message)
        if len(self.strand) >= MAX_UNHANDLED:
            self._stop_reading()
            # Had it caught up before the stop, nobody would go on.
            if len(self.strand) <= MAX_UNHANDLED // 2:
                self._go_on_reading()

    def _run_message(self, message: Message) -> None:
        self.run_hook('received_message', message)
        if not self._reading and len(self.strand) <= MAX_UNHANDLED // 2:
            self.io.post(self._go_on_reading)

    # -- what of ws4py must not run --------------------------------------

    def once(self) -> bool:
        """ws4py's way to read; the loop reads here."""
        raise NotImplementedError('cp_wsrpc reads in its own loop')

    run = terminate = once

    def _write(self, data: bytes) -> None:
        self.enqueue(bytes(data))

    def close_connection(self) -> None:
        """ws4py's way to end a connection at once."""
        self.io.post(self.abort, CloseCode.ABNORMAL, 'closed')
