"""How far from equivalent: the paper's layer perturbation R beside what FGSM at the input truly does to each layer.

The paper takes the two for the same (eqs. 6 and 7). Here both are measured on a trained network in eval mode: the true
change Δ_l = y_l(x + r) - y_l(x) of each fully connected layer's output under r = eps sign(dL/dx) (eq. 1, not clipped),
and R_l in every reading (form, scope, pairing) at the same fixed eps. The images are cut into batches in one fixed
shuffled order. The previous batch of the first one is the last full one; a short last batch takes the first slots.

`equivalence.csv` has three kinds of rows. Every row names its network: `scale`, `cell`, `seed`.

* A network (`layer` is empty): `clip_cut`, the share of sum |r| that clipping x + r to [0, 1] removes; `loss_clean`,
  `loss_fgsm` (at x + r), `loss_fgsm_clipped` and `loss_exact` (Δ_1 added to y_1), each a mean cross-entropy in nats.
* A layer (`form` is empty): `flips`, the share of hidden units whose ReLU switches between x and x + r (empty for the
  output layer); `off_share`, the share of zero entries of g_l = dL/dy_l; `tightness_chain`, the mean over images and
  units of |Δ_l| / (eps |W_l| ... |W_1| 1); `tightness_local`, the same over |W_l| |Δh_{l-1}|, the bound that knows the
  true change of the layer's input. Units whose bound is 0 are left out.
* A layer in one reading (`form`, `scope`, `pairing`): `norm_ratio`, the root of sum R² over sum Δ², all images and
  units; `cosine`, the mean over images of cos(R, Δ), 0 where one of them is 0, and `zero_share`, the share of such
  images; `sign_agreement`, the share of equal signs among the entries where neither is 0 (chance gives 1/2);
  `cosine_to_same`, the mean of cos(R, R of pairing `same`), empty for `same` itself; `loss`, with R_l added at this
  layer alone.

Numbers have six significant digits. `equivalence.json` says where they come from.
"""

from __future__ import annotations

import copy
import csv
import hashlib
import itertools
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lat import equations
from lat.cells import seed_for
from lat.ledger import LedgerError, atomic
from lat.sites import SiteError, chain
from lat.types import Images, Labels, PerExample, Scores

RADIUS = 0.1
BOX = (0.0, 1.0)
FORMS = ("closed", "propagated")
SCOPES = ("local", "network")
PAIRINGS = ("same", "slot", "mean")
READINGS = tuple(itertools.product(FORMS, SCOPES, PAIRINGS))
TOLERANCE = 1e-4
"""How far the loss with the true change injected may lie from FGSM's, relative to it or to 1: float32 rounds it."""

NETWORK = ("clip_cut", "loss_clean", "loss_fgsm", "loss_fgsm_clipped", "loss_exact")
LAYER = ("flips", "off_share", "tightness_chain", "tightness_local")
READING = ("norm_ratio", "cosine", "zero_share", "sign_agreement", "cosine_to_same", "loss")
KEYS = ("scale", "cell", "seed", "layer", "form", "scope", "pairing")
COLUMNS = (*KEYS, *READING, *LAYER, *NETWORK)

Row = dict[str, Any]


class EquivalenceError(ValueError):
    """A network or a data set on which the comparison cannot be made; the message says why, and the mend."""


@dataclass(frozen=True)
class Network:
    """A trained network of a run: its names, the batch size of its training, its weights' file and how to load it."""

    scale: str
    cell: str
    slug: str
    seed: int
    batch: int
    weights: Path
    load: Callable[[], nn.Module]


class Stages:
    """A chain of fully connected layers cut at them, in eval mode: from any layer's output on to the scores.

    Raises SiteError where `model` is no such chain, or has an operation between its layers that is no module.
    """

    def __init__(self, model: nn.Module, sample: Images) -> None:
        twin = copy.deepcopy(model).eval().requires_grad_(False)
        self.names: list[str] = []
        self.layers: list[nn.Linear] = []
        self._between: list[list[nn.Module]] = [[]]
        for name, module in chain(twin):
            if isinstance(module, nn.Linear):
                self.names.append(name)
                self.layers.append(module)
                self._between.append([])
            else:
                self._between[-1].append(module)
        with torch.no_grad():
            if not self.layers or not torch.equal(self.scores(self.outputs(sample)[-1][1]), twin(sample)):
                raise SiteError(f"{type(model).__name__} is more than its modules; write each operation as a module")

    @property
    def weights(self) -> list[Tensor]:
        return [layer.weight for layer in self.layers]

    def outputs(self, x: Tensor, first: int = 0) -> list[tuple[Tensor, Tensor]]:
        """(h_{l-1}, y_l) of the layers from `first` on; x is what comes out of the layer before, or the input."""
        found = []
        for between, layer in zip(self._between[first:-1], self.layers[first:], strict=True):
            for module in between:
                x = module(x)
            found.append((x, layer(x)))
            x = found[-1][1]
        return found

    def scores(self, y: Tensor, after: int | None = None) -> Scores:
        """The network's scores from the output y (n, out) of layer `after`, counted from 0; None is the last one."""
        later = [] if after is None else self.outputs(y, after + 1)
        y = later[-1][1] if later else y
        for module in self._between[-1]:
            y = module(y)
        return y


def losses(scores: Scores, labels: Labels) -> PerExample:
    return cross_entropy(scores, labels, reduction="none")


def perturbation(
    reading: tuple[str, str], g: Sequence[Tensor], weights: Sequence[Tensor], place: int, eps: float
) -> Float[Tensor, "rows out"]:
    """R of the layer in `place` (from 0), as (form, scope) say, from the gradients g_l (rows, out_l) of all layers.

    `closed` is the last line of eqs. (6) and (7), `propagated` their first; `network` starts at the input.
    """
    form, scope = reading
    first = 0 if scope == "network" else place
    path = weights[first : place + 1]
    if form == "closed":
        return equations.closed_stack(g[place], path, eps)
    return equations.propagated_stack(g[first], path, eps)


def measure(model: nn.Module, x: Images, labels: Labels, batch: int, eps: float, seed: int) -> list[Row]:
    """The rows of one network: itself, and every layer with its readings. Images x are in [0, 1].

    `seed` gives the order in which the images are cut into batches of `batch`. Raises EquivalenceError where they are
    not two full batches, or where FGSM's loss is not reproduced by the true change; SiteError where the network is no
    chain of fully connected layers and ReLUs.
    """
    full = len(x) // batch
    if full < 2:
        raise EquivalenceError(f"batch: {batch} and {len(x)} images; previous batches need two full ones, lower batch")
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    stages = Stages(model, x[:batch])
    sums = Sums(stages, eps)
    batches = order.split(batch)
    previous, _ = sums.gradients(x[batches[full - 1]], labels[batches[full - 1]])
    for index in batches:
        previous = sums.add(x[index], labels[index], previous)
    return sums.rows()


class Sums:
    """Sums over batches, in float64, of everything that the rows of a network are made of."""

    def __init__(self, stages: Stages, eps: float) -> None:
        self.stages, self.eps = stages, eps
        self.images = 0
        self.network: dict[str, float] = defaultdict(float)
        self.layer: list[dict[str, float]] = [defaultdict(float) for _ in stages.layers]
        self.reading: list[dict[str, Tensor]] = [
            defaultdict(lambda: torch.zeros(len(READINGS), dtype=torch.float64, device=stages.weights[0].device))
            for _ in stages.layers
        ]

    def gradients(self, x: Images, labels: Labels) -> tuple[list[Tensor], Images]:
        """dL/dy_l of every layer and dL/dx, of the summed loss: it has the signs of the mean, and underflows later."""
        x = x.detach().requires_grad_()
        outputs = [y for _, y in self.stages.outputs(x)]
        loss = losses(self.stages.scores(outputs[-1]), labels).sum()
        *g, of_x = torch.autograd.grad(loss, [*outputs, x])
        return list(g), of_x

    def add(self, x: Images, labels: Labels, previous: Sequence[Tensor]) -> list[Tensor]:
        """Count a batch, given the gradients of the one before, and return its own."""
        g, of_x = self.gradients(x, labels)
        with torch.no_grad():
            r = self.eps * torch.sign(of_x)
            before, after = self.stages.outputs(x), self.stages.outputs(x + r)
            self._add_network(x, r, labels, before, after)
            slots = [old[: len(x)] for old in previous]
            mean = [old.mean(dim=0, keepdim=True) for old in previous]
            for place, ((h, y), (h_moved, y_moved)) in enumerate(zip(before, after, strict=True)):
                delta = y_moved - y
                self._add_layer(place, g[place], (h_moved - h).abs(), delta, (y > 0) != (y_moved > 0))
                R = torch.stack(
                    [
                        perturbation((form, scope), pairs, self.stages.weights, place, self.eps).expand_as(y)
                        for form, scope in itertools.product(FORMS, SCOPES)
                        for pairs in (g, slots, mean)
                    ]
                )
                self._add_readings(place, R, y, delta, labels)
        self.images += len(x)
        return g

    def _add_network(
        self,
        x: Images,
        r: Images,
        labels: Labels,
        before: Sequence[tuple[Tensor, Tensor]],
        after: Sequence[tuple[Tensor, Tensor]],
    ) -> None:
        clipped = (x + r).clamp(*BOX)
        stages, y, moved = self.stages, before[0][1], after[0][1]
        scored = {
            "loss_clean": stages.scores(before[-1][1]),
            "loss_fgsm": stages.scores(after[-1][1]),
            "loss_fgsm_clipped": stages.scores(stages.outputs(clipped)[-1][1]),
            "loss_exact": stages.scores(y + (moved - y), 0),
        }
        for name, scores in scored.items():
            self.network[name] += float(losses(scores, labels).sum(dtype=torch.float64))
        self.network["moved"] += float(r.abs().sum(dtype=torch.float64))
        self.network["kept"] += float((clipped - x).abs().sum(dtype=torch.float64))

    def _add_layer(self, place: int, g: Tensor, input_change: Tensor, delta: Tensor, flipped: Tensor) -> None:
        sums, weights = self.layer[place], self.stages.weights
        bounds = {
            "chain": (self.eps * equations.closed_stack_radius(weights[: place + 1])).expand_as(delta),
            "local": input_change @ weights[place].abs().T,
        }
        for name, bound in bounds.items():
            possible = bound > 0
            sums[name] += float((delta.abs()[possible] / bound[possible]).sum(dtype=torch.float64))
            sums[f"{name} units"] += int(possible.sum())
        sums["units"] += delta.numel()
        sums["flipped"] += int(flipped.sum())
        sums["off"] += int((g == 0).sum())

    def _add_readings(self, place: int, R: Tensor, y: Tensor, delta: Tensor, labels: Labels) -> None:
        sums = self.reading[place]
        squares, of_delta = _dot(R, R), _dot(delta, delta)
        sums["R R"] += squares.sum(dim=1)
        sums["delta delta"] += of_delta.sum()
        sums["cosine"] += _cosine(_dot(R, delta), squares, of_delta).sum(dim=1)
        sums["zero"] += ((squares == 0) | (of_delta == 0)).sum(dim=1)
        by_pairing = R.view(-1, len(PAIRINGS), *y.shape)
        same = by_pairing[:, :1].expand_as(by_pairing).reshape(R.shape)
        sums["to same"] += _cosine(_dot(R, same), squares, _dot(same, same)).sum(dim=1)
        both = (R != 0) & (delta != 0)
        sums["signs"] += both.sum(dim=(1, 2))
        sums["agree"] += (both & ((R > 0) == (delta > 0))).sum(dim=(1, 2))
        scores = self.stages.scores((y + R).flatten(0, 1), place)
        of_each = losses(scores, labels.repeat(len(R))).view(len(R), -1)
        sums["loss"] += of_each.sum(dim=1, dtype=torch.float64)

    def rows(self) -> list[Row]:
        """The network's row, then each layer's followed by its readings'. Raises EquivalenceError as `measure` says."""
        n, network = self.images, self.network
        own: Row = {name: network[name] / n for name in NETWORK[1:]}
        own["clip_cut"] = _share(network["moved"] - network["kept"], network["moved"])
        check_injected(own["loss_exact"], own["loss_fgsm"])
        found = [own]
        for place, name in enumerate(self.stages.names):
            sums = self.layer[place]
            hidden = place + 1 < len(self.stages.names)
            found.append(
                {
                    "layer": name,
                    "off_share": sums["off"] / sums["units"],
                    "tightness_chain": _share(sums["chain"], sums["chain units"]),
                    "tightness_local": _share(sums["local"], sums["local units"]),
                }
                | ({"flips": sums["flipped"] / sums["units"]} if hidden else {})
            )
            of = {key: value.tolist() for key, value in self.reading[place].items()}
            for at, (form, scope, pairing) in enumerate(READINGS):
                row = {
                    "norm_ratio": math.sqrt(_share(of["R R"][at], of["delta delta"][at])),
                    "cosine": of["cosine"][at] / n,
                    "zero_share": of["zero"][at] / n,
                    "sign_agreement": _share(of["agree"][at], of["signs"][at]),
                    "loss": of["loss"][at] / n,
                }
                if pairing != "same":
                    row["cosine_to_same"] = of["to same"][at] / n
                found.append({"layer": name, "form": form, "scope": scope, "pairing": pairing, **row})
        return found


def check_injected(exact: float, fgsm: float) -> None:
    """Raises EquivalenceError where the loss with the true change of layer 1 injected is not that of FGSM."""
    if not abs(exact - fgsm) <= TOLERANCE * max(1.0, abs(fgsm)):
        raise EquivalenceError(
            f"loss_exact: {exact:.6g}, and FGSM's loss is {fgsm:.6g}; injecting the true change must reproduce it, "
            "so the layers were not cut where the network's are"
        )


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(dim=-1, dtype=torch.float64)


def _cosine(dot: Tensor, of_a: Tensor, of_b: Tensor) -> Tensor:
    """Cosines from products: 0 where a vector is 0."""
    length = (of_a * of_b).sqrt()
    return torch.where(length > 0, dot / length, 0.0)


def _share(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def measure_all(
    networks: Iterable[Network], images: tuple[Images, Labels], seed: int, report: Callable[[Network], None]
) -> tuple[list[Row], list[dict[str, Any]]]:
    """The rows of all networks under their names, and what each was: names, batch, SHA-256 of its weights, finite or
    not. A network with weights that are no numbers has no rows. `report` hears of each before it is measured.

    Raises LedgerError naming the first weights file that is missing, before anything is measured.
    """
    networks = list(networks)
    if missing := [network for network in networks if not network.weights.is_file()]:
        first = missing[0]
        raise LedgerError(
            f"{first.weights}: no weights there, and the run keeps those of {first.cell}@{first.scale}, seed "
            f"{first.seed}; train it first"
        )
    rows: list[Row] = []
    described = []
    for network in networks:
        report(network)
        names = {"scale": network.scale, "cell": network.cell, "seed": network.seed}
        model = network.load()
        finite = all(bool(value.isfinite().all()) for value in model.parameters())
        if finite:
            rows += [names | row for row in measure(model, *images, network.batch, RADIUS, seed)]
        with network.weights.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        described.append(names | {"slug": network.slug, "batch": network.batch, "weights": digest, "finite": finite})
    return rows, described


def order_seed(dataset: str, part: str, n: int) -> int:
    """The seed of the order of the images: one for all networks on the same data."""
    return seed_for("equivalence", dataset, part, n)


def write(folder: Path, rows: Iterable[Row], origin: Mapping[str, Any]) -> None:
    """`equivalence.csv` and then `equivalence.json` in `folder`, each atomically."""
    with atomic(folder / "equivalence.csv") as temporary, temporary.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{value:.6g}" if isinstance(value, float) else value for k, value in row.items()})
    with atomic(folder / "equivalence.json") as temporary:
        temporary.write_text(json.dumps({"radius": RADIUS, **origin}, indent=1, sort_keys=True) + "\n")
