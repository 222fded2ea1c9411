"""Which image comes when: a function of seed and slot alone, so that a patient with 200 images need not drown one with 2.

Slots are numbered from the start of the training: step · batch size + place in the batch. With `sampling: patient` the
slots run through the patients, in a new order each time round, and each visit of a patient takes that patient's next
image; with `patient+device` they run through the devices, then the device's patients, then the patient's images.

So images hang on a tree, and one rule serves at every knot of it: visit k of a knot with n children goes to child
π(k mod n), with a permutation π of its own for each ⌊k / n⌋; as that child is then visited for the ⌊k / n⌋-th time, the
same number is the child's k. No state is kept, and no permutation is written down: π is computed where it is needed.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pellucid.cohort.config import did_you_mean
from pellucid.cohort.errors import UserError

_ORDER = 0  # a stream of random numbers that must not meet those of batches.py
_ROUNDS = np.random.SeedSequence(0).generate_state(12, np.uint64)  # with fewer, small permutations are not alike
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
Ints = NDArray[np.int64]
Keys = NDArray[np.uint64]


class Sampler:
    """The order of the images of one training."""

    def __init__(self, n_images: int, seed: int, *levels: NDArray[np.generic]) -> None:
        """`levels`: what shares the slots equally, outermost first, each (n_images,): none, patients, or devices and patients."""
        self.n_images, self.seed = n_images, seed
        groups = np.zeros(n_images, dtype=np.int64)  # of each image, on the level above
        self._children: list[tuple[Ints, Ints]] = []  # per level, of each knot: its first child and how many
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
        """How often the image that comes least and the one that comes most are seen in `n_slots`: on average over seeds."""
        share = np.ones(1)
        for _, count in self._children:
            share = np.repeat(share / count, count)
        return float(share.min() * n_slots), float(share.max() * n_slots)

    def _in_epochs(self, position: Ints) -> Ints:
        """The epochs' permutations laid end to end: within an epoch each image comes once, and none is dropped."""
        epochs = position // self.n_images
        chosen = np.empty(len(position), dtype=np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            chosen[here] = _permutation(self.n_images, self.seed, int(epoch))[position[here] % self.n_images]
        return chosen


def sampling_levels(sampling: str, acquisition: list[str]) -> list[str]:
    """The manifest's columns that `sampling` names, outermost first: none, patient, or an acquisition factor and patient.

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
    """The sampler of the images in `frame`, one row each, by those of its columns that `sampling_levels` has named.

    What is missing in an acquisition factor counts as one more level of it.
    """
    return Sampler(len(frame), seed, *(frame[name].astype("object").to_numpy() for name in levels))


def permuted(place: Ints, n: Ints, key: Keys) -> Ints:
    """π(place): for each of the m entries a random permutation of 0 … n − 1 that depends on `key` alone, at one place.

    A Feistel network over a × a ≥ n cells, followed until it comes out below n: Black and Rogaway, Ciphers with
    arbitrary finite domains, CT-RSA 2002, section 5 and "cycle walking". It costs the same for any n.
    """
    # Each round is an even permutation, so all of them together would be: a coin exchanges the first two or not.
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
    """The finaliser of splitmix64 (Steele, Lea and Flood, OOPSLA 2014): 64 bits in, 64 unlike bits out, one to one."""
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
    """Of children in the order of their parents: where each parent's begin, and how many they are."""
    count = np.bincount(parents).astype(np.int64)
    return np.cumsum(count) - count, count
