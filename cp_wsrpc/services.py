"""The methods whose names begin with ``rpc.``.  Layer 3.

protocol.md, 2: every RPC endpoint has them, and no controller can define
or shadow one.

====================  ===================  ============================
``rpc.subscribe``     ``[topic]``          the subscription's id
``rpc.subscribe``     ``{topic, since}``   ``{subscription, epoch, offset,
                                           recovered, publications}``
``rpc.unsubscribe``   ``[id]``             true; false: unknown id
``rpc.publish``       ``{topic, data,      ``{epoch, offset}`` or null
                      key}``
``rpc.who``           ``[topic]``          a ``presence.Presence``
``rpc.ping``          anything             the same
``rpc.on``            ``[name, ...]``      ``{name: 'ok'}``
``rpc.off``           ``[name, ...]``      ``{name: 'ok'}``
====================  ===================  ============================

:func:`serve` runs on the loop's thread.  What asks the application (who
may subscribe or publish) goes to the pool unless it is marked nonblocking,
and comes back to the loop to join the topic; so the reply of a subscribe
stands in the out-queue before the topic's first event.
"""
from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from .batch import Last
from .errors import (BrokerUnavailable, Busy, ConnectionLostError,
                     InvalidParams, InvalidRequest, MethodNotFound,
                     ResponseTooBig, RPCError, TooManySubscriptions,
                     TopicRefused)
from .exposure import kind_of
from .history import PRESENCE, Position, Recovery
from .invocation import ask, check_session, fail
from .logs import escape, limited
from .messages import NO_ID
from .repeats import claim_in_turn

if TYPE_CHECKING:
    from .messages import Call
    from .peer import Peer

__all__ = ['is_service', 'serve']

log = logging.getLogger('cp_wsrpc.services')

MAX_TOPIC_CHARS = 200


def is_service(name: str) -> bool:
    """Whether a name belongs to the protocol (also one not defined)."""
    return name.startswith(('rpc.', '$/'))


def serve(peer: Peer, call: Call) -> None:
    """Answer a call of a reserved name.  On the loop's thread."""
    try:
        if peer.must_ask_store:
            submit = (peer.admission.submit_in_order if call.name in _IN_ORDER
                      else peer.admission.submit)
            submit(_check_on_worker, call)
            return
        if peer.handshake.bound:
            check_session(call)
    except BaseException as error:  # one reply, whatever the store did
        peer.complete(call, fail(call, error))
    else:
        _serve(call)


def _check_on_worker(call: Call) -> None:
    try:
        check_session(call)
    except BaseException as error:  # one reply, whatever the store did
        call.connection.complete(call, fail(call, error))
    else:
        call.connection.io.post(_serve, call)


def _serve(call: Call) -> None:
    peer = call.connection
    service = _SERVICES.get(call.name)
    try:
        if service is None:
            raise MethodNotFound()
        service(peer, call)
    except BaseException as error:  # one reply, whatever it was
        peer.complete(call, fail(call, error))


def _ping(peer: Peer, call: Call) -> None:
    value = msgspec.Raw(call.params) if call.params else None
    _return(peer, call, value)


def _subscribe(peer: Peer, call: Call) -> None:
    topic, since, wants_position = _read_subscription(call)
    if wants_position:
        def join() -> None:
            _join(peer, call, topic, since)
    elif call.batch is not None:
        def join() -> None:
            _join_with_batch(peer, call, topic)
    else:
        def join() -> None:
            _return(peer, call, peer.subscribe(topic))
    _ask(peer, call, *_reading_rule(peer, topic), join)


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
        _return(peer, call, arrival.id)
        return frames or []

    _end_with_batch(peer, call, Last(enter))


def _end_with_batch(peer: Peer, call: Call, last: Last) -> None:
    """Have ``last`` answer the call, with the others of its batch."""
    if call.batch is not None and call.id is not NO_ID:
        call.batch.put_last(last)
    else:
        for frame in last.run():
            peer.enqueue(frame)


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
        return broker.recover(topic, since, options.out_max_bytes // 2)

    def read_on_pool(_: Any) -> None:
        try:
            found = read()
        except BaseException as error:  # one reply, whatever the backend did
            peer.io.post(turn_away, error)
        else:
            peer.io.post(have_read, found)

    def have_read(found: Recovery | None) -> None:
        _end_with_batch(peer, call, Last(
            lambda: enter(found),
            lambda: found is None or not arrival.spoiled))

    def enter(found: Recovery | None) -> list[bytes]:
        try:
            frames = broker.enter(arrival, found)
            if frames is None:
                peer.admission.submit(read_on_pool, call)
                return []
            text = call.dialect.encode_result(
                call.id, _joined(arrival.id, since, found))
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


def _joined(id: str, since: Position | None, found: Recovery | None,
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


def _who(peer: Peer, call: Call) -> None:
    params = _decode(call, list[str], '[topic]')
    if len(params) != 1:
        raise InvalidParams('rpc.who takes [topic]')
    topic = _checked_topic(params[0])
    broker = peer.hub.broker

    def read(_: Any) -> None:
        try:
            text = call.dialect.encode_result(call.id, broker.who(topic))
            if len(text) > peer.endpoint.options.out_max_bytes:
                raise ResponseTooBig(f'{len(text)} bytes of presence')
        except BrokerUnavailable as error:
            limited(log, 'no broker', logging.WARNING,
                    '%s cannot ask who is on %s: %s', peer.id,
                    escape(topic), escape(error))
            text = fail(call, Busy('the broker cannot be reached'))
        except BaseException as error:  # he waits for an answer
            text = fail(call, error)
        peer.complete(call, text)

    # Who may come there may see who is there.
    _ask(peer, call, *_reading_rule(peer, PRESENCE + topic),
         lambda: peer.admission.submit(read, call))


def _reading_rule(peer: Peer, topic: str) -> tuple[Any, list[str]]:
    """(who may subscribe, what that is asked).

    For joins and leaves the same as for the topic of which they are.
    """
    if topic.startswith('rpc.'):
        of = topic.removeprefix(PRESENCE)
        if of == topic or not peer.hub.broker.has_presence(of):
            raise TopicRefused()
        topic = of
    return peer.endpoint.options.subscribe.find(topic), [topic]


def _unsubscribe(peer: Peer, call: Call) -> None:
    params = _decode(call, list[str], '[id]')
    if len(params) != 1:
        raise InvalidParams('rpc.unsubscribe takes [id]')
    _return(peer, call, peer.hub.broker.unsubscribe(peer, params[0]))


def _publish(peer: Peer, call: Call) -> None:
    params = _decode(call, _Publication, '{"topic": ..., "data": ...}')
    if params.key is not None and len(params.key) > MAX_TOPIC_CHARS:
        raise InvalidRequest(
            f'a key has at most {MAX_TOPIC_CHARS} characters')
    rule = peer.endpoint.options.publish.find(params.topic)
    if rule is None or params.topic.startswith('rpc.'):
        raise TopicRefused()

    def publish(_: Any) -> None:
        # On the pool whatever the rule: a broker may have to be waited
        # for.
        try:
            if not claim_in_turn(peer, call):
                return
            if rule is not True and not ask(call, rule, peer, params.topic):
                raise TopicRefused()
            position = peer.hub.broker.publish(params.topic, params.data,
                                               params.key)
            text = call.dialect.encode_result(
                call.id, position._asdict() if position else None)
        except BaseException as error:  # one reply, whatever the backend did
            text = fail(call, error)
        peer.complete(call, text)

    peer.admission.submit_in_order(publish, call)


def _on(peer: Peer, call: Call) -> None:
    names = _read_names(call)
    # An rpc.off may come while the rules are asked, and takes its names out.
    call.args = wanted = dict.fromkeys(names)
    remaining = list(wanted)
    limit = peer.endpoint.options.max_subscriptions
    if len(remaining) > limit:      # before so many rules are asked
        raise TooManySubscriptions(f'{limit} topics a connection are allowed')

    def join() -> tuple[bytes, ...]:
        joined: list[str] = []
        try:
            for name in wanted:
                if name not in peer.heard:
                    peer.listen(name)
                    joined.append(name)
            _return(peer, call, dict.fromkeys(names, 'ok'))
        except BaseException as error:  # it has a batch to end
            for name in joined:         # all of them, or none
                peer.hub.broker.unlisten(peer, name)
            peer.complete(call, fail(call, error))
        return ()

    def ask_next() -> None:
        while remaining:
            name = remaining.pop()
            rule, args = _reading_rule(peer, name)
            if rule is not True:
                _ask(peer, call, rule, args, ask_next)
                return
        _end_with_batch(peer, call, Last(join))

    ask_next()


def _off(peer: Peer, call: Call) -> None:
    names = _read_names(call)
    _return(peer, call, {
        name: 'ok' if _drop_pending(peer, name)
        | peer.hub.broker.unlisten(peer, name)
        else 'provided event is not subscribed' for name in names})


def _drop_pending(peer: Peer, name: str) -> bool:
    """Take a name out of every ``rpc.on`` whose rules are being asked."""
    dropped = False
    for other in tuple(peer.conversation.running.values()):
        if other.name == 'rpc.on' and name in other.args:
            del other.args[name]
            dropped = True
    return dropped


_SERVICES: dict[str, Callable[[Peer, Call], None]] = {
    'rpc.ping': _ping, 'rpc.subscribe': _subscribe,
    'rpc.unsubscribe': _unsubscribe, 'rpc.publish': _publish,
    'rpc.who': _who, 'rpc.on': _on, 'rpc.off': _off}


#: Of these, a later one must not come before an earlier one.
_IN_ORDER = frozenset({'rpc.publish', 'rpc.on', 'rpc.off'})


class _Publication(msgspec.Struct):
    topic: str
    data: msgspec.Raw
    key: str | None = None


def _return(peer: Peer, call: Call, value: Any) -> None:
    peer.complete(call, call.dialect.encode_result(call.id, value))


def _ask(peer: Peer, call: Call, rule: Any, args: list[str],
         granted: Callable[[], None]) -> None:
    """Call ``granted`` on the loop if the rule lets this peer in."""
    if rule is None:
        raise TopicRefused()
    if rule is True:
        granted()
        return

    def on_loop(allowed: Any) -> None:
        try:
            if not allowed:
                raise TopicRefused()
            if peer.is_closed:      # it has left its topics for good
                raise ConnectionLostError()
            granted()
        except BaseException as error:  # the application's rule may raise
            peer.complete(call, fail(call, error))

    if kind_of(rule) == 'nonblocking':
        on_loop(ask(call, rule, peer, *args))
        return

    def on_pool(_: Any) -> None:
        try:
            allowed = ask(call, rule, peer, *args)
        except BaseException as error:  # the application's rule may raise
            peer.complete(call, fail(call, error))
        else:
            peer.io.post(on_loop, allowed)

    peer.admission.submit(on_pool, call)


def _read_subscription(call: Call) -> tuple[str, Position | None, bool]:
    """(topic, since, whether a position is wanted).

    Of ``[topic]``, or of ``{"topic": ..., "since": ...}``.
    """
    since = None
    wants_position = False
    try:
        topics = msgspec.json.decode(call.params or b'[]', type=list[str])
    except msgspec.MsgspecError:
        given = _decode(call, _Subscription, '[topic] or {"topic": ..., '
                        '"since": {"epoch": ..., "offset": ...} or null}')
        topic, wants_position = given.topic, True
        if given.since is not None:
            since = Position(given.since.epoch, given.since.offset)
    else:
        if len(topics) != 1:
            raise InvalidParams('rpc.subscribe takes [topic]')
        topic = topics[0]
    return _checked_topic(topic), since, wants_position


def _checked_topic(topic: str) -> str:
    if len(topic.removeprefix(PRESENCE)) > MAX_TOPIC_CHARS:
        raise InvalidRequest(
            f'a topic has at most {MAX_TOPIC_CHARS} characters')
    return topic


class _Since(msgspec.Struct):
    epoch: str
    offset: int


class _Subscription(msgspec.Struct):
    topic: str
    since: _Since | None = None


def _read_names(call: Call) -> list[str]:
    names: list[str] = _decode(call, list[str], '[name, ...]')
    if not names or any(len(n) > MAX_TOPIC_CHARS for n in names):
        raise InvalidParams(f'{call.name} takes [name, ...]')
    return names


def _decode(call: Call, type: Any, shape: str) -> Any:
    try:
        return msgspec.json.decode(call.params or b'null', type=type)
    except (msgspec.MsgspecError, RPCError, ValueError) as error:
        raise InvalidParams(f'{call.name} takes {shape}: {error}') from None
