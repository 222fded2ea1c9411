"""Signs of life without labels: is the batch still spread over many directions, or has everything collapsed?"""

from __future__ import annotations

import torch
from torch import Tensor


def feature_std(features: Tensor) -> float:
    """Mean over dimensions of the standard deviation over the batch of L2-normalised features; (b, d) → float.

    1/√d for features spread evenly over the sphere, 0 after collapse (Chen & He 2021, SimSiam, section 4.1).
    """
    unit = torch.nn.functional.normalize(features.detach().double(), dim=1)
    return float(unit.std(dim=0, correction=0).mean())


def effective_rank(features: Tensor) -> float:
    """RankMe: exp of the entropy of the normalised singular values; (b, d) → float in [1, min(b, d)], higher is better.

    Garrido et al. 2023, eq. 1–2 (which is Roy & Vetterli's effective rank of 2007).
    """
    singular = torch.linalg.svdvals(features.detach().double().cpu())
    p = singular / singular.sum().clamp_min(1e-300) + 1e-7
    return float(torch.exp(-(p * p.log()).sum()))
