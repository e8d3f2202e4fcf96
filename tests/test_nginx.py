"""The demo behind nginx, with the configuration that it comes with."""
from __future__ import annotations

import json
import pathlib
import re
import ssl
import subprocess
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
from playwright.sync_api import expect

from .browsing import chromium, demo
from .rawpeer import RawPeer, http_request
from .serving import ROOT, free_port, spawn, wait_until

CONF = ROOT / 'demo' / 'nginx.conf'


class Front(NamedTuple):
    """Ports of nginx, and the certificate that it shows."""

    http: int
    https: int
    certificate: str


@pytest.fixture(scope='module')
def front(need: Callable[[str], str],
          tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """Set up as the first lines of nginx.conf say, on free ports."""
    nginx, openssl = need('nginx'), need('openssl')
    folder = tmp_path_factory.mktemp('nginx')
    text = CONF.read_text()
    make_certificate(openssl, text, folder)
    with demo('--proxy') as (_process, port):
        ports = {'8080': port, '8081': free_port(), '8443': free_port()}
        (folder / 'nginx.conf').write_text(re.sub(
            r'(127\.0\.0\.1:)(8080|8081|8443)',
            lambda found: f'{found[1]}{ports[found[2]]}', text))
        with spawn(nginx, '-p', str(folder), '-c', 'nginx.conf'):
            front = Front(ports['8081'], ports['8443'],
                          str(folder / 'cert.pem'))
            wait_until(lambda: answers(front), what='nginx')
            yield front


def make_certificate(openssl: str, text: str, folder: pathlib.Path) -> None:
    """Run the command that stands in the file's first comment."""
    told = text[text.index('openssl'):text.index('nginx -p')]
    words = told.replace('\\\n', ' ').replace('#', ' ').split()
    assert words[0] == 'openssl'
    subprocess.run([openssl, *words[1:]], cwd=folder, check=True,
                   capture_output=True, timeout=30)


def answers(front: Front) -> bool:
    try:
        return http_request(front.http, '/').status == 200
    except OSError:
        return False


def trusting(front: Front) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=front.certificate)


@pytest.mark.parametrize('path', ['/api', '/live/api'])
@pytest.mark.parametrize('scheme', ['http', 'https'])
def test_a_page_may_call_through_nginx(front: Front, scheme: str,
                                       path: str) -> None:
    port = getattr(front, scheme)
    tls = trusting(front) if scheme == 'https' else None
    origin = f'{scheme}://127.0.0.1:{port}'
    with RawPeer(port, path, {'Origin': origin}, tls=tls) as peer:
        assert peer.status == 101
        assert peer.call('calc.add', [1, 2]) == 3


@pytest.mark.parametrize('origin', [
    'https://127.0.0.1:{http}', 'http://127.0.0.1', 'http://evil.example',
    'null'])
def test_another_origin_may_not(front: Front, origin: str) -> None:
    origin = origin.format(http=front.http)
    with RawPeer(front.http, '/api', {'Origin': origin}) as peer:
        assert peer.status == 403


def test_a_visitor_cannot_claim_another_host(front: Front) -> None:
    claimed = {'Origin': 'http://evil.example',
               'X-Forwarded-Host': 'evil.example'}
    with RawPeer(front.http, '/api', claimed) as peer:
        assert peer.status == 403


def test_notify_through_nginx_reaches_a_raw_socket(front: Front) -> None:
    with RawPeer(front.http, '/live/ws') as peer:
        peer.send_text('here')
        assert peer.recv_text() == 'here'
        assert http_request(front.http,
                            '/live/notify?msg=HelloWorld').status == 200
        assert peer.recv_text() == 'HelloWorld'


def test_the_prefix_without_its_slash_leads_to_the_page(
        front: Front) -> None:
    answer = http_request(front.http, '/live')
    assert (answer.status, answer.headers['location']) == (301, '/live/')


def test_the_page_works_through_nginx_in_a_browser(
        front: Front, need: Callable[[str], str]) -> None:
    with chromium(need('chromium')) as browser:
        context = browser.new_context(ignore_https_errors=True)
        for url in (f'http://127.0.0.1:{front.http}/',
                    f'https://127.0.0.1:{front.https}/',
                    f'https://127.0.0.1:{front.https}/live/'):
            page = context.new_page()
            page.goto(url)
            expect(page.locator('#state')).to_have_text('connected')
            page.click('#add form button')
            expect(page.locator('#add output')).to_contain_text('65')
            page.click('#notify form button')
            expect(page.locator('#notify .heard')).to_contain_text(
                'HelloWorld')
            page.click('#plain form button')
            expect(page.locator('#plain .heard')).to_contain_text('HELLO')
            page.close()
        context.close()


def test_every_refusal_says_what_was_expected(front: Front) -> None:
    answer = http_request(front.http, '/api')
    assert answer.status == 426
    assert json.loads(http_request(front.http, '/source').body)
