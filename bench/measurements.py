"""What is measured, on which servers, and what it should come to.

A :class:`Measurement` lets its contenders run in turn and compares one
figure of each.  ``GOALS`` are those of the project's plan.
"""
from __future__ import annotations

import dataclasses
import pathlib
import sys

__all__ = ['Contender', 'Goal', 'MEASUREMENTS', 'Measurement', 'Server']

_PEERS = pathlib.Path(__file__).parent / 'peers'


@dataclasses.dataclass(frozen=True)
class Server:
    """How to start one (``--port N`` is added) and what it speaks."""

    command: tuple[str, ...]
    path: str = '/rpc'
    wire: str = 'jsonrpc'
    #: gets ``--tls CERT KEY``
    tls: bool = False


def _python(module: str) -> tuple[str, ...]:
    return sys.executable, '-m', f'bench.{module}'


def _node(script: str) -> tuple[str, ...]:
    return 'node', str(_PEERS / script)


_SOCKET_IO = '/socket.io/?EIO=4&transport=websocket'

OURS = Server(_python('server'))
OURS_TLS = Server(_python('server'), tls=True)
CLUSTER = Server(_python('cluster'))
FLOOR = Server(_python('floor'))
FLOOR_TLS = Server(_python('floor'), tls=True)
WS4PY = Server(_python('peers.ws4py_by_hand'))
BARE_101 = Server(_python('peers.bare_101'))
WSRPC_AIOHTTP = Server(_python('peers.wsrpc_aiohttp'), wire='wsrpc')
PYTHON_SOCKETIO = Server(_python('peers.python_socketio'), _SOCKET_IO,
                         'socketio')
WEBSOCKETS = Server(_python('peers.websockets_json'))
PICOWS = Server(_python('peers.picows_json'))
RPC_WEBSOCKETS = Server(_node('rpc_websockets.mjs'), '/')
SOCKET_IO = Server(_node('socket_io.mjs'), _SOCKET_IO, 'socketio')
NODE_WS = Server(_node('ws_node.mjs'))


@dataclasses.dataclass(frozen=True)
class Contender:
    """One row: a server, and the load on it (arguments of bench.load)."""

    name: str
    server: Server
    load: tuple[str, ...]
    #: the package's own, drawn in colour
    ours: bool = False


@dataclasses.dataclass(frozen=True)
class Goal:
    """``contender`` is to reach ``factor`` x ``base``; without a base,
    stay below (or, where more is better, above) ``factor`` itself."""

    contender: str
    factor: float
    base: str = ''


@dataclasses.dataclass(frozen=True)
class Measurement:
    """``figure`` names what is compared of the line that the load prints."""

    name: str
    title: str
    contenders: tuple[Contender, ...]
    goals: tuple[Goal, ...] = ()
    figure: str = 'per_s'
    unit: str = 'calls/s'
    more_is_better: bool = True
    #: instead of ``--seconds``; and one round, none thrown away
    once_s: float = 0
    #: drawn in the plot
    drawn: bool = False


def _calls(*load: str) -> tuple[Contender, ...]:
    """``add`` on everything that has it."""
    return (
        Contender('cp_wsrpc pooled', OURS, (*load, '--method', 'add'), True),
        Contender('cp_wsrpc nonblocking', OURS,
                  (*load, '--method', 'add_nonblocking'), True),
        Contender('cp_wsrpc async', OURS, (*load, '--method', 'add_async'),
                  True),
        Contender('ws4py by hand', WS4PY, load),
        Contender('wsrpc-aiohttp', WSRPC_AIOHTTP, load),
        Contender('python-socketio', PYTHON_SOCKETIO, load),
        Contender('websockets + json', WEBSOCKETS, load),
        Contender('picows + json', PICOWS, load),
        Contender('Node rpc-websockets', RPC_WEBSOCKETS, load),
        Contender('Node socket.io', SOCKET_IO, load),
        Contender('floor', FLOOR, load),
    )


def _pushes(*load: str) -> tuple[Contender, ...]:
    return (
        Contender('cp_wsrpc', OURS, ('pushes', *load), True),
        Contender('ws4py', WS4PY, ('pushes', *load)),
        Contender('Node ws', NODE_WS, ('pushes', *load)),
        Contender('floor', FLOOR, ('pushes', *load)),
    )


def _fan_out(sockets: str) -> tuple[Measurement, Measurement]:
    return (
        Measurement(
            f'fan-out-{sockets}',
            f'A push of 130 B to {sockets} sockets, the next one after the'
            ' last delivery', _pushes('--connections', sockets),
            (Goal('cp_wsrpc', 1.3, 'Node ws'),
             Goal('cp_wsrpc', 0.9, 'floor')),
            unit='deliveries/s', drawn=True),
        Measurement(
            f'bursts-{sockets}',
            f'Bursts of 20 pushes to {sockets} sockets',
            _pushes('--connections', sockets, '--burst', '20'),
            (Goal('cp_wsrpc', 2, 'floor'),),
            unit='deliveries/s', drawn=True))


_ECHO = ('echo', '--path', '/echo')
_NONBLOCKING = ('calls', '--method', 'add_nonblocking')

MEASUREMENTS = (
    Measurement(
        'calls-32x16', '32 connections with 16 calls in flight each',
        _calls('calls', '--connections', '32', '--in-flight', '16'),
        (Goal('cp_wsrpc pooled', 2.5, 'Node rpc-websockets'),
         Goal('cp_wsrpc pooled', 10, 'ws4py by hand'),
         Goal('cp_wsrpc nonblocking', 4, 'Node rpc-websockets'),
         Goal('cp_wsrpc nonblocking', 0.85, 'floor'),
         Goal('cp_wsrpc async', 1.5, 'Node rpc-websockets')),
        drawn=True),
    Measurement(
        'calls-32x1', '32 connections with one call in flight each',
        _calls('calls', '--connections', '32', '--in-flight', '1'),
        (Goal('cp_wsrpc pooled', 0.85, 'Node rpc-websockets'),
         Goal('cp_wsrpc nonblocking', 1.3, 'Node rpc-websockets')),
        drawn=True),
    Measurement(
        'calls-1x1', 'One connection, one call at a time (latency)',
        _calls('latency'),
        (Goal('cp_wsrpc pooled', 0.7, 'Node rpc-websockets'),
         Goal('cp_wsrpc nonblocking', 1, 'Node rpc-websockets')),
        drawn=True),
    *_fan_out('1000'),
    *_fan_out('5000'),
    Measurement(
        'publish', 'Time of a publishing HTTP request, 5 000 subscribers',
        (Contender('cp_wsrpc', OURS, ('publish', '--connections', '5000'),
                   True),
         Contender('ws4py', WS4PY, ('publish', '--connections', '5000'))),
        (Goal('cp_wsrpc', 5),),
        figure='p99_ms', unit='ms at p99', more_is_better=False),
    Measurement(
        'cluster-feed', 'From publish to the subscriber through Redis: 1 000'
        ' pushes/s, each to 20 of 3 000 sockets at 3 servers',
        (Contender('cp_wsrpc', CLUSTER, ('feed', '--connections', '3000'),
                   True),),
        (Goal('cp_wsrpc', 20),),
        figure='p99_ms', unit='ms at p99', more_is_better=False),
    Measurement(
        'cluster-storm', 'A server is killed: until its 5 000 subscribers'
        ' are back at others, with all that they missed',
        (Contender('full jitter', CLUSTER,
                   ('storm', '--connections', '5000', '--rate', '50'), True),
         Contender('all at once', CLUSTER,
                   ('storm', '--connections', '5000', '--rate', '50',
                    '--at-once'), True)),
        (Goal('full jitter', 30), Goal('all at once', 30)),
        figure='seconds', unit='s', more_is_better=False, once_s=1),
    Measurement(
        'cluster-redis', 'Pushes of 130 B that one Redis takes',
        (Contender('the script of publish', CLUSTER, ('redis',), True),),
        unit='pushes/s'),
    Measurement(
        'idle-memory', 'Memory of an idle connection, 10 000 of them',
        (Contender('cp_wsrpc', OURS, ('idle', '--connections', '10000'),
                   True),),
        (Goal('cp_wsrpc', 10),),
        figure='kib_each', unit='KiB', more_is_better=False, once_s=1),
    Measurement(
        'idle-cpu', 'CPU for 10 000 idle connections, pings on',
        (Contender('cp_wsrpc', OURS, ('idle', '--connections', '10000'),
                   True),),
        (Goal('cp_wsrpc', 0.01),),
        figure='cpu', unit='of one CPU', more_is_better=False, once_s=60),
    Measurement(
        'echo', 'Text messages of 1 MiB echoed, one at a time',
        (Contender('cp_wsrpc', OURS, _ECHO, True),
         Contender('websockets', WEBSOCKETS, _ECHO),
         Contender('picows', PICOWS, _ECHO),
         Contender('Node ws', NODE_WS, _ECHO)),
        (Goal('cp_wsrpc', 1, 'websockets'),),
        figure='mib_per_s', unit='MiB/s each way'),
    Measurement(
        'connect', 'New connections, 8 at a time, closed at once',
        (Contender('cp_wsrpc', OURS, ('connect',), True),
         Contender("ws4py's tool", WS4PY, ('connect',)),
         Contender('CherryPy, 101 and nothing more', BARE_101,
                   ('connect',))),
        (Goal('cp_wsrpc', 1, "ws4py's tool"),
         Goal('cp_wsrpc', 0.9, 'CherryPy, 101 and nothing more')),
        unit='connections/s'),
    Measurement(
        'growth', 'Calls as connections grow (nonblocking)',
        (Contender('32 connections', OURS, _NONBLOCKING, True),
         Contender('1 000 connections', OURS,
                   (*_NONBLOCKING, '--connections', '1000'), True),
         Contender('32, and 5 000 idle ones', OURS,
                   (*_NONBLOCKING, '--idle', '5000'), True)),
        (Goal('1 000 connections', 0.8, '32 connections'),
         Goal('32, and 5 000 idle ones', 0.95, '32 connections'))),
    Measurement(
        'tls', 'wss: 32 connections with 16 calls in flight each',
        (Contender('cp_wsrpc pooled, ws', OURS, ('calls',), True),
         Contender('cp_wsrpc pooled, wss', OURS_TLS, ('calls',), True),
         Contender('floor, wss', FLOOR_TLS, ('calls',))),
        (Goal('cp_wsrpc pooled, wss', 0.7, 'cp_wsrpc pooled, ws'),)),
    Measurement(
        'client', 'Python clients, one thread, 16 calls in flight',
        (Contender('cp_wsrpc.Client', OURS, ('bench.clients', 'cp_wsrpc'),
                   True),
         Contender('wsrpc-aiohttp', OURS,
                   ('bench.clients', 'wsrpc_aiohttp'))),
        (Goal('cp_wsrpc.Client', 2, 'wsrpc-aiohttp'),)),
)
