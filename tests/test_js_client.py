"""static/wsrpc.*: the JavaScript client, under Node and under tsc.

Each file of tests/js/*.test.mjs is one test here. The clock and the wire of
most are the tests' own (tests/js/fakes.mjs), so nothing waits.
"""

import json
import pathlib
import re
import subprocess

import pytest

HERE = pathlib.Path(__file__).parent / 'js'
STATIC = HERE.parent.parent / 'static'
FILES = sorted(path.name for path in HERE.glob('*.test.mjs'))

#: A whole file takes under 2 s on an idle machine; this is for a hung one.
FILE_TIMEOUT_S = 120


@pytest.mark.parametrize('name', FILES)
def test_every_test_of_the_file_passes(name, need):
    need('npm:ws')
    done = subprocess.run(
        [need('node'), '--test', '--test-reporter=tap', name], cwd=HERE,
        capture_output=True, text=True, encoding='utf-8', errors='replace',
        timeout=FILE_TIMEOUT_S)
    assert done.returncode == 0, failures_in(done.stdout) or done.stderr
    count = {what: int(number) for what, number in re.findall(
        r'^# (tests|pass|skipped|todo) (\d+)$', done.stdout, re.MULTILINE)}
    assert count['pass'] == count['tests'] > 0, done.stdout
    assert count['skipped'] == count['todo'] == 0, done.stdout


def failures_in(tap):
    """The part of TAP that a reader wants: each `not ok` with its reasons."""
    return '\n'.join(re.findall(
        r'^not ok .*\n(?:^ +.*\n)*', tap, re.MULTILINE))


def test_the_types_fit_a_page_in_strict_typescript(need):
    need('npm:typescript')
    done = subprocess.run(
        [need('node'), 'node_modules/typescript/bin/tsc', '-p', '.'],
        cwd=HERE, capture_output=True, text=True, timeout=FILE_TIMEOUT_S)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_types_name_what_the_client_has(need):
    """Members of the client and of the global: in both or in neither."""
    script = '''
        const WSRPC = require('./wsrpc.js');
        const own = (object) => Object.getOwnPropertyNames(object)
          .filter((name) => !['constructor', 'length', 'name', 'arguments',
            'caller', 'prototype'].includes(name));
        console.log(JSON.stringify({
          client: own(WSRPC.prototype), statics: own(WSRPC),
          stats: Object.keys(WSRPC('ws://h/').stats),
        }));'''
    done = subprocess.run([need('node'), '-e', script], cwd=STATIC, text=True,
                          capture_output=True, check=True, timeout=60)
    real = json.loads(done.stdout)
    types = (STATIC / 'wsrpc.d.ts').read_text(encoding='utf-8')
    for interface, members in (('WSRPC', real['client']),
                               ('WSRPCConstructor', real['statics']),
                               ('Stats', real['stats'])):
        body = re.search(rf'^export interface {interface} {{\n(.*?)^}}',
                         types, re.MULTILINE | re.DOTALL)[1]
        named = set(re.findall(r'^  (?:readonly )?(\w+)[<(:]', body,
                               re.MULTILINE)) - {'new', 'prototype'}
        assert named == set(members), interface


def test_every_option_is_typed_and_no_other(need):
    script = '''
        try { require('./wsrpc.js')('ws://h/', {nonsense: 1}); }
        catch (error) { console.log(error.message); }'''
    done = subprocess.run([need('node'), '-e', script], cwd=STATIC, text=True,
                          capture_output=True, check=True, timeout=60)
    real = set(done.stdout.strip().split('there are ')[1].split(', '))
    types = (STATIC / 'wsrpc.d.ts').read_text(encoding='utf-8')
    body = re.search(r'^export interface Options {\n(.*?)^}', types,
                     re.MULTILINE | re.DOTALL)[1]
    assert set(re.findall(r'^  (\w+)\?:', body, re.MULTILINE)) == real


def test_the_lock_file_names_no_registry():
    lock = json.loads((HERE / 'package-lock.json').read_text('utf-8'))
    wanted = json.loads((HERE / 'package.json').read_text('utf-8'))
    for path, package in lock['packages'].items():
        assert 'resolved' not in package, path
    for name, version in wanted['devDependencies'].items():
        assert re.fullmatch(r'\d+\.\d+\.\d+', version), f'{name}: not pinned'
        assert lock['packages'][f'node_modules/{name}']['version'] == version


@pytest.mark.parametrize('name', ['wsrpc.js', 'wsrpc.mjs'])
def test_the_client_ships_as_it_is(name):
    source = (STATIC / name).read_text(encoding='utf-8')
    assert source.isascii(), 'a page may be served in any encoding'
    assert max(map(len, source.splitlines())) <= 79
    # no unsafe-eval in a Content-Security-Policy; unload ends bfcache
    for banned in (r'\beval\(', r'\bnew Function\b', r'unload\b'):
        assert not re.search(banned, source), banned
