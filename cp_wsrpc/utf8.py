"""Text that comes in pieces -> is it UTF-8 so far?  Layer 1, pure.

RFC 6455 8.1 lets the end of a message be awaited; Autobahn's strict cases
want the failure at the very byte that no text can go on with, also in the
middle of a frame.
"""
from __future__ import annotations

from codecs import utf_8_decode

__all__ = ['check_piece']


def check_piece(begun: bytes, piece: bytes, last: bool) -> bytes:
    """Check the next piece of a text; return the code point it leaves begun.

    ``begun``: what the call for the piece before returned, at most 3 bytes,
    ``b''`` for the first.  ``last``: no piece follows.  Raises
    UnicodeDecodeError, the peer's fault, as soon as the text can be no more
    UTF-8 (RFC 3629 4).

    ::

        check_piece(b'', b'a\\xe2\\x82', False)     -> b'\\xe2\\x82'
        check_piece(b'\\xe2\\x82', b'\\xac', True)   -> b''
    """
    if begun:
        piece = begun + piece
    elif piece.isascii():   # 20 ns, and 1 us for 100 kB
        return b''
    begun = piece[utf_8_decode(piece, 'strict', last)[1]:]
    # CPython waits for the third byte of a surrogate, which its decoder may
    # be asked to let pass; nothing can make it good here.
    if b'\xed\xa0' <= begun < b'\xee':
        begun.decode()
    return begun
