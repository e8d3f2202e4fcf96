"""Who is on a topic, as the client follows it.  Layer 4.

::

    onjoin          -> load(): rpc.who             -> adopt: all users
    a join, a leave -> take(): after the position of that, one change

What of both comes before the answer to ``rpc.who`` waits for it.  As
``rpc.presence`` of the JavaScript client.
"""
from __future__ import annotations

import functools
import random
from collections.abc import Callable
from typing import Any

from .client_subscriptions import REJOIN_DELAY_S
from .client_topics import Publication
from .conversation import PendingReply
from .errors import CallTimeout, ConnectionLostError, RemoteError
from .users import key_of

__all__ = ['Presences']


class Presences:
    """The users on one topic.

    All of it runs where the listeners' functions do, one after the other;
    but ``end``, which any thread may call.

    ``ask(answered)``     sends ``rpc.who``; ``answered(reply)`` is called
                          there, too
    ``load_later(delay_s)``  has ``load()`` called after that
    ``function(users, change)``, ``refused(error)``: the application's
    """

    def __init__(self, function: Callable[..., object],
                 refused: Callable[[BaseException], object],
                 ask: Callable[[Callable[[PendingReply], None]], object],
                 load_later: Callable[[float], object]) -> None:
        self._function = function
        self._refused = refused
        self._ask = ask
        self._load_later = load_later
        self._users: dict[bytes, Any] = {}
        self._position: tuple[Any, Any] = (None, 0)     # (epoch, offset)
        #: what waits for the answer; None when it is there
        self._waiting: list[tuple[Any, Publication]] | None = []
        #: refused for good: nothing more comes before the next join
        self._gave_up = False
        self._turn = 0
        self._ended = False

    def end(self) -> None:
        """Tell nothing any more."""
        self._ended = True

    def on_join(self, recovered: bool | None) -> None:
        """The topic of joins and leaves has been joined, maybe anew."""
        if recovered is not True or self._waiting is not None:
            self.load()

    def load(self) -> None:
        """Ask for all anew."""
        if not self._ended:
            self._waiting = []
            self._gave_up = False
            self._turn += 1
            self._ask(functools.partial(self._adopt, self._turn))

    def take(self, change: Any, publication: Publication) -> None:
        """Somebody has come or gone."""
        if self._waiting is not None:
            if not self._gave_up:
                self._waiting.append((change, publication))
            return
        is_ours = publication.epoch == self._position[0]
        if not is_ours:
            self.load()
        elif self._apply(change, publication):
            self._tell(change)

    def _adopt(self, turn: int, reply: PendingReply) -> None:
        if self._ended or turn != self._turn:
            return
        error = reply.exception()
        if error is not None:
            self._failed(error)
            return
        found = reply.result()
        waiting, self._waiting = self._waiting or [], None
        self._position = found['epoch'], found['offset']
        self._users = {key_of(one['user']): one['user']
                       for one in found['users']}
        if all(publication.epoch == found['epoch']
               for _, publication in waiting):
            for change, publication in waiting:
                self._apply(change, publication)
            self._tell(None)
        else:                   # of another stream: that one counts
            self.load()

    def _failed(self, error: BaseException) -> None:
        if isinstance(error, ConnectionLostError):
            return              # the next join asks again
        if isinstance(error, CallTimeout) or (
                isinstance(error, RemoteError) and error.retryable):
            self._load_later(REJOIN_DELAY_S * random.uniform(0.5, 1.5))
        else:
            self._gave_up, self._waiting = True, []
        self._refused(error)        # last: it may raise

    def _apply(self, change: Any, publication: Publication) -> bool:
        """Whether it was not counted in already."""
        epoch, offset = self._position
        if publication.offset <= offset:
            return False
        self._position = epoch, publication.offset
        key = key_of(change['user'])
        if change['event'] == 'join':
            self._users[key] = change['user']
        else:
            self._users.pop(key, None)
        return True

    def _tell(self, change: Any) -> None:
        if not self._ended:
            self._function(list(self._users.values()), change)
