"""Our log lines in CherryPy's error log.  Layer 0.

One of the ``host_*`` modules.  The loggers ``cp_wsrpc.*`` are Python's; an
application that set up ``logging`` has them where it wants them.  One that
did not - most CherryPy applications - looks into ``log.error_file`` and at
the screen, where CherryPy writes: so there go warnings and errors, until
the root logger has handlers of its own.
"""
from __future__ import annotations

import logging
import traceback

import cherrypy

__all__ = ['join_logs', 'leave_logs']


class _ToCherryPy(logging.Handler):
    """Hands a record to ``cherrypy.log``, which adds time and context."""

    def emit(self, record: logging.LogRecord) -> None:
        if logging.getLogger().handlers:
            return      # it propagates to them, as CherryPy's own does
        try:
            text = record.getMessage()
            if record.exc_info and record.exc_info[1] is not None:
                text += '\n' + ''.join(
                    traceback.format_exception(record.exc_info[1]))
            cherrypy.log.error(text, context='WSRPC',
                               severity=record.levelno)
        except Exception:  # as all handlers do: who logs goes on
            self.handleError(record)


_handler = _ToCherryPy(logging.WARNING)


def join_logs() -> None:
    """Have them written there, from now on; may be called again."""
    logging.getLogger('cp_wsrpc').addHandler(_handler)


def leave_logs() -> None:
    """Undo ``join_logs``."""
    logging.getLogger('cp_wsrpc').removeHandler(_handler)
