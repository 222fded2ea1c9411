"""Whether something lies behind the last pixel inside coded data, where no marker shows it and decoders skip it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager


def unused_tail(data: bytes, ends: Sequence[int], same: Callable[[bytes], bool], n_bytes: int = 2) -> bool:
    """Whether the last bytes of a coded segment have no influence on the image.

    They are changed and the image is decoded again. The last bytes of an honest stream code its last pixels. A rare
    honest stream that fails the test is only stored another way.

    Args:
        data: the whole stream.
        ends: where its coded segments end.
        same: decodes a changed stream; True if every pixel is as before.
        n_bytes: how many bytes at the end of each segment are changed.
    """
    for end in ends:
        changed, at, count = bytearray(data), end - 1, 0
        while count < n_bytes and at > 0:
            if data[at] != 0xFF and data[at - 1] != 0xFF:  # neither markers nor stuffed bytes
                new = data[at] ^ 0x55
                changed[at] = new if new != 0xFF else data[at] ^ 0x2A
                count += 1
            at -= 1
        with _quiet():
            if same(bytes(changed)):
                return True
    return False


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the lines that decoders in C print on damaged data."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
