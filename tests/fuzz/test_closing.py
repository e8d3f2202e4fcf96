"""The end of a connection, whoever begins it, in any order (stateful).

Hypothesis has a server and a peer send, close, break the protocol and go
away over a real socket, in any order; a model knows what may come of it.
"""
from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

import cherrypy
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    precondition,
    rule,
    run_state_machine_as_test,
)

import cp_wsrpc
from cp_wsrpc.states import State

from ..rawpeer import CLOSE, PING, PONG, TEXT, PeerClosed
from ..serving import Server, serving, wait_until
from .seeds import FULL

#: Both deadlines of the close handshake (2 s and 1 s), and a machine that
#: has other things to do.
WAIT_S = 10.0

CODES = st.sampled_from([1000, 1001, 1011, 3000, 4000, 4999])


class Noting(cp_wsrpc.WebSocket):
    made: SimpleQueue[Noting] = SimpleQueue()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.events: list[tuple[Any, ...]] = []
        Noting.made.put(self)

    def opened(self) -> None:
        self.events.append(('opened',))

    def received_message(self, message: Any) -> None:
        self.events.append(('text', bytes(message.data)))

    def closed(self, code: int, reason: Any = None) -> None:
        self.events.append(('closed', code))


class Closing(RuleBasedStateMachine):
    """One connection.

    ``enders`` is what may have ended it: ``'server'``, ``'peer'``,
    ``'fault'``, ``'eof'`` or ``'reset'``, with a code, in their order;
    which of them the server has seen first is known after
    ``server_sees_it``.
    """

    server: Server

    def __init__(self) -> None:
        super().__init__()
        self.peer = self.server.peer('/ws', timeout_s=WAIT_S)
        self.made = Noting.made.get(timeout=WAIT_S)
        wait_until(lambda: self.made.state is State.OPEN, WAIT_S)
        self.enders: list[tuple[str, int]] = []
        self.first: tuple[str, int] | None = None
        self.to_server: list[bytes] = []
        self.to_peer: list[bytes] = []
        self.pings = 0

    # -- what is known -----------------------------------------------------

    def ended_by(self, *names: str) -> bool:
        return any(name in names for name, _ in self.enders)

    @property
    def peer_may_send(self) -> bool:
        return not self.ended_by('peer', 'fault', 'eof', 'reset')

    # -- what happens ------------------------------------------------------

    @rule()
    def server_sends(self) -> None:
        text = f's{len(self.to_peer)}'
        self.made.send(text)
        if not self.ended_by('server'):
            self.to_peer.append(text.encode())

    @rule(code=CODES)
    def server_closes(self, code: int) -> None:
        self.made.close(code, 'bye')
        assert self.made.is_closed
        if not self.ended_by('server'):
            self.enders.append(('server', code))

    @precondition(lambda self: self.peer_may_send)
    @rule()
    def peer_sends(self) -> None:
        text = f'p{len(self.to_server)}'.encode()
        self.send(TEXT, text)
        self.to_server.append(text)

    @precondition(lambda self: self.peer_may_send)
    @rule()
    def peer_pings(self) -> None:
        self.send(PING, b'?')
        self.pings += 1

    @precondition(lambda self: self.peer_may_send)
    @rule(code=CODES | st.none(), more=st.booleans())
    def peer_closes(self, code: int | None, more: bool) -> None:
        self.send(CLOSE, b'' if code is None else struct.pack('!H', code))
        if more:
            self.send(TEXT, b'after the Close')
        self.enders.append(('peer', code or 1005))

    @precondition(lambda self: self.peer_may_send)
    @rule()
    def peer_breaks_the_protocol(self) -> None:
        self.send(TEXT, b'not masked', mask=False)
        self.enders.append(('fault', 1002))

    @precondition(lambda self: not self.ended_by('eof', 'reset'))
    @rule()
    def peer_ends_its_stream(self) -> None:
        with contextlib.suppress(OSError):
            self.peer.sock.shutdown(socket.SHUT_WR)
        self.enders.append(('eof', 1006))

    @precondition(lambda self: not self.ended_by('reset'))
    @rule()
    def peer_resets(self) -> None:
        self.peer.reset()
        self.enders.append(('reset', 1006))

    @precondition(lambda self: len(self.enders) == 1)
    @rule()
    def server_sees_it(self) -> None:
        wait_until(lambda: self.made.state > State.OPEN, WAIT_S)
        self.first = self.enders[0]

    def send(self, opcode: int, payload: bytes, mask: bool = True) -> None:
        # The server may have gone already: then nobody hears it.
        with contextlib.suppress(OSError):
            self.peer.send_frame(opcode, payload, mask=mask)

    # -- what has come of it -----------------------------------------------

    def teardown(self) -> None:
        try:
            if not self.enders:
                self.peer_closes(1000, False)
            frames = ([] if self.ended_by('reset')
                      else list(self.read_to_the_end()))
        finally:
            self.peer.drop()
        made = self.made
        wait_until(lambda: made.state is State.CLOSED, WAIT_S)
        wait_until(lambda: made.events and made.events[-1][0] == 'closed',
                   WAIT_S)
        wait_until(lambda: made not in cherrypy.engine.wsrpc.manager,
                   WAIT_S)
        assert made.sock is None
        wait_until(lambda: made.strand.is_idle, WAIT_S)
        self.check_hooks(made.events)
        if not self.ended_by('reset'):
            self.check_frames(frames)

    def read_to_the_end(self) -> Iterator[tuple[int, bytes]]:
        """What the peer gets; it answers a Close, as it must."""
        while True:
            try:
                opcode, payload = self.peer.recv_frame()
            except PeerClosed:
                return
            yield opcode, payload
            if opcode == CLOSE and self.peer_may_send:
                self.send(CLOSE, payload[:2])
                self.enders.append(('peer', 0))

    def check_hooks(self, events: list[tuple[Any, ...]]) -> None:
        assert events[0] == ('opened',)
        closed = [event for event in events if event[0] == 'closed']
        assert len(closed) == 1 and events[-1] == closed[0], events
        texts = [text for _, text in events[1:-1]]
        assert texts == self.to_server[:len(texts)], events
        if not self.ended_by('server', 'reset'):
            assert texts == self.to_server, 'all that came before'
        may_be = {code for _, code in self.enders} | {1006}
        if self.first is not None and self.first[0] in ('peer', 'fault'):
            may_be = {self.first[1]}
        elif self.first == ('eof', 1006):
            may_be = {1006}
        elif not self.ended_by('eof', 'reset'):
            # 0: it has answered our Close with our code
            may_be = {code or self.enders[0][1] for _, code in self.enders}
        assert closed[0][1] in may_be, (closed, self.enders, self.first)

    def check_frames(self, frames: list[tuple[int, bytes]]) -> None:
        closes = [payload for opcode, payload in frames if opcode == CLOSE]
        assert len(closes) <= 1
        assert not closes or frames[-1] == (CLOSE, closes[0])
        assert sum(opcode == PONG for opcode, _ in frames) <= self.pings
        texts = [payload for opcode, payload in frames if opcode == TEXT]
        if self.enders[0][0] == 'server' and not self.ended_by('eof'):
            assert texts == self.to_peer
        else:
            assert texts == self.to_peer[:len(texts)]
        if not self.ended_by('eof'):
            assert closes, 'an end without a Close'
        if closes:
            code = (struct.unpack('!H', closes[0][:2])[0] if closes[0]
                    else 1005)
            may_be = {code for name, code in self.enders if name != 'eof'}
            if self.first is not None:
                may_be = {self.first[1]}
            assert code in may_be, (code, self.enders, self.first)


class Root:
    pass


@pytest.mark.timeout(1800)
def test_a_connection_ends_as_it_should_whoever_ends_it() -> None:
    with serving(Root(), {'/ws': {
            'tools.wsrpc.on': True,
            'tools.wsrpc.handler_cls': Noting}}) as server:
        Closing.server = server
        run_state_machine_as_test(Closing, settings=settings(
            max_examples=10_000 if FULL else 100, stateful_step_count=10,
            deadline=None, print_blob=True, database=None,
            suppress_health_check=list(HealthCheck)))
        assert not server.logged('closed after a fault')
        wait_until(lambda: not len(cherrypy.engine.wsrpc.manager))
