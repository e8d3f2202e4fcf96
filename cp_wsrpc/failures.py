"""An exception of the application -> what the peer gets and the log keeps.
Layer 1.

::

    failure_of(RPCError(7, 'closed', {'id': 4}))  -> (7, 'closed', {'id': 4})
    failure_of(cherrypy.HTTPError(404, 'gone'))   -> (404, 'gone', None)
    failure_of(cherrypy.HTTPRedirect('/login'))   -> (303, 'See Other',
                                                      {'location': ...})
    failure_of(KeyError('x'))           -> (-32000, 'internal error',
                                            {'ref': '5f0c2a9b'})
    failure_of(KeyError('x'), debug=True) -> (-32000, "'x'", {'type':
                                            'KeyError', 'traceback': ...})

What an exception says may be secret, so by default none of it is sent: the
reference stands in the log beside the traceback (threats C8).
"""
from __future__ import annotations

import os
import secrets
import traceback
from typing import Any

import cherrypy

from .errors import RPCError

__all__ = ['failure_of', 'is_answer']

MAX_TRACEBACK_CHARS = 16_384
_PACKAGE = os.path.dirname(__file__)


def is_answer(error: BaseException) -> bool:
    """Whether the application raised it *as* its answer to the peer."""
    return isinstance(error, (RPCError, cherrypy.HTTPError,
                              cherrypy.HTTPRedirect))


def failure_of(error: BaseException, debug: bool = False,
               ref: str | None = None) -> tuple[int, str, Any]:
    """(code, message, data) of the error object for ``error``.

    ``ref``: the reference under which the caller has logged it.
    """
    if isinstance(error, RPCError):
        return error.code, error.message, _data_of(error)
    if isinstance(error, cherrypy.HTTPRedirect):
        return error.status, 'redirected', {'location': error.urls[0]
                                            if error.urls else None}
    if isinstance(error, cherrypy.HTTPError):
        return error.code, _text_of(error._message or error.reason), None
    data: dict[str, Any] = {}
    if debug:
        data['type'] = type(error).__name__
        data['traceback'] = _traceback_of(error)
    if ref:
        data['ref'] = ref
    return (-32000, _text_of(error) if debug else 'internal error',
            data or None)


def new_ref() -> str:
    """A reference that finds one line in the log: '5f0c2a9b'."""
    return secrets.token_hex(4)


def _data_of(error: RPCError) -> Any:
    """What it carries; the name of an application's own class beside it."""
    kind = type(error)
    if error.data is None and kind.__module__ != RPCError.__module__:
        return {'type': kind.__name__}
    return error.data


def _text_of(error: Any) -> str:
    try:
        return str(error)
    except Exception:           # __str__ is the application's, too
        return f'{type(error).__name__} (its __str__ raised)'


def _traceback_of(error: BaseException) -> str:
    """The traceback from the application's own first frame on."""
    theirs = error.__traceback__
    while theirs is not None and os.path.dirname(
            theirs.tb_frame.f_code.co_filename) == _PACKAGE:
        theirs = theirs.tb_next
    if theirs is None:
        theirs = error.__traceback__
    try:
        text = ''.join(traceback.format_exception(
            type(error), error, theirs))
    except Exception:           # __str__, __repr__ or __cause__ raised
        text = ''.join(traceback.format_tb(theirs))
    return text[-MAX_TRACEBACK_CHARS:]
