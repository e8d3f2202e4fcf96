"""The JavaScript client, as the endpoints serve it.  Layer 1.

::

    read_client_file('wsrpc.js')
        -> ClientFile(body=b'...', etag='"5f2a..."', ...)

The files are read at their first request and kept in memory; a changed
file is read again, so that a developer sees his change at a reload.
"""
from __future__ import annotations

import hashlib
import pathlib
from typing import NamedTuple

__all__ = ['CONTENT_TYPES', 'STATIC_DIR', 'ClientFile', 'read_client_file']

CONTENT_TYPES = {
    'wsrpc.js': 'text/javascript;charset=utf-8',
    'wsrpc.mjs': 'text/javascript;charset=utf-8',
    # No browser asks for it; editors do, and people.
    'wsrpc.d.ts': 'text/plain;charset=utf-8',
}


def _find_static_dir() -> pathlib.Path:
    # The wheel has it inside of the package; an editable install does not
    # see that mapping of setup.cfg, and finds it beside the package.
    inside = pathlib.Path(__file__).with_name('static')
    return inside if inside.is_dir() else inside.parents[1] / 'static'


STATIC_DIR = _find_static_dir()


class ClientFile(NamedTuple):
    """One file of the client: what the response is made of."""

    body: bytes
    content_type: str
    etag: str
    modified_s: float


# {name: ((mtime, size), file)}.  Read and written without a lock: two
# threads may read a file at once, and then one replaces the other's equal.
_kept: dict[str, tuple[tuple[int, int], ClientFile]] = {}


def read_client_file(name: str) -> ClientFile:
    """Return one of :data:`CONTENT_TYPES`.

    Raises FileNotFoundError when the installation lacks it.
    """
    path = STATIC_DIR / name
    stat = path.stat()
    stamp = (stat.st_mtime_ns, stat.st_size)
    kept = _kept.get(name)
    if kept is None or kept[0] != stamp:
        body = path.read_bytes()
        digest = hashlib.sha256(body).hexdigest()[:20]
        kept = (stamp, ClientFile(body, CONTENT_TYPES[name], f'"{digest}"',
                                  stat.st_mtime))
        _kept[name] = kept
    return kept[1]
