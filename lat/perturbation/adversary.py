"""The adversary of Algorithm 1: the block that puts R^t on the layers, its update and its state."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, SupportsFloat

import torch
from torch import Tensor, nn

from lat.cells import Law, Reading
from lat.laws import law_of
from lat.perturbation import gradients
from lat.perturbation.error import PerturbationError
from lat.perturbation.forming import Formation, Term
from lat.perturbation.passing import Seen
from lat.perturbation.routes import INPUT
from lat.sites import SiteError, Tap, bare

INSIDE = "run the model inside the block, in training mode, or leave the layer out"
UNUSED = 10
"""Blocks in a row with a backward pass and no R learned, after which a warning says so; accumulated gradients leave out
a few."""


class LayerwiseAdversary:
    """Adds the layer perturbations of Algorithm 1 to the outputs of named layers, in any training loop.

    A layer is an nn.Linear, or an nn.Conv or nn.ConvTranspose of one to three axes, or of a subclass that keeps torch's
    forward; its weight may be parametrized (torch.nn.utils.parametrize) by what gives the same weight at every reading.

        adversary = LayerwiseAdversary(model, layers=["fc2", "fc3"], epsilon=Normal(0, 0.1))
        for epoch in range(epochs):
            adversary.reset()                   # Algorithm 1 begins every epoch without R
            for x, y in loader:
                with adversary:                 # adds R^t to the outputs of the named layers
                    loss = criterion(model(x), y)
                optimizer.zero_grad()
                loss.backward()
                adversary.update()              # R^{t+1} from this batch's gradients
                optimizer.step()

    R is formed as `reading` says: the last line of eqs. (6) and (7) (form `closed`) or their first (`propagated`), from
    the layer's own weights (scope `local`), from the first layer of the set on (`layer_set`) or from the network's
    input (`network`); with the previous batch's gradients slot by slot (pairing `slot`), their mean (`mean`: one
    direction for all), or the same batch's (`same`). For convolutions these are the sides of eqs. (8) and (9):
    eps (|w| * 1) ⊙ sign(dL/dy) (closed) or w * (eps sign(dL/dx)) (propagated). Where the scope is local every layer
    draws its own epsilon; elsewhere there is one input perturbation and so one draw for all layers (but for draws an
    element). With gradient `attached` the loss is differentiated through R by the weights; epsilon, the signs and what
    the forward pass has shown (below) are constants.

    A wider scope leads through the network as torch.fx traces it, in one pass for all layers. Closed: R of layer l is
    eps radius_l ⊙ sign(dL/dy_l), with radius_l as `lat.bounds.radii` carries it: times |W| in a layer, times
    |gamma / sigma| in BatchNorm, the largest of a window in max pooling, the mean in average pooling, the sum where
    outputs are added; ReLU, dropout and flatten leave it. Propagated: r = eps sign(dL/dx) is pushed through the weights
    alone: W without its bias, gamma / sigma with its sign, sums and means as they are, and of a window of max pooling
    (a module, not a function) what lies where the maximum was; ReLU passes it unchanged.

    * sigma is the batch's in the forward pass that gave the gradients, where BatchNorm was in training mode (so that R
      is no bound), else the running one; the maxima too are those of that pass.
    * The scope `layer_set` starts at the input of its first layer. A layer of the set that no other one of it leads to
      starts at its own input, with a radius of 1. What joins from elsewhere does not move: its radius is 0.
    * The propagated form finds dL/dx from the gradient at the output of the one first layer, through its weights; it
      raises SiteError where several layers come first, or more than flatten, ReLU or dropout before it.
    * Radii do not depend on the data but for sigma: where the way leads through a convolution they are kept between two
      steps of an optimiser, and formed again once a weight or sigma has changed by a bit.
    * The first batch, and the first after `reset()`, goes unperturbed (t = 0).
    * A batch of another size than R's, or of images of another size, goes unperturbed, as at t = 0, and is counted in
      `skipped`.
    * A model, or a layer, in eval mode inside the block goes unperturbed; a pass of a model in eval mode, as to follow
      its accuracy, leaves no trace in R.
    * `update()` without a backward pass through the block's outputs raises PerturbationError. Where it is forgotten,
      there is never an R and training is plain: after ten blocks in a row that had a backward pass and taught nothing,
      a UserWarning says so.
    * An epsilon that is neither a number nor a law raises CellError, a reading that is none PerturbationError.
    * A name that is no such layer, a convolution padded with other than zeros or unequally, a wider scope that leads
      through a module or operation that radii cannot pass, a layer called twice in one block or under
      torch.utils.checkpoint, or (gradient at the activation) a network that is no chain of layers and ReLU modules,
      raises SiteError, which names it.
    * Under autocast R is computed in float32 and added in the dtype of the layer's output; a scaled loss changes no
      sign, and a gradient that overflows to no number has none (R is 0 there).
    * `state_dict()` and `load_state_dict()` hold R, the generator with its seed and the count, and resume bit for bit.
    * Pairing `same` takes two passes: call `observe(lambda: criterion(model(x), y))`, then enter the block; no
      `update()`.
    * Source `cw` takes R from `push(delta)` in the place of `update()` and `observe()`.
    * `copy.deepcopy` of the adversary copies its model with it; inside the block it raises PerturbationError, and
      `copy.deepcopy` of the model SiteError.
    * A compiled model is refused by name (SiteError), as compiled code ignores later hooks; DistributedDataParallel is
      unwrapped, each process keeping the R of its own slots; DataParallel is refused by name.

    Outside the block, whatever was raised inside it, the model is a plain network.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str],
        epsilon: Law | SupportsFloat,
        reading: Reading | None = None,
        *,
        seed: int = 0,
    ) -> None:
        self.model = bare(model)
        if isinstance(layers, str):
            raise SiteError(f"layers: {layers!r} is one text; give a list of names, [{layers!r}]")
        self.layers = tuple(layers)
        self.law = law_of(epsilon)
        self.reading = Reading() if reading is None else reading
        if not isinstance(self.reading, Reading):
            raise PerturbationError(f"reading: {reading!r} is no reading; give lat.Reading(form='closed', …)")
        self.seed = seed
        self.skipped = 0
        if not self.layers:
            raise SiteError("layers: none named; name at least one layer")
        if len(set(self.layers)) != len(self.layers):
            raise SiteError(f"layers: {', '.join(self.layers)} names a layer twice; name each once")
        self._formation = Formation(self.model, self.layers, self.law, self.reading)
        self._gradient_sites = gradients.sites(self.model, self._formation)
        watched = dict.fromkeys([*self.layers, *self._formation.sources, *self._gradient_sites.values()])
        self._watched: Mapping[str, nn.Module] = {name: self.model.get_submodule(name) for name in watched}
        on_the_way = self._formation.route
        self._readers = {} if on_the_way is None else on_the_way.readers(self.model)
        self._generator: torch.Generator | None = None
        self._terms: dict[str, Term] = {}
        self._seen = Seen({}, {})
        self._formed: dict[str, Tensor] = {}
        self._tap: Tap | None = None
        self._inside = False
        self._mismatched = False
        self._unused = 0

    # The block -------------------------------------------------------------------------------------------------------

    def __enter__(self) -> LayerwiseAdversary:
        if self._inside:
            raise PerturbationError("the block is entered already; leave it first")
        self._count_unused()
        self._mismatched = False
        self._tap = Tap(self._watched, self._change, self._readers, lambda: self.model.training)
        self._tap.__enter__()
        self._inside = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._tap is not None
        self._tap.__exit__(kind, value, trace)
        self._inside = False
        self._formed = {}
        self.skipped += self._mismatched
        if kind is not None:
            self._tap = None
        if self.reading.pairing == "same":
            self._terms = {}

    def _count_unused(self) -> None:
        """Warns once where the backward passes of UNUSED blocks in a row have not been learned from."""
        self._unused += self._tap is not None and bool(self._tap.gradients)
        if self._unused == UNUSED:
            same = self.reading.pairing == "same"
            call = "push(delta)" if self.reading.source == "cw" else "observe()" if same else "update()"
            place = "before the block" if same else "after it"
            there = "there is one" if self._terms else "there is none"
            warnings.warn(
                f"{UNUSED} blocks in a row had a backward pass, and R was learned from none of them, so that it stays "
                f"what it was ({there}); call {call} {place}",
                stacklevel=3,
            )

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
        if name not in self._formed:
            with self._formation.full_precision():
                names = self.layers if self._formation.together else [name]
                self._formed = self._formation.form(self._terms, self._seen, names)
        return self._formed.pop(name)

    # R^{t+1} ---------------------------------------------------------------------------------------------------------

    def update(self) -> None:
        """R^{t+1} from the gradients of the last block's backward pass; call it before the optimiser's step.

        Raises PerturbationError where no gradient reached a named layer, where it has not the shape of the layer's
        output, or where the pairing is `same` or the source `cw`.
        """
        self._refuse_source("gradient", "update()")
        if self.reading.pairing == "same":
            raise PerturbationError("pairing 'same' takes R from observe(), before the block; do not call update()")
        if self._inside or self._tap is None:
            raise PerturbationError(
                "update() has no block to learn from: run a forward pass inside one, leave it, and call backward()"
            )
        tap, self._tap = self._tap, None
        self._learn(tap, "call loss.backward() before update(), with the layer in training mode", INSIDE)

    def observe(self, loss: Callable[[], Tensor]) -> None:
        """Pairing `same`: R from this very batch, by a plain pass before the block.

        `loss` runs the model on the batch and returns the scalar loss. The parameters' gradients are left as they are;
        modules with running statistics see the batch once more. Raises PerturbationError for another pairing or the
        source `cw`.
        """
        self._refuse_source("gradient", "observe()")
        if self.reading.pairing != "same":
            raise PerturbationError(
                f"pairing {self.reading.pairing!r} takes R from update(), after backward(); observe() is for 'same'"
            )
        if self._inside:
            raise PerturbationError("observe() is a plain pass; call it before entering the block")
        with Tap(self._watched, lambda name, y: None, self._readers, lambda: self.model.training) as tap:
            value = loss()
        missing = "the loss given to observe() must come from the model in training mode"
        edges = [edge for edge in tap.edges.values() if edge is not None]
        if edges:
            torch.autograd.grad(value, edges, allow_unused=True)
        self._learn(tap, missing, missing)

    def push(self, delta: Tensor, x: Tensor | None = None) -> None:
        """Source `cw`: R from a perturbation delta (n, *size) of the network's inputs, as an attack has found it.

        The paper, end of section III-B: "the layer-wise perturbation is calculated similarly by (prod |w_i|) op delta,
        once delta is obtained". Form `closed` is that as printed: delta with its sign, times |w| in every layer and
        |gamma / sigma| in BatchNorm, the largest entry of a window in max pooling. It is neither the change of the
        layer under delta, which `propagated` is but for the ReLUs, (prod w_i) op delta, nor a bound on it, which it is
        for |delta|, where sigma and the maxima stay. Epsilon is not drawn.

        R serves the next blocks until it is replaced, under pairing `same` one block; pairing `mean` pushes the mean of
        delta over the batch. sigma and the maxima are those of a plain pass on `x` (n, *size), the batch that delta
        belongs to (modules with running statistics see it once more); where it is left out, of the last block.

        Raises PerturbationError for another source, inside the block, where sigma or maxima are asked for and there was
        neither a block nor `x`, or where delta has not the shape of the network's inputs or not the rows of the batch
        whose maxima count.
        """
        self._refuse_source("cw", "push()")
        if self._inside:
            raise PerturbationError("push() forms R for the next block; leave this one first")
        tap, self._tap = self._tap, None
        if x is not None:
            with torch.no_grad(), Tap({}, lambda name, y: None, self._readers) as tap:
                self.model(x)
        seen = Seen({}, {}) if tap is None else Seen(dict(tap.sizes), dict(tap.seen))
        if missing := [name for name in self._readers if name != INPUT and name not in seen.sizes]:
            raise PerturbationError(
                f"R depends on what a forward pass shows at {missing[0]!r}, and there was none: give push() the batch "
                "x that delta belongs to, or call it after a block"
            )
        n, *size = delta.shape
        if counts := {len(tensor) for tensor in seen.tensors.values() if tensor.dim() > 1} - {n}:
            raise PerturbationError(f"delta: {n} rows, and the forward pass had {counts.pop()}; give the same batch")
        if seen.sizes.get(INPUT, tuple(size)) != tuple(size):
            raise PerturbationError(
                f"delta: shape {tuple(delta.shape)} where the network's inputs are (n, *{seen.sizes[INPUT]}); give a "
                "perturbation of them"
            )
        delta = delta.detach().to(self._formation.like.dtype)
        shared = self.reading.pairing == "mean"
        if shared:
            delta = delta.mean(dim=0, keepdim=True)
        rows = self._formation.rows(n, shared=shared)
        terms = {name: Term(delta, 1.0, None, rows, ()) for name in self.layers}
        with torch.no_grad(), self._formation.full_precision():
            formed, sizes = self._formation.pushed(terms, seen, self.layers)
        for name, term in terms.items():
            term.size = sizes[name]
        self._keep(terms, seen, formed)

    def _refuse_source(self, source: str, call: str) -> None:
        if self.reading.source != source:
            way = "push(delta)" if source == "gradient" else "update() or observe()"
            needs = ", in scope 'network'" if source == "cw" else ""
            raise PerturbationError(
                f"source {self.reading.source!r} takes R from {way}; {call} is for source {source!r}{needs}"
            )

    def _learn(self, tap: Tap, mend: str, unseen: str) -> None:
        """Terms and R from the gradients that `tap` has recorded; what to do without gradients, or without a pass."""
        with torch.no_grad(), self._formation.full_precision():
            terms = gradients.terms(self._formation, self._gradient_sites, tap, self._rng, mend, unseen)
            if unread := [name for name in self._readers if name not in tap.sizes]:
                raise PerturbationError(f"no forward pass led through {unread[0] or 'the whole model'!r}: {unseen}")
            seen = Seen(dict(tap.sizes), dict(tap.seen))
            formed = self._formation.form(terms, seen, self.layers) if self.reading.gradient == "detached" else {}
        self._keep(terms, seen, formed)

    def _keep(self, terms: dict[str, Term], seen: Seen, formed: Mapping[str, Tensor]) -> None:
        """R and no more where it is detached; where it is attached, all that it is formed of in the next block."""
        if self.reading.gradient == "detached":
            terms = {name: Term(None, None, formed[name], term.rows, term.size) for name, term in terms.items()}
            seen = Seen({}, {})
        self._terms, self._seen = terms, seen
        self._unused = 0

    def _rng(self, device: torch.device) -> torch.Generator:
        if self._generator is None or self._generator.device != device:
            self._generator = torch.Generator(device).manual_seed(self.seed)
        return self._generator

    def reset(self) -> None:
        """Back to t = 0: the next batch goes unperturbed. The generator goes on."""
        self._terms, self._seen, self._tap = {}, Seen({}, {}), None

    @property
    def perturbations(self) -> dict[str, Tensor]:
        """R^t by layer, (n, *out) or (1, *out), as the next block would add it; empty at t = 0."""
        found = {name: term.perturbation for name, term in self._terms.items() if term.perturbation is not None}
        if len(found) < len(self._terms):
            with torch.no_grad(), self._formation.full_precision():
                return self._formation.form(self._terms, self._seen, self.layers)
        return found

    # State -----------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """R where it is detached, else what it is formed of; the generator's state, device and seed; the count of
        skipped batches; and of which adversary they are: tensors, numbers, text and None.

        One tensor a layer grows with the batch: R (n, *out), or the direction (n, *out) in form `closed` and (n, *in)
        at the scope's start, shared by the layers, in `propagated`. Beside it an attached R holds epsilon, as large
        for draws an element, and 1 / sigma and the maxima's positions (int64) of the pass.
        """
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
            "seen": {"sizes": dict(self._seen.sizes), "tensors": dict(self._seen.tensors)},
            "generator": None if self._generator is None else self._generator.get_state(),
            "device": None if self._generator is None else str(self._generator.device),
            "seed": self.seed,
            "skipped": self.skipped,
            "of": self._described(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from `state_dict()`, on the device on which the model lies here.

        Raises PerturbationError where it is no such state or one of an adversary with other layers, another law or
        another reading, and where epsilon was drawn on another type of device, which draws other numbers.
        """
        if missing := [key for key in self.state_dict() if key not in state]:
            raise PerturbationError(f"state: it has no {missing[0]!r}; give what state_dict() of an adversary gave")
        for key, mine in self._described().items():
            if state["of"].get(key) != mine:
                raise PerturbationError(
                    f"state: its {key} is {state['of'].get(key)!r}, and this adversary's {mine!r}; give both the same"
                )
        device = self._formation.like.device
        if state["device"] is not None and torch.device(state["device"]).type != device.type:
            raise PerturbationError(
                f"the state's epsilon was drawn on {state['device']!r}, and the model lies on {str(device)!r}, where "
                "other numbers are drawn; move the model before its state is loaded"
            )
        self._terms = {name: Term(**_placed(term, device)) for name, term in state["terms"].items()}
        self._seen = Seen(state["seen"]["sizes"], _placed(state["seen"]["tensors"], device))
        self.seed = state["seed"]
        self._generator = None
        if state["generator"] is not None:
            self._generator = torch.Generator(device)
            self._generator.set_state(state["generator"])
        self.skipped = state["skipped"]
        self._tap = None

    def _described(self) -> dict[str, str]:
        """What a state has to have in common with the adversary that goes on from it."""
        return {
            "layers": ", ".join(self.layers),
            "epsilon": str(self.law),
            **{axis.name: getattr(self.reading, axis.name) for axis in dataclasses.fields(self.reading)},
        }

    def __deepcopy__(self, memo: dict[int, Any]) -> LayerwiseAdversary:
        if self._inside:
            raise PerturbationError("deepcopy inside the block would copy its hooks; leave the block first")
        twin = LayerwiseAdversary(copy.deepcopy(self.model, memo), self.layers, self.law, self.reading, seed=self.seed)
        memo[id(self)] = twin
        twin.load_state_dict(copy.deepcopy(self.state_dict(), memo))
        return twin


def _placed(values: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    return {key: value.to(device) if isinstance(value, Tensor) else value for key, value in values.items()}
