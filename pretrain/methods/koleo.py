"""KoLeo: a regulariser that increases the distance of features to their nearest neighbour, so that they spread out.

- [0]: Sablayrolles et al., Spreading vectors for similarity search, 2019, eq. 2, https://arxiv.org/abs/1806.03198
- [1]: Oquab et al., DINOv2, 2023, section 4, https://arxiv.org/abs/2304.07193
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pellucid.pretrain.distributed.collectives import all_rows, n_processes

_EPS = 1e-8


def koleo_loss(features: Tensor) -> Tensor:
    """−mean log distance of each L2-normalised feature to its nearest neighbour among all; (b, d) → scalar, float32.

    The neighbours are among the features of all processes, within one micro-batch. Larger batches have nearer
    neighbours, so values are comparable for equal batch sizes only.
    """
    own = F.normalize(features.float(), dim=1, eps=_EPS)
    everything = all_rows(own)
    rank = torch.distributed.get_rank() if n_processes() > 1 else 0
    itself = torch.arange(len(own), device=own.device) + rank * len(own)
    with torch.no_grad():  # the choice of the neighbour is not differentiated, [0]
        similarity = own @ everything.T
        similarity.scatter_(1, itself[:, None], -2.0)
        nearest = similarity.argmax(dim=1)
    distance = F.pairwise_distance(own, everything[nearest], eps=_EPS)
    return -(distance + _EPS).log().mean()
