"""What R is formed of, from the gradients of a pass: their signs, and epsilon for each layer (eqs. 6-9)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from lat.laws import draw_epsilon
from lat.linear_maps import TransposedConvolved
from lat.perturbation.error import PerturbationError
from lat.perturbation.forming import Formation, Term
from lat.sites import Tap, activation_after, chain


def sites(model: nn.Module, formation: Formation) -> dict[str, str]:
    """The module at whose output the gradient is taken for each layer that the formation asks one for: the layer
    itself, or the activation behind it. Raises SiteError where the model is no chain in which to find that.
    """
    if formation.reading.at != "activation":
        return {name: name for name in formation.sources}
    order = chain(model)
    return {name: activation_after(order, name) for name in formation.sources}


def terms(
    formation: Formation,
    places: Mapping[str, str],
    tap: Tap,
    rng: Callable[[torch.device], torch.Generator],
    mend: str,
    unseen: str,
) -> dict[str, Term]:
    """The term of each layer from the gradients that `tap` has recorded at `places`, as `sites` gives them; epsilon is
    drawn from the generator `rng` of a device.

    Raises PerturbationError naming the layer that no gradient reached, with `mend` in its words, or `unseen` where no
    pass has called it, or whose gradient has another shape than its output.
    """
    reading, law = formation.reading, formation.law
    one_draw = reading.scope != "local" and law.draw != "element"
    shared: Tensor | float | None = None
    found: dict[str, Term] = {}
    directions: dict[str, Tensor] = {}
    for name in formation.layers:
        source = formation.source(name)
        site = places[source]
        if uncalled := [place for place in (site, name) if place not in tap.sizes]:
            raise PerturbationError(
                f"no gradient reached layer {uncalled[0]!r}, which no pass in training mode has called: {unseen}"
            )
        if site not in tap.gradients:
            frozen = site in tap.edges and tap.edges[site] is None
            asked = "its output requires none; let a parameter up to it, or the input, require a gradient"
            raise PerturbationError(f"no gradient reached layer {site!r}: {asked if frozen else mend}")
        if source not in directions:
            directions[source] = _direction(formation, source, site, tap)
        direction = directions[source]
        n = tap.gradients[site].shape[0]
        if not one_draw or shared is None:
            generator = None if law.kind == "fixed" else rng(direction.device)
            shared = draw_epsilon(law, (n, *direction.shape[1:]), direction, generator)
        rows = formation.rows(n, shared=reading.pairing == "mean" and law.draw == "batch")
        eps = shared.view(-1, *[1] * (direction.dim() - 1)) if one_draw and isinstance(shared, Tensor) else shared
        found[name] = Term(direction, eps, None, rows, tap.sizes[name])
    return found


def _direction(formation: Formation, source: str, site: str, tap: Tap) -> Tensor:
    """The sign of the gradient at the output of layer `source` (closed) or at its input (propagated)."""
    first = formation.map(source, tap.sizes[source])
    weight = first.module.weight
    g = tap.gradients[site].to(weight.dtype)
    if weight.dim() > 2 and g.dim() != weight.dim():
        raise PerturbationError(
            f"the gradient at {site!r} has shape {tuple(g.shape)}, not (n, filters, *size) as {source!r} gives; "
            "give the model a batch, and flatten after the activation"
        )
    if isinstance(first, TransposedConvolved) and g.shape[1:] != first.outputs:
        raise PerturbationError(
            f"the gradient at {site!r} has shape {tuple(g.shape)}, and its layer {source!r} gives {first.outputs}; "
            "leave output_size out of its call, and give it output_padding"
        )
    if formation.reading.pairing == "mean":
        g = g.mean(dim=0, keepdim=True)
    gradient = g if formation.reading.form == "closed" else first.input_gradient(g)
    return torch.sign(gradient).nan_to_num_(nan=0.0)
