"""``python -m demo [--host H] [--port 8080]`` serves the demo."""
from __future__ import annotations

import argparse

import cherrypy

from .application import Root, config


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog='python -m demo')
    parser.add_argument('--host', default='127.0.0.1',
                        help='address to listen on (default %(default)s)')
    parser.add_argument('--port', type=int, default=8080,
                        help='port to listen on (default %(default)s)')
    parser.add_argument('--proxy', action='store_true',
                        help='behind nginx (see demo/nginx.conf): believe '
                             'its X-Forwarded headers')
    parser.add_argument('--config', metavar='FILE',
                        help='set the whole demo up from this INI file')
    given = parser.parse_args(argv)
    if given.config:
        set_up_from_file(given.config)
    else:
        cherrypy.config.update({
            'server.socket_host': given.host,
            'server.socket_port': given.port,
            'engine.autoreload.on': False,
        })
        cherrypy.tree.mount(Root(), '', config(given.proxy))
    cherrypy.engine.signals.subscribe()
    cherrypy.engine.start()
    cherrypy.log(f'the demo: {cherrypy.server.base()}/')
    cherrypy.engine.block()


def set_up_from_file(path: str) -> None:
    """What ``cherryd --config`` does: the file's [global] section mounts
    the application, its other sections configure it."""
    cherrypy.config.update(path)
    for application in cherrypy.tree.apps.values():
        application.merge(path)


if __name__ == '__main__':
    main()
