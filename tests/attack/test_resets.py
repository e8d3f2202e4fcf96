"""Threats D3: a peer goes with a RST, in every state of a connection."""
from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from ..serving import wait_until
from . import FULL
from .resets import STATES, TLS_STATES, reset
from .test_surroundings import ledger

#: Resets in each state: 10 000 in full size, over ws and wss.
ROUNDS = {'ws': 125 if FULL else 3, 'wss': 50 if FULL else 1}
AT_ONCE = 4 if FULL else 1


def counters(site):
    now = ledger(site)
    return {kind: (told['opened'], told['closed'], told['twice'],
                   told['unasked']) for kind, told in now.items()}


def states_of(site):
    return {**STATES, **TLS_STATES} if site.tls else STATES


def test_d3_the_states_are_forty():
    assert len(STATES) >= 40


@pytest.mark.timeout(900 if FULL else 60)
def test_d3_a_reset_in_any_state_ends_the_connection_once(wire, victim):
    states = states_of(wire)
    rounds = ROUNDS['wss' if wire.tls else 'ws']
    seed = random.randrange(1 << 32)
    print(f'seed {seed}, {len(states)} states, {rounds} rounds')
    order = list(states) * rounds
    random.Random(seed).shuffle(order)
    before, began = wire.stats(), counters(wire)

    def attack(name):
        try:
            reset(states[name](wire))
        except Exception as error:
            raise AssertionError(f'state {name}: {error!r}') from error

    with ThreadPoolExecutor(AT_ONCE) as pool:
        for _ in pool.map(attack, order):
            pass

    def all_ended():
        return all(opened == closed for opened, closed, *_ in
                   counters(wire).values())

    wait_until(all_ended, 15, 'closed() for each opened()')
    wait_until(lambda: wire.stats()['sockets'] == before['sockets'], 10)
    wait_until(lambda: wire.stats()['fds'] <= before['fds'], 10,
               'the file descriptors to be back')
    after = counters(wire)
    for kind, (opened, _closed, twice, unasked) in after.items():
        assert not twice
        assert not unasked
        assert opened - began[kind][0] >= rounds
