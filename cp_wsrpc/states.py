"""Where in its life a socket is.  Layer 2.

========  ======================================  ====================
state     what happens                            next state
========  ======================================  ====================
NEW       ``ioloop`` adopts it                    OPEN
OPEN      ``close()``                             CLOSING
OPEN      the peer's Close; it is answered (a)    LEAVING
OPEN      the peer breaks the protocol (a)        LEAVING
CLOSING   the peer's Close, or its breaking       LEAVING
LEAVING   all sent, and the peer's EOF or 1 s     CLOSED
any       EOF, a socket error, a deadline         CLOSED
========  ======================================  ====================

(a) A plain handler first does what came before, for 2 s at most, and may
answer it: RFC 6455 5.5.1 asks for the Close "as soon as practical" and has
what is under way go first.  RPC answers at once: who has closed reads no
replies.

Only the loop's thread changes the state (``closing``), and only on to what
is more closed.  ``closed()`` is run once for each ``opened()``, on entering
LEAVING or CLOSED.
"""
from __future__ import annotations

import enum

__all__ = ['CLOSED', 'CLOSING', 'LEAVING', 'NEW', 'OPEN', 'State']


class State(enum.IntEnum):
    """Where in its life a socket is; see the module's table."""

    NEW = 0
    OPEN = 1
    CLOSING = 2
    LEAVING = 3
    CLOSED = 4


#: The members by themselves: looking one up costs 50 ns before Python 3.12.
NEW, OPEN, CLOSING, LEAVING, CLOSED = State
