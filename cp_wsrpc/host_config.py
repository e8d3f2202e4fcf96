"""CherryPy's configuration of a path, without a request.  Layer 0.

Turns an application and a path in it (as ``path_info`` has it, without the
script name; a trailing slash says nothing) into what CherryPy's dispatcher
would find there::

    config_of(app, '/api')                     -> {'tools.wsrpc.on': True, ..}
    config_down_to(app, '/api')                -> {..}, see below
    object_at(app, '/api')                     -> <Api object> or None
    owner_of_key(app, '/api/calc', 'tools.wsrpc.on')  -> '/api', '' or None
    sections_of(app)                           -> {('api', 'calc'): {..}}
    dispatcher_of(app, '/api')                 -> <Dispatcher object>
    dispatched_path(request)                   -> '/api', or '/one/api' where
                                                  VirtualHost has put a prefix

Any thread may ask; nothing is kept.  The walk reads attributes with
``getattr``, as CherryPy does at each request for the same path: ask only for
paths of the configuration, or of a request that CherryPy has dispatched.

What is as in ``cherrypy.dispatch.Dispatcher.find_handler``: the global
config, each ``_cp_config`` on the way and each section of ``app.config``,
in that order; the page's own (``index``, ``default``, a decorated method);
punctuation in a path that stands for ``_``; ``tools.staticdir.section``.
``MethodDispatcher`` adds the ``_cp_config`` of the method for the verb.

What is not: ``_cp_dispatch`` and ``popargs`` are not run (they are code that
wants a request), so below one of them the objects are unknown and only the
sections count.  Of a ``RoutesDispatcher`` the controller that a route names
is not looked up.  ``VirtualHost`` chooses by a header: give the path with
its prefix, which ``dispatched_path`` finds.  A dispatcher that is any other
callable is taken for the default one.
"""
from __future__ import annotations

from typing import Any, NamedTuple

import cherrypy
from cherrypy._cpdispatch import Dispatcher, MethodDispatcher, VirtualHost
from cherrypy.lib import httputil

__all__ = [
    'config_down_to', 'config_of', 'dispatched_path', 'dispatcher_of',
    'object_at', 'owner_of_key', 'sections_of',
]

_DEFAULT_DISPATCHER = Dispatcher()
# VirtualHost is a function that makes functions, all of this one code.
_VIRTUAL_HOST_CODE = VirtualHost().__code__


class _Step(NamedTuple):
    """One name of a path: Step('/api', <Api object>, its own config)."""

    path: str
    node: Any
    config: dict[str, Any]


def config_of(app: Any, path: str, verb: str = 'GET') -> dict[str, Any]:
    """Return what ``cherrypy.request.config`` would be for ``path``.

    ``verb`` counts under a ``MethodDispatcher`` only.
    """
    dispatcher = dispatcher_of(app, path)
    steps = _steps(app, path, dispatcher)
    page = _page(steps)
    config: dict[str, Any] = cherrypy.config.copy()
    for number, step in enumerate(steps):
        _merge(config, step)
        if page is not None and page.number == number:
            _merge(config, _Step(step.path, page.node, page.config))
    if page is not None and isinstance(dispatcher, MethodDispatcher):
        config.update(_config_at(getattr(page.node, verb.upper(), None)))
    return config


def config_down_to(app: Any, path: str) -> dict[str, Any]:
    """Return what every page below ``path`` inherits.

    It is :func:`config_of` without what belongs to the page at ``path``
    alone: the config of its ``index`` or ``default``.
    """
    config: dict[str, Any] = cherrypy.config.copy()
    for step in _steps(app, path, dispatcher_of(app, path))[:-1]:
        _merge(config, step)
    return config


def object_at(app: Any, path: str) -> Any:
    """Return the object that stands at ``path`` in the tree, or None."""
    return _steps(app, path, dispatcher_of(app, path))[-2].node


def owner_of_key(app: Any, path: str, key: str) -> str | None:
    """Return the longest part of ``path`` at which ``key`` is set itself.

    ``'/api'`` when the section ``/api``, a ``_cp_config`` of the object
    there or of its page (``index``, ``default``) has it, ``''`` for the
    root, None when it is set nowhere in the application: then it comes
    from the global config, if at all.
    """
    steps = _steps(app, path, dispatcher_of(app, path))
    page = _page(steps)
    for number in range(len(steps) - 1, -1, -1):
        if key in steps[number].config or (
                page is not None and page.number == number
                and key in page.config):
            # The last step is the ``index`` of the one before it.
            return steps[min(number, len(steps) - 2)].path
    return None


def sections_of(app: Any) -> dict[tuple[str, ...], dict[str, Any]]:
    """Return the sections of ``app.config`` by the names they stand for.

    ``/api/my-tool``, ``/api/my_tool`` and ``/api/my_tool/`` lead to one
    attribute (CherryPy matches the last to nothing), so they are one entry
    here, ``('api', 'my_tool')``: who looks for guards wants them all.
    """
    sections: dict[tuple[str, ...], dict[str, Any]] = {}
    for path, config in app.config.items():
        if not (path.startswith('/') and isinstance(config, dict)):
            continue
        translate = dispatcher_of(app, path).translate
        names = tuple(name.translate(translate) for name in _names(path))
        sections.setdefault(names, {}).update(config)
    return sections


def dispatcher_of(app: Any, path: str) -> Any:
    """Return the ``Dispatcher`` whose walk leads to ``path``."""
    dispatcher = _dispatch_of(app, path)
    settings = _virtual_host_settings(dispatcher)
    if settings is not None:
        dispatcher = settings['next_dispatcher']
    if isinstance(dispatcher, Dispatcher):
        return dispatcher
    return _DEFAULT_DISPATCHER


def dispatched_path(request: Any) -> str:
    """Return the path at which CherryPy has looked for the page.

    It is ``path_info``, behind the prefix of the domain where the
    dispatcher is a ``VirtualHost``.  To be asked before a hook has run:
    ``tools.proxy`` changes the headers that this reads.
    """
    path: str = request.path_info
    settings = _virtual_host_settings(_dispatch_of(request.app, path))
    if settings is None:
        return path
    domain = request.headers.get('Host', '')
    if settings['use_x_forwarded_host']:
        domain = request.headers.get('X-Forwarded-Host', domain)
    prefix = settings['domains'].get(domain, '')
    return httputil.urljoin(prefix, path) if prefix else path


def _dispatch_of(app: Any, path: str) -> Any:
    return app.find_config(path.rstrip('/') or '/', 'request.dispatch', None)


def _virtual_host_settings(dispatch: Any) -> dict[str, Any] | None:
    """Return what ``VirtualHost`` was called with; None: it is none.

    From its closure, as nothing else has it.
    """
    if getattr(dispatch, '__code__', None) is not _VIRTUAL_HOST_CODE:
        return None
    return {name: cell.cell_contents for name, cell in zip(
        dispatch.__code__.co_freevars, dispatch.__closure__, strict=True)}


class _Page(NamedTuple):
    """The handler: after which step it was found, and what it brings."""

    number: int
    node: Any
    config: dict[str, Any]


def _names(path: str) -> list[str]:
    return [name for name in path.split('/') if name]


def _config_at(node: Any) -> dict[str, Any]:
    """Return the ``_cp_config`` of a node, {} if it has none."""
    return dict(getattr(node, '_cp_config', None) or {})


def _steps(app: Any, path: str, dispatcher: Any) -> list[_Step]:
    """Walk to ``path``: the root first, the implied ``index`` last."""
    node = app.root
    config = _config_at(node)
    config.update(app.config.get('/', {}))
    steps = [_Step('', node, config)]
    section = ''
    for name in [*_names(path), 'index']:
        node = getattr(node, name.translate(dispatcher.translate), None)
        section = f'{section}/{name}'
        config = {} if node is None else _config_at(node)
        config.update(app.config.get(section, {}))
        steps.append(_Step(section, node, config))
    return steps


def _page(steps: list[_Step]) -> _Page | None:
    """Find the handler as CherryPy does: from the end of the path back."""
    for number in range(len(steps) - 1, -1, -1):
        node = steps[number].node
        if node is None:
            continue
        default = getattr(node, 'default', None)
        if getattr(default, 'exposed', False):
            return _Page(number, default, _config_at(default))
        if getattr(node, 'exposed', False):
            return _Page(number, node, {})
    return None


def _merge(config: dict[str, Any], step: _Step) -> None:
    config.update(step.config)
    if 'tools.staticdir.dir' in step.config:
        config['tools.staticdir.section'] = step.path or '/'
