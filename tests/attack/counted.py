"""Endpoints that count how each connection began and ended.

Mounted at ``/counted`` of the target; ``/counted/ledger`` tells what was
counted: ``{kind: {'opened', 'closed', 'twice', 'codes'}}`` for the kinds
``plain`` (a handler's ``opened`` and ``closed``), ``api`` (the option
``opened``, and ``on_close``) and ``route`` (``init`` and ``closed``).
"""
from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter

import cherrypy

import cp_wsrpc
from cp_wsrpc import Route, expose, nonblocking

KINDS = 'plain', 'api', 'route'


class Ledger:
    """``_lock`` guards all: hooks run on many threads."""

    def __init__(self):
        self._lock = threading.Lock()
        self._begun = {kind: Counter() for kind in KINDS}
        self._ended = {kind: Counter() for kind in KINDS}
        self._codes = {kind: Counter() for kind in KINDS}

    def begin(self, kind, id):
        with self._lock:
            self._begun[kind][id] += 1

    def end(self, kind, id, code):
        with self._lock:
            self._ended[kind][id] += 1
            self._codes[kind][code] += 1

    def show(self):
        with self._lock:
            return {kind: {
                'opened': self._begun[kind].total(),
                'closed': self._ended[kind].total(),
                'twice': [id for table in (self._begun, self._ended)
                          for id, count in table[kind].items() if count > 1],
                'unasked': len(self._ended[kind].keys()
                               - self._begun[kind].keys()),
                'codes': self._codes[kind]} for kind in KINDS}


LEDGER = Ledger()


class Plain(cp_wsrpc.WebSocket):
    def opened(self):
        LEDGER.begin('plain', self.id)

    def received_message(self, message):
        if str(message) == 'hold':
            wait_for_end(self)
        elif str(message) == 'pause':
            wait_for_end(self, 0.3)
        self.send(message)

    def closed(self, code, reason=None):
        LEDGER.end('plain', self.id, code)


def wait_for_end(connection, timeout_s=20):
    """Hold a thread until its connection is over."""
    until = time.monotonic() + timeout_s
    ended = threading.Event()
    while not connection.client_terminated and time.monotonic() < until:
        ended.wait(0.002)


def note_opened(connection):
    LEDGER.begin('api', connection.id)
    connection.on_close(
        lambda code, reason: LEDGER.end('api', connection.id, code))


def open_slowly(connection):
    note_opened(connection)
    wait_for_end(connection)


class Seat(Route):
    def init(self, wait=False):
        LEDGER.begin('route', self.connection.id)
        if wait:
            wait_for_end(self.connection)

    def hold(self):
        wait_for_end(self.connection)

    def ask(self):
        return self.connection.call('answer').result(20)

    def closed(self):
        LEDGER.end('route', self.connection.id, 0)


class Api:
    seat = Seat

    @expose
    def ping(self):
        return 'pong'

    @expose
    def hold(self):
        wait_for_end(cp_wsrpc.connection)

    @expose
    async def hold_async(self):
        connection = cp_wsrpc.connection
        while not connection.client_terminated:
            await asyncio.sleep(0.002)      # slow on purpose

    @expose
    @nonblocking
    def add(self, a, b):
        return a + b

    @expose
    def ask(self):
        return cp_wsrpc.connection.call('answer').result(20)

    @expose
    async def ask_async(self):
        return await cp_wsrpc.connection.call('answer')

    @expose
    def big(self, size: int):
        return 'x' * size

    @expose
    @nonblocking
    def big_at_once(self, size: int):
        return 'x' * size

    @expose
    def leave(self):
        cp_wsrpc.connection.close(4001, 'as you wish')


class Pages:
    api = slow = deflate = Api()
    ws = object()

    @cherrypy.expose
    def ledger(self):
        return json.dumps(LEDGER.show())


def mount():
    rpc = {'tools.wsrpc.on': True, 'tools.wsrpc.opened': note_opened,
           'tools.wsrpc.subscribe': ['*'], 'tools.wsrpc.publish': ['*']}
    cherrypy.tree.mount(Pages(), '/counted', {
        '/api': rpc, '/slow': {**rpc, 'tools.wsrpc.opened': open_slowly},
        '/deflate': {**rpc, 'tools.wsrpc.compression': True},
        '/ws': {'tools.wsrpc.on': True, 'tools.wsrpc.handler_cls': Plain}})
