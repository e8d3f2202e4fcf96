"""The wire tables of protocol.md, both ways, and what must not break them."""
from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import json
import time
import uuid
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cp_wsrpc import errors
from cp_wsrpc.decoding import NO_CALL, NO_NAME, decode, decode_call
from cp_wsrpc.dialects import (
    DIALECTS,
    JSONRPC,
    WSRPC1,
    WSRPC2,
    Dialect,
)
from cp_wsrpc.json_text import encode_json
from cp_wsrpc.messages import NO_ID, Bad, Batch, Call, Event, Failure, Result

ALL = list(DIALECTS.values())
ANSWERS = [0, '', False, [], {}, None, 1, -1.5, 'x', True, [1, [2]],
           {'a': None}]


def fill(text: str, *parts: str) -> str:
    """``text`` with each ``<>`` replaced by one of ``parts``."""
    for part in parts:
        text = text.replace('<>', part, 1)
    return text


def dumps(value: Any) -> bytes:
    return json.dumps(value, separators=(',', ':')).encode()


def plain(message: Any) -> tuple[Any, ...]:
    """A message as a tuple that ``==`` understands."""
    if isinstance(message, Call):
        params = None if message.params is None else json.loads(
            bytes(message.params))
        return 'call', message.id, message.name, params, message.dialect
    if isinstance(message, Result):
        return 'result', message.id, json.loads(bytes(message.value))
    if isinstance(message, Failure):
        error = message.error
        return ('failure', message.id, error.code, error.type,
                error.message, error.data, error.stack)
    if isinstance(message, Bad):
        return 'bad', message.id, message.error.code, message.dialect
    assert isinstance(message, Batch)
    return ('batch', *[plain(item) for item in message.items])


def failure(id: Any, message: str, *, code: int | None = None,
            type: str | None = None, data: Any = None,
            stack: str | None = None) -> tuple[Any, ...]:
    return 'failure', id, code, type, message, data, stack


# -- inwards -----------------------------------------------------------------

CALLS = [
    # protocol.md, 1, as printed
    ('{"jsonrpc":"2.0","method":"calc.add","params":[42,23],"id":1}',
     ('call', 1, 'calc.add', [42, 23], JSONRPC)),
    ('{"jsonrpc":"2.0","method":"update","params":{"a":1}}',
     ('call', NO_ID, 'update', {'a': 1}, JSONRPC)),
    ('{"serial":3,"call":"test","arguments":null}',
     ('call', 3, 'test', None, WSRPC1)),
    ('{"serial":5,"type":"call","call":"test.fn","arguments":{"size":1}}',
     ('call', 5, 'test.fn', {'size': 1}, WSRPC1)),
    ('{"id":3,"method":"route.method","params":{"a":1}}',
     ('call', 3, 'route.method', {'a': 1}, WSRPC2)),
    # members missing, in any order, unknown ones, white space
    ('{"jsonrpc":"2.0","method":"f","id":1}', ('call', 1, 'f', None, JSONRPC)),
    ('{"id":1,"method":"f","jsonrpc":"2.0"}', ('call', 1, 'f', None, JSONRPC)),
    ('{"serial":1,"call":"f"}', ('call', 1, 'f', None, WSRPC1)),
    ('{"id":1,"method":"f"}', ('call', 1, 'f', None, WSRPC2)),
    ('{"jsonrpc":"2.0","method":"f","id":1,"extra":[{}]}',
     ('call', 1, 'f', None, JSONRPC)),
    (' \r\n\t{ "jsonrpc" : "2.0" , "method" : "f" , "id" : 1 } \n',
     ('call', 1, 'f', None, JSONRPC)),
    # any value is one argument to a WSRPC function, falsy ones too
    *[(fill('{"serial":3,"call":"f","arguments":<>}', value),
       ('call', 3, 'f', [json.loads(value)], WSRPC1))
      for value in ('5', '0', '""', 'false', '"x"', '1.5')],
    *[(fill('{"id":3,"method":"f","params":<>}', value),
       ('call', 3, 'f', [json.loads(value)], WSRPC2))
      for value in ('5', '0', '""', 'false', '"x"')],
    *[(fill('{"<>":3,"<>":"f","<>":<>}', *members, value),
       ('call', 3, 'f', json.loads(value), dialect))
      for members, dialect in ((('serial', 'call', 'arguments'), WSRPC1),
                               (('id', 'method', 'params'), WSRPC2))
      for value in ('[]', '{}', '[1]', '[[]]', '[{"a":1}]')],
    # JSON-RPC's are left as they came: the method's signature judges them
    *[(fill('{"jsonrpc":"2.0","method":"f","params":<>,"id":1}', value),
       ('call', 1, 'f', json.loads(value), JSONRPC))
      for value in ('[]', '{}', '5', 'null', '"x"')],
    # ids
    *[(fill('{"jsonrpc":"2.0","method":"f","id":<>}', id),
       ('call', json.loads(id), 'f', None, JSONRPC))
      for id in ('null', '0', '-1', '""', '"1"', '"__proto__"',
                 '"%s"' % ('x' * 64), '"%s"' % ('é' * 64),
                 '9007199254740991', '-9007199254740991')],
    *[(fill('{"serial":<>,"call":"f"}', id),
       ('call', json.loads(id), 'f', None, WSRPC1))
      for id in ('null', '0', '"a"', '9007199254740991')],
    *[(fill('{"id":<>,"method":"f"}', id),
       ('call', json.loads(id), 'f', None, WSRPC2))
      for id in ('null', '0', '"a"', '9007199254740991')],
    # names are data: nothing is done with them here
    *[(fill('{"jsonrpc":"2.0","method":<>,"id":1}', json.dumps(name)),
       ('call', 1, name, None, JSONRPC))
      for name in ('', '__class__', 'a.__init__.__globals__', 'a\0b', '\r\n',
                   'ﬀ', '\U0001f600')],
    # numbers that no float holds reach the method's decoder as text
    ('{"jsonrpc":"2.0","method":"f","params":[9007199254740993],"id":1}',
     ('call', 1, 'f', [9007199254740993], JSONRPC)),
]


@pytest.mark.parametrize(('text', 'expected'), CALLS,
                         ids=[text[:60] for text, _ in CALLS])
def test_a_call_is_told_with_its_dialect(text: str, expected: Any) -> None:
    assert plain(decode(text.encode())) == expected


def test_the_meta_member_is_kept_as_text() -> None:
    call = decode(b'{"jsonrpc":"2.0","method":"f","id":1,'
                  b'"_meta":{"timeoutMs":5}}')
    assert isinstance(call, Call)
    assert bytes(call.meta) == b'{"timeoutMs":5}'
    without = decode(b'{"jsonrpc":"2.0","method":"f","id":1}')
    assert isinstance(without, Call) and without.meta is None


@pytest.mark.parametrize('text', [
    text for text, _ in CALLS if text.startswith('{"jsonrpc":"2.0"')])
def test_a_small_call_is_the_same_without_a_step_between(text: str) -> None:
    assert plain(decode_call(text.encode())) == plain(decode(text.encode()))


@pytest.mark.parametrize('value', ['null', '0', '0.5', '1', '"x"', '[]', '{}',
                                   'true'])
def test_no_peer_sets_what_is_ours_of_a_call(value: str) -> None:
    wire = {'id', 'method', 'params', 'meta'}
    for name in {'our_method', *Call.__struct_fields__} - wire:
        text = (f'{{"jsonrpc":"2.0","method":"f","id":1,"{name}":{value}}}'
                ).encode()
        try:
            seen: Any = decode_call(text)
            assert name == 'name', 'which is no member: it is ignored'
        except NO_CALL:
            seen = decode(text)
        assert (seen.name, seen.dialect, seen.connection, seen.method) == (
            'f', JSONRPC, None, None)


@pytest.mark.parametrize('text', [
    b'{"jsonrpc":"2.0","id":1,"result":65}', b'{"jsonrpc":"2.0"}'])
def test_what_is_no_call_has_no_name(text: bytes) -> None:
    assert decode_call(text).name is NO_NAME


ANSWERED = [
    ('{"jsonrpc":"2.0","id":1,"result":65}', ('result', 1, 65)),
    ('{"data":{},"serial":3,"type":"callback"}', ('result', 3, {})),
    ('{"serial":3,"type":"callback"}', ('result', 3, None)),
    ('{"id":3,"result":0}', ('result', 3, 0)),
    # @wsrpc/client sends null for a falsy result; JSON-RPC 1.0 both members
    ('{"id":3,"result":null}', ('result', 3, None)),
    ('{"id":3,"result":5,"error":null}', ('result', 3, 5)),
    ('{"jsonrpc":"2.0","id":1,"result":null,"error":null}',
     ('result', 1, None)),
    # errors, however they are written
    ('{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"no"}}',
     failure(1, 'no', code=-32000)),
    ('{"jsonrpc":"2.0","id":1,"error":{"code":7,"message":"no","data":'
     '{"type":"TypeError","stack":"at f"}}}',
     failure(1, 'no', code=7, type='TypeError', stack='at f',
             data={'type': 'TypeError', 'stack': 'at f'})),
    ('{"jsonrpc":"2.0","id":1,"error":{"code":7,"message":"no","data":'
     '{"type":"KeyError","traceback":"in f"}}}',
     failure(1, 'no', code=7, type='KeyError', stack='in f',
             data={'type': 'KeyError', 'traceback': 'in f'})),
    ('{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"no"}}',
     failure(None, 'no', code=-32700)),
    ('{"data":{"type":"KeyError","message":"\'x\'"},"serial":5,'
     '"type":"error"}', failure(5, "'x'", type='KeyError')),
    ('{"data":"a bare string","serial":5,"type":"error"}',
     failure(5, 'a bare string', data='a bare string')),
    ('{"serial":5,"type":"error"}',
     failure(5, 'the peer failed with None')),
    ('{"id":3,"error":{"type":"KeyError","message":"\'x\'","code":-32000}}',
     failure(3, "'x'", type='KeyError', code=-32000)),
    ('{"id":3,"error":"bare"}', failure(3, 'bare', data='bare')),
    ('{"id":3,"error":""}', failure(3, '', data='')),
    ('{"id":3,"error":0}', failure(3, 'the peer failed with 0', data=0)),
    ('{"id":3,"error":[1]}',
     failure(3, 'the peer failed with [1]', data=[1])),
    ('{"id":3,"result":null,"error":"x"}', failure(3, 'x', data='x')),
    ('{"id":3,"error":null}', failure(3, 'the peer failed with None')),
    # members of other types than they should be
    ('{"id":3,"error":{"message":5,"type":6,"data":[7]}}',
     failure(3, 'the peer failed', data=[7])),
    ('{"id":3,"error":{"code":"x","message":"no"}}',
     failure(3, "the peer failed with {'code': 'x', 'message': 'no'}",
             data={'code': 'x', 'message': 'no'})),
    # what cannot be read settles the call all the same, and is no request
    *[(text, failure(3, 'the answer cannot be decoded: a lone surrogate or '
                        'a member of the wrong type'))
      for text in ('{"jsonrpc":"2.0","id":3,"result":"\\ud800"}',
                   '{"jsonrpc":"2.0","id":3,"error":"\\ud800"}',
                   '{"serial":3,"type":"callback","data":["\\udfff"]}',
                   '{"serial":3,"type":"error","data":"\\ud800"}',
                   '{"id":3,"result":{"\\ud800":1}}',
                   '{"id":3,"error":"\\ud800"}')],
]


@pytest.mark.parametrize(('text', 'expected'), ANSWERED,
                         ids=[text[:60] for text, _ in ANSWERED])
def test_an_answer_is_told_with_what_came(text: str, expected: Any) -> None:
    assert plain(decode(text.encode())) == expected


def test_a_stack_is_cut_at_four_kilobytes() -> None:
    text = dumps({'id': 3, 'error': {'message': 'no', 'data': {
        'stack': 'x' * 5000}}})
    answer = decode(text)
    assert isinstance(answer, Failure)
    assert answer.error.stack == 'x' * 4096


NO_MESSAGES = [
    # (text, id, code, dialect)
    ('not json', None, -32700, None),
    ('', None, -32700, None),
    ('{', None, -32700, None),
    ('{"jsonrpc":"2.0","method":"f","id":1} x', None, -32700, None),
    ('{"jsonrpc":"2.0","method":"f","params":NaN,"id":1}',
     None, -32700, None),
    ('{"jsonrpc":"2.0","method":1,"params":Infinity,"id":1}',
     None, -32700, None),
    ('[1,2', None, -32700, None),
    ('null', None, -32600, JSONRPC),
    ('5', None, -32600, JSONRPC),
    ('"x"', None, -32600, JSONRPC),
    ('{}', None, -32600, JSONRPC),
    ('[]', None, -32600, JSONRPC),
    ('{"foo":"boo"}', None, -32600, JSONRPC),
    ('{"jsonrpc":"2.0","method":1,"params":"bar"}', None, -32600, JSONRPC),
    # under its own id wherever that can be read
    ('{"jsonrpc":"2.0","method":1,"id":4}', 4, -32600, JSONRPC),
    ('{"jsonrpc":"2.0","id":4}', 4, -32600, JSONRPC),
    ('{"jsonrpc":"1.0","method":"f","id":4}', 4, -32600, JSONRPC),
    ('{"jsonrpc":2.0,"method":"f","id":4}', 4, -32600, JSONRPC),
    ('{"jsonrpc":"2.0","method":"\\ud800","id":4}', 4, -32600, JSONRPC),
    ('{"jsonrpc":"2.0","method":null,"id":"a"}', 'a', -32600, JSONRPC),
    ('{"serial":4}', 4, -32600, WSRPC1),
    ('{"serial":4,"call":5}', 4, -32600, WSRPC1),
    ('{"serial":4,"type":"other","call":"f"}', 4, -32600, WSRPC1),
    ('{"serial":4,"type":"call"}', 4, -32600, WSRPC1),
    ('{"id":4}', 4, -32600, WSRPC2),
    ('{"id":4,"method":[]}', 4, -32600, WSRPC2),
    # ids that are none
    *[(fill('{"jsonrpc":"2.0","method":"f","id":<>}', id),
       None, -32600, JSONRPC)
      for id in ('true', '1.5', '1.0', '1e2', '[]', '{}', '"\\ud800"',
                 '"%s"' % ('x' * 65), '9007199254740992',
                 '-9007199254740992', '18446744073709551616',
                 '1' * 4000)],
    *[(fill('{"serial":<>,"call":"f"}', id), None, -32600, WSRPC1)
      for id in ('true', '[]', '"%s"' % ('x' * 65), '9007199254740992')],
    *[(fill('{"id":<>,"method":"f"}', id), None, -32600, WSRPC2)
      for id in ('true', '[]', '"%s"' % ('x' * 65), '9007199254740992')],
    # more digits than Python reads
    ('{"jsonrpc":"2.0","method":"f","id":%s}' % ('1' * 5000),
     None, -32700, None),
]


@pytest.mark.parametrize(('text', 'id', 'code', 'dialect'), NO_MESSAGES,
                         ids=[text[:60] for text, *_ in NO_MESSAGES])
def test_what_is_no_message_is_told_with_the_answer_it_gets(
        text: str, id: Any, code: int, dialect: Any) -> None:
    assert plain(decode(text.encode())) == ('bad', id, code, dialect)


# -- batches ------------------------------------------------------------------

def test_a_batch_gives_each_of_its_items() -> None:
    text = (b' [{"jsonrpc":"2.0","method":"f","id":1},'
            b'{"jsonrpc":"2.0","method":"g"},{"foo":"boo"},1,[],[{}],'
            b'{"jsonrpc":"2.0","id":2,"result":0},'
            b'{"serial":3,"call":"h"}] ')
    assert plain(decode(text)) == (
        'batch',
        ('call', 1, 'f', None, JSONRPC),
        ('call', NO_ID, 'g', None, JSONRPC),
        ('bad', None, -32600, JSONRPC),
        ('bad', None, -32600, JSONRPC),
        ('bad', None, -32600, JSONRPC),
        ('bad', None, -32600, JSONRPC),
        ('result', 2, 0),
        ('call', 3, 'h', None, WSRPC1))


def test_a_batch_is_told_after_any_white_space() -> None:
    text = b' ' * 100 + b'[{"jsonrpc":"2.0","method":"f","id":1}]'
    assert plain(decode(text)) == (
        'batch', ('call', 1, 'f', None, JSONRPC))


@pytest.mark.parametrize(('items', 'fits'), [(3, True), (4, False)])
def test_a_batch_has_a_limit(items: int, fits: bool) -> None:
    batch = decode(b'[%s]' % b','.join([b'1'] * items), max_batch=3)
    assert isinstance(batch, Batch) == fits
    if not fits:
        assert plain(batch) == ('bad', None, -32010, JSONRPC)


@pytest.mark.parametrize(('max_batch', 'items'), [
    (3, 300_000), (1000, 300_000), (1001, 1002)])
def test_a_batch_is_too_large_whatever_stands_in_it(max_batch: int,
                                                    items: int) -> None:
    for item in (b'{}', b'[1,2]', b'"a,b"'):
        text = b'[%s]' % b','.join([item] * items)
        assert plain(decode(text, max_batch=max_batch)) == (
            'bad', None, -32010, JSONRPC)
        fits = b'[%s]' % b','.join([item] * max_batch)
        assert isinstance(decode(fits, max_batch=max_batch), Batch)


# -- what is large ------------------------------------------------------------

PAD = b',"x":[%s]' % b','.join([b'{}'] * 30_000)
SURROGATE = PAD + rb',"y":"\ud83d\ude00 \uD800 \\ud800"'


@pytest.mark.parametrize('pad', [PAD, SURROGATE])
@pytest.mark.parametrize(('text', 'id', 'code', 'dialect'), [
    case for case in NO_MESSAGES
    if case[0].endswith('}') and len(case[0]) < 4000],
    ids=lambda value: str(value)[:40])
def test_a_large_text_is_told_as_a_small_one(
        pad: bytes, text: str, id: Any, code: int, dialect: Any) -> None:
    before = text.encode().rstrip()[:-1]
    large = before + (pad if before.strip() != b'{' else pad[1:]) + b'}'
    assert plain(decode(large)) == ('bad', id, code, dialect)


@pytest.mark.parametrize(('text', 'id', 'code', 'dialect'), [
    (b'[[%s]]' % PAD[6:-1], None, -32600, JSONRPC),
    (b'"%s"' % (b'x' * 70_000), None, -32600, JSONRPC),
    (b'[%s' % PAD[6:-1], None, -32700, None),
    (b'{"id":1,"method":"f"%s' % PAD, None, -32700, None),
    (b'{"id":"%s"%s}' % (b'i' * 70_000, PAD), None, -32600, WSRPC2),
    (b'{"jsonrpc":"2.0","id":1,"method":[%s]}' % PAD[6:-1], 1, -32600,
     JSONRPC),
], ids=lambda value: str(value)[:40])
def test_large_texts_that_are_no_messages(
        text: bytes, id: Any, code: int, dialect: Any) -> None:
    message = decode(text, max_batch=1 << 20)
    if isinstance(message, Batch):
        message, = message.items
    assert plain(message) == ('bad', id, code, dialect)


@pytest.mark.parametrize('text', [
    b'{"jsonrpc":"2.0","id":4,"result":"\\ud800"%s}' % PAD,
    b'{"id":4,"error":"\\ud800"%s}' % PAD,
    b'{"serial":4,"type":"callback","data":"\\ud800"%s}' % PAD])
def test_a_large_answer_that_cannot_be_read_settles_its_call(
        text: bytes) -> None:
    answer = decode(text)
    assert isinstance(answer, Failure)
    assert answer.id == 4


MEGABYTE = {
    'a batch': b'[%s]' % b','.join([b'{}'] * 345_000),
    'a batch of scalars': b'[%s]' % b','.join([b'1'] * 524_000),
    'flat brackets': b'[]' * (1 << 19),
    'chains': b'[%s]' % b','.join([b'[' * 50 + b']' * 50] * 10_000),
    'strings of brackets': b'[%s]' % b','.join([b'["["]'] * 174_000),
    'quotes': b'"' * (1 << 20), 'backslashes': b'\\' * (1 << 20),
    'params': b'{"id":1,"method":"f","params":[%s]}' % b','.join(
        [b'{}'] * 345_000),
    'a wrong method': b'{"id":1,"method":5,"params":[%s]}' % b','.join(
        [b'{}'] * 345_000),
    'members': b'{"id":1,"method":5%s}' % (b',"a":{}' * 149_000),
    'a batch in a batch': b'[[%s]]' % b','.join([b'{}'] * 345_000),
    'surrogates': b'{"id":1,"method":5,"params":["%s"]}' % (
        rb'\ud800' * 174_000),
}


@pytest.mark.parametrize('name', MEGABYTE)
def test_no_megabyte_holds_the_loop(name: str) -> None:
    # 3 to 10 ms each; up to 41 before what is large was looked at first.
    text = MEGABYTE[name]
    assert 1_000_000 < len(text) <= 1 << 20
    took_s = []
    for _ in range(5):
        begun = time.thread_time()
        decode(text)
        took_s.append(time.thread_time() - begun)
    assert min(took_s) < 0.02


# -- depth --------------------------------------------------------------------

@pytest.mark.parametrize(('depth', 'fits'), [(100, True), (101, False)])
@pytest.mark.parametrize('shape', ['params', 'id', 'batch', 'result'])
def test_a_message_has_a_depth(shape: str, depth: int, fits: bool) -> None:
    inner = b'[' * (depth - 1) + b']' * (depth - 1)
    text = {
        'params': b'{"jsonrpc":"2.0","method":"f","params":%s}',
        'result': b'{"jsonrpc":"2.0","id":1,"result":%s}',
        'id': b'{"jsonrpc":"2.0","method":"f","id":%s}',
        'batch': b'[%s]'}[shape] % inner
    message = decode(text, max_depth=100)
    too_deep = (isinstance(message, Bad)
                and 'deeper than 100' in str(message.error))
    assert too_deep == (not fits)


@pytest.mark.parametrize('text', [
    b'[' * 100_000, b'{"a":' * 100_000, b'[' * 100_000 + b']' * 100_000,
    b'{"jsonrpc":"2.0","method":"f","params":' + b'[' * 100_000])
def test_endless_brackets_are_an_error_whatever_the_limit(text: bytes,
                                                          ) -> None:
    assert isinstance(decode(text), Bad)
    assert isinstance(decode(text, max_depth=10 ** 9), Bad | Batch)


# -- outwards -----------------------------------------------------------------

def test_replies_are_written_as_the_protocol_shows() -> None:
    # protocol.md, 1, as printed
    assert JSONRPC.encode_result(1, 65) == \
        b'{"jsonrpc":"2.0","id":1,"result":65}'
    assert WSRPC1.encode_result(3, {}) == \
        b'{"data":{},"serial":3,"type":"callback"}'
    assert WSRPC2.encode_result(3, 0) == b'{"id":3,"result":0}'


def test_failures_are_written_as_the_protocol_shows() -> None:
    assert json.loads(JSONRPC.encode_failure(None, -32700, 'Parse error')) \
        == {'jsonrpc': '2.0', 'id': None,
            'error': {'code': -32700, 'message': 'Parse error'}}
    data = {'type': 'KeyError', 'ref': 'x1'}
    assert json.loads(JSONRPC.encode_failure(1, -32000, "'x'", data)) == {
        'jsonrpc': '2.0', 'id': 1, 'error': {
            'code': -32000, 'message': "'x'", 'data': data}}
    assert json.loads(WSRPC1.encode_failure(5, -32000, "'x'", data)) == {
        'serial': 5, 'type': 'error', 'data': {
            'type': 'KeyError', 'code': -32000, 'message': "'x'",
            'data': data}}
    assert json.loads(WSRPC2.encode_failure(3, -32000, "'x'", data)) == {
        'id': 3, 'error': {'type': 'KeyError', 'code': -32000,
                           'message': "'x'", 'data': data}}


@pytest.mark.parametrize(('code', 'kind'), [
    (-32601, 'MethodNotFound'), (-32602, 'InvalidParams'),
    (-32009, 'Busy'), (5, 'RPCError')])
def test_wsrpc_failures_always_have_a_type(code: int, kind: str) -> None:
    assert json.loads(WSRPC1.encode_failure(
        1, code, 'no'))['data']['type'] == kind
    assert json.loads(WSRPC2.encode_failure(
        1, code, 'no'))['error']['type'] == kind


@pytest.mark.parametrize(('args', 'kwargs', 'params'), [
    ((), None, None), ((), {}, None), ((1, 2), None, [1, 2]),
    ((), {'a': 1}, {'a': 1}), ((None,), None, [None]), (([],), {}, [[]])])
def test_calls_carry_positional_or_keyword_arguments(
        args: Any, kwargs: Any, params: Any) -> None:
    expected = {} if params is None else {'params': params}
    assert json.loads(JSONRPC.encode_call(2, 'f', args, kwargs)) == {
        'jsonrpc': '2.0', 'method': 'f', 'id': 2, **expected}
    assert json.loads(JSONRPC.encode_call(NO_ID, 'f', args, kwargs)) == {
        'jsonrpc': '2.0', 'method': 'f', **expected}
    assert json.loads(WSRPC1.encode_call(2, 'f', args, kwargs)) == {
        'serial': 2, 'type': 'call', 'call': 'f', 'arguments': params}
    assert json.loads(WSRPC2.encode_call(2, 'f', args, kwargs)) == {
        'id': 2, 'method': 'f', 'params': params}


@pytest.mark.parametrize('dialect', ALL, ids=list(DIALECTS))
def test_a_call_with_both_kinds_of_arguments_is_refused(dialect: Dialect,
                                                        ) -> None:
    with pytest.raises(TypeError, match='not both'):
        dialect.encode_call(2, 'f', (1,), {'a': 1})


EVENT = {'subscription': 's1', 'result': {'msg': None}, 'topic': 'news'}


@pytest.mark.parametrize(('event', 'params'), [
    (Event('news', b'{"msg":null}', subscription='s1'), EVENT),
    (Event('news', b'{"msg":null}', 9, 'e1', 's1'),
     {**EVENT, 'offset': 9, 'epoch': 'e1'}),
    (Event('news', msgspec.Raw(b'0'), 1, subscription='s1'),
     {**EVENT, 'result': 0, 'offset': 1}),
])
def test_an_event_is_a_call_that_only_wsrpc_numbers(event: Event,
                                                    params: Any) -> None:
    name = 'rpc.subscription'
    assert json.loads(JSONRPC.encode_event(event, 4)) == {
        'jsonrpc': '2.0', 'method': name, 'params': params}
    assert json.loads(WSRPC1.encode_event(event, 4)) == {
        'serial': 4, 'type': 'call', 'call': name, 'arguments': params}
    assert json.loads(WSRPC2.encode_event(event, 4)) == {
        'id': 4, 'method': name, 'params': params}


# -- results ------------------------------------------------------------------

@pytest.mark.parametrize('dialect', ALL, ids=list(DIALECTS))
@pytest.mark.parametrize('value', ANSWERS, ids=repr)
def test_falsy_and_other_answers_arrive_as_they_are(dialect: Dialect,
                                                    value: Any) -> None:
    kind, id, arrived = plain(decode(dialect.encode_result(3, value)))
    assert (kind, id, arrived) == ('result', 3, value)
    assert type(arrived) is type(value)     # 0 is not False


class Colour(enum.Enum):
    RED = 'red'
    NOTHING = float('nan')


class Point(msgspec.Struct):
    x: Any
    y: Any = None


@dataclasses.dataclass
class Place:
    at: Any
    name: Any = None


@pytest.mark.parametrize(('value', 'text'), [
    (Point(1), b'{"x":1,"y":null}'),
    (Place(Point(1.5)), b'{"at":{"x":1.5,"y":null},"name":null}'),
    (datetime.datetime(2026, 11, 20, tzinfo=datetime.UTC),
     b'"2026-11-20T00:00:00Z"'),
    (uuid.UUID(int=1), b'"00000000-0000-0000-0000-000000000001"'),
    (decimal.Decimal('1.10'), b'"1.10"'),
    (decimal.Decimal('NaN'), b'"NaN"'),
    (Colour.RED, b'"red"'),
    ({1}, b'[1]'),
    (frozenset(['null']), b'["null"]'),
    (b'null', b'"bnVsbA=="'),
    ([bytearray(b'x'), memoryview(b'x'), None], b'["eA==","eA==",null]'),
    ((None, 'null'), b'[null,"null"]'),
    (2 ** 53 + 1, b'9007199254740993'),
    (10 ** 400, b'1' + b'0' * 400),
    (-0.0, b'-0.0'),
    (msgspec.Raw(b'[null]'), b'[null]'),
    (Point(msgspec.Raw(b'null')), b'{"x":null,"y":null}'),
    (Place([msgspec.Raw(b'null')]), b'{"at":[null],"name":null}'),
    ({'null': Point(None)}, b'{"null":{"x":null,"y":null}}'),
])
def test_results_are_sent_as_exact_json(value: Any, text: bytes) -> None:
    assert encode_json(value) == text
    assert JSONRPC.encode_result(1, value) == \
        b'{"jsonrpc":"2.0","id":1,"result":%s}' % text


NOT_A_NUMBER = [float('nan'), float('inf'), float('-inf')]


@pytest.mark.parametrize('number', NOT_A_NUMBER, ids=repr)
@pytest.mark.parametrize('shape', [
    lambda x: x, lambda x: [None, x], lambda x: (x,), lambda x: {x},
    lambda x: frozenset([x]), lambda x: {'a': {'b': [x]}}, Point, Place,
    lambda x: [Point(Place({x}))], lambda x: Place([{'a': Point(0, x)}]),
    lambda x: {'a': (Place(x), msgspec.Raw(b'null'))}])
def test_nan_and_infinities_anywhere_in_a_result_are_refused(
        shape: Any, number: float) -> None:
    for encode in (encode_json, *[
            lambda value, dialect=dialect: dialect.encode_result(1, value)
            for dialect in ALL]):
        with pytest.raises(ValueError, match='NaN'):
            encode(shape(number))


def test_nan_as_the_value_of_an_enum_is_refused() -> None:
    with pytest.raises(ValueError, match='NaN'):
        encode_json([Colour.NOTHING])


def _endless() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(('value', 'error'), [
    (object(), TypeError), ([object()], TypeError), (len, TypeError),
    ({(1, 2): 3}, TypeError), ('\ud800', ValueError),
    (['a', {'b': '\udfff'}], ValueError), ({'\ud800': 1}, ValueError),
    (iter([]), TypeError), (_endless(), RecursionError)],
    ids=lambda value: type(value).__name__)
@pytest.mark.parametrize('dialect', ALL, ids=list(DIALECTS))
def test_a_result_that_cannot_be_sent_raises_in_all_dialects(
        dialect: Dialect, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        dialect.encode_result(1, value)
    with pytest.raises(error):
        dialect.encode_call(1, 'f', (value,))


class _Unspeakable:
    def __str__(self) -> str:
        raise KeyError('str')


class _Zone(datetime.tzinfo):
    def utcoffset(self, _: Any) -> Any:
        raise KeyError('zone')


@pytest.mark.parametrize('dialect', ALL, ids=list(DIALECTS))
@pytest.mark.parametrize(('code', 'message', 'data'), [
    (5, 'no', object()), (5, 'no', float('nan')), (5, 'no', '\ud800'),
    (5, 'no', _endless()), (5, 'no', datetime.datetime(
        2026, 1, 1, tzinfo=_Zone())), (5, '\ud800', None),
    (5, ValueError('no'), None), (5, _Unspeakable(), object()),
    (5, None, None), ('E', 'no', None), ('E', 'no', object()),
    (None, 'no', None), (1.5, 'no', None), ([], 'no', object()),
    (2 ** 70, 'no', None), (True, 'no', None)])
def test_a_failure_can_always_be_written(dialect: Dialect, code: Any,
                                         message: Any, data: Any) -> None:
    answer = decode(dialect.encode_failure(3, code, message, data))
    assert isinstance(answer, Failure)
    assert answer.id == 3
    assert answer.error.code == (
        int(code) if isinstance(code, int) and code < 2 ** 31 else -32000)
    if message == 'no':
        assert answer.error.message == 'no'


def test_a_lone_surrogate_in_a_failure_is_escaped() -> None:
    text = JSONRPC.encode_failure(1, 5, 'a\ud800b')
    assert json.loads(text)['error']['message'] == r'a\ud800b'


# -- whatever comes -----------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(), inner, max_size=4), max_leaves=8)
MEMBERS = st.sampled_from(
    ['jsonrpc', 'method', 'params', 'id', 'result', 'error', 'serial',
     'call', 'arguments', 'data', 'type', '_meta', 'extra'])
LIKELY = st.sampled_from(
    ['2.0', 'f', 1, 0, None, [], {}, 'call', 'callback', 'error', '', False,
     {'code': 1, 'message': 'x'}])
NEARLY = st.dictionaries(MEMBERS, LIKELY | JSON, max_size=6)
IDS = (st.none() | st.text(max_size=64) | st.integers(-2 ** 53 + 1,
                                                      2 ** 53 - 1))


def _check_shape(message: Any, in_batch: bool = False) -> None:
    if isinstance(message, Batch):
        assert not in_batch
        for item in message.items:
            _check_shape(item, in_batch=True)
        return
    assert isinstance(message, Call | Result | Failure | Bad)
    if not isinstance(message, Bad):
        return
    # Its answer can be written, and is one.
    dialect = message.dialect or JSONRPC
    answer = decode(dialect.encode_failure(
        message.id, message.error.code, message.error.message))
    assert isinstance(answer, Failure)
    assert answer.id == message.id


@given(st.binary(max_size=200))
def test_decode_never_raises_for_any_bytes(text: bytes) -> None:
    _check_shape(decode(text))


@given(NEARLY | JSON | st.lists(NEARLY | JSON, max_size=4), st.booleans())
def test_decode_never_raises_for_any_json(value: Any, escaped: bool,
                                          ) -> None:
    text = json.dumps(value, ensure_ascii=escaped)
    _check_shape(decode(text.encode('utf-8', 'surrogatepass')))


@given(st.data())
def test_decode_never_raises_for_a_message_with_a_byte_changed(data: Any,
                                                               ) -> None:
    text = bytearray(data.draw(st.sampled_from(
        [text for text, _ in CALLS + ANSWERED])).encode())
    at = data.draw(st.integers(0, len(text) - 1))
    text[at] = data.draw(st.integers(0, 255))
    _check_shape(decode(bytes(text)))


@given(st.sampled_from(ALL), IDS, st.text(), st.lists(JSON, max_size=3),
       st.dictionaries(st.text(), JSON, max_size=3), st.booleans())
def test_any_call_comes_back_from_its_text(
        dialect: Dialect, id: Any, name: str, args: Any, kwargs: Any,
        positional: bool) -> None:
    if positional:
        kwargs = {}
    else:
        args = []
    call = decode(dialect.encode_call(id, name, tuple(args), kwargs))
    assert plain(call) == ('call', id, name, args or kwargs or None, dialect)


@given(st.sampled_from(ALL), IDS, JSON)
def test_any_result_comes_back_from_its_text(dialect: Dialect, id: Any,
                                             value: Any) -> None:
    answer = decode(dialect.encode_result(id, value))
    assert plain(answer) == ('result', id, value)


@given(st.sampled_from(ALL), IDS, st.integers(-2 ** 31, 2 ** 31 - 1),
       st.text(), JSON)
def test_any_failure_comes_back_from_its_text(
        dialect: Dialect, id: Any, code: int, message: str,
        data: Any) -> None:
    answer = decode(dialect.encode_failure(id, code, message, data))
    assert isinstance(answer, Failure)
    assert (answer.id, answer.error.code, answer.error.message,
            answer.error.data) == (id, code, message, data)
    assert not isinstance(answer.error, errors.RPCError)


def test_a_member_of_another_dialect_is_unknown_to_jsonrpc():
    text = b'{"jsonrpc":"2.0","method":"add","id":1,"type":5,"call":null}'
    call = decode(text)
    assert isinstance(call, Call)
    assert (call.id, call.name) == (1, 'add')
