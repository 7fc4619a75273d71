"""Algorithm 1 of the paper for any training loop: the layer perturbations R^t, their update and their reset."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from lat import linear_maps
from lat.cells import Law, Reading
from lat.laws import Fixed, draw_epsilon
from lat.linear_maps import LinearMap, linear_map
from lat.sites import CONVOLUTIONS, PERTURBABLE, Layer, SiteError, Tap, activation_after, chain, layer, refuse_compiled


class PerturbationError(RuntimeError):
    """A `LayerwiseAdversary` was called out of order; the message says what to call first."""


@dataclass
class Term:
    """One layer's R: `direction` is sign(dL/dy) (closed) or the sign of the gradient at the scope's start (propagated).

    `perturbation` is R itself where it is detached; None where it is formed from the current weights in the forward
    pass. `rows` is the size of the batches that R fits; 0 for any, where all slots share one R. `size` is the shape of
    the layer's inputs that R fits, without the batch axis.
    """

    direction: Tensor
    eps: Tensor | float
    perturbation: Tensor | None
    rows: int
    size: tuple[int, ...]


class LayerwiseAdversary:
    """Adds the layer perturbations of Algorithm 1 to the outputs of named layers, in any training loop.

    A layer is an nn.Linear, nn.Conv1d, nn.Conv2d or nn.Conv3d.

        adversary = LayerwiseAdversary(model, layers=["fc2", "fc3"], epsilon=Normal(0, 0.1))
        with adversary:                     # adds R^t to the outputs of the named layers
            loss = criterion(model(x), y)
        loss.backward()
        adversary.update()                  # R^{t+1} from this batch's gradients
        optimizer.step()

    R is formed as `reading` says: the last line of eqs. (6) and (7) (form `closed`) or their first (`propagated`), from
    the layer's own weights (scope `local`), from the first layer of the set on (`layer_set`) or from the network's
    input (`network`); with the previous batch's gradients slot by slot (pairing `slot`), their mean (`mean`: one
    direction for all), or the same batch's (`same`). For a convolution it is a side of eq. (8): eps (|w| * 1) ⊙
    sign(dL/dy) (closed) or w * (eps sign(dL/dx)) (propagated), in scope `local` alone. Where the scope is local every
    layer draws its own epsilon; elsewhere there is one input perturbation and so one draw for all layers (but for draws
    an element). With gradient `attached` the loss is differentiated through R by the weights; epsilon and the signs are
    constants.

    * The first batch, and the first after `reset()`, goes unperturbed (t = 0).
    * A batch of another size than R's, or of images of another size, goes unperturbed, as at t = 0, and is counted in
      `skipped`.
    * A model, or a layer, in eval mode inside the block goes unperturbed.
    * `update()` without a backward pass through the block's outputs raises PerturbationError.
    * A name that is no such layer, a convolution padded with other than zeros or unequally, a scope past `local` that
      leads through a convolution, or a layer called twice in one block, raises SiteError.
    * Under autocast R is computed in float32 and added in the dtype of the layer's output; a scaled loss changes no
      sign, and a gradient that overflows to no number has none (R is 0 there).
    * `state_dict()` and `load_state_dict()` hold R, the generator with its seed and the count, and resume bit for bit.
    * Pairing `same` takes two passes: call `observe(lambda: criterion(model(x), y))`, then enter the block; no
      `update()`.
    * `copy.deepcopy` of the adversary copies its model with it; inside the block it raises PerturbationError, and
      `copy.deepcopy` of the model SiteError.
    * A compiled model is refused by name (SiteError), as compiled code drops hooks; DistributedDataParallel is
      unwrapped, each process keeping the R of its own slots; DataParallel is refused by name.

    Outside the block, whatever was raised inside it, the model is a plain network.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str],
        epsilon: Law | float,
        reading: Reading | None = None,
        *,
        seed: int = 0,
    ) -> None:
        refuse_compiled(model)
        if isinstance(model, nn.DataParallel):
            raise SiteError("DataParallel runs copies of the layers, whose hooks are lost; use DistributedDataParallel")
        self.model = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
        self.layers = tuple(layers)
        self.law = epsilon if isinstance(epsilon, Law) else Fixed(epsilon)
        self.reading = reading or Reading()
        self.seed = seed
        self.skipped = 0
        if not self.layers:
            raise SiteError("layers: none named; name at least one layer")
        if len(set(self.layers)) != len(self.layers):
            raise SiteError(f"layers: {', '.join(self.layers)} names a layer twice; name each once")
        named = {name: layer(self.model, name) for name in self.layers}
        needs_order = self.reading.scope != "local" or self.reading.at == "activation"
        order = chain(self.model) if needs_order else []
        self._paths = {name: self._path(order, name) for name in self.layers}
        named |= {name: layer(self.model, name) for path in self._paths.values() for name in path}
        self._modules: Mapping[str, Layer] = named
        sources = dict.fromkeys([*self.layers, *(path[0] for path in self._paths.values())])
        after = self.reading.at == "activation"
        self._gradient_sites = {name: activation_after(order, name) if after else name for name in sources}
        watched = dict.fromkeys([*self.layers, *self._gradient_sites.values()])
        self._watched: Mapping[str, nn.Module] = {name: self.model.get_submodule(name) for name in watched}
        self._generator: torch.Generator | None = None
        self._terms: dict[str, Term] = {}
        self._tap: Tap | None = None
        self._inside = False
        self._mismatched = False

    def _path(self, order: Sequence[tuple[str, nn.Module]], name: str) -> tuple[str, ...]:
        """The layers whose weights form R of layer `name`, in forward order: the scope's first up to `name`.

        Raises SiteError where a scope wider than `local` leads through a convolution.
        """
        if self.reading.scope == "local":
            return (name,)
        names = [entry for entry, module in order if isinstance(module, PERTURBABLE)]
        if name not in names:
            raise SiteError(f"layers: {name!r} takes no part in the forward pass; name one of {', '.join(names)}")
        start = (
            0 if self.reading.scope == "network" else min(names.index(entry) for entry in self.layers if entry in names)
        )
        path = tuple(names[start : names.index(name) + 1])
        for entry in path:
            module = self.model.get_submodule(entry)
            if isinstance(module, CONVOLUTIONS):
                raise SiteError(
                    f"layers: scope {self.reading.scope!r} leads to {name!r} through {entry!r}, a "
                    f"{type(module).__name__}, which is perturbed by its own weights alone; use scope 'local'"
                )
        return path

    # The block -------------------------------------------------------------------------------------------------------

    def __enter__(self) -> LayerwiseAdversary:
        if self._inside:
            raise PerturbationError("the block is entered already; leave it first")
        self._mismatched = False
        self._tap = Tap(self._watched, self._change)
        self._tap.__enter__()
        self._inside = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._tap is not None
        self._tap.__exit__(kind, value, trace)
        self._inside = False
        self.skipped += self._mismatched
        if kind is not None:
            self._tap = None
        if self.reading.pairing == "same":
            self._terms = {}

    def _change(self, name: str, y: Tensor) -> Tensor | None:
        """R^t for the output y (n, *out) of layer `name`; None where there is none, or once one has not fitted."""
        assert self._tap is not None
        term = self._terms.get(name)
        if term is None or not self.model.training:
            return None
        self._mismatched |= term.rows not in (0, y.shape[0]) or term.size != self._tap.sizes[name]
        if self._mismatched:
            return None
        if term.perturbation is not None:
            return term.perturbation
        with self._full_precision():
            return self._form(name, term)

    def _full_precision(self) -> torch.autocast:
        """A block in which autocast is off: R is formed in the dtype of the weights."""
        return torch.autocast(self._modules[self.layers[0]].weight.device.type, enabled=False)

    def _maps(self, name: str, size: tuple[int, ...]) -> list[LinearMap]:
        """The linear maps on the path of layer `name`, whose own inputs are of `size`."""
        return [linear_map(self._modules[entry], size) for entry in self._paths[name]]

    def _form(self, name: str, term: Term) -> Tensor:
        """R of layer `name` from its term and the current weights: eq. (7) or (8); for one layer (7) is (6)."""
        maps = self._maps(name, term.size)
        if self.reading.form == "closed":
            return linear_maps.closed(maps, term.direction, term.eps)
        return linear_maps.propagated(maps, term.eps * term.direction)

    # R^{t+1} ---------------------------------------------------------------------------------------------------------

    def update(self) -> None:
        """R^{t+1} from the gradients of the last block's backward pass; call it before the optimiser's step.

        Raises PerturbationError where no gradient reached a named layer, where it has not the shape of a convolution's
        output, or where the pairing is `same`.
        """
        if self.reading.pairing == "same":
            raise PerturbationError("pairing 'same' takes R from observe(), before the block; do not call update()")
        if self._inside or self._tap is None:
            raise PerturbationError(
                "update() has no block to learn from: run a forward pass inside one, leave it, and call backward()"
            )
        tap, self._tap = self._tap, None
        self._terms = self._terms_from(tap, "call loss.backward() before update(), with the layer in training mode")

    def observe(self, loss: Callable[[], Tensor]) -> None:
        """Pairing `same`: R from this very batch, by a plain pass before the block.

        `loss` runs the model on the batch and returns the scalar loss. The parameters' gradients are left as they are;
        modules with running statistics see the batch once more. Raises PerturbationError for another pairing.
        """
        if self.reading.pairing != "same":
            raise PerturbationError(
                f"pairing {self.reading.pairing!r} takes R from update(), after backward(); observe() is for 'same'"
            )
        if self._inside:
            raise PerturbationError("observe() is a plain pass; call it before entering the block")
        with Tap(self._watched, lambda name, y: None) as tap:
            value = loss()
        missing = "the loss given to observe() must come from the model in training mode"
        edges = [edge for edge in tap.edges.values() if edge is not None]
        if edges:
            torch.autograd.grad(value, edges, allow_unused=True)
        self._terms = self._terms_from(tap, missing)

    def _terms_from(self, tap: Tap, mend: str) -> dict[str, Term]:
        with torch.no_grad(), self._full_precision():
            return self._terms_of(tap, mend)

    def _terms_of(self, tap: Tap, mend: str) -> dict[str, Term]:
        shared: Tensor | float | None = None
        terms = {}
        for name in self.layers:
            closed = self.reading.form == "closed"
            site = self._gradient_sites[name if closed else self._paths[name][0]]
            if site not in tap.gradients or name not in tap.sizes:
                raise PerturbationError(f"no gradient reached layer {site!r}: {mend}")
            first = self._maps(name, tap.sizes[name])[0]
            weight = first.module.weight
            g = tap.gradients[site].to(weight.dtype)
            if isinstance(first.module, CONVOLUTIONS) and g.dim() != weight.dim():
                raise PerturbationError(
                    f"the gradient at {site!r} has shape {tuple(g.shape)}, not (n, filters, *size) as {name!r} gives; "
                    "give the model a batch, and flatten after the activation"
                )
            n = g.shape[0]
            if self.reading.pairing == "mean":
                g = g.mean(dim=0, keepdim=True)
            source = g if closed else first.input_gradient(g)
            direction = torch.sign(source).nan_to_num_(nan=0.0)
            if self.reading.scope == "local" or self.law.draw == "element" or shared is None:
                shared = draw_epsilon(self.law, (n, *direction.shape[1:]), direction, self._rng(g.device))
            one_for_all = self.reading.pairing == "mean" and self.law.draw == "batch"
            term = Term(direction, shared, None, 0 if one_for_all else n, tap.sizes[name])
            if self.reading.gradient == "detached":
                term.perturbation = self._form(name, term)
            terms[name] = term
        return terms

    def _rng(self, device: torch.device) -> torch.Generator:
        if self._generator is None or self._generator.device != device:
            self._generator = torch.Generator(device).manual_seed(self.seed)
        return self._generator

    def reset(self) -> None:
        """Back to t = 0: the next batch goes unperturbed. The generator goes on."""
        self._terms, self._tap = {}, None

    @property
    def perturbations(self) -> dict[str, Tensor]:
        """R^t by layer, (n, *out) or (1, *out), as the next block would add it; empty at t = 0."""
        with torch.no_grad(), self._full_precision():
            return {
                name: self._form(name, term) if term.perturbation is None else term.perturbation
                for name, term in self._terms.items()
            }

    # State -----------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """R, the generator's state and seed, and the count of skipped batches: tensors, numbers, text and None."""
        return {
            "terms": {
                name: {
                    "direction": term.direction,
                    "eps": term.eps,
                    "perturbation": term.perturbation,
                    "rows": term.rows,
                    "size": term.size,
                }
                for name, term in self._terms.items()
            },
            "generator": None if self._generator is None else self._generator.get_state(),
            "device": None if self._generator is None else str(self._generator.device),
            "seed": self.seed,
            "skipped": self.skipped,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from `state_dict()`. Raises SiteError where it is of an adversary on other layers."""
        if state["terms"] and set(state["terms"]) != set(self.layers):
            raise SiteError(
                f"state of layers {', '.join(state['terms'])}; this adversary perturbs {', '.join(self.layers)}"
            )
        self._terms = {name: Term(**term) for name, term in state["terms"].items()}
        self.seed = state["seed"]
        self._generator = None
        if state["generator"] is not None:
            self._generator = torch.Generator(state["device"])
            self._generator.set_state(state["generator"])
        self.skipped = state["skipped"]
        self._tap = None

    def __deepcopy__(self, memo: dict[int, Any]) -> LayerwiseAdversary:
        if self._inside:
            raise PerturbationError("deepcopy inside the block would copy its hooks; leave the block first")
        twin = LayerwiseAdversary(copy.deepcopy(self.model, memo), self.layers, self.law, self.reading, seed=self.seed)
        memo[id(self)] = twin
        twin.load_state_dict(copy.deepcopy(self.state_dict(), memo))
        return twin
