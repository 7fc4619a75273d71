"""What the attacks ascend: one loss an example, and its gradient with respect to the input alone.

Losses are summed, never averaged: a mean divides every gradient by the batch size, and float32 gradients of confident
networks then underflow to zero (`Oracle` values come back per example).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lat.types import Images, Labels, PerExample, Scores

Loss = Callable[[Scores, Labels], PerExample]
Oracle = Callable[[Images], tuple[PerExample, Images]]
"""Point -> (loss of each example there, its gradient)."""


class NoGradient(RuntimeError):
    """The scores do not depend on the input in a way that can be differentiated, so no gradient attack can run."""


def cross_entropy(scores: Scores, y: Labels) -> PerExample:
    """-log softmax(scores)_y."""
    return nn.functional.cross_entropy(scores, y, reduction="none")


def margin(scores: Scores, y: Labels) -> PerExample:
    """Largest score of another class minus the score of y: positive exactly where the example is misclassified.

    Carlini and Wagner 2017, section IV-A, f_6 without its lower cut.
    """
    own = scores.gather(1, y[:, None]).squeeze(1)
    others = scores.scatter(1, y[:, None], -torch.inf)
    return others.amax(1) - own


def oracle(model: nn.Module, y: Labels, loss: Loss) -> Oracle:
    """The loss of `model` at a point and its gradient with respect to that point.

    Weight gradients are neither computed nor left behind. Raises NoGradient where the scores are detached.
    """

    def evaluate(point: Images) -> tuple[PerExample, Images]:
        with torch.enable_grad():
            leaf = point.detach().requires_grad_()
            losses = loss(model(leaf), y)
            if not losses.requires_grad:
                raise NoGradient(
                    "the model's scores carry no gradient to its input; remove the detach or no_grad inside it"
                )
            (gradient,) = torch.autograd.grad(losses.sum(), leaf)
        return losses.detach(), gradient

    return evaluate


def smoothed(inner: Oracle, noise: Callable[[Tensor], Tensor], deviation: float, draws: int) -> Oracle:
    """Mean of the loss and of its gradient over Gaussian noise on the input: EoT (Athalye et al. 2018).

    `noise` gives standard normal numbers of the shape of its argument, (n, draws, ...); `deviation` times each of them
    is added in turn. Noisy points are not clipped to the box: the expectation is over the noise as it is.
    """

    def evaluate(point: Images) -> tuple[PerExample, Images]:
        shifts = noise(point[:, None].expand(-1, draws, *point.shape[1:]))
        losses, gradient = inner(torch.add(point, shifts[:, 0], alpha=deviation))
        for k in range(1, draws):
            more_losses, more_gradient = inner(torch.add(point, shifts[:, k], alpha=deviation))
            losses, gradient = losses.add_(more_losses), gradient.add_(more_gradient)
        return losses.div_(draws), gradient.div_(draws)

    return evaluate
