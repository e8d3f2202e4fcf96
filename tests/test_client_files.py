"""The JavaScript client, as it is read from where it was installed."""
from __future__ import annotations

import pytest

from cp_wsrpc import client_files
from cp_wsrpc.client_files import STATIC_DIR, read_client_file


def test_every_file_is_there():
    for name in ('wsrpc.js', 'wsrpc.mjs'):
        file = read_client_file(name)
        assert file.body == (STATIC_DIR / name).read_bytes()
        assert file.content_type == 'text/javascript;charset=utf-8'


def test_the_tag_tells_one_content_from_another(tmp_path, monkeypatch):
    monkeypatch.setattr(client_files, 'STATIC_DIR', tmp_path)
    monkeypatch.setattr(client_files, '_kept', {})
    path = tmp_path / 'wsrpc.js'
    path.write_text('one')
    first = read_client_file('wsrpc.js')
    assert read_client_file('wsrpc.js') is first
    path.write_text('other')
    second = read_client_file('wsrpc.js')
    assert (first.body, second.body) == (b'one', b'other')
    assert first.etag != second.etag
    assert first.etag.startswith('"') and first.etag.endswith('"')


def test_a_file_that_is_missing_says_its_path(tmp_path, monkeypatch):
    monkeypatch.setattr(client_files, 'STATIC_DIR', tmp_path)
    with pytest.raises(FileNotFoundError, match=r'wsrpc\.js'):
        read_client_file('wsrpc.js')
