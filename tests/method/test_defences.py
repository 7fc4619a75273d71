"""Conventional training methods, and their combination with the layer-wise one, against loops written out by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from plain_network import CLASSES, SHAPE, batch, cell, network, run
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from unfinished_training import convolving

from lat import defences
from lat.cells import Cell, CellError, Law, Reading, own_seed
from lat.defences.ascent import STEPS, gradient, summed_cross_entropy
from lat.defences.base import Combined, Defence
from lat.defences.inputs import Fgsm, InputDefence, Noise
from lat.running_statistics import still

FIXED = Law("fixed", 0.3)
NORMAL = Law("normal", 0.3)


def pairs(seed: int, n: int = 8) -> tuple[Tensor, Tensor]:
    return batch(seed, n)


def drawn(of: Cell, seed: int, purpose: str) -> torch.Generator:
    return torch.Generator().manual_seed(own_seed(of, seed, purpose))


def train_step(defence: Defence, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """One step without an optimiser; what was trained on."""
    images, labels = defence.examples(x, y)
    defence.model.zero_grad()
    defence.loss(images, labels).backward()
    defence.after_backward()
    return images.detach(), labels


def test_standard_training_leaves_the_examples_alone() -> None:
    model = network()
    defence = defences.build(model, cell("standard"), 0)
    x, y = pairs(0)
    images, labels = defence.examples(x, y)
    assert images is x and labels is y
    assert torch.equal(defence.loss(x, y), cross_entropy(model(x), y))
    assert defence.skipped == 0


def test_fgsm_with_fixed_epsilon_is_x_plus_eps_sign_of_the_gradient_clipped_to_the_box() -> None:
    model = network()
    defence = defences.build(model, cell("fgsm", input_law=FIXED), 0)
    x, y = pairs(0)
    images, labels = defence.examples(x, y)
    expected = torch.where(run(model, x, y).inputs > 0, x + 0.3, x - 0.3).clip(0, 1)
    assert torch.allclose(images, expected, rtol=0, atol=1e-15)
    assert torch.equal(labels, y)
    assert bool((images == 0).any()) and bool((images == 1).any())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("draw", ["batch", "sample", "element"])
def test_fgsm_with_random_epsilon_draws_as_the_law_says_and_a_negative_epsilon_turns_round(draw: str) -> None:
    model = network()
    asked = cell("fgsm", input_law=Law("normal", 0.3, draw))
    defence = defences.build(model, asked, 4)
    generator = drawn(asked, 4, "input epsilon")
    for t in range(2):
        x, y = pairs(t)
        size = {"batch": (1, 1, 1, 1), "sample": (8, 1, 1, 1), "element": (8, *SHAPE)}[draw]
        eps = 0.3 * torch.randn(size, generator=generator, dtype=torch.float64)
        expected = (x + eps * run(model, x, y).inputs.sign()).clip(0, 1)
        assert torch.allclose(defence.examples(x, y)[0], expected, rtol=0, atol=1e-15)
        assert bool((eps < 0).any()) or draw == "batch"


@pytest.mark.parametrize("method", ["fgsm", "fgsm_previous", "noise", "pgd"])
def test_the_mixture_doubles_the_batch_with_the_clean_half_first(method: str) -> None:
    defence = defences.build(network(), cell(method, input_law=FIXED, mix=True), 0)
    for t in range(2):
        x, y = pairs(t)
        images, labels = train_step(defence, x, y)
        assert images.shape == (16, *SHAPE)
        assert torch.equal(images[:8], x)
        assert torch.equal(labels, torch.cat([y, y]))
        assert torch.equal(images[8:], x) == (method == "fgsm_previous" and t == 0)
    unmixed = defences.build(network(), cell(method, input_law=FIXED), 0)
    assert unmixed.examples(*pairs(0))[0].shape == (8, *SHAPE)


def test_fgsm_of_the_previous_batch_uses_its_signs_slot_by_slot_and_starts_each_epoch_unperturbed() -> None:
    model = network()
    asked = cell("fgsm_previous", input_law=NORMAL)
    defence = defences.build(model, asked, 1)
    generator = drawn(asked, 1, "input epsilon")
    signs: Tensor | None = None
    for epoch in range(2):
        defence.start_epoch(epoch)
        for t in range(3):
            x, y = pairs(10 * epoch + t)
            expected = x
            if t:
                eps = 0.3 * torch.randn((8, 1, 1, 1), generator=generator, dtype=torch.float64)
                expected = (x + eps * signs).clip(0, 1)
            images, _ = train_step(defence, x, y)
            assert torch.allclose(images, expected, rtol=0, atol=1e-15)
            signs = run(model, images, y).inputs.sign()
    assert defence.skipped == 0


def test_fgsm_of_the_previous_batch_takes_the_signs_at_the_perturbed_half_of_a_mixture() -> None:
    model = network()
    defence = defences.build(model, cell("fgsm_previous", input_law=FIXED, mix=True), 0)
    defence.start_epoch(0)
    signs: Tensor | None = None
    for t in range(3):
        x, y = pairs(t)
        images, labels = train_step(defence, x, y)
        expected = x if signs is None else (x + 0.3 * signs).clip(0, 1)
        assert torch.allclose(images[8:], expected, rtol=0, atol=1e-15)
        signs = run(model, images, labels).inputs[8:].sign()


def test_fgsm_of_the_previous_batch_counts_a_batch_that_does_not_fit() -> None:
    defence = defences.build(network(), cell("fgsm_previous", input_law=FIXED), 0)
    train_step(defence, *pairs(0))
    x, y = pairs(1, 5)
    assert torch.equal(train_step(defence, x, y)[0], x)
    assert defence.skipped == 1


class Untouchable(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError("the network was asked")


def test_noise_never_asks_the_network_and_has_balanced_signs_and_the_same_epsilon() -> None:
    x, y = torch.full((4000, 1, 4, 4), 0.5), torch.zeros(4000, dtype=torch.long)
    moved = defences.build(Untouchable(), cell("noise", input_law=FIXED), 0).examples(x, y)[0] - x
    assert torch.allclose(moved.abs(), torch.full_like(x, 0.3), atol=1e-6)
    assert abs(moved.sign().mean().item()) < 4 / x.numel() ** 0.5
    assert moved.sign().mean(0).abs().max().item() < 5 / 4000**0.5

    moved = defences.build(Untouchable(), cell("noise", input_law=Law("normal", 0.1)), 0).examples(x, y)[0] - x
    sizes = moved.abs().flatten(1)
    assert torch.allclose(sizes, sizes[:, :1].expand_as(sizes), atol=1e-6)  # one epsilon a sample
    assert sizes[:, 0].square().mean().sqrt().item() == pytest.approx(0.1, rel=4 / (2 * 4000) ** 0.5)
    assert len(sizes[:, 0].unique()) > 3900


def test_noise_and_fgsm_stay_in_the_box() -> None:
    for method in ("noise", "fgsm"):
        x, y = pairs(0)
        images, _ = defences.build(network(), cell(method, input_law=Law("fixed", 2.0)), 0).examples(x, y)
        assert set(images.unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("law", [FIXED, NORMAL], ids=str)
def test_pgd_is_seven_projected_quarter_steps_from_a_random_start(law: Law) -> None:
    model = network()
    asked = cell("pgd", input_law=law)
    defence = defences.build(model, asked, 2)
    generator = drawn(asked, 2, "input epsilon")
    calls: list[int] = []
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    for t in range(2):
        x, y = pairs(t)
        eps = torch.full((8, 1, 1, 1), 0.3, dtype=torch.float64)
        if law is NORMAL:
            eps = (0.3 * torch.randn(eps.shape, generator=generator, dtype=torch.float64)).abs()
        z = x + eps * (2 * torch.rand(x.shape, generator=generator, dtype=torch.float64) - 1)
        z = z.clip(0, 1)
        for _ in range(7):
            z = z + eps / 4 * run(model, z, y).inputs.sign()
            z = torch.minimum(torch.maximum(z, x - eps), x + eps).clip(0, 1)
        images, _ = defence.examples(x, y)
        assert torch.allclose(images, z, rtol=0, atol=1e-12)
        assert bool(((images - x).abs() <= eps + 1e-12).all())
        assert bool(((images >= 0) & (images <= 1)).all())
    assert len(calls) == 2 * STEPS == 14
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("method", ["fgsm", "fgsm_previous", "noise", "pgd", "fgsm+layerwise"])
def test_a_method_that_perturbs_inputs_needs_a_law(method: str) -> None:
    values = cell(method).to_json() | {"input_law": None}
    with pytest.raises(CellError, match=f"input_law: method '{method}' perturbs the inputs".replace("+", r"\+")):
        defences.build(network(), Cell.from_json(values), 0)


class Doubled(Defence):
    """A method of one's own with a loss of its own."""

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return 2 * super().loss(x, y)


def test_a_class_that_overrides_no_hook_is_refused_where_it_is_made() -> None:
    told = "Misspelt overrides none of start_epoch, examples, loss, after_backward: it would be standard training"
    with pytest.raises(TypeError, match=f"^{told}$"):
        type("Misspelt", (Defence,), {"example": lambda self, x, y: (x + 1, y)})
    for hook in ("start_epoch", "examples", "loss", "after_backward"):
        assert issubclass(type("Own", (Defence,), {hook: lambda self: None}), Defence)
    misspelt = type("Misspelt", (InputDefence,), {"perturb": lambda self, x, y: x})
    with pytest.raises(TypeError, match="perturbed"):
        misspelt(network(), cell("noise", input_law=FIXED), 0)


@pytest.mark.parametrize(
    ("method", "dropped"), [("layerwise+fgsm", "layerwise"), ("doubled+layerwise", "doubled"), ("fgsm+doubled", "")]
)
def test_a_method_whose_loss_would_be_dropped_is_an_error_that_names_it(
    method: str, dropped: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(defences, "DEFENCES", {**defences.DEFENCES, "doubled": Doubled})
    asked = cell("fgsm+layerwise", input_law=FIXED)
    object.__setattr__(asked, "method", method)  # a cell joins one method and 'layerwise', and no others
    if not dropped:
        defence = defences.build(network(), asked, 0)
        x, y = pairs(0)
        assert torch.equal(defence.loss(x, y), 2 * cross_entropy(defence.model(x), y))
        return
    with pytest.raises(CellError) as error:
        defences.build(network(), asked, 0)
    assert str(error.value) == (
        f"method: {method!r} would drop the loss of {dropped!r} for that of {method.split('+')[1]!r}; write "
        f"{dropped!r} last, or let it stand alone"
    )


@pytest.mark.parametrize("pairing", ["slot", "same"])
def test_in_combination_the_plain_network_is_attacked_and_then_the_layers_are_perturbed(
    pairing: str,
) -> None:
    model = network()
    layers = ("fc2", "fc4")
    asked = cell("fgsm+layerwise", layers, Law("fixed", 3), Reading(pairing=pairing), FIXED)
    defence = defences.build(model, asked, 0)
    assert isinstance(defence, Combined)
    defence.start_epoch(0)

    def layer_r(x: Tensor, y: Tensor, added: dict[str, Tensor] | None) -> dict[str, Tensor]:
        seen = run(model, x, y, added)
        radii = {name: model.get_submodule(name).weight.detach().abs().sum(1) for name in layers}
        return {name: 3 * radii[name] * torch.from_numpy(seen.at_output[name]).sign() for name in layers}

    R: dict[str, Tensor] = {}
    differs = pairing == "same"
    for t in range(4):
        x, y = pairs(t)
        attacked = (x + 0.3 * run(model, x, y).inputs.sign()).clip(0, 1)  # the gradient of the plain network
        if t and pairing == "slot":
            other = (x + 0.3 * run(model, x, y, R).inputs.sign()).clip(0, 1)
            differs |= not torch.allclose(attacked, other)
        if pairing == "same":
            R = layer_r(attacked, y, None)
        images, labels = defence.examples(x, y)
        assert torch.allclose(images, attacked, rtol=0, atol=1e-12)
        loss = defence.loss(images, labels)
        assert torch.allclose(loss, run(model, images, y, R).loss, rtol=1e-12, atol=0)
        model.zero_grad()
        loss.backward()
        defence.after_backward()
        if pairing == "slot":
            R = layer_r(images, y, R)
    assert differs  # the gradient of the perturbed network would have been another one
    assert defence.skipped == 0


def test_in_combination_both_parts_start_each_epoch_and_both_counts_are_summed() -> None:
    model = network()
    defence = defences.build(model, cell("fgsm_previous+layerwise", input_law=FIXED), 0)
    for epoch in range(2):
        defence.start_epoch(epoch)
        x, y = pairs(epoch)
        assert torch.equal(defence.examples(x, y)[0], x)
        train_step(defence, x, y)
    train_step(defence, *pairs(9, 5))
    assert defence.skipped == 2


def test_the_layers_reset_each_epoch_or_once_as_the_reading_says() -> None:
    for reset in ("epoch", "once"):
        model = network()
        defence = defences.build(model, cell("layerwise", law=FIXED, reading=Reading(reset=reset)), 0)
        for epoch in range(2):
            defence.start_epoch(epoch)
            x, y = pairs(epoch)
            unperturbed = torch.allclose(defence.loss(x, y), cross_entropy(model(x), y))
            assert unperturbed == (epoch == 0 or reset == "epoch")
            train_step(defence, x, y)


def test_streams_of_epsilon_differ_between_cells_seeds_and_purposes() -> None:
    x, y = pairs(0)
    found = [
        build(network(), of, seed).examples(x, y)[0]
        for build, of, seed in [
            (Fgsm, cell("fgsm"), 0),
            (Fgsm, cell("fgsm"), 1),
            (Fgsm, cell("fgsm", epochs=3), 0),
            (Noise, cell("noise"), 0),
        ]
    ]
    assert all(not torch.equal(a, b) for i, a in enumerate(found) for b in found[:i])
    assert torch.equal(Fgsm(network(), cell("fgsm"), 0).examples(x, y)[0], found[0])
    assert CLASSES == 3


# Running statistics --------------------------------------------------------------------------------------------------

SAME, PUSHED = Reading(pairing="same"), Reading(scope="network", source="cw")
NORMED = {
    "standard": cell("standard"),
    "fgsm": cell("fgsm"),
    "fgsm_mix": cell("fgsm", mix=True),
    "fgsm_previous": cell("fgsm_previous"),
    "noise": cell("noise"),
    "pgd": cell("pgd"),
    "slot": cell("layerwise", ("0", "4")),
    "same": cell("layerwise", ("0", "4"), reading=SAME),
    "cw_slot": cell("layerwise", ("0", "4"), reading=PUSHED),
    "cw_same": cell("layerwise", ("0", "4"), reading=Reading(scope="network", source="cw", pairing="same")),
    "fgsm+layerwise": cell("fgsm+layerwise", ("0", "4"), reading=SAME),
}


@pytest.mark.parametrize("name", NORMED)
def test_running_statistics_are_those_of_the_passes_that_are_trained_on(name: str) -> None:
    model = convolving(SHAPE, CLASSES, 2).double()
    taken: list[Tensor] = []
    norm = model[1]
    assert isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.num_batches_tracked is not None
    defence = defences.build(model, NORMED[name], 0)
    defence.start_epoch(0)
    for t in range(3):
        x, y = pairs(t)
        images, labels = defence.examples(x, y)
        loss = defence.loss(images, labels)
        taken.append(norm.running_mean.clone())
        model.zero_grad()
        loss.backward()
        defence.after_backward()
        assert torch.equal(norm.running_mean, taken[-1])
    assert int(norm.num_batches_tracked) == 3
    assert norm.track_running_stats


def test_an_attack_in_training_takes_the_statistics_of_its_batch() -> None:
    model = convolving(SHAPE, CLASSES, 2).double()
    x, y = pairs(0)
    moving = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(cross_entropy(copy.deepcopy(model)(moving), y, reduction="sum"), moving)
    assert torch.equal(gradient(model, x, y, summed_cross_entropy), expected)
    model.eval()
    assert not torch.allclose(gradient(model, x, y, summed_cross_entropy), expected)


def test_statistics_move_again_after_the_block_also_when_it_fails_and_what_keeps_none_keeps_none() -> None:
    model = nn.Sequential(nn.BatchNorm2d(1), nn.BatchNorm2d(1, track_running_stats=False))
    with pytest.raises(ZeroDivisionError), still(model):
        raise ZeroDivisionError
    assert [module.track_running_stats for module in model] == [True, False]
