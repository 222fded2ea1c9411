"""Statistics of a batch of features, without labels: spread, rank, alignment and uniformity. They show a collapse.

Shapes: b images, d dimensions. Everything is computed in float64, whatever the number type of the training.
"""

from __future__ import annotations

import torch
from torch import Tensor


def feature_statistics(features: Tensor, partner: Tensor | None = None) -> dict[str, float]:
    """The feature statistics of one line of metrics.jsonl.

    Args:
        features: (b, d), one view of each image, over all processes.
        partner: (b, d), another view of the same images, if the method has one.

    Returns:
        `feature_std`, `effective_rank`, `centred_rank` and `uniformity`; with a partner also `alignment`.
    """
    found = {
        "feature_std": feature_std(features),
        "effective_rank": effective_rank(features),
        "centred_rank": effective_rank(features.double() - features.double().mean(dim=0)),
    }
    if len(features) > 1:
        found["uniformity"] = uniformity(features)
    if partner is not None:
        found["alignment"] = alignment(features, partner)
    return found


def feature_std(features: Tensor) -> float:
    """Mean over dimensions of the standard deviation over the batch of L2-normalised features; (b, d) → float.

    1/√d for features spread evenly over the sphere, 0 after collapse (Chen & He 2021, SimSiam, section 4.1).
    """
    return float(_unit(features).std(dim=0, correction=0).mean())


def effective_rank(features: Tensor) -> float:
    """RankMe: exp of the entropy of the normalised singular values; (b, d) → float in [1, min(b, d)], higher is better.

    Garrido et al. 2023, eq. 1–2 (which is Roy & Vetterli's effective rank of 2007). A direction that all
    images share counts like any other. `centred_rank` is the same after the mean of the batch is subtracted; it is the
    better sign of collapse for features with a large common component, like those of MAE and of random weights.
    """
    singular = torch.linalg.svdvals(features.detach().double().cpu())
    p = singular / singular.sum().clamp_min(1e-300) + 1e-7
    return float(torch.exp(-(p * p.log()).sum()))


def alignment(features: Tensor, partner: Tensor) -> float:
    """Mean squared distance of two views of an image, L2-normalised; both (b, d) → float in [0, 4], lower is better.

    Wang & Isola 2020, section 4.1, with α = 2. A collapse also gives 0: interpret it together with `uniformity`.
    """
    return float((_unit(features) - _unit(partner)).square().sum(dim=1).mean())


def uniformity(features: Tensor) -> float:
    """log of the mean of exp(−2 ‖x − y‖²) over pairs of different images; (b, d), b > 1 → float ≤ 0, lower is better.

    Wang & Isola 2020, section 4.1, with t = 2: 0 after collapse, and nearly −4 for images spread evenly over a sphere
    of many dimensions.
    """
    unit = _unit(features)
    b = len(unit)
    squared = (2 - 2 * unit @ unit.T).clamp_min(0)
    squared = squared[~torch.eye(b, dtype=torch.bool, device=squared.device)]
    return float((-2 * squared).exp().mean().log())


def _unit(features: Tensor) -> Tensor:
    return torch.nn.functional.normalize(features.detach().double(), dim=1)
