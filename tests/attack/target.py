"""The server that is attacked, in a process of its own.

    python -m tests.attack.target PORT TLS_PORT CERTIFICATE PRIVATE_KEY \
        [OPTION=VALUE ...]

Options of CherryPy's config, numbers; ``files`` is the limit of open files,
``adapter`` cheroot's for TLS.
``/stats`` tells what of it an attacker must not change.  The same over TLS.
"""
from __future__ import annotations

import gc
import json
import logging
import os
import resource
import sys
import threading
import time
import traceback

import cherrypy

import cp_wsrpc
from cp_wsrpc import Route, RPCError, expose, nonblocking

from . import counted, guarded, questions

SECRET = 'hunter2-5f0c'
COUNTS = {'property': 0, 'run': 0}
RELEASE = threading.Event()


class Base(BaseException):
    pass


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError(SECRET)

    __repr__ = __str__


class Unwilling:
    """A result that cannot be encoded, shown or compared."""

    def __repr__(self):
        raise RuntimeError(SECRET)

    __str__ = __repr__

    def __eq__(self, other):
        raise RuntimeError(SECRET)

    __hash__ = None


def raising(error):
    def bomb():
        raise error
    return bomb


def cause():
    try:
        raise KeyError(SECRET)
    except KeyError as error:
        raise ValueError(SECRET) from error


def nested(depth=100_000):
    value = []
    for _ in range(depth):
        value = [value]
    return value


#: Made once and raised again and again, as programs do.
ERROR = KeyError(SECRET)

#: {name: a function that fails, or returns what is no JSON}
BOMBS = {
    'error': raising(ERROR), 'base': raising(Base(SECRET)),
    'exit': raising(SystemExit(SECRET)),
    'interrupt': raising(KeyboardInterrupt(SECRET)),
    'generator_exit': raising(GeneratorExit(SECRET)),
    'stop_iteration': raising(StopIteration(SECRET)),
    'unprintable': raising(Unprintable(SECRET)), 'cause': cause,
    'surrogate': raising(ValueError('\ud800' + SECRET)),
    'unicode': lambda: (SECRET + '\ud800').encode(),
    'type_error': lambda: len(5),
    'object': lambda: Unwilling(), 'lambda': lambda: BOMBS['error'],
    'generator': lambda: (n for n in (1, 2)),
    'key': lambda: {('a', SECRET): 1}, 'nested': nested,
    'error_data': lambda: raising(RPCError(7, 'x', Unwilling()))(),
    'error_message': lambda: raising(RPCError(7, Unwilling()))(),
    'http_error': lambda: raising(cherrypy.HTTPError(418))(),
}
#: {name: a function whose value JSON or JavaScript finds hard}
VALUES = {
    'nan': lambda: float('nan'), 'inf': lambda: {'a': [float('inf')]},
    'big': lambda: 2 ** 53 + 1, 'huge': lambda: 10 ** 4000,
    'lone': lambda: ['\ud800'], 'minus_zero': lambda: -0.0,
    'none': lambda: [None, 'null'],
}


def of_every_kind(name, function):
    """A pool, an async and a nonblocking method that do the same."""
    async def on_loop():
        return function()

    @nonblocking
    def at_once():
        return function()

    def on_pool():
        return function()

    return {f'pool.{name}': on_pool, f'async.{name}': on_loop,
            f'loop.{name}': at_once}


class Callable:
    def __call__(self):
        COUNTS['run'] += 1


class Inner:
    @expose
    def inner(self):
        COUNTS['run'] += 1
        return 'inner'


class Api:
    attribute = Callable()
    inner = Inner()

    @property
    def prop(self):
        COUNTS['property'] += 1
        return lambda: 'from a property'

    @expose
    def ping(self):
        return 'pong'

    @expose
    def add(self, a: int, b: int):
        return a + b

    @expose
    def echo(self, value):
        return value

    @expose
    def count(self):
        COUNTS['run'] += 1
        return COUNTS['run']

    @expose
    async def count_async(self):
        return self.count()

    @expose
    @nonblocking
    def count_loop(self):
        return self.count()

    @expose
    def nap(self):
        RELEASE.wait(60)

    @expose
    def ask(self):
        return cp_wsrpc.connection.call('answer').result(5)

    def plain(self):
        COUNTS['run'] += 1

    @expose
    def _hidden(self):
        COUNTS['run'] += 1

    @cherrypy.expose
    def default(self, *args):
        COUNTS['run'] += 1

    @cherrypy.expose
    def index(self):
        COUNTS['run'] += 1
        return 'a page'


class Seat(Route):
    def init(self):
        return 'seated'

    def closed(self):
        raise Base(SECRET)


def bomb(*args, **kwargs):
    raise Base(SECRET)


class BombOnExit:
    def __init__(self, call):
        pass

    def __enter__(self):
        pass

    def __exit__(self, *exc_info):
        raise Base(SECRET)

    async def __aenter__(self):
        pass

    __aexit__ = __exit__


class Hooked(Api):
    seat = Seat

    @expose
    def on_close(self):
        cp_wsrpc.connection.on_close(bomb)

    @expose
    def callback(self):
        cp_wsrpc.connection.call('answer', callback=bomb)

    @expose(authorize=bomb)
    def guarded(self):
        COUNTS['run'] += 1


#: {name: options of an endpoint of which one hook raises}
HOOKS = {
    'opened': {'opened': bomb}, 'authorize': {'authorize': bomb},
    'around': {'around': bomb}, 'around_exit': {'around': BombOnExit},
    'user': {'user': raising(KeyError(SECRET))},
    'subscribe': {'subscribe': {'*': bomb}},
    'publish': {'publish': {'*': bomb}}, 'unwilling': {'user': Unwilling},
    'methods': {},
}


class Echo(cp_wsrpc.WebSocket):
    def received_message(self, message):
        self.send(message)


class Pages:
    @cherrypy.expose
    def stats(self):
        loop_s = time.clock_gettime(time.pthread_getcpuclockid(next(
            thread.ident for thread in threading.enumerate()
            if thread.name == 'wsrpc-io')))
        gc.collect()
        with open('/proc/self/statm') as statm:
            pages = int(statm.read().split()[1])
        return json.dumps({
            'loop_s': loop_s,       # CPU that the I/O loop has used
            'fds': len(os.listdir('/proc/self/fd')),
            'threads': threading.active_count(),
            'rss': pages * os.sysconf('SC_PAGE_SIZE'),
            'frames': sum(1 for _ in traceback.walk_tb(
                ERROR.__traceback__)),
            'sockets': len(cherrypy.engine.wsrpc.manager), **COUNTS})

    @cherrypy.expose
    def publish(self, count, size):
        """How long each took, s; the longest queue meanwhile, bytes."""
        text, took_s, queued = 'x' * int(size), [], [0]
        for _ in range(int(count)):
            begun = time.perf_counter()
            cp_wsrpc.publish('t', text)
            took_s.append(time.perf_counter() - begun)
            queued += [websocket.out.behind_bytes
                       for websocket in cherrypy.engine.wsrpc.manager]
            time.sleep(0.001)       # slow on purpose
        return json.dumps([sorted(took_s), max(queued)])

    @cherrypy.expose
    def set_clock(self, days):
        """Have the time of day jump by so many days."""
        now, seconds = time.time, float(days) * 86400
        time.time = lambda: now() + seconds

    @cherrypy.expose
    def release(self):
        RELEASE.set()


class Session:
    """Pages that begin and end a session; the endpoint bound to it."""

    api = Api()

    @cherrypy.expose
    def login(self):
        cherrypy.session['user'] = 'ada'

    @cherrypy.expose
    def delete(self):
        cherrypy.session.delete()

    @cherrypy.expose
    def regenerate(self):
        cherrypy.session.regenerate()

    @cherrypy.expose
    def age(self):
        """Let it expire now, whatever its timeout."""
        session = cherrypy.session
        session.load()
        session.timeout = -1


def user_of_session():
    return cherrypy.session.get('user')


#: {path: options of an endpoint that echoes}
ECHOES = {
    '/echo': {},
    '/deflate': {'compression': True},
    '/context': {'compression': 'client_context'},
    '/hasty': {'message_timeout_s': 1.0, 'compression': True},
    '/fragments': {'max_fragments': 1 << 30, 'message_timeout_s': 300.0,
                   'max_message_bytes': 8 << 20},
    '/small': {'max_fragments': 1 << 30, 'max_message_bytes': 2000},
}


def serve_tls(port, certificate, private_key, adapter):
    """A second server of the same tree."""
    server = cherrypy._cpserver.Server()
    server.socket_host, server.socket_port = '127.0.0.1', port
    server.socket_queue_size = 500
    server.ssl_module = adapter
    server.ssl_certificate = certificate
    server.ssl_private_key = private_key
    server.subscribe()


def main(port, tls_port, certificate, private_key, *options):
    given = dict(option.split('=') for option in options)
    adapter = given.pop('adapter', 'builtin')
    files = given.pop('files', None)
    if files is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (int(files), int(files)))
    logging.basicConfig(
        stream=sys.stdout, level=logging.INFO,
        format='LOG %(created).3f %(name)s %(levelname)s %(message)s')
    cherrypy.config.update({
        'server.socket_host': '127.0.0.1', 'server.socket_port': int(port),
        'server.thread_pool': 20, 'server.socket_queue_size': 500,
        'log.screen': False, 'checker.on': False,
        'engine.autoreload.on': False, 'request.show_tracebacks': False,
        **{name: float(value) for name, value in given.items()}})
    root = Pages()
    root.api = root.deflated = Api()
    for path in ECHOES:
        setattr(root, path[1:], object())
    config = {
        '/api': {'tools.wsrpc.on': True, 'tools.wsrpc.subscribe': ['*'],
                 'tools.wsrpc.routes': {
                     name: method for table in (BOMBS, VALUES)
                     for key, function in table.items()
                     for name, method in of_every_kind(
                         key, function).items()}},
        '/api/inner': {'tools.wsrpc.on': True},
        '/deflated': {'tools.wsrpc.on': True,
                      'tools.wsrpc.compression': True,
                      'tools.wsrpc.subscribe': ['*']},
        **{path: {'tools.wsrpc.on': True, 'tools.wsrpc.handler_cls': Echo,
                  **{f'tools.wsrpc.{key}': value
                     for key, value in options.items()}}
           for path, options in ECHOES.items()},
    }
    cherrypy.tree.mount(root, '', config)
    for name, options in HOOKS.items():
        cherrypy.tree.mount(type('Root', (), {'api': Hooked()})(),
                            f'/hook/{name}', {'/api': {
                                'tools.wsrpc.on': True,
                                **{f'tools.wsrpc.{key}': value
                                   for key, value in options.items()}}})
    cherrypy.tree.mount(Session(), '/session', {
        '/': {'tools.sessions.on': True},
        '/api': {'tools.wsrpc.on': True, 'tools.wsrpc.subscribe': ['*'],
                 'tools.wsrpc.user': user_of_session}})
    counted.mount()
    guarded.mount(Api(), COUNTS)
    questions.mount()
    serve_tls(int(tls_port), certificate, private_key, adapter)
    cherrypy.engine.start()
    print('Ready', flush=True)
    cherrypy.engine.block()


if __name__ == '__main__':
    main(*sys.argv[1:])
