"""R from a perturbation of the network's inputs, and the training that takes it from an ascent of the margin loss."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from deep_networks import SHAPE, ByHand, Residual, Vgg, added, batch, network, watching
from plain_network import batch as images
from plain_network import cell
from plain_network import network as fully_connected
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lat import Law, LayerwiseAdversary, PerturbationError, Reading, defences
from lat.cells import FORMS, GRADIENTS, PAIRINGS, own_seed
from lat.defences.ascent import summed_margin

KINDS = {"vgg": (Vgg, ("conv2", "fc1")), "residual": (Residual, ("conv0", "conv2", "fc"))}
READINGS = [
    Reading(form, "network", pairing, gradient, source="cw")
    for form in FORMS
    for pairing in PAIRINGS
    for gradient in GRADIENTS
]
every_network = pytest.mark.parametrize("name", KINDS)


def name_of(reading: Reading) -> str:
    return "-".join((reading.form, reading.pairing, reading.gradient))


def perturbation(seed: int, n: int = 4) -> Tensor:
    return 0.1 * torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a.detach(), b.detach().expand_as(a), rtol=1e-9, atol=1e-12)


@every_network
@pytest.mark.parametrize("reading", READINGS, ids=name_of)
def test_r_is_delta_times_the_weights_or_their_absolute_values(name: str, reading: Reading) -> None:
    kind, layers = KINDS[name]
    model = network(kind, 1)
    adversary = LayerwiseAdversary(model, layers, 0.5, reading)
    for t in range(2):
        x, y = batch(t)
        delta = perturbation(t)
        pushed = delta.mean(0, keepdim=True) if reading.pairing == "mean" else delta
        if reading.pairing == "same":
            with watching(model) as seen:
                adversary.push(delta, x)
        else:
            with watching(model) as seen, adversary:
                model(x)
            adversary.push(delta)
        with torch.no_grad():
            if reading.gradient == "attached":  # R is formed from the weights of the next block
                for p in model.parameters():
                    p.mul_(1.1)
        R = ByHand(model, seen, {}, signed=reading.form == "propagated").carried(pushed)
        assert all(close(found, R[layer]) for layer, found in adversary.perturbations.items())

        plain = copy.deepcopy(model)
        x, y = batch(t + 10)
        expected, _ = added(plain, {layer: R[layer].detach() for layer in layers}, x, y)
        with adversary:
            logits = model(x)
        assert close(logits, expected)
        cross_entropy(logits, y).backward()
        served = adversary.perturbations
        assert (served == {}) == (reading.pairing == "same")  # else R stays until it is replaced
    assert adversary.skipped == 0


def test_r_of_a_signed_delta_is_no_bound_and_that_of_its_size_is_one() -> None:
    """Weights 1 and -1: the change under delta = (1, 1) is 0 or 2, and (prod |w|) op (1, -1) is 0 where it is 2."""
    model = nn.Sequential(nn.Linear(2, 1, bias=False)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, -1.0]]))
    adversary = LayerwiseAdversary(model, ["0"], 1.0, Reading(scope="network", source="cw"))
    delta = torch.tensor([[1.0, -1.0], [1.0, 1.0]], dtype=torch.float64)
    adversary.push(delta)
    assert adversary.perturbations["0"].flatten().tolist() == [0.0, 2.0]
    adversary.push(delta.abs())
    assert adversary.perturbations["0"].flatten().tolist() == [2.0, 2.0]
    assert model(delta).flatten().tolist() == [2.0, 0.0]


@every_network
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_a_saved_state_and_a_copy_go_on_bit_for_bit(name: str, gradient: str, tmp_path: Path) -> None:
    kind, layers = KINDS[name]
    reading = Reading("propagated", "network", gradient=gradient, source="cw")
    model, other = network(kind, 1), network(kind, 2)
    adversary, resumed = (LayerwiseAdversary(part, layers, 0.1, reading) for part in (model, other))
    with adversary:
        model(batch(0)[0])
    adversary.push(perturbation(0))
    torch.save([model.state_dict(), adversary.state_dict()], tmp_path / "state.pt")
    for part, state in zip((other, resumed), torch.load(tmp_path / "state.pt", weights_only=True), strict=True):
        part.load_state_dict(state)
    twin = copy.deepcopy(adversary)
    for t in (1, 2):
        found = []
        for each in (adversary, resumed, twin):
            with each:
                found.append(each.model(batch(t)[0]))
            each.push(perturbation(t))
        assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_a_batch_that_does_not_fit_delta_goes_unperturbed() -> None:
    model = network(Residual)
    adversary = LayerwiseAdversary(model, ["conv1"], 0.1, Reading(scope="network", source="cw"))
    adversary.push(perturbation(0), batch(0)[0])
    x, _ = batch(1, 3)
    with adversary:
        inside = model(x)
    assert torch.equal(inside, model(x))
    assert adversary.skipped == 1


def test_each_source_has_its_own_call_and_names_it() -> None:
    model = network(Vgg)
    gradient = LayerwiseAdversary(model, ["conv2"], 0.1)
    attack = LayerwiseAdversary(model, ["conv2"], 0.1, Reading(scope="network", source="cw"))
    with pytest.raises(
        PerturbationError, match=r"source 'gradient' takes .* push\(\) is for .* 'cw', in scope 'network'"
    ):
        gradient.push(perturbation(0))
    for call in (attack.update, lambda: attack.observe(lambda: torch.zeros(()))):
        with pytest.raises(
            PerturbationError, match=r"source 'cw' takes R from push\(delta\); .*is for source 'gradient'"
        ):
            call()
    with attack, pytest.raises(PerturbationError, match=r"push\(\) forms R for the next block"):
        attack.push(perturbation(0))


def test_what_does_not_fit_together_is_an_error_that_says_what_to_give() -> None:
    model = network(Vgg)
    adversary = LayerwiseAdversary(model, ["conv2"], 0.1, Reading(scope="network", source="cw"))
    with pytest.raises(PerturbationError, match=r"'bn1', and there was none: give push\(\) the batch x"):
        adversary.push(perturbation(0))
    x, _ = batch(0)
    with pytest.raises(PerturbationError, match=r"delta: shape \(4, 2, 6, 5\) .* \(n, \*\(2, 6, 6\)\)"):
        adversary.push(perturbation(0)[..., :5], x)
    with pytest.raises(PerturbationError, match=r"delta: 4 rows, and the forward pass had 3"):
        LayerwiseAdversary(model, ["conv2"], 0.1, Reading("propagated", "network", source="cw")).push(
            perturbation(0), x[:3]
        )


# Training -------------------------------------------------------------------------------------------------------------


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """The largest other score less the own one, example by example, summed."""
    rows = [
        max(v for k, v in enumerate(row) if k != own) - row[own] for row, own in zip(logits, y.tolist(), strict=True)
    ]
    return torch.stack(rows).sum()


def test_the_margin_loss_is_the_largest_other_score_less_the_own() -> None:
    logits = torch.tensor([[1.0, 4.0, 2.0], [5.0, 0.0, -1.0]])
    assert summed_margin(logits, torch.tensor([2, 0])).item() == (4 - 2) + (0 - 5)


@pytest.mark.parametrize("pairing", PAIRINGS)
@pytest.mark.parametrize("form", FORMS)
def test_training_pushes_what_the_ascent_of_the_margin_loss_has_found(form: str, pairing: str) -> None:
    model = fully_connected()
    asked = cell("layerwise", ("fc2", "fc4"), Law("normal", 0.3), Reading(form, "network", pairing, source="cw"))
    defence = defences.build(model, asked, 2)
    generator = torch.Generator().manual_seed(own_seed(asked, 2, "delta"))
    defence.start_epoch(0)

    def pushed(x: Tensor, y: Tensor) -> dict[str, Tensor]:
        start = x + 0.3 * (2 * torch.rand(x.shape, generator=generator, dtype=torch.float64) - 1)
        z = start.clip(0, 1)
        for _ in range(7):
            leaf = z.detach().requires_grad_()
            (g,) = torch.autograd.grad(margin(model(leaf), y), leaf)
            z = torch.minimum(torch.maximum(z + 0.3 / 4 * g.sign(), x - 0.3), x + 0.3).clip(0, 1)
        delta = (z - x).flatten(1)
        delta = delta.mean(0, keepdim=True) if pairing == "mean" else delta
        found = {}
        for name in ("fc1", "fc2", "fc3", "fc4"):
            w = model.get_submodule(name).weight.detach()
            found[name] = delta = delta @ (w.abs() if form == "closed" else w).T
        return {name: found[name] for name in ("fc2", "fc4")}

    R: dict[str, Tensor] = {}
    for t in range(3):
        x, y = images(t, 8)
        if pairing == "same":
            R = pushed(x, y)
        h = x.flatten(1)
        for name in ("fc1", "fc2", "fc3", "fc4"):
            module = model.get_submodule(name)
            h = h @ module.weight.T + module.bias + R.get(name, 0.0)
            h = h if name == "fc4" else h.relu()
        trained, labels = defence.examples(x, y)
        loss = defence.loss(trained, labels)
        assert torch.allclose(loss, cross_entropy(h, y), rtol=1e-10, atol=0)
        model.zero_grad()
        loss.backward()
        before = [p.grad.clone() for p in model.parameters()]
        defence.after_backward()
        assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), before, strict=True))
        if pairing != "same":
            R = pushed(x, y)
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.1 * p.grad
    assert defence.skipped == 0
