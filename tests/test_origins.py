"""Who may connect from where; threats A1 and A2 without a server."""
from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cp_wsrpc.origins import (
    host_refusal,
    is_loopback,
    origin_refusal,
    parse_host,
    parse_origin,
)

BASE = 'http://good.example:8080'


@pytest.mark.parametrize('base, origin', [
    ('http://good.example:8080', 'http://good.example:8080'),
    ('http://good.example', 'http://good.example'),
    ('http://good.example', 'http://good.example:80'),
    ('http://good.example:80', 'http://good.example'),
    ('https://good.example', 'https://good.example:443'),
    ('http://GOOD.example:8080', 'http://good.example:8080'),
    ('http://good.example', 'HTTP://GOOD.EXAMPLE:80'),
    ('http://[::1]:8080', 'http://[::1]:8080'),
    ('http://[0:0::1]:8080', 'http://[::1]:8080'),
    ('http://127.0.0.1:8080', 'http://127.0.0.1:8080'),
    ('http://xn--bcher-kva.example', 'http://xn--bcher-kva.example'),
    ('https://good.example/below/a/path', 'https://good.example'),
])
def test_the_same_scheme_host_and_port_is_let_in(base, origin):
    assert origin_refusal([origin], base) is None


@pytest.mark.parametrize('origin', [
    'http://evil.example', 'http://evil.example:8080', 'null', '', ' ',
    'http://good.example', 'http://good.example:80',
    'http://good.example:8081', 'https://good.example:8080',
    'http://good.evil:8080', 'http://good.example.evil.example:8080',
    'http://good.example@evil.example:8080',
    'http://good.example:8080@evil.example',
    'http://user@good.example:8080', 'http://good.example:8080/',
    'http://good.example:8080/path', 'http://good.example:8080?q',
    'http://good.example:8080#f', 'http://good.example:8080 ',
    ' http://good.example:8080', 'http://good.example:8080\n',
    'http://good.example:8080, http://evil.example',
    'http://good.example:08080', 'http://good.example:8080.',
    'http://good.example:', 'http://good.example:99999',
    'http://good.example:-1', 'http://good.example.:8080',
    'http:good.example:8080', 'http:///good.example:8080',
    '//good.example:8080', 'good.example:8080', 'http://', 'http://[',
    'http://[::1', 'http://[:::]:8080', 'http://[fe80::1%25eth0]',
    'http://[::1]:8080', 'http://g\u043e\u043ed.example:8080',
    'http://b\xfccher.example', 'http://\xff\xfe', 'http://good.example\0',
    'http://' + 'a' * 65_536, 'x' * 65_536,
    'file://', 'http://good.example:8\u0660\u0668\u0660',
])
def test_every_other_origin_is_refused(origin):
    assert origin_refusal([origin], BASE) is not None


def test_a_missing_origin_is_let_in_and_two_are_not():
    assert origin_refusal([], BASE) is None
    sentence = origin_refusal([BASE, BASE], BASE)
    assert sentence == 'refused 2 Origin headers in one request'


def test_further_origins_are_exact_and_a_star_is_all():
    allowed = ('https://app.example', 'capacitor://localhost')
    assert origin_refusal(['https://app.example'], BASE, allowed) is None
    assert origin_refusal(['https://app.example:443'], BASE, allowed) is None
    assert origin_refusal(['capacitor://localhost'], BASE, allowed) is None
    assert origin_refusal(['http://app.example'], BASE, allowed)
    assert origin_refusal(['https://x.app.example'], BASE, allowed)
    assert origin_refusal(['null'], BASE, '*') is None


@pytest.mark.parametrize('origin, base, sentence', [
    ('https://example.com', 'http://example.com',
     'refused Origin https://example.com (this server thinks it is'
     ' http://example.com): set tools.proxy.on with X-Forwarded-Proto, or'
     " tools.wsrpc.origins = ['https://example.com']"),
    ('http://example.com:8080', 'http://example.com',
     'refused Origin http://example.com:8080 (this server thinks it is'
     ' http://example.com): let the proxy pass the port (nginx:'
     ' proxy_set_header Host $http_host), or set'
     " tools.wsrpc.origins = ['http://example.com:8080']"),
    ('https://other.example', 'http://example.com',
     'refused Origin https://other.example (this server thinks it is'
     ' http://example.com): if that site is yours, set'
     " tools.wsrpc.origins = ['https://other.example']"),
    ('', 'http://example.com',
     'refused Origin (empty) (this server thinks it is'
     ' http://example.com): that is no origin of a page; nothing to set'),
])
def test_the_sentence_holds_the_line_to_paste(origin, base, sentence):
    assert origin_refusal([origin], base) == sentence


def test_nothing_from_the_wire_stands_raw_in_the_sentence():
    sentence = origin_refusal(['a\r\nb\x1b[2J\u202e' + 'x' * 10_000], BASE)
    assert sentence.isprintable()
    assert len(sentence) < 400


@given(st.text() | st.from_regex(r'https?://[\[\]a-z0-9.:@/]*'))
@example('http://[')
@example('http://[::ffff:1.2.3.4]')
def test_no_text_raises_and_only_the_own_origin_comes_in(text):
    refused = origin_refusal([text], BASE)
    assert (refused is None) == (parse_origin(text) == parse_origin(BASE))
    refused = host_refusal(text, '127.0.0.1')
    known = ('localhost', '127.0.0.1', '[::1]')
    where = parse_host(text)
    assert (refused is None) == (where is not None
                                 and where.host in known)


@pytest.mark.parametrize('host, local', [
    ('localhost', '127.0.0.1'), ('localhost:8080', '127.0.0.1'),
    ('LOCALHOST:8080', '::1'), ('127.0.0.1:8080', '127.0.0.1'),
    ('[::1]:8080', '::1'), ('127.0.0.2:80', '127.0.0.2'),
    ('evil.example', '192.0.2.1'), ('', '192.0.2.1'),
    ('anything', ''),
])
def test_local_names_on_loopback_and_any_elsewhere(host, local):
    assert host_refusal(host, local) is None


@pytest.mark.parametrize('host', [
    'evil.example', 'evil.example:8080', 'localhost.evil.example',
    'localhost@evil.example', '', '127.0.0.1.evil.example', '[::2]',
    '192.0.2.1', 'localhost:99999', 'localhost:', '[', 'a' * 65_536,
    '\xff', 'localhost\r\n',
])
@pytest.mark.parametrize('local', ['127.0.0.1', '::1', '::ffff:127.0.0.1'])
def test_another_host_is_refused_on_loopback(host, local):
    assert host_refusal(host, local) is not None


def test_the_host_of_the_proxy_base_is_one_of_the_local_names():
    base = 'https://example.com/prefix'
    assert host_refusal('example.com', '127.0.0.1', None, base) is None
    assert host_refusal('example.com:8443', '127.0.0.1', None, base) is None
    assert host_refusal('other.example', '127.0.0.1', None, base)


def test_hosts_replace_the_default_everywhere():
    hosts = ('example.com', 'other.example:8080')
    assert host_refusal('example.com:1', '192.0.2.1', hosts) is None
    assert host_refusal('other.example:8080', '192.0.2.1', hosts) is None
    assert host_refusal('other.example:1', '192.0.2.1', hosts)
    assert host_refusal('localhost', '127.0.0.1', hosts)
    assert host_refusal('anything', '127.0.0.1', '*') is None


def test_the_sentence_of_a_host_holds_the_line_to_paste():
    assert host_refusal('example.com:80', '127.0.0.1') == (
        'refused Host example.com:80 (this server answers on 127.0.0.1 to'
        ' localhost, 127.0.0.1, [::1]): set'
        " tools.wsrpc.hosts = ['example.com'] or tools.proxy.base")


@pytest.mark.parametrize('address, expected', [
    ('127.0.0.1', True), ('127.9.9.9', True), ('::1', True),
    ('::ffff:127.0.0.1', True), ('0.0.0.0', False), ('10.0.0.1', False),
    ('', False), ('/run/app.sock', False),
])
def test_loopback_is_told_by_the_address(address, expected):
    assert is_loopback(address) is expected


def test_hosts_and_origins_are_normalized():
    assert parse_origin('HTTPS://Example.COM') == ('https', 'example.com',
                                                   443)
    assert str(parse_origin('https://example.com:443')
               ) == 'https://example.com'
    assert str(parse_origin('app://x')) == 'app://x'
    assert parse_host('[0::1]:80') == ('[::1]', 80)
