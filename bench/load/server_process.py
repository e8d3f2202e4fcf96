"""What a server takes, as the kernel counts it (``/proc/PID``)."""
from __future__ import annotations

import os

__all__ = ['cpu_s', 'memory_kib']


def memory_kib(pid: int) -> int:
    """KiB of its memory that are resident."""
    with open(f'/proc/{pid}/status') as status:
        line, = (line for line in status if line.startswith('VmRSS:'))
    return int(line.split()[1])


def cpu_s(pid: int) -> float:
    """Seconds of CPU of all its threads so far, to 10 ms; 0: no pid."""
    if not pid:
        return 0.0
    with open(f'/proc/{pid}/stat') as stat:
        fields = stat.read().rpartition(')')[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')
