"""One of several processes: ``presence_app.py PORT REDIS_URL [EXPIRY_S]``.

``/api?as="ada"`` is a connection of that user (JSON), ``/api`` anonymous.
``EXPIRY_S``: after how long a process is given up that is not heard.
"""
from __future__ import annotations

import json
import sys
from typing import Any
from urllib.parse import quote

import cherrypy

import cp_wsrpc
from cp_wsrpc import redis_broker, redis_presence

from tests.hasty import hasten


def as_user(user: Any) -> str:
    """The path at which one is that user; None: nobody."""
    return '/api' if user is None else '/api?as=' + quote(json.dumps(user))


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
    def who(self, topic):
        return cp_wsrpc.who(topic)

    @cp_wsrpc.expose
    async def who_async(self, topic):
        return cp_wsrpc.who(topic)

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
TOPICS = {'kept': {}, 'mouse': {'mode': 'volatile'},
          'room*': {'presence': True, 'presence_grace_s': 0},
          'secret.*': {'presence': True},
          'calm*': {'presence': True, 'presence_grace_s': 0.5},
          'patient*': {'presence': True, 'presence_grace_s': 30}}


def expire_after(expiry_s: float) -> None:
    redis_presence.EXPIRY_S = expiry_s
    redis_broker.RedisBackend.heartbeat_s = expiry_s / 4


if __name__ == '__main__':
    hasten()
    for expiry_s in sys.argv[3:]:
        expire_after(float(expiry_s))
    cherrypy.config.update({
        'server.socket_host': '127.0.0.1', 'checker.on': False,
        'server.socket_port': int(sys.argv[1]),
        'engine.autoreload.on': False, 'engine.wsrpc.broker': sys.argv[2],
        'engine.wsrpc.topics': TOPICS})
    cherrypy.quickstart(Root(), '/', CONFIG)
