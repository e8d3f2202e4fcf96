"""Takes the picture of the demo that stands in the README.

``python -m demo.picture [FILE]`` starts the demo on a free port, opens it
in the machine's Chromium, clicks a few things and writes docs/demo.png.
"""
from __future__ import annotations

import argparse
import contextlib
import pathlib
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Literal

from playwright.sync_api import Page, sync_playwright

ROOT = pathlib.Path(__file__).resolve().parent.parent
MAX_BYTES = 200_000
START_TIMEOUT_S = 20.0
CHROMIUM_ARGS = ['--no-sandbox', '--disable-gpu',
                 '--disable-background-networking']


@contextlib.contextmanager
def demo_running() -> Iterator[str]:
    """The demo in a process of its own; yields its URL."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, '-m', 'demo', '--port', str(port)], cwd=ROOT,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for_port(port)
        yield f'http://127.0.0.1:{port}/'
    finally:
        process.terminate()
        process.wait(20)


def wait_for_port(port: int) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            socket.create_connection(('127.0.0.1', port), 1).close()
            return
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def click_around(page: Page) -> None:
    """Fills the first screen with what a visitor would see."""
    page.wait_for_selector('#line[data-state=open]')
    for panel, came in (('divide', '.kind'), ('fail', '.kind'),
                        ('notify', '.value'), ('time', '.value'),
                        ('total', '.value'), ('count', '.value'),
                        ('who', '.value'), ('add', '.value')):
        page.click(f'#{panel} form button')
        page.wait_for_selector(f'#{panel} output {came}')
    # A traceback names folders of the machine that took the picture.
    page.add_style_tag(content='.trace { display: none !important }')
    page.evaluate('document.activeElement.blur(); scrollTo(0, 0)')


def take(file: str, scheme: Literal['light', 'dark']) -> None:
    chromium = shutil.which('chromium') or shutil.which('google-chrome')
    with demo_running() as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium,
                                             args=CHROMIUM_ARGS)
        page = browser.new_page(viewport={'width': 1280, 'height': 760},
                                color_scheme=scheme, reduced_motion='reduce')
        page.goto(url)
        click_around(page)
        pathlib.Path(file).parent.mkdir(exist_ok=True)
        page.screenshot(path=file)
        browser.close()
    size = pathlib.Path(file).stat().st_size
    print(f'{file}: {size} bytes')
    if size > MAX_BYTES:
        raise SystemExit(f'a picture of more than {MAX_BYTES} bytes '
                         'is too much for a README')


def main() -> None:
    parser = argparse.ArgumentParser(prog='python -m demo.picture')
    parser.add_argument('file', nargs='?',
                        default=str(ROOT / 'docs' / 'demo.png'))
    parser.add_argument('--scheme', choices=('light', 'dark'),
                        default='light')
    given = parser.parse_args()
    take(given.file, given.scheme)


if __name__ == '__main__':
    main()
