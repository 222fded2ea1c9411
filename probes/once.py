"""What several threads ask for, computed by the first of them; who asks for something else does not wait."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from threading import Lock
from typing import Generic, TypeVar

Value = TypeVar("Value")


class OncePerKey(Generic[Value]):
    def __init__(self) -> None:
        self._known: dict[bytes, Future[Value]] = {}
        self._lock = Lock()  # of the dictionary only, not of what is computed

    def __call__(self, key: bytes, compute: Callable[[], Value]) -> Value:
        """The value of the key; what `compute` raises, everybody who asked for the key gets."""
        with self._lock:
            mine = key not in self._known
            known = self._known.setdefault(key, Future())
        if mine:
            try:
                known.set_result(compute())
            except BaseException as error:
                known.set_exception(error)
        return known.result()
