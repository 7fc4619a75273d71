"""The docstring of `LayerwiseAdversary`, sentence by sentence, in training loops that are not lat's own."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from plain_network import batch, network
from torch import Tensor, distributed, nn
from torch.nn.functional import cross_entropy

from lat import Fixed, LayerwiseAdversary, Normal, PerturbationError, Reading, SiteError, bounds, layer_set
from lat.perturbation.adversary import UNUSED

NAMED = ("fc2", "fc4")


def step(model: nn.Module, adversary: LayerwiseAdversary, seed: int, n: int = 4, *, update: bool = True) -> Tensor:
    """One training step without an optimiser; the logits inside the block."""
    x, y = batch(seed, n)
    with adversary:
        logits = model(x)
    model.zero_grad()
    cross_entropy(logits, y).backward()
    if update:
        adversary.update()
    return logits.detach()


def two_layers() -> nn.Sequential:
    """A network in float32, from its own seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def is_plain(model: nn.Module, adversary: LayerwiseAdversary) -> bool:
    """No hook is left, and outputs are those of a copy that never had an adversary."""
    untouched = network()
    untouched.load_state_dict(model.state_dict())
    x, _ = batch(77)
    return hooks(model) == 0 and torch.equal(model(x), untouched(x)) and adversary.perturbations != {}


# A batch of another size ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second"), [(4, 3), (4, 5), (4, 1), (1, 4)])
def test_a_batch_of_another_size_goes_unperturbed_and_is_counted_once(first: int, second: int) -> None:
    model = network()
    adversary = LayerwiseAdversary(model, NAMED, Normal(0, 0.1))
    step(model, adversary, 0, first)
    assert torch.equal(step(model, adversary, 1, second), model(batch(1, second)[0]))
    assert adversary.skipped == 1
    assert not torch.equal(step(model, adversary, 2, second), model(batch(2, second)[0]))
    assert adversary.skipped == 1


def test_the_mean_direction_with_one_epsilon_is_one_r_for_all_and_fits_any_batch() -> None:
    for law, fits in [(0.1, True), (Normal(0, 0.1, "batch"), True), (Normal(0, 0.1, "sample"), False)]:
        model = network()
        adversary = LayerwiseAdversary(model, NAMED, law, Reading(pairing="mean"))
        step(model, adversary, 0, 4)
        assert torch.equal(step(model, adversary, 1, 3), model(batch(1, 3)[0])) == (not fits)
        assert adversary.skipped == (not fits)


# Eval mode -----------------------------------------------------------------------------------------------------------


def test_a_model_in_eval_mode_goes_unperturbed_inside_the_block_and_keeps_r() -> None:
    model = network()
    adversary = LayerwiseAdversary(model, NAMED, 0.1)
    step(model, adversary, 0)
    before = adversary.perturbations
    x, _ = batch(1)
    model.eval()
    with adversary:
        assert torch.equal(model(x), model(x))  # two passes are no mistake either
        inside = model(x)
    assert torch.equal(inside, model(x))
    model.train()
    assert adversary.skipped == 0
    assert all(torch.equal(before[name], adversary.perturbations[name]) for name in NAMED)
    assert not torch.equal(step(model, adversary, 1), model(x))


def test_a_layer_in_eval_mode_goes_unperturbed_and_the_others_do_not() -> None:
    model = network()
    both, alone = (LayerwiseAdversary(model, named, 0.1) for named in (NAMED, ("fc4",)))
    step(model, both, 0)
    step(model, alone, 0)
    model.fc2.eval()
    x, _ = batch(1)
    with both:
        one_left = model(x)
    with alone:
        expected = model(x)
    assert torch.equal(one_left, expected)
    assert not torch.equal(one_left, model(x))


@pytest.mark.parametrize(
    "reading", [Reading(), Reading("propagated", "network"), Reading(scope="network", gradient="attached")]
)
def test_a_pass_in_eval_mode_inside_the_block_leaves_no_trace(reading: Reading) -> None:
    """As to follow accuracy: on fewer and larger images than those of the batch, before or after its own pass."""
    layers = [nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(2, 3, 2)]
    model = nn.Sequential(*layers, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    x, y, larger = torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 0, 1]), torch.rand(3, 1, 12, 12)

    def learned(*looks: str) -> dict[str, Tensor]:
        own = copy.deepcopy(model)
        adversary = LayerwiseAdversary(own, ["4", "8"], 0.1, reading)

        def look() -> None:
            own.eval()
            own(larger)
            own.train()

        with adversary:
            for moment in ("before", "after"):
                if moment == "after":
                    loss = cross_entropy(own(x), y)
                if moment in looks:
                    look()
        loss.backward()
        adversary.update()
        return adversary.perturbations

    plain = learned()
    assert all((r != 0).any() for r in plain.values())
    for looks in (["before"], ["after"], ["before", "after"]):
        found = learned(*looks)
        assert all(torch.equal(found[name], plain[name]) for name in plain)


def test_update_names_a_layer_that_no_pass_has_called() -> None:
    model = network()
    model.fc3.aside = nn.Linear(2, 2)
    adversary = LayerwiseAdversary(model, ["fc2", "fc3.aside"], 0.1)
    said = r"no gradient reached layer 'fc3.aside', which no pass in training mode has called: run the model ins"
    with pytest.raises(PerturbationError, match=said):
        step(model, adversary, 0)
    adversary = LayerwiseAdversary(model, ["fc2"], 0.1)
    loss = cross_entropy(model(batch(0)[0]), batch(0)[1])  # before the block
    with adversary:
        pass
    loss.backward()
    with pytest.raises(PerturbationError, match=r"no gradient reached layer 'fc2', which no pass in training mode has"):
        adversary.update()


def test_update_names_an_activation_that_no_pass_has_called() -> None:
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3))
    adversary = LayerwiseAdversary(model, ["0"], 0.1, Reading(at="activation"))
    with adversary:
        loss = model[2](model[0](torch.rand(5, 2)).relu()).sum()
    loss.backward()
    with pytest.raises(PerturbationError, match=r"no gradient reached layer '1', which no pass in training mode has"):
        adversary.update()


def test_update_names_a_layer_that_was_in_eval_mode() -> None:
    model = network()
    adversary = LayerwiseAdversary(model, NAMED, 0.1)
    model.fc2.eval()
    with pytest.raises(PerturbationError, match=r"no gradient reached layer 'fc2': .* with the layer in training mode"):
        step(model, adversary, 0)


# Calls out of order --------------------------------------------------------------------------------------------------


def test_update_without_a_backward_pass_is_an_error() -> None:
    model = network()
    adversary = LayerwiseAdversary(model, NAMED, 0.1)
    with pytest.raises(PerturbationError, match=r"has no block to learn from"):
        adversary.update()
    with adversary:
        model(batch(0)[0])
    with pytest.raises(
        PerturbationError, match=r"no gradient reached layer 'fc2': call loss.backward\(\) before update"
    ):
        adversary.update()
    step(model, adversary, 0)
    with pytest.raises(PerturbationError, match=r"has no block to learn from"):
        adversary.update()


def test_update_names_a_layer_whose_output_requires_no_gradient() -> None:
    model = network()
    adversary = LayerwiseAdversary(model, ["fc1", "fc4"], 0.1)
    model.fc1.requires_grad_(False)
    with pytest.raises(PerturbationError, match="no gradient reached layer 'fc1': its output requires none; let"):
        step(model, adversary, 0)
    learned = LayerwiseAdversary(model, ["fc2"], 0.1)
    model.fc2.requires_grad_(False)
    model.fc1.requires_grad_(True)
    step(model, learned, 0)
    assert learned.perturbations["fc2"].any()


def test_a_backward_pass_of_another_loss_is_none() -> None:
    model = network()
    adversary = LayerwiseAdversary(model, NAMED, 0.1)
    x, y = batch(0)
    with adversary:
        model(x)
    cross_entropy(model(x), y).backward()
    with pytest.raises(PerturbationError, match="no gradient reached"):
        adversary.update()


def test_update_inside_the_block_is_an_error() -> None:
    model = network()
    adversary = LayerwiseAdversary(model, NAMED, 0.1)
    with pytest.raises(PerturbationError, match="leave it"), adversary:
        adversary.update()


def test_after_an_exception_there_is_no_block_to_learn_from() -> None:
    model = network()
    adversary = LayerwiseAdversary(model, NAMED, 0.1)
    x, y = batch(0)
    with pytest.raises(ZeroDivisionError), adversary:  # noqa: PT012 - what happens before it is raised is the point
        cross_entropy(model(x), y).backward()
        raise ZeroDivisionError
    with pytest.raises(PerturbationError):
        adversary.update()


def test_the_block_is_entered_once_at_a_time() -> None:
    model = network()
    adversary = LayerwiseAdversary(model, NAMED, 0.1)
    with pytest.raises(PerturbationError, match="entered already"), adversary, adversary:
        pass
    step(model, adversary, 0)
    assert is_plain(model, adversary)


def warned(action: Callable[[], object]) -> list[str]:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        action()
    return [str(warning.message) for warning in seen]


def test_a_forgotten_update_is_told_once_and_not_before_it_is_sure() -> None:
    model = network()
    adversary = LayerwiseAdversary(model, NAMED, 0.1)

    def steps(count: int, *, update: bool = False) -> Callable[[], object]:
        return lambda: [step(model, adversary, t, update=update) for t in range(count)]

    assert warned(steps(UNUSED)) == []  # the last of them may still be learned from
    (told,) = warned(steps(1))
    assert told == (
        "10 blocks in a row had a backward pass, and R was learned from none of them, so that it stays what it was "
        "(there is none); call update() after it"
    )
    assert warned(steps(2 * UNUSED)) == []
    assert warned(steps(1, update=True)) == []
    assert warned(steps(UNUSED)) == []
    (told,) = warned(steps(1))
    assert "(there is one)" in told


@pytest.mark.parametrize(
    ("reading", "mend"),
    [
        (Reading(pairing="same"), "observe() before the block"),
        (Reading(pairing="mean"), "update() after it"),
        (Reading(scope="network", source="cw"), "push(delta) after it"),
        (Reading(scope="network", source="cw", pairing="same"), "push(delta) before the block"),
    ],
)
def test_what_was_forgotten_is_told_by_its_name(reading: Reading, mend: str) -> None:
    model = network()
    adversary = LayerwiseAdversary(model, NAMED, 0.1, reading)
    (told,) = warned(lambda: [step(model, adversary, t, update=False) for t in range(UNUSED + 1)])
    assert told.endswith(f"call {mend}")


def test_a_loop_that_learns_or_only_looks_is_not_warned() -> None:
    model = network()

    def learning() -> None:
        for reading in (Reading(), Reading(pairing="same")):
            adversary = LayerwiseAdversary(model, NAMED, 0.1, reading)
            for _epoch in range(3):
                adversary.reset()
                for t in range(UNUSED):
                    x, y = batch(t)
                    if reading.pairing == "same":
                        adversary.observe(lambda x=x, y=y: cross_entropy(model(x), y))
                    step(model, adversary, t, update=reading.pairing != "same")

    def accumulating() -> None:
        adversary = LayerwiseAdversary(model, NAMED, 0.1)
        for t in range(4 * UNUSED):
            step(model, adversary, t, update=t % 8 == 7)

    def looking() -> None:
        adversary = LayerwiseAdversary(model, NAMED, 0.1)
        for t in range(2 * UNUSED):
            with adversary:
                model(batch(t)[0])

    assert warned(learning) == warned(accumulating) == warned(looking) == []


# Names ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "complaint"),
    [
        (["fc2", "head"], "'head' is no layer of MLP; it has fc1, fc2, fc3, fc4"),
        (["relu2"], "'relu2' is a ReLU, which cannot be perturbed"),
        (["fc2", "fc2"], "names a layer twice"),
        ([], "none named; name at least one layer"),
    ],
)
def test_names_that_are_no_layers_are_refused(layers: list[str], complaint: str) -> None:
    with pytest.raises(SiteError) as error:
        LayerwiseAdversary(network(), layers, 0.1)
    assert complaint in str(error.value)


def test_one_text_for_the_layers_is_refused() -> None:
    with pytest.raises(SiteError, match=r"layers: 'fc2' is one text; give a list of names, \['fc2'\]"):
        LayerwiseAdversary(network(), "fc2", 0.1)


def test_epsilon_is_any_real_number() -> None:
    for epsilon in (np.float32(0.25), np.float64(0.25), 0.25, Fraction(1, 4), torch.tensor(0.25)):
        assert LayerwiseAdversary(network(), NAMED, epsilon).law == Fixed(0.25)


def test_a_layer_called_twice_in_one_block_is_an_error() -> None:
    model = network()
    adversary = LayerwiseAdversary(model, NAMED, 0.1)
    step(model, adversary, 0)
    x, _ = batch(0)
    with pytest.raises(SiteError, match="'fc2' was called twice inside one block"), adversary:
        model(x + model(x).sum())
    assert is_plain(model, adversary)


def test_what_radii_cannot_pass_is_left_alone_in_scope_local_and_refused_by_name_in_the_others() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.LayerNorm(4), nn.Linear(4, 3)).double()
    step(model, LayerwiseAdversary(model, ["1", "3"], 0.1), 0)
    for scope in ("layer_set", "network"):
        with pytest.raises(SiteError) as error:
            LayerwiseAdversary(model, ["1", "3"], 0.1, Reading(scope=scope))
        assert str(error.value).startswith(f"scope '{scope}' leads through '2', a LayerNorm, which radii cannot pass")
        assert str(error.value).endswith("use scope 'local' with the gradient at 'output'")


# Precision -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["closed", "propagated"])
@pytest.mark.parametrize("gradient", ["detached", "attached"])
def test_under_autocast_r_is_computed_in_float32_and_added_in_the_dtype_of_the_output(form: str, gradient: str) -> None:
    model = two_layers()
    reading = Reading(form, "layer_set", "slot", gradient)
    adversary = LayerwiseAdversary(model, ["1", "3"], Normal(0, 0.5), reading)
    twin = LayerwiseAdversary(model, ["1", "3"], Normal(0, 0.5), replace(reading, gradient="attached"))
    x, y = batch(0, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        plain = model(x)
        with adversary:
            assert torch.equal(model(x), plain)
            loss_of = cross_entropy
        with adversary, twin:
            loss = loss_of(model(x), y)
        loss.backward()
        adversary.update()  # inside autocast: R is formed in float32 all the same
        twin.update()
        R = adversary.perturbations
        terms = twin.state_dict()["terms"]  # what R is made of
        with adversary:
            out = model(x)
        h = model[1](x.flatten(1))
        h = model[2](h + R["1"].bfloat16())
        expected = model[3](h) + R["3"].bfloat16()
    assert plain.dtype == out.dtype == torch.bfloat16
    assert torch.equal(out, expected)
    assert not torch.equal(out, plain)
    for path, name in [([model[1]], "1"), ([model[1], model[3]], "3")]:
        assert R[name].dtype == torch.float32
        if form == "closed":
            radius = torch.ones(6)
            for module in path:
                radius = module.weight.detach().abs() @ radius
            exact = terms[name]["eps"] * radius * terms[name]["direction"]
        else:
            exact = terms[name]["eps"] * terms[name]["direction"]
            for module in path:
                exact = exact @ module.weight.detach().T
        assert torch.allclose(R[name], exact, rtol=1e-6, atol=1e-7)  # bfloat16 would be off by 4e-3


def test_observe_under_autocast_forms_r_in_float32() -> None:
    model = two_layers()
    adversary = LayerwiseAdversary(model, ["3"], 0.1, Reading("propagated", pairing="same", gradient="attached"))
    x, y = batch(0, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        adversary.observe(lambda: cross_entropy(model(x), y))
    term = adversary.state_dict()["terms"]["3"]
    assert adversary.perturbations["3"].dtype == term["direction"].dtype == torch.float32
    exact = (0.1 * term["direction"]) @ model[3].weight.detach().T
    assert torch.allclose(adversary.perturbations["3"], exact, rtol=1e-6, atol=1e-7)


def test_a_scaled_loss_changes_no_sign() -> None:
    found = []
    for scale in (1.0, 2.0**16):
        model = network()
        adversary = LayerwiseAdversary(model, NAMED, Normal(0, 0.1))
        x, y = batch(0)
        with adversary:
            loss = scale * cross_entropy(model(x), y)
        loss.backward()
        adversary.update()
        found.append(adversary.perturbations)
    assert all(torch.equal(found[0][name], found[1][name]) for name in NAMED)


@pytest.mark.parametrize("reading", [Reading(), Reading("propagated"), Reading(pairing="mean")], ids=str)
def test_a_gradient_that_overflows_leaves_a_finite_r_so_that_the_next_step_can_be_taken(reading: Reading) -> None:
    model = network()
    adversary = LayerwiseAdversary(model, NAMED, Normal(0, 0.1), reading)
    x, y = batch(0)
    with adversary:
        loss = cross_entropy(model(x), y) * torch.inf
    loss.backward()
    assert model.fc2.weight.grad is not None and not bool(model.fc2.weight.grad.isfinite().all())
    adversary.update()
    assert all(bool(r.isfinite().all()) for r in adversary.perturbations.values())
    assert bool(step(model, adversary, 1).isfinite().all())


# Resuming ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gradient", ["detached", "attached"])
@pytest.mark.parametrize("done", [0, 3])
def test_a_saved_state_resumes_bit_for_bit_in_the_middle_of_an_epoch(gradient: str, done: int, tmp_path: Path) -> None:
    def training(model: nn.Module, adversary: LayerwiseAdversary, optimizer: torch.optim.SGD, span: range) -> None:
        for t in span:
            x, y = batch(t, 3 if t == 2 else 4)  # one batch that does not fit, and after which none fits
            with adversary:
                loss = cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            adversary.update()
            optimizer.step()

    def fresh(seed: int) -> tuple[nn.Module, LayerwiseAdversary, torch.optim.SGD]:
        model = network()
        adversary = LayerwiseAdversary(model, NAMED, Normal(0, 0.1), Reading(gradient=gradient), seed=seed)
        return model, adversary, torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)

    whole = fresh(3)
    training(*whole, range(7))
    begun = fresh(3)
    training(*begun, range(done))
    torch.save([part.state_dict() for part in begun], tmp_path / "state.pt")
    resumed = fresh(0)  # another seed: the state brings its own
    for part, state in zip(resumed, torch.load(tmp_path / "state.pt", weights_only=True), strict=True):
        part.load_state_dict(state)
    training(*resumed, range(done, 7))
    assert whole[1].skipped == resumed[1].skipped == 2
    for a, b in zip(whole[0].parameters(), resumed[0].parameters(), strict=True):
        assert torch.equal(a, b)
    for name in NAMED:
        assert torch.equal(whole[1].perturbations[name], resumed[1].perturbations[name])


def test_a_saved_state_does_not_move_on_with_the_training() -> None:
    model = network()
    adversary = LayerwiseAdversary(model, NAMED, Normal(0, 0.1))
    step(model, adversary, 0)
    state = adversary.state_dict()
    kept = copy.deepcopy(state)
    step(model, adversary, 1)
    assert torch.equal(state["terms"]["fc2"]["perturbation"], kept["terms"]["fc2"]["perturbation"])
    assert torch.equal(state["generator"], kept["generator"])


@pytest.mark.parametrize(
    ("other", "complaint"),
    [
        ({"layers": ["fc3"]}, "its layers is 'fc2, fc4', and this adversary's 'fc3'"),
        ({"layers": NAMED[::-1]}, "its layers is 'fc2, fc4', and this adversary's 'fc4, fc2'"),
        ({"epsilon": Normal(0, 0.1)}, "its epsilon is 'fixed 0.1', and this adversary's 'normal 0.1 per sample'"),
        ({"reading": Reading(pairing="mean")}, "its pairing is 'slot', and this adversary's 'mean'"),
    ],
)
@pytest.mark.parametrize("begun", [False, True])
def test_the_state_of_another_adversary_is_refused(begun: bool, other: dict[str, Any], complaint: str) -> None:
    model = network()
    adversary = LayerwiseAdversary(model, NAMED, 0.1)
    if begun:
        step(model, adversary, 0)
    another = LayerwiseAdversary(**{"model": model, "layers": NAMED, "epsilon": 0.1} | other)
    with pytest.raises(PerturbationError) as error:
        another.load_state_dict(adversary.state_dict())
    assert complaint in str(error.value)


def test_what_is_no_state_is_refused() -> None:
    with pytest.raises(PerturbationError, match="state: it has no 'terms'; give what state_dict"):
        LayerwiseAdversary(network(), NAMED, 0.1).load_state_dict({})


# The same batch ------------------------------------------------------------------------------------------------------


def test_observe_leaves_the_parameters_gradients_as_they_are() -> None:
    model = network()
    adversary = LayerwiseAdversary(model, NAMED, 0.1, Reading(pairing="same"))
    x, y = batch(0)
    adversary.observe(lambda: cross_entropy(model(x), y))
    assert all(p.grad is None for p in model.parameters())
    cross_entropy(model(x), y).backward()
    before = [p.grad.clone() for p in model.parameters()]
    adversary.observe(lambda: cross_entropy(model(x), y))
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), before, strict=True))


def test_what_was_observed_serves_one_block() -> None:
    model = network()
    adversary = LayerwiseAdversary(model, NAMED, 0.1, Reading(pairing="same"))
    x, y = batch(0)
    adversary.observe(lambda: cross_entropy(model(x), y))
    with adversary:
        first = model(x)
    with adversary:
        second = model(x)
    assert not torch.equal(first, model(x))
    assert torch.equal(second, model(x))


def test_each_pairing_has_its_own_call_and_names_it() -> None:
    model = network()
    x, y = batch(0)
    with pytest.raises(PerturbationError, match=r"pairing 'same' takes R from observe\(\)"):
        LayerwiseAdversary(model, NAMED, 0.1, Reading(pairing="same")).update()
    with pytest.raises(PerturbationError, match=r"pairing 'slot' takes R from update\(\)"):
        LayerwiseAdversary(model, NAMED, 0.1).observe(lambda: cross_entropy(model(x), y))


def test_observing_what_the_model_did_not_make_is_an_error() -> None:
    model = network()
    x, y = batch(0)
    adversary = LayerwiseAdversary(model, NAMED, 0.1, Reading(pairing="same"))
    with pytest.raises(PerturbationError, match="must come from the model in training mode"):
        adversary.observe(lambda: torch.ones((), requires_grad=True) * 2)
    with pytest.raises(PerturbationError, match="must come from the model in training mode"):
        adversary.observe(lambda: cross_entropy(model.eval()(x), y))
    model.train()
    with pytest.raises(PerturbationError, match="before entering the block"), adversary:
        adversary.observe(lambda: cross_entropy(model(x), y))
    with pytest.raises(ZeroDivisionError):
        adversary.observe(lambda: model(x).sum() / (1 // 0))
    assert hooks(model) == 0


# Copies, compilers, processes ----------------------------------------------------------------------------------------


def test_a_deep_copy_has_its_own_model_and_goes_on_as_the_original() -> None:
    model = network()
    adversary = LayerwiseAdversary(model, NAMED, Normal(0, 0.1))
    step(model, adversary, 0)
    twin = copy.deepcopy(adversary)
    assert twin.model is not model
    for t in (1, 2):
        assert torch.equal(step(model, adversary, t), step(twin.model, twin, t))
    step(twin.model, twin, 3)
    assert not torch.equal(adversary.perturbations["fc2"], twin.perturbations["fc2"])
    assert is_plain(model, adversary)
    assert is_plain(twin.model, twin)


def test_a_model_and_its_adversary_are_copied_together() -> None:
    model = network()
    adversary = LayerwiseAdversary(model, NAMED, 0.1)
    other_model, other = copy.deepcopy((model, adversary))
    assert other.model is other_model


def test_deepcopy_inside_the_block_is_refused() -> None:
    model = network()
    adversary = LayerwiseAdversary(model, NAMED, 0.1)
    step(model, adversary, 0)
    with adversary:
        with pytest.raises(PerturbationError, match="deepcopy inside the block"):
            copy.deepcopy(adversary)
        with pytest.raises(SiteError, match="deepcopy inside the block"):
            copy.deepcopy(model)
    assert is_plain(copy.deepcopy(model), adversary)


def test_a_compiled_model_is_refused_by_name() -> None:
    with pytest.raises(SiteError, match=r"OptimizedModule is compiled by torch.compile, which ignores later hooks"):
        LayerwiseAdversary(torch.compile(network(), backend="eager"), NAMED, 0.1)
    model = network()
    model.compile(backend="eager")
    with pytest.raises(SiteError, match=r"MLP is compiled by torch.compile"):
        LayerwiseAdversary(model, NAMED, 0.1)
    model = network()
    model.fc2.compile(backend="eager")
    with pytest.raises(SiteError, match=r"module 'fc2' is compiled by torch.compile"):
        LayerwiseAdversary(model, NAMED, 0.1)


def test_data_parallel_is_refused_by_name() -> None:
    with pytest.raises(SiteError, match=r"DataParallel .* use DistributedDataParallel"):
        LayerwiseAdversary(nn.DataParallel(network()), NAMED, 0.1)


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    if not distributed.is_available() or not distributed.is_gloo_available():
        pytest.skip("NO GLOO: this torch cannot run DistributedDataParallel on the CPU, which is left untested")
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("one_process")
def test_distributed_data_parallel_is_unwrapped_and_trains_as_the_plain_network() -> None:
    plain = network()
    wrapped = nn.parallel.DistributedDataParallel(network())
    for model in (plain, wrapped):
        adversary = LayerwiseAdversary(model, NAMED, Normal(0, 0.1))
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for t in range(4):
            step(model, adversary, t)
            optimizer.step()
        assert adversary.skipped == 0
        assert hooks(adversary.model) == 0
    for a, b in zip(plain.parameters(), wrapped.parameters(), strict=True):
        assert torch.equal(a, b)
    for names in (["all"], ["fc2", "fc3"]):
        assert layer_set(wrapped, names) == layer_set(plain, names), "in the names that the adversary takes"
    with pytest.raises(bounds.BoundsError, match=r"DistributedDataParallel wraps the network; give .* model\.module"):
        bounds.radii(wrapped, (3,))


# Outside the block ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("raised", [RuntimeError, KeyboardInterrupt, GeneratorExit])
@pytest.mark.parametrize("when", ["before the pass", "after the pass", "in the pass"])
def test_the_model_is_plain_outside_the_block_whatever_was_raised_in_it(raised: type[BaseException], when: str) -> None:
    model = network()
    adversary = LayerwiseAdversary(model, NAMED, 0.1)
    step(model, adversary, 0)
    assert is_plain(model, adversary)

    def fail(module: nn.Module, inputs: object) -> None:
        raise raised

    handle = model.fc3.register_forward_pre_hook(fail) if when == "in the pass" else None
    with pytest.raises(raised), adversary:  # noqa: PT012 - what happens before it is raised is the point
        assert hooks(model)
        if when != "before the pass":
            model(batch(1)[0])
        raise raised
    if handle:
        handle.remove()
    assert is_plain(model, adversary)
    step(model, adversary, 2)
    assert is_plain(model, adversary)


def test_hooks_of_the_users_own_stay() -> None:
    model = network()
    calls: list[str] = []
    model.fc2.register_forward_hook(lambda *_: calls.append("mine"))
    adversary = LayerwiseAdversary(model, NAMED, 0.1)
    step(model, adversary, 0)
    model(batch(0)[0])
    assert calls == ["mine", "mine"]


def test_the_gradient_is_taken_before_an_activation_that_works_in_place() -> None:
    found = []
    for inplace in (False, True):
        model = network()
        model.relu2.inplace = inplace
        adversary = LayerwiseAdversary(model, ["fc2"], 0.1)
        same = LayerwiseAdversary(model, ["fc2"], 0.1, Reading(pairing="same"))
        x, y = batch(5)
        same.observe(lambda model=model, x=x, y=y: cross_entropy(model(x), y))
        step(model, adversary, 5)
        assert torch.equal(adversary.perturbations["fc2"], same.perturbations["fc2"])
        found.append(adversary.perturbations["fc2"])
    assert bool((found[0] == 0).any())
    assert torch.equal(found[0], found[1])
