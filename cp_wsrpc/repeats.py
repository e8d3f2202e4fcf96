"""Calls with an idempotency key, before they begin.  Layer 3.

``peer`` asks :func:`waits_for_key` of every call that has ``_meta``::

    first of its key    -> begins as any other; its reply settles the key
    one that runs       -> gets that one's reply, whichever connection ran it
    one that has ended  -> gets the reply that was kept
    not executed        -> begins, as if it were the first

The looks at the session and at a store that is shared may wait, and are
done on the pool then.
"""
from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from .errors import InvalidParams
from .idempotency import Key, Once, begin_once, key_of, reply_of
from .invocation import check_session, fail

if TYPE_CHECKING:
    from .messages import Call
    from .peer import Peer

__all__ = ['waits_for_key']


def waits_for_key(peer: Peer, call: Call) -> bool:
    """False: begin it.  True: it waits for its key, or is answered.

    The loop's thread; the call has a place in ``running``.
    """
    if type(call.batch) is Once:
        return False                    # the key is its own
    try:
        key = key_of(call)
        if key is None or not _may_repeat(call):
            return False
        if peer.must_ask_store or peer.hub.kept.is_shared:
            peer.submit(functools.partial(_claim_on_worker, peer, key), call)
            return True
        return not _claim(peer, key, call)
    except BaseException as error:
        peer.complete(call, fail(call, error, ran=False))
        return True


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


def _claim_on_worker(peer: Peer, key: Key, call: Call) -> None:
    try:
        if _claim(peer, key, call):
            peer.io.post(peer.begin_again, call)
    except BaseException as error:
        peer.complete(call, fail(call, error, ran=False))


def _claim(peer: Peer, key: Key, call: Call) -> bool:
    """Whether the key is this call's, which then is to be run."""
    if peer.handshake.bound:
        check_session(call)

    def hear(outcome: bytes | None) -> None:
        if outcome is None:             # not executed: it is our turn
            peer.io.post(peer.begin_again, call)
        else:
            peer.complete(call, reply_of(call.id, outcome))

    return begin_once(peer.hub.kept, key, call, hear)
