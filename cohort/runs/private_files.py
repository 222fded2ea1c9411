"""Who may read what is written: only its owner, or also the group of a folder that is shared with a group (setgid)."""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ParamSpec, TypeVar

_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")

_NOBODY_ELSE = 0o077
_lock = threading.Lock()
_outer: list[int] = []  # the umask before the first block of this process, once for each block that is open


def umask_for(folder: Path) -> int:
    """The umask for files in a folder: 077, or with the bits of its group if the folder has the setgid bit.

    `chmod g+rxs FOLDER` is how a folder is shared with a group on Unix: everything in it then belongs to that group.

    Args:
        folder: it need not exist; the nearest folder above that does is asked.
    """
    place = folder.absolute()
    while not place.is_dir() and place != place.parent:
        place = place.parent
    mode = place.stat().st_mode
    return _NOBODY_ELSE & ~(mode & stat.S_IRWXG) if mode & stat.S_ISGID else _NOBODY_ELSE


@contextlib.contextmanager
def private_files(folder: Path) -> Iterator[None]:
    """Files and folders that are made in the block, also by processes started in it, get the mode of `umask_for`.

    The umask belongs to the whole process. Of blocks that overlap in several threads, the strictest mode counts, and
    the last one restores what was before.
    """
    with _lock:
        wanted, first = umask_for(folder), not _outer
        before = os.umask(_NOBODY_ELSE)  # never looser, not even until the next line: other threads may be writing
        os.umask(wanted if first else before | wanted)
        _outer.append(before if first else _outer[0])
    try:
        yield
    finally:
        with _lock:
            restored = _outer.pop()
            if not _outer:
                os.umask(restored)


def writes_privately(argument: str) -> Callable[[Callable[_Given, _Result]], Callable[_Given, _Result]]:
    """A function that writes below the folder given by one of its arguments: all of it runs in `private_files`."""

    def wrap(function: Callable[_Given, _Result]) -> Callable[_Given, _Result]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def inside(*args: _Given.args, **kwargs: _Given.kwargs) -> _Result:
            given = signature.bind(*args, **kwargs).arguments[argument]
            with private_files(Path(getattr(given, "analysis", given))):
                return function(*args, **kwargs)

        return inside

    return wrap
