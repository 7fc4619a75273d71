"""How R of the perturbed layers is formed: by one layer, eqs. (6) and (8), or along a route, eqs. (7) and (9)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lat.cells import Law, Reading
from lat.linear_maps import LinearMap, linear_map
from lat.perturbation import passing
from lat.perturbation.kept import Kept
from lat.perturbation.passing import Seen
from lat.perturbation.routes import Route, route
from lat.sites import CONVOLUTIONS, TRANSPOSED, Layer, layer


@dataclass
class Term:
    """R of one layer, or what it is made of; the one not held is None.

    Where R is detached, `perturbation` is R itself. Where it is attached, it is formed from the current weights in the
    forward pass: `direction` is sign(dL/dy) (closed), the sign of the gradient at the scope's start (propagated), or
    delta at the network's input (source `cw`, with an `eps` of 1). `rows` is the size of the batches that R fits; 0 for
    any, where all slots share one R. `size` is the shape of the layer's inputs that R fits, without the batch axis.
    """

    direction: Tensor | None
    eps: Tensor | float | None
    perturbation: Tensor | None
    rows: int
    size: tuple[int, ...]

    def scaled(self, radius: Tensor | float = 1.0) -> Tensor:
        """eps radius ⊙ direction."""
        assert self.direction is not None and self.eps is not None
        return self.eps * radius * self.direction


class Formation:
    """Forms R of named layers of a model as a reading says. Raises SiteError where the reading cannot be followed.

    `route` is the way through the network, None in scope `local`. `sources` are the layers at which a gradient is asked
    for, and `modules` they and the perturbed ones. `together` says whether R of all layers is best formed at once.
    """

    def __init__(self, model: nn.Module, layers: Sequence[str], law: Law, reading: Reading) -> None:
        modules: dict[str, Layer] = {name: layer(model, name) for name in layers}
        self.layers = layers
        self.law = law
        self.reading = reading
        self.route: Route | None = None
        self.sources: Sequence[str] = layers
        if reading.scope != "local":
            self.route = route(model, layers, reading)
            if self.route.first:
                self.sources = [self.route.first]
        self.modules: Mapping[str, Layer] = modules | {name: layer(model, name) for name in self.sources}
        convolutions = [isinstance(module, (*CONVOLUTIONS, *TRANSPOSED)) for module in modules.values()]
        self.together = any(convolutions) if self.route is None else self.route.convolutional
        self._kept = Kept()

    def source(self, name: str) -> str:
        """The layer at whose output the gradient is taken for R of layer `name`."""
        return self.route.first if self.route is not None and self.route.first else name

    @property
    def like(self) -> Tensor:
        """A tensor in whose dtype and on whose device R is formed."""
        return self.modules[self.layers[0]].weight

    def full_precision(self) -> torch.autocast:
        """A block in which autocast is off: R is formed in the dtype of the weights."""
        return torch.autocast(self.like.device.type, enabled=False)

    def map(self, name: str, size: tuple[int, ...]) -> LinearMap:
        """Layer `name` as a linear map of inputs of `size`, without the batch axis."""
        return linear_map(self.modules[name], size)

    def rows(self, n: int, *, shared: bool) -> int:
        """The size of the batches that R fits: 0 for any, where all slots share one R and no maxima of n examples."""
        return 0 if shared and not (self.route is not None and self.route.maxima) else n

    def form(self, terms: Mapping[str, Term], seen: Seen, names: Collection[str]) -> dict[str, Tensor]:
        """R (n, *out) or (1, *out) of the layers `names` from their terms, what was seen, and the current weights."""
        if self.reading.source == "cw":
            return self.pushed(terms, seen, names)[0]
        if self.reading.form == "closed":
            radii = self._radii(terms, seen, names)
            return {name: terms[name].scaled(radii[name]) for name in names}
        if self.route is None:
            maps = {name: self.map(name, terms[name].size) for name in names}
            return {name: step.change(terms[name].scaled()) for name, step in maps.items()}
        groups: list[Collection[str]] = [[name] for name in names] if self.law.draw == "element" else [names]
        return {name: R for group in groups for name, R in self.pushed(terms, seen, group)[0].items()}

    def pushed(
        self, terms: Mapping[str, Term], seen: Seen, names: Collection[str]
    ) -> tuple[dict[str, Tensor], dict[str, tuple[int, ...]]]:
        """What the layers `names` share at the scope's start, pushed to their outputs; and their inputs' sizes."""
        assert self.route is not None
        term = terms[next(iter(names))]
        start = dict.fromkeys(self.route.starts, term.scaled())
        return passing.pushed(self.route, start, seen, names, signed=self.reading.form == "propagated")

    def _radii(self, terms: Mapping[str, Term], seen: Seen, names: Collection[str]) -> dict[str, Tensor]:
        """The radius (*out) of each layer. Radii through convolutions are kept; to compare the weights of fully
        connected layers with those before would cost as much as their product.
        """

        def form() -> dict[str, Tensor]:
            if self.route is None:
                return {name: self.map(name, terms[name].size).closed_radius() for name in names}
            return passing.radii(self.route, seen, names, self.like)

        if torch.is_grad_enabled() or not self.together:
            return form()
        weights = [self.modules[name].weight for name in names] if self.route is None else self.route.parameters
        sizes = dict(seen.sizes) | {name: terms[name].size for name in names}
        return self._kept(sizes, [*seen.tensors.values(), *weights], form)
