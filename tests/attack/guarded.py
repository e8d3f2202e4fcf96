"""Endpoints that refuse, and methods that HTTP guards: threats A3 and A4.

``/refusing/NAME`` for each way to refuse of ``refusing.REFUSING``; at
``/guarded/api`` a tree of which each branch but ``free`` has another guard.
"""
from __future__ import annotations

import cherrypy

from cp_wsrpc import expose

from ..refusing import REFUSING

ON = {'tools.wsrpc.on': True}


def check_own_key():
    """The tool of an application with a key of its own."""
    if cherrypy.request.config.get('auth.require'):
        raise cherrypy.HTTPError(403)


def refuse():
    raise cherrypy.HTTPError(403)


cherrypy.tools.own_key = cherrypy.Tool('before_handler', check_own_key)
cherrypy.tools.refuse = cherrypy.Tool('before_handler', refuse)


def branch(counts, **members):
    """An object with a method that both HTTP and RPC may reach."""
    def drop(self):
        counts['run'] += 1
        return 'dropped'

    return type('Branch', (), {
        'drop': cherrypy.expose(drop), 'quiet': expose(
            lambda self: counts.update(run=counts['run'] + 1)), **members})


def build(counts):
    """A controller; each branch but ``free`` is guarded."""
    def guard(function):
        return cherrypy.tools.refuse()(function)

    class Api:
        pass

    api = Api()
    for name in ('free', 'section', 'own_key', 'hooks', 'get_alone',
                 'wrapped'):
        setattr(api, name, branch(counts)())
    api.by_class = branch(counts, _cp_config={'tools.refuse.on': True})()
    api.by_instance = branch(counts)()
    api.by_instance._cp_config = {'tools.refuse.on': True}
    api.parent = branch(counts, child=branch(counts)())()
    decorated = branch(counts)
    decorated.drop = guard(decorated.drop)
    decorated.quiet = guard(decorated.quiet)
    api.decorated = decorated()
    configured = branch(counts)
    for function in (configured.drop, configured.quiet):
        cherrypy.config(**{'tools.refuse.on': True})(function)
    api.configured = configured()
    api.method = branch(counts)()
    return api


GUARDS = {
    '/api/section': {'tools.refuse.on': True},
    '/api/own_key': {'auth.require': ['admin']},
    '/api/hooks': {'hooks.before_handler': refuse},
    '/api/get_alone': {'tools.allow.on': True,
                       'tools.allow.methods': ['PUT']},
    '/api/wrapped': {'tools.ticket.on': True},
    '/api/parent': {'tools.refuse.on': True},
    '/api/method/drop': {'tools.refuse.on': True},
    '/api/method/quiet': {'tools.refuse.on': True},
}
#: Dotted names of what is guarded, without the method.
GUARDED = ['section', 'own_key', 'hooks', 'get_alone', 'wrapped', 'by_class',
           'by_instance', 'parent', 'parent.child', 'decorated',
           'configured', 'method']


def mount(api, counts):
    """Mount both; ``api``: the controller of those that refuse."""
    refusing = type('Refusing', (), dict.fromkeys(REFUSING, api))()
    application = cherrypy.tree.mount(refusing, '/refusing', {
        f'/{name}': ON | options for name, (options, _) in REFUSING.items()})
    # CherryPy's own lines for each error of the application's.
    application.log.error_log.disabled = True
    guarded = type('Guarded', (), {'api': build(counts)})()
    cherrypy.tree.mount(guarded, '/guarded', {
        '/': {'tools.own_key.on': True}, '/api': ON, **GUARDS})
