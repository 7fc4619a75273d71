"""The attack that training runs on its own batch: projected sign steps on the plain network from a random start."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lat.running_statistics import still

BOX = (0.0, 1.0)
STEPS = 7
STEP_SIZE = 1 / 4  # of epsilon
Loss = Callable[[Tensor, Tensor], Tensor]


def summed_cross_entropy(scores: Tensor, y: Tensor) -> Tensor:
    """The cross entropy of scores (n, classes), summed over the batch."""
    return cross_entropy(scores, y, reduction="sum")


def summed_margin(scores: Tensor, y: Tensor) -> Tensor:
    """The margin loss of Carlini and Wagner, summed over the batch: max over k != y of z_k, minus z_y."""
    own = scores.gather(1, y[:, None]).squeeze(1)
    others = scores.scatter(1, y[:, None], -torch.inf).amax(dim=1)
    return (others - own).sum()


def gradient(model: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> Tensor:
    """dL/dx of the plain network, (n, C, H, W); the parameters' gradients and running statistics stay as they are."""
    x = x.detach().requires_grad_()
    with still(model):
        (g,) = torch.autograd.grad(loss(model(x), y), x)
    return g


def ascent(
    model: nn.Module, x: Tensor, y: Tensor, eps: Tensor | float, loss: Loss, generator: torch.Generator
) -> Tensor:
    """Images (n, C, H, W) with a high loss in the ball of radius eps >= 0 around x and in the box: 7 steps of eps / 4
    along the sign of the gradient, each projected on both, from a start that is uniform in the ball.
    """
    low, high = (x - eps).clamp(min=BOX[0]), (x + eps).clamp(max=BOX[1])
    start = x + eps * (2 * torch.rand(x.shape, generator=generator, device=x.device, dtype=x.dtype) - 1)
    z = start.clamp(*BOX)
    for _ in range(STEPS):
        z = (z + STEP_SIZE * eps * gradient(model, z, y, loss).sign()).clamp(low, high)
    return z
