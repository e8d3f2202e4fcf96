"""RPC between the browser and CherryPy controllers, over WebSockets.

One import and one line of config make a path of a CherryPy application a
WebSocket endpoint::

    import cherrypy, cp_wsrpc

    class Api:
        @cp_wsrpc.expose
        def add(self, a: int, b: int):
            return a + b

    class Root:
        api = Api()

    cherrypy.quickstart(Root(), '/', {'/api': {'tools.wsrpc.on': True}})

and in a page of it::

    <script src="/api/wsrpc.js"></script>
    <script>
      const rpc = WSRPC();
      rpc.connect();
      rpc.call('add', [1, 2]).then(console.log);
    </script>

Importing registers ``cherrypy.tools.wsrpc`` and ``cherrypy.engine.wsrpc``.

Inside a call, ``cp_wsrpc.call`` is the running call and
``cp_wsrpc.connection`` the caller's connection *itself*, which may be kept
and used from any thread; outside of one they raise
:class:`~cp_wsrpc.errors.NoConnection`.
"""
from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import cherrypy

from .client_files import STATIC_DIR
from .current import running_call as _running_call
from .current import running_connection as _running_connection
from .errors import (BrokerUnavailable, Busy, CallTimeout, CloseCode,
                     ConfigError, ConnectionLostError, MessageTooBig,
                     NoConnection, Overloaded, RemoteError, RPCError,
                     TopicRefused, WsrpcError)
from .exposure import Route, expose, nonblocking
from .plugin import WsrpcPlugin
from .tool import WsrpcTool
from .websocket import WebSocket

if TYPE_CHECKING:
    from .client import Client
    from .messages import Call
    from .peer import Peer
    from .presence import Presence
    # Not in __all__: it is there with cp_wsrpc[redis] only.
    from .redis_publisher import Publisher as Publisher

    call: Call
    connection: Peer

__version__ = '0.1.0'

# Without call and connection, which are not there outside of a call.
__all__ = ['BrokerUnavailable', 'Busy', 'CallTimeout', 'Client', 'CloseCode',
           'ConfigError', 'ConnectionLostError', 'MessageTooBig',
           'NoConnection', 'Overloaded', 'RPCError', 'RemoteError', 'Route',
           'STATIC_DIR', 'TopicRefused', 'WebSocket', 'WsrpcError',
           'broadcast', 'close_user', 'connections', 'expose', 'nonblocking',
           'position', 'publish', 'who']

cherrypy.tools.wsrpc = WsrpcTool()
cherrypy.engine.wsrpc = WsrpcPlugin(cherrypy.engine)
cherrypy.engine.wsrpc.subscribe()


def publish(topic: str, data: Any, key: str | None = None,
            user: Any = ...) -> Any:
    """Send ``data`` to every connection that subscribed to ``topic``.

    From any thread: a page handler, a method, a plugin, a background task.
    Never waits for a peer.  Returns ``(epoch, offset)`` on a topic with
    history, else None; before the engine's start and after its stop it
    does nothing.  ``key``: on a topic of mode "latest", whose newest event
    it is (``'car-7'``), the only one that is kept.

    ``user``: only to those subscribers whose ``connection.user`` equals it,
    all tabs, in all processes.  Such an event is not kept, and has no
    offset: the topic's history stays the same for all, and who is away
    misses it.  None raises ValueError: it is nobody.

    Raises TypeError or ValueError for what is not JSON, MessageTooBig
    above 4 MiB, Overloaded when 10 000 pushes or 64 MiB wait to be sent.
    With Redis it waits for it, and raises BrokerUnavailable within 2 s;
    but in async and nonblocking methods it hands over and returns None.
    """
    if user is not ...:
        return cherrypy.engine.wsrpc.publish(topic, data, key, user)
    if key is None:
        return cherrypy.engine.wsrpc.publish(topic, data)
    return cherrypy.engine.wsrpc.publish(topic, data, key)


def position(topic: str) -> Any:
    """Where ``topic`` is just now, ``(epoch, offset)``, for a ``since``.

    None: it has no history, or the engine does not run.  Read it *before*
    the state that goes with it: whoever subscribes ``since`` there gets
    all that has come after it.  From any thread, but with Redis, for which
    it waits, not in async and nonblocking methods (WrongThread); raises
    BrokerUnavailable as :func:`publish`.
    """
    return cherrypy.engine.wsrpc.position(topic)


def broadcast(name: str, *args: Any, endpoint: str | None = None,
              user: Any = None) -> None:
    """Call the function ``name`` of every connected client.

    ``endpoint``: only of the clients of that path (``'/api'``); ``user``:
    only of those connections whose ``user`` equals it, compared as JSON;
    None: of all.  What the functions
    return goes nowhere; clients without such a function ignore it.  From
    any thread; raises as :func:`publish`.
    """
    cherrypy.engine.wsrpc.broadcast(name, *args, endpoint=endpoint,
                                    user=user)


def connections(endpoint: str | None = None,
                user: Any = None) -> list[Any]:
    """The open RPC connections of this process; from any thread.

    ``endpoint``: those of that path, plain handlers' too; ``user``: those
    whose ``user`` equals it, compared as JSON.
    """
    found: list[Any] = cherrypy.engine.wsrpc.connections(endpoint, user)
    return found


def close_user(user: Any, code: int = CloseCode.FORBIDDEN,
               reason: str = '') -> int:
    """Close all connections of a user, in all processes.

    From any thread.  Each process does so as soon as it hears of it; the
    number of this one's is returned.  Also a connection that is shaking
    hands just now.  What was published before still goes out,
    nothing after it; a method that does this to its own caller is still
    answered.

    ``code``: with 4403 clients stay away; after 4401 ("not signed in any
    more") the JavaScript client asks the endpoint whether it would be let
    in again, and comes back if so: for a logout, when the session has been
    ended first.

    Raises ValueError for None, which is nobody, and for a code that cannot
    be sent; BrokerUnavailable within 2 s when Redis cannot be reached: then
    the connections of this process are closed all the same.
    """
    count: int = cherrypy.engine.wsrpc.close_user(user, code, reason)
    return count


def who(topic: str) -> Presence:
    """Who is on a topic that has ``presence``, in all processes.

    ::

        Presence(users=[Present('ada', 2, ['kX3p#7', 'Zq1_#12'])],
                 anonymous=1, epoch='9sLq_0Zc', offset=17)

    Each user once, however many tabs he has.  Joins and leaves after that
    position come on the topic's ``rpc.presence.<topic>``.  A method may
    return it as it is.

    From any thread but, with Redis, that of ``async`` and nonblocking
    methods, where it raises WrongThread.  Raises ValueError for a topic
    without presence, BrokerUnavailable within 2 s when Redis cannot be
    reached, or the engine does not run.
    """
    found: Presence = cherrypy.engine.wsrpc.who(topic)
    return found


def __getattr__(name: str) -> Any:
    if name == 'connection':
        return _running_connection()
    if name == 'call':
        return _running_call()
    if name == 'Client':
        return import_module('.client', __name__).Client
    if name == 'Publisher':
        return import_module('.redis_publisher', __name__).Publisher
    if name == 'testing':
        return import_module('.testing', __name__)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')

