"""What all connections of a process share.  Layer 2.

One :class:`Hub`, made and changed by ``plugin`` alone; every socket holds
it and reads it, on whatever thread.  Attributes are replaced as a whole,
so a reader sees the old value or the new one.
"""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .idempotency import KeyStore
from .memory_keys import MemoryKeyStore
from .session_watch import SessionWatch
from .statistics import Statistics

if TYPE_CHECKING:
    from .broker import Broker
    from .workers import WorkerPool

__all__ = ['Hub', 'Timing']


@dataclass(frozen=True)
class Timing:
    """``engine.wsrpc.*``: seconds (design.md, 4)."""

    #: silence of a peer before it is pinged; NATs and proxies forget a
    #: connection after 60 s and more
    ping_interval_s: float = 25.0
    #: and for its answer, before the connection is given up
    ping_timeout_s: float = 20.0
    #: a peer that takes no byte of ours for this long is a slow reader
    write_stall_s: float = 10.0
    #: running calls may go on for this long when the engine stops
    drain_timeout_s: float = 10.0


@dataclass
class Hub:
    """The loop, the pool, the broker, and whether the engine stops."""

    io: Any                             # ioloop.IOLoop
    pool: WorkerPool
    broker: Broker
    timing: Timing = field(default_factory=Timing)
    statistics: Statistics = field(default_factory=Statistics)
    #: new calls are answered "going away"
    draining: bool = False
    #: what calls with an idempotency key came to
    kept: KeyStore = field(default_factory=MemoryKeyStore)
    #: closes the connections of sessions that end
    sessions: SessionWatch = field(init=False)

    def __post_init__(self) -> None:
        self.sessions = SessionWatch(self.io)
