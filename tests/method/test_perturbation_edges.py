"""`LayerwiseAdversary` and its laws at their edges: what they take by default, where draws lie, and odd networks."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from plain_network import batch, network
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import parametrizations

from lat import AbsNormal, Fixed, Law, LayerwiseAdversary, Normal, PerturbationError, Reading, SiteError
from lat.cells import DRAWS, FORMS, GRADIENTS, CellError
from lat.laws import draw_epsilon, law_of

NAMED = ("fc2", "fc4")


# Laws ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("draw", DRAWS)
def test_a_law_is_drawn_as_it_says(draw: str) -> None:
    assert Normal(0, 0.1, draw) == Law("normal", 0.1, draw)
    assert AbsNormal(0.1, draw) == Law("abs_normal", 0.1, draw)


def test_a_law_is_drawn_once_a_sample_where_it_does_not_say() -> None:
    assert Normal(0, 0.1).draw == AbsNormal(0.1).draw == "sample"


@pytest.mark.parametrize("number", [0, 1, 0.5, np.float32(0.5), np.int64(1), torch.tensor(0.5)])
def test_the_law_of_a_number_is_constant_and_holds_a_float(number: Any) -> None:
    law = law_of(number)
    assert law == Law("fixed", float(number))
    assert type(law.radius) is float


def test_the_law_of_a_law_is_itself() -> None:
    law = AbsNormal(0.1, "element")
    assert law_of(law) is law


@pytest.mark.parametrize("wrong", ["0.1", b"0.1", "", None, True, False, [0.1], 1j])
def test_what_is_no_number_and_no_law_is_refused_with_its_mend(wrong: object) -> None:
    told = f"epsilon: {wrong!r} is no number and no law; give 0.1, or lat.Normal(0, 0.1)"
    with pytest.raises(CellError, match=f"^{re.escape(told)}$"):
        law_of(wrong)


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("shape", [(3,), (3, 2), (3, 2, 4), (3, 2, 4, 5), (3, 2, 4, 5, 6)])
def test_epsilon_broadcasts_over_outputs_of_any_dimension(draw: str, shape: tuple[int, ...]) -> None:
    eps = draw_epsilon(Normal(0, 0.1, draw), shape, torch.zeros(shape), torch.Generator())
    assert isinstance(eps, Tensor)
    ones = (1,) * len(shape)
    assert tuple(eps.shape) == {"batch": ones, "sample": (3, *ones[1:]), "element": shape}[draw]


def test_epsilon_lies_where_the_output_lies() -> None:
    like = torch.empty(4, 2, device="meta")
    eps = draw_epsilon(Normal(0, 0.1), (4, 2), like, torch.Generator())
    assert isinstance(eps, Tensor)
    assert eps.device == like.device


# What an adversary is made of ----------------------------------------------------------------------------------------


def test_the_seed_is_zero_unless_given() -> None:
    assert LayerwiseAdversary(network(), NAMED, 0.1).state_dict()["seed"] == 0


def test_the_layers_stay_those_that_were_named() -> None:
    named = ["fc2"]
    adversary = LayerwiseAdversary(network(), named, 0.1)
    named.append("fc4")
    assert adversary.layers == ("fc2",)


def test_a_block_gives_its_adversary() -> None:
    adversary = LayerwiseAdversary(network(), NAMED, 0.1)
    with adversary as entered:
        assert entered is adversary


@pytest.mark.parametrize("scope", ["local", "layer_set", "network"])
@pytest.mark.parametrize(
    ("name", "complaint"),
    [("head", "'head' is no layer of MLP; it has fc1, fc2, fc3, fc4"), ("relu2", "'relu2' is a ReLU, which cannot")],
)
def test_a_name_is_refused_with_the_same_words_in_every_scope(scope: str, name: str, complaint: str) -> None:
    with pytest.raises(SiteError, match=complaint):
        LayerwiseAdversary(network(), ["fc2", name], 0.1, Reading(scope=scope))


class Spare(nn.Module):
    """A chain of `a` and `b`, and a layer that the forward pass leaves out."""

    def __init__(self) -> None:
        super().__init__()
        self.spare, self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x.flatten(1)).relu())


@pytest.mark.parametrize("scope", ["layer_set", "network"])
@pytest.mark.parametrize("named", [["spare"], ["a", "spare"], ["spare", "a"]])
def test_a_layer_that_takes_no_part_in_the_forward_pass_is_refused_with_those_that_do(
    scope: str, named: list[str]
) -> None:
    with pytest.raises(SiteError, match=r"^layers: 'spare' takes no part in the forward pass; name one of a, b$"):
        LayerwiseAdversary(Spare(), named, 0.1, Reading(scope=scope))


# The block, and what is observed before it ---------------------------------------------------------------------------


def test_a_model_in_eval_mode_goes_unperturbed_also_where_the_layer_is_in_training_mode() -> None:
    model = network()
    adversary = LayerwiseAdversary(model, NAMED, 0.1)
    x, y = batch(0)
    with adversary:
        loss = cross_entropy(model(x), y)
    loss.backward()
    adversary.update()
    model.eval()
    model.fc2.train()
    plain = model(x)
    with adversary:
        assert torch.equal(model(x), plain)
    model.train()
    with adversary:
        assert not torch.equal(model(x), plain)


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.a(x.flatten(1)), self.b(x.flatten(1))


def test_observing_a_loss_that_leaves_a_layer_out_is_an_error_that_names_the_layer_and_the_mend() -> None:
    model = TwoHeads().double()
    adversary = LayerwiseAdversary(model, ["a", "b"], 0.1, Reading(pairing="same"))
    x, y = batch(0)
    mend = "the loss given to observe() must come from the model in training mode"
    for head, missed in [(0, "b"), (1, "a")]:
        with pytest.raises(PerturbationError) as error:
            adversary.observe(lambda head=head: cross_entropy(model(x)[head], y))
        assert str(error.value) == f"no gradient reached layer {missed!r}: {mend}"


def test_observing_a_layer_that_nothing_before_it_and_in_it_can_learn_is_an_error_that_names_it() -> None:
    model = network()
    model.fc1.requires_grad_(False)
    adversary = LayerwiseAdversary(model, ["fc1", "fc2"], 0.1, Reading(pairing="same"))
    x, y = batch(0)
    with pytest.raises(PerturbationError, match="no gradient reached layer 'fc1'"):
        adversary.observe(lambda: cross_entropy(model(x), y))


def test_a_pass_that_stops_short_of_a_layer_leaves_nothing_to_learn_for_it() -> None:
    """The gradient at the start of the layer set is there; the last layer was not called."""
    model = network()
    adversary = LayerwiseAdversary(model, NAMED, 0.1, Reading("propagated", "layer_set"))
    with adversary:
        loss = model.fc2(torch.ones(4, 5, dtype=torch.float64)).square().sum()
    loss.backward()
    with pytest.raises(PerturbationError, match="no gradient reached layer"):
        adversary.update()


def test_a_fully_connected_layer_may_take_rows_of_rows_and_has_a_direction_for_each() -> None:
    model = nn.Sequential(nn.Linear(2, 3)).double()
    adversary = LayerwiseAdversary(model, ["0"], 0.5)
    g = torch.tensor([[[1.0, -2.0, 0.0]] * 2, [[-3.0, 4.0, 5.0]] * 2], dtype=torch.float64)
    with adversary:
        y = model(torch.ones(2, 2, 2, dtype=torch.float64))
    (y * g).sum().backward()
    adversary.update()
    radius = [sum(abs(v) for v in row) for row in model[0].weight.tolist()]
    expected = [[[0.5 * q * s for q, s in zip(radius, signs, strict=True)]] * 2 for signs in [(1, -1, 0), (-1, 1, 1)]]
    assert torch.allclose(adversary.perturbations["0"], torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_r_is_formed_from_the_weight_that_a_parametrization_gives(gradient: str) -> None:
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(2, 3), dim=None)).double()
    part = model[0].parametrizations["weight"]
    adversary = LayerwiseAdversary(model, ["0"], 0.5, Reading(gradient=gradient))
    x = torch.ones(2, 2, dtype=torch.float64)
    for _ in range(2):
        model.zero_grad()
        with adversary:
            loss = model(x).sum()
        loss.backward()
        adversary.update()
    g, v = (value.detach().clone().requires_grad_() for value in (part.original0, part.original1))
    w = g * v / v.norm()
    R = 0.5 * w.abs().sum(1)
    assert torch.allclose(adversary.perturbations["0"], R.detach().expand(2, 3), rtol=1e-12, atol=0)
    plain = (x @ w.T).sum() + model[0].bias.detach().sum() * 2
    expected = torch.autograd.grad(plain + (2 * R.sum() if gradient == "attached" else 0), (g, v))
    for found, exact in zip((part.original0, part.original1), expected, strict=True):
        assert torch.allclose(found.grad, exact, rtol=1e-12, atol=1e-12)


# State ---------------------------------------------------------------------------------------------------------------


def learn(adversary: LayerwiseAdversary, seed: int) -> Tensor:
    """One training step without an optimiser; the logits inside the block."""
    x, y = batch(seed)
    with adversary:
        logits = adversary.model(x)
    cross_entropy(logits, y).backward()
    adversary.update()
    return logits.detach()


def test_a_state_names_the_device_of_its_draws_in_text_and_none_before_the_first() -> None:
    adversary = LayerwiseAdversary(network(), NAMED, Normal(0, 0.1))
    assert adversary.state_dict()["device"] is None
    learn(adversary, 0)
    assert repr(adversary.state_dict()["device"]) == "'cpu'"


def test_a_state_from_before_the_first_batch_starts_the_draws_again() -> None:
    fresh, begun = (LayerwiseAdversary(network(), NAMED, Normal(0, 0.1), seed=seed) for seed in (3, 4))
    learn(begun, 0)
    begun.load_state_dict(fresh.state_dict())
    assert begun.perturbations == {}
    for t in (1, 2, 3):
        assert torch.equal(learn(begun, t), learn(fresh, t))


@pytest.mark.parametrize("forget", ["reset", "load_state_dict"])
def test_what_was_seen_before_a_reset_or_a_loaded_state_is_not_learnt_from(forget: str) -> None:
    adversary = LayerwiseAdversary(network(), NAMED, 0.1)
    state = adversary.state_dict()
    x, y = batch(0)
    with adversary:
        loss = cross_entropy(adversary.model(x), y)
    loss.backward()
    if forget == "reset":
        adversary.reset()
    else:
        adversary.load_state_dict(state)
    with pytest.raises(PerturbationError, match="has no block to learn from"):
        adversary.update()


@pytest.mark.parametrize("reading", [Reading(), Reading("propagated", "network", gradient="attached")], ids=str)
def test_a_deep_copy_is_read_as_the_original_and_shares_no_tensor_with_it(reading: Reading) -> None:
    adversary = LayerwiseAdversary(network(), NAMED, Normal(0, 0.1), reading, seed=3)
    learn(adversary, 0)
    twin = copy.deepcopy(adversary)
    assert (twin.layers, twin.law, twin.reading, twin.seed) == (NAMED, Normal(0, 0.1), reading, 3)
    mine, its = (found.state_dict()["terms"] for found in (adversary, twin))
    for name in NAMED:
        tensors = {key for key, value in mine[name].items() if isinstance(value, Tensor)}
        assert tensors == ({"perturbation"} if reading.gradient == "detached" else {"direction", "eps"})
        for key in tensors:
            assert torch.equal(mine[name][key], its[name][key])
            assert mine[name][key].data_ptr() != its[name][key].data_ptr()


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("form", FORMS)
def test_a_detached_state_holds_the_bytes_of_r_and_an_attached_one_those_of_what_it_is_formed_of(
    form: str, draw: str
) -> None:
    n, word = 4, 8
    for gradient in GRADIENTS:
        adversary = LayerwiseAdversary(network(), NAMED, Normal(0, 0.1, draw), Reading(form, gradient=gradient))
        learn(adversary, 0)
        terms = adversary.state_dict()["terms"]
        tensors = [value for term in terms.values() for value in term.values() if isinstance(value, Tensor)]
        R = n * sum(adversary.model.get_submodule(name).out_features for name in NAMED)
        direction = (
            R if form == "closed" else n * sum(adversary.model.get_submodule(name).in_features for name in NAMED)
        )
        eps = {"batch": 2, "sample": 2 * n, "element": direction}[draw]
        held = R if gradient == "detached" else direction + eps
        assert sum(t.untyped_storage().nbytes() for t in tensors) == word * held


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_a_state_is_loaded_onto_the_models_device(gradient: str) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)).double()
    here, there = (
        LayerwiseAdversary(placed, ["1", "3"], 0.1, Reading(scope="network", gradient=gradient))
        for placed in (model, copy.deepcopy(model).to("meta"))
    )
    learn(here, 0)
    there.load_state_dict(here.state_dict() | {"generator": None, "device": None})
    state = there.state_dict()
    parts = [state["seen"]["tensors"], *state["terms"].values()]
    tensors = [value for part in parts for value in part.values() if isinstance(value, Tensor)]
    assert len(tensors) == {"detached": 2, "attached": 3}[gradient]  # R, or the directions and 1 / sigma
    assert all(tensor.is_meta for tensor in tensors)


def test_draws_go_on_on_the_device_that_the_model_has_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that was the second on one machine may be the first on another; one of another type draws other numbers."""
    adversary, other = (LayerwiseAdversary(network(), NAMED, Normal(0, 0.1), seed=seed) for seed in (3, 4))
    learn(adversary, 0)
    made: list[str] = []
    generator = torch.Generator
    with monkeypatch.context() as patch:
        patch.setattr(torch, "Generator", lambda device: made.append(str(device)) or generator(device))
        other.load_state_dict(adversary.state_dict() | {"device": "cpu:3"})
    assert made == ["cpu"]
    for t in (1, 2):
        assert torch.equal(learn(other, t), learn(adversary, t))
    with pytest.raises(PerturbationError, match=r"drawn on 'cuda:3', and the model lies on 'cpu', where other numbers"):
        other.load_state_dict(adversary.state_dict() | {"device": "cuda:3"})


def test_a_fixed_epsilon_draws_nothing_and_goes_on_on_any_device() -> None:
    adversary, other = (LayerwiseAdversary(network(), NAMED, 0.1) for _ in range(2))
    learn(adversary, 0)
    state = adversary.state_dict()
    assert (state["generator"], state["device"]) == (None, None)
    other.load_state_dict(state)
    assert torch.equal(learn(other, 1), learn(adversary, 1))


UNTYPED = """
import numpy as np
import torch
import lat
from lat.cells import CellError

model = torch.nn.Sequential(torch.nn.Linear(3, 2))
for given, said in [
    *[((epsilon,), "epsilon: ") for epsilon in ("normal", "0.1", None, [0.1])],
    *[((0.1, reading), "reading: ") for reading in ("closed", {"form": "closed"})],
]:
    try:
        lat.LayerwiseAdversary(model, ["0"], *given)
    except (CellError, lat.PerturbationError) as error:
        assert str(error).startswith(f"{said}{given[-1]!r} is no "), error
        assert "; give " in str(error), error
    else:
        raise SystemExit(f"no error for {given}")
assert lat.LayerwiseAdversary(model, ["0"], np.float32(0.5)).law == lat.Fixed(0.5)
assert lat.Normal(0, np.float32(0.5)) == lat.Normal(0, 0.5)
"""


def test_an_epsilon_or_a_reading_that_is_none_is_named_where_no_type_checker_speaks_first() -> None:
    done = subprocess.run([sys.executable, "-c", UNTYPED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_is_copied_together_with_its_adversary_is_the_copys() -> None:
    adversary = LayerwiseAdversary(network(), NAMED, Normal(0, 0.1))
    learn(adversary, 0)
    twin, R = copy.deepcopy((adversary, adversary.perturbations))
    assert all(R[name] is twin.perturbations[name] is not adversary.perturbations[name] for name in NAMED)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_r_as_it_is_shown_is_a_constant(gradient: str) -> None:
    adversary = LayerwiseAdversary(network(), NAMED, 0.1, Reading(gradient=gradient))
    learn(adversary, 0)
    assert not any(r.requires_grad for r in adversary.perturbations.values())


@pytest.mark.parametrize("law", [Fixed(0.1), *(Normal(0, 0.1, draw) for draw in DRAWS)], ids=str)
def test_a_batch_of_another_size_goes_unperturbed_under_every_law(law: Law) -> None:
    """Also where all samples share one epsilon: their directions are their own."""
    model = network()
    adversary = LayerwiseAdversary(model, NAMED, law)
    learn(adversary, 0)
    x, _ = batch(1, 3)
    with adversary:
        inside = model(x)
    assert torch.equal(inside, model(x))
    assert adversary.skipped == 1
