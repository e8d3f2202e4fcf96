"""The endpoints of a process: found at the start, or by a request.  Layer 2.

::

    table.find_all()                    # all that cherrypy.tree has
    table.find_or_make(app, '/api')     -> the Endpoint, made if need be
    table.find(app, '/gone')            -> None

``endpoint`` builds one; ``plugin`` has the one table.
"""
from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import cherrypy

from .endpoint import Endpoint, find_endpoints

__all__ = ['EndpointTable']


class EndpointTable:
    """``{(application, path): endpoint}``.  Any thread.

    ``_lock`` guards ``_endpoints``, which handshakes fill for trees mounted
    late, and ``_mounted``: what has ever been seen in the tree.

    ``say(line)`` gets what an endpoint has to say when it is made.  What
    makes endpoints raises ConfigError, and then changes nothing.
    """

    def __init__(self, say: Callable[[str], object]) -> None:
        self._say = say
        self._lock = threading.Lock()
        self._mounted: weakref.WeakSet[Any] = weakref.WeakSet()
        self._endpoints: dict[tuple[int, str], Endpoint] = {}

    def find_all(self, others: Iterable[Endpoint] = ()) -> None:
        """Build all of the tree anew, and ``others``, which stand in none."""
        endpoints = find_endpoints(cherrypy.tree)
        for old in others:
            endpoint = Endpoint.build(old.app, old.path)
            if endpoint.config.get('tools.wsrpc.on'):
                endpoints.append(endpoint)
        with self._lock:
            self._mounted.update(_applications())
            self._endpoints = {(id(endpoint.app), endpoint.path): endpoint
                               for endpoint in endpoints}
        for endpoint in endpoints:
            self._introduce(endpoint)

    def renew(self) -> None:
        """Build all anew that there are, in the tree or not."""
        self.find_all(self._of_no_tree())

    def find(self, app: Any, path: str) -> Endpoint | None:
        """The one that is known at that path."""
        with self._lock:
            return self._endpoints.get((id(app), path))

    def find_or_make(self, app: Any, path: str) -> Endpoint:
        """The same; made now if its tree came late."""
        endpoint = self.find(app, path)
        if endpoint is None:
            endpoint = Endpoint.build(app, path)
            self._introduce(endpoint)
            with self._lock:
                endpoint = self._endpoints.setdefault((id(app), path),
                                                      endpoint)
        return endpoint

    def _of_no_tree(self) -> list[Endpoint]:
        """Those of applications that requests alone find: virtual hosts."""
        with self._lock:
            self._mounted.update(_applications())
            return [endpoint for endpoint in self._endpoints.values()
                    if endpoint.app not in self._mounted]

    def _introduce(self, endpoint: Endpoint) -> None:
        for line in endpoint.start_lines():
            self._say(line)


def _applications() -> list[Any]:
    """Those in the tree, which may hold any WSGI callable as well."""
    return [app for app in cherrypy.tree.apps.values()
            if isinstance(app, cherrypy.Application)]
