"""Calls with an idempotency key, before they begin.  Layer 3.

``peer`` asks :func:`waits_for_key` of every call that has ``_meta``::

    first of its key    -> begins as any other; its reply settles the key
    one that runs       -> gets that one's reply, whichever connection ran it
    one that has ended  -> gets the reply that was kept
    not executed        -> begins, as if it were the first

The look at the session may wait, and is done on the pool then; a store
that is shared says later who has the key.

``rpc.publish`` waits for its key in its turn (:func:`claim_in_turn`), so
that what one connection publishes keeps its order.
"""
from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from .errors import InvalidParams
from .idempotency import Key, Once, begin_once, key_of, reply_of
from .invocation import check_session, fail

if TYPE_CHECKING:
    from .messages import Call
    from .peer import Peer

__all__ = ['claim_in_turn', 'waits_for_key']

#: A store promises to have said it long before.
MAX_WAIT_S = 10.0


def waits_for_key(peer: Peer, call: Call) -> bool:
    """False: begin it.  True: it waits for its key, or is answered.

    The loop's thread; the call has a place in ``running``.
    """
    if type(call.batch) is Once:
        return False                    # the key is its own
    try:
        key = key_of(call)
        if key is None or not _may_repeat(call) or _has_turn(peer, call):
            return False
        if peer.must_ask_store:
            peer.admission.submit(_claim_on_worker, call)
            return True
        if peer.handshake.bound:
            check_session(call)
        if peer.hub.kept.is_shared:
            _claim(peer, key, call, _begin_on_loop(peer, call))
            return True
        begins: list[bool] = []
        _claim(peer, key, call, begins.append)
        return not begins[0]
    except BaseException as error:  # one reply, whatever the backend did
        peer.complete(call, fail(call, error, ran=False))
        return True


def claim_in_turn(peer: Peer, call: Call) -> bool:
    """Whether to run it; else it is answered, now or when that is known.

    For a worker that has the call's turn: it waits 2 s at most.  The
    session has been looked at.
    """
    if call.meta is None or type(call.batch) is Once:
        return True
    key = key_of(call)
    if key is None:
        return True
    begins: list[bool] = []
    is_decided = threading.Event()

    def decided(ours: bool) -> None:
        begins.append(ours)
        is_decided.set()

    _claim(peer, key, call, decided)
    if not is_decided.wait(MAX_WAIT_S):
        raise RuntimeError('the store of idempotency keys does not answer')
    return begins[0]


def _has_turn(peer: Peer, call: Call) -> bool:
    """Whether ``services`` asks for the key when the call's turn comes."""
    return call.method is None and (peer.must_ask_store
                                    or peer.hub.kept.is_shared)


def _may_repeat(call: Call) -> bool:
    """Whether a key means something; raises InvalidParams if it cannot.

    Of the protocol's own methods to ``rpc.publish`` alone: what the others
    do belongs to the connection, as what a Route's ``init`` does.
    """
    if call.method is None:
        return bool(call.name == 'rpc.publish')
    if call.method.route is not None and call.method.attribute == 'init':
        raise InvalidParams(
            f'{call.name} begins a Route of this connection: another one '
            'cannot repeat it, so it takes no idempotencyKey',
            {'executed': False})
    return True


def _claim_on_worker(call: Call) -> None:
    peer = call.connection
    try:
        check_session(call)
        key = key_of(call)
        assert key is not None
        _claim(peer, key, call, _begin_on_loop(peer, call))
    except BaseException as error:  # one reply, whatever the backend did
        peer.complete(call, fail(call, error, ran=False))


def _begin_on_loop(peer: Peer, call: Call) -> Callable[[bool], None]:
    def decided(begins: bool) -> None:
        if begins:
            peer.io.post(peer.admission.begin_again, call)
    return decided


def _claim(peer: Peer, key: Key, call: Call,
           decided: Callable[[bool], object]) -> None:
    """Have the call begun, answered, or wait for who has its key."""
    admission, store = peer.admission, peer.hub.kept

    def hear(outcome: bytes | None) -> None:
        admission.joined.pop(call, None)
        if outcome is None:             # not executed: it is our turn
            peer.io.post(peer.admission.begin_again, call)
        else:
            peer.complete(call, reply_of(call.id, outcome))

    def refuse(error: BaseException) -> None:
        admission.joined.pop(call, None)
        peer.complete(call, fail(call, error, ran=False))

    def said(begins: bool) -> None:
        if begins:
            admission.joined.pop(call, None)
        elif admission.has_ended:   # maybe before the store watched
            store.unwatch(key, hear)
        decided(begins)

    admission.joined[call] = key, hear
    begin_once(store, key, call, said, hear, refuse)
