"""The attack's own test: on a read-out of the network's features that can be broken by construction, it must succeed.

Zimmermann et al. 2022, "Increasing confidence in adversarial robustness evaluations": the decision boundary
binarisation test. What hides gradients in the network hides them from its features too.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lat import norms
from lat.attacks import Draws, Threat, run_attack, undisturbed
from lat.audit.subject import Skipped, Subject
from lat.audit.verdicts import judged
from lat.cells import seed_for
from lat.findings import Result

Image = Float[Tensor, "1 *shape"]
Points = Float[Tensor, "m *shape"]

RIDGE = 1.0
"""Added to the spread of the inner points in every direction, as a part of its mean over the directions. With a small
one the read-out looks where the inner points hardly spread, which is where ReLUs switch, and an honest network that is
nearly linear is not broken along its gradient."""


def breakable(check: str, subject: Subject, given: Mapping[str, Any]) -> list[Result]:
    """Attack self-test on a model made to be breakable; finding when success < 95 %.

    For each image of a sample, in the ball of `attack`: the last layer is replaced by a read-out of two classes that
    has the image and `inner_points` random points on one side, and a hidden point at the edge of the ball on the other
    one. The attack must find a point of the other class. An image for which none of `tries` hidden points can be told
    from the inner ones is left out. value: the share of the others for which it does; n: how many they are.

    Skipped for a network that does not end in nn.Linear, and where no read-out could be made.
    """
    attack = subject.attack(given["attack"])
    index = subject.sample(given["examples"])
    features, readable, readout = opened(subject.model, subject.x[:1])
    inside = torch.zeros(1, dtype=torch.int64, device=subject.x.device)
    made, broken = 0, 0
    for number in index.tolist():
        x = subject.x[number : number + 1]
        draws = Draws(seed_for(subject.seed, check), [number])
        inner = _points(x, attack.threat, draws, given["inner_points"])
        for _ in range(given["tries"]):
            hidden = _edge(x, attack.threat, draws)
            if _separate(features, readable, readout, inner, hidden, given["closeness"]):
                made += 1
                seed = seed_for(subject.seed, check, "attack")
                broken += int((~run_attack(readable, x, inside, [number], attack, seed, check).robust).sum())
                break
    if not made:
        raise Skipped(f"no hidden point of {len(index)} images can be told from the points around them")
    value = broken / made
    return judged(check, value, given["share"], made, found=value < given["share"])


def opened(model: nn.Module, x: Image) -> tuple[nn.Module, nn.Module, nn.Linear]:
    """Two copies of the network with another last layer: none, so that its input comes out, and a new one of two
    classes, which is returned too.

    Raises Skipped unless the network's output on x is what one nn.Linear, called once, gives.
    """
    calls: list[tuple[str, Tensor]] = []
    hooks = [
        module.register_forward_hook(lambda _, __, out, name=name: calls.append((name, out)))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        with undisturbed(model), torch.no_grad():
            scores = model(x)
    finally:
        for hook in hooks:
            hook.remove()
    if not calls or calls[-1][1] is not scores or [name for name, _ in calls].count(calls[-1][0]) > 1:
        raise Skipped(f"{type(model).__name__} does not end in nn.Linear")
    last = f"0.{calls[-1][0]}".rstrip(".")
    features, readable = nn.Sequential(copy.deepcopy(model)).eval(), nn.Sequential(copy.deepcopy(model)).eval()
    replaced = features.get_submodule(last)
    assert isinstance(replaced, nn.Linear)
    readout = nn.Linear(replaced.in_features, 2).to(device=x.device, dtype=x.dtype)
    features.set_submodule(last, nn.Identity())
    readable.set_submodule(last, readout)
    return features, readable, readout


def _points(x: Image, threat: Threat, draws: Draws, count: int) -> Points:
    """The image (1, ...) and `count` uniform points of its ball, in the box: (1 + count, ...)."""
    found = [x]
    for _ in range(count):
        shift = norms.sample_ball(x, threat.ball, threat.norm, draws)
        found.append(norms.project(x + shift, x, threat.ball, threat.norm, threat.box))
    return torch.cat(found)


def _edge(x: Image, threat: Threat, draws: Draws) -> Image:
    """A random point of the edge of the ball, in the box: (1, ...). In L-infinity, a corner."""
    shift = norms.steepest_direction(draws.normal(x), threat.norm) * threat.ball
    return norms.project(x + shift, x, threat.ball, threat.norm, threat.box)


def _separate(
    features: nn.Module, readable: nn.Module, readout: nn.Linear, inner: Points, hidden: Image, closeness: float
) -> bool:
    """Sets the read-out to class 0 on the inner points and class 1 on the hidden one; whether that is so in the end."""
    with torch.no_grad():
        direction = discriminant(features(inner).flatten(1).double(), features(hidden).flatten().double())
        around, beyond = features(inner).double() @ direction, features(hidden)[0].double() @ direction
        last = around.max()
        boundary = last + closeness * (beyond - last)
        scale = boundary - around.mean()
        if not (bool(torch.isfinite(scale)) and beyond > last and scale > 0):
            return False
        weight = direction / scale
        readout.weight.copy_(torch.stack([torch.zeros_like(weight), weight]))
        readout.bias.copy_(torch.stack([torch.zeros_like(scale), -boundary / scale]))
        return bool((readable(inner).argmax(1) == 0).all() and (readable(hidden).argmax(1) == 1).all())


def discriminant(inner: Float[Tensor, "m d"], hidden: Float[Tensor, " d"]) -> Float[Tensor, " d"]:
    """The direction that tells the hidden point from the inner ones best: argmax over w of (w (hidden - mean))^2 /
    w (S + r I) w, where S is the covariance of the inner points and r the RIDGE.

    That is (S + r I)^-1 (hidden - mean), solved in as many dimensions as there are inner points.
    """
    mean = inner.mean(0)
    X = (inner - mean) / max(1, len(inner) - 1) ** 0.5
    d = hidden - mean
    r = (RIDGE * X.square().sum() / X.shape[1]).clamp(min=torch.finfo(X.dtype).tiny)
    gram = X @ X.T + r * torch.eye(len(X), dtype=X.dtype, device=X.device)
    return (d - X.T @ torch.linalg.solve(gram, X @ d)) / r
