"""What processes take, as the kernel counts it (``/proc``)."""
from __future__ import annotations

import os
import time

__all__ = ['Meter', 'cpu_s', 'memory_kib']

#: Of ``/proc/stat``: idle, waiting for a disk, and what stands in user
#: and nice already.
_NOT_BUSY = (3, 4, 8, 9)


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


def _machine_s() -> float:
    """Seconds of CPU of the whole machine, the hypervisor's share too."""
    with open('/proc/stat') as stat:
        fields = stat.readline().split()[1:]
    return sum(int(field) for number, field in enumerate(fields)
               if number not in _NOT_BUSY) / os.sysconf('SC_CLK_TCK')


class Meter:
    """Who took how much CPU, from here to ``read``."""

    def __init__(self, pid: int) -> None:
        """``pid``: the server's."""
        self._pid = pid
        self._begun = self._look()

    def _look(self) -> tuple[float, float, float, float]:
        return (time.perf_counter(), time.process_time(), cpu_s(self._pid),
                _machine_s())

    def read(self, count: int) -> dict[str, float]:
        """``busy`` and ``others``, shares of a CPU; ``cpu_us``.

        ``busy``    the load generator's
        ``others``  of all that is neither server nor load, to 3 % where it
                    was a second: what disturbed the measurement
        ``cpu_us``  the server's, for each of ``count``
        """
        seconds, own, server, machine = (
            now - begun for now, begun in zip(
                self._look(), self._begun, strict=True))
        found = {'busy': own / seconds}
        if self._pid:
            found['cpu_us'] = server / count * 1e6
            found['others'] = max(0.0, machine - own - server) / seconds
        return found
