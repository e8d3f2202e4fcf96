"""Tools, hooks and functions that refuse an upgrade, each in its way.

For ``test_tool`` and the attacks (threats.md, A3).
"""
from __future__ import annotations

import cherrypy
from cherrypy.lib import auth_digest

__all__ = ['REFUSING', 'fail']

USERS = {'ada': 'secret'}


def fail(*args, **kwargs):
    raise RuntimeError('a hook of the application')


def forbid(*args, **kwargs):
    raise cherrypy.HTTPError(403, 'not you')


def fail_last():
    fail()


fail_last.priority = 100      # when the headers of a 101 stand there


def redirect(*args, **kwargs):
    raise cherrypy.HTTPRedirect('/login')


def spoil_header():
    # CherryPy finds it after the last hook: status 101, a 500 on the wire.
    cherrypy.response.header_list.append(('X', 'no bytes'))


def spoil_status():
    cherrypy.response.status = 299


def guard(next_handler, *args, **kwargs):
    if 'ticket' not in cherrypy.request.params:
        raise cherrypy.HTTPError(402)
    return next_handler(*args, **kwargs)


cherrypy.tools.ticket = cherrypy._cptools.HandlerWrapperTool(guard)

#: How an upgrade without a proper identity is answered: {name: (config of
#: the endpoint, the status)}.
REFUSING = {
    'basic': ({'tools.auth_basic.on': True,
               'tools.auth_basic.realm': 'r',
               'tools.auth_basic.checkpassword':
                   lambda realm, name, word: USERS.get(name) == word}, 401),
    'digest': ({'tools.auth_digest.on': True, 'tools.auth_digest.realm': 'r',
                'tools.auth_digest.key': 'k',
                'tools.auth_digest.get_ha1':
                    auth_digest.get_ha1_dict_plain(USERS)}, 401),
    # Answers with a page of its own and status 200.
    'session_auth': ({'tools.sessions.on': True,
                      'tools.session_auth.on': True}, 200),
    'wrapper': ({'tools.ticket.on': True}, 402),
    'allow': ({'tools.allow.on': True, 'tools.allow.methods': ['POST']},
              405),
    'referer': ({'tools.referer.on': True,
                 'tools.referer.pattern': 'x'}, 403),
    'redirect': ({'tools.redirect.on': True,
                  'tools.redirect.url': '/login',
                  'tools.redirect.internal': False}, 303),
    'user_403': ({'tools.wsrpc.user': forbid}, 403),
    'user_303': ({'tools.wsrpc.user': redirect}, 303),
    'user_500': ({'tools.wsrpc.user': fail}, 500),
    'header': ({'hooks.on_end_resource': spoil_header}, 500),
    'status': ({'hooks.before_finalize': spoil_status}, 299),
    **{f'{point}_{function.__name__}': ({f'hooks.{point}': function}, status)
       for point in ('on_start_resource', 'before_request_body',
                     'before_handler')
       for function, status in ((fail, 500), (forbid, 403),
                                (redirect, 303))},
    # CherryPy runs these again for the error, so it is always a 500.
    **{f'before_finalize_{function.__name__}': (
        {'hooks.before_finalize': function}, 500)
       for function in (fail, forbid, redirect)},
    'on_end_resource_fail': ({'hooks.on_end_resource': fail}, 500),
    'on_end_resource_fail_last': ({'hooks.on_end_resource': fail_last},
                                  500),
}
