"""``framing``: bytes in, messages out; frames built and read back.

Threats B1, B2, B8-B10 at the level of bytes, pitfalls 14, 16, 17 beside
plain ws4py, and the ``websockets`` library's Sans-I/O protocol as oracle.
"""
from __future__ import annotations

import gc
import codecs
import itertools
import re
import socket
import sys
import time
import tracemalloc
import weakref
import zlib
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.exceptions import PayloadTooBig
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side, State
from ws4py import messaging
from ws4py.streaming import Stream
from ws4py.websocket import WebSocket

from cp_wsrpc.frame_rules import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    ProtocolFailure,
    is_legal_close_code,
)
from cp_wsrpc.frames import (
    close_frame,
    frame,
    ping_frame,
    pong_frame,
    text_frame,
)
from cp_wsrpc.framing import FrameStream

LENGTHS = [0, 1, 125, 126, 127, 4095, 65535, 65536, 70000]
NO_LIMIT = sys.maxsize


# -- what the tests say things with ---------------------------------------

def sent(opcode: int, payload: bytes = b'', fin: bool = True) -> bytes:
    """One legal frame of a client."""
    return frame(opcode, payload, mask=True, fin=fin)


def raw(first: int, second: int, extended: bytes = b'',
        payload: bytes = b'') -> bytes:
    """Any frame at all; the key is zeros where ``second`` says masked."""
    key = bytes(4) if second & 0x80 else b''
    return bytes((first, second)) + extended + key + payload


def close_body(code: int, reason: bytes = b'') -> bytes:
    return code.to_bytes(2, 'big') + reason


def plainly(found: list[Any]) -> list[Any]:
    """``[b'text', ('ping', b'x'), ('close', 1000, b'')]``."""
    names = {BINARY: 'binary', PING: 'ping', PONG: 'pong'}
    return [
        each if isinstance(each, bytes)
        else ('close', each.code, each.reason) if each.opcode == CLOSE
        else (names[each.opcode], each.data)
        for each in found]


def feed_all(stream: FrameStream, data: bytes) -> list[Any]:
    """Feed what a large read brings, and come back while there is more."""
    found: list[Any] = []
    for at in range(0, len(data), 1 << 18):
        found += stream.feed(data[at:at + (1 << 18)])
        while stream.has_more:
            found += stream.feed(b'')
    return found


def outcome(stream: FrameStream, *segments: bytes) -> tuple[list[Any], Any]:
    """``(what came, the close code of the failure or None)``."""
    found = []
    for segment in segments:
        found += plainly(feed_all(stream, segment))
    return found, stream.failure and int(stream.failure.code)


def oracle(data: bytes, max_message_bytes: int = 1 << 20,
           side: Side = Side.SERVER) -> tuple[list[Any], Any]:
    """The same outcome according to ``websockets``.

    Its Sans-I/O layer leaves the UTF-8 of messages to the layers above, and
    takes a Close between fragments for a fault, which RFC 6455 5.4 allows:
    both are put right here.
    """
    protocol = Protocol(side, state=State.OPEN, max_size=max_message_bytes)
    protocol.receive_data(data)
    found: list[Any] = []
    text = codecs.getincrementaldecoder('utf-8')()
    parts: list[bytes] = []
    opcode = None
    for event in protocol.events_received():
        assert isinstance(event, Frame)
        payload = bytes(event.data)
        if event.opcode is Opcode.PING:
            found.append(('ping', payload))
        elif event.opcode is Opcode.PONG:
            found.append(('pong', payload))
        elif event.opcode is not Opcode.CLOSE:
            opcode = opcode if event.opcode is Opcode.CONT else event.opcode
            if opcode is Opcode.TEXT:
                try:
                    text.decode(payload, event.fin)
                except UnicodeDecodeError:
                    return found, 1007
            parts.append(payload)
            # Python waits for the last byte of a surrogate.
            if opcode is Opcode.TEXT and re.search(
                    rb'\xed[\xa0-\xbf]', b''.join(parts)):
                return found, 1007
            if event.fin:
                whole = b''.join(parts)
                found.append(whole if opcode is Opcode.TEXT
                             else ('binary', whole))
                parts = []
    error = protocol.parser_exc
    close = protocol.close_rcvd
    if close is not None and (error is None or 'fragmented' in str(error)):
        found.append(('close', int(close.code), close.reason.encode()))
        return found, None
    if error is None:
        return found, None
    return found, (1007 if isinstance(error, UnicodeDecodeError) else
                   1009 if isinstance(error, PayloadTooBig) else 1002)


# -- messages -------------------------------------------------------------

@pytest.mark.parametrize('client', [False, True])
@pytest.mark.parametrize('length', LENGTHS)
def test_texts_of_all_lengths_come_in_order(length: int, client: bool
                                            ) -> None:
    text = b'x' * length
    data = b''.join(frame(TEXT, each, mask=not client)
                    for each in (text, b'next', text, 'é€😀'.encode()))
    stream = FrameStream(client=client)
    assert outcome(stream, data) == (
        [text, b'next', text, 'é€😀'.encode()], None)
    assert not stream.unfinished


def test_what_is_no_text_comes_as_ws4py_messages() -> None:
    found = FrameStream().feed(
        sent(BINARY, b'\xff') + sent(PING, b'a') + sent(PONG, b'b')
        + sent(TEXT, b't') + sent(CLOSE, close_body(1001, b'bye')))
    assert [type(each).__mro__[2] for each in found if each != b't'] == [
        messaging.BinaryMessage, messaging.PingControlMessage,
        messaging.PongControlMessage, messaging.CloseControlMessage]
    assert plainly(found) == [
        ('binary', b'\xff'), ('ping', b'a'), ('pong', b'b'), b't',
        ('close', 1001, b'bye')]
    assert found[0].completed and found[0].is_binary


def test_the_examples_of_the_docstring_hold() -> None:
    stream = FrameStream()
    assert stream.feed(b'\x81\x82mask\x0c\n') == [b'ak']
    assert plainly(stream.feed(b'\x89\x80mask')) == [('ping', b'')]
    assert stream.feed(b'\x81\x02hi') == []
    assert str(stream.failure) == 'a client masks its frames (1002)'
    assert text_frame(b'hi') == b'\x81\x02hi'
    assert close_frame(1001, 'bye') == b'\x88\x05\x03\xe9bye'


#: name -> bytes of a client, what they mean, the code of the failure.
SCRIPTS: dict[str, tuple[bytes, list[Any], int | None]] = {
    'small texts': (
        sent(TEXT, b'one') + sent(TEXT) + sent(TEXT, 'zwei €'.encode()),
        [b'one', b'', 'zwei €'.encode()], None),
    'lengths of two and eight bytes': (
        sent(TEXT, b'a' * 126) + sent(BINARY, b'b' * 200)
        + raw(0x81, 0xfe, b'\x00\x7e', b'c' * 126), [
            b'a' * 126, ('binary', b'b' * 200), b'c' * 126], None),
    'fragments with controls between them': (
        sent(TEXT, 'é'.encode()[:1], fin=False) + sent(PING, b'\xff')
        + sent(CONTINUATION, b'', fin=False) + sent(PONG)
        + sent(CONTINUATION, 'é'.encode()[1:]) + sent(TEXT, b'after'),
        [('ping', b'\xff'), ('pong', b''), 'é'.encode(), b'after'], None),
    'binary fragments are not UTF-8': (
        sent(BINARY, b'\xff', fin=False) + sent(CONTINUATION, b'\xfe'),
        [('binary', b'\xff\xfe')], None),
    'B9: invalid UTF-8': (
        sent(TEXT, b'good') + sent(TEXT, b'ba\xffd') + sent(TEXT, b'no'),
        [b'good'], 1007),
    'B9: half a code point at the end': (
        sent(TEXT, '€'.encode()[:2]) + sent(TEXT, b'no'), [], 1007),
    'B9: half a code point at the end of the fragments': (
        sent(TEXT, '€'.encode()[:2], fin=False) + sent(CONTINUATION),
        [], 1007),
    'B9: a surrogate across fragments': (
        sent(TEXT, b'\xed', fin=False) + sent(PING)
        + sent(CONTINUATION, b'\xa0\x80'), [('ping', b'')], 1007),
    'B9: a Close between the fragments of a text': (
        sent(TEXT, '€'.encode()[:1], fin=False)
        + sent(CLOSE, close_body(1001, 'wég'.encode())),
        [('close', 1001, 'wég'.encode())], None),
    'B10: data after a Close': (
        sent(CLOSE, close_body(1000)) + sent(TEXT, b'no') + b'\xff\xff',
        [('close', 1000, b'')], None),
    'B10: an empty Close': (sent(CLOSE), [('close', 1005, b'')], None),
    'B10: a Close of one byte': (sent(CLOSE, b'\x03'), [], 1002),
    'B10: a reason that is not UTF-8': (
        sent(CLOSE, close_body(1000, b'\xff')), [], 1007),
    'B10: a reason of 123 bytes': (
        sent(CLOSE, close_body(1000, b'r' * 123)),
        [('close', 1000, b'r' * 123)], None),
    'a continuation of nothing': (
        sent(TEXT, b'good') + sent(CONTINUATION, b'x'), [b'good'], 1002),
    'a continuation after the last one': (
        sent(TEXT, b'a', fin=False) + sent(CONTINUATION, b'b')
        + sent(CONTINUATION, b'c'), [b'ab'], 1002),
    'a new text inside of a fragmented one': (
        sent(TEXT, b'a', fin=False) + sent(TEXT, b'b'), [], 1002),
    'a new binary inside of a fragmented text': (
        sent(TEXT, b'a', fin=False) + sent(BINARY, b'b'), [], 1002),
    'a bad frame after good ones in one read': (
        sent(TEXT, b'a') + sent(PING, b'b') + raw(0x83, 0x80)
        + sent(TEXT, b'no'), [b'a', ('ping', b'b')], 1002),
    'a length of two bytes not in its shortest form': (
        raw(0x81, 0xfe, b'\x00\x7d', b'x' * 125), [], 1002),
    'a length of eight bytes not in its shortest form': (
        raw(0x82, 0xff, b'\x00\x00\x00\x00\x00\x00\xff\xff', b'x' * 9),
        [], 1002),
    'a compressed message, not negotiated': (raw(0xc1, 0x80), [], 1002),
}


@pytest.mark.parametrize('name', SCRIPTS)
def test_the_outcome_does_not_depend_on_the_segments(name: str) -> None:
    data, found, code = SCRIPTS[name]
    assert outcome(FrameStream(), data) == (found, code)
    for cut in range(1, len(data)):
        assert outcome(FrameStream(), data[:cut], data[cut:]) == (
            found, code), cut
    assert outcome(FrameStream(), *(
        data[at:at + 1] for at in range(len(data)))) == (found, code)


def viewed(stream: FrameStream, data: bytes, size: int
           ) -> tuple[list[Any], Any]:
    """As ``outcome``, each segment read into one buffer."""
    buffer = bytearray(size)
    found = []
    for at in range(0, len(data), size):
        segment = data[at:at + size]
        buffer[:len(segment)] = segment
        with memoryview(buffer) as view:
            found += plainly(stream.feed(view[:len(segment)]))
    return found, stream.failure and int(stream.failure.code)


@pytest.mark.parametrize('name', SCRIPTS)
def test_the_buffer_of_a_view_may_be_read_into_again(name: str) -> None:
    data, found, code = SCRIPTS[name]
    for size in (1, 2, 3, 7, 20, len(data)):
        assert viewed(FrameStream(), data, size) == (found, code), size


@pytest.mark.parametrize('client', [False, True])
@pytest.mark.parametrize('length', [65535, 65537, 200_000, 3_000_001])
@pytest.mark.parametrize('size', [16_001, 65_536, 100_000, 1_000_000])
def test_a_large_message_is_whole_however_it_came(
        size: int, length: int, client: bool) -> None:
    text = (b'0123456789abcdef \xe2\x82\xac ' * (length // 21 + 1))[:length]
    text = text.decode('utf-8', 'ignore').encode()
    stream = FrameStream(client=client, max_message_bytes=NO_LIMIT)
    data = b''.join(frame(opcode, payload, mask=not client, fin=fin)
                    for opcode, payload, fin in [
                        (TEXT, text, True), (TEXT, b'small', True),
                        (BINARY, text[:9], False), (PING, b'', True),
                        (CONTINUATION, text[9:], True)])
    assert viewed(stream, data, size) == (
        [text, b'small', ('ping', b''), ('binary', text)], None)
    assert not stream.unfinished


def test_unfinished_says_that_more_must_come() -> None:
    data = (sent(TEXT, b'abc', fin=False) + sent(PING)
            + sent(CONTINUATION, b'd'))
    stream = FrameStream()
    assert not stream.unfinished
    for at in range(len(data)):
        stream.feed(data[at:at + 1])
        assert stream.unfinished is (at < len(data) - 1)


# -- faults ---------------------------------------------------------------

@pytest.mark.parametrize(('begun', 'seconds', 'legal'), [
    # 3 controls of 0-125 bytes, but for a Close of 1; 4 data frames
    (b'', range(256), 3 * 126 - 1 + 4 * 128),
    # inside of a text, the edges only: 3 controls, 2 continuations
    (sent(TEXT, b'a', fin=False),
     [0, 1, 125, 126, 127, 128, 129, 253, 254, 255], 3 * 3 - 1 + 2 * 5),
])
def test_b8_all_first_two_bytes_are_judged_as_by_the_oracle(
        begun: bytes, seconds: Sequence[int], legal: int) -> None:
    extended = {126: (126).to_bytes(2, 'big'), 127: (65536).to_bytes(8, 'big')}
    accepted = 0
    for first in range(256):
        for second in seconds:
            length = second & 0x7f
            size = {126: 126, 127: 65536}.get(length, length)
            payload = bytes(size)
            if first & 0x0f == CLOSE and size > 1:
                payload = close_body(1000) + bytes(size - 2)
            data = raw(first, second, extended.get(length, b''), payload)
            verdict = oracle(begun + data)
            stream = FrameStream()
            assert outcome(stream, begun + data) == verdict, data[:2]
            if verdict[1] is None:
                accepted += 1
            elif data[:1] != b'\x88':
                # The header alone is reason enough: no payload is awaited.
                early = FrameStream()
                assert outcome(early, begun + data[:2]) == verdict
    assert accepted == legal


@pytest.mark.parametrize('client', [False, True])
@pytest.mark.parametrize('length', [0, 1, 125, 126, 65536])
@pytest.mark.parametrize('opcode', [TEXT, BINARY, CLOSE, PING, PONG])
def test_b8_the_wrong_masking_is_refused(opcode: int, length: int,
                                         client: bool) -> None:
    if opcode >= CLOSE and length > 125:
        length = 2
    payload = bytes(length)
    if opcode == CLOSE:
        payload = (close_body(1000) + payload)[:length]
    right = frame(opcode, payload, mask=not client)
    wrong = frame(opcode, payload, mask=client)
    assert outcome(FrameStream(client=client), right)[1] == (
        1002 if (opcode, length) == (CLOSE, 1) else None)
    assert outcome(FrameStream(client=client), wrong) == ([], 1002)
    assert outcome(FrameStream(client=client), wrong[:2]) == ([], 1002)


def test_b10_each_close_code_is_legal_or_1002() -> None:
    legal = {*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)}
    for code in range(0x10000):
        assert is_legal_close_code(code) is (code in legal)
        assert outcome(FrameStream(), sent(CLOSE, close_body(code))) == (
            ([('close', code, b'')], None) if code in legal else ([], 1002))


def test_a_close_is_kept_for_ws4py() -> None:
    stream = FrameStream()
    found = stream.feed(sent(CLOSE, close_body(3000, b'why')))
    assert stream.closing is found[0]
    assert (stream.closing.code, stream.closing.reason) == (3000, b'why')


def test_after_a_failure_nothing_is_parsed() -> None:
    stream = FrameStream()
    stream.feed(b'\xff')
    failure = stream.failure
    assert stream.feed(sent(TEXT, b'a') + b'\x81') == []
    assert stream.failure is failure
    assert not stream.unfinished


@pytest.mark.parametrize('fault', [
    b'\xff', sent(TEXT, b'\xff'), sent(CLOSE, b'\x03\xe8\xff')])
def test_a_failed_stream_is_freed_without_the_collector(fault: bytes) -> None:
    stream = FrameStream()
    stream.feed(fault)
    assert stream.failure is not None
    gone = weakref.ref(stream)
    del stream
    assert gone() is None


def test_reasons_fit_into_a_close() -> None:
    faults = [data for data, _, code in SCRIPTS.values() if code]
    faults += [b'\xff', b'\x83', b'\x09', b'\x81\x00', b'\x89\xfe',
               b'\x81\xff' + b'\x7f' * 8, b'\x81\xff' + b'\xff' * 8]
    for data in faults:
        stream = FrameStream()
        stream.feed(data)
        assert stream.failure is not None
        assert len(stream.failure.reason) <= 123


# -- UTF-8 as it comes ----------------------------------------------------

#: What the first two bytes of valid UTF-8 may be (RFC 3629 4), not ASCII.
UTF8_START = re.compile(
    rb'[\xc2-\xdf][\x80-\xbf]|\xe0[\xa0-\xbf]|[\xe1-\xec\xee\xef][\x80-\xbf]'
    rb'|\xed[\x80-\x9f]|\xf0[\x90-\xbf]|[\xf1-\xf3][\x80-\xbf]'
    rb'|\xf4[\x80-\x8f]', re.DOTALL)


def test_a_bad_byte_is_found_in_an_unfinished_frame() -> None:
    for first in range(0x80, 0x100):
        alone = FrameStream(client=True)
        alone.feed(b'\x81\x08' + bytes((first,)))
        assert (alone.failure is None) is (0xc2 <= first <= 0xf4)
        for second in range(0x100):
            pair = bytes((first, second))
            stream = FrameStream(client=True)
            stream.feed(b'\x81\x08' + pair)
            assert (stream.failure is None) is bool(
                UTF8_START.fullmatch(pair)), pair


@pytest.mark.parametrize('head, where', [
    (b'', 300), (sent(TEXT, b'', fin=False), 300),
    (sent(TEXT, b'\xf0', fin=False), 0),       # with which no ü goes on
    (sent(TEXT, b'a\xf0\x90', fin=False) + sent(PING, b'\xff'), 0),
], ids=['alone', 'empty', 'begun', 'begun-and-ping'])
def test_a_bad_byte_is_found_across_fragments(head: bytes,
                                              where: int) -> None:
    opcode = CONTINUATION if head else TEXT
    whole = head + sent(
        opcode, 'ü\x00'.encode() * 100 + b'\xc0' + b'x' * 100)
    stream = FrameStream()
    for at in range(len(whole)):
        assert stream.failure is None, at
        stream.feed(whole[at:at + 1])
        if stream.failure is not None:
            break
    assert stream.failure is not None and stream.failure.code == 1007
    assert at == len(head) + 4 + 4 + where


# -- limits ---------------------------------------------------------------

@pytest.mark.parametrize('limit', [0, 1, 100, 125, 126, 65535, 65536])
@pytest.mark.parametrize('opcode', [TEXT, BINARY])
def test_a_message_may_have_as_many_bytes_as_the_limit(
        opcode: int, limit: int) -> None:
    def one(length: int) -> tuple[list[Any], Any]:
        return outcome(FrameStream(max_message_bytes=limit),
                       sent(opcode, b'x' * length))
    assert len(one(limit)[0]) == 1
    assert one(limit + 1) == ([], 1009)


@pytest.mark.parametrize('parts', [[0, 0, 11], [4, 7], [10, 1], [10, 0, 1]])
def test_the_limit_is_over_all_fragments(parts: list[int]) -> None:
    def all_of(lengths: list[int]) -> bytes:
        return b''.join(
            sent(CONTINUATION if at else TEXT, b'x' * length,
                 fin=at == len(lengths) - 1)
            + sent(PING, b'not counted, however long')
            for at, length in enumerate(lengths))
    assert outcome(FrameStream(max_message_bytes=11), all_of(parts))[1] is None
    small = FrameStream(max_message_bytes=10)
    found, code = outcome(small, all_of(parts))
    assert code == 1009 and b'x' * 11 not in found
    again = FrameStream(max_message_bytes=11)
    assert outcome(again, all_of(parts) * 2)[1] is None


@pytest.mark.parametrize(('announced', 'code'), [
    (1048577, 1009), (1 << 31, 1009), (1 << 32, 1009), (1 << 62, 1009),
    ((1 << 63) - 1, 1009), (1 << 63, 1002), ((1 << 64) - 1, 1002)])
def test_b1_an_announced_length_costs_no_memory(announced: int, code: int
                                                ) -> None:
    header = b'\x82\xff' + announced.to_bytes(8, 'big')
    tracemalloc.start()
    try:
        stream = FrameStream()
        assert outcome(stream, header) == ([], code)
        accepted = FrameStream()
        accepted.feed(raw(0x82, 0xff, (1 << 20).to_bytes(8, 'big')))
        assert accepted.unfinished
        assert tracemalloc.get_traced_memory()[1] < 8192
    finally:
        tracemalloc.stop()


def test_b1_room_is_made_for_those_who_send() -> None:
    header = raw(0x82, 0xff, (1 << 30).to_bytes(8, 'big'))
    tracemalloc.start()
    try:
        idle, busy = (FrameStream(max_message_bytes=NO_LIMIT)
                      for _ in range(2))
        idle.feed(header + b'x' * 65536)
        assert tracemalloc.get_traced_memory()[0] < 100_000
        busy.feed(header + b'x' * 65537)
        assert tracemalloc.get_traced_memory()[0] < 1_200_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize('payload', [b'', b'x'])
@pytest.mark.parametrize('limit', [1, 2, 1024])
def test_b2_a_message_may_have_as_many_fragments_as_the_limit(
        limit: int, payload: bytes) -> None:
    def fragments(number: int) -> bytes:
        middle = sent(CONTINUATION, payload, fin=False)
        return (sent(TEXT, payload, fin=number == 1)
                + (middle + sent(PING)) * (number - 2)
                + sent(CONTINUATION, payload) * (number > 1))
    good = FrameStream(max_fragments=limit)
    assert outcome(good, fragments(limit) * 2)[1] is None
    bad = FrameStream(max_fragments=limit)
    found, code = outcome(bad, fragments(limit + 1))
    assert code == 1008 and payload * (limit + 1) not in found


@pytest.mark.parametrize(('how', 'pieces'), [
    ('segments', 70000), ('fragments', 20000), ('frames', 20000)])
def test_b2_many_small_pieces_cost_linear_time(how: str, pieces: int
                                               ) -> None:
    """CPU time, not wall clock; quadratic would be 16 times as much.

    Without the collector, whose full runs are of what other tests left.
    """
    def seconds(number: int) -> float:
        stream = FrameStream(max_message_bytes=NO_LIMIT,
                             max_fragments=NO_LIMIT)
        begin = time.thread_time()
        if how == 'segments':
            stream.feed(raw(0x81, 0xff, number.to_bytes(8, 'big')))
            for _ in range(number):
                found = stream.feed(b'x')
        elif how == 'fragments':
            found = feed_all(
                stream, sent(TEXT, fin=False)
                + raw(0x00, 0x81, payload=b'x') * (number - 1)
                + raw(0x80, 0x81, payload=b'x') + b'\x81')
        else:
            found = feed_all(
                stream, raw(0x89, 0x81, payload=b'x') * number)
            found = [b'x' * len(found)]
        took = time.thread_time() - begin
        assert found == [b'x' * number]
        return took
    gc.disable()
    try:
        least = min(seconds(pieces) for _ in range(3))
        assert min(seconds(4 * pieces) for _ in range(3)) < 8 * least
    finally:
        gc.enable()


@pytest.mark.parametrize(('one', 'most'), [
    (sent(TEXT, b'['), 310), (sent(PING, b'?'), 256),
    (sent(TEXT, b'x' * 60), 140), (sent(TEXT, b'y' * 200), 40),
    (sent(TEXT, b'z' * 9000), 16)])
def test_one_feed_takes_some_of_a_large_read_and_comes_back(
        one: bytes, most: int) -> None:
    stream = FrameStream()
    counts = [len(stream.feed(one * 2000))]
    while stream.has_more:
        assert stream.unfinished
        counts.append(len(stream.feed(b'')))
    assert max(counts) <= most and sum(counts) == 2000
    assert not stream.unfinished


def test_where_frames_are_dear_a_feed_takes_fewer() -> None:
    stream = FrameStream()
    counts = [len(stream.feed(sent(TEXT, b'y' * 200) * 2000))]
    while stream.has_more:
        if len(counts) < 5:
            stream.take_less()
        counts.append(len(stream.feed(b'')))
    assert sum(counts) == 2000
    assert counts[0] >= 4 * counts[1] >= 8 * counts[3] > 0
    assert max(counts[10:]) > counts[0] / 2


@pytest.mark.parametrize(('number', 'length'), [
    (39, 200), (60, 120), (12, 650)])
def test_where_whole_reads_are_dear_the_next_is_taken_in_parts(
        number: int, length: int) -> None:
    stream, data = FrameStream(), sent(TEXT, b'y' * length) * number
    assert len(stream.feed(data)) == number and not stream.has_more
    stream.take_less()
    counts = [len(stream.feed(data))]
    while stream.has_more:
        counts.append(len(stream.feed(b'')))
    assert sum(counts) == number
    assert counts[0] <= number / 2
    for _ in range(4):          # none took long: soon as many as ever
        stream.feed(data)
        while stream.has_more:
            stream.feed(b'')
    assert len(stream.feed(data)) == number


@pytest.mark.parametrize('number', [1, 16, 100])
def test_cheap_calls_are_taken_as_they_were_read(number: int) -> None:
    stream, data = FrameStream(), sent(TEXT, b'c' * 60) * number
    for _ in range(50):
        assert len(stream.feed(data)) == number
        assert not stream.has_more


def test_fragments_are_counted_too() -> None:
    stream = FrameStream(max_fragments=NO_LIMIT)
    data = (sent(TEXT, b'a', fin=False)
            + sent(CONTINUATION, b'b', fin=False) * 1000 + sent(CONTINUATION))
    feeds = [stream.feed(data)]
    while stream.has_more:
        feeds.append(stream.feed(b''))
    assert feeds == [[]] * 3 + [[b'a' + b'b' * 1000]]


def test_what_is_left_for_later_is_dropped_at_the_end() -> None:
    stream = FrameStream()
    stream.feed(sent(TEXT, b'x') * 1000)
    assert stream.has_more
    stream.stop()
    assert not stream.has_more and not stream.unfinished
    assert stream.feed(sent(TEXT, b'x')) == []


def test_an_idle_stream_takes_less_than_a_kilobyte() -> None:
    data = sent(TEXT, b'x' * 300) + sent(PING) + sent(TEXT, b'small')
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        streams = [FrameStream() for _ in range(1000)]
        for stream in streams:
            stream.feed(data[:20])
            stream.feed(data[20:])
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert used / len(streams) < 512


# -- compression ----------------------------------------------------------

class Deflated:
    """An inflater as issue 3 may have it, bounded by zlib itself."""

    def inflate(self, payload: bytes, limit: int) -> bytes:
        decoder = zlib.decompressobj(wbits=-15)
        try:
            data = decoder.decompress(
                payload + b'\x00\x00\xff\xff', limit + 1)
        except zlib.error:
            raise ProtocolFailure(1002, 'no deflate stream') from None
        if len(data) > limit:
            raise ProtocolFailure(1009, 'too big when inflated')
        return data


def deflated(payload: bytes) -> bytes:
    deflate = PerMessageDeflate(False, False, 15, 15)
    return bytes(deflate.encode(Frame(Opcode.TEXT, payload)).data)


@pytest.mark.parametrize(('data', 'expected'), [
    (frame(TEXT, deflated(b'hello'), mask=True, rsv1=True) + sent(TEXT, b'p'),
     ([b'hello', b'p'], None)),
    (frame(BINARY, deflated(b'\xff'), mask=True, rsv1=True),
     ([('binary', b'\xff')], None)),
    (frame(TEXT, deflated(b'hello')[:3], mask=True, rsv1=True, fin=False)
     + sent(PING) + sent(CONTINUATION, deflated(b'hello')[3:]),
     ([('ping', b''), b'hello'], None)),
    (frame(TEXT, deflated(b'\xff'), mask=True, rsv1=True), ([], 1007)),
    (frame(TEXT, deflated(b'x' * 1000), mask=True, rsv1=True),
     ([b'x' * 1000], None)),
    (frame(TEXT, deflated(b'x' * 1001), mask=True, rsv1=True), ([], 1009)),
    (frame(TEXT, b'\xff\xff', mask=True, rsv1=True), ([], 1002)),
    (sent(TEXT, b'a', fin=False) + raw(0xc0, 0x80), ([], 1002)),
    (raw(0xc9, 0x80), ([], 1002)),
    (raw(0xa1, 0x80), ([], 1002)),
])
def test_rsv1_is_for_compressed_messages_where_an_inflater_is_given(
        data: bytes, expected: tuple[list[Any], Any]) -> None:
    for cut in range(len(data)):
        stream = FrameStream(inflater=Deflated(), max_message_bytes=1000)
        assert outcome(stream, data[:cut], data[cut:]) == expected


# -- frames built ---------------------------------------------------------

@pytest.mark.parametrize('length', LENGTHS)
@pytest.mark.parametrize('fin', [True, False])
@pytest.mark.parametrize('opcode', [CONTINUATION, TEXT, BINARY])
def test_data_frames_are_those_of_the_oracle(opcode: int, fin: bool,
                                             length: int) -> None:
    payload = b'x' * length
    theirs = Frame(Opcode(opcode), payload, fin).serialize(mask=False)
    assert frame(opcode, payload, fin=fin) == theirs
    if (opcode, fin) == (TEXT, True):
        assert text_frame(payload) == theirs
        assert oracle(frame(TEXT, payload, mask=True)) == ([payload], None)


def test_each_masked_frame_has_a_key_of_its_own() -> None:
    keys = {sent(TEXT, b'same')[2:6] for _ in range(100)}
    assert len(keys) == 100


@pytest.mark.parametrize('build', [ping_frame, pong_frame])
def test_control_frames_hold_125_bytes(build: Any) -> None:
    assert len(build(b'x' * 125)) == 127
    assert oracle(build(b'x' * 125, mask=True))[1] is None
    with pytest.raises(ValueError, match='at most 125'):
        build(b'x' * 126)


def test_control_frames_have_no_fragments() -> None:
    with pytest.raises(ValueError, match='one frame'):
        frame(PING, b'', fin=False)


@pytest.mark.parametrize(('code', 'reason', 'payload'), [
    (1000, '', b'\x03\xe8'),
    (1001, 'restart', b'\x03\xe9restart'),
    (4999, b'as bytes', b'\x13\x87as bytes'),
    (1000, 'r' * 124, b'\x03\xe8' + b'r' * 123),
    (1000, 'r' * 122 + 'é', b'\x03\xe8' + b'r' * 122),
    (1000, 'r' * 121 + 'é', b'\x03\xe8' + b'r' * 121 + 'é'.encode()),
    (1000, '😀' * 31, b'\x03\xe8' + '😀'.encode() * 30),
    (1000, 'lone \ud800', b'\x03\xe8lone ?'),
    (1000, b'\xff', b'\x03\xe8' + '\ufffd'.encode()),
    (1005, 'never sent', b''),
    (1006, '', b''),
    (1015, '', b''),
])
def test_a_close_is_legal_whatever_the_reason(
        code: int, reason: str | bytes, payload: bytes) -> None:
    theirs = Frame(Opcode.CLOSE, payload).serialize(mask=False)
    assert close_frame(code, reason) == theirs
    assert FrameStream().close(code, reason).single() == theirs
    found, failure = oracle(close_frame(code, reason, mask=True))
    assert found[0][0] == 'close' and failure is None


@pytest.mark.parametrize('code', [0, 999, 1004, 1016, 2999, 5000, 70000, -1])
def test_a_code_that_may_not_be_sent_is_the_callers_fault(code: int) -> None:
    with pytest.raises(ValueError, match=f'code {code} may not be sent'):
        close_frame(code)
    with pytest.raises(ValueError, match=f'code {code} may not be sent'):
        FrameStream().close(code)


@pytest.mark.parametrize('client', [False, True])
def test_what_ws4py_builds_by_the_stream_is_legal(client: bool) -> None:
    stream, peer = FrameStream(client=client), FrameStream(client=not client)
    mask = stream.always_mask
    parts = [stream.text_message('é'.encode()[:1]).fragment(
                 first=True, mask=mask),
             stream.text_message('é'.encode()[1:]).fragment(
                 last=True, mask=mask)]
    data = (stream.text_message('hé').single(mask=mask)
            + stream.binary_message(b'\x00' * 70000).single(mask=mask)
            + stream.ping('p') + stream.pong(b'q') + b''.join(parts)
            + stream.close(1001, 'bye').single(mask=mask))
    assert outcome(peer, data) == (
        ['hé'.encode(), ('binary', b'\x00' * 70000), ('ping', b'p'),
         ('pong', b'q'), 'é'.encode(), ('close', 1001, b'bye')], None)


def test_ws4pys_websocket_holds_the_stream() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        websocket = WebSocket(ours)
        websocket.stream = stream = FrameStream()
        websocket.send('text')
        websocket.close(1005, 'never sent')
        stream.feed(sent(TEXT, b'begun')[:-1])
        websocket.terminate()
        assert websocket.stream is None
        assert theirs.recv(100) == b'\x81\x04text\x88\x00'


def test_a_stream_may_be_cleaned_up_at_any_time() -> None:
    data = sent(TEXT, b'a' * 200, fin=False) + sent(PING) + sent(CLOSE)
    for cut in range(len(data) + 1):
        stream = FrameStream()
        stream.feed(data[:cut])
        stream._cleanup()
        stream._cleanup()
        assert not stream.unfinished
        assert stream.feed(data) == []
        assert stream.closing is None and not stream.has_message


def test_a_client_may_be_made_as_ws4pys_client_does_it() -> None:
    stream = FrameStream()
    stream.always_mask = True
    stream.expect_masking = False
    assert outcome(stream, text_frame(b'hi') + frame(PING, b'p')) == (
        [b'hi', ('ping', b'p')], None)
    assert stream.ping(b'p')[1] & 0x80


def test_ws4pys_parser_is_not_offered() -> None:
    with pytest.raises(NotImplementedError, match='feed'):
        FrameStream().parser


# -- plain ws4py ----------------------------------------------------------

def ws4pys(data: bytes) -> Stream:
    """A plain stream that was given all of it, as its WebSocket does."""
    stream = Stream()
    wanted = 2
    while data:
        piece, data = data[:wanted], data[wanted:]
        wanted = stream.parser.send(piece) or 2
    return stream


def test_pitfall_14_plain_ws4py_reads_whatever_is_announced() -> None:
    header = b'\x82\xff' + (1 << 62).to_bytes(8, 'big') + bytes(4)
    stream = Stream()
    for piece in (header[:2], header[2:10], header[10:]):
        wanted = stream.parser.send(piece)
    assert wanted == 1 << 62    # goes into recv()
    assert outcome(FrameStream(), header) == ([], 1009)


def test_pitfall_14_plain_ws4py_adds_fragments_up_for_ever() -> None:
    data = sent(BINARY, bytes(100), fin=False) + sent(
        CONTINUATION, bytes(100), fin=False) * 2000
    plain = ws4pys(data)
    assert len(plain.message.data) == 200100 and not plain.errors
    assert outcome(FrameStream(max_message_bytes=200000), data)[1] == 1008
    assert outcome(FrameStream(max_message_bytes=2000), data)[1] == 1009


def test_pitfall_16_plain_ws4py_loses_the_second_of_two_frames() -> None:
    data = sent(TEXT, b'one') + sent(TEXT, b'two')
    plain = Stream()
    plain.parser.send(data)
    assert plain.message.data == b'one'
    plain.message = None
    plain.parser.send(sent(TEXT, b'three'))
    assert plain.message.data == b'three'
    assert FrameStream().feed(data) == [b'one', b'two']


@pytest.mark.parametrize('data', [
    raw(0x81, 0x00), raw(0x89, 0x00), raw(0x88, 0x00),
    raw(0x81, 0xfe, b'\x00\x01', b'x'),
    raw(0x81, 0xff, b'\x00\x00\x00\x00\x00\x00\x00\x01', b'x'),
    raw(0x88, 0x81, payload=b'\x03')])
def test_pitfall_17_plain_ws4py_takes_what_is_forbidden(data: bytes) -> None:
    plain = ws4pys(data)
    assert not plain.errors
    # "is not None", as an empty message of ws4py is false.
    assert plain.pings or not plain.message is plain.closing is None
    assert outcome(FrameStream(), data) == ([], 1002)


def test_pitfall_17_plain_ws4py_answers_an_empty_close_with_1005() -> None:
    for stream in (ws4pys(sent(CLOSE)), FrameStream()):
        stream.feed(sent(CLOSE)) if isinstance(stream, FrameStream) else None
        answer = stream.close(stream.closing.code, '').single()
        legal = answer == b'\x88\x00'
        assert legal is isinstance(stream, FrameStream), answer
    assert ws4pys(sent(CLOSE)).close(1005).single() == b'\x88\x02\x03\xed'


@pytest.mark.parametrize('code', [1012, 1013, 1014])
def test_pitfall_17_plain_ws4py_takes_new_codes_for_invalid(code: int
                                                            ) -> None:
    data = sent(CLOSE, close_body(code))
    assert ws4pys(data).closing.code == 1005
    assert FrameStream().feed(data)[0].code == code


def test_pitfall_17_plain_ws4py_mixes_a_close_into_the_text() -> None:
    data = sent(TEXT, b'\xc3', fin=False) + sent(
        CLOSE, close_body(1001, b'bye'))
    assert [each.code for each in ws4pys(data).errors] == [1007]
    assert outcome(FrameStream(), data) == ([('close', 1001, b'bye')], None)


def test_pitfall_17a_plain_ws4py_waits_for_the_end_of_a_bad_frame() -> None:
    data = sent(TEXT, b'\xff' * 9)[:-1]
    assert not ws4pys(data).errors
    assert outcome(FrameStream(), data) == ([], 1007)


# -- random streams against the oracle ------------------------------------

_PAYLOADS = st.one_of(
    st.binary(max_size=12), st.text(max_size=6).map(str.encode),
    st.sampled_from([b'', b'\x03\xe8', b'\x03\xe8\xff', b'\xf0\x90',
                     b'\x80\x80', b'x' * 125, b'x' * 126]))
_LEGAL = st.builds(sent, st.sampled_from([TEXT, BINARY, CONTINUATION]),
                   _PAYLOADS, st.booleans())
_CONTROLS = st.builds(sent, st.sampled_from([PING, PONG, CLOSE]),
                      _PAYLOADS.map(lambda payload: payload[:125]))
_TEXTS = st.builds(sent, st.just(TEXT), st.text(max_size=9).map(str.encode))
_ANY = st.builds(
    lambda first, second, payload: raw(first, second, payload=payload),
    st.integers(0, 255), st.integers(0, 255), _PAYLOADS)


def _is_longer_than_needed(data: bytes) -> bool:
    """Whether some length is not minimal: only we refuse that.

    The second reason is for a control frame of 0-125 bytes with the length
    in two or eight bytes; of truly more than 125: the test of B8.
    """
    stream = FrameStream()
    stream.feed(data)
    return stream.failure is not None and (
        'the length' in stream.failure.reason
        or 'more than 125 bytes' in stream.failure.reason)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(_TEXTS, _LEGAL, _CONTROLS, _TEXTS, _ANY),
                max_size=8),
       st.lists(st.integers(0, 300), max_size=6))
def test_random_streams_are_judged_as_by_the_oracle(
        frames: list[bytes], cuts: list[int]) -> None:
    # Zeros end every frame that is not complete and are no legal frame:
    # what we say at the bad byte the oracle says at the end of its frame.
    data = b''.join(frames) + bytes(66000)
    if _is_longer_than_needed(data):
        return
    edges = sorted({0, len(data), *(cut % len(data) for cut in cuts)})
    ours = outcome(FrameStream(), *(
        data[a:b] for a, b in itertools.pairwise(edges)))
    theirs = oracle(data)
    # It looks at the size before the reserved bits and the fragments.
    if theirs[1] == 1009 and ours[1] == 1002:
        theirs = theirs[0], 1002
    assert ours == theirs
