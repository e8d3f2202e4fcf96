"""One attacked process for all rows, and a victim beside each module's."""
from __future__ import annotations

import pytest

from .victim import Victim, target


@pytest.fixture(scope='session')
def attacked():
    with target() as it:
        # What is made once is not what an attacker has cost.
        with it.peer() as peer:
            peer.call('ping')
        with it.secure.peer() as peer:
            peer.call('ping')
        it.stats()
        yield it


@pytest.fixture(params=['ws', 'wss'])
def wire(attacked, request):
    """The attacked process, by either."""
    return attacked if request.param == 'ws' else attacked.secure


@pytest.fixture(autouse=True)
def row(request, victim):
    """Keep apart what the victim lived through in each row."""
    begun = len(victim.took_s)
    yield
    name = request.node.name.split('_')[1]
    victim.rows.setdefault(name, []).extend(victim.took_s[begun:])


@pytest.fixture(scope='module', autouse=True)
def victim(attacked, request):
    victim = Victim(attacked)
    yield victim
    print('', *victim.told_rows(), sep='\n')
    try:
        if not request.session.testsfailed:
            victim.check()
    finally:
        victim.stop()


@pytest.fixture
def measured(victim, request):
    """``measured('B2 10^6 fragments', loop_s=0.8)``: shown with -rP."""
    since = len(victim.took_s)

    def tell(what, **figures):
        shown = ', '.join(
            f'{name} {figure:.3g}' if isinstance(figure, float)
            else f'{name} {figure}' for name, figure in figures.items())
        print(f'MEASURED {what} | {shown}, '
              f'victim p99 {victim.p99_s(since) * 1000:.1f} ms')

    return tell
