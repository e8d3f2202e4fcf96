"""``frames``: what masks a client's frames (RFC 6455 5.3, 10.3).

That frames are built as they are read, says ``test_framing``.
"""
from __future__ import annotations

import subprocess
import sys

from cp_wsrpc.frame_rules import TEXT
from cp_wsrpc.frames import frame

#: Prints the key of a forked process's frame, and then its own next one.
FORKING = '''
import os
from cp_wsrpc.frames import frame
frame(1, b'x', mask=True)
if not (child := os.fork()):
    os.write(1, frame(1, b'x', mask=True)[2:6].hex().encode() + b'\\n')
    os._exit(0)
os.waitpid(child, 0)
print(frame(1, b'x', mask=True)[2:6].hex())
'''


def test_each_frame_has_a_key_of_its_own() -> None:
    keys = {frame(TEXT, b'x', mask=True)[2:6] for _ in range(1000)}
    assert len(keys) > 998      # two alike: 1 in 8 600 runs


def test_a_forked_process_masks_by_other_keys() -> None:
    told = subprocess.run([sys.executable, '-c', FORKING], check=True,
                          capture_output=True, text=True, timeout=20)
    child, parent = told.stdout.split()
    assert child != parent
