"""``python -m bench.load WHAT --port N ...``; see the package."""
from __future__ import annotations

import argparse
import gc
import json
import resource
import sys

from . import calls, cluster, pushes, sockets
from .wire import WIRES

MEASURES = {
    'calls': calls.measure_calls,
    'latency': calls.measure_latency,
    'pushes': pushes.measure_pushes,
    'publish': pushes.measure_publish,
    'connect': sockets.measure_connect,
    'idle': sockets.measure_idle,
    'echo': sockets.measure_echo,
    'feed': cluster.measure_feed,
    'storm': cluster.measure_storm,
    'redis': cluster.measure_redis,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog='python -m bench.load')
    parser.add_argument('what', choices=MEASURES)
    parser.add_argument('--port', type=int, required=True)
    parser.add_argument('--path', default='/rpc')
    parser.add_argument('--wire', choices=WIRES, default='jsonrpc')
    parser.add_argument('--method', default='add')
    parser.add_argument('--connections', type=int, default=32)
    parser.add_argument('--in-flight', type=int, default=16)
    parser.add_argument('--idle', type=int, default=0,
                        help='further connections that say nothing')
    parser.add_argument('--burst', type=int, default=1,
                        help='pushes of one publishing request')
    parser.add_argument('--rate', type=float, default=1000,
                        help='pushes a second, over all topics')
    parser.add_argument('--at-once', action='store_true',
                        help='come back without jitter')
    parser.add_argument('--bytes', type=int, default=1 << 20,
                        help='of a message to be echoed')
    parser.add_argument('--pid', type=int, default=0,
                        help="the server's, to read its memory and CPU")
    parser.add_argument('--seconds', type=float, default=3)
    parser.add_argument('--warm-up', type=float, default=0.5,
                        help='seconds that are not counted')
    parser.add_argument('--tls', metavar='CA', help='wss, trusting this CA')
    given = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    gc.disable()
    json.dump(MEASURES[given.what](given), sys.stdout)
    print()


if __name__ == '__main__':
    main()
