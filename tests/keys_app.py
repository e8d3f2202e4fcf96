"""One of several processes that share keys; for ``test_redis_keys``.

    python -m tests.keys_app PORT REDIS_URL [NAME=NUMBER ...]

Names are those of ``redis_keys`` and ``idempotency``: ``LEASE_S=1``.  What
a method does is counted in that Redis, under ``paid:<n>``; ``hold`` waits
until something is pushed to ``open:<n>``.
"""
from __future__ import annotations

import sys

import cherrypy
import redis

import cp_wsrpc
from cp_wsrpc import expose, idempotency, nonblocking, redis_keys

from .hasty import hasten

TOPICS = {'news': {'history_size': 100_000}}
OPTIONS = {'tools.wsrpc.on': True, 'tools.wsrpc.subscribe': ['*'],
           'tools.wsrpc.publish': ['*'],
           'tools.wsrpc.user': lambda: cherrypy.request.headers.get('X-User')}


class Till:
    def __init__(self, url):
        # longer than hold() may wait
        self.redis = redis.Redis.from_url(url, socket_timeout=30)

    @expose
    def pay(self, n):
        self.redis.incr(f'paid:{n}')
        return n

    @expose
    async def pay_async(self, n):
        return self.pay(n)

    @expose
    @nonblocking
    def pay_here(self, n):
        return self.pay(n)

    @expose
    def hold(self, n):
        self.pay(n)
        self.redis.blpop(f'open:{n}', 20)
        return n

    @expose
    def add(self, a, b):
        return a + b

    @expose
    def fail(self, n):
        self.pay(n)
        raise cp_wsrpc.RPCError(7, 'no')


class Root:
    def __init__(self, url):
        self.api = Till(url)


def main(port, url, *constants):
    hasten()
    for constant in constants:
        name, _, value = constant.partition('=')
        for module in (redis_keys, idempotency):
            if hasattr(module, name):
                setattr(module, name, float(value))
    cherrypy.config.update({
        'server.socket_host': '127.0.0.1', 'server.socket_port': int(port),
        'server.thread_pool': 20, 'checker.on': False,
        'engine.autoreload.on': False, 'engine.wsrpc.broker': url,
        'engine.wsrpc.topics': TOPICS, 'engine.wsrpc.drain_timeout_s': 5})
    cherrypy.quickstart(Root(url), '/', {'/api': OPTIONS})


if __name__ == '__main__':
    main(*sys.argv[1:])
