"""The demo's page in Chromium: every panel, two pages, a server that dies."""
from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import expect

from .browsing import chromium, demo
from .rawpeer import http_request
from .serving import free_port


SLOW_START_MS = 10_000


@pytest.fixture(scope='module')
def browser(need: Callable[[str], str]) -> Iterator[Any]:
    with chromium(need('chromium')) as browser:
        yield browser


@pytest.fixture(scope='module')
def port(browser: Any) -> Iterator[int]:
    with demo() as (_process, port):
        yield port


@pytest.fixture
def open_page(browser: Any, port: int) -> Iterator[Callable[..., Any]]:
    """``open_page()``: one more visitor, connected.  At the end no page
    may have had an error, or have asked anybody else for anything."""
    contexts: list[Any] = []
    faults: list[str] = []

    def open_page(port: int = port, **options: Any) -> Any:
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        base = f'http://127.0.0.1:{port}/'
        page.on('pageerror', lambda error: faults.append(str(error)))
        page.on('console', lambda line: line.type == 'error'
                and faults.append(line.text))
        page.on('request', lambda request: request.url.startswith(base)
                or faults.append(request.url))
        page.goto(base)
        expect(page.locator('#state')).to_have_text(
            'connected', timeout=SLOW_START_MS)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


@pytest.fixture
def page(open_page: Callable[..., Any]) -> Any:
    return open_page()


def run(page: Any, panel: str, **fields: str) -> Any:
    """Fill the panel's boxes, press its button; its output."""
    for name, text in fields.items():
        page.fill(f'#{panel} [name={name}]', text)
    page.click(f'#{panel} form button')
    return page.locator(f'#{panel} output')


def send_http(port: int, msg: str) -> None:
    assert http_request(port, f'/notify?msg={msg}').status == 200


PANELS = [
    ('add', {}, '65'),
    ('add', {'a': '40', 'b': '2'}, '42'),
    ('add', {'a': '2.5'}, 'code -32602'),
    ('add', {'a': 'two'}, 'code -32602'),
    ('divide', {}, 'ZeroDivisionError division by zero  code -32000'),
    ('divide', {'a': '1', 'b': '4'}, '0.25'),
    ('fail', {'message': '<b>no</b>'}, 'RPCError <b>no</b>  code 1404'),
    ('time', {}, re.compile(r'\d{10}\.\d.* which is')),
    ('own', {}, '[[], {"size": 1, "foo": "bar"}]'),
    ('own', {'method': 'ping', 'args': ''}, '"pong"'),
    ('own', {'method': 'calc.add', 'args': '[1, 2]'}, '3'),
    ('own', {'method': 'no.such', 'args': ''}, 'code -32601'),
    ('own', {'args': '{'}, 'SyntaxError'),
    ('who', {}, 'Mozilla/5.0'),
    ('fn', {}, '[[1, 2, {"x": [true, null]}], {}]'),
    ('total', {'n': '0'}, re.compile(r'^\d')),
    ('total', {'n': 'abc'}, 'code -32602'),
]


def test_every_panel_that_calls_shows_what_came(page: Any) -> None:
    for panel, fields, shown in PANELS:
        before = {name: page.input_value(f'#{panel} [name={name}]')
                  for name in fields}
        expect(run(page, panel, **fields)).to_contain_text(shown)
        for name, text in before.items():
            page.fill(f'#{panel} [name={name}]', text)


def test_the_traceback_is_shown(page: Any) -> None:
    output = run(page, 'divide')
    expect(output.locator('.trace')).to_contain_text('return a / b')


def test_the_route_counts_the_calls_of_one_connection(
        open_page: Callable[..., Any]) -> None:
    one, other = open_page(), open_page()
    expect(run(one, 'count')).to_contain_text(re.compile('^1 '))
    expect(run(one, 'count')).to_contain_text(re.compile('^2 '))
    expect(run(other, 'count')).to_contain_text(re.compile('^1 '))


def test_a_ping_overtakes_a_slow_call(page: Any) -> None:
    slow, later, ping = (
        page.locator(f'.lane[data-method={name}] output')
        for name in ('slow', 'later', 'ping'))
    page.fill('.lane[data-method=slow] input', '0.6')
    page.fill('.lane[data-method=later] input', '0.3')
    page.click('#race')
    expect(ping).to_contain_text('"pong"')
    expect(later).to_contain_text('wsrpc-io')
    expect(slow).to_contain_text('wsrpc-worker')
    order = page.evaluate('''() => [...document.querySelectorAll(
        '#wire li.in')].map(row => row.textContent)
        .filter(text => /pong|wsrpc-/.test(text))''')
    assert [re.search('pong|io|worker', text)[0] for text in order] == [
        'pong', 'io', 'worker']


def test_notify_shows_in_every_page(open_page: Callable[..., Any],
                                    port: int) -> None:
    pages = [open_page(), open_page()]
    send_http(port, 'HelloWorld')
    for page in pages:
        expect(page.locator('#notify .heard')).to_contain_text('HelloWorld')
    output = run(pages[0], 'notify', msg='from <i>a</i> page & more')
    expect(output).to_contain_text('RPC clients')
    for page in pages:
        expect(page.locator('#notify .heard')).to_contain_text(
            'from <i>a</i> page & more')


def test_the_curl_line_says_what_the_box_says(page: Any, port: int) -> None:
    line = page.locator('#curl')
    expect(line).to_have_text(
        f"curl 'http://127.0.0.1:{port}/notify?msg=HelloWorld'")
    page.fill('#notify input', "it's & more")
    expect(line).to_have_text(
        f"curl 'http://127.0.0.1:{port}/notify?msg=it%27s%20%26%20more'")


def test_the_curl_line_is_copied(open_page: Callable[..., Any],
                                 port: int) -> None:
    page = open_page(permissions=['clipboard-read', 'clipboard-write'])
    page.click('#copy')
    expect(page.locator('#copy')).to_have_text('Copied')
    assert page.evaluate('navigator.clipboard.readText()') == (
        f"curl 'http://127.0.0.1:{port}/notify?msg=HelloWorld'")


def test_news_comes_while_subscribed_and_only_then(page: Any,
                                                   port: int) -> None:
    news = page.locator('#news .heard')
    notified = page.locator('#notify .heard')
    button = page.locator('#news form button')
    send_http(port, 'before')
    expect(notified).to_contain_text('before')
    button.click()
    expect(button).to_have_text('Unsubscribe')
    expect(page.locator('#wire')).to_contain_text('"rpc.subscribe"')
    page.evaluate("rpc.call('ping')")       # the subscription came before
    send_http(port, 'during')
    expect(news).to_contain_text('during')
    button.click()
    expect(button).to_have_text('Subscribe')
    page.evaluate("rpc.call('ping')")
    send_http(port, 'after')
    expect(notified).to_contain_text('after')
    expect(news).not_to_contain_text('before')
    expect(news).not_to_contain_text('after')


def test_two_pages_chat(open_page: Callable[..., Any]) -> None:
    one, other = open_page(), open_page()
    run(one, 'chat', text='good morning')
    for page in (one, other):
        expect(page.locator('.talk')).to_contain_text('good morning')
    expect(one.locator('.talk .mine')).to_contain_text('good morning')
    expect(one.locator('#chat input')).to_have_value('')
    run(other, 'chat', text='<script>alert(1)</script>')
    for page in (one, other):
        expect(page.locator('.talk')).to_contain_text('<script>alert(1)')
    expect(one.locator('.talk .mine')).to_have_count(1)


def test_the_total_is_told_to_both_pages(
        open_page: Callable[..., Any]) -> None:
    one, other = open_page(), open_page()
    run(one, 'total', n='0')
    expect(one.locator('#sum-news')).to_contain_text('Server records total=')
    start = int(one.inner_text('#sum'))
    run(one, 'total', n='5')
    for page in (one, other):
        expect(page.locator('#sum-news')).to_have_text(
            f'Server records total={start + 5}')
        expect(page.locator('#sum')).to_have_text(str(start + 5))


def test_the_plain_sockets_answer(page: Any, port: int) -> None:
    heard = page.locator('#plain .heard')
    for path, text, answer in [
            ('echo', 'hello', '/echo: HELLO'),
            ('said', 'hello', '/said: You said: hello'),
            ('total', '0', '/total: Server records total='),
            ('total', 'abc', "/total: 'abc' is not a number"),
            ('ws', 'raw', '/ws: raw')]:
        page.select_option('#plain select', path)
        run(page, 'plain', text=text)
        expect(heard).to_contain_text(answer)
    expect(heard).to_contain_text('/echo: Welcome!')
    send_http(port, 'HelloSockets')
    expect(heard).to_contain_text('/ws: HelloSockets')


def test_the_wire_shows_frames_both_ways_and_never_too_many(
        page: Any) -> None:
    run(page, 'add')
    rows = page.locator('#wire li')
    expect(page.locator('#wire .out', has_text='"calc.add"')).to_have_count(1)
    expect(page.locator('#wire .in', has_text='"result":65')).to_have_count(1)
    page.evaluate("""() => Promise.all(
        Array.from({length: 120}, () => rpc.call('ping')))""")
    expect(rows).to_have_count(200)
    page.click('#wire-pause')
    page.click('#wire-clear')
    page.evaluate("rpc.call('ping')")
    expect(rows).to_have_count(0)
    page.click('#wire-pause')
    page.evaluate("rpc.call('test.serverSideFunction', ['<b>x</b>'])")
    expect(page.locator('#wire .out')).to_contain_text('"<b>x</b>"')


def test_a_long_frame_is_cut_in_the_log(page: Any) -> None:
    page.evaluate("rpc.call('test.serverSideFunction', ['x'.repeat(9000)])")
    row = page.locator('#wire .in', has_text='characters')
    expect(row).to_have_count(1)
    assert len(row.inner_text()) < 800


def test_the_theme_follows_the_system_until_it_is_chosen(
        open_page: Callable[..., Any]) -> None:
    page = open_page(color_scheme='dark')
    toggle = page.locator('#theme')
    expect(toggle).to_have_attribute('aria-pressed', 'true')
    dark = background(page)
    toggle.click()
    expect(toggle).to_have_attribute('aria-pressed', 'false')
    light = background(page)
    assert dark != light
    page.reload()
    assert background(page) == light


def background(page: Any) -> str:
    colour: str = page.evaluate(
        'getComputedStyle(document.body).backgroundColor')
    return colour


def test_everything_has_a_name_and_fits_a_telephone(
        open_page: Callable[..., Any]) -> None:
    page = open_page(viewport={'width': 360, 'height': 640})
    assert page.evaluate('''() => [...document.querySelectorAll(
        'input, select, button, ol, a')]
        .filter(it => !(it.ariaLabel || it.textContent.trim()))
        .map(it => it.outerHTML)''') == []
    assert page.evaluate('document.documentElement.scrollWidth') == 360
    for panel, *_ in PANELS:
        run(page, panel)
    assert page.evaluate('document.documentElement.scrollWidth') == 360


def test_a_page_outlives_its_server(browser: Any) -> None:
    port = free_port()
    context = browser.new_context()
    page = context.new_page()
    page.clock.install()
    with demo(port=port) as (process, _):
        page.goto(f'http://127.0.0.1:{port}/')
        expect(page.locator('#state')).to_have_text(
            'connected', timeout=SLOW_START_MS)
        run(page, 'news')
        expect(run(page, 'count')).to_contain_text(re.compile('^1 '))
        # No timer of the page runs from here on: it does not try again
        # before there is a server, which would fail the waiting call.
        page.clock.pause_at(time.time() + 3)
        process.kill()
        expect(page.locator('#state')).to_have_text('reconnecting')
        output = run(page, 'add')
        expect(output).to_have_text('waiting')
    with demo(port=port):
        expect(output).to_have_text('waiting')
        page.clock.resume()
        expect(output).to_contain_text('65', timeout=SLOW_START_MS)
        expect(page.locator('#state')).to_have_text('connected')
        expect(run(page, 'count')).to_contain_text(re.compile('^1 '))
        send_http(port, 'still-here')
        expect(page.locator('#news .heard')).to_contain_text('still-here')
        expect(page.locator('#notify .heard')).to_contain_text('still-here')
    context.close()
