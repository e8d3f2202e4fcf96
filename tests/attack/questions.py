"""A page that asks clients, and what the server counts: C7 and C11.

``/questions/ask?count=5&timeout=1`` calls ``answer`` that often of each
client of ``/questions/api``; ``/questions/waiting`` says how many calls
are still to be answered; ``/questions/statistics`` is the operator's view.
"""
from __future__ import annotations

import json
from collections import Counter

import cherrypy

import cp_wsrpc
from cp_wsrpc import errors, expose

ENDED = Counter()


def note_end(reply):
    error = reply.exception()
    ENDED['answered' if error is None else type(error).__name__] += 1


class Api:
    @expose
    def ping(self):
        return 'pong'


class Questions:
    api = Api()

    @cherrypy.expose
    def ask(self, count, timeout, callback=''):
        told = Counter()
        for connection in cp_wsrpc.connections('/questions/api'):
            for _ in range(int(count)):
                try:
                    connection.call('answer', 'x' * 100,
                                    timeout=float(timeout),
                                    callback=note_end if callback else None)
                except errors.WsrpcError as error:
                    told[type(error).__name__] += 1
                else:
                    told['asked'] += 1
        return json.dumps(told)

    @cherrypy.expose
    def push(self, count, size):
        for _ in range(int(count)):
            cp_wsrpc.broadcast('tell', 'x' * int(size),
                               endpoint='/questions/api')

    @cherrypy.expose
    def waiting(self):
        return json.dumps({**ENDED, 'waiting': sum(
            len(connection.conversation)
            for connection in cp_wsrpc.connections('/questions/api'))})

    @cherrypy.expose
    def statistics(self):
        return json.dumps(cherrypy.engine.wsrpc.statistics())


def mount():
    cherrypy.tree.mount(Questions(), '/questions', {
        '/api': {'tools.wsrpc.on': True}})
