"""The demo: one CherryPy application that shows all of cp_wsrpc.

``python -m demo`` serves it on http://localhost:8080/.  Read in this
order: ``application`` (the server side, every example of the page),
``page/`` (the browser's side), ``clients/`` (other programs on the same
sockets), ``nginx.conf`` and ``app.conf`` (deployment), ``clustered``,
``programs`` and ``cluster`` (several processes).
"""
