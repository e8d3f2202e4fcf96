"""Frames on their way out of one non-blocking socket.  Layer 2.

::

    any thread      frames.append(frame); ask the loop for a flush
    loop's thread   send_all()  joins what waits into one send
    a worker        send_now()  when nothing else is under way

What a socket does not take is kept: ``unsent`` (the rest of a send) and
``behind`` (whole frames).  From the first refusal until all is sent the
queue is ``refusing``, and what comes in meanwhile counts against the peer;
what stood in the queue when it began does not (``_grace``): a burst to a
reader who keeps up is no offence.
"""
from __future__ import annotations

import enum
import threading
from collections import deque
from typing import Any

from . import transport

__all__ = ['LOST', 'NOT_TRIED', 'OutQueue', 'Outcome', 'REFUSED', 'SENT']

#: Frames and bytes joined into one ``send``.
_JOIN_FRAMES = 256
_JOIN_BYTES = 256 * 1024


class Outcome(enum.Enum):
    """What became of an attempt to send."""

    SENT = 'all is sent'
    REFUSED = 'the socket takes no more for now'
    LOST = 'the connection is gone'
    NOT_TRIED = 'something else is in the way'


#: The members by themselves: a look by the enum costs 50 ns before Python
#: 3.12, and each reply would take three.
SENT, REFUSED, LOST, NOT_TRIED = Outcome


class OutQueue:
    """The sending half of a connection.

    ``frames`` is a deque: any thread appends, the holder of ``lock`` takes
    out.  ``lock`` guards ``sock``, which is closed under it (the fd may be
    another's an instant later), ``unsent``: two threads that send at
    once would mix their bytes (pitfalls 20), and ``sent_bytes`` and
    ``sent_frames``, what the socket took (a frame counts when it begins).
    The rest belongs to the loop's thread.

    ``scheduled``: a flush is on its way; cleared by the loop *before* it
    takes frames out, so that who appends after that asks for another.
    """

    __slots__ = ('_grace', '_pong', 'behind', 'behind_bytes', 'frames',
                 'lock', 'refusing', 'scheduled', 'sent_bytes',
                 'sent_frames', 'sock', 'unsent')

    def __init__(self, sock: Any) -> None:
        self.sock = sock
        self.lock = threading.Lock()
        self.frames: deque[bytes] = deque()
        self.scheduled = False
        self.sent_bytes = self.sent_frames = 0
        self.unsent: memoryview | None = None
        self.refusing = False
        self.behind: deque[bytes] = _NOTHING
        self.behind_bytes = 0
        self._grace = 0
        self._pong: bytes | None = None

    @property
    def behind_messages(self) -> int:
        """Frames that came in since the socket began to refuse."""
        return len(self.behind) - self._grace

    @property
    def waiting_bytes(self) -> int:
        """All that is to be sent still; the loop's thread."""
        # Others append meanwhile: a copy is one step of the interpreter.
        return (sum(map(len, self.frames.copy())) + sum(map(len, self.behind))
                + len(self.unsent or b''))

    def send_all(self) -> Outcome:
        """Send what is in ``frames``, as much as the socket takes."""
        frames = self.frames
        while frames:
            with self.lock:
                if self.sock is None:
                    return LOST
                if self.unsent is not None:     # a worker was refused
                    return REFUSED
                waiting = len(frames)
                if waiting == 1:
                    data = frames.popleft()
                else:
                    if waiting > _JOIN_FRAMES:
                        waiting = _JOIN_FRAMES
                    data = b''.join([frames.popleft()
                                     for _ in range(waiting)])
                self.sent_frames += waiting
                sent = self._send(data)
                if sent < 0:
                    return LOST
                if sent < len(data):
                    self.unsent = memoryview(data)[sent:]
                    return REFUSED
        return SENT

    def send_now(self, frame: bytes, payload: bytes = b'') -> Outcome:
        """Send one frame from a worker, if nothing else is in the way.

        ``payload`` follows ``frame``, which is but the header then: joined,
        1 MiB would be mapped and unmapped again for each message, which
        takes longer than to send it (700 and 1 900 echoes a second).

        REFUSED: a part of it is sent, and the loop must be told.
        """
        if self.frames or self.refusing \
                or not self.lock.acquire(blocking=False):
            return NOT_TRIED
        try:
            # A Close may have gone out before the lock was ours.
            if self.frames or self.unsent is not None \
                    or self.sock is None or type(self.frames) is _Sealed:
                return NOT_TRIED
            sent = (self._send_both(frame, payload) if payload
                    else self._send(frame))
            self.sent_frames += 1
            if sent == len(frame) + len(payload):
                return SENT
            if sent < 0:
                return LOST
            if sent < len(frame):
                frame += payload
            else:
                sent -= len(frame)
                frame = payload
            self.unsent = memoryview(frame)[sent:]
            return REFUSED
        finally:
            self.lock.release()

    def keep_rest(self, frame: bytes, sent: int) -> None:
        """A fan-out has sent so much of a frame, past the queue."""
        with self.lock:
            self.unsent = memoryview(frame)[sent:]
            self.sent_frames += 1
            self.sent_bytes += sent

    def begin_refusing(self) -> None:
        """The socket has refused: from now on count what comes in."""
        assert not self.refusing and self.unsent is not None
        self.refusing = True
        frames = self.frames
        # One by one: what others append meanwhile is for fall_behind().
        self.behind = deque(frames.popleft() for _ in range(len(frames)))
        self.behind_bytes = 0
        self._grace = len(self.behind)

    def fall_behind(self) -> None:
        """Count what came in while the socket takes nothing."""
        assert self.refusing
        frames = self.frames
        while frames:
            self._add_behind(frames.popleft())

    def put_pong(self, frame: bytes) -> None:
        """Have one pong wait: the newest answers all (RFC 6455 5.5.3)."""
        if not self.refusing:
            self.frames.append(frame)
            return
        if self._pong is not None and self.behind \
                and self.behind[-1] is self._pong:
            self.behind_bytes -= len(self.behind.pop())
        self._pong = frame
        self._add_behind(frame)

    def put_last(self, frame: bytes) -> None:
        """Have a Close go out after all that stands in the queue.

        Nothing follows it (RFC 6455 5.5.1), though threads that found the
        socket open just now still append: to the old deque, which nobody
        reads any more, or to one that takes nothing.
        """
        frames = self.frames.copy()
        frames.append(frame)
        self.frames = _Sealed(frames)
        if self.refusing:
            self.fall_behind()

    def go_on(self) -> tuple[Outcome, bool]:
        """(what became of it, whether any byte was taken).

        The socket takes bytes again: SENT ends the refusing.
        """
        moved = False
        while True:
            with self.lock:
                if self.sock is None:
                    return LOST, moved
                if self.unsent is None:
                    if not self.behind:
                        break
                    self.unsent = memoryview(self._take_behind())
                sent = self._send(self.unsent)
                if sent < 0:
                    return LOST, moved
                moved = moved or sent > 0
                self.unsent = (self.unsent[sent:]
                               if sent < len(self.unsent) else None)
                if self.unsent is not None:
                    return REFUSED, moved
        self.refusing = False
        self.behind = _NOTHING
        return SENT, moved

    def drop_waiting(self) -> None:
        """Forget all but the rest of the frame that is half sent."""
        self.frames.clear()
        if self.refusing:
            self.behind.clear()
        self.behind_bytes = self._grace = 0

    def close(self) -> Any:
        """Forget all; the socket, for the caller to close, or None."""
        with self.lock:
            sock, self.sock = self.sock, None
            self.unsent = None
        self.frames.clear()
        self.behind = _NOTHING
        return sock

    def _send(self, data: Any) -> int:
        """Bytes taken; -1: the connection is gone."""
        assert self.lock.locked()
        try:
            sent: int = self.sock.send(data)
        except transport.NOT_NOW:
            return 0
        except transport.GONE:
            return -1
        self.sent_bytes += sent
        return sent

    def _send_both(self, header: bytes, payload: bytes) -> int:
        """The same, of two parts."""
        assert self.lock.locked()
        try:
            sent: int = self.sock.sendmsg((header, payload))
        except transport.NOT_NOW:
            return 0
        except transport.GONE:
            return -1
        self.sent_bytes += sent
        return sent

    def _add_behind(self, frame: bytes) -> None:
        self.behind.append(frame)
        self.behind_bytes += len(frame)

    def _take_behind(self) -> bytes:
        parts: list[bytes] = []
        size = 0
        while self.behind and size < _JOIN_BYTES:
            part = self.behind.popleft()
            size += len(part)
            parts.append(part)
            self.sent_frames += 1
            if self._grace:
                self._grace -= 1
            else:
                self.behind_bytes -= len(part)
        return b''.join(parts)


class _Sealed(deque[bytes]):
    """The last frames of a connection: what is appended is dropped."""

    __slots__ = ()

    def append(self, frame: bytes) -> None:
        pass


#: Most sockets never refuse; an empty deque of their own is 760 bytes.
_NOTHING: deque[bytes] = deque(maxlen=0)
