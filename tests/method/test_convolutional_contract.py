"""The contract of `LayerwiseAdversary` where layers are convolutions and inputs are images: scopes, sizes, state."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import cross_entropy

from lat import LayerwiseAdversary, Normal, PerturbationError, Reading, SiteError, equations
from lat.cells import FORMS, GRADIENTS


def images() -> nn.Sequential:
    """Two convolutions and two fully connected layers in a chain, for images (1, 4, 4)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 2, 3), nn.ReLU(), nn.Flatten(),
            nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 3),
        ).double()  # fmt: skip


def pooling(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """Takes images of any size; those of 5 and of 6 pixels a side give its first layer outputs of one size."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Conv2d(1, 2, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(2, 2, 3, padding=1), nn.ReLU(),
            nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(8, 3),
        ).to(dtype)  # fmt: skip


def one_step(model: nn.Module, adversary: LayerwiseAdversary, x: Tensor) -> Tensor:
    """One training step without an optimiser; the logits inside the block."""
    with adversary:
        logits = model(x)
    model.zero_grad()
    cross_entropy(logits, torch.arange(len(x)) % 3).backward()
    adversary.update()
    return logits.detach()


def pictures(seed: int, n: int = 4, size: tuple[int, int] = (4, 4), dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand((n, 1, *size), generator=torch.Generator().manual_seed(seed), dtype=dtype)


# Scopes and activations ----------------------------------------------------------------------------------------------


def test_a_layer_set_behind_the_convolutions_is_that_of_the_fully_connected_network() -> None:
    model = images()
    tail = nn.Sequential(*copy.deepcopy(model[5:]))
    whole = LayerwiseAdversary(model, ["5", "7"], 0.1, Reading(scope="layer_set"))
    alone = LayerwiseAdversary(tail, ["0", "2"], 0.1, Reading(scope="layer_set"))
    x = pictures(0)
    for _ in range(2):
        assert torch.equal(one_step(model, whole, x), one_step(tail, alone, model[:5](x).detach()))


def test_the_gradient_at_the_activation_asks_for_a_relu_module_and_a_chain() -> None:
    at = Reading(at="activation")
    LayerwiseAdversary(images(), ["0", "2", "5", "7"], 0.1, at)
    with pytest.raises(SiteError, match="no ReLU module follows '0'"):
        LayerwiseAdversary(nn.Sequential(nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)), ["0"], 0.1, at)
    pooled = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4, 3))
    with pytest.raises(SiteError, match=r"'2' is a MaxPool2d, .* use scope 'local' with the gradient at 'output'"):
        LayerwiseAdversary(pooled, ["0"], 0.1, at)
    LayerwiseAdversary(pooled, ["0"], 0.1)


def test_an_activation_behind_a_flatten_is_an_error_that_names_both() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.ReLU(), nn.Linear(8, 3)).double()
    adversary = LayerwiseAdversary(model, ["0"], 0.1, Reading(at="activation"))
    with pytest.raises(PerturbationError, match=r"gradient at '2' has shape \(4, 8\), .* '0' .* flatten after the act"):
        one_step(model, adversary, pictures(0))


@pytest.mark.parametrize("convolution", [nn.Conv1d, nn.Conv2d, nn.Conv3d])
def test_one_image_without_a_batch_is_an_error(convolution: type[nn.Module]) -> None:
    axes = int(convolution.__name__[4])
    model = nn.Sequential(convolution(1, 3, 4), nn.Flatten(0))
    adversary = LayerwiseAdversary(model, ["0"], 0.1)
    with adversary:
        logits = model(torch.rand(1, *[4] * axes))
    logits.sum().backward()
    shape = re.escape(str((3, *[1] * axes)))
    with pytest.raises(PerturbationError, match=rf"gradient at '0' has shape {shape}, .* give the model a batch"):
        adversary.update()


# The contract, where images bring a new corner ------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(6, 6), (5, 6), (8, 5), (3, 3)])
@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("form", FORMS)
def test_images_of_another_size_go_unperturbed_at_every_layer_and_are_counted_once(
    size: tuple[int, int], gradient: str, form: str
) -> None:
    """Also where the outputs fit R by chance, and where later layers see the same size again."""
    model = pooling()
    adversary = LayerwiseAdversary(model, ["0", "2", "6"], 0.1, Reading(form, gradient=gradient))
    one_step(model, adversary, pictures(0, size=(5, 5)))
    x = pictures(1, size=size)
    assert torch.equal(one_step(model, adversary, x), model(x))
    assert adversary.skipped == 1
    assert not torch.equal(one_step(model, adversary, x), model(x))
    assert adversary.skipped == 1


def test_one_r_for_all_fits_any_batch_of_images_of_its_size_and_no_other_size() -> None:
    model = pooling()
    adversary = LayerwiseAdversary(model, ["0"], 0.1, Reading(pairing="mean"))
    one_step(model, adversary, pictures(0, 4, (5, 5)))
    assert adversary.perturbations["0"].shape == (1, 2, 3, 3)
    x = pictures(1, 3, (5, 5))
    assert not torch.equal(one_step(model, adversary, x), model(x))
    x = pictures(2, 3, (6, 5))
    assert torch.equal(one_step(model, adversary, x), model(x))
    assert adversary.skipped == 1


@pytest.mark.parametrize(
    ("reading", "in_update", "in_block"),
    [
        (Reading("closed", gradient="detached"), 1, 0),
        (Reading("closed", gradient="attached"), 0, 1),
        (Reading("propagated", gradient="detached"), 0, 0),
        (Reading("propagated", gradient="attached"), 0, 0),
    ],
    ids=str,
)
def test_the_radius_is_computed_once_a_step(
    reading: Reading, in_update: int, in_block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[None] = []
    true = equations.convolution_closed_radius

    def counted(*given: object) -> Tensor:
        calls.append(None)
        return true(*given)

    monkeypatch.setattr(equations, "convolution_closed_radius", counted)
    model = images()
    adversary = LayerwiseAdversary(model, ["0"], 0.1, reading)
    for t in range(3):
        calls.clear()
        with adversary:
            logits = model(pictures(t))
        assert len(calls) == (in_block if t else 0)
        logits.square().sum().backward()
        with torch.no_grad():
            model[0].weight *= 2
        calls.clear()
        adversary.update()
        assert len(calls) == in_update


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_under_autocast_a_convolutions_r_is_computed_in_float32_and_added_in_the_dtype_of_the_output(
    form: str, gradient: str
) -> None:
    model = images().float()
    double = copy.deepcopy(model).double()
    adversary = LayerwiseAdversary(model, ["2"], Normal(0, 0.5), Reading(form, gradient=gradient))
    twin = LayerwiseAdversary(model, ["2"], Normal(0, 0.5), Reading(form, gradient="attached"))
    x = pictures(0, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        plain = model(x)
        with adversary, twin:
            loss = cross_entropy(model(x), torch.arange(4) % 3)
        loss.backward()
        adversary.update()  # inside autocast: R is formed in float32 all the same
        twin.update()
        R = adversary.perturbations["2"]
        with adversary:
            out = model(x)
        expected = model[3:](model[:3](x) + R.bfloat16())
    assert R.dtype == torch.float32 and out.dtype == torch.bfloat16
    assert torch.equal(out, expected)
    assert not torch.equal(out, plain)
    term = twin.state_dict()["terms"]["2"]  # what R is made of
    w = double[2].weight.detach()
    if form == "closed":
        ones = torch.ones(1, 2, 4, 4, dtype=torch.float64)
        exact = term["eps"] * functional.conv2d(ones, w.abs()) * term["direction"]
    else:
        exact = functional.conv2d((term["eps"] * term["direction"]).double(), w)
    assert torch.allclose(R.double(), exact, rtol=1e-5, atol=1e-6)  # bfloat16 would be off by 4e-3


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_a_saved_state_resumes_bit_for_bit_with_images_of_another_size_next(form: str, gradient: str) -> None:
    def training(model: nn.Module, adversary: LayerwiseAdversary, optimizer: torch.optim.SGD, span: range) -> None:
        for t in span:
            one_step(model, adversary, pictures(t, size=(6, 6) if t == 3 else (5, 5)))
            optimizer.step()

    def fresh(seed: int) -> tuple[nn.Module, LayerwiseAdversary, torch.optim.SGD]:
        model = pooling()
        reading = Reading(form, gradient=gradient)
        adversary = LayerwiseAdversary(model, ["0", "6"], Normal(0, 0.1), reading, seed=seed)
        return model, adversary, torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)

    whole, begun, resumed = fresh(3), fresh(3), fresh(0)  # another seed: the state brings its own
    training(*whole, range(7))
    training(*begun, range(3))
    for part, source in zip(resumed, begun, strict=True):
        part.load_state_dict(copy.deepcopy(source.state_dict()))
    training(*resumed, range(3, 7))
    assert whole[1].skipped == resumed[1].skipped == 2
    for a, b in zip(whole[0].parameters(), resumed[0].parameters(), strict=True):
        assert torch.equal(a, b)
    for name in ("0", "6"):
        assert torch.equal(whole[1].perturbations[name], resumed[1].perturbations[name])


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_a_deep_copy_goes_on_as_the_original(gradient: str) -> None:
    model = pooling()
    adversary = LayerwiseAdversary(model, ["0", "2"], Normal(0, 0.1), Reading(gradient=gradient))
    one_step(model, adversary, pictures(0))
    twin = copy.deepcopy(adversary)
    for t, size in enumerate([(4, 4), (5, 4), (5, 4)]):
        x = pictures(t, size=size)
        assert torch.equal(one_step(model, adversary, x), one_step(twin.model, twin, x))
    assert adversary.skipped == twin.skipped == 1


def test_a_convolution_in_eval_mode_goes_unperturbed_and_keeps_r() -> None:
    model = pooling()
    adversary = LayerwiseAdversary(model, ["0", "2"], 0.1)
    one_step(model, adversary, pictures(0))
    before = adversary.perturbations
    model.eval()
    for size in ((4, 4), (7, 7)):
        x = pictures(1, size=size)
        with adversary:
            inside = model(x)
        assert torch.equal(inside, model(x))
    model.train()
    assert adversary.skipped == 0
    assert all(torch.equal(before[name], r) for name, r in adversary.perturbations.items())
