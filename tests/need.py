"""What a test needs of the machine, and the one place where tests skip.

A test asks through the fixture of the same name::

    def test_the_page_opens(need):
        chromium = need('chromium')        # '/usr/bin/chromium'
        need('npm:ws')                     # the folder of that package

and a module that cannot even be imported without it::

    from .need import need
    need('python:playwright.sync_api')

What is missing skips the test with the sentence that says what to install.
With ``WSRPC_NO_SKIP=1`` in the environment (``.ci/run`` sets it) it fails.

``python -m tests.need`` says what is missing and which tests skip for it;
with ``--packages`` it prints the Debian packages that have it.
"""
from __future__ import annotations

import functools
import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

__all__ = ['NODE_MODULES', 'PROGRAMS', 'find', 'missing', 'need']

NODE_MODULES = pathlib.Path(__file__).parent / 'js' / 'node_modules'

#: name -> (programs that will do, the Debian package that has one)
PROGRAMS = {
    'chromium': (('chromium', 'chromium-browser', 'google-chrome'),
                 'chromium'),
    'firefox': (('firefox-esr', 'firefox'), 'firefox-esr'),
    'nginx': (('nginx',), 'nginx-light'),
    'node': (('node', 'nodejs'), 'nodejs'),
    'npm': (('npm',), 'npm'),
    'openssl': (('openssl',), 'openssl'),
    'redis-server': (('redis-server',), 'redis-server'),
}

_OLDEST_NODE = 18

#: Where Debian keeps nginx; not in an ordinary user's PATH.
_PATH = os.pathsep.join([os.environ.get('PATH', os.defpath),
                         '/usr/sbin', '/usr/local/sbin', '/sbin'])


@functools.cache
def find(name: str) -> str | None:
    """The path of a program, of an npm package or of a Python module.

    ``name`` is a key of :data:`PROGRAMS`, ``'npm:ws'`` (a package of
    ``tests/js``) or ``'python:redis'``.  None where there is none.
    """
    kind, _, rest = name.partition(':')
    if kind == 'npm' and rest:
        folder = NODE_MODULES.joinpath(*rest.split('/'))
        return str(folder) if (folder / 'package.json').exists() else None
    if kind == 'python':
        spec = importlib.util.find_spec(rest.partition('.')[0])
        return (spec.origin or rest) if spec else None
    for program in PROGRAMS[name][0]:
        path = shutil.which(program, path=_PATH)
        if path and (name != 'node' or _node_version(path) >= _OLDEST_NODE):
            return path
    return None


def missing(name: str) -> str | None:
    """The sentence that says what to install, or None if it is there."""
    if find(name) is not None:
        return None
    kind, _, rest = name.partition(':')
    if kind == 'npm' and rest:
        return (f'the npm package {rest} is not installed: '
                'run "npm ci" in tests/js ("make test" does)')
    if kind == 'python':
        return (f'the Python module {rest} is not installed: '
                "run pip install -e '.[test]' (\"make test\" does)")
    than = f' {_OLDEST_NODE} or newer' if name == 'node' else ''
    return (f'{name}{than} is not installed: '
            f'apt-get install {PROGRAMS[name][1]}')


def need(name: str) -> str:
    """As :func:`find`, but a test, or a whole module, that lacks it ends."""
    sentence = missing(name)
    if sentence is None:
        path = find(name)
        assert path is not None
        return path
    if os.environ.get('WSRPC_NO_SKIP') == '1':
        pytest.fail(f'{sentence} (WSRPC_NO_SKIP=1: nothing is skipped)',
                    pytrace=False)
    pytest.skip(sentence, allow_module_level=True)


def _node_version(path: str) -> int:
    done = subprocess.run([path, '--version'], capture_output=True,
                          text=True, timeout=20, check=False)
    major = done.stdout.strip().lstrip('v').partition('.')[0]
    return int(major) if major.isdigit() else 0


def _asked_for() -> dict[str, list[str]]:
    """``{'chromium': ['test_demo.py'], 'npm:ws': [...]}``."""
    asked: dict[str, list[str]] = {}
    for path in sorted(pathlib.Path(__file__).parent.rglob('test_*.py')):
        if 'node_modules' in path.parts:
            continue
        for name in set(re.findall(r"\bneed\('([^']+)'\)",
                                   path.read_text(encoding='utf-8'))):
            asked.setdefault(name, []).append(path.name)
    return asked


def main(arguments: list[str]) -> None:
    """What ``make test`` runs before the tests."""
    if arguments == ['--packages']:
        print(*(package for name, (_, package) in PROGRAMS.items()
                if missing(name)))
        return
    for name, tests in sorted(_asked_for().items()):
        if sentence := missing(name):
            print(f'{sentence}. Without it some of these skip:',
                  ', '.join(tests))


if __name__ == '__main__':
    main(sys.argv[1:])
