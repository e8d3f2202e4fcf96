"""What came over the wire, fit to stand in a log.  Layer 0.

::

    escape('a\\r\\nb\\x1b[31m')      ->  'a\\\\r\\\\nb\\\\x1b[31m'
    limited(log, 'origin', logging.WARNING, 'refused %s', origin)

An attacker who can make a server write lines can fill a disk or hide
among them (threats C9): one line a second per cause is enough to see him.
"""
from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

__all__ = ['LineLimiter', 'escape', 'limited']

#: Causes that are told apart at a time; further ones share their line.
MAX_CAUSES = 256
_FURTHER = ('', 'further causes')


def escape(text: object, limit: int = 200) -> str:
    """Return ``text`` in at most ``limit`` printable characters.

    Control characters, line ends, ESC, bidi overrides, invisible ones and
    lone surrogates come out as ``\\x1b`` or ``\\u202e``; what is too long
    ends with ``...``.  ``text`` is a str, bytes (read as Latin-1), or
    anything with a ``str()``.
    """
    if isinstance(text, bytes):
        text = text[:limit + 1].decode('latin-1')
    elif not isinstance(text, str):
        text = str(text)
    if len(text) <= limit and text.isprintable():
        return text
    shown: list[str] = []
    room = limit
    for char in text[:limit + 1]:
        if not char.isprintable():
            char = char.encode('unicode_escape').decode('ascii')
        room -= len(char)
        shown.append(char)
        if room < 0:
            break
    else:
        return ''.join(shown)
    return ''.join(shown)[:limit - 3] + '...'


class _Cause:
    """When it may have its next line; what came since the last, whose
    reference is ``ref``."""

    __slots__ = ('ref', 'swallowed', 'until')

    def __init__(self) -> None:
        self.until = float('-inf')
        self.swallowed = 0
        self.ref = ''


class LineLimiter:
    """Lets one line through per cause and interval, and counts the rest.

    Any thread may call :meth:`log` and :meth:`log_under`.
    """

    def __init__(self, interval_s: float = 1.0,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self._interval_s = interval_s
        self._clock = clock
        # Guards the rest.
        self._lock = threading.Lock()
        self._causes: dict[tuple[str, str], _Cause] = {}    # by logger too
        self._full_until = 0.0

    def log(self, logger: logging.Logger, cause: str, level: int, fmt: str,
            *args: Any, exc_info: Any = None) -> bool:
        """Log ``fmt % args`` unless ``cause`` had its line just now.

        ``cause`` is a constant of the program, never text from the wire.
        The line that follows swallowed ones says how many they were.
        Returns whether a line was written.
        """
        if not logger.isEnabledFor(level):
            return False
        swallowed, _ = self._admit((logger.name, cause), '')
        if swallowed is None:
            return False
        if swallowed:
            fmt += ' (and %d more like it)'
            args += (swallowed,)
        logger.log(level, fmt, *args, exc_info=exc_info)
        return True

    def log_under(self, ref: str, logger: logging.Logger, cause: str,
                  level: int, fmt: str, *args: Any,
                  exc_info: Any = None) -> str:
        """As :meth:`log`, of a line that ends with its reference.

        Returns the reference of the line that tells of it: ``ref`` itself
        or, of what was swallowed, that of the line which is there already
        (the next one counts it); ``''`` if the level is off.
        """
        if not logger.isEnabledFor(level):
            return ''
        swallowed, ref = self._admit((logger.name, cause), ref)
        if swallowed is not None:
            more = f'; {swallowed} more like it' if swallowed else ''
            logger.log(level, fmt + ' (ref %s%s)', *args, ref, more,
                       exc_info=exc_info)
        return ref

    def _admit(self, key: tuple[str, str], ref: str,
               ) -> tuple[int | None, str]:
        """How many were swallowed before, None to swallow this; its ref."""
        now = self._clock()
        with self._lock:
            state = self._causes.get(key)
            if state is None and not self._has_room(now):
                key = _FURTHER
                state = self._causes.get(key)
            if state is None:
                state = self._causes[key] = _Cause()
            # A line without a reference (all further causes share theirs)
            # tells nothing to who looks for one.
            if now < state.until and (state.ref or not ref):
                state.swallowed += 1
                return None, state.ref
            swallowed, state.swallowed = state.swallowed, 0
            state.until = now + self._interval_s
            state.ref = ref
            return swallowed, ref

    def _has_room(self, now: float) -> bool:
        """Whether one more cause can be told apart.

        Causes that may speak again make room, silent ones never: whoever
        makes 257 methods fail in turn would else have a line for each.
        """
        assert self._lock.locked()
        if len(self._causes) < MAX_CAUSES - 1:      # one is _FURTHER
            return True
        if now < self._full_until:
            return False
        self._causes = {key: state for key, state in self._causes.items()
                        if now < state.until}
        if len(self._causes) < MAX_CAUSES - 1:
            return True
        self._full_until = min(state.until
                               for state in self._causes.values())
        return False


limited = LineLimiter().log
