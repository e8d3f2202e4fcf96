"""How fast cp_wsrpc is, beside its peers and beside what is possible.

::

    make bench                                      all of it, 3 rounds
    python -m bench --only calls --rounds 5         some of it
    python -m bench.server --port 9000              the server alone

Read in this order:

=================  ====================================================
``server``         cp_wsrpc with what the measurements call
``cluster``        three servers and a Redis, for pushes through it
``floor``          the least a Python server can do for the same
``peers/``         the same on other libraries, Python and Node
``load/``          the load generator, a process of its own
``clients``        Python clients, as loads
``measurements``   what is measured, on which servers, and the goals
``__main__``       starts servers and load in turn, round by round
``report``         medians and ratios -> ``docs/bench.rst``, ``.svg``
=================  ====================================================
"""
