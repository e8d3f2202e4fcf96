"""The demo in a process of its own, and the machine's Chromium.

Playwright's sync API keeps an asyncio loop on the thread that started it,
so there is one ``chromium`` at a time; the modules that use it have it
module-scoped.
"""
from __future__ import annotations

import contextlib
from collections.abc import Iterator

from playwright.sync_api import Browser, sync_playwright

from .serving import Process, free_port, spawn

__all__ = ['chromium', 'demo']

ARGS = ['--no-sandbox', '--disable-gpu', '--disable-background-networking']


@contextlib.contextmanager
def chromium(path: str) -> Iterator[Browser]:
    """A headless Chromium from the program at ``path``."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGS)
        yield browser
        browser.close()


@contextlib.contextmanager
def demo(*options: str, port: int | None = None,
         ) -> Iterator[tuple[Process, int]]:
    """``python -m demo``, ready to serve, and its port."""
    port = port or free_port()
    with spawn('demo', '--port', str(port), *options,
               ready='the demo: http') as process:
        yield process, port
