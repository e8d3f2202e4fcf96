"""Which of many sockets can be read or written: real ones, both loops."""
from __future__ import annotations

import asyncio
import contextlib
import contextvars
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvloop

from cp_wsrpc import readiness
from cp_wsrpc.readiness import READ, WRITE, Readiness

LOOPS = {'asyncio': asyncio.SelectorEventLoop, 'uvloop': uvloop.Loop}


class Watched:
    """A loop, what it told, and sockets that are closed at the end."""

    def __init__(self, make_loop: Callable[[], Any]) -> None:
        self.loop = make_loop()
        self.told: list[tuple[str, Any]] = []
        self.more = asyncio.Event()
        self.readiness = Readiness(
            self.loop, lambda owner: self._tell('read', owner),
            lambda owner: self._tell('write', owner),
            on_look=lambda: self.now,
            on_turn_end=lambda: self.ends.append(len(self.told)))
        self.now = 0.0
        #: how many had been told at the end of each turn
        self.ends: list[int] = []
        self.sockets: list[socket.socket] = []

    def _tell(self, what: str, owner: Any) -> None:
        self.told.append((what, owner))
        self.more.set()
        if callable(owner):
            owner()

    def pair(self) -> tuple[socket.socket, socket.socket]:
        """(ours, the peer's), of a TCP connection."""
        with socket.create_server(('127.0.0.1', 0)) as server:
            theirs = socket.create_connection(server.getsockname())
            ours, _ = server.accept()
        self.sockets += [ours, theirs]
        ours.setblocking(False)
        return ours, theirs

    def turn(self, until: int = 1) -> list[tuple[str, Any]]:
        """Run till so much has been told, or nothing more comes soon."""
        async def wait() -> None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    while len(self.told) < until:
                        self.more.clear()
                        await self.more.wait()

        self.loop.run_until_complete(wait())
        told, self.told = self.told, []
        return told

    def turn_idly(self) -> list[tuple[str, Any]]:
        """What is told beside a socket that is told three times."""
        marker, theirs = self.pair()
        theirs.send(b'x')
        self.readiness.watch(marker, READ, 'marker')
        told: list[tuple[str, Any]] = []
        while told.count(('read', 'marker')) < 3:
            told += self.turn()
        self.readiness.unwatch(marker, READ)
        return [item for item in told if item[1] != 'marker']


@pytest.fixture(params=['epoll', 'selectors'])
def poller(request: pytest.FixtureRequest,
           monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == 'selectors':
        monkeypatch.setattr(readiness, '_new_poller', readiness._Selector)


@pytest.fixture(params=LOOPS)
def watched(request: pytest.FixtureRequest, poller: None,
            ) -> Iterator[Watched]:
    watched = Watched(LOOPS[request.param])
    yield watched
    watched.readiness.close()
    watched.loop.close()
    for sock in watched.sockets:
        sock.close()


def test_it_tells_who_can_be_read_as_long_as_he_can(watched):
    ours, theirs = watched.pair()
    watched.readiness.watch(ours, READ, 'a')
    theirs.send(b'x')
    assert set(watched.turn(3)) == {('read', 'a')}
    ours.recv(10)
    watched.told.clear()
    assert watched.turn_idly() == []


def test_reading_and_writing_are_watched_apart(watched):
    ours, theirs = watched.pair()
    watched.readiness.watch(ours, READ, 'a')
    watched.readiness.watch(ours, WRITE, 'a')
    assert set(watched.turn()) == {('write', 'a')}
    watched.readiness.unwatch(ours, WRITE)
    watched.told.clear()
    theirs.send(b'x')
    assert set(watched.turn()) == {('read', 'a')}
    watched.readiness.unwatch(ours, READ)
    watched.readiness.unwatch(ours, READ)
    watched.told.clear()
    assert watched.turn_idly() == []


def test_bytes_and_a_reset_that_come_together_are_both_told(watched):
    ours, theirs = watched.pair()
    got = []

    def read() -> None:
        try:
            got.append(ours.recv(100))
        except ConnectionResetError:
            got.append('reset')
            watched.readiness.unwatch(ours, READ)

    watched.readiness.watch(ours, READ, read)
    theirs.send(b'x')
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                      struct.pack('ii', 1, 0))
    theirs.close()
    watched.turn(2)
    assert got == [b'x', 'reset']


def test_an_error_is_told_to_nobody_who_does_not_watch(watched):
    ours, theirs = watched.pair()
    watched.readiness.watch(ours, READ, 'a')
    watched.readiness.unwatch(ours, READ)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                      struct.pack('ii', 1, 0))
    theirs.close()
    assert watched.turn_idly() == []


def test_each_socket_has_a_context_of_its_own(watched):
    variable = contextvars.ContextVar('variable', default='nobody')
    seen = []

    def read(name: str, sock: socket.socket) -> None:
        sock.recv(100)
        seen.append((name, variable.get()))
        variable.set(name)

    pairs = [watched.pair() for _ in range(2)]
    for name, (ours, _) in zip('ab', pairs, strict=True):
        watched.readiness.watch(
            ours, READ, lambda name=name, ours=ours: read(name, ours))
    for _ in range(2):
        for _, theirs in pairs:
            theirs.send(b'x')
        watched.turn(2)
    assert sorted(seen) == [('a', 'a'), ('a', 'nobody'), ('b', 'b'),
                            ('b', 'nobody')]


def test_after_the_end_nothing_is_watched(watched):
    ours, _ = watched.pair()
    watched.readiness.watch(ours, READ, 'a')
    watched.readiness.close()
    watched.readiness.unwatch(ours, READ)
    watched.readiness = Readiness(watched.loop, print, print)


def test_who_is_unwatched_by_another_in_the_same_turn_is_not_told(watched):
    first, first_peer = watched.pair()
    second, second_peer = watched.pair()
    both = {first: second, second: first}
    for sock, other in both.items():
        def unwatch(other: socket.socket = other) -> None:
            watched.readiness.unwatch(other, READ)
        watched.readiness.watch(sock, READ, unwatch)
    first_peer.send(b'x')
    second_peer.send(b'x')
    assert len({owner for _, owner in watched.turn(2)}) == 1


def test_more_sockets_than_one_look_takes_are_all_told(watched, monkeypatch):
    monkeypatch.setattr(readiness, '_MAX_EVENTS', 2)
    told = set()
    for number in range(5):
        ours, theirs = watched.pair()
        watched.readiness.watch(ours, READ, number)
        theirs.send(b'x')
    while len(told) < 5:
        told |= {owner for _, owner in watched.turn()}
    assert told == set(range(5))


@pytest.mark.parametrize(('enough', 'read_s', 'ends'), [
    (3, 0.0, [4]), (2, 0.0, [2, 4]), (3, 0.004, [4]), (3, 0.006, [2, 4])])
def test_looks_that_find_few_and_take_10_ms_at_most_are_one_turn(
        watched, monkeypatch, enough, read_s, ends):
    monkeypatch.setattr(readiness, '_TURN_EVENTS', enough)
    pairs = [watched.pair() for _ in range(4)]

    def read(ours: socket.socket, next_peer: socket.socket | None) -> None:
        ours.recv(100)
        watched.now += read_s
        if next_peer is not None:
            next_peer.send(b'x')        # for the next look

    for number, (ours, _) in enumerate(pairs):
        next_peer = pairs[number + 2][1] if number < 2 else None
        watched.readiness.watch(
            ours, READ, lambda ours=ours, peer=next_peer: read(ours, peer))
    for _, theirs in pairs[:2]:
        theirs.send(b'x')
    watched.turn(4)
    assert watched.ends == ends
