"""A topic that somebody listens to, over all connections.  Layer 1, pure.

::

    topic = Topic('news')
    topic.join_params()                     -> ('news',), {}
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
    delivery; an event already being delivered may still run.
    """

    __slots__ = ('_wants_publication', 'active', 'function', 'known',
                 'on_error', 'on_join')

    def __init__(self, function: Callable[..., object],
                 on_join: Callable[[bool | None], object] | None = None,
                 on_error: Callable[[Exception], object] | None = None,
                 ) -> None:
        if not callable(function):
            raise TypeError(f'{function!r} is no function')
        for given in (on_join, on_error):
            if given is not None and not callable(given):
                raise TypeError(f'{given!r} is no function')
        self.function = function
        self.on_join = on_join
        self.on_error = on_error
        self.active = True
        self.known = False          # has ever been told of a join
        self._wants_publication = _required_parameters(function) >= 2

    def deliver(self, publication: Publication) -> None:
        """Give it to the function, unless ``off()`` was called."""
        if not self.active:
            return
        if self._wants_publication:
            self.function(publication.data, publication)
        else:
            self.function(publication.data)


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
    ``recovered``  whether the last join has brought what was missed
    """

    __slots__ = ('id', 'listeners', 'name', 'position', 'recovered',
                 'state')

    def __init__(self, name: str) -> None:
        self.name = name
        self.state = 'out'
        self.id: str | None = None
        self.position: tuple[str, int] | None = None
        self.recovered = False
        self.listeners: list[Listener] = []

    def __repr__(self) -> str:
        return f'<Topic {self.name!r} {self.state}>'

    def join_params(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """(args, kwargs) of ``rpc.subscribe``.

        Recovery sends, from here and only from here, ``{'topic':
        self.name, 'since': {'epoch': ..., 'offset': ...}}``.
        """
        return (self.name,), {}

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
        self.recovered = said.get('recovered') is True
        epoch, offset = said.get('epoch'), said.get('offset')
        if not isinstance(epoch, str) or type(offset) is not int:
            self.position = None
            return []
        missed = []
        for event in said.get('publications') or ():
            if isinstance(event, dict) and type(event.get('offset')) is int:
                seen = self.take(event.get('data'), event['offset'], epoch)
                if seen is not None:
                    missed.append(seen)
        self.position = (epoch, offset)
        return missed

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
