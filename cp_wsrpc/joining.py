"""``rpc.subscribe``: how a peer comes to a topic.  Layer 3.

::

    ["news"]                                  -> the subscription's id
    {"topic": "news", "since": null}          -> {subscription, epoch, ...}
    {"topic": "news", "since": {"epoch": "kX3p", "offset": 7}}
                                              -> and what came after 7

Who asks in a batch gets no event before the batch's array; who gives a
position gets what he has missed, without a hole (``topics`` says how).
:func:`subscribe` runs on the loop's thread, and so does each join; so its
reply stands in the out-queue before the topic's first event.  A history is
read on the loop, or on the pool where that may mean to wait.
"""
from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import msgspec

from .batch import Last
from .errors import BrokerUnavailable, Busy, InvalidParams
from .history import Position, Recovery
from .invocation import fail
from .logs import escape, limited
from .service_steps import (ask_rule, check_length, checked_topic,
                            decode_params, end_with_batch, reading_rule,
                            send_result)

if TYPE_CHECKING:
    from .messages import Call
    from .peer import Peer

__all__ = ['joined_result', 'subscribe']

log = logging.getLogger('cp_wsrpc.joining')


def subscribe(peer: Peer, call: Call) -> None:
    """Ask the rule, and let him in; RPCError for what he cannot ask."""
    topic, since, wants_position = _read_subscription(call)
    if wants_position:
        def join() -> None:
            _join(peer, call, topic, since)
    elif call.batch is not None:
        def join() -> None:
            _join_with_batch(peer, call, topic)
    else:
        def join() -> None:
            send_result(peer, call, peer.subscribe(topic))
    ask_rule(peer, call, *reading_rule(peer, topic), join)


def _join_with_batch(peer: Peer, call: Call, topic: str) -> None:
    """Let a peer in with the reply of the batch in which it asked.

    What comes before that is held for it; should it be too much, the
    subscription begins the later.
    """
    broker = peer.hub.broker
    arrival = broker.arrive(
        peer, topic, peer.endpoint.options.max_subscriptions, follows=False)

    def enter() -> list[bytes]:
        frames = broker.enter(arrival, None)
        send_result(peer, call, arrival.id)
        return frames or []

    end_with_batch(peer, call, Last(enter))


def _join(peer: Peer, call: Call, topic: str, since: Position | None,
          ) -> None:
    """Let a peer in from where it has been; see ``topics`` for the order.

    On the loop's thread.  The history is read here, too, unless that may
    mean to wait.
    """
    broker = peer.hub.broker
    options = peer.endpoint.options
    arrival = broker.arrive(peer, topic, options.max_subscriptions)

    def read() -> Recovery | None:
        room = options.out_max_bytes // 2
        if call.batch is not None:
            room = max(0, room - call.batch.size - call.batch.held)
        return broker.recover(topic, since, room)

    def read_on_pool(_: Any) -> None:
        try:
            found = read()
        except BaseException as error:  # one reply, whatever the backend did
            peer.io.post(turn_away, error)
        else:
            peer.io.post(have_read, found)

    def have_read(found: Recovery | None) -> None:
        found = _as_fits(peer, call, found)
        end_with_batch(peer, call, Last(
            lambda: enter(found),
            lambda: found is None or not arrival.spoiled))

    def enter(found: Recovery | None) -> list[bytes]:
        try:
            frames = broker.enter(arrival, found)
            if frames is None:          # the history is to be read again
                if call.batch is not None:
                    call.batch.held -= _size(found)
                peer.admission.submit(read_on_pool, call)
                return []
            text = call.dialect.encode_result(
                call.id, joined_result(arrival.id, since, found))
        except BaseException as error:  # one reply, whatever the data is
            turn_away(error)
            return []
        peer.complete(call, text)
        return frames

    def turn_away(error: BaseException) -> None:
        broker.turn_away(arrival)
        if isinstance(error, BrokerUnavailable):
            limited(log, 'no broker', logging.WARNING,
                    '%s cannot join %s: %s', peer.id, escape(topic),
                    escape(error))
            error = Busy('the broker cannot be reached')
        peer.complete(call, fail(call, error))

    try:
        if broker.must_wait(topic):
            peer.admission.submit(read_on_pool, call)
        else:
            have_read(read())
    except BaseException as error:  # one reply, whatever the backend did
        turn_away(error)


def _as_fits(peer: Peer, call: Call, found: Recovery | None,
             ) -> Recovery | None:
    """Nothing of what was missed, if too much waits to be sent already.

    One message of 10 kB can ask for 100 times 2 MiB: that made 180 MB of
    it, and held the loop for 440 ms.  So all that waits for one peer is to
    be half its out-queue, as what one of them may bring.
    """
    size = _size(found)
    if not size:
        return found
    assert found is not None
    room = peer.endpoint.options.out_max_bytes // 2 - peer.out.waiting_bytes
    if call.batch is not None:
        room -= call.batch.size + call.batch.held
    if size > room:
        return Recovery(found.position, False)
    if call.batch is not None:
        call.batch.held += size
    return found


def _size(found: Recovery | None) -> int:
    """The bytes of what was missed."""
    return sum(len(text) for _, text in found.events) if found else 0


def joined_result(id: str, since: Position | None, found: Recovery | None,
            ) -> dict[str, Any]:
    """The result of ``rpc.subscribe`` with a position."""
    if found is None:           # no history: whoever was away has missed it
        return {'subscription': id, 'epoch': None, 'offset': None,
                'recovered': None if since is None else False,
                'publications': []}
    return {'subscription': id, **found.position._asdict(),
            'recovered': found.recovered,
            'publications': [{'offset': offset, 'data': msgspec.Raw(text)}
                             for offset, text in found.events]}


def _read_subscription(call: Call) -> tuple[str, Position | None, bool]:
    """(topic, since, whether a position is wanted).

    Of ``[topic]``, or of ``{"topic": ..., "since": ...}``.
    """
    since = None
    wants_position = False
    check_length(call)
    try:
        topics = msgspec.json.decode(call.params or b'[]', type=list[str])
    except msgspec.MsgspecError:
        given = decode_params(call, _Subscription, '[topic] or {"topic": ..., '
                        '"since": {"epoch": ..., "offset": ...} or null}')
        topic, wants_position = given.topic, True
        if given.since is not None:
            since = Position(given.since.epoch, given.since.offset)
    else:
        if len(topics) != 1:
            raise InvalidParams('rpc.subscribe takes [topic]')
        topic = topics[0]
    return checked_topic(topic), since, wants_position


class _Since(msgspec.Struct):
    epoch: str
    offset: int


class _Subscription(msgspec.Struct):
    topic: str
    since: _Since | None = None
