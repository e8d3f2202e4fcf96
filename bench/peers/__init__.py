"""The same ``add`` and ``notify`` on other libraries.

Written as their documentation has it, at their fastest where it names a
faster way (uvloop, no compression); each takes ``--port N``.
"""
