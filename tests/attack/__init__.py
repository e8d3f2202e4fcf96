"""Threats of threats.md over real sockets, each beside a victim.

Quick forms run with all other tests; ``WSRPC_FULL=1`` runs full sizes.
"""
from __future__ import annotations

import os

FULL = os.environ.get('WSRPC_FULL', '') not in ('', '0')
