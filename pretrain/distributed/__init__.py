"""Distributed training: the process group, differentiable collectives and synchronised batch norm."""
