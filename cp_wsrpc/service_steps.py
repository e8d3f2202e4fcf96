"""Steps of the methods whose names begin with ``rpc.``.  Layer 3.

In the order in which ``services`` and ``joining`` take them::

    decode_params(call, list[str], '[topic]')  -> ['news']; InvalidParams
    checked_topic('news')                      -> 'news'; InvalidRequest
    reading_rule(peer, 'news')                 -> (rule, ['news'])
    ask_rule(peer, call, rule, ['news'], granted)
    send_result(peer, call, 'iZ4x')

All begin on the loop's thread; a rule that is not nonblocking is asked on
the pool, and ``granted`` is called on the loop again.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from .batch import Last
from .errors import (ConnectionLostError, InvalidParams, InvalidRequest,
                     RPCError, TopicRefused)
from .exposure import kind_of
from .history import PRESENCE
from .invocation import ask, fail
from .messages import NO_ID

if TYPE_CHECKING:
    from .messages import Call
    from .peer import Peer

__all__ = ['MAX_TOPIC_CHARS', 'ask_rule', 'check_length', 'checked_topic',
           'decode_params', 'end_with_batch', 'reading_rule', 'send_result']

MAX_TOPIC_CHARS = 200
#: One name in JSON, all of it escaped, and what else is said with it.
_MAX_BYTES_A_NAME = 4096


def check_length(call: Call, names: int = 1) -> None:
    """InvalidRequest for more params than so many names can need.

    Before any is looked at: 1 MiB of them held the loop for 90 ms.
    """
    if len(call.params or b'') > names * _MAX_BYTES_A_NAME:
        raise InvalidRequest(
            f'{call.name} takes at most {names * _MAX_BYTES_A_NAME} bytes')


def decode_params(call: Call, type: Any, shape: str, names: int = 1) -> Any:
    """What a call brings, of so many names at most; InvalidParams.

    That shows ``shape``.  InvalidRequest as ``check_length``.
    """
    check_length(call, names)
    try:
        return msgspec.json.decode(call.params or b'null', type=type)
    except (msgspec.MsgspecError, RPCError, ValueError) as error:
        raise InvalidParams(f'{call.name} takes {shape}: {error}') from None


def checked_topic(topic: str) -> str:
    """The same; InvalidRequest if it is too long."""
    if len(topic.removeprefix(PRESENCE)) > MAX_TOPIC_CHARS:
        raise InvalidRequest(
            f'a topic has at most {MAX_TOPIC_CHARS} characters')
    return topic


def reading_rule(peer: Peer, topic: str) -> tuple[Any, list[str]]:
    """(who may subscribe, what that is asked).

    For joins and leaves the same as for the topic of which they are.
    """
    if topic.startswith('rpc.'):
        of = topic.removeprefix(PRESENCE)
        if of == topic or not peer.hub.broker.has_presence(of):
            raise TopicRefused()
        topic = of
    return peer.endpoint.options.subscribe.find(topic), [topic]


def ask_rule(peer: Peer, call: Call, rule: Any, args: list[str],
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


def send_result(peer: Peer, call: Call, value: Any) -> None:
    """Answer with ``value``; TypeError, ValueError if it is no JSON."""
    peer.complete(call, call.dialect.encode_result(call.id, value))


def end_with_batch(peer: Peer, call: Call, last: Last) -> None:
    """Have ``last`` answer the call, with the others of its batch."""
    if call.batch is not None and call.id is not NO_ID:
        call.batch.put_last(last)
    else:
        for frame in last.run():
            peer.enqueue(frame)
