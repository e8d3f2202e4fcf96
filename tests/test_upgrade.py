"""The opening handshake, header by header (RFC 6455 4.2; threats A6)."""
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cp_wsrpc.upgrade import (
    accept_of,
    choose_subprotocol,
    fault_of,
    fields_of,
    has_body,
    is_attempt,
)

GOOD = {'Host': 'localhost', 'Upgrade': 'websocket',
        'Connection': 'Upgrade', 'Sec-WebSocket-Version': '13',
        'Sec-WebSocket-Key': 'dGhlIHNhbXBsZSBub25jZQ=='}


def asked(**changes):
    lines = []
    for name, value in {**GOOD, **changes}.items():
        values = value if isinstance(value, list) else [value]
        lines += [(name.replace('_', '-'), each) for each in values
                  if each is not None]
    return fields_of(lines)


@pytest.mark.parametrize('changes', [
    {}, {'Upgrade': 'WebSocket'}, {'Upgrade': 'h2c, websocket'},
    {'Upgrade': ['h2c', 'websocket']}, {'Connection': 'upgrade'},
    {'Connection': 'keep-alive, Upgrade'}, {'Content-Length': '0'},
])
def test_a_good_handshake_has_no_fault(changes):
    assert fault_of('GET', (1, 1), asked(**changes)) is None


@pytest.mark.parametrize('status, changes', [
    (426, {'Upgrade': None}), (426, {'Upgrade': ''}),
    (426, {'Upgrade': 'nowebsocket'}), (426, {'Upgrade': 'websocket/13'}),
    (426, {'Upgrade': 'web, socket'}), (426, {'Upgrade': 'websockets'}),
    (400, {'Connection': None}), (400, {'Connection': 'keep-alive'}),
    (400, {'Connection': 'noupgrade'}),
    (426, {'Sec-WebSocket-Version': None}),
    *((426, {'Sec-WebSocket-Version': version}) for version in (
        '0', '8', '12', '14', '013', '13.0', '-13', 'x', '13, 13', '')),
    (400, {'Sec-WebSocket-Key': None}), (400, {'Sec-WebSocket-Key': ''}),
    *((400, {'Sec-WebSocket-Key': key}) for key in (
        'short', 'dGhlIHNhbXBsZSBub25jZQ', 'dGhlIHNhbXBsZSBub25jZQ=',
        'dGhlIHNhbXBsZSBub25jZQ==A', 'dGhlIHNhbXBsZSBub25j', 'a' * 24,
        'dGhlIHNhbXBsZSBub25jZSE=', '?' * 22 + '==', 'dGhl IHNhbXBsZSBub2=',
        '\xe9' * 22 + '==', 'A' * 400_000)),
    (400, {'Sec-WebSocket-Key': [GOOD['Sec-WebSocket-Key']] * 2}),
    (400, {'Content-Length': '5'}), (400, {'Content-Length': 'x'}),
    (400, {'Transfer-Encoding': 'chunked'}),
])
def test_a_bad_one_is_told_what_is_wrong(status, changes):
    fault = fault_of('GET', (1, 1), asked(**changes))
    assert fault.status == status
    assert fault.sentence.isprintable()


@pytest.mark.parametrize('method, protocol, status', [
    ('POST', (1, 1), 405), ('PUT', (1, 1), 405), ('HEAD', (1, 1), 405),
    ('OPTIONS', (1, 1), 405), ('GET', (1, 0), 426), ('GET', (0, 9), 426),
])
def test_only_a_get_of_http_1_1_is_a_handshake(method, protocol, status):
    assert fault_of(method, protocol, asked()).status == status


def test_the_answer_says_what_would_do():
    fault = fault_of('GET', (1, 1), asked(**{'Sec-WebSocket-Version': '8'}))
    assert fault.headers == {'Upgrade': 'websocket', 'Connection': 'Upgrade',
                             'Sec-WebSocket-Version': '13'}
    assert fault_of('POST', (1, 1), asked()).headers == {'Allow': 'GET'}


def test_a_key_without_upgrade_is_a_proxys_doing():
    fault = fault_of('GET', (1, 1), asked(Upgrade=None, Connection='close'))
    assert fault.sentence.startswith('a proxy dropped Upgrade (nginx: ')


@pytest.mark.parametrize('lines, expected', [
    ([], False), ([('Upgrade', 'h2c')], False),
    ([('Upgrade', 'websocket')], True), ([('UPGRADE', 'WebSocket')], True),
    ([('Upgrade', 'nowebsocket')], True), ([('Upgrade', 'h2c'),
                                            ('Upgrade', 'websocket')], True),
    ([('Sec-WebSocket-Key', '')], True),
    ([('Sec-WebSocket-Version', '13')], False),
])
def test_an_attempt_is_told_from_a_plain_request(lines, expected):
    assert is_attempt(fields_of(lines)) is expected


@pytest.mark.parametrize('lines, expected', [
    ([], False), ([('Content-Length', '0')], False),
    ([('Content-Length', '1')], True),
    ([('Content-Length', '0'), ('Content-Length', '1')], True),
    ([('Transfer-Encoding', 'chunked')], True),
])
def test_a_body_is_seen_in_the_head(lines, expected):
    assert has_body(fields_of(lines)) is expected


def test_the_accept_value_is_that_of_the_rfc():
    assert accept_of(asked()) == b's3pPLMBiTxaQ9kYGzzhZRbK+xOo='


@pytest.mark.parametrize('offered, expected', [
    (None, None), ('', None), ('chat', 'chat'), ('x, chat', 'chat'),
    ('wsrpc2, chat', 'wsrpc2'), ('chat,wsrpc2', 'chat'),
    (['x', 'wsrpc2'], 'wsrpc2'), ('CHAT', None), ('chatx', None),
    ('cha t', None), (',,', None),
])
def test_the_clients_first_known_subprotocol_is_the_one(offered, expected):
    fields = asked(**{'Sec-WebSocket-Protocol': offered})
    assert choose_subprotocol(fields, ('wsrpc2', 'chat')) == expected


@given(st.lists(st.tuples(
    st.sampled_from([*GOOD, 'Content-Length', 'Sec-WebSocket-Protocol']),
    st.text(st.characters(max_codepoint=255)) | st.sampled_from(
        sorted(GOOD.values())))))
def test_no_headers_at_all_raise(lines):
    fields = fields_of(lines)
    fault = fault_of('GET', (1, 1), fields)
    if fault is None:
        assert len(accept_of(fields)) == 28
    choose_subprotocol(fields, ('a',))
