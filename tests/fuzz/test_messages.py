"""Arbitrary messages: to the decoder of the dialects, and to a live peer.

Nothing raises, nothing hangs, no id is answered twice, each call that is
right is answered once, and what is no call is answered under no id of
another.
"""
from __future__ import annotations

import itertools
import json
import random
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

import cp_wsrpc
from cp_wsrpc.decoding import decode
from cp_wsrpc.dialects import DIALECTS
from cp_wsrpc.messages import NO_ID, Bad, Batch, Call, Failure, Result

from ..rawpeer import TEXT, RawPeer, client_frame
from ..serving import Server, serving
from .seeds import FULL_CASES, cases, told

#: No message may take longer to be read, in seconds of CPU.
MAX_CASE_S = 0.1
#: Sent to the live peer in one segment.
MESSAGES_A_ROUND = 100
WAIT_S = 20.0

#: JSON as text: some of it is none, or not to be represented.
SCALARS = [
    'null', 'true', 'false', '0', '-0', '1', '-1', '1.5', '1e999', '-1e999',
    '1e-400', '9007199254740993', '18446744073709551616', '9' * 5000,
    '1' + '0' * 400, 'NaN', 'Infinity', '01', '+1', '0x10', '""', '"a"',
    '"\\u0000"', '"\\ud800"', '"\\udfff\\ud800"', '"\\ud834\\udd1e"',
    '"\\uD83D\\uDE00 \\u202e"', '"__proto__"', '"ä€𝄞"', '"\x7f"', '"\\x"',
    '"' + 'k' * 65 + '"', '"\n"', "'a'", 'undefined', '[]', '{}', '[[]]',
    '{"__proto__":{}}', '{"a":1,"a":2}', '[1,]', '{"a"}', '/**/1', '']
#: What of them is an id, and may come more than once.
NOT_OURS = (None, 0, 1, -1, '', 'a', '\0', '𝄞', '😀 \u202e', '__proto__',
            'ä€𝄞', '\x7f')
NAMES = ['echo', 'boom', 'worker', 'slow', 'seat', 'seat.turn', 'init',
         'seat.init', 'nothing', '', 'rpc.ping', 'rpc.subscribe',
         'rpc.unsubscribe', 'rpc.publish', 'rpc.on', 'rpc.off', 'rpc.x',
         '$/cancelRequest', '$/x', '__class__', 'echo.__func__', '_x',
         'index', 'ECHO', 'echo\\u0000', '\\ud800', 'ｅcho']
MEMBERS = ['jsonrpc', 'method', 'params', 'id', 'result', 'error', '_meta',
           'serial', 'call', 'arguments', 'data', 'type', 'notification',
           '__proto__', 'constructor', '']


# -- what is sent -----------------------------------------------------------

def make_value(rng: random.Random, depth: int = 0) -> str:
    kind = rng.random()
    if depth > 3 or kind < .7:
        return rng.choice(SCALARS)
    items = [make_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    if kind < .85:
        return f'[{",".join(items)}]'
    return as_object((rng.choice(MEMBERS), item) for item in items)


def as_object(members: Iterable[tuple[str, str]]) -> str:
    return '{' + ','.join(f'"{k}":{v}' for k, v in members) + '}'


def make_right(rng: random.Random, id: str) -> str:
    """A call as any dialect writes it; it is answered under ``id``."""
    name = f'"{rng.choice(("echo", "boom", "worker", "nothing"))}"'
    params = rng.choice(('null', '[]', '[1]', '{"a":2}', '[1,2]'))
    dialect = rng.randrange(3)
    if dialect == 1:
        return f'{{"serial":{id},"call":{name},"arguments":{params}}}'
    if dialect == 2:
        return f'{{"id":{id},"method":{name},"params":{params}}}'
    if params == 'null':
        return f'{{"jsonrpc":"2.0","method":{name},"id":{id}}}'
    return (f'{{"jsonrpc":"2.0","method":{name},"params":{params},'
            f'"id":{id}}}')


def make_wrong(rng: random.Random, id: str) -> str:
    """A message with any members, most of them with sense."""
    members = {}
    if rng.random() < .6:
        members['jsonrpc'] = '"2.0"'
    for name in rng.sample(MEMBERS, rng.randrange(1, 6)):
        members[name] = make_value(rng)
    if rng.random() < .8:
        members[rng.choice(('method', 'call'))] = f'"{rng.choice(NAMES)}"'
    if rng.random() < .8:
        members[rng.choice(('id', 'id', 'serial'))] = id
    text = as_object(members.items())
    return damaged(rng, text) if rng.random() < .2 else text


def damaged(rng: random.Random, text: str) -> str:
    """Some characters lost, doubled or replaced; ids stay theirs."""
    chars = list(text)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(chars))
        if not chars[at].isdigit():
            chars[at] = rng.choice((
                '', chars[at] * 2, rng.choice('{}[]",:-\\a')))
    return ''.join(chars)


def make_message(rng: random.Random, ids: Iterator[str],
                 ) -> tuple[str, list[str]]:
    """(a text, the ids that must be answered once)."""
    kind = rng.random()
    if kind < .3:
        id = next(ids)
        return make_right(rng, id), [id]
    if kind < .8:
        return make_wrong(rng, next(ids)), []
    if kind < .9:
        items, wanted = [], []
        for _ in range(rng.randrange(6)):
            id = next(ids)
            if rng.random() < .5:
                items.append(
                    f'{{"jsonrpc":"2.0","method":"echo","id":{id}}}')
                wanted.append(id)
            else:
                # Without ids of wrong items that could be read two ways.
                items.append(rng.choice((
                    '1', 'null', '[]', '{}', '"a"', '{"jsonrpc":"2.0"}',
                    '{"jsonrpc":"2.0","method":"echo"}',
                    f'{{"jsonrpc":"2.0","id":{id}}}',
                    f'{{"jsonrpc":"2.0","id":{id},"result":1}}')))
        return f'[{",".join(items)}]', wanted
    return make_value(rng), []


def as_id(digits: str) -> int | str:
    # Python refuses to read more than 4 300.
    return int(digits) if len(digits) < 20 else digits


def fresh_ids(rng: random.Random) -> Iterator[str]:
    """Ids that come once, as JSON: safe integers and strings."""
    for number in itertools.count(3, 2):
        yield str(number) if rng.random() < .8 else f'"s{number}"'


# -- the decoder ------------------------------------------------------------

def check_decoded(text: bytes) -> None:
    began = time.thread_time()
    message = decode(text)
    assert time.thread_time() - began < MAX_CASE_S, 'a hang'
    items = message.items if isinstance(message, Batch) else [message]
    for item in items:
        assert type(item) in (Call, Result, Failure, Bad)
        if type(item) is Bad:
            dialect = item.dialect or DIALECTS['jsonrpc']
            json.loads(dialect.encode_failure(
                item.id, item.error.code, item.error.message,
                item.error.data))
        elif type(item) is Call:
            assert type(item.name) is str
            assert item.id is NO_ID or type(item.id) in (
                int, str, type(None))
            if item.params:
                json.loads(bytes(item.params), parse_int=str)


@pytest.mark.timeout(3600)
def test_the_decoder_takes_arbitrary_texts() -> None:
    for seed in cases(10_000):
        rng = random.Random(seed)
        text, _ = make_message(rng, fresh_ids(rng))
        with told(seed):
            check_decoded(text.encode())


@pytest.mark.timeout(3600)
def test_the_decoder_understands_what_is_right() -> None:
    for seed in cases(2_000, full=100_000):
        rng = random.Random(seed)
        id = next(fresh_ids(rng))
        text = make_right(rng, id)
        with told(seed):
            call = decode(text.encode())
            assert type(call) is Call
            asked = json.loads(text)
            assert call.id == json.loads(id)
            assert call.name == (asked.get('method') or asked['call'])
            params = asked.get('params', asked.get('arguments'))
            assert (json.loads(bytes(call.params)) if call.params
                    else None) == params


@pytest.mark.parametrize('text', [
    b'[' * 100_000, b'{"a":' * 50_000, b'[' * 100_000 + b']' * 100_000,
    b'{"jsonrpc":"2.0","method":"a","params":' + b'[' * 5000 + b']' * 5000
    + b',"id":1}',
    b'"' * 100_000, b'\\' * 100_000, b'{"id":"' + b'\\"' * 100_000,
    b'9' * 100_000, b'[' + b'9' * 5000 + b']', b'[' + b'1,' * 99 + b'1]',
    b'[' + b'{"a":1},' * 99_999 + b'1]', b' ' * 1_000_000 + b'[',
    b'\xef\xbb\xbf{}', b'{"id":1,' * 3, b'{"id":' + b'-' * 100_000])
def test_the_decoder_does_not_hang(text: bytes) -> None:
    check_decoded(text)


# -- a live peer ------------------------------------------------------------

class Seat(cp_wsrpc.Route):
    def init(self, **kwargs: Any) -> Any:
        return kwargs

    def turn(self, *args: Any) -> Any:
        return args


class Api:
    seat = Seat

    @cp_wsrpc.expose
    @cp_wsrpc.nonblocking
    def echo(self, *args: Any, **kwargs: Any) -> Any:
        return [args, kwargs]

    @cp_wsrpc.expose
    def boom(self, *args: Any, **kwargs: Any) -> Any:
        raise KeyError(args)

    @cp_wsrpc.expose
    def worker(self, a: int = 0, *args: int) -> Any:
        return a

    @cp_wsrpc.expose
    async def slow(self, **kwargs: Any) -> Any:
        return kwargs


class Root:
    api = Api()


@pytest.fixture(scope='module')
def server() -> Iterator[Server]:
    with serving(Root(), {'/api': {
            'tools.wsrpc.on': True, 'tools.wsrpc.subscribe': ['*'],
            'tools.wsrpc.publish': ['*']}}) as server:
        yield server


class Session:
    """A connection, its ids, and how often each has been answered."""

    def __init__(self, peer: RawPeer, rng: random.Random) -> None:
        self.peer = peer
        self.rng = rng
        self.ids = fresh_ids(rng)
        self.answered: Counter[Any] = Counter()

    def run_round(self) -> None:
        """Send many messages at once; wait for those that are calls."""
        wanted: set[Any] = set()
        frames = []
        for _ in range(MESSAGES_A_ROUND):
            text, must = make_message(self.rng, self.ids)
            wanted.update(json.loads(id) for id in must)
            frames.append(client_frame(TEXT, text.encode()))
        end = next(self.ids)
        frames.append(client_frame(TEXT, (
            f'{{"jsonrpc":"2.0","method":"rpc.ping","id":{end}}}'
        ).encode()))
        wanted.add(json.loads(end))
        self.peer.send_raw(b''.join(frames))
        self.peer.timeout_s = WAIT_S
        while any(not self.answered[id] for id in wanted):
            self.take(json.loads(self.peer.recv_text(), parse_int=as_id))
        more = {id: times for id, times in self.answered.items()
                if times > 1 and id not in NOT_OURS}
        assert not more, f'answered more than once: {more}'

    def take(self, message: Any) -> None:
        for item in message if isinstance(message, list) else [message]:
            id = item.get('id', item.get('serial'))
            if {'result', 'error'} & set(item) or item.get('type') in (
                    'callback', 'error'):
                self.answered[id] += 1


@pytest.mark.timeout(3600)
def test_a_live_peer_answers_each_call_once(server: Server) -> None:
    with server.peer('/api') as victim:
        for seed in cases(20, full=FULL_CASES // 3 // MESSAGES_A_ROUND):
            with told(seed), server.peer('/api') as peer:
                session = Session(peer, random.Random(seed))
                for _ in range(3):
                    session.run_round()
                assert victim.call('rpc.ping', [seed]) == [seed]
    assert not server.logged('closed after a fault')
    assert not server.logged('failed')
