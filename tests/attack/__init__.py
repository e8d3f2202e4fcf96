"""Threats of threats.md over real sockets, each beside a victim.

Quick forms run with all other tests; ``WSRPC_FULL=1`` runs full sizes,
and what has no quick form: ``@pytest.mark.full``.
"""
from __future__ import annotations

import os

FULL = os.environ.get('WSRPC_FULL') == '1'
