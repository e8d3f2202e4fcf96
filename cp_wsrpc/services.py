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
may subscribe or publish) goes to the pool unless it is marked nonblocking.
``joining`` is ``rpc.subscribe``, ``service_steps`` what all have in common.
"""
from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from .batch import Last
from .errors import (BrokerUnavailable, Busy, InvalidParams, InvalidRequest,
                     MethodNotFound, Overloaded, ResponseTooBig, RPCError,
                     TooManySubscriptions, TopicRefused)
from .history import PRESENCE
from .invocation import ask, check_session, fail
from .joining import subscribe
from .logs import escape, limited
from .repeats import claim_in_turn
from .service_steps import (MAX_TOPIC_CHARS, ask_rule, checked_topic,
                            decode_params, end_with_batch, reading_rule,
                            send_result)

if TYPE_CHECKING:
    from .messages import Call
    from .peer import Peer

__all__ = ['is_service', 'serve']

log = logging.getLogger('cp_wsrpc.services')


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
    send_result(peer, call, value)


def _who(peer: Peer, call: Call) -> None:
    params = decode_params(call, list[str], '[topic]')
    if len(params) != 1:
        raise InvalidParams('rpc.who takes [topic]')
    topic = checked_topic(params[0])
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
    ask_rule(peer, call, *reading_rule(peer, PRESENCE + topic),
         lambda: peer.admission.submit(read, call))


def _unsubscribe(peer: Peer, call: Call) -> None:
    params = decode_params(call, list[str], '[id]')
    if len(params) != 1:
        raise InvalidParams('rpc.unsubscribe takes [id]')
    send_result(peer, call, peer.hub.broker.unsubscribe(peer, params[0]))


def _publish(peer: Peer, call: Call) -> None:
    params = decode_params(call, _Publication, '{"topic": ..., "data": ...}',
                           names=_ANY_NUMBER)
    if params.key is not None and len(params.key) > MAX_TOPIC_CHARS:
        raise InvalidRequest(
            f'a key has at most {MAX_TOPIC_CHARS} characters')
    topic = checked_topic(params.topic)
    rule = peer.endpoint.options.publish.find(topic)
    if rule is None or topic.startswith('rpc.'):
        raise TopicRefused()

    def publish(_: Any) -> None:
        # On the pool whatever the rule: a broker may have to be waited
        # for.
        try:
            if not claim_in_turn(peer, call):
                return
            if rule is not True and not ask(call, rule, peer, topic):
                raise TopicRefused()
            _check_numbers(params.data)
            position = peer.hub.broker.publish(topic, params.data,
                                               params.key)
            text = call.dialect.encode_result(
                call.id, position._asdict() if position else None)
        except (BrokerUnavailable, Overloaded) as error:
            limited(log, 'no broker', logging.WARNING,
                    '%s cannot publish on %s: %s', peer.id, escape(topic),
                    escape(error))
            text = fail(call, _busy_for(error))
        except BaseException as error:  # one reply, whatever the backend did
            text = fail(call, error)
        peer.complete(call, text)

    peer.admission.submit_in_order(publish, call)


def _busy_for(error: BrokerUnavailable | Overloaded) -> RPCError:
    """Busy; of what may have been published, no word that it was not."""
    if isinstance(error, Overloaded) or not error.maybe_executed:
        return Busy('the broker cannot be reached, or is far behind')
    return RPCError(Busy.code, 'the broker has not answered: perhaps it was '
                    'published, perhaps not', {'maybeExecuted': True})


def _on(peer: Peer, call: Call) -> None:
    names = _read_names(peer, call)
    # An rpc.off may come while the rules are asked, and takes its names out.
    call.args = wanted = dict.fromkeys(names)
    remaining = list(wanted)

    def join() -> tuple[bytes, ...]:
        joined: list[str] = []
        try:
            for name in wanted:
                if name not in peer.heard:
                    peer.listen(name)
                    joined.append(name)
            send_result(peer, call, dict.fromkeys(names, 'ok'))
        except BaseException as error:  # it has a batch to end
            for name in joined:         # all of them, or none
                peer.hub.broker.unlisten(peer, name)
            peer.complete(call, fail(call, error))
        return ()

    def ask_next() -> None:
        while remaining:
            name = remaining.pop()
            rule, args = reading_rule(peer, name)
            if rule is not True:
                ask_rule(peer, call, rule, args, ask_next)
                return
        end_with_batch(peer, call, Last(join))

    ask_next()


def _off(peer: Peer, call: Call) -> None:
    names = _read_names(peer, call)
    # Those whose rules are being asked.
    pending = [other for other in tuple(peer.conversation.running.values())
               if other.name == 'rpc.on']
    send_result(peer, call, {
        name: 'ok' if _drop_pending(pending, name)
        | peer.hub.broker.unlisten(peer, name)
        else 'provided event is not subscribed' for name in names})


def _drop_pending(pending: list[Call], name: str) -> bool:
    """Take a name out of each of these ``rpc.on``."""
    dropped = False
    for other in pending:
        if name in other.args:
            del other.args[name]
            dropped = True
    return dropped


_SERVICES: dict[str, Callable[[Peer, Call], None]] = {
    'rpc.ping': _ping, 'rpc.subscribe': subscribe,
    'rpc.unsubscribe': _unsubscribe, 'rpc.publish': _publish,
    'rpc.who': _who, 'rpc.on': _on, 'rpc.off': _off}


#: Of these, a later one must not come before an earlier one.
_IN_ORDER = frozenset({'rpc.publish', 'rpc.on', 'rpc.off'})


class _Publication(msgspec.Struct):
    topic: str
    data: msgspec.Raw
    key: str | None = None


def _read_names(peer: Peer, call: Call) -> dict[str, None]:
    """Each name once, in order; no more than one connection may hear."""
    limit = peer.endpoint.options.max_subscriptions
    names = dict.fromkeys(decode_params(call, list[str], '[name, ...]',
                                        names=limit))
    if not names or any(len(n) > MAX_TOPIC_CHARS for n in names):
        raise InvalidParams(f'{call.name} takes [name, ...]')
    if len(names) > limit:
        raise TooManySubscriptions(f'{limit} topics a connection are allowed')
    return names


def _check_numbers(data: msgspec.Raw) -> None:
    """InvalidParams for numbers that are JSON, but cannot be read.

    Who comes back gets all that he missed in one reply: one ``1e999`` in
    the history would have made that unreadable to every Python client.
    """
    if _MAYBE_TOO_LARGE.search(data) is not None:
        try:
            msgspec.json.decode(data)
        except (msgspec.MsgspecError, ValueError) as error:
            raise InvalidParams(f'data: {error}') from None


#: No number is too large without an exponent or so many digits.
_MAYBE_TOO_LARGE = re.compile(rb'[eE]\+?[0-9]|[0-9]{309}')
_ANY_NUMBER = 1 << 30
