"""pitfalls.md, fact by fact: which tests would fail without our code.

``INDEX`` names them.  Of the facts that plain ws4py shows, most are shown
here: one function asks a server whether the bad thing happens, which on
plain ws4py it must, and on cp_wsrpc must not (``tests.pitfalls_app``; for
the handshake, ``test_handshake_pitfalls``).  ``UNSHOWN`` says of the rest
why not.
"""
from __future__ import annotations

import ast
import contextlib
import fnmatch
import functools
import pathlib
import ssl
import struct
import time

import pytest
from ws4py.streaming import Stream as Ws4pyStream

from cp_wsrpc.framing import FrameStream

from .processes import spawn
from .rawpeer import (
    CLOSE,
    PING,
    TEXT,
    PeerClosed,
    RawPeer,
    client_frame,
    http_request,
)
from .serving import free_port

TESTS = pathlib.Path(__file__).parent
HERE = 'test_pitfalls.test_it_is_so_on_plain_ws4py_and_not_on_ours'
HANDSHAKE = ('test_handshake_pitfalls.'
             'test_it_is_so_on_plain_ws4py_and_not_on_ours')

#: {fact: tests of ours}; those in HERE and HANDSHAKE run on both.
INDEX = {
    **{str(number): [HANDSHAKE] for number in range(1, 12)},
    '12': ['test_tool.*proxy*'],
    '12a': [HANDSHAKE, 'test_tool.*'],
    '13': [HERE, 'test_tls.test_the_first_reply_needs_no_second_message',
           'test_transport.test_all_that_openssl_holds_is_read'],
    '14': [HERE, 'attack.test_memory.test_b1_announced_lengths'],
    '15': ['test_framing.*'],
    '16': ['test_pitfalls.test_two_frames_at_once_are_two_frames'],
    '17': [HERE, 'attack.test_frames.test_b8_frames_that_no_client_may_send',
           'attack.test_frames.test_b10_codes_of_a_close',
           'attack.test_frames.test_b9_a_close_between_fragments_is_a_close'],
    '17a': ['attack.test_frames.'
            'test_b9_a_bad_byte_is_found_before_its_frame_ends'],
    '18': [HERE, 'test_websocket.test_a_hook_that_raises_hurts_nobody',
           'test_ioloop.test_a_fault_of_ours_ends_one_socket_alone'],
    '19': [HERE, 'test_websocket.test_we_close_and_the_peer_answers',
           'test_websocket.test_we_close_and_the_peer_says_nothing'],
    '20': [HERE,
           'test_ioloop.test_frames_of_four_threads_to_a_slow_reader_are_'
           'whole',
           'test_tls.test_four_threads_send_and_nothing_breaks',
           'attack.test_memory.test_b7_a_peer_that_never_reads'],
    '21': ['test_shutdown.'
           'test_sigterm_under_load_flushes_replies_and_ends_in_time'],
    '22': [HERE, 'test_ioloop.'
           'test_a_half_open_peer_is_given_up_once_with_1006'],
    '23': [HERE, 'test_websocket.test_send_after_close_writes_nothing',
           'test_websocket.test_a_long_reason_is_cut_at_a_code_point'],
    '24': [HERE, 'test_websocket.test_what_opened_sends_goes_out_first'],
    '25': ['test_pitfalls.test_the_engine_can_be_started_again',
           'test_pitfalls.test_a_handler_may_end_the_process',
           'test_plugin.test_it_can_be_stopped_and_started_again',
           'test_shutdown.test_a_call_may_end_the_process'],
    '26': ['test_plugin.test_sockets_hear_of_a_stop_before_the_http_server',
           'test_shutdown.'
           'test_a_method_that_waits_for_its_client_is_set_free'],
    '27': ['test_plugin.'
           'test_no_method_is_taken_for_a_listener_because_of_its_name'],
    '28': ['test_plugin.test_options_are_read_at_start',
           'test_plugin.test_an_unknown_option_of_the_engine_is_an_error'],
    '29': ['test_invocation.*', 'test_plugin.'
           'test_graceful_keeps_sockets_and_rebuilds_all_else'],
    '30': ['test_host_session.*', 'attack.test_sessions.'
           'test_a5_the_next_call_of_a_gone_session_is_refused'],
    '34': ['test_host_socket.*'],
    '36': ['test_client*.*'],
    '37': ['test_client*.*'],
}

#: {fact: why no test of ours fails on plain ws4py, or there is none}
UNSHOWN = {
    '12': 'plain ws4py looks at no Origin, after tools.proxy or before',
    '15': 'a matter of speed: bench/ measures it beside ws4py',
    '17a': 'a question that only a one-pass cutter asks',
    '21': 'plain ws4py takes 40 s to end; too long for each run',
    '26': "CherryPy's own order, which ws4py does not use",
    '27': "ws4py's plugin has no method of such a name",
    '28': "ws4py's plugin has no options",
    '29': 'ws4py runs no code of an application that would need it',
    '30': 'ws4py keeps nothing of a session',
    '31': 'a loop of CherryPy over file descriptors; the docs name it',
    '32': "cheroot's backlog and accept loop; the docs give the settings",
    '33': 'several processes on one port: to come with the cluster',
    '34': "cheroot's cycle; ours is cut when the socket is taken",
    '35': 'modules of ws4py that cp_wsrpc does not import',
    '36': "of ws4py's client; shown in the tests of ours",
    '37': "of ws4py's client; shown in the tests of ours",
}


@functools.cache
def names_of_tests():
    """``{'test_tool': {'test_x', ...}, 'attack.test_frames': {...}}``."""
    found = {}
    for path in TESTS.rglob('test_*.py'):
        module = '.'.join(path.relative_to(TESTS).with_suffix('').parts)
        found[module] = {
            node.name for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.FunctionDef)}
    return found


def test_each_fact_has_a_test_or_a_reason():
    facts = {*map(str, range(1, 38)), '12a', '17a'}
    assert set(INDEX) | set(UNSHOWN) == facts
    shown = {fact for fact, names in INDEX.items()
             if HERE in names or HANDSHAKE in names}
    shown |= {'16', '25'}           # by tests of their own, below
    assert shown | set(UNSHOWN) == facts
    assert {str(number) for number, _ in FACTS} | {'16', '25'} \
        == {fact for fact in shown if HANDSHAKE not in INDEX[fact]}


@pytest.mark.parametrize('fact', INDEX)
def test_the_tests_that_the_index_names_exist(fact):
    tests = names_of_tests()
    for name in INDEX[fact]:
        module, _, function = name.rpartition('.')
        assert any(fnmatch.fnmatch(test, function)
                   for known in fnmatch.filter(tests, module)
                   for test in tests[known] if test.startswith('test_')
                   ), name


# -- both servers ----------------------------------------------------------


class Ports:
    """Servers of both kinds, started when asked for."""

    def __init__(self, stack):
        self._stack = stack
        self._ports = {}
        self.authority = {}

    def get(self, which, how=''):
        port = self._ports.get((which, how))
        if port is None:
            port = self._ports[which, how] = free_port()
            process = self._stack.enter_context(spawn(
                'tests.pitfalls_app', which, str(port), how, ready='Ready'))
            if how == 'tls':
                self.authority[which] = process.wait_for(
                    'authority (.*)')[1]
        return port

    def give_up(self, which):
        """The next to ask gets another: plain ws4py's is broken now."""
        if which == 'plain':
            del self._ports[which, '']


@pytest.fixture(scope='module')
def ports():
    with contextlib.ExitStack() as stack:
        yield Ports(stack)


#: How long one of the two is waited for, who should be silent; and who
#: should say something, on a machine that does other work as well.
SILENT_S, SURE_S = 0.4, 10.0


def patience(sure, which):
    """``patience('ours', which)``: ours is it that says something."""
    return SURE_S if which == sure else SILENT_S


def hears(peer, question, timeout_s):
    """Whether a question is echoed."""
    try:
        peer.send_text(question)
        while peer.recv_text(timeout_s) != question:
            pass
    except (PeerClosed, TimeoutError, OSError):
        return False
    return True


def wss_is_one_message_behind(ports, which):
    port = ports.get(which, 'tls')
    context = ssl.create_default_context(cafile=ports.authority[which])
    with RawPeer(port, '/echo/', tls=context) as peer:
        return not hears(peer, 'x', patience('ours', which))


def an_announced_length_is_waited_for(ports, which):
    with RawPeer(ports.get(which), '/echo/') as peer:
        peer.send_frame(TEXT, b'', length=1 << 33, length_bytes=8)
        try:
            return peer.recv_close(patience('ours', which))[0] != 1009
        except (TimeoutError, PeerClosed):
            return True


def an_unmasked_frame_is_taken(ports, which):
    with RawPeer(ports.get(which), '/echo/') as peer:
        peer.send_frame(TEXT, b'', mask=False)
        return hears(peer, 'x', SURE_S)     # ours closes


def an_empty_close_is_answered_with_1005_on_the_wire(ports, which):
    with RawPeer(ports.get(which), '/echo/') as peer:
        peer.send_frame(CLOSE, b'')
        while True:
            opcode, payload = peer.recv_frame()
            if opcode == CLOSE:
                return payload[:2] == struct.pack('!H', 1005)


def an_exception_in_closed_makes_all_sockets_deaf(ports, which):
    port = ports.get(which)
    ports.give_up(which)
    with RawPeer(port, '/echo/') as other:
        assert hears(other, 'before', SURE_S)
        with RawPeer(port, '/broken/') as broken:
            assert hears(broken, 'x', SURE_S)
            broken.send_frame(CLOSE, struct.pack('!H', 1000))
            with contextlib.suppress(PeerClosed, TimeoutError):
                broken.recv_close(patience('ours', which))
        http = http_request(port, '/threads').status == 200
        return http and not hears(other, 'after', patience('ours', which))


def closed_is_not_called_after_a_close_of_ours(ports, which):
    port = ports.get(which)
    with RawPeer(port, '/leaving/') as peer:
        before = len(http_request(port, '/closed').body)
        peer.send_text('go')
        peer.recv_close()
        peer.send_frame(CLOSE, struct.pack('!H', 4000))
        deadline = time.monotonic() + patience('ours', which)
        while len(http_request(port, '/closed').body) == before:
            if time.monotonic() > deadline:
                return True
    return False


def a_broadcast_waits_for_a_peer_that_does_not_read(ports, which):
    port = ports.get(which)
    ports.give_up(which)
    with RawPeer(port, '/echo/', receive_buffer=4096) as deaf:
        assert hears(deaf, 'x', SURE_S)
        try:
            answer = http_request(port, '/broadcast?size=1000000',
                                  timeout_s=patience('ours', which))
        except TimeoutError:
            return True
        assert answer.status == 200
        return False


def a_silent_peer_is_never_pinged(ports, which):
    with RawPeer(ports.get(which), '/echo/') as peer:
        try:
            return peer.recv_frame(patience('ours', which))[0] != PING
        except TimeoutError:
            return True


def a_frame_goes_out_after_the_close(ports, which):
    with RawPeer(ports.get(which), '/leaving/') as peer:
        peer.send_text('go')
        peer.recv_close()
        try:
            return peer.recv_frame(patience('plain', which))[0] == TEXT
        except (TimeoutError, PeerClosed):
            return False


def a_long_reason_makes_a_frame_that_is_none(ports, which):
    with RawPeer(ports.get(which), '/leaving/') as peer:
        peer.send_text('long')
        try:
            opcode, payload = peer.recv_frame(SURE_S)
        except (TimeoutError, PeerClosed):
            return True
        return opcode != CLOSE or len(payload) > 125


def a_broadcast_from_opened_misses_the_socket_itself(ports, which):
    with RawPeer(ports.get(which), '/greeting/') as peer:
        try:
            return peer.recv_text(
                patience('ours', which)) != 'somebody came'
        except TimeoutError:
            return True


FACTS = [
    (13, wss_is_one_message_behind), (14, an_announced_length_is_waited_for),
    (17, an_unmasked_frame_is_taken),
    (17, an_empty_close_is_answered_with_1005_on_the_wire),
    (18, an_exception_in_closed_makes_all_sockets_deaf),
    (19, closed_is_not_called_after_a_close_of_ours),
    (20, a_broadcast_waits_for_a_peer_that_does_not_read),
    (22, a_silent_peer_is_never_pinged),
    (23, a_frame_goes_out_after_the_close),
    (23, a_long_reason_makes_a_frame_that_is_none),
    (24, a_broadcast_from_opened_misses_the_socket_itself),
]


@pytest.mark.parametrize('number, fact', [
    pytest.param(number, fact, id=f'{number}-{fact.__name__}')
    for number, fact in FACTS])
def test_it_is_so_on_plain_ws4py_and_not_on_ours(ports, number, fact):
    assert fact(ports, 'plain') is True
    assert fact(ports, 'ours') is False


def test_two_frames_at_once_are_two_frames():
    frames = client_frame(TEXT, b'one') + client_frame(TEXT, b'two')
    plain = Ws4pyStream(always_mask=False, expect_masking=True)
    plain.parser.send(frames)
    assert plain.message is not None
    plain.message = None
    with contextlib.suppress(Exception):
        plain.parser.send(b'')
    assert plain.message is None
    assert FrameStream().feed(frames) == [b'one', b'two']


@pytest.mark.parametrize('which, code', [('plain', 70), ('ours', 0)])
def test_the_engine_can_be_started_again(which, code):
    with spawn('tests.pitfalls_app', which, str(free_port()),
               'cycle') as process:
        assert process.wait(20) == code


@pytest.mark.parametrize('which, code', [('plain', 70), ('ours', 0)])
def test_a_handler_may_end_the_process(which, code):
    port = free_port()
    with spawn('tests.pitfalls_app', which, str(port),
               ready='Ready') as process:
        with RawPeer(port, '/exiting/') as peer:
            peer.send_text('go')
            with contextlib.suppress(PeerClosed):
                peer.recv_close()
                peer.send_frame(CLOSE, struct.pack('!H', 1001))
                peer.recv_eof()
        assert process.wait(20) == code
