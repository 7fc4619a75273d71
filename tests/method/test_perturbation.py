"""Algorithm 1, every reading of it, against a model written out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from plain_network import LAYERS, Epsilons, batch, formed, network, run, steps, weights
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear, relu

from lat import AbsNormal, Fixed, Law, LayerwiseAdversary, Normal, Reading
from lat.cells import DRAWS, FORMS, GRADIENTS, PAIRINGS, SCOPES, SITES_OF_GRADIENT, CellError
from lat.laws import draw_epsilon

NAMED = ("fc2", "fc4")  # fc3 between them belongs to a layer set's path and is itself unperturbed
LAWS = [
    Fixed(0.1),
    *(law(draw) for draw in DRAWS for law in (lambda d: Normal(0, 0.1, d), lambda d: AbsNormal(0.1, d))),
]
READINGS = [
    Reading(form, scope, pairing, gradient, at)
    for form in FORMS
    for scope in SCOPES
    for pairing in PAIRINGS
    for gradient in GRADIENTS
    for at in SITES_OF_GRADIENT
]


def name_of(reading: Reading) -> str:
    return "-".join((reading.form, reading.scope, reading.pairing, reading.gradient, reading.at))


def descend(model: nn.Module, seed: int) -> None:
    """Move every parameter, so that the weights of one step are not those of the next."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=generator, dtype=p.dtype))


def close(a: Tensor, b: np.ndarray) -> bool:
    return np.allclose(a.detach().expand(b.shape).numpy(), b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("reading", READINGS, ids=name_of)
def test_r_is_the_formula_of_its_reading_from_the_gradients_of_its_batch(reading: Reading) -> None:
    for law in LAWS:
        model = network(7)
        adversary = LayerwiseAdversary(model, NAMED, law, reading, seed=5)
        epsilons = Epsilons(law, 5)
        made: dict = {}
        R: dict[str, np.ndarray] = {}
        for t in range(3):
            x, y = batch(100 + t)
            if reading.pairing == "same":
                made = steps(reading, NAMED, epsilons, run(model, x, y), weights(model))
                R = {name: formed(reading, made[name], weights(model)) for name in NAMED}
                adversary.observe(lambda model=model, x=x, y=y: cross_entropy(model(x), y))
            elif reading.gradient == "attached":
                R = {name: formed(reading, step, weights(model)) for name, step in made.items()}
            found = adversary.perturbations
            assert set(found) == set(R)
            assert all(close(found[name], R[name]) for name in R)

            expected = run(model, x, y, {name: torch.from_numpy(r) for name, r in R.items()})
            with adversary:
                logits = model(x)
            loss = cross_entropy(logits, y)
            assert close(logits, expected.logits.numpy())
            model.zero_grad()
            loss.backward()

            if reading.pairing != "same":
                w = weights(model)
                made = steps(reading, NAMED, epsilons, expected, w)
                R = {name: formed(reading, step, w) for name, step in made.items()}
                adversary.update()
            descend(model, t)
        assert adversary.skipped == 0


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_the_first_batch_and_the_first_after_a_reset_go_unperturbed(law: Law) -> None:
    model = network()
    adversary = LayerwiseAdversary(model, NAMED, law)
    for t in range(4):
        x, y = batch(t)
        if t == 2:
            adversary.reset()
        assert (adversary.perturbations == {}) == (t in (0, 2))
        with adversary:
            logits = model(x)
        assert torch.equal(logits, model(x)) == (t in (0, 2))
        cross_entropy(logits, y).backward()
        adversary.update()
    assert adversary.skipped == 0


def test_a_reset_goes_on_with_the_generator() -> None:
    def second_epsilon(*, reset: bool) -> Tensor:
        model = network()
        adversary = LayerwiseAdversary(model, NAMED, Normal(0, 0.1), Reading(gradient="attached"))
        for t in range(2):
            if reset and t == 1:
                adversary.reset()
            x, y = batch(t)
            with adversary:
                loss = cross_entropy(model(x), y)
            loss.backward()
            adversary.update()
        return adversary.state_dict()["terms"]["fc2"]["eps"]

    assert torch.equal(second_epsilon(reset=True), second_epsilon(reset=False))


def test_layer_sets_do_not_depend_on_the_order_in_which_their_layers_are_named() -> None:
    found = []
    for named in (("fc2", "fc3", "fc4"), ("fc4", "fc3", "fc2")):
        model = network()
        adversary = LayerwiseAdversary(model, named, 0.1, Reading(scope="layer_set"))
        x, y = batch(0)
        with adversary:
            loss = cross_entropy(model(x), y)
        loss.backward()
        adversary.update()
        found.append(adversary.perturbations)
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.parametrize("at", SITES_OF_GRADIENT)
def test_a_unit_that_is_off_gets_no_perturbation_at_the_output_and_may_get_one_at_the_activation(at: str) -> None:
    model = network(3)
    x, y = batch(1, 16)
    adversary = LayerwiseAdversary(model, ["fc2"], 0.1, Reading(at=at))
    with adversary:
        loss = cross_entropy(model(x), y)
    loss.backward()
    adversary.update()
    off = linear(relu(linear(x.flatten(1), model.fc1.weight, model.fc1.bias)), model.fc2.weight, model.fc2.bias) < 0
    assert bool(off.any())
    unmoved = adversary.perturbations["fc2"] == 0
    assert bool(unmoved[off].all()) == (at == "output")


# The laws of epsilon -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("kind", ["normal", "abs_normal"])
def test_epsilon_has_the_deviation_the_sign_and_the_shape_of_its_law(kind: str, draw: str) -> None:
    n, units = 200, 50
    generator = torch.Generator().manual_seed(1)
    law = Law(kind, 0.1, draw)
    like = torch.zeros(n, units)
    eps = [draw_epsilon(law, (n, units), like, generator) for _ in range(300 if draw == "batch" else 20)]
    assert {tuple(e.shape) for e in eps} == {{"batch": (1, 1), "sample": (n, 1), "element": (n, units)}[draw]}
    values = torch.cat([e.flatten() for e in eps])
    count = len(values)
    assert len(values.unique()) > 0.9 * count or draw == "element"
    assert values.square().mean().sqrt().item() == pytest.approx(0.1, rel=4 / (2 * count) ** 0.5)
    if kind == "normal":
        assert abs(values.mean().item()) < 4 * 0.1 / count**0.5
    else:
        assert bool((values >= 0).all())


def test_epsilon_is_drawn_in_float32_for_halves_and_in_float64_for_doubles() -> None:
    for dtype, wide in [
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ]:
        eps = draw_epsilon(Normal(0, 0.1), (4, 2), torch.zeros(4, 2, dtype=dtype), torch.Generator())
        assert isinstance(eps, Tensor)
        assert eps.dtype == wide


def test_a_plain_number_is_a_fixed_epsilon() -> None:
    assert LayerwiseAdversary(network(), NAMED, 0.25).law == Fixed(0.25) == Law("fixed", 0.25)


def test_the_mean_of_the_normal_law_is_zero() -> None:
    with pytest.raises(CellError, match=r"mean: 1; the paper's law has mean 0, use 0"):
        Normal(1, 0.1)


def test_a_negative_radius_is_refused() -> None:
    with pytest.raises(CellError, match=r"radius: -0.1 must be a finite number of at least 0"):
        LayerwiseAdversary(network(), NAMED, -0.1)


def test_local_layers_draw_their_own_epsilon_and_wider_scopes_share_one() -> None:
    for scope in SCOPES:
        model = network()
        adversary = LayerwiseAdversary(model, NAMED, Normal(0, 0.1), Reading(scope=scope, gradient="attached"))
        x, y = batch(0)
        with adversary:
            loss = cross_entropy(model(x), y)
        loss.backward()
        adversary.update()
        terms = adversary.state_dict()["terms"]
        assert torch.equal(terms["fc2"]["eps"], terms["fc4"]["eps"]) == (scope != "local")


# The gradient through R ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scope", SCOPES)
def test_the_attached_gradient_is_that_of_the_formula_by_the_weights_and_the_detached_one_has_none(
    form: str, scope: str
) -> None:
    grads = {}
    for gradient in GRADIENTS:
        model = network(2)
        adversary = LayerwiseAdversary(model, NAMED, 0.3, Reading(form, scope, "slot", gradient))
        (x_0, y_0), (x, y) = batch(0), batch(1)
        with adversary:
            loss = cross_entropy(model(x_0), y_0)
        loss.backward()
        adversary.update()
        model.zero_grad()
        with adversary:
            loss = cross_entropy(model(x), y)
        loss.backward()
        grads[gradient] = {name: model.get_submodule(name).weight.grad for name in LAYERS}

        made = steps(Reading(form, scope), NAMED, Epsilons(Fixed(0.3), 0), run(model, x_0, y_0), weights(model))
        w = {name: value.requires_grad_() for name, value in weights(model).items()}
        h = x.flatten(1)
        for name in LAYERS:
            h = h @ w[name].T + model.get_submodule(name).bias.detach()
            if name in NAMED:
                path = [w[entry] if gradient == "attached" else w[entry].detach() for entry in made[name].path]
                scaled = torch.from_numpy(made[name].scaled_signs)
                if form == "closed":
                    radius = torch.ones(path[0].shape[1], dtype=torch.float64)
                    for matrix in path:
                        radius = (matrix.abs() * radius).sum(1)
                    h = h + radius * scaled
                else:
                    for matrix in path:
                        scaled = scaled @ matrix.T
                    h = h + scaled
            h = h if name == LAYERS[-1] else h.clamp(min=0)
        expected = torch.autograd.grad(cross_entropy(h, y), list(w.values()))
        for name, g in zip(LAYERS, expected, strict=True):
            assert torch.allclose(grads[gradient][name], g, rtol=1e-9, atol=1e-12)
    assert not torch.allclose(grads["attached"]["fc4"], grads["detached"]["fc4"], rtol=1e-3)


@pytest.mark.parametrize("name", ["fc1", "fc2", "fc4"])
def test_propagated_local_same_attached_is_training_on_the_perturbed_input_of_the_layer(name: str) -> None:
    model = network(4)
    x, y = batch(3)
    adversary = LayerwiseAdversary(model, [name], 0.2, Reading("propagated", "local", "same", "attached"))
    adversary.observe(lambda: cross_entropy(model(x), y))
    with adversary:
        loss = cross_entropy(model(x), y)
    loss.backward()
    found = [p.grad.clone() for p in model.parameters()]

    def at_input(module: nn.Module, r: Tensor) -> Tensor:
        h = x
        for child in model.children():
            h = child(h + r if child is module else h)
        return cross_entropy(h, y)

    module = model.get_submodule(name)
    r = torch.zeros(len(y), module.in_features, dtype=torch.float64, requires_grad=True)
    (g,) = torch.autograd.grad(at_input(module, r), r)
    model.zero_grad()
    plain = at_input(module, 0.2 * g.sign())
    plain.backward()
    assert torch.allclose(loss, plain, rtol=1e-12, atol=0)
    for p, grad in zip(model.parameters(), found, strict=True):
        assert torch.allclose(p.grad, grad, rtol=1e-10, atol=1e-13)


def test_the_detached_one_is_not_training_on_the_perturbed_input() -> None:
    grads = []
    for gradient in GRADIENTS:
        model = network(4)
        x, y = batch(3)
        adversary = LayerwiseAdversary(model, ["fc2"], 0.2, Reading("propagated", "local", "same", gradient))
        adversary.observe(lambda model=model, x=x, y=y: cross_entropy(model(x), y))
        with adversary:
            loss = cross_entropy(model(x), y)
        loss.backward()
        grads.append(model.fc2.weight.grad)
    assert not torch.allclose(grads[0], grads[1], rtol=1e-3)
