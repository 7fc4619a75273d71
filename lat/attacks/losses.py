"""What the attacks ascend: one loss an example, its gradient with respect to the input alone, and who is wrong already.

Losses are summed, never averaged: a mean divides every gradient by the batch size, and float32 gradients of confident
networks then underflow to zero (an `Oracle` gives them per example).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from lat.attacks.draws import Draws
from lat.attacks.protocol import broken
from lat.types import Images, Labels, PerExample, Scores, Verdicts

Loss = Callable[[Scores, Labels], PerExample]


class Seen(NamedTuple):
    """What an oracle says of a point: the loss of each example there, its gradient, and whether the model is wrong."""

    loss: PerExample
    gradient: Images
    wrong: Verdicts


@runtime_checkable
class Oracle(Protocol):
    """Looks at one point of each example of a batch, one step after the other."""

    def __call__(self, point: Images) -> Seen: ...

    def rows(self, rows: Tensor) -> Oracle:
        """The oracle of some examples of the batch alone, which goes on where this one stands; `rows` are indices."""


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


@dataclass(frozen=True)
class Exact:
    """The loss of `model` at a point, its gradient with respect to that point, and where the search is over (`broken`).

    Weight gradients are neither computed nor left behind. Raises NoGradient where the scores are detached.
    """

    model: nn.Module
    y: Labels
    loss: Loss

    def __call__(self, point: Images) -> Seen:
        with torch.enable_grad():
            leaf = point.detach().requires_grad_()
            scores = self.model(leaf)
            losses = self.loss(scores, self.y)
            if not losses.requires_grad:
                raise NoGradient(
                    "the model's scores carry no gradient to its input; remove the detach or no_grad inside it"
                )
            (gradient,) = torch.autograd.grad(losses.sum(), leaf)
        return Seen(losses.detach(), gradient, broken(self.model, scores.detach(), self.y))

    def rows(self, rows: Tensor) -> Exact:
        return Exact(self.model, self.y[rows], self.loss)


@dataclass(frozen=True)
class Smoothed:
    """Mean of the loss and of its gradient over Gaussian noise on the input: EoT (Athalye et al. 2018).

    `deviation` times each of `count` standard normal draws an example is added in turn. Noisy points are not clipped to
    the box: the expectation is over the noise as it is. Whether the model is wrong is asked at the point itself, in one
    forward pass without noise.
    """

    inner: Exact
    draws: Draws
    deviation: float
    count: int

    def __call__(self, point: Images) -> Seen:
        with torch.no_grad():
            wrong = broken(self.inner.model, self.inner.model(point), self.inner.y)
        shifts = self.draws.normal(point[:, None].expand(-1, self.count, *point.shape[1:]))
        losses, gradient, _ = self.inner(torch.add(point, shifts[:, 0], alpha=self.deviation))
        for k in range(1, self.count):
            more_losses, more_gradient, _ = self.inner(torch.add(point, shifts[:, k], alpha=self.deviation))
            losses, gradient = losses.add_(more_losses), gradient.add_(more_gradient)
        return Seen(losses.div_(self.count), gradient.div_(self.count), wrong)

    def rows(self, rows: Tensor) -> Smoothed:
        return Smoothed(self.inner.rows(rows), self.draws.rows(rows.tolist()), self.deviation, self.count)
