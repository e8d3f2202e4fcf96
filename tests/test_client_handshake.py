"""URL -> request, answer -> checked (RFC 6455 4.1; pitfalls 37)."""
from __future__ import annotations

import pytest
import ws4py.exc
from ws4py.client import WebSocketBaseClient

from cp_wsrpc.client_handshake import (Answer, HandshakeError, Target,
                                       accept_of, basic_auth, build_request,
                                       check_answer, header_list,
                                       parse_answer, parse_url, refusal)
from cp_wsrpc.errors import ConnectionLostError

# RFC 6455 1.3
KEY = b'dGhlIHNhbXBsZSBub25jZQ=='
ACCEPT = 's3pPLMBiTxaQ9kYGzzhZRbK+xOo='


@pytest.mark.parametrize('url, target', [
    ('ws://h', Target('ws', 'h', 80, '/')),
    ('wss://h', Target('wss', 'h', 443, '/')),
    ('http://h/api', Target('ws', 'h', 80, '/api')),
    ('https://h:8443/api', Target('wss', 'h', 8443, '/api')),
    ('WS://H/Api', Target('ws', 'h', 80, '/Api')),
    ('ws://h/api?a=1&b=%20', Target('ws', 'h', 80, '/api?a=1&b=%20')),
    ('ws://h/api#part', Target('ws', 'h', 80, '/api')),
    ('ws://h/a b/\u00e9', Target('ws', 'h', 80, '/a%20b/%C3%A9')),
    ('ws://[::1]:8080/api', Target('ws', '::1', 8080, '/api')),
    ('ws://b\u00fccher.example/', Target('ws', 'xn--bcher-kva.example', 80)),
    ('ws://ada:s%40crt@h/', Target('ws', 'h', 80, '/', None,
                                   ('ada', 's@crt'))),
    ('ws+unix:///run/a.sock', Target('ws+unix', 'localhost', 80, '/',
                                     '/run/a.sock')),
    ('ws+unix:///run/a.sock:/api?x=1', Target(
        'ws+unix', 'localhost', 80, '/api?x=1', '/run/a.sock')),
])
def test_a_url_says_where_the_endpoint_is(url, target):
    assert parse_url(url) == target


@pytest.mark.parametrize('url', [
    '', 'h/api', 'ftp://h/', 'ws://', 'ws:///api', 'ws://h:99999/',
    'ws://h:x/', 'ws+unix://'])
def test_what_is_no_url_of_an_endpoint_is_a_value_error(url):
    with pytest.raises(ValueError):
        parse_url(url)


@pytest.mark.parametrize('url, host', [
    ('ws://h/', 'h'), ('ws://h:80/', 'h'), ('ws://h:443/', 'h:443'),
    ('wss://h:443/', 'h'), ('ws://[::1]/', '[::1]'),
    ('ws://[::1]:81/', '[::1]:81')])
def test_the_host_header_has_the_port_only_when_it_is_not_the_default(
        url, host):
    assert parse_url(url).host_header == host


def test_a_request_is_its_lines():
    request = build_request(parse_url('ws://h/api'), [('Host', 'h')])
    assert request == b'GET /api HTTP/1.1\r\nHost: h\r\n\r\n'


def test_headers_are_a_dict_or_pairs():
    assert header_list({'A': '1'}) == header_list([('A', '1')]) \
        == [('A', '1')]


@pytest.mark.parametrize('name, value', [
    ('A', 'x\r\nB: y'), ('A', 'x\ny'), ('A\r\nB', 'x'), ('A b', 'x'),
    ('', 'x'), ('A:', 'x'), ('A', '\0'), ('A', '\udcd0')])
def test_a_header_cannot_break_the_request_in_two(name, value):
    with pytest.raises(ValueError):
        header_list([(name, value)])


def test_basic_authentication_is_rfc_7617s():
    assert basic_auth(('Aladdin', 'open sesame')) == (
        'Authorization', 'Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==')


@pytest.mark.parametrize('credentials', [
    'ada:secret', ('ada',), ('ada', 5), (b'ada', b'secret'),
    ('ada', 'secret', 'x'), ('ada', '\udcd0')])
def test_credentials_that_cannot_be_are_a_value_error(credentials):
    with pytest.raises(ValueError):
        basic_auth(credentials)


def test_the_accept_key_is_rfc_6455s():
    assert accept_of(KEY) == ACCEPT


def answer(**changes):
    """A right 101, with headers replaced, repeated, or left out."""
    headers = {'Upgrade': 'websocket', 'Connection': 'Upgrade',
               'Sec-WebSocket-Accept': ACCEPT}
    headers.update({name.replace('_', '-'): value
                    for name, value in changes.items()})
    return Answer(101, '', [
        (name, value) for name, values in headers.items() if values
        for value in (values if isinstance(values, list) else [values])])


@pytest.mark.parametrize('changes', [
    {}, {'Connection': 'keep-alive, Upgrade'}, {'Connection': 'upgrade'},
    {'Connection': ['keep-alive', 'Upgrade']}, {'Upgrade': 'WebSocket'},
    {'Upgrade': 'h2c, websocket'}, {'Sec_WebSocket_Extensions': ''},
    {'X_Other': 'anything'}])
def test_a_right_answer_may_be_written_in_many_ways(changes):
    assert check_answer(answer(**changes), KEY) is None


@pytest.mark.parametrize('changes, words', [
    ({'Upgrade': ''}, 'without "Upgrade'),
    ({'Upgrade': 'nowebsocket'}, 'without "Upgrade'),
    ({'Connection': 'close'}, 'without "Connection'),
    ({'Connection': 'NoUpgrade'}, 'without "Connection'),
    ({'Sec_WebSocket_Accept': ''}, 'without a Sec-WebSocket-Accept'),
    ({'Sec_WebSocket_Accept': ACCEPT.lower()}, 'wrong Sec-WebSocket-Accept'),
    ({'Sec_WebSocket_Accept': ACCEPT[:-1]}, 'wrong Sec-WebSocket-Accept'),
    ({'Sec_WebSocket_Accept': [ACCEPT, ACCEPT]},
     'wrong Sec-WebSocket-Accept'),
    ({'Sec_WebSocket_Extensions': 'permessage-deflate'}, 'extension'),
    ({'Sec_WebSocket_Protocol': 'chat'}, 'subprotocol'),
])
def test_a_wrong_answer_is_refused(changes, words):
    with pytest.raises(HandshakeError, match=words) as caught:
        check_answer(answer(**changes), KEY)
    assert caught.value.status == 101


@pytest.mark.parametrize('offered, chosen, fits', [
    (['a', 'b'], 'b', True), (['a'], 'b', False), (['a'], 'A', False),
    (['a', 'b'], ['a', 'b'], False)])
def test_one_of_the_offered_subprotocols_may_be_chosen(offered, chosen,
                                                       fits):
    got = answer(Sec_WebSocket_Protocol=chosen)
    if fits:
        assert check_answer(got, KEY, offered) == chosen
    else:
        with pytest.raises(HandshakeError, match='subprotocol'):
            check_answer(got, KEY, offered)


def plain_ws4py(head: bytes) -> None:
    """What ws4py's own client makes of the same head."""
    client = WebSocketBaseClient('ws://127.0.0.1')
    client.sock.close()
    client.key = KEY
    client.process_handshake_header(head.partition(b'\r\n')[2])


@pytest.mark.parametrize('head, fits', [
    # pitfalls 37: taken by ws4py, though it is no answer to the key
    (b'HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade', False),
    (b'HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n'
     b'Sec-WebSocket-Accept: ' + ACCEPT.lower().encode(), False),
    # refused by ws4py, though it is right
    (b'HTTP/1.1 101 x\r\nUpgrade: websocket\r\n'
     b'Connection: keep-alive, Upgrade\r\n'
     b'Sec-WebSocket-Accept: ' + ACCEPT.encode(), True),
])
def test_answers_are_judged_otherwise_than_by_plain_ws4py(head, fits):
    def taken_by(judge):
        try:
            judge(head)
        except ws4py.exc.HandshakeError:
            return False
        return True

    assert taken_by(lambda head: check_answer(parse_answer(head), KEY)) \
        is fits
    assert taken_by(plain_ws4py) is not fits


def test_an_answer_is_read_whatever_its_spaces_and_cases():
    got = parse_answer(b'HTTP/1.1 401 Not you\r\nA:1\r\nb:  2 \r\n'
                       b'c: x\r\n  y\r\na: 3')
    assert got == Answer(401, 'Not you', [
        ('A', '1'), ('b', '2'), ('c', 'x y'), ('a', '3')])
    assert got.all('a') == ['1', '3']


@pytest.mark.parametrize('head', [
    b'', b'SSH-2.0-OpenSSH', b'HTTP/2 200', b'HTTP/1.1 20 x',
    b'HTTP/1.1 200 x\r\nno header', b'HTTP/1.1 200 x\r\n: y',
    b'HTTP/1.1 200 x\r\na b: y'])
def test_what_is_no_http_is_a_handshake_error(head):
    with pytest.raises(HandshakeError):
        parse_answer(head)


@pytest.mark.parametrize('status, headers, words', [
    (401, [], 'not signed in'), (403, [], 'log says'),
    (404, [], 'no endpoint'), (503, [], 'too many'), (426, [], 'proxy'),
    (303, [('location', '/login\x1b')], r'redirected to /login\x1b'),
    (418, [], 'answered 418')])
def test_a_refusal_says_what_it_means(status, headers, words):
    error = refusal(Answer(status, 'Reason', headers), b'x' * 300,
                    parse_url('ws://h/api'))
    assert words in str(error)
    assert 'ws://h/api' in str(error)
    assert (error.status, error.body) == (status, b'x' * 200)


def test_a_handshake_error_is_a_lost_connection_and_ws4pys():
    error = HandshakeError('no', 401, [('A', 'b')], b'body')
    assert isinstance(error, ConnectionLostError)
    assert isinstance(error, ws4py.exc.HandshakeError)
    assert error.maybe_executed is False
    assert (str(error), error.headers) == ('no', [('A', 'b')])
