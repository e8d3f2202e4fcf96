"""Who is the same user; text in, verdict out."""
from __future__ import annotations

import types
import uuid

import pytest

from cp_wsrpc.users import Target, key_of


def connection(user):
    return types.SimpleNamespace(user=user, user_key=key_of(user))


SOMEBODY = object()
ID = uuid.UUID(int=7)


@pytest.mark.parametrize('one, other, same', [
    ('ada', 'ada', True), ('ada', 'Ada', False), ('', '', True),
    (1, 1, True), (1, '1', False), (1, True, False), (0, False, False),
    ({'id': 1, 'at': [2]}, {'at': [2], 'id': 1}, True),
    ({'id': 1}, {'id': 1, 'x': None}, False),
    (('a', 1), ['a', 1], True),         # as JSON brings it to the others
    (ID, str(ID), True), (2 ** 60, 2 ** 60 + 1, False),
    (SOMEBODY, SOMEBODY, True), (SOMEBODY, object(), False),
    ('ada', None, False), (SOMEBODY, None, False), ('', None, False)])
def test_a_user_is_compared_by_value(one, other, same):
    assert Target(one).is_met_by(connection(other)) is same


def test_nobody_cannot_be_a_target():
    with pytest.raises(ValueError, match='user=None is nobody'):
        Target(None)
