"""Tensor types with their shapes: n is the batch, `shape` whatever an example looks like."""

from __future__ import annotations

from jaxtyping import Bool, Float, Int
from torch import Tensor

Images = Float[Tensor, "n *shape"]
"""Examples, or anything of their shape: gradients, perturbations, noise."""

Labels = Int[Tensor, "n"]
"""Class of each example, from 0."""

Scores = Float[Tensor, "n classes"]
"""Class scores (logits)."""

PerExample = Float[Tensor, "n"]
"""One figure an example: a loss, a distance."""

Verdicts = Bool[Tensor, "n"]
"""One yes or no an example."""
