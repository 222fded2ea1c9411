"""The order of the images, a function of seed and slot: by image, by patient, or by acquisition factor and patient.

Slots are numbered from the start of the training: step · batch size + place in the batch. With `sampling: patient`,
consecutive slots visit each patient once per round, in a new order in each round, and each visit takes the patient's
next image. With `patient+device` they visit the devices, then the device's patients, then the patient's images.

The images form a tree with one rule for every node: visit k of a node with n children goes to child π(k mod n), with a
separate permutation π for each ⌊k / n⌋. It is the ⌊k / n⌋-th visit of that child, which is the child's k. There is no
state and no stored permutation: π(i) is computed when it is needed.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pellucid.cohort.config import did_you_mean
from pellucid.cohort.errors import UserError

_ORDER = 0  # separates these random numbers from those of batches.py
_ROUNDS = np.random.SeedSequence(0).generate_state(
    12, np.uint64
)  # with fewer rounds small permutations are not equally likely
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
Ints = NDArray[np.int64]
Keys = NDArray[np.uint64]


class Sampler:
    """The order of the images of one training."""

    def __init__(self, n_images: int, seed: int, *levels: NDArray[np.generic]) -> None:
        """`levels`: balanced groups of the images, outermost first, each (n_images,): none, patients, or devices and
        patients."""
        self.n_images, self.seed = n_images, seed
        groups = np.zeros(n_images, dtype=np.int64)  # group of each image on the level above
        self._children: list[tuple[Ints, Ints]] = []  # per level and node: first child and number of children
        for level in levels:
            codes = pd.factorize(np.asarray(level), use_na_sentinel=False)[0].astype(np.int64)
            within = groups * (int(codes.max()) + 1) + codes
            _, first, inner = np.unique(within, return_index=True, return_inverse=True)
            self._children.append(_ranges(groups[first]))
            groups = inner.astype(np.int64).reshape(-1)
        self._images = np.argsort(groups, kind="stable")
        self._children.append(_ranges(groups[self._images]))

    def slots(self, start: int, stop: int) -> Ints:
        """(stop − start,) indices of the images of these slots."""
        visit = np.arange(start, stop, dtype=np.int64)
        if len(self._children) == 1:
            return self._in_epochs(visit)
        knot = np.zeros_like(visit)
        for level, (first, count) in enumerate(self._children):
            n = count[knot]
            round_, place = visit // n, visit % n
            key = splitmix64(
                splitmix64(splitmix64(_key(self.seed, level) ^ knot.astype(np.uint64)) ^ round_.astype(np.uint64))
            )
            knot, visit = first[knot] + permuted(place, n, key), round_
        return self._images[knot]

    def batch(self, batch_size: int, step: int) -> Ints:
        """(batch_size,) indices of the images of step `step`, for all processes together."""
        return self.slots(step * batch_size, (step + 1) * batch_size)

    def passes(self, n_slots: int) -> tuple[float, float]:
        """Expected number of times that the least and the most frequent image are seen in `n_slots`."""
        share = np.ones(1)
        for _, count in self._children:
            share = np.repeat(share / count, count)
        return float(share.min() * n_slots), float(share.max() * n_slots)

    def _in_epochs(self, position: Ints) -> Ints:
        """Concatenated permutations of the epochs: each image once per epoch, without dropping the last ones."""
        epochs = position // self.n_images
        chosen = np.empty(len(position), dtype=np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            chosen[here] = _permutation(self.n_images, self.seed, int(epoch))[position[here] % self.n_images]
        return chosen


def sampling_levels(sampling: str, acquisition: list[str]) -> list[str]:
    """The columns of the manifest that `sampling` balances, outermost first: none, patient, or a factor and patient.

    Args:
        acquisition: names of the study's acquisition factors.

    Raises:
        UserError: it is not `image`, `patient` or `patient+FACTOR`.
    """
    if sampling in ("image", "patient"):
        return [] if sampling == "image" else ["patient"]
    unit, plus, factor = sampling.partition("+")
    if unit != "patient" or not plus:
        near = did_you_mean(sampling, ["image", "patient"])
        raise UserError(f"`sampling: {sampling}`{near}; there are: image, patient, patient+FACTOR")
    if factor not in acquisition:
        named = f"there are: {', '.join(acquisition)}" if acquisition else "the study names none"
        raise UserError(
            f"`sampling: {sampling}`: `{factor}` is not an acquisition factor of this study"
            f"{did_you_mean(factor, acquisition)}; {named}"
        )
    return [factor, "patient"]


def new_sampler(frame: pd.DataFrame, levels: list[str], seed: int) -> Sampler:
    """The sampler of the images in `frame`, one row each, balanced by its columns `levels` (see `sampling_levels`).

    Missing values of an acquisition factor count as a level.
    """
    return Sampler(len(frame), seed, *(frame[name].astype("object").to_numpy() for name in levels))


def permuted(place: Ints, n: Ints, key: Keys) -> Ints:
    """π(place): for each of the m entries the value at `place` of a random permutation of 0 … n − 1 that depends only
    on `key`.

    A Feistel network over a × a ≥ n cells, iterated until the result is below n: Black and Rogaway, Ciphers with
    arbitrary finite domains, CT-RSA 2002, section 5 and "cycle walking". The cost does not depend on n.
    """
    # All rounds together are an even permutation; a random exchange of the first two also gives the odd ones.
    place = np.where((key >> np.uint64(63) == 1) & (place < 2) & (n > 1), 1 - place, place)
    side = np.ceil(np.sqrt(n)).astype(np.int64)
    walking = np.flatnonzero(n > 1)
    while len(walking):
        moved = _feistel(place[walking], side[walking], key[walking])
        place[walking] = moved
        walking = walking[moved >= n[walking]]
    return place


def _feistel(place: Ints, side: Ints, key: Keys) -> Ints:
    left, right = place // side, place % side
    modulus = side.astype(np.uint64)
    for constant in _ROUNDS:
        noise = splitmix64(key ^ constant ^ right.astype(np.uint64)) % modulus
        left, right = right, (left + noise.astype(np.int64)) % side
    return left * side + right


def splitmix64(x: Keys) -> Keys:
    """The finaliser of splitmix64 (Steele, Lea and Flood, OOPSLA 2014): a bijection of 64-bit numbers that mixes their
    bits."""
    with np.errstate(over="ignore"):
        x = x + _GOLDEN
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))


@lru_cache(maxsize=64)
def _key(seed: int, level: int) -> Keys:
    return np.random.SeedSequence([_ORDER, seed, level]).generate_state(1, np.uint64).astype(np.uint64)


@lru_cache(maxsize=2)
def _permutation(n_images: int, seed: int, epoch: int) -> Ints:
    return np.random.default_rng([_ORDER, seed, epoch]).permutation(n_images)


def _ranges(parents: Ints) -> tuple[Ints, Ints]:
    """First child and number of children of each parent, for children sorted by parent."""
    count = np.bincount(parents).astype(np.int64)
    return np.cumsum(count) - count, count
