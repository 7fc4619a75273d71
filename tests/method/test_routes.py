"""Which networks a wider scope can be followed through, and what is said of those that it cannot."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import cross_entropy

from lat import LayerwiseAdversary, PerturbationError, Reading, SiteError
from lat.cells import FORMS

Forward = Callable[["Parts", Tensor], Tensor]


class Parts(nn.Module):
    """Some layers for images (2, 4, 4), which `way` calls."""

    def __init__(self, way: Forward) -> None:
        super().__init__()
        self.conv, self.other, self.one = (
            nn.Conv2d(2, 2, 3, padding=1),
            nn.Conv2d(2, 2, 3, padding=1),
            nn.Conv2d(2, 2, 1),
        )
        self.bn, self.pool, self.relu = nn.BatchNorm2d(2), nn.MaxPool2d(2, stride=1, padding=1), nn.ReLU(inplace=True)
        self.odd, self.up, self.fc = nn.GroupNorm(1, 2), nn.ConvTranspose2d(2, 2, 2), nn.Linear(32, 3)
        self.circular = nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular")
        self.shift, self.narrow = nn.Parameter(torch.rand(2, 4, 4)), nn.AdaptiveAvgPool2d(1)
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        return self.way(self, x)


def head(m: Parts, h: Tensor) -> Tensor:
    return m.fc(h.flatten(1))


def dropped_in_between(m: Parts, x: Tensor) -> Tensor:
    h = functional.dropout(m.conv(x), 0.0)
    return head(m, functional.avg_pool2d(functional.relu(h), 1))


def changed(method: str, *given: float) -> Forward:
    """A statement whose value nobody takes."""

    def forward(m: Parts, x: Tensor) -> Tensor:
        h = m.conv(x)
        getattr(h, method)(*given)
        return head(m, h)

    return forward


def negated(m: Parts, x: Tensor) -> Tensor:
    h = m.conv(x)
    torch.neg_(h)
    return head(m, h)


def changed_view(m: Parts, x: Tensor) -> Tensor:
    h = m.conv(x)
    h.view(-1, 32).mul_(100.0)
    return head(m, h)


REFUSED: dict[str, tuple[Forward, str]] = {
    "a module": (lambda m, x: head(m, m.odd(m.conv(x))), "'odd', a GroupNorm, which radii cannot pass as it is called"),
    "a function": (lambda m, x: head(m, torch.tanh(m.conv(x))), r"'tanh' (tanh), which radii cannot pass"),
    "a method": (lambda m, x: m.fc(m.conv(x).view(-1, 32)), "'view' (view), which radii cannot pass"),
    "a product": (lambda m, x: head(m, m.conv(x) * 2), "'mul' (mul), which radii cannot pass"),
    "a weighted addition": (lambda m, x: head(m, torch.add(m.conv(x), x, alpha=2)), "'add' (add), which radii"),
    "an argument of a module": (lambda m, x: head(m, m.up(m.conv(x), [5, 5])), "'up', a ConvTranspose2d, which radii"),
    "a BatchNorm for two": (lambda m, x: head(m, m.bn(m.conv(m.bn(x)))), "'bn', a BatchNorm2d, is called more"),
    "a padding": (lambda m, x: head(m, m.circular(m.conv(x))), "'circular' is a Conv2d with padding_mode 'circular'"),
    "an overwritten value": (lambda m, x: head(m, m.relu(h := m.conv(x)) + h), "'relu' works in place on 'conv'"),
    "a statement in place": (changed("mul_", 100.0), "'mul_' works in place on 'conv', which is used again"),
    "a statement in place on a view": (changed_view, "'mul_' works in place on 'conv', which is used again"),
    "a function in place": (negated, "'neg_' works in place on 'conv', which is used again"),
    "nothing that can be traced": (lambda m, x: head(m, m.conv(x) if x.sum() > 0 else x), "Parts cannot be traced"),
}  # fmt: skip


def test_what_changes_the_input_before_the_network_sees_it_is_refused() -> None:
    model = Parts(lambda m, x: head(m, m.conv(x)))
    model.register_forward_pre_hook(lambda _, x: (20 * x[0],))
    with pytest.raises(SiteError, match="Parts has forward hooks, which may change its output; remove them first"):
        LayerwiseAdversary(model, ["fc"], 0.1, Reading(scope="network"))
    LayerwiseAdversary(model, ["fc"], 0.1)


@pytest.mark.parametrize("case", REFUSED)
def test_what_radii_cannot_pass_is_refused_by_name(case: str) -> None:
    way, said = REFUSED[case]
    with pytest.raises(SiteError) as error:
        LayerwiseAdversary(Parts(way), ["fc"], 0.1, Reading(scope="network"))
    assert said in str(error.value)
    LayerwiseAdversary(Parts(way), ["fc"], 0.1)


def test_only_what_lies_on_the_way_is_asked_for() -> None:
    """What comes before the start of a layer set, after the last of its layers, or from beside it may be anything."""

    def way(m: Parts, x: Tensor) -> Tensor:
        h = m.one(m.conv(torch.tanh(m.odd(x))) + m.shift)
        return torch.softmax(head(m, m.odd(h) if x is None else h + torch.exp(m.other(x))), 1)

    model = Parts(way).double()
    LayerwiseAdversary(model, ["conv", "fc"], 0.1, Reading(scope="layer_set"))
    with pytest.raises(SiteError, match="'odd', a GroupNorm"):
        LayerwiseAdversary(model, ["conv"], 0.1, Reading(scope="network"))
    with pytest.raises(SiteError, match=r"'tanh' \(tanh\)|'exp' \(exp\)|'odd'"):
        LayerwiseAdversary(model, ["fc"], 0.1, Reading(scope="network"))


def test_what_leads_to_no_layer_may_start_at_the_input_and_be_overwritten() -> None:
    def way(m: Parts, x: Tensor) -> tuple[Tensor, Tensor]:
        h = m.other(x)
        return head(m, m.conv(x)), m.relu(h) + h

    for form in FORMS:
        LayerwiseAdversary(Parts(way), ["fc"], 0.1, Reading(form, "network"))


def test_what_joins_from_elsewhere_has_no_radius() -> None:
    """The other branch, a parameter and a number are added; the radius behind is that of the first branch alone."""
    found = []
    for way in (
        lambda m, x: head(m, m.conv(x)),
        lambda m, x: head(m, m.conv(x) + m.other(x)),
        lambda m, x: head(m, m.shift + m.conv(x)),
        lambda m, x: head(m, 1 + m.conv(x)),
        dropped_in_between,
    ):
        torch.manual_seed(0)
        model = Parts(way).double()
        adversary = LayerwiseAdversary(model, ["conv", "fc"], 0.1, Reading(scope="layer_set"))
        with adversary:
            out = model(torch.rand(3, 2, 4, 4, dtype=torch.float64))
        out.sum().backward()
        adversary.update()
        found.append(adversary.perturbations["fc"])
    assert all(torch.allclose(found[0], other, rtol=1e-12, atol=0) for other in found[1:])


def test_a_branch_that_is_taken_twice_counts_twice() -> None:
    found = []
    for way in (lambda m, x: head(m, m.conv(x)), lambda m, x: head(m, (h := m.conv(x)) + h)):
        torch.manual_seed(0)
        model = Parts(way).double()
        adversary = LayerwiseAdversary(model, ["fc"], 0.1, Reading(scope="network"))
        with adversary:
            out = model(torch.rand(3, 2, 4, 4, dtype=torch.float64))
        out.sum().backward()
        adversary.update()
        found.append(adversary.perturbations["fc"])
    assert torch.allclose(found[1], 2 * found[0], rtol=1e-12, atol=0)


class Kept(nn.Conv2d):
    """A subclass that keeps torch's forward."""


def test_layers_of_subclasses_that_keep_torchs_forward_are_perturbed_and_passed() -> None:
    model = nn.Sequential(Kept(1, 2, 2), nn.ReLU(), Kept(2, 2, 2), nn.Flatten(), nn.Linear(8, 3)).double()
    adversary = LayerwiseAdversary(model, ["0", "4"], 0.5, Reading(scope="network"))
    with adversary:
        out = model(torch.rand(2, 1, 4, 4, dtype=torch.float64))
    out.sum().backward()
    adversary.update()
    radius = torch.ones(1, 1, 4, 4, dtype=torch.float64)
    for module in (model[0], model[2]):
        radius = functional.conv2d(radius, module.weight.detach().abs())
    expected = 0.5 * radius.flatten() @ model[4].weight.detach().abs().T
    assert torch.allclose(adversary.perturbations["4"], expected.expand(2, 3), rtol=1e-12, atol=0)


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        return self.c(self.a(x) + self.b(z))


def test_the_scope_network_starts_at_one_input_that_leads_to_every_layer() -> None:
    network = Reading(scope="network")
    with pytest.raises(SiteError, match=r"scope 'network' starts at one input; .* from 2, 'x', 'z'; use scope 'local'"):
        LayerwiseAdversary(TwoInputs(), ["c"], 0.1, network)
    LayerwiseAdversary(TwoInputs(), ["a"], 0.1, network)
    LayerwiseAdversary(TwoInputs(), ["b", "c"], 0.1, Reading(scope="layer_set"))
    apart = Parts(lambda m, x: head(m, m.conv(x) + m.other(m.shift[None])))
    with pytest.raises(SiteError, match=r"layers: 'other' takes nothing of the network's input; use scope 'local'"):
        LayerwiseAdversary(apart, ["fc", "other"], 0.1, network)


@pytest.mark.parametrize("scope", ["layer_set", "network"])
def test_a_perturbed_layer_that_is_called_twice_is_refused_and_one_on_the_way_is_passed(scope: str) -> None:
    model = Parts(lambda m, x: head(m, m.one(m.conv(m.conv(m.one(x))))))
    with pytest.raises(SiteError, match="'conv' is called twice in one forward pass; a perturbation needs one call"):
        LayerwiseAdversary(model, ["conv", "fc"], 0.1, Reading(scope=scope))
    LayerwiseAdversary(model, ["fc"], 0.1, Reading(scope=scope))


def test_an_addition_that_broadcasts_what_moves_is_an_error_that_says_so() -> None:
    model = Parts(lambda m, x: head(m, m.one(m.narrow(m.conv(x)) + m.other(x))))
    for form in FORMS:
        adversary = LayerwiseAdversary(model, ["conv", "one"], 0.1, Reading(form, "layer_set"))
        with adversary:
            loss = cross_entropy(model(torch.rand(3, 2, 4, 4)), torch.tensor([0, 1, 2]))
        loss.backward()
        with pytest.raises(
            SiteError, match=r"'one' takes inputs of shape \(2, 4, 4\), .* shape \(2, 1, 1\): an addition"
        ):
            adversary.update()


# The propagated form --------------------------------------------------------------------------------------------------


def test_the_propagated_form_needs_max_pooling_as_a_module_that_is_called_once() -> None:
    propagated = Reading("propagated", "network")
    function = Parts(lambda m, x: head(m, functional.max_pool2d(m.conv(x), 1)))
    with pytest.raises(SiteError, match=r"'max_pool2d' \(.*max_pool2d\), whose maxima .* write it as nn.MaxPool1d"):
        LayerwiseAdversary(function, ["fc"], 0.1, propagated)
    LayerwiseAdversary(function, ["fc"], 0.1, Reading(scope="network"))
    twice = Parts(lambda m, x: head(m, m.one(m.pool(m.pool(m.conv(x))))[..., :4, :4]))
    with pytest.raises(SiteError):
        LayerwiseAdversary(twice, ["fc"], 0.1, propagated)
    with pytest.raises(SiteError, match="'pool', a MaxPool2d, is called more than once, on inputs that R depends on"):
        LayerwiseAdversary(twice, ["one"], 0.1, propagated)
    LayerwiseAdversary(twice, ["one"], 0.1, Reading(scope="network"))


def test_the_propagated_form_asks_that_the_input_reaches_its_first_layer_unchanged() -> None:
    propagated = Reading("propagated", "network")
    with pytest.raises(SiteError, match=r"'bn' lies between the network's input and its first layer, .* 'layer_set'"):
        LayerwiseAdversary(Parts(lambda m, x: head(m, m.conv(m.bn(x)))), ["fc"], 0.1, propagated)
    with pytest.raises(SiteError, match="here 'conv', 'add' each start"):
        LayerwiseAdversary(Parts(lambda m, x: head(m, m.conv(x) + x)), ["fc"], 0.1, propagated)
    LayerwiseAdversary(Parts(lambda m, x: head(m, m.conv(functional.dropout(x)))), ["fc"], 0.1, propagated)
    LayerwiseAdversary(Parts(lambda m, x: head(m, m.conv(m.bn(x)))), ["fc"], 0.1, Reading(scope="network"))
    pushed = Reading("propagated", "network", source="cw")
    adversary = LayerwiseAdversary(Parts(lambda m, x: head(m, m.conv(x) + x)), ["fc"], 0.1, pushed)
    with pytest.raises(PerturbationError, match="for the next block"), adversary:
        adversary.push(torch.zeros(1, 2, 4, 4))


def test_the_layers_of_rows_of_rows_have_one_radius_a_row() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2)).double()
    for scope in ("layer_set", "network"):
        adversary = LayerwiseAdversary(model, ["0", "2"], 0.5, Reading(scope=scope))
        with adversary:
            out = model(torch.rand(4, 5, 3, dtype=torch.float64))
        out.sum().backward()
        adversary.update()
        radius = model[2].weight.abs() @ model[0].weight.abs().sum(1)
        assert torch.allclose(adversary.perturbations["2"], 0.5 * radius.expand(4, 5, 2), rtol=1e-12, atol=0)
