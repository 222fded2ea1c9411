"""Views of each specialty as images, and their cost compared with a step of DINO.

    python -m benchmarks.view_speed --sheet docs/images/views.jpg    # phantom endoscopy under each preset
    python -m benchmarks.view_speed --sheet mine.jpg --image a.jpg   # your own image
    python -m benchmarks.view_speed --time                           # one thread, ViT-Ti/16, 2 × 224 + 6 × 96 px

Times are processor times, which other programs on the machine disturb less; the share is what counts.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from pellucid.cohort.config import find_recipe, read_yaml, validate
from pellucid.cohort.images.pixels import stretch
from pellucid.cohort.phantom.drawing import Dials, draw_image, patient_tissue
from pellucid.cohort.readers import read_image
from pellucid.pretrain.augment.step_random import Draw
from pellucid.pretrain.augment.views import make_view
from pellucid.pretrain.methods.method_table import build_method
from pellucid.pretrain.recipe import DinoRecipe, load_recipe
from pellucid.pretrain.recipe.specialty_presets import load_preset, with_preset

SPECIALTIES = ["endoscopy", "dermatology", "fundus", "ultrasound", "wounds", "pathology", "radiograph", "oct", "ct"]
GREY = {"ultrasound", "radiograph", "oct", "ct"}
TILE, COLUMNS = 96, 4  # pixels; views of each kind
CPU = torch.device("cpu")


def recipe_of(specialty: str, *, robust: bool) -> DinoRecipe:
    """DINO's recipe under a specialty's preset."""
    before = read_yaml(find_recipe("pretrain", "dino-vits16"))
    return validate(DinoRecipe, with_preset(before, load_preset(specialty), acquisition_robust=robust), specialty)


def views_of(picture: NDArray[np.uint8], recipe: DinoRecipe, n: int) -> NDArray[np.uint8]:
    """(n, TILE, TILE, 3): global views of one (s, s, 3) picture."""
    batch = torch.from_numpy(picture)[None].expand(n, -1, -1, -1)
    views = make_view(
        batch, Draw(1, 0, n, slice(0, n), CPU), recipe.views.global_1, TILE, recipe.views, torch.zeros(3), torch.ones(3)
    )
    return np.asarray((views * 255).round().byte().permute(0, 2, 3, 1).numpy())


def sheet(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """One row per specialty: the picture, views of the preset, views of the preset and made-up devices."""
    rows = []
    for specialty in SPECIALTIES:
        shown = picture
        if specialty in GREY:
            shown = np.repeat(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[:, :, None], 3, axis=2)
        first = cv2.resize(shown, (TILE, TILE), interpolation=cv2.INTER_AREA)
        plain = views_of(shown, recipe_of(specialty, robust=False), COLUMNS)
        robust = views_of(shown, recipe_of(specialty, robust=True), COLUMNS)
        label = np.full((TILE, 100, 3), 255, np.uint8)
        cv2.putText(label, specialty, (2, TILE // 2), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
        gap = np.full((TILE, 12, 3), 255, np.uint8)
        rows.append(np.hstack([label, first, gap, *plain, gap, *robust]))
    return np.vstack(rows)


def phantom() -> NDArray[np.uint8]:
    """A square of phantom endoscopy: nobody's picture."""
    rng = np.random.default_rng(3)
    picture = draw_image(
        patient_tissue(np.random.default_rng(3), 256),
        rng,
        (320, 256),
        severity=2,
        device="Aurora 1",
        operator="A",
        dials=Dials(),
    )
    return stretch(picture, 256)


def times(rounds: int) -> None:
    """Processor time of the views of one image, and its share of a step of DINO with them, all in one run."""
    torch.set_num_threads(1)
    changes: dict[str, dict[str, object]] = {
        "as in the paper": {},
        "quarter turns": {"quarter_turns": 0.75},
        "free rotation": {"rotate_deg": 15},
        "made-up devices": {"acquisition": recipe_of("endoscopy", robust=True).views.acquisition.model_dump()},
    }
    b = 8
    for source_px in (256, 320):
        images = torch.randint(0, 256, (b, source_px, source_px, 3), dtype=torch.uint8)
        for name, views in changes.items():
            section = {
                "recipe": "dino-vits16",
                "backbone": "vit_tiny_patch16_224",
                "source_px": source_px,
                "precision": "fp32",
                "views": {"local": {"count": 6}, **views},
            }
            _, recipe = load_recipe(section)
            method = build_method(recipe, 100)
            cut_s, step_s = [], []
            for step in range(rounds + 1):  # the first warms up
                began = time.process_time()
                cut = method.views(images, Draw(0, step, b, slice(0, b), CPU))
                made = time.process_time()
                if name == "as in the paper":
                    method(cut, step).loss.backward()
                    step_s.append((time.process_time() - made) / b)
                cut_s.append((made - began) / b)
            if step_s:
                model_s = median(step_s[1:])
            ms = median(cut_s[1:]) * 1e3
            share = ms / (ms + model_s * 1e3)
            print(
                f"{source_px} px, {name}: {ms:.1f} ms per image, {share:.1%} of a step ({model_s * 1e3:.0f} ms without)"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sheet", type=Path, metavar="FILE")
    parser.add_argument("--image", type=Path, help="for the sheet; default: phantom endoscopy")
    parser.add_argument("--time", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.sheet is not None:
        picture = (
            phantom() if arguments.image is None else stretch(read_image(arguments.image.read_bytes()).pixels, 256)
        )
        cv2.imwrite(
            str(arguments.sheet), cv2.cvtColor(sheet(picture), cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85]
        )
    if arguments.time:
        times(arguments.rounds)


if __name__ == "__main__":
    main()
