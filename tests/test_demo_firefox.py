"""The article's examples, and the demo's page, in Firefox."""
from __future__ import annotations

import json
import pathlib
import subprocess
import time
from collections.abc import Callable
from typing import Any

import cherrypy

import cp_wsrpc

from .browsing import demo
from .serving import serving

FOLDER = pathlib.Path(__file__).parent / 'firefox'


def opened_in_firefox(need: Callable[[str], str], url: str,
                      expression: str) -> Any:
    """What the page's ``heard`` is once ``expression`` is true there."""
    need('npm:puppeteer-core')
    done = subprocess.run(
        [need('node'), str(FOLDER / 'open.mjs'), need('firefox'), url,
         expression],
        capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_first_example_of_the_article_runs(
        need: Callable[[str], str]) -> None:
    class Test(cp_wsrpc.Route):             # type: ignore[misc]
        def init(self, **kwargs: Any) -> Any:
            return self.connection.call('whoAreYou').result(timeout=10)

        def serverSideFunction(self, *args: Any, **kwargs: Any) -> Any:
            return args, kwargs

    class Root:
        @cherrypy.expose
        def index(self) -> Any:
            return (FOLDER / 'article.html').read_text()

    class Api:
        pass

    root = Root()
    root.ws = Api()                         # type: ignore[attr-defined]
    config = {'/ws': {'tools.wsrpc.on': True,
                      'tools.wsrpc.routes': {'test': Test,
                                             'getTime': time.time}}}
    with serving(root, config) as server:
        heard = opened_in_firefox(
            need, server.url('/'), 'Object.keys(heard).length == 4')
    assert 'Firefox/' in heard['test']
    assert heard['list'] == [[1, 2, 3], {}]
    assert heard['object'] == [[], {'size': 1, 'id': 2, 'lolwat': 3}]
    assert abs(heard['time'] - time.time()) < 60


PANELS_CLICKED = '''(() => {
  if (rpc.state() !== 'open') return false;
  if (!window.heard) {
    window.heard = {};
    for (const panel of ['add', 'divide', 'who', 'fn', 'total']) {
      document.querySelector(`#${panel} form`).requestSubmit();
    }
  }
  for (const output of document.querySelectorAll('output.ok, output.failed')) {
    heard[output.parentElement.id] = output.textContent;
  }
  return Object.keys(heard).length === 5;
})()'''


def test_the_page_of_the_demo_runs_in_firefox(
        need: Callable[[str], str]) -> None:
    with demo() as (_process, port):
        heard = opened_in_firefox(
            need, f'http://127.0.0.1:{port}/', PANELS_CLICKED)
    assert heard['add'].startswith('65 ')
    assert heard['divide'].startswith('ZeroDivisionError division by zero')
    assert 'Firefox/' in heard['who']
    assert heard['fn'].startswith('[[1, 2, {"x": [true, null]}], {}]')
    assert heard['total'].startswith('5 ')
