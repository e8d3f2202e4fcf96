"""Where ``testing`` takes the place of the server.  Layer 0.

``plugin`` asks :data:`recorder` first whenever something is published,
broadcast, or connections are asked for; outside of ``testing.call`` it is
None, which costs 30 ns.  A context variable, so that tests in several
threads, and an application that serves beside them, are not mixed.
"""
from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from .presence import Presence

__all__ = ['Recorder', 'recorder']


class Recorder(Protocol):
    """What stands for the server; as the methods of ``WsrpcPlugin``."""

    def publish(self, topic: str, data: Any, key: str | None = None,
                user: Any = ...) -> Any: ...

    def broadcast(self, name: str, *args: Any, endpoint: str | None = None,
                  user: Any = None) -> None: ...

    def close_user(self, user: Any, code: int, reason: str) -> int: ...

    def who(self, topic: str) -> Presence: ...

    def connections(self, endpoint: str | None = None,
                    user: Any = None) -> list[Any]: ...


recorder: ContextVar[Recorder | None] = ContextVar('cp_wsrpc.recorder',
                                                   default=None)
