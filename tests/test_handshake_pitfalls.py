"""pitfalls.md 1-12a: what plain ws4py does at the handshake, and ours.

Each fact is one function that asks a running server whether the bad thing
happens; it is asked of the same application on plain ws4py, where it must,
and on cp_wsrpc, where it must not (``tests.handshake_app``).

12 has no row: plain ws4py looks at no Origin, before ``tools.proxy`` or
after it; ``test_tool`` shows that ours looks after it.  Of 12a, plain ws4py
runs hooks and wrappers as it leaves the page handler alone (6), answers no
426 that ``tools.caching`` could keep (every plain GET is a 500), and judges
by nothing (1); what is left of it here is ``trailing_slash``.
"""
from __future__ import annotations

import contextlib
import time

import pytest

from .processes import spawn
from .rawpeer import TEXT, PeerClosed, RawPeer, client_frame, http_request
from .test_pitfalls import patience

BASIC = {'Authorization': 'Basic YWRhOnNlY3JldA=='}
NOTHING = (PeerClosed, TimeoutError, OSError)


@pytest.fixture(scope='module')
def ports():
    with contextlib.ExitStack() as stack:
        running = {which: stack.enter_context(
            spawn('tests.handshake_app', which))
            for which in ('plain', 'ours')}
        yield {which: process.port for which, process in running.items()}


def hears(peer, question, answer, timeout_s):
    """Whether the handler's answer comes, among whatever else.

    Plain ws4py lets the bytes of a page stand between its frames.
    """
    heard = b''
    deadline = time.monotonic() + timeout_s
    try:
        peer.send_text(question)
        while answer not in heard:
            heard += peer._exactly(1, deadline)
    except NOTHING:
        return False
    return True


def sockets_of(port):
    return int(http_request(port, '/sockets').body)


def frames_are_served_after_a_401(port, which):
    with RawPeer(port, '/basic/') as peer:
        assert peer.status == 401
        return hears(peer, 'x', b'echo x', patience('plain', which))


def a_refused_handshake_leaves_its_socket(port, which):
    before = sockets_of(port)
    for _ in range(10):
        with RawPeer(port, '/forbidden/') as peer:
            assert peer.status == 403
    deadline = time.monotonic() + patience('ours', which)
    while sockets_of(port) > before + 2:
        if time.monotonic() > deadline:
            return True
    return False


def faults_are_a_500(port, which):
    statuses = set()
    for headers in ({'Sec-WebSocket-Version': None}, {'Upgrade': None},
                    {'Connection': None}, {'Sec-WebSocket-Key': 'short'},
                    {'Sec-WebSocket-Key': None}):
        with RawPeer(port, '/open/', headers) as peer:
            statuses.add(peer.status)
    return 500 in statuses


def upgrade_is_matched_anywhere(port, which):
    with RawPeer(port, '/open/', {'Upgrade': 'nowebsocket'}) as peer:
        return peer.status == 101


def http_1_0_is_taken(port, which):
    with RawPeer(port, '/open/', version='HTTP/1.0') as peer:
        return peer.status == 101


def another_sites_page_is_let_in(port, which):
    with RawPeer(port, '/open/', {'Origin': 'http://evil.example'}) as peer:
        return peer.status == 101


def two_subprotocols_are_chosen(port, which):
    headers = {'Sec-WebSocket-Protocol': 'a, b'}
    with RawPeer(port, '/protocols/', headers) as peer:
        assert peer.status == 101
        return peer.headers['sec-websocket-protocol'] != 'a'


def the_page_is_written_after_the_101(port, which):
    with RawPeer(port, '/page/') as peer:
        assert peer.status == 101
        return hears(peer, 'x', b'a page of the application',
                     patience('plain', which))


def cpstats_makes_it_deaf(port, which):
    with RawPeer(port, '/cpstats/') as peer:
        assert peer.status == 101
        return not hears(peer, 'x', b'echo x', patience('ours', which))


def bytes_in_the_requests_segment_are_lost(port, which):
    with RawPeer(port, '/open/', early=client_frame(TEXT, b'early')) as peer:
        assert peer.status == 101
        return not hears(peer, 'late', b'echo early', patience('ours', which))


def cheroots_timeout_stays_on_the_socket(port, which):
    with RawPeer(port, '/open/') as peer:
        return not hears(peer, 'timeout?', b'\x030.0', patience('ours', which))


def secrets_are_kept_with_the_environ(port, which):
    with RawPeer(port, '/basic/', BASIC) as peer:
        return hears(peer, 'secrets?', b'True', patience('plain', which))


def another_wsgi_server_is_a_500(port, which):
    return not http_request(port, '/bare').body.startswith(b'501')


def trailing_slash_redirects_the_upgrade(port, which):
    with RawPeer(port, '/open') as peer:
        return peer.status != 101


FACTS = [
    (1, frames_are_served_after_a_401),
    (2, a_refused_handshake_leaves_its_socket),
    (3, faults_are_a_500), (3, upgrade_is_matched_anywhere),
    (3, http_1_0_is_taken), (4, another_sites_page_is_let_in),
    (5, two_subprotocols_are_chosen), (6, the_page_is_written_after_the_101),
    (7, cpstats_makes_it_deaf), (8, bytes_in_the_requests_segment_are_lost),
    (9, cheroots_timeout_stays_on_the_socket),
    (10, another_wsgi_server_is_a_500),
    (11, secrets_are_kept_with_the_environ),
    ('12a', trailing_slash_redirects_the_upgrade),
]


@pytest.mark.parametrize('number, fact', [
    pytest.param(number, fact, id=f'{number}-{fact.__name__}')
    for number, fact in FACTS])
def test_it_is_so_on_plain_ws4py_and_not_on_ours(ports, number, fact):
    assert fact(ports['plain'], 'plain') is True
    assert fact(ports['ours'], 'ours') is False
