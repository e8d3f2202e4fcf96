"""How deep brackets nest: beside an honest count."""
from __future__ import annotations

import json
import random
from typing import Any

import pytest

from cp_wsrpc.nesting import is_too_deep


@pytest.mark.parametrize(('text', 'depth'), [
    (b'5', 0),
    (b'[]', 1),
    (b'[[],[]]', 2),
    (b'[' * 7 + b']' * 7, 7),
    (b'{"a":{"b":[]}}', 3),
    (b'["[[[[[[[[[["]', 1),
    (rb'["\"[[[[[[[[", "\\", [], "\\\"["]', 2),
    (b'[],' * 50, 1),
])
def test_depth_is_counted_outside_of_strings(text: bytes,
                                             depth: int) -> None:
    assert not is_too_deep(text, depth)
    if depth:
        assert is_too_deep(text, depth - 1)


def counted(text: bytes) -> int:
    """The depth of a text, one byte after another."""
    depth = deepest = 0
    in_string = escaped = False
    for byte in text:
        if in_string:
            if escaped:
                escaped = False
            elif byte == ord('\\'):
                escaped = True
            elif byte == ord('"'):
                in_string = False
        elif byte == ord('"'):
            in_string = True
        elif byte in b'[{':
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b']}':
            depth -= 1
    return deepest


def value(rng: random.Random, depth: int) -> Any:
    if depth == 0 or rng.random() < 0.3:
        return rng.choice([1, None, '', *(
            ''.join(rng.choices('[]{}"\\a\n', k=size)) for size in (1, 5))])
    inner = [value(rng, depth - 1) for _ in range(rng.randrange(4))]
    return inner if rng.random() < 0.5 else {
        f'[{n}"\\': item for n, item in enumerate(inner)}


@pytest.mark.parametrize('seed', range(300))
def test_depth_is_that_of_an_honest_count(seed: int) -> None:
    rng = random.Random(seed)
    text = json.dumps(value(rng, rng.randrange(1, 8))).encode()
    depth = counted(text)
    for limit in range(depth + 2):
        assert is_too_deep(text, limit) == (depth > limit), (text, limit)


@pytest.mark.parametrize('length', range(1, 40))
def test_any_number_of_brackets_is_counted(length: int) -> None:
    rng = random.Random(length)
    for _ in range(30):
        text = bytes(rng.choices(b'[{]}', k=length))
        depth = counted(text)
        assert not is_too_deep(text, depth)
        assert depth == 0 or is_too_deep(text, depth - 1)
