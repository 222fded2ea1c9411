"""Self-distillation, shared by DINO and DINOv2: head, teacher target with its centre, loss, and moving average.

- [0]: Caron et al., Emerging Properties in Self-Supervised Vision Transformers (DINO), 2021,
  https://arxiv.org/abs/2104.14294
- [1]: Caron et al., SwAV, 2020, section 3.1 and appendix A, https://arxiv.org/abs/2006.09882

Shapes: b images, K output dimensions of the head ("prototypes"), v views.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from lightly.models.modules import DINOProjectionHead
from torch import Tensor, nn

from pellucid.pretrain.distributed.collectives import largest, n_processes, total
from pellucid.pretrain.recipe import DinoConfig
from pellucid.pretrain.schedules import cosine, warmup_linear

_SINKHORN_ITERATIONS = 3  # [1], section 3.1


def new_head(dim: int, config: DinoConfig, output_dim: int) -> DINOProjectionHead:
    """h of [0], section 3.1: three layers, L2 normalisation, and a weight-normalised last layer of K prototypes."""
    with warnings.catch_warnings():  # lightly's weight norm is PyTorch's older one
        warnings.simplefilter("ignore", FutureWarning)
        return DINOProjectionHead(
            dim, config.hidden_dim, config.bottleneck_dim, output_dim, norm_last_layer=config.norm_last_layer
        )


class Schedules:
    """Teacher temperature, teacher momentum and the frozen last layer as functions of the step."""

    def __init__(self, config: DinoConfig, steps: int) -> None:
        self.config, self.steps = config, steps
        self.freeze_steps = round(config.freeze_last_layer * steps)
        self.temp_warmup_steps = round(config.teacher_temp_warmup * steps)

    def teacher_temp(self, step: int) -> float:
        """Linear warm-up, then constant ([0], appendix D): a high temperature at the start leads to collapse."""
        config = self.config
        return warmup_linear(step, self.temp_warmup_steps, config.warmup_teacher_temp, config.teacher_temp)

    def teacher_momentum(self, step: int) -> float:
        """λ of [0], section 3.1: a cosine from `teacher_momentum` to 1."""
        return cosine(step, self.steps, self.config.teacher_momentum, 1.0)

    def freeze_last_layer(self, step: int, heads: Sequence[DINOProjectionHead]) -> None:
        """Freeze the last layers at the start, so that the prototypes are not fitted to random features."""
        if step < self.freeze_steps:
            for head in heads:
                for parameter in head.last_layer.parameters():
                    parameter.grad = None  # None, not zero: AdamW would still decay it


class TeacherTarget(nn.Module):
    """The teacher's outputs → target distributions for the student: centred or balanced, and sharpened.

    The centre C ([0], eq. 4) is that of the global batch. It is constant during a step: the outputs of all
    micro-batches are summed, and `update` changes C once, over all processes.
    """

    centre: Tensor
    seen: Tensor
    count: Tensor

    def __init__(self, output_dim: int, centering: Literal["mean", "sinkhorn_knopp"], momentum: float) -> None:
        super().__init__()
        self.centering, self.momentum = centering, momentum
        self.register_buffer("centre", torch.zeros(output_dim))
        # Empty between steps, when checkpoints are written: not part of the state.
        self.register_buffer("seen", torch.zeros(output_dim), persistent=False)
        self.register_buffer("count", torch.zeros(()), persistent=False)

    @torch.no_grad()
    def forward(self, outputs: Tensor, temp: float, weight: Tensor | None = None) -> Tensor:
        """(m, K) outputs of the teacher → (m, K) float32 probabilities.

        Args:
            temp: τ_t.
            weight: (m,) 1 for valid rows and 0 for padding; None if all are valid.
        """
        outputs = outputs.float()
        if self.centering == "sinkhorn_knopp":
            return sinkhorn_knopp(outputs / temp, weight)
        if self.training:
            self.seen += (outputs if weight is None else outputs * weight[:, None]).sum(dim=0)
            self.count += len(outputs) if weight is None else weight.sum()
        return F.softmax((outputs - self.centre) / temp, dim=1)

    @torch.no_grad()
    def update(self) -> None:
        """C ← m C + (1 − m) · mean of all outputs seen since the last update; the same in all processes."""
        if self.centering == "sinkhorn_knopp":
            return
        seen = total(torch.cat([self.seen, self.count[None]]))
        mean = seen[:-1] / seen[-1].clamp_min(1)
        moved = self.centre * self.momentum + mean * (1 - self.momentum)
        self.centre.copy_(torch.where(seen[-1] > 0, moved, self.centre))  # unchanged without any masked patch
        self.seen.zero_()
        self.count.zero_()


@torch.no_grad()
def sinkhorn_knopp(logits: Tensor, weight: Tensor | None = None) -> Tensor:
    """Rows of exp(logits), balanced so that each column has an equal share over the batch of all processes; (m, K).

    Three rounds of dividing columns, then rows, by their sums, ending with rows that are distributions ([1], appendix
    A). `weight`: (m,) 1 for valid rows, 0 for padding.
    """
    q = torch.exp(logits - largest(logits.max()))  # for numerical range; a common factor cancels below
    if weight is not None:
        q = q * weight[:, None]
    for _ in range(_SINKHORN_ITERATIONS):
        q = q / total(q.sum(dim=0)).clamp_min(1e-30)
        q = q / q.sum(dim=1, keepdim=True).clamp_min(1e-30)
    return q


def multi_crop_loss(target: Tensor, student: Tensor, temp: float) -> Tensor:
    """Mean over images and pairs of different views of H(P_t, P_s) ([0], eq. 3 and Algorithm 1) → scalar, float32.

    H = −Σ_k P_t log softmax(s / τ)_k = logsumexp(s / τ) − ⟨P_t, s⟩ / τ, because P_t sums to one. Each output of the
    student is therefore used once, with the sum of its targets. The product is elementwise, because a matrix product
    would be rounded to TF32 on a GPU.

    Args:
        target: (t, b, K) probabilities for the t global views.
        student: (v, b, K) outputs; its first t views are those of the target, and none is paired with itself.
        temp: τ_s.
    """
    (n_teacher, b, _), n_views = target.shape, len(student)
    all_targets = target.sum(dim=0)
    terms = []
    for view, output in enumerate(student.unbind(0)):  # one view at a time in float32: K is large
        own = view < n_teacher
        n_partners = n_teacher - 1 if own else n_teacher
        if n_partners:
            logits = output.float() / temp
            partners = all_targets - target[view] if own else all_targets
            terms.append(n_partners * logits.logsumexp(dim=1).sum() - (partners * logits).sum())
    return torch.stack(terms).sum() / ((n_teacher * n_views - n_teacher) * b)


def row_cross_entropy(target: Tensor, student: Tensor, temp: float) -> Tensor:
    """−Σ_k target log softmax(student / temp)_k of each row; (m, K) both → (m,) float32."""
    logits = student.float() / temp
    return logits.logsumexp(dim=1) * target.sum(dim=1) - (target * logits).sum(dim=1)


@torch.no_grad()
def teacher_terms(target: Tensor) -> dict[str, Tensor]:
    """Entropy of the teacher and how evenly it uses its outputs; (m, K) probabilities → two 0-dim tensors, in nats.

    `teacher_entropy`: mean entropy of the m samples, in [0, log K]. log K: uniform output (uniform collapse); 0: always
    a single prototype.

    `teacher_kl_uniform`: KL(p̄ ‖ uniform) = log K − H(p̄) in [0, log K], with p̄ (K,) the mean over the samples *of all
    processes*: 0 if all prototypes are used equally, log K if only one is used. A batch of m sharp samples cannot use
    more than m prototypes, so that the minimum is about log(K / m) if K is larger than the batch.
    """
    entropy = -torch.special.xlogy(target, target).sum(dim=1).mean()
    mean = total(target.mean(dim=0)) / n_processes()
    kl = math.log(target.shape[1]) + torch.special.xlogy(mean, mean).sum()
    return {"teacher_entropy": entropy, "teacher_kl_uniform": kl}


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """θ_teacher ← λ θ_teacher + (1 − λ) θ_student ([0], section 3.1), all tensors in one call.

    The running statistics of batch norm are not averaged. The teacher runs in training mode and has its own statistics,
    from its activations for global views; the student's belong to other weights and include small views.
    """
    torch._foreach_lerp_(list(teacher.parameters()), [p.detach() for p in student.parameters()], 1 - momentum)
