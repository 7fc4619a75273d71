"""Bounds through networks: never broken, attained where they can be, ordered, and refused by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps

import pytest
import torch
from bounded_networks import (
    SIZE,
    Mixed,
    beyond,
    broken_intervals,
    broken_radii,
    outputs,
    points,
    random_network,
    settled,
)
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from lat import bounds, equations
from lat.bounds import BoundsError, operations, primitives
from lat.models import build

SEEDS = st.integers(0, 2**32 - 1)


def batch(seed: int, size: tuple[int, ...] = SIZE, count: int = 3) -> Tensor:
    return torch.randn(count, *size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Function(nn.Module):
    """A network whose forward pass is a function of its input and of one fully connected layer."""

    def __init__(self, function: Callable[..., Tensor], size: int = 4) -> None:
        super().__init__()
        self.layer = nn.Linear(size, size)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.layer)


def positive_network(kind: str) -> nn.Module:
    """A network of each supported module, whose units all rise with their inputs."""
    axes = int(kind[0]) if kind[0].isdigit() else 2
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1]
    transposed = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[axes - 1]
    norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[axes - 1]
    largest = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)[axes - 1]
    average = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)[axes - 1]
    adaptive = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)[axes - 1]
    dropout = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)[axes - 1]
    units = 3 * 2**axes
    if kind == "linear":
        layers = [
            nn.Flatten(), nn.Linear(128, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(), nn.AlphaDropout(),
            nn.Linear(5, 3),
        ]  # fmt: skip
    elif kind == "mixed":
        return settled(Mixed(["block", "max", "bn", "conv", "functions", "average"]), 1, positive=True)
    else:
        layers = [
            conv(2, 3, 3, padding=1), norm(3), nn.ReLU(), largest(2), conv(3, 3, 2, stride=2, padding=1, dilation=2),
            nn.Identity(), average(2, 1, 1, count_include_pad=False), dropout(), nn.FeatureAlphaDropout(), adaptive(2),
            transposed(3, 3, 2, stride=2, padding=1), nn.Flatten(), nn.LazyLinear(units), nn.ReLU(),
        ]  # fmt: skip
    return nn.Sequential(*layers)


KINDS = ["linear", "1d", "2d", "3d", "mixed"]


def attained(kind: str) -> tuple[nn.Module, Tensor, list[Tensor]]:
    """A positive network, an input, and the two corners of its ball of radius 1 at which all units have moved most.

    The input is the same large number everywhere, so that the largest unit of a window is the one that moves most.
    """
    model = positive_network(kind)
    size = (2, *[8] * int(kind[0])) if kind[0].isdigit() else SIZE
    if kind != "mixed":
        model.double()(batch(0, size))  # what is lazy takes its size
        model = settled(model, 1, positive=True)
    x = torch.full((1, *size), 2.0**16, dtype=torch.float64)
    return model, x, points(x, 1.0, 0, 0)


# Radii ---------------------------------------------------------------------------------------------------------------


def test_the_positive_networks_hold_every_module_that_bounds_pass() -> None:
    modules = [module for kind in KINDS for module in attained(kind)[0].modules()]
    assert {type(module) for module in modules} >= set(operations.MODULES)


@pytest.mark.parametrize("kind", KINDS)
def test_radii_are_attained_at_every_site_where_all_weights_are_positive(kind: str) -> None:
    model, x, (up, _) = attained(kind)
    radius, before, after = bounds.radii(model, x.shape[1:]), outputs(model, x), outputs(model, up)
    leaves = {name for name, module in model.named_modules() if not list(module.children())}
    assert set(radius) == leaves & set(before) | {""}, "every module that was called"
    for site, value in radius.items():
        torch.testing.assert_close(after[site][0] - before[site][0], value, rtol=1e-6, atol=0)


def test_radii_of_a_linear_stack_are_the_paper_s_closed_stack() -> None:
    model = settled(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3), nn.ReLU(), nn.Linear(3, 2)), 2)
    radius = bounds.radii(model, (4,), eps=0.25)
    weights = [model[number].weight for number in (0, 2, 4)]
    for count, site in enumerate("024", start=1):
        assert torch.allclose(radius[site], 0.25 * equations.closed_stack_radius(weights[:count]), rtol=1e-12)


def test_radii_of_a_convolutional_stack_are_the_paper_s_and_start_the_fully_connected_layers() -> None:
    convs = [nn.Conv2d(2, 3, 3, padding=1, bias=False), nn.Conv2d(3, 4, 2, stride=2)]
    model = settled(nn.Sequential(convs[0], nn.ReLU(), convs[1], nn.Flatten(), nn.Linear(64, 3)), 3)
    radius = bounds.radii(model, SIZE)
    at = [equations.Geometry((1, 1), (1, 1), (1, 1)), equations.Geometry((2, 2), (0, 0), (1, 1))]
    layers = [(conv.weight, how) for conv, how in zip(convs, at, strict=True)]
    stack = equations.convolution_closed_stack_radius(layers, SIZE[1:])
    assert torch.allclose(radius["2"], stack, rtol=1e-12)
    fully = equations.closed_stack_radius([model[4].weight], stack.flatten())
    assert torch.allclose(radius["4"], fully, rtol=1e-12)


@given(SEEDS, SEEDS)
@example(5, 0)
def test_no_unit_moves_further_than_its_radius(seed: int, at: int) -> None:
    model, x = random_network(seed), batch(at)
    assert broken_radii(model, x, 0.5, points(x, 0.5, 4, at)) == []


def test_on_a_linear_network_the_radius_is_no_less_than_the_exact_dual_norm() -> None:
    model = settled(nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3)), 4)
    with torch.no_grad():
        exact = [model[0].weight.abs().sum(1), (model[1].weight @ model[0].weight).abs().sum(1)]
    radius = bounds.radii(model, (4,))
    assert torch.allclose(radius["0"], exact[0], rtol=1e-12)
    assert bool((radius["1"] >= exact[1]).all())
    assert bool((radius["1"] > 1.01 * exact[1]).any()), "eq. (7) is no equality"


def test_radii_scale_with_eps_and_carry_the_gradient_of_the_weights() -> None:
    model = random_network(6)
    one, third = bounds.radii(model, SIZE), bounds.radii(model, SIZE, 0.375)
    assert all(torch.allclose(0.375 * one[site], third[site], rtol=1e-12) for site in one)
    assert not any(value.any() for value in bounds.radii(model, SIZE, 0.0).values())
    layer = settled(nn.Sequential(nn.Linear(3, 2)), 7)
    bounds.radii(layer, (3,), 2.0)["0"].sum().backward()
    assert torch.equal(layer[0].weight.grad, 2 * layer[0].weight.sign())


def test_radii_have_the_dtype_of_the_model_and_leave_it_as_it_is() -> None:
    model = build("4fc", (1, 4, 4), 10, 6, seed=0)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    radius = bounds.radii(model, (1, 4, 4))
    assert list(radius) == ["flatten", "fc1", "relu1", "fc2", "relu2", "fc3", "relu3", "fc4", ""]
    assert {value.dtype for value in radius.values()} == {torch.float32}
    assert model.training
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


# Intervals -----------------------------------------------------------------------------------------------------------


@given(SEEDS, SEEDS)
def test_no_unit_leaves_its_interval(seed: int, at: int) -> None:
    model, x = random_network(seed), batch(at)
    assert broken_intervals(model, x, 0.5, [x, *points(x, 0.5, 4, at)]) == []


@given(SEEDS, SEEDS, st.sampled_from([0.01, 0.1, 1.0]))
def test_intervals_never_reach_beyond_the_radius_from_the_clean_output(seed: int, at: int, eps: float) -> None:
    model, x = random_network(seed), batch(at)
    radius, clean = bounds.radii(model, SIZE, eps), outputs(model, x)
    for site, (low, high) in bounds.intervals(model, x - eps, x + eps).items():
        wide = radius[site].expand_as(low)
        assert not beyond((high - low) / 2, wide), site
        if site in clean:
            assert not beyond(clean[site] - low, wide), site
            assert not beyond(high - clean[site], wide), site


@pytest.mark.parametrize("kind", KINDS)
def test_intervals_are_attained_at_every_site_where_all_weights_are_positive(kind: str) -> None:
    model, x, (up, down) = attained(kind)
    highest, lowest = outputs(model, up), outputs(model, down)
    for site, (low, high) in bounds.intervals(model, x - 1, x + 1).items():
        torch.testing.assert_close(low, lowest[site], rtol=1e-12, atol=0)
        torch.testing.assert_close(high, highest[site], rtol=1e-12, atol=0)


def test_the_interval_of_a_point_is_the_network_s_output() -> None:
    model, x = random_network(8), batch(8)
    low, high = bounds.intervals(model, x, x)[bounds.OUTPUT]
    assert torch.allclose(low, model(x), rtol=1e-10, atol=1e-10)
    assert torch.equal(low, high)


def test_intervals_know_which_relus_are_off_and_radii_do_not() -> None:
    model = settled(nn.Sequential(nn.Linear(1, 1), nn.ReLU()), 0)
    model[0].weight.data.fill_(1.0), model[0].bias.data.fill_(-2.0)
    x = torch.zeros(1, 1, dtype=torch.float64)
    low, high = bounds.intervals(model, x - 1, x + 1)["1"]
    assert (low.item(), high.item()) == (0.0, 0.0)
    assert bounds.radii(model, (1,))["1"].item() == 1.0


# Graphs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "function",
    [
        lambda x, layer: x + layer(x),
        lambda x, layer: torch.add(layer(x), x),
        lambda x, layer: layer(x).add(x).relu(),
        lambda x, layer: torch.relu(layer(x)) + functional.relu(x),
        lambda x, layer: layer(layer(x).relu()) + x + x,
        lambda x, layer: functional.relu(layer(x), inplace=True) + x,
        lambda x, layer: layer(torch.flatten(x, 1)) + x.flatten(start_dim=1),
        lambda x, layer: layer(functional.dropout(layer(x), training=layer.training)) + functional.alpha_dropout(x),
    ],
)  # fmt: skip
def test_additions_functions_and_methods_are_passed(function: Callable[..., Tensor]) -> None:
    model, x = settled(Function(function), 9), batch(9, (4,))
    moved = points(x, 0.5, 50, 9)
    assert broken_radii(model, x, 0.5, moved) == []
    assert broken_intervals(model, x, 0.5, moved) == []


@pytest.mark.parametrize(
    ("function", "module"),
    [
        (lambda x, _: functional.max_pool2d(x, 2, 1, 1), nn.MaxPool2d(2, 1, 1)),
        (lambda x, _: functional.max_pool2d(x, kernel_size=3, ceil_mode=True), nn.MaxPool2d(3, ceil_mode=True)),
        (lambda x, _: torch.max_pool2d(x, 2), nn.MaxPool2d(2)),
        (lambda x, _: functional.avg_pool2d(x, 3, 2, 1), nn.AvgPool2d(3, 2, 1)),
        (lambda x, _: functional.avg_pool2d(x, 2, divisor_override=3), nn.AvgPool2d(2, divisor_override=3)),
        (lambda x, _: functional.adaptive_avg_pool2d(x, 2), nn.AdaptiveAvgPool2d(2)),
    ],
)
def test_a_pooling_function_is_bounded_as_its_module(function: Callable[..., Tensor], module: nn.Module) -> None:
    low = batch(10)
    models = (Function(function).double().eval(), nn.Sequential(module).eval())
    found, wanted = (bounds.intervals(model, low, low + 1)[""] for model in models)
    assert torch.equal(found[0], wanted[0]) and torch.equal(found[1], wanted[1])


def test_a_module_that_is_called_twice_is_passed_but_has_no_entry() -> None:
    model = settled(Function(lambda x, layer: layer(layer(x))), 11)
    radius = bounds.radii(model, (4,))
    assert set(radius) == {""}
    w = model.layer.weight.abs()
    assert torch.allclose(radius[""], w @ w.sum(1), rtol=1e-12)


# The tests themselves ------------------------------------------------------------------------------------------------

WRONG_RADII = {
    "relu_radius": lambda radius: radius / 2,
    "scale_radius": lambda scale, radius: scale * radius,
    "sum_radius": torch.maximum,
    "linear_radius": lambda w, radius: 0.99 * radius @ w.abs().T,
    "convolution_radius": lambda w, at, radius: equations.convolution(w, radius, at),
    "pooled_radius": lambda pool, radius: pool(radius) * (0.5 if pool(radius).dim() == 4 else 1),
}


@pytest.mark.parametrize("name", WRONG_RADII)
def test_a_wrong_radius_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, moved = attained("mixed")
    if name in ("scale_radius", "convolution_radius"):
        with torch.no_grad():
            for parameter in (model.stages[0].bn1.weight, model.first.weight):
                parameter[1] *= -1
    assert broken_radii(model, x, 1.0, moved) == []
    monkeypatch.setattr(primitives, name, WRONG_RADII[name])
    assert broken_radii(model, x, 1.0, moved) != []


WRONG_INTERVALS = {
    "relu_interval": lambda low, high: (low.relu(), high.relu() - (high - low) / 4),
    "scale_interval": lambda scale, shift, low, high: (scale * low + shift, scale * high + shift),
    "sum_interval": lambda low, high, other_low, other_high: (low + other_high, high + other_low),
    "linear_interval": lambda w, b, low, high: (low @ w.T + b, high @ w.T + b),
    "convolution_interval": lambda w, b, at, low, high: tuple(
        equations.convolution(w, end, at) + (0 if b is None else b.view(-1, 1, 1)) for end in (low, high)
    ),
    "pooled_interval": lambda pool, low, high: (pool(low), pool((low + high) / 2)),
}


@pytest.mark.parametrize("name", WRONG_INTERVALS)
def test_a_wrong_interval_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, moved = attained("mixed")
    with torch.no_grad():
        for parameter in (model.stages[0].bn1.weight, model.first.weight, model.hidden.weight):
            parameter[1] *= -1
    assert broken_intervals(model, x, 1.0, moved) == []
    monkeypatch.setattr(primitives, name, WRONG_INTERVALS[name])
    assert broken_intervals(model, x, 1.0, moved) != []


# Refusals ------------------------------------------------------------------------------------------------------------


def hooked(name: str = "0") -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4)))
    model.get_submodule(name).register_forward_hook(lambda _, __, y: 2 * y)
    return model


def scaled_first(name: str = "") -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4)))
    model.get_submodule(name).register_forward_pre_hook(lambda _, x: (20 * x[0],))
    return model


def replaced(name: str) -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4)))
    part = model.get_submodule(name)
    plain = part.forward
    part.forward = lambda x: -plain(x)  # type: ignore[method-assign, assignment]
    return model


def shifted(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @wraps(forward)
    def wrapper(self: nn.Module, x: Tensor) -> Tensor:
        return forward(self, x - 0.5)

    return wrapper


class Wrapped(nn.Module):
    """A forward whose wrapper does more than it, and looks like it to `inspect.unwrap`."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    @shifted
    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layer(x)
        return found


def branching(x: Tensor, layer: nn.Module) -> Tensor:
    return layer(x) if x.sum() > 0 else layer(-x)


def overwritten(x: Tensor, layer: nn.Module) -> Tensor:
    h = layer(x)
    return functional.relu(h, inplace=True) + h


def overwritten_through_a_view(x: Tensor, layer: nn.Module) -> Tensor:
    h = layer(x)
    return h.flatten(1).relu_() + h


def overwritten_through_dropout(x: Tensor, layer: nn.Module) -> Tensor:
    h = layer(x)
    return functional.dropout(h, 0.5, False).relu_() + h


def overwritten_sum(x: Tensor, layer: nn.Module) -> Tensor:
    h = layer(x)
    total = h
    total += x
    return total + h


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        (
            nn.Sequential(nn.Linear(4, 4), nn.Tanh()),
            "'1' is a Tanh, which bounds cannot pass; they pass modules: Linear",
        ),
        (nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)), "'1' is a LayerNorm, which bounds cannot pass"),
        (nn.Sequential(nn.BatchNorm1d(4)), "'0' is a BatchNorm1d in train mode"),
        (nn.Sequential(nn.Dropout()), "'0' is a Dropout in train mode"),
        (nn.Sequential(nn.BatchNorm1d(4, track_running_stats=False)).eval(), "'0' normalises with the statistics of"),
        (hooked(), "module '0' has forward hooks, which may change its output; remove them first"),
        (hooked("1"), "module '1' has forward hooks"),
        (scaled_first(), "Sequential has forward hooks"),
        (scaled_first("1.0"), "module '1.0' has forward hooks"),
        (replaced(""), "Sequential has a forward that was set on it, and not on its class"),
        (replaced("1"), "module '1' has a forward that was set on it"),
        (replaced("1.0"), "module '1.0' has a forward that was set on it"),
        (Wrapped(), "'sub' (sub) is an operation that bounds cannot pass"),
        (nn.Sequential(Wrapped()), "'sub' (sub) is an operation that bounds cannot pass"),
        (torch.compile(nn.Linear(4, 4), backend="eager"), "OptimizedModule is compiled by torch.compile"),
        (nn.Linear(4, 4), "'weight' is a tensor that the forward pass uses by itself"),
        (Function(lambda x, layer: torch.tanh(layer(x))), "'tanh' (tanh) is an operation that bounds cannot pass"),
        (Function(lambda x, layer: layer(x).sigmoid()), "'sigmoid' (sigmoid) is an operation"),
        (Function(lambda x, layer: layer(x) * x), "'mul' (mul) is an operation"),
        (Function(lambda x, layer: layer(x) + 1), "'add' (add) is an operation"),
        (Function(lambda x, layer: 1 + layer(x)), "'add' (add) is not called on layers' outputs as its first"),
        (Function(lambda x, layer: torch.add(layer(x), x, alpha=2)), "'add' (add) is an operation"),
        (Function(lambda x, layer: torch.cat([layer(x), x])), "'cat' (cat) is not called on layers' outputs"),
        (Function(lambda x, layer: layer(x).flatten()), "'flatten' flattens the examples of a batch into one"),
        (Function(lambda x, layer: x + x.flatten(1).mean(1, keepdim=True)), "'mean' (mean) is an operation"),
        (Function(lambda x, layer: (layer(x), x)), "the network returns (layer, x)"),
        (Function(branching), "Function cannot be traced"),
        (Function(overwritten), "'relu' works in place on 'layer', which is used again; take inplace=False"),
        (Function(overwritten_through_a_view), "'relu_' works in place on 'layer', which is used again"),
        (Function(overwritten_through_dropout), "'relu_' works in place on 'layer', which is used again"),
        (Function(lambda x, layer: functional.dropout(layer(x))), "'dropout' (dropout) is called for training, where"),
        (
            Function(lambda x, layer: functional.feature_alpha_dropout(layer(x), 0.5, layer.training)),
            "'feature_alpha_dropout' (feature_alpha_dropout) is called for training",
        ),
        (Function(overwritten_sum), "'iadd' works in place on 'layer', which is used again"),
    ],
)
def test_what_bounds_cannot_pass_is_refused_by_name(model: nn.Module, complaint: str) -> None:
    x = batch(0, (4,)).float()
    for refused in (partial(bounds.radii, model, (4,)), partial(bounds.intervals, model, x, x)):
        with pytest.raises(BoundsError) as error:
            refused()
        assert complaint in str(error.value)


@pytest.mark.parametrize(
    ("layer", "complaint"),
    [
        (nn.Conv2d(2, 2, 3, padding_mode="circular"), "'0': padding_mode: 'circular' is not covered by eq. (8)"),
        (nn.Conv2d(2, 2, 2, padding="same"), "'0': padding: 'same' pads one side more than the other"),
        (nn.MaxPool2d(2, return_indices=True), "'0': return_indices gives two outputs"),
        (nn.AvgPool2d(2, divisor_override=-2), "'0': divisor_override is -2; bounds need a positive divisor"),
        (nn.Flatten(0), "'0' flattens the examples of a batch into one"),
        (nn.Bilinear(2, 2, 2), "'0' is a Bilinear, which bounds cannot pass"),
        (Function(lambda x, _: functional.max_pool2d(x, 2, return_indices=True)[0]), "(max_pool2d_with_indices) is"),
        (Function(lambda x, _: functional.avg_pool2d(x, 2, 2, 0, False, True, -1)), "divisor_override is -1"),
        (Function(lambda x, _: x + functional.max_pool2d(x, 2)), "'add' adds outputs of the shapes (2, 8, 8) and"),
    ],
)  # fmt: skip
def test_a_layer_set_so_that_it_has_no_bound_is_refused_by_name(layer: nn.Module, complaint: str) -> None:
    with pytest.raises(BoundsError) as error:
        bounds.radii(nn.Sequential(layer), SIZE)
    assert complaint in str(error.value)


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_a_padding_by_name_is_passed(padding: str) -> None:
    model, x = settled(nn.Sequential(nn.Conv2d(2, 2, 3, padding=padding)), 12), batch(12)
    assert bounds.radii(model, SIZE)["0"].shape == model(x).shape[1:]
    assert broken_intervals(model, x, 0.5, points(x, 0.5, 4, 12)) == []


@pytest.mark.parametrize("eps", [-0.1, float("nan"), float("inf")])
def test_an_eps_that_is_no_radius_is_refused(eps: float) -> None:
    with pytest.raises(BoundsError, match=r"eps: .* is no radius"):
        bounds.radii(nn.Sequential(nn.Linear(4, 4)), (4,), eps)


def test_hooks_beside_the_forward_pass_are_no_matter() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    plain = bounds.radii(model, (4,))[""]
    model[0].register_full_backward_hook(lambda *_: None)
    model.unused = nn.Identity()
    assert torch.equal(bounds.radii(nn.Sequential(model[0]), (4,))[""], plain)


def test_ends_that_bound_no_box_are_refused() -> None:
    model, x = settled(nn.Sequential(nn.Linear(4, 4)), 0), batch(0, (4,))
    with pytest.raises(BoundsError, match=r"low, high: .*float32; give the dtype of the model, torch.float64"):
        bounds.intervals(model, x.float(), x.float())
    for low, high in [(x, x - 1), (x, x * torch.nan)]:
        with pytest.raises(BoundsError, match="low, high: low > high or no number somewhere"):
            bounds.intervals(model, low, high)
