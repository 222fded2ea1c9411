"""Groups of copies without chains: every member is a copy of the group's first image."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray


class Groups:
    """Union-find over rows, for what is *equal*; the root of a group is its first row."""

    def __init__(self, n: int) -> None:
        self.parent = np.arange(n)

    def root(self, i: int) -> int:
        while self.parent[i] != i:
            self.parent[i] = self.parent[self.parent[i]]
            i = int(self.parent[i])
        return i

    def join(self, i: int, j: int) -> None:
        a, b = self.root(i), self.root(j)
        self.parent[max(a, b)] = min(a, b)

    def join_equal(self, codes: NDArray[np.int64]) -> None:
        """Join rows of one code; −1 is none."""
        first: dict[int, int] = {}
        for i in np.flatnonzero(codes >= 0).tolist():
            self.join(first.setdefault(int(codes[i]), i), i)

    def roots(self) -> NDArray[np.int64]:
        return np.array([self.root(i) for i in range(len(self.parent))], dtype=np.int64)


class StarGroups:
    """Groups for what is *alike*: alikeness is not transitive, so a chain of alike images would grow without bound.

    Two groups become one only if each image of the one is a copy of the other's first image (its representative).
    """

    def __init__(self, is_copy: Callable[[int, int], bool]) -> None:
        """`is_copy`: whether two images, the earlier one first, are copies."""
        self._is_copy = is_copy
        self._first: dict[int, int] = {}
        self._members: dict[int, list[int]] = {}  # of each representative, itself included
        self._apart: set[tuple[int, int]] = set()  # representatives of groups that do not fit

    def first(self, i: int) -> int:
        """The representative of an image's group."""
        return self._first.get(i, i)

    def settled(self, i: int, j: int) -> bool:
        """Whether comparing two images can change nothing: they are together, or their groups do not fit."""
        a, b = sorted((self.first(i), self.first(j)))
        return a == b or (a, b) in self._apart

    def join(self, i: int, j: int) -> bool:
        """Put the groups of two copies together; False if a member is not a copy of the representative."""
        a, b = sorted((self.first(i), self.first(j)))
        if a == b:
            return True
        if (a, b) in self._apart:
            return False
        moved = self._members.get(b, [b])
        if not all({a, member} == {i, j} or self._is_copy(a, member) for member in moved):
            self._apart.add((a, b))
            return False
        self._members.setdefault(a, [a]).extend(moved)
        self._members.pop(b, None)
        self._first.update(dict.fromkeys(moved, a))
        return True

    def stars(self) -> dict[int, list[int]]:
        """Representative → its group, itself included."""
        return {first: list(members) for first, members in self._members.items()}
