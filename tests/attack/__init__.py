"""Threats of threats.md over real sockets, each beside a victim.

Quick forms run with all other tests; ``WSRPC_FULL=1`` runs full sizes,
and what has no quick form: ``@pytest.mark.full``.
"""
from __future__ import annotations

import os

FULL = os.environ.get('WSRPC_FULL') == '1'


def in_time(seconds):
    """The limit of threats.md; in the quick forms five times as much.

    Those run on machines that do other work as well, and there tell what
    stands still from what is slow with the rest.
    """
    return seconds if FULL else 5 * seconds
