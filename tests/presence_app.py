"""One of several processes: ``presence_app.py PORT REDIS_URL``.

``/api?as="ada"`` is a connection of that user (JSON), ``/api`` anonymous.
"""
from __future__ import annotations

import json
import sys
from typing import Any

import cherrypy

import cp_wsrpc


class Api:
    @cp_wsrpc.expose
    def publish(self, topic, data, user):
        return cp_wsrpc.publish(topic, data, user=user)

    @cp_wsrpc.expose
    def broadcast(self, name, user):
        cp_wsrpc.broadcast(name, user=user)

    @cp_wsrpc.expose
    def close_user(self, user):
        return cp_wsrpc.close_user(user, reason='bye')

    @cp_wsrpc.expose
    async def close_user_async(self, user):
        return cp_wsrpc.close_user(user)


class Root:
    api = Api()


def user_of_request() -> Any:
    given = cherrypy.request.params.get('as')
    return None if given is None else json.loads(given)


CONFIG = {'/api': {
    'tools.wsrpc.on': True, 'tools.wsrpc.user': user_of_request,
    'tools.wsrpc.subscribe': {'secret.*': lambda peer, topic: (
        peer.user == 'ada'), '*': True},
    'tools.wsrpc.publish': ['*']}}
TOPICS = {'kept': {}, 'mouse': {'mode': 'volatile'}}

if __name__ == '__main__':
    cherrypy.config.update({
        'server.socket_host': '127.0.0.1', 'checker.on': False,
        'server.socket_port': int(sys.argv[1]),
        'engine.autoreload.on': False, 'engine.wsrpc.broker': sys.argv[2],
        'engine.wsrpc.topics': TOPICS})
    cherrypy.quickstart(Root(), '/', CONFIG)
