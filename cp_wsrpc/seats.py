"""A connection's instances of ``Route`` classes, and their turns.  Layer 3.

``admission`` has each call of a Route queue here before it starts;
``invocation`` asks for the instance, ``peer`` ends all.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .exposure import make_route
from .host_serving import surroundings_of
from .turns import Turn

if TYPE_CHECKING:
    from .messages import Call

__all__ = ['Seats', 'end_turn']


class _Seat:
    """A Route's instance of this connection, and whose turn it is."""

    __slots__ = ('instance', 'turn')

    def __init__(self) -> None:
        self.instance: Any = None
        self.turn = Turn()


class Seats:
    """Those of one connection; the loop's thread adds."""

    __slots__ = ('_seats',)

    def __init__(self) -> None:
        self._seats: dict[type, _Seat] = {}

    def enter(self, call: Call, start: Callable[[Call], object],
              ) -> bool | None:
        """As ``Turn.enter``, on the instance of the call's Route."""
        seat = self._seats.get(call.method.route)
        if seat is None:
            seat = self._seats[call.method.route] = _Seat()
        surroundings_of(call).turn = seat.turn
        entered = seat.turn.enter(
            start, call,
            call.connection.endpoint.options.max_waiting_per_connection)
        if entered is None:
            call.scope.turn = None
        return entered

    def instance_for(self, call: Call) -> Any:
        """The connection's instance of a Route; made at its first call.

        For the thread that has the Route's turn.
        """
        seat = self._seats[call.method.route]
        if seat.instance is None:
            seat.instance = make_route(call.method.route, call.connection)
        return seat.instance

    def close(self, peer: Any) -> None:
        """Have each instance hear that the connection has ended.

        When every method of it has ended, also one that waited for its
        client: it may just be making the instance, and does not expect to
        find it closed.
        """
        for seat in self._seats.values():
            def close_in_turn(seat: _Seat) -> None:
                peer.strand.post(_close_route, peer, seat)

            if seat.turn.enter_last(close_in_turn, seat):
                close_in_turn(seat)


def _close_route(peer: Any, seat: _Seat) -> None:
    if seat.instance is not None:
        peer.run_callback(f'{type(seat.instance).__name__}.closed',
                          seat.instance.closed)
    seat.turn.leave()


def end_turn(call: Call) -> None:
    """Its method has returned: whoever is next on the Route."""
    if call.scope is not None and call.scope.turn is not None:
        turn, call.scope.turn = call.scope.turn, None
        turn.leave()
