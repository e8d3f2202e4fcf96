"""The load generator: one process, one figure.

::

    python -m bench.load calls --port 9000 --path /rpc --method add \\
        --connections 32 --in-flight 16 --seconds 3

prints ``{"per_s": 101234.5, "busy": 0.31, "cpu_us": 3.9}``: one line of
JSON.  ``cpu_us`` is what the server took for each (with ``--pid``).

It must never be the slower end.  What it sends are frames made
beforehand; what it reads it counts by bytes; ``busy`` tells how much of a
CPU it took, so a figure near 1.0 has measured the generator.  Against
``bench.floor`` it draws half a million replies a second at 0.3 of a CPU.

``calls``    calls and latency
``pushes``   fan-out, and the time a publishing request takes
``cluster``  several servers behind one Redis; ``recovering`` are its
             subscribers
``sockets``  new connections, idle ones, large messages
``server_process``  its CPU and memory
``wire``     frames, handshakes, how each kind of server writes a call
"""
