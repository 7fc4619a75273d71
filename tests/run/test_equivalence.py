"""How far from equivalent: every figure against a network written out by hand, exact cases, and where figures go."""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_run import finished, run_file, scale, small_run
from torch import Tensor, nn

from lat import cli, equivalence
from lat.cells import Reading
from lat.collection import Folder, collect, export, kept
from lat.laws import Fixed
from lat.ledger import LedgerError, Record
from lat.models import MLP
from lat.perturbation import LayerwiseAdversary
from lat.runs import load
from lat.sites import SiteError

Vector = NDArray[np.float64]
EPS = 0.1


def network(seed: int = 0, *, layers: int = 3, width: int = 5) -> MLP:
    """A small network in float64, of inputs (1, 2, 3) and three classes, with weights large enough to flip units."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = MLP((1, 2, 3), 3, width, layers=layers, first=1).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return model


def examples(n: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 1, 2, 3, generator=generator, dtype=torch.float64)
    return x, torch.randint(3, (n,), generator=generator)


def measured(model: nn.Module, x: Tensor, y: Tensor, batch: int, seed: int = 7) -> dict[tuple[str, ...], Any]:
    """The rows by what they are of: (), (layer) or (layer, form, scope, pairing)."""
    keys = ("layer", "form", "scope", "pairing")
    rows = equivalence.measure(model, x, y, batch, EPS, seed)
    return {tuple(row.pop(key) for key in keys if key in row): row for row in rows}


# The model written out by hand: lists of matrices, one image at a time.


class ByHand:
    """The network as matrices W_l, b_l, in loops over images."""

    def __init__(self, model: MLP) -> None:
        linear = [module for module in model.children() if isinstance(module, nn.Linear)]
        self.W: list[Vector] = [module.weight.detach().numpy() for module in linear]
        self.b: list[Vector] = [module.bias.detach().numpy() for module in linear]

    def outputs(self, x: Vector) -> list[Vector]:
        found: list[Vector] = []
        for W, b in zip(self.W, self.b, strict=True):
            x = W @ (np.maximum(found[-1], 0) if found else x) + b
            found.append(x)
        return found

    def loss_from(self, place: int, y: Vector, label: int) -> float:
        """The loss where layer `place` puts out y."""
        for W, b in zip(self.W[place + 1 :], self.b[place + 1 :], strict=True):
            y = W @ np.maximum(y, 0) + b
        return float(np.log(np.exp(y - y.max()).sum()) + y.max() - y[label])

    def gradients(self, x: Vector, label: int) -> list[Vector]:
        """dL/dx, dL/dy_1, … dL/dy_L by the chain rule."""
        y = self.outputs(x)
        odds = np.exp(y[-1] - y[-1].max())
        g = odds / odds.sum()
        g[label] -= 1
        found = [g]
        for place in range(len(self.W) - 1, 0, -1):
            g = (g @ self.W[place]) * (y[place - 1] > 0)
            found.insert(0, g)
        return [g @ self.W[0], *found]

    def perturbation(self, reading: tuple[str, str], place: int, g: Sequence[Vector]) -> Vector:
        form, scope = reading
        first = 0 if scope == "network" else place
        if form == "closed":
            radius = np.full(self.W[first].shape[1], EPS)
            for layer in range(first, place + 1):
                radius = np.array([sum(abs(w) * r for w, r in zip(row, radius, strict=True)) for row in self.W[layer]])
            return radius * np.sign(g[place + 1])
        r = EPS * np.sign(g[first + 1] @ self.W[first])
        for layer in range(first, place + 1):
            r = self.W[layer] @ r
        return r


def cosine(a: Vector, b: Vector) -> float:
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / length if length else 0.0


def expected(model: MLP, x: Tensor, y: Tensor, batches: list[list[int]]) -> dict[tuple[str, ...], dict[str, float]]:
    net, n = ByHand(model), len(x)
    flat = x.flatten(1).numpy()
    g = [net.gradients(flat[i], int(y[i])) for i in range(n)]
    r = [EPS * np.sign(g[i][0]) for i in range(n)]
    before = [net.outputs(flat[i]) for i in range(n)]
    after = [net.outputs(flat[i] + r[i]) for i in range(n)]
    last = len(net.W) - 1
    clipped = [np.clip(flat[i] + r[i], 0, 1) for i in range(n)]
    found: dict[tuple[str, ...], dict[str, float]] = {
        (): {
            "clip_cut": 1 - sum(np.abs(clipped[i] - flat[i]).sum() for i in range(n)) / sum(np.abs(a).sum() for a in r),
            "loss_clean": np.mean([net.loss_from(last, before[i][-1], int(y[i])) for i in range(n)]),
            "loss_fgsm": np.mean([net.loss_from(last, after[i][-1], int(y[i])) for i in range(n)]),
            "loss_fgsm_clipped": np.mean(
                [net.loss_from(last, net.outputs(clipped[i])[-1], int(y[i])) for i in range(n)]
            ),
        }
    }
    found[()]["loss_exact"] = found[()]["loss_fgsm"]
    for place in range(last + 1):
        name = f"fc{place + 1}"
        delta = [after[i][place] - before[i][place] for i in range(n)]
        chain = np.full(net.W[0].shape[1], EPS)
        for W in net.W[: place + 1]:
            chain = np.abs(W) @ chain
        moved = [
            np.abs(np.maximum(after[i][place - 1], 0) - np.maximum(before[i][place - 1], 0)) if place else np.abs(r[i])
            for i in range(n)
        ]
        local = [np.abs(net.W[place]) @ moved[i] for i in range(n)]
        parts = [abs(d) / b for i in range(n) for d, b in zip(delta[i], local[i], strict=True) if b > 0]
        found[name,] = {
            "off_share": float(np.mean([g[i][place + 1] == 0 for i in range(n)])),
            "tightness_chain": float(np.mean([np.abs(delta[i])[chain > 0] / chain[chain > 0] for i in range(n)])),
            "tightness_local": float(np.mean(parts)),
        }
        if place < last:
            found[name,]["flips"] = float(np.mean([(before[i][place] > 0) != (after[i][place] > 0) for i in range(n)]))
        for form, scope in itertools.product(("closed", "propagated"), ("local", "network")):
            source: dict[str, list[list[Vector]]] = {"same": [], "slot": [], "mean": []}
            images = [i for batch in batches for i in batch]
            for number, batch in enumerate(batches):
                earlier = batches[number - 1] if number else [b for b in batches if len(b) == len(batches[0])][-1]
                middle = [np.mean([g[i][part] for i in earlier], axis=0) for part in range(last + 2)]
                for slot, i in enumerate(batch):
                    source["same"].append(g[i])
                    source["slot"].append(g[earlier[slot]])
                    source["mean"].append(middle)
            R = {key: [net.perturbation((form, scope), place, of) for of in value] for key, value in source.items()}
            for pairing, rows in R.items():
                pairs = [
                    (a, b) for i, row in zip(images, rows, strict=True) for a, b in zip(row, delta[i], strict=True)
                ]
                both = [(a, b) for a, b in pairs if a != 0 and b != 0]
                cosines = [cosine(row, delta[i]) for i, row in zip(images, rows, strict=True)]
                found[name, form, scope, pairing] = {
                    "norm_ratio": math.sqrt(sum(a * a for a, _ in pairs) / sum(b * b for _, b in pairs)),
                    "cosine": float(np.mean(cosines)),
                    "zero_share": float(
                        np.mean([not (row.any() and delta[i].any()) for i, row in zip(images, rows, strict=True)])
                    ),
                    "sign_agreement": sum((a > 0) == (b > 0) for a, b in both) / len(both),
                    "loss": float(
                        np.mean(
                            [
                                net.loss_from(place, before[i][place] + row, int(y[i]))
                                for i, row in zip(images, rows, strict=True)
                            ]
                        )
                    ),
                }
                if pairing != "same":
                    found[name, form, scope, pairing]["cosine_to_same"] = float(
                        np.mean([cosine(a, b) for a, b in zip(rows, R["same"], strict=True)])
                    )
    return found


@pytest.mark.parametrize(("n", "batch", "layers"), [(10, 4, 3), (12, 4, 3), (9, 3, 2), (11, 5, 4)])
def test_every_figure_is_that_of_the_network_written_out_by_hand(n: int, batch: int, layers: int) -> None:
    model, (x, y) = network(layers=layers), examples(n)
    with torch.no_grad():  # a unit that is never on, and an image on which every first unit is off
        model.fc1.weight[0] = 0
        model.fc1.bias[0] = -1
        model.fc1.bias[1:] = 0
        x[3] = 0
    order = torch.randperm(n, generator=torch.Generator().manual_seed(7)).tolist()
    by_hand = expected(model, x, y, [order[i : i + batch] for i in range(0, n, batch)])
    found = measured(model, x, y, batch)
    assert found.keys() == by_hand.keys()
    for key, row in by_hand.items():
        assert found[key].keys() == row.keys(), key
        assert found[key] == pytest.approx(row, rel=1e-9, abs=1e-12), key
    assert 0 < found["fc1", "closed", "local", "same"]["zero_share"] < 1
    assert found["fc1",]["flips"] > 0


@pytest.mark.parametrize("form", ["closed", "propagated"])
@pytest.mark.parametrize("scope", ["local", "network"])
@pytest.mark.parametrize("pairing", ["same", "slot", "mean"])
def test_r_is_the_one_that_training_adds(form: str, scope: str, pairing: str) -> None:
    model, (x, y) = network(), examples(6)
    reading = Reading(form=form, scope=scope, pairing=pairing)
    names = ["fc1", "fc2", "fc3"]
    adversary = LayerwiseAdversary(model.train(), names, Fixed(EPS), reading)

    def loss() -> Tensor:
        return nn.functional.cross_entropy(model(x), y)

    if pairing == "same":
        adversary.observe(loss)
    else:
        with adversary:
            value = loss()
        value.backward()
        adversary.update()
    net = ByHand(model)
    of_each = [net.gradients(image, int(label)) for image, label in zip(x.flatten(1).numpy(), y, strict=True)]
    g = [torch.from_numpy(np.stack([found[place + 1] for found in of_each])) for place in range(3)]
    if pairing == "mean":
        g = [rows.mean(dim=0, keepdim=True) for rows in g]
    weights = [model.get_submodule(name).weight.detach() for name in names]
    for place, name in enumerate(names):
        R = equivalence.perturbation((form, scope), g, weights, place, EPS)
        torch.testing.assert_close(adversary.perturbations[name], R)


# Exact cases


@pytest.mark.parametrize("scope", ["local", "network"])
def test_on_one_layer_the_propagated_form_of_the_same_batch_is_fgsm(scope: str) -> None:
    model, (x, y) = nn.Sequential(nn.Flatten(), nn.Linear(6, 3)).double(), examples(12)
    found = measured(model, x, y, 4)
    row = found["1", "propagated", scope, "same"]
    assert row["cosine"] == pytest.approx(1)
    assert (row["norm_ratio"], row["sign_agreement"], row["zero_share"]) == (pytest.approx(1), 1, 0)
    assert row["loss"] == pytest.approx(found[()]["loss_fgsm"])
    assert found["1", "closed", scope, "same"]["norm_ratio"] > 1, "the closed form is longer, as |W| 1 is no |W r|"
    assert "flips" not in found["1",], "the output layer has no units that switch"


def test_where_every_unit_has_one_positive_weight_and_is_on_eq_7_is_exact() -> None:
    model = MLP((1, 1, 3), 3, 3, layers=3, first=1).double()
    with torch.no_grad():
        for layer in (model.fc1, model.fc2, model.fc3):
            layer.weight.copy_(torch.diag(torch.tensor([0.5, 1.0, 1.5])))
            layer.bias.fill_(3.0)
    x, y = examples(8)
    found = measured(model, x[:, :, :1], y, 4)
    for layer in ("fc1", "fc2", "fc3"):
        row = found[layer, "closed", "network", "same"]
        assert (row["cosine"], row["norm_ratio"], row["sign_agreement"]) == pytest.approx((1, 1, 1))
        assert row["loss"] == pytest.approx(found[()]["loss_fgsm"])
        assert (found[layer,]["tightness_chain"], found[layer,]["tightness_local"]) == pytest.approx((1, 1))
    assert found["fc1",]["flips"] == found["fc2",]["flips"] == 0
    length = math.sqrt(0.5**2 + 1 + 1.5**2) / math.sqrt(0.5**4 + 1 + 1.5**4)
    assert found["fc2", "closed", "local", "same"]["norm_ratio"] == pytest.approx(length)


def test_no_change_exceeds_its_bounds() -> None:
    for seed in range(5):
        found = measured(network(seed, layers=4), *examples(12, seed), 4)
        for layer in ("fc1", "fc2", "fc3", "fc4"):
            assert 0 < found[layer,]["tightness_chain"] <= 1 + 1e-9
            assert 0 < found[layer,]["tightness_local"] <= 1 + 1e-9


def test_the_share_that_clipping_removes_is_the_one_counted_by_hand() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2)).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0], [-1.0]]))
    x = torch.tensor([0.95, 0.5, 0.03, 0.5], dtype=torch.float64).view(4, 1, 1, 1)
    y = torch.tensor([1, 1, 0, 0])  # class 1 is lost by a larger x, class 0 by a smaller one
    assert measured(model, x, y, 2)[()]["clip_cut"] == pytest.approx(1 - (0.05 + 0.1 + 0.03 + 0.1) / 0.4)


def test_a_network_without_gradient_has_no_shares_but_has_losses() -> None:
    model, (x, y) = network(), examples(8)
    with torch.no_grad():
        model.fc1.bias.fill_(-100.0)
    found = measured(model, x, y, 4)
    assert found[()]["loss_clean"] == found[()]["loss_fgsm"] == found[()]["loss_exact"]
    assert math.isnan(found[()]["clip_cut"])
    row = found["fc1", "propagated", "local", "same"]
    assert (row["cosine"], row["zero_share"], found["fc1",]["off_share"]) == (0, 1, 1)
    assert math.isnan(row["norm_ratio"]) and math.isnan(row["sign_agreement"])
    assert found["fc1",]["tightness_chain"] == 0
    assert math.isnan(found["fc2",]["tightness_local"])


# What is refused


@pytest.mark.parametrize(("exact", "fgsm"), [(2.0, 2.001), (math.nan, 1.0), (0.0, 0.001)])
def test_a_loss_that_the_true_change_does_not_reproduce_is_an_error(exact: float, fgsm: float) -> None:
    with pytest.raises(equivalence.EquivalenceError, match=r"loss_exact: .* must reproduce it"):
        equivalence.check_injected(exact, fgsm)
    equivalence.check_injected(fgsm, fgsm * (1 + 1e-6))


def test_one_full_batch_is_too_few() -> None:
    x, y = examples(7)
    with pytest.raises(equivalence.EquivalenceError, match=r"batch: 4 and 7 images; .* lower batch"):
        equivalence.measure(network(), x, y, 4, EPS, 0)


class Functional(nn.Module):
    """A chain whose ReLU is no module, so that its modules alone are another network."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x)))


def test_a_network_that_is_more_than_its_modules_is_refused() -> None:
    x, y = examples(8)
    with pytest.raises(SiteError, match=r"Functional is more than its modules; write each operation as a module"):
        equivalence.measure(Functional().double(), x.flatten(1), y, 4, EPS, 0)


def test_the_network_is_left_as_it_was() -> None:
    model, (x, y) = network().train(), examples(8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    equivalence.measure(model, x, y, 4, EPS, 0)
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


# The step of a run


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, digits_root: Path) -> Path:
    """A run of two trained cells, and its figures."""
    folder = tmp_path_factory.mktemp("equivalence")
    (folder / "run.json").write_text(json.dumps(run_file(scales=[scale(epochs=1)])), encoding="utf-8")
    for words in (["train", "--cell", "dnn"], ["train", "--cell", "fc_4"], ["equivalence"]):
        assert lat(folder, digits_root, *words) == 0
    return folder


def lat(place: Path, digits_root: Path, name: str, *words: str) -> int:
    folders = ["--results", str(place / "results"), "--data", str(digits_root)]
    return cli.main([name, "--config", str(place / "run.json"), *folders, *words])


def test_the_step_says_what_it_measured_and_on_what(place: Path) -> None:
    run, folder = load(place / "run.json"), Folder(place / "results/small")
    made = json.loads((folder.root / "equivalence.json").read_text())
    for network, entry in zip(made["networks"], run.entries, strict=True):
        assert (network["scale"], network["cell"], network["seed"]) == (entry.scale, entry.name, 0)
        assert network["weights"] == Record.read(folder.record(entry, 0, "train")).inputs["weights"]
        assert network["weights"] == hashlib.sha256(folder.weights(entry, 0).read_bytes()).hexdigest()
        assert (network["slug"], network["batch"], network["finite"]) == (entry.cell.slug, 128, True)
    assert made["sources"] == run.sources(run.entries[0], "equivalence") == run.sources(run.entries[1], "equivalence")
    assert (made["part"], made["images"], made["radius"]) == ("test", 360, 0.1)
    assert len(made["data"]) == 64 and made["versions"]["torch"] == torch.__version__
    with (folder.root / "equivalence.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 2 * (1 + 4 * (1 + 12))
    assert list(rows[0]) == list(equivalence.COLUMNS)
    first = next(
        r for r in rows if (r["layer"], r["form"], r["scope"], r["pairing"]) == ("fc1", "closed", "local", "same")
    )
    assert 0 < float(first["cosine"]) < 1
    numbers = [value for row in rows for value in list(row.values())[7:] if value]
    assert all(f"{float(value):.6g}" == value for value in numbers)


def test_the_same_weights_give_the_same_files(place: Path, digits_root: Path) -> None:
    files = [place / "results/small" / name for name in ("equivalence.csv", "equivalence.json")]
    before = [path.read_bytes() for path in files]
    assert lat(place, digits_root, "equivalence") == 0
    assert [path.read_bytes() for path in files] == before


def test_missing_weights_are_named_and_passed_over_only_where_asked(
    place: Path, digits_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Folder(place / "results/small")
    path = folder.weights(load(place / "run.json").entry("fc_4"), 0)
    kept_bytes, before = path.read_bytes(), (folder.root / "equivalence.csv").read_bytes()
    path.unlink()
    try:
        assert lat(place, digits_root, "equivalence") == 2
        error = capsys.readouterr().err
        assert f"{path}: no weights there" in error
        assert error.count("\n") == 1
        assert (folder.root / "equivalence.csv").read_bytes() == before
        assert lat(place, digits_root, "equivalence", "--gaps") == 0
        assert capsys.readouterr().out.splitlines() == ["missing: fc_4@narrow, seed 0", "dnn@narrow, seed 0"]
    finally:
        path.write_bytes(kept_bytes)
        assert lat(place, digits_root, "equivalence") == 0


def test_a_network_whose_weights_are_no_numbers_is_named_and_has_no_rows(tmp_path: Path) -> None:
    model, images = network(), examples(8)
    with torch.no_grad():
        model.fc2.weight[0, 0] = math.nan
    (tmp_path / "w").write_bytes(b"weights")
    given = equivalence.Network("narrow", "dnn", "slug", 0, 4, tmp_path / "w", lambda: model)
    rows, described = equivalence.measure_all([given], images, 0, lambda network: None)
    assert rows == []
    assert [(entry["cell"], entry["finite"]) for entry in described] == [("dnn", False)]


def test_only_kept_weights_are_looked_into_each_network_once(tmp_path: Path) -> None:
    best = {"name": "v", "suffix": "_best", "scales": ["narrow"], "bases": ["fc_4"], "axes": [[{"form": "closed"}]]}
    run = small_run(scales=[scale(seeds=2)], variants=[best])
    folder = finished(run, tmp_path)
    assert [(entry.name, seed) for entry, seed in kept(run, folder)] == [
        ("dnn", 0), ("dnn", 1), ("fc_4", 0), ("fc_4", 1),
    ]  # fmt: skip
    named = small_run(scales=[scale(seeds=2, keep=["fc_4"])])
    assert [(entry.name, seed) for entry, seed in kept(named, folder)] == [("fc_4", 0)]
    assert kept(small_run(scales=[scale(keep=[])]), folder) == []


def test_weights_that_were_not_imported_are_not_asked_for(tmp_path: Path) -> None:
    run = small_run(scales=[scale(seeds=2)])
    folder, entry = finished(run, tmp_path), run.entry("fc_4")
    folder.weights(entry, 1).unlink()
    assert (entry, 1) in kept(run, folder), "they can be trained again"
    path = folder.record(entry, 1, "attack")
    replace(Record.read(path), imported=True).write(path)
    assert (entry, 1) not in kept(run, folder)
    assert (entry, 0) in kept(run, folder)


# Export


def described(folder: Folder, run: Any, **changes: str) -> None:
    """A stand-in for the step's files, of the weights in the run's records."""
    networks = [
        {"scale": e.scale, "cell": e.name, "seed": 0, "slug": e.cell.slug}
        | {"weights": Record.read(folder.record(e, 0, "train")).inputs["weights"]}
        | changes
        for e in run.entries
    ]
    (folder.root / "equivalence.json").write_text(json.dumps({"networks": networks}))
    (folder.root / "equivalence.csv").write_text("scale\n")


def test_an_export_takes_the_figures_along_where_there_are_any(tmp_path: Path) -> None:
    run = small_run()
    folder = finished(run, tmp_path / "run")
    collect(run, folder, folder.root)
    export(run, folder, tmp_path / "without")
    assert not list((tmp_path / "without").glob("equivalence.*"))
    described(folder, run)
    export(run, folder, tmp_path / "with")
    for name in ("equivalence.csv", "equivalence.json"):
        assert (tmp_path / "with" / name).read_bytes() == (folder.root / name).read_bytes()


def test_figures_of_other_weights_are_not_exported(tmp_path: Path) -> None:
    run = small_run()
    folder = finished(run, tmp_path / "run")
    collect(run, folder, folder.root)
    described(folder, run, weights="f" * 64)
    with pytest.raises(
        LedgerError, match=r"equivalence\.json: weights ffffffff of dnn@narrow, seed 0; its record says"
    ):
        export(run, folder, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()
