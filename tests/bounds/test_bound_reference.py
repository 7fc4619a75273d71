"""Certificates of the committed networks against the committed verdicts: no attack broke what is proved."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lat import data
from lat.bounds import certified, certified_by_chain
from lat.evaluation import load_verdicts
from lat.models import build

REFERENCE = Path(__file__).resolve().parents[2] / "reports/reference/mnist"
WEIGHTS = sorted(REFERENCE.glob("weights/mnist-4fc-*/seed*.safetensors"))
AT_RADIUS = {
    0.1: {"fgsm", "ifgsm", "pgd", "eot", "cw", "pgd_curve@0.1"}
    | {"pgd_twice", "pgd_restarts", "cw_restarts", "mi_fgsm", "apgd_t", "square", "autoattack", "noise", "transfer"}
    | {"hopskipjump"},
    0.02: {"pgd_curve@0.02"},
}


@pytest.fixture(scope="module")
def test_split(data_root: Path) -> tuple[Tensor, Tensor]:
    return data.tensors(data.load("mnist", "test", data_root))


def network(path: Path) -> nn.Module:
    found = re.match(r"mnist-4fc-w(\d+)-", path.parent.name)
    assert found is not None, f"{path}: the slug names no width of a 4fc"
    model = build("4fc", (1, 28, 28), 10, int(found[1]), seed=0)
    model.load_state_dict(load_file(path))
    return model.eval()


def test_every_attack_with_verdicts_on_a_committed_network_is_held_against_its_certificates() -> None:
    """Those in a ball at one of the radii; of the curve's other radii the larger ones can break what is certified."""
    attacked = [REFERENCE / "harder" / path.parent.name / f"{path.stem}.npz" for path in WEIGHTS]
    assert sum(path.is_file() for path in attacked) >= 10
    for path in [path for path in attacked if path.is_file()]:
        before, found = load_verdicts(REFERENCE / "verdicts" / path.parent.name / path.name), load_verdicts(path)
        known = set.union(*AT_RADIUS.values()) | set(before.distances) | set(found.distances)
        rest = {name for name in (*before.verdicts, *found.verdicts) if name not in known}
        assert all(name.startswith("pgd_curve@") for name in rest), rest
        assert "cw_l2" in before.distances


def test_there_are_committed_networks_of_both_widths() -> None:
    assert {re.search(r"-w(\d+)-", path.parent.name)[1] for path in WEIGHTS} >= {"12", "256"}


@pytest.mark.parametrize("path", WEIGHTS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_no_attack_broke_what_is_certified(path: Path, test_split: tuple[Tensor, Tensor]) -> None:
    model, (x, y) = network(path), test_split
    files = [REFERENCE / step / path.parent.name / f"{path.stem}.npz" for step in ("verdicts", "harder")]
    steps = [load_verdicts(file) for file in files if file.is_file()]
    larger = np.zeros(len(x), dtype=np.bool_)
    for radius in (0.1, 0.02, 0.01, 0.002):
        proved = certified(model, x, y, radius).numpy()
        assert bool((steps[0].clean >= proved).all()), "what is certified is right"
        assert bool((proved >= larger).all()), "a smaller ball is part of a larger one"
        assert bool((proved >= certified_by_chain(model, x, y, radius).numpy()).all())
        for found in steps:
            for attack in AT_RADIUS.get(radius, set()) & set(found.verdicts):
                assert bool((found.verdicts[attack] >= proved[found.index[attack]]).all()), attack
            for attack, distance in found.distances.items():
                assert bool((distance > radius)[proved[found.index[attack]]].all()), attack
        larger = proved
    assert larger.mean() > 0.1, "at the smallest radius there is something that an attack could have broken"


def test_a_network_that_is_trained_to_be_robust_is_certified_where_the_chain_says_nothing(
    test_split: tuple[Tensor, Tensor],
) -> None:
    """Through several layers intervals are tighter than the closed chain, since they know which ReLUs are off."""
    x, y = test_split
    path = next(path for path in WEIGHTS if "-w256-fgsm-" in path.parent.name)
    proved = certified(network(path), x, y, 0.002).double().mean()
    by_chain = certified_by_chain(network(path), x, y, 0.002).double().mean()
    assert float(proved) > 0.5 > 0.01 > float(by_chain), (float(proved), float(by_chain))


def test_a_wrong_verdict_would_be_noticed(test_split: tuple[Tensor, Tensor]) -> None:
    """FGSM by hand at a radius far above the certified one breaks images; at the certified one it breaks none."""
    x, y = test_split
    model = network(next(path for path in WEIGHTS if "-w12-standard-" in path.parent.name))
    proved = certified(model, x, y, 0.002)
    z = x.clone().requires_grad_()
    torch.nn.functional.cross_entropy(model(z), y).backward()
    assert z.grad is not None
    broken = {eps: model((x + eps * z.grad.sign()).clamp(0, 1)).argmax(1) != y for eps in (0.002, 0.1)}
    assert not (broken[0.002] & proved).any()
    assert (broken[0.1] & proved).any()
