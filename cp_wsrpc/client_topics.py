"""A topic that somebody listens to, over all connections.  Layer 1, pure.

::

    topic = Topic('news')
    topic.join_params()         -> (), {'topic': 'news', 'since': None}
    topic.adopt('s1')                       -> []           joined
    topic.take(data, offset=None, epoch=None)
                                            -> Publication('news', data)

States: ``out -> joining -> in -> (connection lost) -> out``.  However many
listeners it has, it is one subscription on the wire.  ``client`` sends and
delivers; the loop's thread alone touches all this.
"""
from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

__all__ = ['Listener', 'Publication', 'Topic']


class Publication(NamedTuple):
    """What was published, and where in the topic's history it stands.

    ``offset`` and ``epoch`` are None on a topic without history.
    """

    topic: str
    data: Any
    offset: int | None = None
    epoch: str | None = None


class Listener:
    """One ``subscribe``: its functions, and what they have been told.

    ``active`` is written by whoever calls ``off()`` and read before each
    delivery; an event already being delivered may still run.  The rest is
    the loop's.

    ``known``      it has been told of a join
    ``recovered``  what it is to be told of the last one
    ``since``      (epoch, offset) of the state that it has: what is not
                   after that is not for it
    """

    __slots__ = ('_wants_publication', 'active', 'function', 'known',
                 'on_error', 'on_join', 'recovered', 'since')

    def __init__(self, function: Callable[..., object],
                 on_join: Callable[[bool | None], object] | None = None,
                 on_error: Callable[[Exception], object] | None = None,
                 since: Any = None) -> None:
        if not callable(function):
            raise TypeError(f'{function!r} is no function')
        for given in (on_join, on_error):
            if given is not None and not callable(given):
                raise TypeError(f'{given!r} is no function')
        self.function = function
        self.on_join = on_join
        self.on_error = on_error
        self.active = True
        self.known = False
        self.recovered: bool | None = None
        self.since = _read_position(since)
        self._wants_publication = _required_parameters(function) >= 2

    def has(self, publication: Publication) -> bool:
        """Whether it is one of those in the listener's state."""
        return (self.since is not None and publication.offset is not None
                and publication.epoch == self.since[0]
                and publication.offset <= self.since[1])

    def deliver(self, publication: Publication) -> None:
        """Give it to the function, unless ``off()`` was called."""
        if not self.active:
            return
        if self._wants_publication:
            self.function(publication.data, publication)
        else:
            self.function(publication.data)


def _read_position(given: Any) -> tuple[str, int] | None:
    """``('kX3p', 5)`` or ``{'epoch': 'kX3p', 'offset': 5}``, or None."""
    if given is None:
        return None
    if isinstance(given, dict):
        given = given.get('epoch'), given.get('offset')
    if not (isinstance(given, (tuple, list)) and len(given) == 2
            and isinstance(given[0], str) and type(given[1]) is int):
        raise TypeError(f'since = {given!r}: must be (epoch, offset), as '
                        'publish() returned it')
    return given[0], given[1]


def _required_parameters(function: Callable[..., object]) -> int:
    """How many positional arguments it cannot do without.

    So that ``subscribe('news', queue.put)`` and ``subscribe('news',
    print)`` get the data alone.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):         # a builtin without one
        return 1
    return sum(p.default is p.empty and p.kind in (
        p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)


class Topic:
    """See the module.

    ``id``         the server's name for the subscription, while it is in
    ``position``   (epoch, offset) of the last event seen, or None; both
                   are taken over together or not at all, since an offset
                   means nothing in another stream
    """

    __slots__ = ('_asked', '_own', 'id', 'listeners', 'name', 'position',
                 'state')

    def __init__(self, name: str) -> None:
        self.name = name
        self.state = 'out'
        self.id: str | None = None
        self.position: tuple[str, int] | None = None
        # What the join has sent, and where we had been ourselves then:
        # the one is another's if it was a listener's ``since``.
        self._asked: tuple[str, int] | None = None
        self._own: tuple[str, int] | None = None
        self.listeners: list[Listener] = []

    def __repr__(self) -> str:
        return f'<Topic {self.name!r} {self.state}>'

    def join_params(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """(args, kwargs) of ``rpc.subscribe``.

        ``since``: where we have been, or the state of a listener's, or
        None.
        """
        since = self._own = self.position
        for listener in self.listeners:
            since = since or listener.since
        self._asked = since
        return (), {'topic': self.name, 'since': since and {
            'epoch': since[0], 'offset': since[1]}}

    def admit(self, listener: Listener) -> None:
        """One who comes when we are in."""
        self._judge(listener, self.position is not None, self.position)

    def _judge(self, listener: Listener, recovered: bool,
               begin: tuple[str, int] | None) -> None:
        """Whether what it is to hear goes on where the listener has been.

        ``begin``: where that begins; not None if it is recovered.
        """
        since = listener.since
        if not listener.known and since is None:
            listener.recovered = None
            listener.since = self.position  # a gap is not for who is new
            return
        if recovered and not listener.known:
            recovered = (begin is not None and since is not None
                         and since[0] == begin[0] and since[1] >= begin[1])
        elif recovered:
            recovered = begin is self._own
        listener.recovered = recovered
        if not recovered:
            listener.since = None

    def adopt(self, reply: Any) -> list[Publication] | None:
        """Take over the reply of ``rpc.subscribe``: we are in.

        It is an id, or, of a server that keeps history, ``{subscription,
        epoch, offset, recovered, publications: [{offset, data}]}``.  The
        events of the gap, in order; None when it is no such reply.
        """
        said = reply if isinstance(reply, dict) else {'subscription': reply}
        if not isinstance(said.get('subscription'), str):
            return None
        self.id = said['subscription']
        self.state = 'in'
        epoch, offset = said.get('epoch'), said.get('offset')
        missed: list[Publication] = []
        if not isinstance(epoch, str) or type(offset) is not int:
            self.position = None
        else:
            missed = self._read_missed(said.get('publications'), epoch)
            self.position = (epoch, offset)
        for listener in self.listeners:
            self._judge(listener, said.get('recovered') is True, self._asked)
        return missed

    def _read_missed(self, publications: Any, epoch: str,
                     ) -> list[Publication]:
        missed = []
        for event in publications or ():
            if isinstance(event, dict) and type(event.get('offset')) is int:
                seen = self.take(event.get('data'), event['offset'], epoch)
                if seen is not None:
                    missed.append(seen)
        return missed

    def is_gap_before(self, offset: Any, epoch: Any) -> bool:
        """Whether something is missing between the last event and this."""
        if self.position is None or type(offset) is not int:
            return False
        known, last = self.position
        return (isinstance(epoch, str) and epoch != known) \
            or offset > last + 1

    def reset(self, offset: Any, epoch: Any) -> bool:
        """The server has lost what came between, and goes on from there.

        False if we are there already.
        """
        return (isinstance(epoch, str) and type(offset) is int
                and self.take(None, offset, epoch) is not None)

    def take(self, data: Any, offset: Any, epoch: Any) -> Publication | None:
        """A live event; None for one that has been seen."""
        known = self.position[0] if self.position else None
        stream = epoch if isinstance(epoch, str) else known
        if type(offset) is not int:
            return Publication(self.name, data, None, stream)
        if stream is not None:      # else there is nothing to compare with
            if self.position is not None and self.position[0] == stream \
                    and offset <= self.position[1]:
                return None
            self.position = (stream, offset)
        return Publication(self.name, data, offset, stream)

    def leave(self) -> None:
        """The connection has gone, or the last listener."""
        self.state = 'out'
        self.id = None
