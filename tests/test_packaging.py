"""The wheel: what it carries, and that it works where it is installed."""
from __future__ import annotations

import configparser
import os
import pathlib
import subprocess
import sys
import sysconfig
import venv
import zipfile

import pytest

from .processes import ROOT, spawn
from .rawpeer import http_request
from .serving import free_port

SERVER = '''
import sys
import cherrypy
import cp_wsrpc

class Api:
    @cp_wsrpc.expose
    def add(self, a: int, b: int) -> int:
        return a + b

class Root:
    api = Api()

print('package', cp_wsrpc.__file__, flush=True)
print('static', cp_wsrpc.STATIC_DIR, flush=True)
cherrypy.config.update({'server.socket_port': int(sys.argv[1]),
                        'engine.autoreload.on': False})
cherrypy.quickstart(Root(), '/', {'/api': {'tools.wsrpc.on': True}})
'''


@pytest.fixture(scope='module')
def wheel(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The wheel, built from a copy of what the repository has of it."""
    source = tmp_path_factory.mktemp('source')
    for name in ('setup.cfg', 'setup.py', 'README.rst', 'LICENSE'):
        (source / name).write_bytes((ROOT / name).read_bytes())
    for name in ('cp_wsrpc', 'static'):
        (source / name).mkdir()
        for path in (ROOT / name).iterdir():
            if path.is_file():
                (source / name / path.name).write_bytes(path.read_bytes())
    # No isolation: that would fetch setuptools, and tests do without net.
    done = subprocess.run(
        [sys.executable, '-m', 'build', '--wheel', '--no-isolation',
         '--outdir', str(source / 'dist'), str(source)],
        stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=50, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    made, = (source / 'dist').iterdir()
    return made


@pytest.fixture(scope='module')
def site(wheel: pathlib.Path, tmp_path_factory: pytest.TempPathFactory,
         ) -> pathlib.Path:
    """A clean environment with the wheel in it; its Python.

    The dependencies are those of this one, through a .pth file: what is
    tested is the wheel, not their installation.
    """
    home = tmp_path_factory.mktemp('env')
    venv.create(home, with_pip=False, symlinks=True)
    python = home / 'bin' / 'python'
    packages = pathlib.Path(sysconfig.get_path(
        'purelib', vars={'base': str(home), 'platbase': str(home)}))
    subprocess.run(
        [sys.executable, '-m', 'pip', 'install', '-q', '--no-deps',
         '--no-index', '--target', str(packages), str(wheel)],
        stdin=subprocess.DEVNULL, capture_output=True, timeout=50,
        check=True)
    (packages / 'dependencies.pth').write_text(sysconfig.get_path('purelib'))
    return python


def test_the_wheel_carries_the_clients_and_the_type_marker(wheel):
    with zipfile.ZipFile(wheel) as files:
        names = set(files.namelist())
    assert {'cp_wsrpc/static/wsrpc.js', 'cp_wsrpc/static/wsrpc.mjs',
            'cp_wsrpc/static/wsrpc.d.ts', 'cp_wsrpc/py.typed'} <= names
    assert {f'cp_wsrpc/{path.name}'
            for path in (ROOT / 'cp_wsrpc').glob('*.py')} <= names
    assert {name.split('/')[0] for name in names} == {
        'cp_wsrpc', wheel.name.rsplit('-', 3)[0] + '.dist-info'}


def test_the_wheel_tells_what_it_needs(wheel):
    with zipfile.ZipFile(wheel) as files:
        name, = (name for name in files.namelist()
                 if name.endswith('/METADATA'))
        metadata = files.read(name).decode()
    given = configparser.ConfigParser()
    given.read(ROOT / 'setup.cfg')
    wanted = given['options']['install_requires'].split('\n')[1:]
    told = [line.replace(' ', '').lower() for line in metadata.split('\n')
            if line.startswith('Requires-Dist')]
    for requirement in wanted:
        assert ('requires-dist:' + requirement.replace(' ', '').lower()
                in told)
    assert 'Requires-Python: >=3.11' in metadata
    assert 'License: BSD-3-Clause' in metadata


def test_the_version_has_one_source(wheel):
    import cp_wsrpc
    assert wheel.name.startswith(f'cp_wsrpc-{cp_wsrpc.__version__}-')


def test_an_installed_wheel_serves_the_client(site, tmp_path):
    (tmp_path / 'server.py').write_text(SERVER)
    port = free_port()
    with spawn(site, str(tmp_path / 'server.py'), str(port), cwd=tmp_path,
               env={'PYTHONPATH': ''}, ready='Bus STARTED') as process:
        for line in ('^package ', '^static '):
            shown = process.wait_for(line).string.split(maxsplit=1)[1]
            assert shown.startswith(str(site.parent.parent) + os.sep)
        answer = http_request(port, '/api/wsrpc.js')
        assert answer.status == 200
        assert answer.headers['content-type'].startswith(
            ('text/javascript', 'application/javascript'))
        assert answer.body == (ROOT / 'static' / 'wsrpc.js').read_bytes()
