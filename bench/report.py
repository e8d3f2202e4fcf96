"""Results -> the page ``docs/bench.rst`` and the plot ``docs/bench.svg``.

Medians over the rounds; a ratio is the median of the rounds' ratios, since
two figures of one round stood under the same weather.
"""
from __future__ import annotations

import html
import os
import pathlib
import platform
import statistics
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from .measurements import MEASUREMENTS, Goal, Measurement

__all__ = ['DISTURBED', 'as_text', 'machine', 'write']

#: Share of a CPU that other processes may have taken of a run.
DISTURBED = 0.1

#: What a table cannot say: written by people, of the figures of one day.
_NOTES = pathlib.Path(__file__).parent / 'notes.rst'

#: {contender: what the load printed in each round}; none if it failed
Figures: TypeAlias = 'dict[str, list[dict[str, float]]]'


def machine() -> str:
    """What it ran on, in one line."""
    with open('/proc/cpuinfo') as cpuinfo:
        model = next((line.partition(':')[2].strip() for line in cpuinfo
                      if line.startswith('model name')), platform.machine())
    node = subprocess.run(['node', '--version'], capture_output=True,
                          text=True, check=True).stdout.strip()
    return (f'{os.cpu_count()} cores of {model}, Linux '
            f'{platform.release().split("-")[0]}, Python '
            f'{platform.python_version()}, Node {node}')


def as_text(measurement: Measurement, figures: Figures) -> str:
    """One measurement for the screen."""
    head, rows = _comparison(measurement, figures)
    goals = [('', *_row_of_goal(measurement, goal, figures)[1:])
             for goal in measurement.goals]
    return '\n'.join((measurement.title, *_aligned((head, *rows)),
                      *_disturbances(figures), *_aligned(goals), ''))


def write(results: dict[str, Any], folder: pathlib.Path) -> None:
    """Write both files from what ``results.json`` holds."""
    found = [(measurement, results[measurement.name]['figures'])
             for measurement in MEASUREMENTS if measurement.name in results]
    machine_line = results.get('machine', '')
    (folder / 'bench.rst').write_text(
        '\n'.join(_page(found, machine_line, results)) + '\n')
    drawn = [pair for pair in found if pair[0].drawn]
    if drawn:
        (folder / 'bench.svg').write_text(
            '\n'.join(_plot(drawn)) + '\n')


# -- the page --------------------------------------------------------------

def _page(found: list[tuple[Measurement, Figures]], machine_line: str,
          results: dict[str, Any]) -> Iterator[str]:
    yield from (
        'How fast it is', '==============', '',
        '.. Written by "python -m bench"; do not edit.', '',
        f'Measured with ``make bench`` on {machine_line}.', '',
        'Server and load are processes of their own on one machine, over '
        'loopback; all servers of a', 'table ran in turn, round by round, '
        'and a first round was thrown away.  Figures are medians over',
        'the rounds, in parentheses the lowest and highest; ratios are '
        'medians of the ratios within a', 'round.  The "floor" is a bare '
        'epoll loop that cuts frames, decodes, adds, encodes and sends',
        '(``bench/floor.py``): no limits, no timers, no checks.  "Server '
        'CPU" is the user and system time',
        "of the server's process for one call or delivery; it hardly "
        'changes with what else the machine does.',
        'A run of calls or pushes in which other processes took more than a '
        'tenth of a CPU was made', 'again, up to 3 times.', '',
        '.. image:: bench.svg', '   :alt: the main figures as bars', '')
    rows = [_row_of_goal(measurement, goal, figures)
            for measurement, figures in found for goal in measurement.goals]
    if rows:
        yield from _section('Goals')
        yield from _table(('what', 'who', 'goal', 'measured', 'reached'),
                          rows)
        yield _NOTES.read_text()
    for measurement, figures in found:
        yield from _section(measurement.title)
        seconds = measurement.once_s or results[
            measurement.name]['seconds']
        rounds = max(map(len, figures.values()))
        yield (f'``python -m bench --only {measurement.name}``: {rounds} '
               f'x {seconds:g} s')
        yield ''
        yield from _table(*_comparison(measurement, figures))
        for line in _disturbances(figures):
            yield from (line, '')


def _section(title: str) -> tuple[str, ...]:
    return title, '-' * len(title), ''


def _comparison(measurement: Measurement, figures: Figures
                ) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """A row a contender: median, range, ratios, CPU of the server."""
    bases = list(dict.fromkeys(
        goal.base for goal in measurement.goals if goal.base))
    timed = any('cpu_us' in each for rounds in figures.values()
                for each in rounds)
    head = ('', measurement.unit, '', *(f'x {base}' for base in bases),
            *(('server CPU',) if timed else ()))
    rows = []
    for name, rounds in figures.items():
        values = [each[measurement.figure] for each in rounds]
        if not values:
            rows.append((name, 'failed', *('' for _ in head[2:])))
            continue
        rows.append((
            name, _number(statistics.median(values)),
            f'({_number(min(values))} - {_number(max(values))})',
            *(_shown(_ratio(measurement, figures, name, base))
              for base in bases),
            *((_cpu(rounds),) if timed else ())))
    return head, rows


def _cpu(rounds: list[dict[str, float]]) -> str:
    each = [found['cpu_us'] for found in rounds if 'cpu_us' in found]
    return f'{statistics.median(each):.2f} us' if each else ''


def _disturbances(figures: Figures) -> Iterator[str]:
    """Which runs are of little worth, as others took CPU meanwhile."""
    for name, rounds in figures.items():
        others = [found['others'] for found in rounds
                  if found.get('others', 0) > DISTURBED]
        if others:
            yield (f'Disturbed: {len(others)} of {len(rounds)} runs of '
                   f'{name}; others took up to {max(others):.0%} of a CPU.')


def _row_of_goal(measurement: Measurement, goal: Goal, figures: Figures
                 ) -> tuple[str, ...]:
    """(what, who, goal, measured, whether that is reached)."""
    value: float | None
    if goal.base:
        value = _ratio(measurement, figures, goal.contender, goal.base)
        wanted = f'{goal.factor:g} x {goal.base}'
    else:
        values = [each[measurement.figure]
                  for each in figures[goal.contender]]
        value = statistics.median(values) if values else None
        wanted = f'{goal.factor:g} {measurement.unit}'
    more = measurement.more_is_better
    reached = value is not None and (
        value >= goal.factor if more else value <= goal.factor)
    return (measurement.title, goal.contender,
            f'{">=" if more else "<="} {wanted}', _shown(value),
            'yes' if reached else 'no')


def _ratio(measurement: Measurement, figures: Figures, name: str, base: str
           ) -> float | None:
    """The median of the rounds' ratios; None if one of them failed."""
    ratios = [mine[measurement.figure] / other[measurement.figure]
              for mine, other in zip(figures[name], figures[base],
                                     strict=False)]
    return statistics.median(ratios) if ratios else None


def _shown(value: float | None) -> str:
    return 'failed' if value is None else f'{value:.3g}'


def _number(value: float) -> str:
    """Three digits and a bit: 431 200, 12.3, 0.0041."""
    if value >= 1000:
        return f'{value:,.0f}'.replace(',', ' ')
    return f'{value:.3g}'


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]
           ) -> Iterator[str]:
    """A simple table of reStructuredText."""
    head = (head[0] or 'server',
            *(cell or 'lowest - highest' for cell in head[1:]))
    lines = list(_aligned([head, *rows]))
    rule = '  '.join('=' * width for width in _widths((head, *rows)))
    yield from (rule, lines[0], rule, *lines[1:], rule, '')


def _aligned(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = _widths(rows)
    for row in rows:
        yield '  '.join(cell.ljust(width) for cell, width in zip(
            row, widths, strict=True)).rstrip()


def _widths(rows: Sequence[tuple[str, ...]]) -> list[int]:
    return [max(1, *map(len, column)) for column in zip(*rows, strict=True)]


# -- the plot --------------------------------------------------------------

_WIDTH, _LEFT, _BAR, _STEP, _TITLE = 760, 180, 14, 19, 34
_STYLE = '''
 text { font: 12px system-ui, sans-serif; fill: #222 }
 .title { font-weight: 600 }
 .ours { fill: #c2255c } .peer { fill: #9aa5b1 }
 .floor { fill: none; stroke: #9aa5b1; stroke-dasharray: 3 2 }
 @media (prefers-color-scheme: dark) { text { fill: #ddd } }
'''


def _plot(found: list[tuple[Measurement, Figures]]) -> Iterator[str]:
    """Bars, one block a measurement, each to a scale of its own."""
    height = sum(_TITLE + _STEP * len(figures) for _, figures in found) + 8
    yield (f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" '
           f'height="{height}" viewBox="0 0 {_WIDTH} {height}" role="img">')
    yield f'<style>{_STYLE}</style>'
    top = 0
    for measurement, figures in found:
        yield (f'<text class="title" x="8" y="{top + 24}">'
               f'{html.escape(measurement.title)}, {measurement.unit}'
               '</text>')
        top += _TITLE
        yield from _bars(measurement, figures, top)
        top += _STEP * len(figures)
    yield '</svg>'


def _bars(measurement: Measurement, figures: Figures, top: int
          ) -> Iterator[str]:
    medians = {
        name: statistics.median(each[measurement.figure] for each in rounds)
        for name, rounds in figures.items() if rounds}
    ours = {contender.name for contender in measurement.contenders
            if contender.ours}
    scale = (_WIDTH - _LEFT - 80) / max(medians.values())
    for name, value in medians.items():
        kind = ('ours' if name in ours
                else 'floor' if name.startswith('floor') else 'peer')
        length = value * scale
        yield (f'<text x="{_LEFT - 8}" y="{top + 11}" text-anchor="end">'
               f'{html.escape(name)}</text>'
               f'<rect class="{kind}" x="{_LEFT}" y="{top}" '
               f'width="{length:.1f}" height="{_BAR}"/>'
               f'<text x="{_LEFT + length + 6:.1f}" y="{top + 11}">'
               f'{_number(value)}</text>')
        top += _STEP
