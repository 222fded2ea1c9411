"""Monitoring with labels: at regular steps, predict each variable of an image from its nearest neighbours.

The loss uses no labels. These scores show whether the features encode the device or the diagnosis more strongly as
training proceeds. Labels are used for these scores only, never for training. The predicted images belong to patients of
the training split who are held out of the training batches; test patients are not used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from pellucid.cohort.identifiers import shareable
from pellucid.cohort.images import PreparedImages
from pellucid.cohort.manifest import hash_share, with_captions
from pellucid.cohort.runs import RunFolder
from pellucid.cohort.study import Study, Variable
from pellucid.embed.backbones import Backbone, kept
from pellucid.embed.extract import in_threads
from pellucid.pretrain.methods.method import Method
from pellucid.pretrain.monitor.knn_readout import predict_from_neighbours
from pellucid.pretrain.recipe import Recipe

FEWEST_HELD_OUT = 20  # patients; a smaller sample is too imprecise, so these patients are better used for training
LOOKS = 8  # monitoring steps per training, unless the recipe sets `watch.every`
_QUERY_SHARE = 0.3  # largest share of the images that is predicted; the others are the neighbours
_BATCH = 16  # the batch size of extraction on a CPU


@dataclass(frozen=True)
class Watch:
    """The sample of images that is monitored.

    Attributes:
        frame: one row per image: image_id, patient, caption, `shown` (the image may be shown: it has no burned-in
            text), `asked` (true: the image is predicted; false: it is only a neighbour), and the variables.
        held_out: image_ids that are excluded from training; empty if no patient is held out.
        every: steps between two monitoring steps.
        precision: of the study's `embed:` section, so that the scores are those of the vectors that `embed` will
            compute.
    """

    frame: pd.DataFrame
    variables: list[Variable]
    images: PreparedImages
    held_out: frozenset[str]
    every: int
    neighbours: int
    recipe: Recipe
    precision: str = "auto"

    @classmethod
    def open(cls, study: Study, scan: RunFolder, recipe: Recipe, steps: int) -> Watch | None:
        """The sample of a study's training patients; None if there are fewer than two or `watch.every` is 0.

        Args:
            steps: length of the training.
        """
        config = recipe.watch
        every = max(1, round(steps / LOOKS)) if config.every is None else config.every
        manifest = pd.read_parquet(scan.path / "manifest.parquet")
        variables = [variable for variable in study.variables if variable.name in manifest]
        if every == 0:
            return None
        usable = with_captions(manifest[manifest["status"] == "ok"])
        usable = usable[usable["split"] == "train"]
        # Research ids change when patients are added; source ids do not. They are used for the hash only, and then
        # dropped.
        own = usable["patient_source_id"] if "patient_source_id" in usable else usable["patient"]
        usable = usable.assign(person=own.fillna(usable["patient"]), shown=shareable(usable))
        columns = [
            "image_id",
            "patient",
            "person",
            "caption",
            "shown",
            *dict.fromkeys(variable.name for variable in variables),
        ]
        frame, held_out = sample(usable[columns], config.patients if variables else 0.0, config.images, recipe.seed)
        if frame["patient"].nunique() < 2:
            return None
        images = PreparedImages.open(scan.path, frame["image_id"].tolist(), at_least_px=recipe.img_size)
        frame = frame.drop(columns="person")
        precision = str(study.config.embed.get("precision", "auto"))
        return cls(frame, variables, images, held_out, every, config.neighbours, recipe, precision)

    def due(self, done: int, steps: int) -> bool:
        """Whether step `done` of `steps` is a monitoring step (0: the untrained network)."""
        return done == steps or (done % self.every == 0 and steps - done >= self.every / 2)

    def lines(self, vectors: NDArray[np.float32], step: int) -> list[dict[str, Any]]:
        """One line of watch.jsonl per variable, from the `vectors` after `step` steps."""
        asked = self.frame["asked"].to_numpy()
        patients = np.asarray(self.frame["patient"].astype("category").cat.codes, dtype=np.int64)
        return [
            {
                "step": step,
                "variable": variable.name,
                "role": variable.role,
                "kind": variable.kind,
                **predict_from_neighbours(
                    vectors,
                    self.frame[variable.name],
                    variable.kind,
                    patients,
                    asked=np.flatnonzero(asked).astype(np.int64),
                    known=np.flatnonzero(~asked).astype(np.int64),
                    k=self.neighbours,
                ),
                "held_out": bool(self.held_out),
            }
            for variable in self.variables
        ]

    def vectors(self, method: Method) -> NDArray[np.float32]:
        """(n, d) float32 vectors of the current backbone, in the frame's order, computed as `pellucid embed` computes
        them.

        The number type, kernel and threads are those that `embed` chooses. The method is unchanged afterwards.
        """
        model, recipe = method.backbone(), self.recipe
        encoder = Backbone(
            "watched", recipe.img_size, int(model.num_features), "", model=model, pooling=method.pooling,
            mean=recipe.mean, std=recipe.std, precision=self.precision,
        )  # fmt: skip
        modes = [(module, module.training) for module in model.modules()]
        model.eval()
        try:
            with torch.random.fork_rng(devices=[]), kept(model):
                starts = range(0, len(self.frame), _BATCH)
                batches = [range(s, min(s + _BATCH, len(self.frame))) for s in starts]
                parts = in_threads(encoder, batches, self._pixels)
        finally:
            for module, was in modes:
                module.training = was
        return np.concatenate(parts)

    def _pixels(self, rows: Sequence[int]) -> NDArray[np.uint8]:
        return np.stack([self.images.square(i, self.recipe.img_size) for i in rows])

    def sentence(self) -> str:
        """How the scores are computed and for which patients, for the training page."""
        asked = self.frame[self.frame["asked"]]
        who = f"{asked['patient'].nunique():,} patients ({len(asked):,} images)"
        if self.held_out:
            return (
                f"Predicted from the {self.neighbours} nearest images of other patients, for {who} of the training "
                "split that are excluded from training."
            )
        return (
            f"Predicted from the {self.neighbours} nearest images of other patients, for {who}. These images are also "
            f"used for training, without labels: the study is too small to hold out {FEWEST_HELD_OUT} patients."
        )


def sample(training: pd.DataFrame, share: float, most_images: int, seed: int) -> tuple[pd.DataFrame, frozenset[str]]:
    """Select the monitored images, and the images that are excluded from training.

    Patients are selected by a hash of their name and the seed, so that adding patients does not change who is held out.
    All images of a patient are treated alike. If there are more than `most_images`, the first image of every patient is
    taken before any second one.

    Args:
        training: image_id, patient, `person` (the name that is hashed) and the variables; one row per readable image of
            the training split.

    Returns:
        The selected rows with the column `asked`, in the order of `training`; and the image_ids of all held-out
        patients.
    """
    draws = training["person"].map(lambda person: _hash(seed, str(person)))
    held = draws < share
    if training.loc[held, "patient"].nunique() < FEWEST_HELD_OUT:
        held = pd.Series(False, index=training.index)
    order = training.assign(
        held=held, draw=draws, place=training["image_id"].map(lambda image_id: _hash(seed, str(image_id)))
    ).sort_values(["patient", "place"])
    order["turn"] = order.groupby("patient").cumcount()
    order = order.sort_values(["turn", "draw", "place"])
    if held.any():
        query, bank, most_asked = order["held"], ~order["held"], max(1, round(most_images * _QUERY_SHARE))
    else:  # predict one half of the patients from the other: leave-one-out prediction would be below chance
        people = order.drop_duplicates("patient")
        query = order["patient"].isin(people["patient"].iloc[: len(people) // 2])
        bank, most_asked = ~query, most_images // 2
    asked = order[query].head(most_asked)
    chosen = pd.concat([asked, order[bank].head(most_images - len(asked))])
    flags = pd.Series(chosen.index.isin(asked.index), index=chosen.index)
    frame = training.loc[training.index.isin(chosen.index)]
    frame = frame.assign(asked=flags.reindex(frame.index))
    frame = frame.assign(asked=frame["asked"].astype(bool)).reset_index(drop=True)
    return frame, frozenset(training.loc[held, "image_id"].astype(str))


def _hash(seed: int, name: str) -> float:
    return hash_share(f"watch:{seed}:{name}")  # the prefix makes it independent of the split's hash
