"""What the tests of calls share: a gate, messages, and who answers them.

::

    gate = Gate()
    class Api:
        @expose
        def hold(self):
            return gate.enter()         # until the test opens it

    with serving_api(Api()) as server, server.peer('/api') as peer:
        peer.send_json(request('hold'))
        gate.wait_entered()
        gate.open('done')
        assert peer.recv_json() == result(1, 'done')
"""
from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from cherrypy.process import servers

from .rawpeer import CLOSE, RawPeer
from .serving import Server, serving, wait_until

__all__ = ['Exiting', 'Gate', 'Root', 'WAIT_S', 'assert_sent_away',
           'failure_of', 'only_connection', 'recv_all', 'request', 'result',
           'serving_api', 'settle', 'starting_quickly', 'take_call']

#: The deadline of each wait of a method; past it the method raises.
WAIT_S = 10.0


class _ExitsWhenNamed(type):
    def __getattribute__(cls, name: str) -> Any:
        if name == '__qualname__':
            raise SystemExit
        return super().__getattribute__(name)


class Exiting(metaclass=_ExitsWhenNamed):
    """A value whose encoding raises what is no Exception."""


class Gate:
    """Where methods wait until the test lets them go on."""

    def __init__(self) -> None:
        self._entered = threading.Semaphore(0)
        self._open = threading.Event()
        self._value: Any = None
        self._lock = threading.Lock()
        self.inside = 0
        #: how many stood in it at once, at most
        self.most = 0

    def enter(self) -> Any:
        """Tell that we are here; wait; what ``open`` was given."""
        with self._lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        self._entered.release()
        opened = self._open.wait(WAIT_S)
        with self._lock:
            self.inside -= 1
        assert opened, 'nobody opened the gate'
        return self._value

    def wait_entered(self, count: int = 1) -> None:
        """Wait until ``count`` more have come in."""
        for _ in range(count):
            assert self._entered.acquire(timeout=WAIT_S), 'nobody came in'

    def open(self, value: Any = None) -> None:
        """Let all in it go on, and all who come later."""
        self._value = value
        self._open.set()


class Root:
    """A root whose attributes are the endpoints."""

    def __init__(self, **endpoints: Any) -> None:
        vars(self).update(endpoints)


@contextlib.contextmanager
def serving_api(api: Any = None, options: Mapping[str, Any] | None = None,
                **more: Any) -> Iterator[Server]:
    """Serve ``api`` at ``/api``.

    ``options``: of ``tools.wsrpc``, without that; a key with a dot is
    taken as it stands (``tools.sessions.on``).  ``more``: of ``serving``.
    """
    section = {'tools.wsrpc.on': True}
    for name, value in (options or {}).items():
        section[name if '.' in name else f'tools.wsrpc.{name}'] = value
    with starting_quickly(), serving(Root(api=api), {'/api': section},
                                     **more) as server:
        yield server


@contextlib.contextmanager
def starting_quickly() -> Iterator[None]:
    """CherryPy looks each 0.1 s whether its HTTP server is ready: here
    more often, for that is most of the time of a short test."""

    class Time:
        @staticmethod
        def sleep(seconds: float) -> None:
            threading.Event().wait(min(seconds, 0.002))

    servers.time = Time
    try:
        yield
    finally:
        servers.time = time


def request(method: str, params: Any = None, id: Any = 1) -> dict[str, Any]:
    """A JSON-RPC call; ``params`` None: without them."""
    message = {'jsonrpc': '2.0', 'method': method, 'id': id}
    if params is not None:
        message['params'] = params
    return message


def result(id: Any, value: Any) -> dict[str, Any]:
    """A JSON-RPC reply."""
    return {'jsonrpc': '2.0', 'id': id, 'result': value}


def failure_of(peer: RawPeer, method: str, params: Any = None,
               ) -> tuple[int, str, Any]:
    """(code, message, data) of the error in which a call ends."""
    peer.send_json(request(method, params, 'f'))
    answer = peer.recv_json()
    assert answer['id'] == 'f' and 'error' in answer, answer
    error = answer['error']
    assert set(error) <= {'code', 'message', 'data'}, error
    return error['code'], error['message'], error.get('data')


def take_call(peer: RawPeer, method: str) -> dict[str, Any]:
    """The next message, which must be the server's call of ``method``."""
    message = peer.recv_json()
    assert message.get('method') == method, message
    return message


def settle(peer: RawPeer, call: Mapping[str, Any], value: Any = None) -> None:
    """Answer a call of the server's."""
    peer.send_json(result(call['id'], value))


def assert_sent_away(peer: RawPeer, code: int = 1001) -> None:
    """The server closes; the peer answers, so that nobody waits."""
    assert peer.recv_close()[0] == code
    peer.send_frame(CLOSE, code.to_bytes(2, 'big'))
    peer.drop()


def recv_all(peer: RawPeer, count: int) -> dict[Any, Any]:
    """``count`` answers by their id, in whatever order they come."""
    answers = [peer.recv_json() for _ in range(count)]
    by_id = {answer['id']: answer for answer in answers}
    assert len(by_id) == count, answers
    return by_id


def only_connection() -> Any:
    """The one connection that the process has."""
    import cp_wsrpc
    return wait_until(cp_wsrpc.connections)[0]
