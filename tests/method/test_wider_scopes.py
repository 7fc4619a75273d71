"""R past the layer's own weights, through convolutions, BatchNorm, pooling and additions, against plain loops."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from deep_networks import SHAPE, ByHand, Residual, Vgg, Watched, added, batch, network, watching
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lat import LayerwiseAdversary, Normal, PerturbationError, Reading, SiteError, equations
from lat.cells import DRAWS, FORMS, GRADIENTS, PAIRINGS, SCOPES

NETWORKS = {"vgg": (Vgg, ("conv2", "fc1"), "conv1"), "residual": (Residual, ("conv1", "conv2", "fc"), "conv0")}
"""A network, layers of it of which the first leads to all others, and the layer that takes the network's input."""
READINGS = [
    Reading(form, scope, pairing, gradient)
    for form in FORMS
    for scope in SCOPES
    for pairing in PAIRINGS
    for gradient in GRADIENTS
]
EPS = 0.1
wide = pytest.mark.parametrize("scope", ["layer_set", "network"])
every_network = pytest.mark.parametrize("name", NETWORKS)


def name_of(reading: Reading) -> str:
    return "-".join((reading.form, reading.scope, reading.pairing, reading.gradient))


def input_of(model: nn.Module, name: str, seen: Watched, n: int = 1) -> Tensor:
    """Ones at the input of a layer."""
    return torch.ones(n, *seen.inputs[name].shape[1:], dtype=torch.float64)


def gradient_behind(model: nn.Module, name: str, seen: Watched, g: Tensor) -> Tensor:
    """dL/dx at the input of one layer from g = dL/dy, by autograd."""
    module = copy.deepcopy(model.get_submodule(name))
    x = torch.zeros(len(g), *seen.inputs[name].shape[1:], dtype=torch.float64, requires_grad=True)
    return torch.autograd.grad(module(x), x, g)[0]


def by_hand(
    model: nn.Module, reading: Reading, layers: tuple[str, ...], first: str, seen: Watched, old: nn.Module
) -> dict[str, Tensor]:
    """R of each layer from one pass, with the weights of `model`; the signs are those that `old`'s weights gave."""

    def slope(name: str) -> Tensor:
        g = seen.gradient(name)
        return g.mean(0, keepdim=True) if reading.pairing == "mean" else g

    nothing = torch.zeros(1, *SHAPE, dtype=torch.float64)
    start = {"local": None, "layer_set": layers[0], "network": first}[reading.scope]
    if reading.form == "closed":
        if start is None:
            each = {
                name: ByHand(model, seen, {name: input_of(model, name, seen)}, signed=False).carried(nothing)[name]
                for name in layers
            }
        else:
            each = ByHand(model, seen, {start: input_of(model, start, seen)}, signed=False).carried(nothing)
        return {name: EPS * each[name] * torch.sign(slope(name)) for name in layers}

    def pushed(name: str) -> dict[str, Tensor]:
        r = EPS * torch.sign(gradient_behind(old, name, seen, slope(name)))
        return ByHand(model, seen, {name: r}, signed=True).carried(nothing.expand(len(r), *SHAPE))

    if start is None:
        return {name: pushed(name)[name] for name in layers}
    return {name: pushed(start)[name] for name in layers}


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a.detach(), b.detach().expand_as(a), rtol=1e-9, atol=1e-12)


def descend(model: nn.Module, seed: int) -> None:
    """Move every parameter, so that the weights of one step are not those of the next."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator, dtype=p.dtype))


@every_network
@pytest.mark.parametrize("reading", READINGS, ids=name_of)
def test_r_and_all_that_it_changes_are_those_of_matrices_and_loops(name: str, reading: Reading) -> None:
    kind, layers, first = NETWORKS[name]
    model = network(kind, 1)
    adversary = LayerwiseAdversary(model, layers[::-1], EPS, reading)
    R: dict[str, Tensor] = {}
    learnt: tuple[Watched, nn.Module] | None = None
    for t in range(3):
        x, y = batch(t)
        if reading.pairing == "same":
            with watching(model) as seen:
                adversary.observe(lambda x=x, y=y: watched_loss(model, x, y, seen))
            learnt = seen, copy.deepcopy(model)
            R = by_hand(model, reading, layers, first, *learnt)
        plain = copy.deepcopy(model)
        if reading.gradient == "attached" and learnt is not None:
            R = by_hand(plain, reading, layers, first, *learnt)
        found = adversary.perturbations
        assert set(found) == set(R)
        assert all(close(R[layer], found[layer]) for layer in R)
        assert all(bool((r != 0).any()) for r in found.values())

        constant = {layer: r if reading.gradient == "attached" else r.detach() for layer, r in R.items()}
        expected, gradients = added(plain, constant, x, y)
        with watching(model) as seen, adversary:
            logits = model(x)
        loss = cross_entropy(logits, y)
        model.zero_grad()
        loss.backward()
        assert close(logits, expected)
        for parameter, p in model.named_parameters():
            assert close(p.grad, gradients[parameter]), parameter

        if reading.pairing != "same":
            adversary.update()
            learnt = seen, copy.deepcopy(model)
            R = by_hand(model, reading, layers, first, *learnt)
        descend(model, t)
    assert adversary.skipped == 0


def watched_loss(model: nn.Module, x: Tensor, y: Tensor, seen: Watched) -> Tensor:
    """The loss of a plain pass, with dL/dy at each layer where `seen` looks for it: observe() asks for edges alone."""
    loss = cross_entropy(model(x), y)
    names = list(seen.outputs)
    for name, g in zip(
        names, torch.autograd.grad(loss, [seen.outputs[name] for name in names], retain_graph=True), strict=True
    ):
        seen.outputs[name].grad = g
    return loss


# Starts, statistics and draws ----------------------------------------------------------------------------------------


def learnt(model: nn.Module, adversary: LayerwiseAdversary, seed: int = 0, n: int = 4) -> Watched:
    """One step without an optimiser, watched."""
    x, y = batch(seed, n)
    with watching(model) as seen, adversary:
        loss = cross_entropy(model(x), y)
    model.zero_grad()
    loss.backward()
    adversary.update()
    return seen


def test_a_layer_that_no_other_of_the_set_leads_to_starts_at_its_own_input() -> None:
    """The two branches of the block read one tensor; behind their addition both radii count."""
    model = network(Residual, 2)
    layers = ("conv1", "shortcut", "conv2", "fc")
    adversary = LayerwiseAdversary(model, layers, EPS, Reading(scope="layer_set"))
    seen = learnt(model, adversary)
    starts = {name: input_of(model, name, seen) for name in ("conv1", "shortcut")}
    radii = ByHand(model, seen, starts, signed=False).carried(torch.zeros(1, *SHAPE, dtype=torch.float64))
    one = ByHand(model, seen, {"conv1": starts["conv1"]}, signed=False).carried(torch.zeros(1, *SHAPE).double())
    for name in layers:
        R = adversary.perturbations[name]
        assert close(R, EPS * radii[name] * torch.sign(seen.gradient(name)))
    assert not torch.allclose(radii["fc"], one["fc"], rtol=0.01)


@pytest.mark.parametrize(
    ("scope", "layers", "starts"),
    [("layer_set", ("fc", "shortcut", "conv1"), "'conv1', 'shortcut'"), ("network", ("conv1",), "'conv0', 'skip'")],
)
def test_the_propagated_form_asks_for_one_first_layer(scope: str, layers: tuple[str, ...], starts: str) -> None:
    class Skipped(Residual):
        def __init__(self) -> None:
            super().__init__()
            self.skip = nn.Conv2d(2, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            h = self.conv0(x) + self.skip(x)
            return self.fc(self.pool(self.conv1(h) + self.shortcut(h)).flatten(1))

    with pytest.raises(SiteError) as error:
        LayerwiseAdversary(Skipped(), layers, EPS, Reading("propagated", scope))
    assert str(error.value).startswith(f"the propagated form pushes one r from one first layer, and here {starts} each")
    LayerwiseAdversary(Skipped(), layers, EPS, Reading("closed", scope))


@every_network
@pytest.mark.parametrize("form", FORMS)
def test_a_batchnorm_in_eval_mode_divides_by_its_running_deviation(name: str, form: str) -> None:
    kind, layers, first = NETWORKS[name]
    model = network(kind, 3)
    reading = Reading(form, "network")
    adversary = LayerwiseAdversary(model, layers, EPS, reading)
    learnt(model, adversary)
    before = adversary.perturbations
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    seen = learnt(model, adversary, 1)
    expected = by_hand(model, reading, layers, first, seen, model)
    assert all(close(r, expected[layer]) for layer, r in adversary.perturbations.items())
    assert not any(torch.allclose(before[layer].abs().max(), r.abs().max()) for layer, r in expected.items())


@wide
@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("form", FORMS)
@every_network
def test_one_draw_serves_all_layers_but_for_draws_an_element(name: str, form: str, draw: str, scope: str) -> None:
    kind, layers, first = NETWORKS[name]
    model = network(kind, 4)
    adversary = LayerwiseAdversary(model, layers, Normal(0, 0.3, draw), Reading(form, scope), seed=6)
    seen = learnt(model, adversary)
    start = layers[0] if scope == "layer_set" else first
    generator = torch.Generator().manual_seed(6)
    eps: Tensor | None = None
    nothing = torch.zeros(1, *SHAPE, dtype=torch.float64)
    radii = ByHand(model, seen, {start: input_of(model, start, seen)}, signed=False).carried(nothing)
    direction = torch.sign(gradient_behind(model, start, seen, seen.gradient(start)))
    for layer in layers:
        shape = seen.gradient(layer).shape if form == "closed" else direction.shape
        if draw == "element" or eps is None:
            size = {"batch": (1, 1, 1, 1), "sample": (4, 1, 1, 1), "element": tuple(shape)}[draw]
            eps = 0.3 * torch.randn(size, generator=generator, dtype=torch.float64)
        if form == "closed":
            eps_here = eps.view(-1, 1) if len(shape) == 2 and draw != "element" else eps
            expected = eps_here * radii[layer] * torch.sign(seen.gradient(layer))
        else:
            rows = nothing.expand(4, *SHAPE)
            expected = ByHand(model, seen, {start: eps * direction}, signed=True).carried(rows)[layer]
        assert close(adversary.perturbations[layer], expected)


# What the closed form claims ------------------------------------------------------------------------------------------


@every_network
def test_without_negative_weights_the_closed_r_is_what_the_inputs_can_do_to_every_unit(name: str) -> None:
    """Inputs c and c + eps, no bias: every unit moves by eps times its radius, and every gradient is positive."""
    kind, layers, _ = NETWORKS[name]
    model = network(kind, 5)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
                module.running_var.copy_(torch.tensor([0.5, 2.0, 3.0][: module.num_features]))
        for parameter, p in model.named_parameters():
            p.copy_(torch.zeros_like(p) if "bias" in parameter else p.abs() + 0.1)
    adversary = LayerwiseAdversary(model, layers, EPS, Reading(scope="network"))
    x = torch.full((1, *SHAPE), 0.5, dtype=torch.float64)
    outputs: list[dict[str, Tensor]] = [{}, {}]
    for found, z in zip(outputs, (x, x + EPS), strict=True):
        with watching(model) as seen:
            model(z)
        found.update(seen.outputs)
    with adversary:
        total = model(x).sum()
    total.backward()
    adversary.update()
    for layer, r in adversary.perturbations.items():
        assert torch.allclose(r, outputs[1][layer] - outputs[0][layer], rtol=1e-9, atol=0)
        assert bool((r > 0).all())


# The contract, where wider scopes bring a new corner ------------------------------------------------------------------


RESUMED = [reading for reading in READINGS if reading.scope != "local" and reading.pairing != "mean"]


@every_network
@pytest.mark.parametrize("reading", RESUMED, ids=name_of)
def test_a_saved_state_and_a_deep_copy_go_on_bit_for_bit(name: str, reading: Reading, tmp_path: Path) -> None:
    kind, layers, _ = NETWORKS[name]

    def step(model: nn.Module, adversary: LayerwiseAdversary, t: int) -> Tensor:
        x, y = batch(t)
        if reading.pairing == "same":
            adversary.observe(lambda: cross_entropy(model(x), y))
        with adversary:
            logits = model(x)
        model.zero_grad()
        cross_entropy(logits, y).backward()
        if reading.pairing != "same":
            adversary.update()
        descend(model, t)
        return logits.detach()

    model = network(kind, 6)
    adversary = LayerwiseAdversary(model, layers, Normal(0, 0.1), reading, seed=1)
    for t in range(2):
        step(model, adversary, t)
    torch.save([model.state_dict(), adversary.state_dict()], tmp_path / "state.pt")
    twin = copy.deepcopy(adversary)
    other = network(kind, 7)
    resumed = LayerwiseAdversary(other, layers, Normal(0, 0.1), reading)
    for part, state in zip((other, resumed), torch.load(tmp_path / "state.pt", weights_only=True), strict=True):
        part.load_state_dict(state)
    for t in (2, 3):
        expected = step(model, adversary, t)
        assert torch.equal(step(other, resumed, t), expected)
        assert torch.equal(step(twin.model, twin, t), expected)


def test_nothing_of_a_pass_is_kept_where_r_is_detached_or_after_a_reset() -> None:
    model = network(Vgg)
    adversary = LayerwiseAdversary(model, ["fc1"], EPS, Reading("propagated", "network"))
    attached = LayerwiseAdversary(model, ["fc1"], EPS, Reading("propagated", "network", gradient="attached"))
    for one in (adversary, attached):
        learnt(model, one)
    assert set(attached.state_dict()["seen"]["tensors"]) == {"bn1", "pool1", "bn2"}
    attached.reset()
    for one in (adversary, attached):
        assert one.state_dict()["seen"] == {"sizes": {}, "tensors": {}}


@pytest.mark.parametrize(("name", "form", "fits"), [
    ("vgg", "closed", True), ("vgg", "propagated", False), ("residual", "propagated", True),
])  # fmt: skip
def test_one_r_for_all_fits_any_batch_but_where_it_passes_maxima(name: str, form: str, fits: bool) -> None:
    kind, layers, _ = NETWORKS[name]
    model = network(kind, 8)
    adversary = LayerwiseAdversary(model, layers, EPS, Reading(form, "network", "mean"))
    learnt(model, adversary)
    assert {len(r) for r in adversary.perturbations.values()} == ({1} if fits else {4})
    x, _ = batch(1, 3)
    with adversary:
        inside = model(x)
    assert torch.allclose(inside, model(x)) == (not fits)
    assert adversary.skipped == (not fits)


def test_under_autocast_r_of_a_wider_scope_is_formed_in_full_precision() -> None:
    model = network(Vgg, 9).float()
    for form in FORMS:
        adversary = LayerwiseAdversary(model, ["conv2", "fc1"], EPS, Reading(form, "network"))
        x, y = batch(0)
        with torch.autocast("cpu", torch.bfloat16), watching(model) as seen:
            with adversary:
                loss = cross_entropy(model(x.float()), y)
            loss.backward()
            adversary.update()
        assert all(r.dtype == torch.float32 for r in adversary.perturbations.values())
        if form == "closed":
            start = {"conv1": input_of(model, "conv1", seen).float()}
            for name in ("bn1", "bn2"):
                seen.inputs[name] = seen.inputs[name].float()
            radii = ByHand(model, seen, start, signed=False).carried(torch.zeros(1, *SHAPE))
            for name, r in adversary.perturbations.items():
                expected = EPS * radii[name] * torch.sign(r)
                assert torch.allclose(r, expected, rtol=1e-4, atol=0)  # bfloat16 would be off by 4e-3


@pytest.mark.parametrize("form", FORMS)
@every_network
def test_a_network_in_half_precision_has_its_r_in_half_precision(name: str, form: str) -> None:
    kind, layers, _ = NETWORKS[name]
    model = network(kind, 9).bfloat16()
    adversary = LayerwiseAdversary(model, layers, EPS, Reading(form, "network"))
    for t in range(2):
        x, y = batch(t)
        with adversary:
            logits = model(x.bfloat16())
        cross_entropy(logits.float(), y).backward()
        adversary.update()
    assert all(r.dtype == torch.bfloat16 and bool((r != 0).any()) for r in adversary.perturbations.values())


def test_a_pass_that_does_not_come_from_the_input_leaves_nothing_to_start_from() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 2), nn.Flatten(), nn.Linear(8, 3))
    adversary = LayerwiseAdversary(model, ["2"], EPS, Reading(scope="network"))
    with adversary:
        loss = model[2](torch.ones(2, 8)).sum()
    loss.backward()
    with pytest.raises(PerturbationError, match=r"led through 'the whole model': run the model inside the block"):
        adversary.update()


def test_the_gradient_at_the_activation_is_refused_in_a_network_that_is_no_chain() -> None:
    for name, (kind, layers, _) in NETWORKS.items():
        with pytest.raises(SiteError, match=r"which radii cannot pass|alone") as error:
            LayerwiseAdversary(kind(), layers, EPS, Reading(scope="network", at="activation"))
        assert "gradient at 'output'" in str(error.value), name


def test_through_fully_connected_layers_r_has_the_bits_of_eq_7() -> None:
    """Records of trained networks go by these bits: the first layer's weights are summed, not multiplied by ones."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Flatten(), nn.Linear(72, 33), nn.ReLU(), nn.Dropout(0.0), nn.Linear(33, 31), nn.Linear(31, 3)
        )
    weights = [module.weight.detach() for module in model if isinstance(module, nn.Linear)]
    for scope, path in (("network", weights), ("layer_set", weights[1:])):
        adversary = LayerwiseAdversary(model, ["4", "5"], EPS, Reading(scope=scope))
        x, y = batch(0)
        with adversary:
            loss = cross_entropy(model(x.float()), y)
        loss.backward()
        adversary.update()
        for name, count in (("4", -1), ("5", None)):
            r = adversary.perturbations[name]
            assert torch.equal(r, equations.closed_stack(torch.sign(r), path[:count], EPS))


# What is formed again -------------------------------------------------------------------------------------------------


@pytest.fixture
def formed(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """An entry for each |W|-convolution."""
    calls: list[None] = []
    true = equations.convolution_closed_radius

    def counted(*given: object) -> Tensor:
        calls.append(None)
        return true(*given)

    monkeypatch.setattr(equations, "convolution_closed_radius", counted)
    return calls


def convolutions(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Conv2d(2, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2),
            nn.Flatten(), nn.Linear(8, 3),
        ).to(dtype)  # fmt: skip


@pytest.mark.parametrize(("scope", "count"), [("local", 1), ("layer_set", 1), ("network", 2)])
def test_radii_that_are_asked_for_again_are_formed_again_only_once_a_weight_has_changed_however_it_did(
    scope: str, count: int, formed: list[None]
) -> None:
    """A fused optimiser and `.data` do not raise a weight's version counter."""
    model = convolutions()
    adversary = LayerwiseAdversary(model, ["2", "6"], EPS, Reading(scope=scope))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, fused=True)

    def count_of() -> int:
        formed.clear()
        learnt(model, adversary)
        fresh = LayerwiseAdversary(model, ["2", "6"], EPS, Reading(scope=scope))
        done = len(formed)
        fresh.load_state_dict(adversary.state_dict())
        learnt(model, fresh)
        assert {name: r.abs().max() for name, r in fresh.perturbations.items()} == {
            name: r.abs().max() for name, r in adversary.perturbations.items()
        }
        return done

    def by_data() -> None:
        model[2].weight.data[0, 0, 0, 0] += 0.5

    def in_place() -> None:
        with torch.no_grad():
            model[2].weight[1, 1, 1, 1] += 0.5

    assert [count_of() for _ in range(3)] == [count, count, 0]  # copies to compare with are made the second time
    for change in (by_data, in_place, optimizer.step):
        change()
        assert count_of() == count
        assert count_of() == 0


@pytest.mark.parametrize(
    ("updates", "counts"), [(1, [[1]] * 4), (2, [[1, 1], [1, 0], [1, 0], [1, 0]]), (3, [[1, 1, 0], [1, 0, 0]])]
)
@pytest.mark.parametrize("fused", [True, False])
def test_a_loop_with_one_update_a_step_compares_nothing_and_one_with_several_forms_radii_once_a_step(
    fused: bool, updates: int, counts: list[list[int]], formed: list[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[None] = []
    equal = torch.equal
    monkeypatch.setattr(torch, "equal", lambda one, other: compared.append(None) or equal(one, other))
    model = convolutions()
    adversary = LayerwiseAdversary(model, ["2"], EPS)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, fused=fused)
    found = []
    for step in range(len(counts)):
        found.append([])
        for part in range(updates):
            formed.clear()
            learnt(model, adversary, step * updates + part)
            found[-1].append(len(formed))
            w = model[2].weight.detach()
            radius = nn.functional.conv2d(torch.ones(1, 2, 6, 6, dtype=w.dtype), w.abs())
            R = adversary.perturbations["2"].abs()  # 0 where a unit is off
            assert torch.allclose(R, EPS * radius * (R > 0), rtol=1e-12, atol=0) and bool(R.any())
        optimizer.step()
    assert found == counts
    assert bool(compared) == (updates > 1)


def test_radii_are_formed_again_in_another_precision() -> None:
    model = convolutions()
    adversary = LayerwiseAdversary(model, ["2"], EPS, Reading(scope="network"))
    for dtype in (torch.float64, torch.float32):
        model.to(dtype)
        with adversary:
            loss = model(torch.ones(2, 2, 6, 6, dtype=dtype)).sum()
        loss.backward()
        adversary.update()
        assert adversary.perturbations["2"].dtype == dtype


def test_radii_are_formed_again_for_images_of_another_size(formed: list[None]) -> None:
    model = convolutions()
    adversary = LayerwiseAdversary(model, ["2"], EPS, Reading(scope="network"))
    counts = []
    for size in ((6, 6), (6, 6), (6, 6), (5, 6)):
        formed.clear()
        with adversary:
            loss = model(torch.rand(2, 2, *size, dtype=torch.float64)).sum()
        loss.backward()
        adversary.update()
        counts.append(len(formed))
    assert counts == [2, 2, 0, 2]


def test_radii_are_formed_again_for_other_batch_statistics(formed: list[None]) -> None:
    model = network(Vgg)
    adversary = LayerwiseAdversary(model, ["conv2"], EPS, Reading(scope="network"))
    counts = []
    for seed in (0, 0, 0, 1):
        adversary.reset()  # the same batch unperturbed: the same statistics
        formed.clear()
        learnt(model, adversary, seed)
        counts.append(len(formed))
    assert counts == [2, 2, 0, 2]


@pytest.mark.parametrize("scope", ["layer_set", "network"])
def test_attached_radii_of_all_layers_are_formed_once_a_block(scope: str, formed: list[None]) -> None:
    model = convolutions()
    adversary = LayerwiseAdversary(model, ["0", "2"], EPS, Reading(scope=scope, gradient="attached"))
    learnt(model, adversary)
    formed.clear()
    learnt(model, adversary)
    assert len(formed) == 2
