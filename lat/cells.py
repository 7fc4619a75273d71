"""What is trained: a `Cell` says everything that decides a result, and nothing else.

A cell is *resolved*: a row of the grid plus everything of the run file that changes the result. Its digest is its
identity, so that two runs never share a file by mistake and equal cells of two tables are one. No torch here.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from numbers import Real
from typing import Any

LAWS = ("fixed", "normal", "abs_normal")
DRAWS = ("batch", "sample", "element")
FORMS = ("closed", "propagated")
SCOPES = ("local", "layer_set", "network")
PAIRINGS = ("slot", "mean", "same")
GRADIENTS = ("detached", "attached")
SITES_OF_GRADIENT = ("output", "activation")
RESETS = ("epoch", "once")
SOURCES = ("gradient", "cw")
SCHEDULES = ("steps", "constant", "cosine")
AUGMENTATIONS = ("none", "flip_crop")
PRECISIONS = ("float32", "bf16")
COMPILATIONS = ("none", "default", "reduce-overhead")
STATISTICS = ("running", "reestimated")
PARTS = ("train", "fit")
FULLY_CONNECTED = ("4fc", "4fc_input_counted")
"""The networks that are chains of fully connected layers: those that `lat equivalence` looks into."""
UNCOMPILED = ("layerwise", "interval_bound")
"""The methods that look into the network layer by layer, which compiled code has no more."""
BATCH_NORMALISED = ("vgg16", "wrn28", "wrn10")
"""The networks with BatchNorm, whose running statistics are collected with R and serve without it."""

ADDED = {"added": True}
"""Marks a field that cells did not have from the start: the JSON leaves it out while it has its default, so that cells
which were there before keep their identity."""


class CellError(ValueError):
    """A field of a cell has a value that it cannot have; the message names the field, the value and the mend."""


def _one_of(key: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise CellError(f"{key}: {value!r} is not known; use one of {', '.join(allowed)}")


def _positive(key: str, value: object, *, zero: bool = False) -> None:
    number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    if not number or value < 0 or (value == 0 and not zero):  # type: ignore[operator]
        raise CellError(f"{key}: {value!r} must be a finite number {'of at least' if zero else 'above'} 0")


@dataclass(frozen=True)
class Law:
    """Law of epsilon: the constant `radius`, or N(0, radius) with `radius` the standard deviation, or its absolute
    value.

    `draw` says what shares one draw: the whole batch, one sample, or one element of the perturbation.
    """

    kind: str
    radius: float
    draw: str = "sample"

    def __post_init__(self) -> None:
        _one_of("law", self.kind, LAWS)
        _positive("radius", self.radius, zero=True)
        _one_of("draw", self.draw, DRAWS)
        object.__setattr__(self, "radius", float(self.radius))
        if self.kind == "fixed":  # every draw of a constant is that constant: one spelling, one identity
            object.__setattr__(self, "draw", "batch")

    def __str__(self) -> str:
        return f"{self.kind} {self.radius:g}" + ("" if self.kind == "fixed" else f" per {self.draw}")


@dataclass(frozen=True)
class Reading:
    """How the paper's layer perturbation is read: the axes of the reading study.

    `reset` says when training begins without R again, every epoch or only once; a loop of one's own says so itself, by
    calling `LayerwiseAdversary.reset`. `source` is what R comes from: the gradients of the layers, or the perturbation
    of the inputs that an attack on the margin loss has found (`cw`), pushed through the network; no gradient is then
    taken at a layer.
    """

    form: str = "closed"
    scope: str = "local"
    pairing: str = "slot"
    gradient: str = "detached"
    at: str = "output"
    reset: str = "epoch"
    source: str = field(default="gradient", metadata=ADDED)

    def __post_init__(self) -> None:
        _one_of("form", self.form, FORMS)
        _one_of("scope", self.scope, SCOPES)
        _one_of("pairing", self.pairing, PAIRINGS)
        _one_of("gradient", self.gradient, GRADIENTS)
        _one_of("at", self.at, SITES_OF_GRADIENT)
        _one_of("reset", self.reset, RESETS)
        _one_of("source", self.source, SOURCES)
        if self.source == "cw" and self.scope != "network":
            raise CellError(f"source: 'cw' perturbs the network's input, so scope {self.scope!r} must be 'network'")
        if self.source == "cw":  # no gradient is taken at a layer: one spelling, one identity
            object.__setattr__(self, "at", "output")
        if self.pairing == "same" and self.reset != "epoch":  # nothing is carried over, so nothing can be reset
            object.__setattr__(self, "reset", "epoch")


@dataclass(frozen=True)
class Schedule:
    """How the optimiser runs: SGD with momentum; `steps` divides the learning rate by ten at 50 % and at 75 %.

    `augmentation` changes the training images: `flip_crop` mirrors half of them and shifts each by up to 4 pixels.
    """

    epochs: int
    batch: int = 128
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: str = "steps"
    augmentation: str = field(default="none", metadata=ADDED)

    def __post_init__(self) -> None:
        for key in ("epochs", "batch"):
            value = getattr(self, key)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise CellError(f"{key}: {value!r} must be a whole number of at least 1")
        _positive("lr", self.lr)
        _positive("momentum", self.momentum, zero=True)
        _positive("weight_decay", self.weight_decay, zero=True)
        _one_of("schedule", self.schedule, SCHEDULES)
        _one_of("augmentation", self.augmentation, AUGMENTATIONS)
        for key in ("lr", "momentum", "weight_decay"):
            object.__setattr__(self, key, float(getattr(self, key)))


@dataclass(frozen=True)
class Compute:
    """How training computes, which changes last bits: the defaults are the slow and exact ones, and run anywhere.

    `precision` bf16 is autocast in the forward passes, the weights staying in float32. `channels_last` is the order of
    images and convolutions in memory. `compile` is torch.compile's mode for the forward pass: `reduce-overhead` takes
    CUDA graphs.
    """

    precision: str = "float32"
    channels_last: bool = False
    compile: str = "none"

    def __post_init__(self) -> None:
        _one_of("precision", self.precision, PRECISIONS)
        _one_of("compile", self.compile, COMPILATIONS)

    def __str__(self) -> str:
        layout = ", channels last" if self.channels_last else ""
        compiled = "uncompiled" if self.compile == "none" else f"compiled ({self.compile})"
        return f"{self.precision}{layout}, {compiled}"


@dataclass(frozen=True)
class Cell:
    """One point of the grid: dataset, network, method and schedule, with every choice that changes the result.

    `method` is `standard`, another method of `lat.defences`, `layerwise`, or another one and `layerwise` joined by "+".
    `law` and `reading` belong to the layers' perturbation, `input_law` and `mix` to the other method's perturbed
    inputs.
    `train` is the number of training images used (None: all); `part` is `fit` where the validation split is held out.
    `statistics` are those by which BatchNorm normalises once trained: the running ones of training, or `reestimated` on
    the training images without R, the weights being the same.
    """

    dataset: str
    model: str
    width: int
    method: str
    layers: tuple[str, ...]
    law: Law | None
    reading: Reading | None
    input_law: Law | None
    mix: bool
    schedule: Schedule
    train: int | None = None
    part: str = "train"
    compute: Compute = field(default=Compute(), metadata=ADDED)
    statistics: str = field(default="running", metadata=ADDED)

    def __post_init__(self) -> None:
        _positive("width", self.width)
        _one_of("part", self.part, PARTS)
        _one_of("statistics", self.statistics, STATISTICS)
        if self.statistics == "reestimated" and self.model not in BATCH_NORMALISED:
            raise CellError(
                f"statistics: 'reestimated' with model {self.model!r}, which has no BatchNorm; use 'running', or a "
                f"model among {', '.join(BATCH_NORMALISED)}"
            )
        others = [part for part in self.methods if part not in ("standard", "layerwise")]
        if not all(self.method.split("+")) or len(others) > 1 or len(set(self.methods)) != len(self.methods):
            raise CellError(f"method: {self.method!r} joins more than one method and 'layerwise'; leave one out")
        if self.layerwise and not (self.layers and self.law and self.reading):
            raise CellError(
                f"layers: {self.layers!r} with method {self.method!r}: name at least one layer, a law and a reading"
            )
        if not self.layerwise and (self.layers or self.law or self.reading):
            raise CellError(f"layers: {self.layers!r} need method 'layerwise', not {self.method!r}")
        if len(set(self.layers)) != len(self.layers):
            raise CellError(f"layers: {self.layers!r} names a layer twice")
        if self.compute.compile != "none" and set(self.methods) & set(UNCOMPILED):
            raise CellError(
                f"compile: {self.compute.compile!r} with method {self.method!r}, which looks into the layers: compiled "
                "code has none any more; use compile 'none'"
            )
        if (self.input_law or self.mix) and not others:
            raise CellError(
                f"input_law, mix: method {self.method!r} perturbs no inputs; leave {self.input_law} and {self.mix} out"
            )

    @property
    def methods(self) -> tuple[str, ...]:
        return tuple(part for part in self.method.split("+") if part != "standard") or ("standard",)

    @property
    def layerwise(self) -> bool:
        return "layerwise" in self.methods

    @property
    def epsilon(self) -> str:
        """The radius or law of epsilon in words, the layers' where there are any; empty for standard training."""
        return str(self.law or self.input_law or "")

    def to_json(self) -> dict[str, Any]:
        return _written(self) | {"layers": list(self.layers)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Cell:
        """The cell that `to_json` wrote. Raises CellError for a key that is unknown or missing."""
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise CellError(f"{unknown[0]}: a cell has no such field; it has {', '.join(sorted(known))}")
        needed = {field.name for field in fields(cls) if not field.metadata.get("added")}
        if missing := sorted(needed - set(values)):
            raise CellError(f"{missing[0]}: missing from the cell; give it")
        nested = {"law": Law, "reading": Reading, "input_law": Law, "schedule": Schedule, "compute": Compute}
        built = {key: kind(**values[key]) for key, kind in nested.items() if values.get(key) is not None}
        return cls(**{**values, **built, "layers": tuple(values["layers"])})

    @property
    def digest(self) -> str:
        """SHA-256 of the resolved fields, as hexadecimal."""
        return digest_of(self.to_json())

    @property
    def slug(self) -> str:
        """A readable file name: what the cell is, and eight digits of its digest."""
        layers = "-" + ".".join(self.layers) if self.layers else ""
        return f"{self.dataset}-{self.model}-w{self.width}-{self.method}{layers}-{self.digest[:8]}"


def _written(value: Any) -> Any:
    """A dataclass as JSON, without the fields that were added later and have their defaults."""
    if not is_dataclass(value) or isinstance(value, type):
        return value
    found = {entry.name: getattr(value, entry.name) for entry in fields(value)}
    left_out = {e.name for e in fields(value) if e.metadata.get("added") and found[e.name] == e.default}
    return {name: _written(entry) for name, entry in found.items() if name not in left_out}


def digest_of(value: object) -> str:
    """SHA-256 of a JSON value in its canonical spelling (sorted keys, no blanks), as hexadecimal."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def seed_for(*parts: object) -> int:
    """A seed in [0, 2^63) derived from its parts: equal parts give equal seeds, any other part another stream."""
    return int.from_bytes(hashlib.sha256(json.dumps([str(p) for p in parts]).encode()).digest()[:8], "big") >> 1


def shared_seed(cell: Cell, seed: int, purpose: str) -> int:
    """A seed that all methods share (initialisation, shuffling), so that methods are compared in pairs."""
    return seed_for(cell.dataset, cell.model, cell.width, seed, purpose)


def own_seed(cell: Cell, seed: int, purpose: str) -> int:
    """A seed that belongs to this cell alone (epsilon, attack starts), whichever statistics serve in the end."""
    return seed_for(replace(cell, statistics="running").digest, seed, purpose)
