"""Verdicts of every attack on every test image, and where they are kept."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lat.attacks import Attack, Outcome, right, run_attack, sample_index, undisturbed
from lat.cells import seed_for
from lat.memory import Batch
from lat.types import Images, Labels

Booleans = NDArray[np.bool_]


@dataclass(frozen=True)
class Evaluation:
    """What was measured on n images.

    clean: right on the image itself (n). For each attack: verdicts, robust or not, for the images in `index`, in that
    order. distances: for attacks that look for the smallest distance, that distance, inf where none was found, 0 where
    the image is misclassified as it is. finite: whether all scores that were judged are finite. seconds: wall time.
    batch: how many images were attacked at once in the end, and how often that was halved. redrawn: attacks whose draws
    belong to a batch of their own, which the cut of the images was no multiple of: another cut gives other verdicts.
    """

    clean: Booleans
    verdicts: dict[str, Booleans]
    index: dict[str, NDArray[np.int64]]
    distances: dict[str, NDArray[np.float32]]
    finite: bool
    seconds: dict[str, float] = field(default_factory=dict, compare=False)
    batch: Batch | None = field(default=None, compare=False)
    redrawn: tuple[str, ...] = field(default=(), compare=False)


def evaluate(
    model: nn.Module,
    x: Images,
    y: Labels,
    attacks: Mapping[str, Attack],
    seed: int,
    batch: int = 1000,
    progress: Callable[[str, int, int], None] = lambda attack, done, images: None,
) -> Evaluation:
    """Attack the test images, `batch` at a time, and judge every one.

    x is (n, C, H, W) in the box of the threats, y (n,). Random draws derive from `seed`, the attack's name and the
    image's number, so the other attacks change nothing, nor does the size of the batches; but for attacks that draw for
    a `batch` of their own (autoattack, hopskipjump, boundary), where it is a multiple of that one. A network whose
    scores are not finite is evaluated like any other: those images count as wrong, and `finite` says so. Where the
    device runs out of memory, the batch is halved and the evaluation goes on. The model comes back as it was.
    `progress` hears the name of each attack with how many of its images are done, before the first batch and after
    each.

    Raises what `run_attack` raises, and EvaluationError where one image alone is too much for the memory.
    """
    if len(x) != len(y):
        raise ValueError(f"x: {len(x)} images, y: {len(y)} labels; give one label an image")
    if settings := [name for name, attack in attacks.items() if isinstance(attack, Mapping)]:
        raise ValueError(f"attacks: {settings[0]!r} has settings and is no attack; give lat.attacks.from_settings(…)")
    size = Batch(batch)
    clean, finite = _clean(model, x, y, size)
    verdicts: dict[str, Booleans] = {}
    indices: dict[str, NDArray[np.int64]] = {}
    distances: dict[str, NDArray[np.float32]] = {}
    seconds: dict[str, float] = {}
    redrawn: list[str] = []

    def attacked(name: str, index: NDArray[np.int64], part: slice) -> Outcome:
        rows = torch.from_numpy(index[part]).to(x.device)
        return run_attack(model, x[rows], y[rows], index[part].tolist(), attacks[name], seed_for(seed, name), name)

    for name, attack in attacks.items():
        started = time.perf_counter()
        index = sample_index(len(x), attack.examples)
        robust = np.empty(len(index), dtype=np.bool_)
        distance = np.empty(len(index), dtype=np.float32)
        own, aligned = getattr(attack, "batch", 1), True
        progress(name, 0, len(index))
        for part, outcome in size.over(len(index), partial(attacked, name, index), name):
            robust[part] = outcome.robust.cpu().numpy()
            distance[part] = outcome.distance.cpu().numpy()
            finite, aligned = finite and outcome.finite, aligned and part.start % own == 0
            progress(name, part.stop, len(index))
        if not aligned:
            redrawn.append(name)
        verdicts[name], indices[name] = robust, index
        if attack.threat.radius is None:
            distances[name] = np.where(robust, np.float32(np.inf), distance)
        seconds[name] = time.perf_counter() - started
    return Evaluation(clean, verdicts, indices, distances, finite, seconds, size, tuple(redrawn))


def _clean(model: nn.Module, x: Images, y: Labels, size: Batch) -> tuple[Booleans, bool]:
    """Which images the model has right, and whether all its scores are finite."""
    found: list[Booleans] = [np.empty(0, dtype=np.bool_)]
    finite = True
    with undisturbed(model), torch.no_grad():
        for part, scores in size.over(len(x), lambda part: model(x[part]), "clean"):
            found.append(right(scores, y[part]).cpu().numpy())
            finite = finite and bool(scores.isfinite().all())
    return np.concatenate(found), finite


def worst_case(verdicts: Mapping[str, Booleans], names: Iterable[str] | Mapping[str, Attack]) -> Booleans:
    """Which images no attack of `names` broke: the AND of their verdicts, image by image.

    Where the attacks themselves are given by name, they are held to one threat: a verdict of one that looks for the
    smallest distance, such as C&W-L2, says that nothing was found at any distance, and not that the ball is safe.

    Raises ValueError where an attack has no verdicts, where the numbers of images differ, where `names` is empty, and
    for attacks that have no radius or not the same norm, radius and box.
    """
    if isinstance(names, Mapping):
        _refuse_other_threats(names)
    names = list(names)
    if not names:
        raise ValueError("names: no attack is named, so there is no worst case; name at least one")
    if missing := [name for name in names if name not in verdicts]:
        raise ValueError(f"{missing[0]}: no verdicts of this attack; there are {', '.join(verdicts) or 'none'}")
    counts = {name: len(verdicts[name]) for name in names}
    if len(set(counts.values())) > 1:
        raise ValueError(
            f"names: the attacks ran on different numbers of images, {counts}; name attacks on the same images"
        )
    return np.logical_and.reduce([verdicts[name] for name in names])


def _refuse_other_threats(attacks: Mapping[str, Attack]) -> None:
    """Raises ValueError unless all attacks look in one ball."""
    threats = {name: (attack.threat.norm, attack.threat.radius, attack.threat.box) for name, attack in attacks.items()}
    for name, threat in threats.items():
        if threat[1] is None:
            raise ValueError(
                f"{name}: looks for the smallest distance and has no radius, so that its verdicts say nothing of a "
                "ball; leave it out, and see its distances"
            )
        if threat != (first := next(iter(threats.values()))):
            raise ValueError(f"{name}: norm, radius and box {threat}, another attack has {first}; name attacks of one")


def save_verdicts(path: Path | str, evaluation: Evaluation) -> None:
    """Write an evaluation as .npz: verdicts as packed bits, one array an attack.

    The file appears under its final name whole or not at all. Wall times are no verdict and are left out, so that equal
    runs write equal bytes.
    """
    path = Path(path)
    n = len(evaluation.clean)
    head = {
        "n": n,
        "finite": evaluation.finite,
        "attacked": {name: len(index) for name, index in evaluation.index.items()},
        "distances": list(evaluation.distances),
    }
    arrays: dict[str, NDArray[np.generic]] = {
        "head": np.frombuffer(json.dumps(head).encode(), dtype=np.uint8),
        "clean": np.packbits(evaluation.clean),
    }
    for name, verdict in evaluation.verdicts.items():
        mask = np.zeros(n, dtype=np.bool_)
        mask[evaluation.index[name]] = True
        arrays[f"verdict {name}"] = np.packbits(verdict)
        arrays[f"attacked {name}"] = np.packbits(mask)
    for name, distance in evaluation.distances.items():
        arrays[f"distance {name}"] = distance
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(prefix=path.name, suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
        os.replace(draft, path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise


def load_verdicts(path: Path | str) -> Evaluation:
    """The evaluation that `save_verdicts` wrote, without its wall times."""
    with np.load(path, allow_pickle=False) as stored:
        head = json.loads(stored["head"].tobytes())
        n = head["n"]

        def bits(key: str, count: int) -> Booleans:
            return np.unpackbits(stored[key], count=count).astype(np.bool_)

        return Evaluation(
            clean=bits("clean", n),
            verdicts={name: bits(f"verdict {name}", count) for name, count in head["attacked"].items()},
            index={name: np.flatnonzero(bits(f"attacked {name}", n)) for name in head["attacked"]},
            distances={name: stored[f"distance {name}"] for name in head["distances"]},
            finite=head["finite"],
        )
