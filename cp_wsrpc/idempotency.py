"""Calls that may be sent again: each key has one effect.  Layer 1.

A client that lost its connection cannot know whether a call has run.  One
that was sent with ``"_meta": {"idempotencyKey": "8c1f..."}`` it may send
again: the server joins a call that still runs, replays the reply of one
that has ended, and refuses other arguments under the same key::

    key = key_of(call)                              # or None: no such call
    store.ask(key, fingerprint_of(call), said)      -> said(claim)
    claim.is_ours         run it, then store.settle(key, outcome)
    else                  store.watch(key, heard)   -> heard(outcome)
    Conflict              another call has this key
    Busy                  no room

An outcome is the reply without its id, ``b'{"result":3}'``.  One that says
that nothing was executed (busy, going away) is not kept: the key is free
again, and who has joined begins anew.

Whose key.  Kept by endpoint and user, so that nobody gets at the results of
others by their keys.  Where there is no user, or one that is no string or
number (objects do not compare over processes), nobody else can be told
apart: there the key alone is the secret.  So keys have 16 characters at
least, and should be random ones.

How long.  120 s from the end of the call, in 10 000 entries; a store that
is full refuses (busy, not executed) rather than forget, for what it forgot
would run twice.  Results past 32 MiB together are dropped; who asks for
such a one gets an error that says that it has run.  ``memory_keys`` has the
store of one process, which ends with it; ``redis_keys`` that of several,
which a crash between the effect and the reply does not empty.
"""
from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

import msgspec

from .errors import Busy, InvalidParams
from .messages import NO_ID

if TYPE_CHECKING:
    from .messages import Call

__all__ = ['Claim', 'Conflict', 'Heard', 'Key', 'KeyStore', 'Once', 'Said',
           'begin_once', 'check_key', 'key_of', 'reply_of', 'with_key']

MIN_KEY_CHARS = 16
MAX_KEY_CHARS = 128
#: From the end of a call.
KEEP_S = 120.0
#: From its first sending: so long a client may send it again.  A call that
#: has been sent is settled later, so there is some room between the two.
RESEND_WITHIN_S = 100.0
MAX_ENTRIES = 10_000
#: Of one user, and of all that have none together: so nobody can fill it.
MAX_ENTRIES_OF_USER = 1_000
MAX_ENTRIES_OF_NOBODY = 5_000
MAX_BYTES = 32 << 20

Heard: TypeAlias = Callable[['bytes | None'], None]


class Conflict(InvalidParams):
    """The key stands for another call."""

    default_message = ('this idempotencyKey was used for a call of another '
                       'method or with other params')

    def __init__(self) -> None:
        super().__init__(None, {'executed': False})


class Key(NamedTuple):
    """``Key('user|/api|str:ada', '8c1f...')``: whose, and their word."""

    scope: str
    text: str

    @property
    def is_nobodys(self) -> bool:
        """Whether the scope is shared by all who have no name."""
        return self.scope.startswith('nobody|')


class _Meta(msgspec.Struct):
    idempotencyKey: str | None = None


_decode_meta = msgspec.json.Decoder(_Meta).decode


def check_key(text: Any) -> str:
    """Return ``text`` if it can be a key; raises ValueError."""
    if not isinstance(text, str) or not (
            MIN_KEY_CHARS <= len(text) <= MAX_KEY_CHARS):
        raise ValueError(f'an idempotency key is a string of {MIN_KEY_CHARS} '
                         f'to {MAX_KEY_CHARS} characters: a random one')
    return text


def key_of(call: Call) -> Key | None:
    """The key of a call that has ``_meta``, or None.

    None for a notification, too: who cannot hear of the effect does not
    know when to repeat it.  Raises InvalidParams for what is no key.
    """
    try:
        text = _decode_meta(call.meta).idempotencyKey
        if text is None or call.id is NO_ID:
            return None
        return Key(_scope_of(call.connection), check_key(text))
    except (msgspec.MsgspecError, ValueError) as error:
        raise InvalidParams(f'_meta: {error}', {'executed': False}) from None


def _scope_of(connection: Any) -> str:
    path = connection.endpoint.url_path
    for name in (connection.user, connection.handshake.login):
        if type(name) in (str, int) and name != '':
            return f'user|{path}|{type(name).__name__}:{name}'
    return f'nobody|{path}'


def with_key(text: bytes, key: str) -> bytes:
    """A JSON-RPC request, ``{...}``, with its key in ``_meta``."""
    return b'%s,"_meta":{"idempotencyKey":%s}}' % (
        text[:-1], msgspec.json.encode(key))


def fingerprint_of(call: Call) -> str:
    """What a repeated call must have in common with the first.

    The method, and the text of the params as it stands: a client sends
    again what it has sent.
    """
    digest = hashlib.blake2b(call.name.encode(), digest_size=16)
    digest.update(b'\0')
    digest.update(call.params or b'')
    return digest.hexdigest()


# -- outcomes ----------------------------------------------------------------


class _Reply(msgspec.Struct):
    result: msgspec.Raw = msgspec.Raw()
    error: msgspec.Raw = msgspec.Raw()


class _Error(msgspec.Struct):
    data: Any = None


_decode_reply = msgspec.json.Decoder(_Reply).decode
_decode_error = msgspec.json.Decoder(_Error).decode

#: Stands for a result that was too much to keep.
DROPPED = (b'{"error":{"code":-32000,"message":"the call has run; its result '
           b'is not kept any more"}}')


def outcome_of(text: bytes) -> bytes | None:
    """The outcome in the text of a JSON-RPC reply; None: not executed."""
    reply = _decode_reply(text)
    if not reply.error:
        return b'{"result":%s}' % bytes(reply.result)
    data = _decode_error(reply.error).data
    if isinstance(data, dict) and data.get('executed') is False:
        return None
    return b'{"error":%s}' % bytes(reply.error)


def reply_of(id: Any, outcome: bytes) -> bytes:
    """The JSON-RPC reply to ``id``: ``{"jsonrpc":"2.0","id":1,...}``."""
    return b'{"jsonrpc":"2.0","id":%s,%s' % (
        msgspec.json.encode(id), outcome[1:])


# -- stores ------------------------------------------------------------------


class Claim(NamedTuple):
    """What :meth:`KeyStore.ask` says.

    ``is_ours``      nobody has had this key: run the call, then settle
    ``fingerprint``  of the call that has it
    ``outcome``      what came of that; None: ``watch``
    """

    is_ours: bool
    fingerprint: str
    outcome: bytes | None = None


Said: TypeAlias = Callable[['Claim | Busy'], None]


class KeyStore(Protocol):
    """Which keys were used, and what came of them.  Any thread.

    ``redis_keys`` has one for several processes; the hub holds it.
    Nothing here waits, nor raises.
    """

    #: ``ask`` says it later, on a thread of the store's
    is_shared: bool

    def start(self) -> None:
        """The engine starts."""

    def drain(self) -> None:
        """It will stop: ``heard(None)`` for those who wait for others."""

    def stop(self, timeout_s: float) -> None:
        """The engine has stopped; what is left to do may take so long."""

    def ask(self, key: Key, fingerprint: str, said: Said) -> None:
        """Take a key, in one step, or say who has it.

        ``said(claim)``, once, at the latest after 2 s; ``said(Busy(...))``
        where there is no room, or no store.  In the order of the asking.
        """

    def settle(self, key: Key, outcome: bytes | None) -> None:
        """The call of this key has ended; to be called once a claim.

        The outcome is kept for ``KEEP_S`` and told to all who watch.  None:
        it was not executed; they hear that, and the key is free again.
        """

    def watch(self, key: Key, heard: Heard) -> None:
        """Call ``heard(outcome)`` once: at once if it is settled.

        On any thread; ``heard`` does not wait.  ``heard(None)``: the key
        is free again.
        """

    def unwatch(self, key: Key, heard: Heard) -> None:
        """Forget one that watches; nothing if it does not any more."""

    def hear(self, text: bytes) -> None:
        """What another process's store has told all."""


# -- one call ----------------------------------------------------------------


class Once:
    """Settles the key when its call is answered: stands at ``call.batch``.

    There ``peer.complete`` gives every reply, so that calls without a key
    pay nothing.  ``batch``: where a batch's own collector is.
    """

    __slots__ = ('_batch', '_key', '_store')

    def __init__(self, store: KeyStore, key: Key, batch: Any) -> None:
        self._store = store
        self._key = key
        self._batch = batch

    def add(self, text: bytes) -> bytes | None:
        """Take the reply; what is to be sent now, as a batch says."""
        self._store.settle(self._key, outcome_of(text))
        if self._batch is None:
            return text
        whole: bytes | None = self._batch.add(text)
        return whole

    def forget(self) -> None:
        """The connection went before the call began."""
        self._store.settle(self._key, None)


def begin_once(store: KeyStore, key: Key, call: Call,
               decided: Callable[[bool], object], heard: Heard,
               refused: Callable[[BaseException], None]) -> None:
    """Find out what is to be done with a call, as ``KeyStore.ask`` does.

    ``decided(begins)``  once: True: nobody has had the key, the call is to
                         be run, and its reply will settle it
    ``heard(outcome)``   else, once: that of the call that had it; None:
                         begin anew
    ``refused(error)``   or this: Conflict, Busy
    """
    fingerprint = fingerprint_of(call)

    def said(claim: Claim | Busy) -> None:
        begins = False
        if isinstance(claim, Busy):
            refused(claim)
        elif claim.is_ours:
            call.batch = Once(store, key, call.batch)
            begins = True
        elif claim.fingerprint != fingerprint:
            refused(Conflict())
        elif claim.outcome is not None:
            heard(claim.outcome)
        else:
            store.watch(key, heard)
        decided(begins)

    store.ask(key, fingerprint, said)
