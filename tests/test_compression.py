"""permessage-deflate: offers in, agreements out; bytes there and back.

The other end is zlib itself, or ``websockets``' client over a socket.
"""
from __future__ import annotations

import itertools
import json
import random
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable

import cherrypy
import pytest
from websockets.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory,
    PerMessageDeflate,
)
from websockets.frames import Frame, Opcode
from websockets.sync.client import connect

import cp_wsrpc
from cp_wsrpc import compression
from cp_wsrpc.client_handshake import (
    Answer,
    HandshakeError,
    agreed_compression,
)
from cp_wsrpc.compression import MIN_BYTES, Inflater, negotiate
from cp_wsrpc.frame_rules import (
    BINARY,
    CONTINUATION,
    TEXT,
    ProtocolFailure,
)
from cp_wsrpc.frames import frame, text_frame
from cp_wsrpc.framing import FrameStream

from .attack import in_time
from .rawpeer import RawPeer, client_frame
from .serving import Server, serving, wait_until

OURS = 'permessage-deflate; server_no_context_takeover'
BOTH = OURS + '; client_no_context_takeover'
TAIL = b'\x00\x00\xff\xff'
LIMIT = 1 << 20

WORDS = ' '.join(random.Random(1).choices(
    ['alpha', 'beta', 'gamma', 'delta', 'ünïcode'], k=2000)).encode()
NOISE = random.Random(2).randbytes(LIMIT)


def deflated(payload: bytes, *, level: int = 6, bits: int = 15,
             memory: int = 8, strategy: int = zlib.Z_DEFAULT_STRATEGY,
             ) -> bytes:
    codec = zlib.compressobj(level, zlib.DEFLATED, -bits, memory, strategy)
    return (codec.compress(payload) + codec.flush(zlib.Z_SYNC_FLUSH))[:-4]


def finished(payload: bytes) -> bytes:
    """A stream that ends with its message (RFC 7692 7.2.3.4)."""
    codec = zlib.compressobj(wbits=-15)
    return codec.compress(payload) + codec.flush() + b'\x00'


def bomb(mebibytes: int) -> bytes:
    """So many MiB of zeros, in a kB each; made in no time."""
    codec = zlib.compressobj(9, wbits=-15)
    head = codec.compress(b'') + codec.flush(zlib.Z_FULL_FLUSH)
    one = codec.compress(bytes(1 << 20)) + codec.flush(zlib.Z_FULL_FLUSH)
    return (head + one * mebibytes)[:-4]


def inflate(data: bytes, bits: int = 15) -> bytes:
    return zlib.decompressobj(-bits).decompress(data + TAIL)


def read_frame(data: bytes, bits: int = 15) -> tuple[int, bytes]:
    """(first byte, payload, inflated if it is compressed) of one frame."""
    start = {126: 4, 127: 10}.get(data[1], 2)
    payload = data[start:]
    return data[0], inflate(payload, bits) if data[0] & 0x40 else payload


# -- negotiation ----------------------------------------------------------

@pytest.mark.parametrize(('headers', 'answer'), [
    (['permessage-deflate'], BOTH),
    (['permessage-deflate; client_max_window_bits'], BOTH),
    (['permessage-deflate; client_max_window_bits=10'],
     BOTH + '; client_max_window_bits=10'),
    (['permessage-deflate; client_max_window_bits=8'],
     BOTH + '; client_max_window_bits=8'),
    (['permessage-deflate; client_max_window_bits="15"'],
     BOTH + '; client_max_window_bits=15'),
    (['permessage-deflate; server_max_window_bits=9'],
     BOTH + '; server_max_window_bits=9'),
    (['permessage-deflate; client_no_context_takeover'], BOTH),
    (['permessage-deflate; server_no_context_takeover'], BOTH),
    (['x-webkit-deflate-frame, permessage-deflate'], BOTH),
    (['foo; bar=1', 'permessage-deflate'], BOTH),
    # What cannot be taken is passed over, in favour of the next offer.
    (['permessage-deflate; server_max_window_bits=8, permessage-deflate'],
     BOTH),
    (['permessage-deflate; server_max_window_bits=16',
      'permessage-deflate; server_max_window_bits=10'],
     BOTH + '; server_max_window_bits=9'),
    (['permessage-deflate; a=b, permessage-deflate; '
      'server_max_window_bits=9, permessage-deflate'],
     BOTH + '; server_max_window_bits=9'),
])
def test_the_first_offer_that_can_be_taken_is(headers, answer):
    agreed = negotiate(headers)
    assert agreed is not None
    assert agreed.answer == answer
    assert not agreed.keep_context


DECLINED = [
    '',
    'constructor, __proto__',
    'permessage-deflate; constructor; __proto__',
    'permessage-deflate-2',
    'Permessage-Deflate',
    'permessage-deflate; server_max_window_bits',
    'permessage-deflate; client_no_context_takeover=1',
    'permessage-deflate; client_max_window_bits; client_max_window_bits',
    'permessage-deflate; client_max_window_bits="1\\5',
    'permessage-deflate; client_max_window_bits=' + '1' * 500,
    'permessage-deflate; =; ==',
    'permessage-deflate;',
    ';,;',
    ', , ,',
    '"',
    '\xff\xfe\x00',
    'permessage-deflate, ' + 'a, ' * 1000 + 'b',
    *(f'permessage-deflate; {end}_max_window_bits={bits}'
      for end in ('server', 'client')
      for bits in ('7', '16', '0', '-9', '09', '9.0', 'x', '""')),
    'permessage-deflate; server_max_window_bits=8',
]


def test_whatever_windows_are_asked_for_there_are_three():
    framers = {}
    for bits in range(9, 16):
        agreed = negotiate(
            [f'permessage-deflate; server_max_window_bits={bits}'])
        assert agreed.framer.bits <= bits
        assert f'server_max_window_bits={agreed.framer.bits}' \
            in agreed.answer
        framers[agreed.framer] = bits
    assert sorted(framers.values()) == [11, 14, 15]


@pytest.mark.parametrize('header', DECLINED)
def test_other_offers_and_garbage_are_declined(header):
    assert negotiate([header]) is None


def test_no_offer_is_no_agreement():
    assert negotiate([]) is None


@pytest.mark.parametrize(('offer', 'keeps'), [
    ('permessage-deflate', True),
    ('permessage-deflate; client_no_context_takeover', False),
])
def test_a_client_may_be_left_its_context(offer, keeps):
    agreed = negotiate([offer], keep_context=True)
    assert agreed is not None
    assert agreed.answer == (OURS if keeps else BOTH)
    assert agreed.keep_context is keeps


def test_connections_share_all_but_the_contexts():
    first, second = (negotiate(['permessage-deflate']) for _ in range(2))
    assert first.framer is second.framer
    assert first.inflater() is second.inflater()
    kept = negotiate(['permessage-deflate'], keep_context=True)
    assert kept.inflater() is not kept.inflater()


def test_window_sizes_have_framers_of_their_own():
    wide, narrow = (negotiate([f'permessage-deflate{rest}']) for rest in
                    ('', '; server_max_window_bits=9'))
    assert wide.framer is not narrow.framer


@pytest.mark.parametrize(('headers', 'bits'), [
    (['permessage-deflate; server_no_context_takeover'], 15),
    ([BOTH], 15),
    ([BOTH + '; client_max_window_bits=9; server_max_window_bits=9'], 9),
])
def test_a_client_takes_an_answer_to_its_offer(headers, bits):
    agreed = compression.check_answer(headers)
    assert agreed is not None
    assert (agreed.bits, agreed.framer.bits) == (bits, bits)


def test_a_client_takes_no_answer():
    assert compression.check_answer([]) is None


@pytest.mark.parametrize('headers', [
    ['foo'],
    ['permessage-deflate'],             # with a context of the server's
    [BOTH, BOTH],
    [BOTH, 'foo'],
    [BOTH + '; client_max_window_bits'],
    [BOTH + '; client_max_window_bits=16'],
    [BOTH + '; constructor'],
    ['constructor; __proto__'],
    ['"'],
])
def test_a_client_refuses_what_it_did_not_offer(headers):
    with pytest.raises(ValueError, match='not offered'):
        compression.check_answer(headers)


def test_the_offer_is_one_that_we_take():
    assert negotiate([compression.OFFER]).answer == BOTH


# -- inflating ------------------------------------------------------------

@pytest.mark.parametrize('bits', range(9, 16))
def test_any_window_is_inflated(bits):
    assert Inflater(bits).inflate(
        deflated(WORDS, bits=bits), LIMIT) == WORDS


def test_the_smallest_window_is_inflated():
    # zlib does not deflate with 8 bits: here are codes without distances.
    data = deflated(WORDS, bits=9, strategy=zlib.Z_HUFFMAN_ONLY)
    assert Inflater(8).inflate(data, LIMIT) == WORDS


@pytest.mark.parametrize('size', [1, 2, 257, 258, 259, 2044, 65535, LIMIT])
@pytest.mark.parametrize('make', [bytes, NOISE.__getitem__,
                                  (WORDS * 100).__getitem__])
@pytest.mark.parametrize('pack', [deflated, finished])
def test_the_limit_is_kept_to_the_byte(size, make, pack):
    payload = make(size) if make is bytes else make(slice(size))
    data = pack(payload)
    assert Inflater(15).inflate(data, size) == payload
    if size > 1:
        with pytest.raises(ProtocolFailure) as caught:
            Inflater(15).inflate(data, size - 1)
        assert caught.value.code == 1009


def test_a_bomb_is_not_inflated_past_the_limit():
    data = bomb(1024)
    assert len(data) < 1.1 * LIMIT
    tracemalloc.start()
    began = time.thread_time()
    try:
        with pytest.raises(ProtocolFailure) as caught:
            Inflater(15).inflate(data, LIMIT)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert caught.value.code == 1009
    assert peak < 4 * LIMIT
    assert time.thread_time() - began < 0.1


@pytest.mark.parametrize('data', [
    b'\xff\xff', b'\x07', b'\x06' * 20, NOISE[:50], NOISE[:5000],
    deflated(b'hello')[1:],
    # a distance that reaches back to before the beginning
    deflated(WORDS, bits=15)[:200] + deflated(WORDS[::-1])[50:],
    finished(b'a') + deflated(b'b'),
])
def test_what_is_no_deflate_stream_is_a_protocol_error(data):
    with pytest.raises(ProtocolFailure) as caught:
        Inflater(15).inflate(data, LIMIT)
    assert caught.value.code == 1002


def test_a_kept_context_goes_from_message_to_message():
    codec = zlib.compressobj(wbits=-15)
    inflater = Inflater(15, keep_context=True)
    sizes = []
    for _ in range(3):
        data = codec.compress(NOISE[:2000]) + codec.flush(zlib.Z_SYNC_FLUSH)
        sizes.append(len(data))
        assert inflater.inflate(data[:-4], LIMIT) == NOISE[:2000]
    assert sizes[1] < 100 < 2000 < sizes[0]


def test_a_kept_context_begins_anew_after_a_streams_end():
    inflater = Inflater(15, keep_context=True)
    for payload in (b'one', b'two', WORDS):
        assert inflater.inflate(finished(payload), LIMIT) == payload


@pytest.mark.parametrize('seed', range(5))
def test_an_empty_payload_is_an_empty_message_and_spoils_no_context(seed):
    rng = random.Random(seed)
    codec = zlib.compressobj(wbits=-15)
    oracle = PerMessageDeflate(False, False, 15, 15)
    inflater = Inflater(15, keep_context=True)
    for _ in range(40):
        payload = rng.choice([b'', b'', b'x', WORDS, NOISE[:2500]])
        data = codec.compress(payload) + codec.flush(zlib.Z_SYNC_FLUSH)
        assert oracle.decode(Frame(Opcode.BINARY, data[:-4], rsv1=True)
                             ).data == payload
        if not payload and rng.random() < .5:
            # Not as RFC 7692 7.2.3.6 has it, which the oracle can read.
            assert inflater.inflate(b'', LIMIT) == b''
        assert inflater.inflate(data[:-4], LIMIT) == payload


# -- with the frames ------------------------------------------------------

def feed(*frames: bytes, limit: int = LIMIT, keep_context: bool = False):
    stream = FrameStream(inflater=Inflater(15, keep_context),
                         max_message_bytes=limit)
    found = [item if isinstance(item, bytes) else item.data
             for data in frames for item in stream.feed(data)]
    return found, stream.failure and stream.failure.code


def client_frames(data: bytes, count: int) -> list[bytes]:
    """A compressed text in that many frames."""
    step = -(-len(data) // count)
    pieces = [data[at:at + step] for at in range(0, len(data), step)]
    return [frame(CONTINUATION if at else TEXT, piece, mask=True,
                  fin=at == len(pieces) - 1, rsv1=not at)
            for at, piece in enumerate(pieces)]


@pytest.mark.parametrize('count', [1, 2, 7, 100])
def test_the_limit_is_over_all_fragments(count):
    frames = client_frames(deflated(WORDS), count)
    assert feed(*frames, limit=len(WORDS)) == ([WORDS], None)
    assert feed(*frames, limit=len(WORDS) - 1) == ([], 1009)


@pytest.mark.parametrize('strategy', [zlib.Z_DEFAULT_STRATEGY, zlib.Z_FIXED,
                                      zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE])
@pytest.mark.parametrize('size', [1, 64, 70000])
def test_what_grows_when_deflated_is_accepted_at_the_limit(strategy, size):
    # 144-255 take 9 bits with the fixed codes.
    payload = NOISE[:size] if strategy != zlib.Z_FIXED else bytes(
        random.Random(size).choices(range(144, 256), k=size))
    for level, bits, memory in itertools.product([0, 1, 9], [9, 15], [1, 9]):
        data = deflated(payload, level=level, bits=bits, memory=memory,
                        strategy=strategy)
        assert len(data) > size
        assert feed(frame(BINARY, data, mask=True, rsv1=True),
                    limit=size) == ([payload], None)


def test_more_than_can_be_honest_is_not_held():
    stream = FrameStream(inflater=Inflater(15))
    head = frame(BINARY, bytes(LIMIT + LIMIT // 7 + 65), mask=True,
                 rsv1=True)[:14]
    assert stream.feed(head) == []
    assert stream.failure.code == 1009


def test_plain_messages_have_the_plain_limit():
    assert feed(frame(TEXT, b'a' * 1001, mask=True), limit=1000
                ) == ([], 1009)


def test_messages_of_both_kinds_may_alternate():
    found, failure = feed(
        frame(TEXT, deflated(b'one'), mask=True, rsv1=True),
        frame(TEXT, b'two', mask=True),
        frame(BINARY, deflated(b'\xff'), mask=True, rsv1=True))
    assert (found, failure) == ([b'one', b'two', b'\xff'], None)


def test_an_inflated_text_is_utf8():
    assert feed(frame(TEXT, deflated(b'\xff'), mask=True, rsv1=True)
                ) == ([], 1007)


def test_a_feed_inflates_about_a_mebibyte():
    one = frame(TEXT, deflated(b'a' * 400_000), mask=True, rsv1=True)
    stream = FrameStream(inflater=Inflater(15))
    counts = [len(stream.feed(one * 10 + frame(TEXT, b'z', mask=True)))]
    while stream.has_more:
        counts.append(len(stream.feed(b'')))
    assert counts == [3, 3, 3, 2]
    assert not stream.unfinished
    assert stream.feed(one + one[:9]) != []
    assert stream.unfinished and not stream.has_more


def test_nothing_is_left_over_after_the_end():
    one = frame(TEXT, deflated(b'a' * LIMIT), mask=True, rsv1=True)
    stream = FrameStream(inflater=Inflater(15))
    assert len(stream.feed(one + frame(TEXT, b'no'))) == 1
    assert stream.has_more
    assert stream.feed(b'') == []
    assert stream.failure.code == 1002
    assert not stream.has_more


# -- deflating ------------------------------------------------------------

@pytest.fixture(params=range(9, 16))
def framer(request):
    return compression._DEFLATERS[request.param]


@pytest.mark.parametrize('payload', [
    WORDS[:MIN_BYTES], WORDS, WORDS * 20, bytes(65535), bytes(65536)])
def test_a_message_is_deflated_with_its_window(framer, payload):
    for first, data in ((0xc1, framer.text_frame(payload)),
                        (0xc2, framer.frame(BINARY, payload)),
                        (0xc2, b''.join(framer.frame_parts(BINARY,
                                                           payload)))):
        assert len(data) < len(payload)
        assert read_frame(data, framer.bits) == (first, payload)


@pytest.mark.parametrize('payload', [
    b'', bytes(MIN_BYTES - 1), NOISE[:MIN_BYTES], NOISE[:100000]])
def test_short_and_incompressible_messages_are_left_alone(framer, payload):
    assert framer.frame(BINARY, payload) == frame(BINARY, payload)
    assert framer.text_frame(payload) == text_frame(payload)
    assert b''.join(framer.frame_parts(BINARY, payload)) == frame(
        BINARY, payload)


def test_a_client_masks_what_it_deflates(framer):
    data = framer.frame(TEXT, WORDS, mask=True)
    stream = FrameStream(inflater=Inflater(framer.bits))
    assert stream.feed(data) == [WORDS]


def test_one_framer_serves_many_threads(framer):
    payloads = [WORDS[at:] for at in range(8)]
    failures = []

    def run(payload: bytes) -> None:
        for _ in range(30):
            if read_frame(framer.text_frame(payload),
                          framer.bits)[1] != payload:
                failures.append(payload)

    threads = [threading.Thread(target=run, args=(payload,))
               for payload in payloads]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert not failures


# -- over a socket --------------------------------------------------------

class Echo(cp_wsrpc.WebSocket):
    def received_message(self, message):
        self.send(message.data, message.is_binary)


class Slow(cp_wsrpc.WebSocket):
    gate = threading.Event()

    def received_message(self, message):
        self.gate.wait(10)
        self.send(message.data[:5])


class Api:
    @cp_wsrpc.expose
    def double(self, text: str) -> str:
        return text * 2


class Root:
    api = Api()
    plain = Api()
    kept = Api()


ECHO = {'tools.wsrpc.on': True, 'tools.wsrpc.handler_cls': Echo}
COMPRESSED = {'tools.wsrpc.compression': True}


@pytest.fixture(scope='module')
def server():
    topics = {'tools.wsrpc.on': True, 'tools.wsrpc.subscribe': ['news']}
    with serving(Root(), {
            '/echo': ECHO | COMPRESSED, '/api': topics | COMPRESSED,
            '/plain': topics,
            '/slow': COMPRESSED | {'tools.wsrpc.on': True,
                                   'tools.wsrpc.handler_cls': Slow},
            '/kept': topics | {
                'tools.wsrpc.compression': 'client_context'}}) as server:
        yield server


def offering(server: Server, path: str, offer: str = 'permessage-deflate'
             ) -> RawPeer:
    return server.peer(path, headers={'Sec-WebSocket-Extensions': offer})


def answer_of(peer: RawPeer) -> str | None:
    assert peer.status == 101
    return peer.headers.get('sec-websocket-extensions')


def test_an_offer_is_taken_where_the_option_is_on(server):
    with offering(server, '/api') as peer:
        assert answer_of(peer) == BOTH
    with offering(server, '/kept') as peer:
        assert answer_of(peer) == OURS


def test_it_is_off_by_default(server):
    with offering(server, '/plain') as peer:
        assert answer_of(peer) is None
        peer.send_frame(TEXT, deflated(b'{}'), rsv=4)
        assert peer.recv_close() == (1002, 'reserved bits are set')


def test_a_client_that_offers_nothing_sends_and_gets_plain_frames(server):
    with server.peer('/api') as peer:
        assert answer_of(peer) is None
        text = WORDS.decode()
        assert peer.call('double', [text]) == text * 2
        assert peer.rsv == 0
        peer.send_frame(TEXT, deflated(b'{}'), rsv=4)
        assert peer.recv_close()[0] == 1002


@pytest.mark.parametrize('offer', [
    header for header in DECLINED if header.isprintable()])
def test_a_handshake_goes_on_without_an_offer_it_cannot_take(server, offer):
    with offering(server, '/api', offer) as peer:
        assert answer_of(peer) is None
        assert peer.call('double', ['a']) == 'aa'


def call_frame(text: str) -> tuple[int, bytes]:
    return TEXT, deflated(json.dumps({
        'jsonrpc': '2.0', 'id': 1, 'method': 'double',
        'params': [text]}).encode())


def test_a_call_and_its_reply_are_compressed(server):
    text = WORDS.decode()
    with offering(server, '/api') as peer:
        peer.send_frame(*call_frame(text), rsv=4)
        opcode, payload = peer.recv_frame()
        assert (opcode, peer.rsv) == (TEXT, 4)
        assert json.loads(inflate(payload))['result'] == text * 2


def test_a_bomb_is_1009_and_harms_nobody(server):
    with offering(server, '/api') as peer, server.peer('/api') as victim:
        for part in (0.5, 1.0):
            data = bomb(1000)
            at = int(len(data) * part)
            if part < 1:
                peer.send_frame(TEXT, data[:at], fin=False, rsv=4)
            else:
                peer.send_frame(CONTINUATION, data[len(data) // 2:])
        began = time.monotonic()
        assert victim.call('double', ['a']) == 'aa'
        assert time.monotonic() - began < in_time(0.5)
        assert peer.recv_close()[0] == 1009


def made_for(path: str) -> cp_wsrpc.WebSocket:
    made, = wait_until(
        lambda: [found for found in cp_wsrpc.connections(path)
                 if found.stream.inflater is not None])
    return made


def test_many_small_bombs_hold_nobody_up(server):
    # 1 kB each, 1 MiB when inflated, and not past the limit: 100 of them
    # come with one read, and take half a second.
    one = client_frame(TEXT, deflated(b' ' * LIMIT, level=9), rsv=4)
    with offering(server, '/api') as peer, server.peer('/api') as victim:
        made = made_for('/api')
        peer.send_raw(one * 100)
        wait_until(lambda: made.messages_in)
        assert victim.call('double', ['a']) == 'aa'
        assert made.messages_in < 100
        for _ in range(100):
            assert peer.recv_json()['error']['code'] == -32700


def test_bombs_wait_for_the_handler_deflated(server, gate):
    texts = [b'%d ' % n + b'a' * 100_000 for n in range(200)]
    with offering(server, '/slow') as peer, server.peer('/api') as victim:
        made = made_for('/slow')
        peer.send_raw(b''.join(client_frame(TEXT, deflated(text), rsv=4)
                               for text in texts))
        wait_until(lambda: not made._reading)
        assert victim.call('double', ['a']) == 'aa'
        assert made.messages_in < 100
        gate.set()
        for text in texts:
            _, payload = peer.recv_frame()
            assert payload == text[:5]


def test_an_independent_client_gets_back_what_it_sent(server):
    sizes = (0, 1, 127, 128, 5000, 70000, LIMIT)
    for bits in (9, 12, 15):
        extension = ClientPerMessageDeflateFactory(
            server_max_window_bits=bits, client_max_window_bits=bits)
        with connect(server.ws_url('/echo'), extensions=[extension],
                     compression=None, max_size=LIMIT) as client:
            assert client.protocol.extensions
            for size in sizes:
                for payload in (NOISE[:size], bytes(size),
                                'x' * size):
                    client.send(payload)
                    assert client.recv(10) == payload


def test_an_independent_client_may_keep_its_context(server):
    with connect(server.ws_url('/kept')) as client:
        codec = client.protocol.extensions[0]
        assert not codec.local_no_context_takeover
        for _ in range(3):
            client.send(json.dumps({
                'jsonrpc': '2.0', 'id': 1, 'method': 'double',
                'params': [WORDS.decode()]}))
            assert json.loads(client.recv(10))['result'] \
                == WORDS.decode() * 2


@pytest.fixture
def gate():
    Slow.gate.clear()
    yield Slow.gate
    Slow.gate.set()


@pytest.fixture
def deflations(monkeypatch):
    """How often anything is deflated, and with which window."""
    counted: list[int] = []
    deflate: Callable[..., bytes] = compression.Deflater._deflate

    def counting(self: compression.Deflater, payload: bytes) -> bytes:
        counted.append(self.bits)
        return deflate(self, payload)

    monkeypatch.setattr(compression.Deflater, '_deflate', counting)
    return counted


def test_a_push_is_deflated_once_for_all_sockets_of_a_window(
        server, deflations):
    offers = ['permessage-deflate'] * 4 + [
        'permessage-deflate; server_max_window_bits=9'] * 3 + ['none'] * 2
    peers = [offering(server, '/api', offer) for offer in offers]
    try:
        for peer in peers:
            peer.call('rpc.subscribe', ['news'])
        data = {'text': WORDS.decode()}
        deflations.clear()
        cp_wsrpc.publish('news', data)
        for peer, offer in zip(peers, offers, strict=True):
            _, payload = peer.recv_frame()
            assert peer.rsv == (0 if offer == 'none' else 4)
            if peer.rsv:
                payload = inflate(payload, 9 if '=9' in offer else 15)
            assert json.loads(payload)['params']['result'] == data
        assert sorted(deflations) == [9, 15]
        deflations.clear()
        cp_wsrpc.broadcast('notify', WORDS.decode(), endpoint='/api')
        for peer in peers:
            peer.recv_frame()
        assert sorted(deflations) == [9, 15]
    finally:
        for peer in peers:
            peer.drop()


def test_events_of_rpc_on_are_deflated_once_too(server, deflations):
    peers = [offering(server, '/api') for _ in range(3)]
    try:
        for peer in peers:
            peer.call('rpc.on', ['news'])
        deflations.clear()
        cp_wsrpc.publish('news', WORDS.decode())
        for peer in peers:
            _, payload = peer.recv_frame()
            assert json.loads(inflate(payload)) == {
                'notification': 'news', 'params': [WORDS.decode()]}
        assert deflations == [15]
    finally:
        for peer in peers:
            peer.drop()


def test_raw_pushes_to_plain_handlers_are_deflated_once(server, deflations):
    peers = [offering(server, '/echo') for _ in range(3)]
    try:
        for peer in peers:
            peer.send_text('here')
            assert peer.recv_text() == 'here'
        cherrypy.engine.publish('websocket-broadcast', WORDS.decode())
        for peer in peers:
            opcode, payload = peer.recv_frame()
            assert (opcode, peer.rsv, inflate(payload)) == (TEXT, 4, WORDS)
        assert deflations == [15]
    finally:
        for peer in peers:
            peer.drop()


def test_a_short_push_is_the_same_frame_for_all(server, deflations):
    with offering(server, '/api') as one, server.peer('/api') as other:
        for peer in (one, other):
            peer.call('rpc.subscribe', ['news'])
        cp_wsrpc.publish('news', 1)
        assert one.recv_frame() == other.recv_frame()
        assert one.rsv == other.rsv == 0
    assert deflations == []


def test_a_connection_keeps_no_codec_between_messages(server):
    with offering(server, '/api') as peer:
        peer.send_frame(*call_frame('a' * 1000), rsv=4)
        peer.recv_frame()
        assert made_for('/api').stream.inflater is negotiate(
            ['permessage-deflate']).inflater()


# -- the Python client ------------------------------------------------------

@pytest.mark.parametrize(('path', 'agreed'), [
    ('/api', True), ('/kept', True), ('/plain', False)])
def test_the_python_client_compresses_where_the_server_does(
        server, path, agreed, deflations):
    text = WORDS.decode()
    with cp_wsrpc.Client(server.ws_url(path), compression=True) as client:
        assert client.call('double', text).result(5) == text * 2
        assert len(deflations) == (2 if agreed else 0)


def test_the_python_client_offers_nothing_by_default(server, deflations):
    with cp_wsrpc.Client(server.ws_url('/api')) as client:
        assert client.call('double', WORDS.decode()).result(5)
    assert deflations == []


def test_the_python_client_refuses_an_extension_it_did_not_offer():
    offered = Answer(101, '', [('Sec-WebSocket-Extensions', 'foo')])
    with pytest.raises(HandshakeError, match='not offered'):
        agreed_compression(offered)
