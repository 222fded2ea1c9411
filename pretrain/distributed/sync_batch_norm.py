"""Batch norm over the images of all processes, for ResNets and LeJEPA's projector.

Otherwise each process would normalise by its own share of the batch, and the running statistics of the processes, of
which one is saved, would diverge. Vision Transformers and ConvNeXt have no batch norm.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pellucid.cohort.errors import UserError
from pellucid.pretrain.distributed.collectives import n_processes, total


class GlobalBatchNorm(_BatchNorm):
    """Like PyTorch's SyncBatchNorm, which DDP does not allow on a CPU; its weights have the names of batch norm."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        axes = [axis for axis in range(input.ndim) if axis != 1]
        shape = [-1 if axis == 1 else 1 for axis in range(input.ndim)]
        x = input.float()  # sums in bfloat16 would lose small terms
        sums = total(torch.cat([x.sum(dim=axes), x.new_tensor([x.numel() / x.shape[1]])]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = x - mean.view(shape)
        variance = total(centred.square().sum(dim=axes)) / count  # of the centred values: no cancellation
        self._update_running(mean.detach(), (variance * (count / (count - 1))).detach())
        out = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            out = out * self.weight.view(shape) + self.bias.view(shape)
        return out.to(input.dtype)

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of axes after the channels is valid."""

    def _update_running(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        weight = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, weight)
        self.running_var.lerp_(variance, weight)


def share_batch_norm(module: nn.Module) -> None:
    """Replace every batch norm in `module`, in place, by one over all processes; no change with one process.

    Raises:
        UserError: a kind of batch norm that cannot be replaced.
    """
    if n_processes() > 1:
        _replace(module)


def _replace(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm) and type(child) not in (nn.BatchNorm1d, nn.BatchNorm2d):
            raise UserError(
                f"`backbone`: its {type(child).__name__} does more than batch norm and cannot be used with several "
                "processes: train it with one process, or choose a backbone with plain batch norm (resnet50) or "
                "without (convnext, vit)"
            )
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
            new = GlobalBatchNorm(
                child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats
            )
            new.load_state_dict(child.state_dict())
            new.to(next(iter(child.state_dict().values())).device)
            new.train(child.training)
            for own, old in zip(new.parameters(), child.parameters(), strict=True):
                own.requires_grad_(old.requires_grad)
            setattr(module, name, new)
        else:
            _replace(child)
