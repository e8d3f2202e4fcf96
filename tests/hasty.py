"""CherryPy and cheroot look more often for what they wait for.

::

    hasten()                    # a program that a test starts
    with hastened():            # this process, as serving() does

Whether the HTTP server is ready, its threads are, it is to stop, it has
stopped: they look every 0.1, 0.5 and 0.01 s.  A run of all tests starts and
stops a thousand servers; with these waits it would take 130 s longer.
"""
from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from cheroot import connections
from cheroot.server import HTTPServer
from cheroot.workers import threadpool
from cherrypy.process import servers

__all__ = ['hasten', 'hastened']

PAUSE_S = 0.002
#: How long cheroot may be in one ``select``: so late it sees that it is to
#: stop.
SELECT_S = 0.005


class _Time:
    """The module ``time``, with shorter sleeps."""

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def sleep(self, seconds: float) -> None:
        time.sleep(min(seconds, PAUSE_S))


def hasten() -> None:
    """From here on, in this process."""
    _set(_Time(), SELECT_S)


@contextlib.contextmanager
def hastened() -> Iterator[None]:
    """As long as the context lasts."""
    before = HTTPServer.expiration_interval
    hasten()
    try:
        yield
    finally:
        _set(time, before)


def _set(its_time: Any, select_s: float) -> None:
    for module in (servers, connections, threadpool):
        module.time = its_time
    HTTPServer.expiration_interval = select_s
