"""The endpoint of a server from the shell.  Layer 6.

::

    $ python -m cp_wsrpc call ws://localhost:8080/api calc.add 1 2
    3
    $ python -m cp_wsrpc call ws://localhost:8080/api greet 'name="Ada"'
    "Hello Ada"
    $ python -m cp_wsrpc listen ws://localhost:8080/api news
    {"topic": "news", "data": {"msg": "hi"}}
    $ python -m cp_wsrpc publish redis://localhost:6379/0 news '{"msg": "hi"}'
    {"epoch": "kX3pQ9_a", "offset": 9}
"""
from __future__ import annotations

import argparse
import contextlib
import enum
import json
import os
import queue
import re
import ssl
import sys
import threading
from typing import Any

import msgspec

from .client import Client, Publication
from .errors import (BrokerUnavailable, CallTimeout, ConfigError,
                     ConnectionLostError, RemoteError, WsrpcError)
from .logs import escape

__all__ = ['main']

EXIT_CODES = '''\
exit codes:
  0  done
  1  the method raised, or the topic is refused
  2  the command line is wrong
  3  no connection: not reachable, refused, or lost
  4  no answer in time
'''
_KEYWORD = re.compile(r'([A-Za-z_]\w*)=(.*)', re.DOTALL)


class Exit(enum.IntEnum):
    """What the shell gets; see EXIT_CODES."""

    DONE = 0
    RAISED = 1
    USAGE = 2
    NO_CONNECTION = 3
    TIMEOUT = 4
    INTERRUPTED = 130       # as of any program that Ctrl-C ends


class _Usage(Exception):
    """The command line is wrong; ``str()`` says how."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; its exit code.  Errors are one line on stderr."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except _Usage as error:
        return _fail(Exit.USAGE, error)
    except CallTimeout as error:
        return _fail(Exit.TIMEOUT, error)
    except ConnectionLostError as error:
        return _fail(Exit.NO_CONNECTION, error)
    except WsrpcError as error:
        return _fail(Exit.RAISED, error)
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:         # `| head` has seen enough
        # Else the interpreter complains when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.DONE


def _fail(code: Exit, error: Exception) -> int:
    print(f'cp_wsrpc: {escape(error, 2000)}', file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    from . import __version__       # not before the package is complete
    parser = argparse.ArgumentParser(
        prog='python -m cp_wsrpc', epilog=EXIT_CODES,
        description='Call methods of a WSRPC endpoint, follow its topics.',
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--version', action='version',
                        version=f'cp_wsrpc {__version__}')
    commands = parser.add_subparsers(metavar='COMMAND', required=True)
    _add_call(commands)
    _add_listen(commands)
    _add_publish(commands)
    return parser


def _add_call(commands: Any) -> None:
    command = commands.add_parser(
        'call', help='call a method and print its result as JSON',
        description='Call a method and print its result as JSON.',
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    _add_connection(command)
    command.add_argument('method', metavar='METHOD',
                         help='its dotted name: calc.add')
    command.add_argument(
        'arguments', metavar='JSON', nargs='*',
        help='an argument: 5, [1], \'"text"\'; or name=JSON, a keyword')
    command.add_argument('--timeout', type=float, default=30.0, metavar='S',
                         help='seconds for all of it (30); 0: no limit')
    _let_numbers_be_negative(command)
    command.set_defaults(run=_call)


def _add_listen(commands: Any) -> None:
    command = commands.add_parser(
        'listen', help='print the events of topics, one JSON line each',
        description='Print the events of topics, one JSON line each, until '
                    'Ctrl-C.  Comes back after a lost connection.',
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    _add_connection(command)
    command.add_argument('topics', metavar='TOPIC', nargs='+')
    command.add_argument('--timeout', type=float, default=30.0, metavar='S',
                         help='seconds for the first connection (30)')
    command.set_defaults(run=_listen)


def _add_publish(commands: Any) -> None:
    command = commands.add_parser(
        'publish', help='send an event to all who subscribed to a topic',
        description='Send an event to all who subscribed to a topic, and '
                    'print its position, or null on a topic without '
                    'history.  Through an endpoint that lets its clients '
                    'publish there (tools.wsrpc.publish), or through the '
                    'Redis of the servers.',
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    _add_connection(command, ', or redis://host:6379/0 as '
                             'engine.wsrpc.broker')
    command.add_argument('topic', metavar='TOPIC')
    command.add_argument('data', metavar='JSON',
                         help='\'{"msg": "hi"}\', 5, \'"text"\'')
    command.add_argument('--key', help='whose newest event it is, where '
                         'only that is kept (mode "latest")')
    command.add_argument('--timeout', type=float, default=30.0, metavar='S',
                         help='seconds for all of it (30); 0: no limit')
    _let_numbers_be_negative(command)
    command.set_defaults(run=_publish)


def _add_connection(command: argparse.ArgumentParser,
                    more: str = '') -> None:
    command.add_argument('url', metavar='URL',
                         help='ws://host:8080/api, wss://, http://, '
                              'https:// or ws+unix:///run/app.sock:/api'
                              + more)
    command.add_argument('-H', '--header', action='append', default=[],
                         metavar='"NAME: VALUE"',
                         help='of the handshake, a Cookie say; repeatable')
    command.add_argument('--user', metavar='NAME:PASSWORD',
                         help='for basic authentication')
    command.add_argument('--insecure', action='store_true',
                         help='do not verify the certificate')


def _let_numbers_be_negative(command: argparse.ArgumentParser) -> None:
    # argparse's own pattern takes -1e5 for an option (until 3.14).
    command._negative_number_matcher = re.compile(
        r'-\d+(\.\d+)?([eE][+-]?\d+)?$')


def _client_for(options: argparse.Namespace) -> Client:
    headers = []
    for header in options.header:
        name, colon, value = header.partition(':')
        if not colon:
            raise _Usage(f'{header!r} is no header: --header "Name: value"')
        headers.append((name.strip(), value.strip()))
    auth = None
    if options.user is not None:
        user, _, password = options.user.partition(':')
        auth = (user, password)
    context = None
    if options.insecure:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    try:
        return Client(options.url, headers, auth, context)
    except ValueError as error:
        raise _Usage(str(error)) from None


# -- call --------------------------------------------------------------------

def _call(options: argparse.Namespace) -> Exit:
    args, kwargs = _read_arguments(options.arguments)
    with _client_for(options) as client:
        reply = client.call(options.method, *args,
                            timeout=options.timeout or None, **kwargs)
        try:
            value = reply.result()
        except RemoteError as error:
            raise RemoteError(f'{options.method}: {error}') from None
    _print_json(value)
    return Exit.DONE


def _read_arguments(texts: list[str],
                    ) -> tuple[list[Any], dict[str, Any]]:
    """``['1', '2']`` -> [1, 2], {}; ``['a=1']`` -> [], {'a': 1}."""
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for text in texts:
        keyword = _KEYWORD.fullmatch(text)
        if keyword is not None:
            kwargs[keyword[1]] = _read_json(keyword[2])
        else:
            args.append(_read_json(text))
    if args and kwargs:
        raise _Usage('arguments are all by position or all by name=JSON')
    for name in ('timeout', 'callback', 'idempotency_key'):
        if name in kwargs:      # they are Client.call's own
            raise _Usage(f'{name}= cannot be given by name from here; '
                         'give all arguments by position')
    return args, kwargs


def _read_json(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (ValueError, RecursionError, UnicodeEncodeError):
        raise _Usage(f'{text!r} is not JSON; a text is written '
                     f"'{json.dumps(text)}'") from None


# -- publish -----------------------------------------------------------------

def _publish(options: argparse.Namespace) -> Exit:
    data = _read_json(options.data)
    if options.url.startswith(('redis://', 'rediss://', 'unix://')):
        position = _publish_to_redis(options, data)
    else:
        with _client_for(options) as client:
            try:
                position = client.publish(
                    options.topic, data, options.key).result(
                        options.timeout or None)
            except RemoteError as error:
                raise RemoteError(f'{options.topic}: {error}') from None
    _print_json(position)
    return Exit.DONE


def _publish_to_redis(options: argparse.Namespace, data: Any) -> Any:
    try:
        from .redis_publisher import Publisher
    except ImportError as error:
        raise _Usage(f"{error}: pip install 'cp_wsrpc[redis]'") from None
    try:
        with Publisher(options.url) as publisher:
            position = publisher.publish(options.topic, data, options.key)
    except ConfigError as error:
        raise _Usage(str(error)) from None
    except BrokerUnavailable as error:
        raise ConnectionLostError(str(error)) from None
    return position and position._asdict()


# -- listen ------------------------------------------------------------------

def _listen(options: argparse.Namespace) -> Exit:
    """Events come in a thread of the client's, and are printed here."""
    events: queue.SimpleQueue[Publication | Exception] = queue.SimpleQueue()

    def event(data: Any, publication: Publication) -> None:
        events.put(publication)

    def wait() -> None:
        try:
            client.wait()
        except ConnectionLostError as error:
            events.put(error)

    with _client_for(options) as client, \
            contextlib.suppress(KeyboardInterrupt):
        client.wait_connected(options.timeout or None)
        for topic in dict.fromkeys(options.topics):
            client.subscribe(topic, event, onerror=_refusal(topic, events))
        client.on_close(_note_loss)
        threading.Thread(target=wait, name='wsrpc-client-wait',
                         daemon=True).start()
        while True:
            item = events.get()
            if isinstance(item, Exception):
                raise item
            _print_event(item)
    return Exit.DONE


def _refusal(topic: str, events: Any) -> Any:
    def tell(error: Exception) -> None:
        if isinstance(error, RemoteError) and not error.retryable:
            events.put(RemoteError(f'{topic}: {error}'))
    return tell


def _note_loss(code: int, reason: str) -> None:
    if code != 1000:
        print(f'cp_wsrpc: the connection was lost ({code}'
              f'{": " + escape(reason) if reason else ""})',
              file=sys.stderr, flush=True)


def _print_event(publication: Publication) -> None:
    shown = {key: value for key, value in publication._asdict().items()
             if value is not None or key == 'data'}
    _print_json(shown)


def _print_json(value: Any) -> None:
    text = json.dumps(value, ensure_ascii=False)
    encoding = sys.stdout.encoding or 'utf-8'
    try:
        text.encode(encoding)
    except UnicodeEncodeError:      # a terminal that is not UTF-8
        text = json.dumps(value)
    print(text, flush=True)


if __name__ == '__main__':
    sys.exit(main())
