"""How much is fuzzed, and from which seed.

``WSRPC_FULL=1`` runs every target at full size (10^6 cases), else some
thousands; ``WSRPC_SEED=N`` repeats a run.  A case has a seed of its own,
which stands in its failure::

    for seed in cases(4000):
        with told(seed):
            check(random.Random(seed))

    pytest tests/fuzz -k frames           # WSRPC_SEED=<that> WSRPC_CASES=1
"""
from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator

__all__ = ['FULL', 'FULL_CASES', 'cases', 'told']

FULL = os.environ.get('WSRPC_FULL') == '1'
FULL_CASES = 1_000_000


def cases(quick: int, full: int = FULL_CASES) -> Iterator[int]:
    """Yield the seeds of that many cases; the first is printed."""
    given = os.environ.get('WSRPC_SEED')
    first = int(given) if given else time.time_ns() // 1000 % (1 << 40)
    count = int(os.environ.get('WSRPC_CASES') or (full if FULL else quick))
    print(f'{count} cases from WSRPC_SEED={first}')
    yield from range(first, first + count)


@contextlib.contextmanager
def told(seed: int) -> Iterator[None]:
    """Say with what a failure comes again."""
    try:
        yield
    except BaseException as error:
        error.add_note(f'again with WSRPC_SEED={seed} WSRPC_CASES=1')
        raise
