"""Sites: which layers can be named, which networks are chains, and what a tap sees, changes and leaves behind."""

from __future__ import annotations

import copy

import pytest
import torch
from plain_network import batch, network
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from lat.sites import SiteError, Tap, activation_after, chain, layer, refuse_compiled


class Functional(nn.Module):
    """A chain whose flatten and ReLUs are functions and methods, and which drops out."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.same, self.drop = nn.Identity(), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        h = functional.relu(self.a(torch.flatten(x, 1)))
        return self.c(self.drop(torch.relu(self.same(self.b(h)).relu())))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(x + self.a(x))


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(torch.relu(self.a(x.flatten(1))))


class Branching(nn.Module):
    """Reads its input's values, which cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) if x.sum() > 0 else self.a(-x)


def test_a_layer_is_found_by_its_dotted_name() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(6, 3)))
    assert layer(model, "1.0") is model[1][0]


@pytest.mark.parametrize("name", ["fc9", "", "fc1.weight"])
def test_a_name_that_is_no_layer_is_refused_with_the_layers_there_are(name: str) -> None:
    with pytest.raises(SiteError, match=r"is no layer of MLP; it has fc1, fc2, fc3, fc4") as error:
        layer(network(), name)
    assert repr(name) in str(error.value)


def test_a_layer_of_another_kind_is_refused_by_its_kind() -> None:
    with pytest.raises(
        SiteError, match=r"'relu2' is a ReLU, which cannot be perturbed; name one of fc1, fc2, fc3, fc4"
    ):
        layer(network(), "relu2")


class Scaled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 100 * super().forward(x)


class Standardised(nn.Conv2d):
    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(x, weight - weight.mean(), bias)


class Kept(nn.Conv2d):
    """A subclass that keeps torch's forward."""


def replaced() -> nn.Linear:
    module = nn.Linear(2, 2)
    module.forward = lambda x: x  # type: ignore[method-assign]
    return module


@pytest.mark.parametrize(
    ("module", "complaint"),
    [
        (Scaled(2, 2), "'0' is a Scaled, whose forward is not that of nn.Linear"),
        (Standardised(1, 1, 1), "'0' is a Standardised, whose forward is not that of nn.Conv2d"),
        (replaced(), "'0' is a Linear, whose forward is not that of nn.Linear"),
        (parametrizations.spectral_norm(nn.Linear(2, 2)), "'0' has spectral_norm, whose power iteration goes on"),
    ],
    ids=lambda case: type(case).__name__,
)
def test_a_layer_that_does_not_compute_by_its_weight_alone_is_refused_by_name(
    module: nn.Module, complaint: str
) -> None:
    with pytest.raises(SiteError) as error:
        layer(nn.Sequential(module), "0")
    assert complaint in str(error.value)


def test_a_layer_of_a_subclass_that_keeps_torchs_forward_is_one_also_where_its_weight_is_parametrized() -> None:
    model = nn.Sequential(Kept(1, 2, 1), parametrizations.weight_norm(nn.Conv2d(2, 2, 1)))
    assert [layer(model, name) for name in ("0", "1")] == list(model)
    assert [name for name, _ in chain(model)] == ["0", "1"]


def test_a_chain_lists_the_modules_in_forward_order_and_passes_over_functions() -> None:
    assert [name for name, _ in chain(Functional())] == ["a", "b", "same", "drop", "c"]
    assert [name for name, _ in chain(network())] == [
        "flatten", "fc1", "relu1", "fc2", "relu2", "fc3", "relu3", "fc4",
    ]  # fmt: skip


def test_convolutions_are_links_of_a_chain_like_fully_connected_layers() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Conv2d(2, 1, 1), nn.ReLU(), nn.Flatten(), nn.Linear(6, 3))
    order = chain(model)
    assert [name for name, _ in order] == ["0", "1", "2", "3", "4", "5"]
    assert [activation_after(order, name) for name in ("0", "2", "5")] == ["1", "3", "5"]


def test_a_chain_is_traced_beneath_what_wraps_a_forward() -> None:
    """Under pytest the networks of lat check the types of their arguments, which are no tensors while fx traces."""
    model = nn.Sequential(network())
    assert hasattr(type(model[0]).forward, "__wrapped__")
    assert [name for name, _ in chain(model)][::2] == ["0.flatten", "0.relu1", "0.relu2", "0.relu3"]


def test_a_chain_follows_the_forward_pass_and_not_the_order_of_definition() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.first = nn.Linear(4, 3), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x).relu())

    assert [name for name, _ in chain(Backwards())] == ["first", "last"]


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        (nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)), "'1' is a BatchNorm1d, which radii cannot pass"),
        (nn.Sequential(nn.Conv2d(1, 2, 1), nn.MaxPool2d(2)), "'1' is a MaxPool2d, which radii cannot pass"),
        (nn.Sequential(nn.Linear(6, 4), nn.Tanh()), "'1' is a Tanh, which radii cannot pass"),
        (Residual(), "'add' does not take the output of the module before it alone"),
        (Twice(), "layers: 'a' is called twice in one forward pass"),
        (Branching(), "Branching cannot be traced"),
    ],
)
def test_what_is_no_chain_is_refused_by_name(model: nn.Module, complaint: str) -> None:
    with pytest.raises(SiteError) as error:
        chain(model)
    assert complaint in str(error.value)


def test_a_function_that_radii_cannot_pass_is_refused_by_name() -> None:
    class Softened(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(self.a(x))

    with pytest.raises(SiteError, match="'tanh'"):
        chain(Softened())


def test_the_activation_of_a_layer_is_the_relu_module_after_it_and_of_the_last_layer_itself() -> None:
    order = chain(network())
    assert [activation_after(order, name) for name in ("fc1", "fc2", "fc3", "fc4")] == [
        "relu1", "relu2", "relu3", "fc4",
    ]  # fmt: skip


def test_an_activation_that_is_no_module_is_refused_by_its_layer() -> None:
    with pytest.raises(SiteError, match="no ReLU module follows 'a'"):
        activation_after(chain(Functional()), "a")


@pytest.mark.parametrize("inplace", [False, True])
def test_a_tap_sees_the_gradient_at_the_output_also_where_the_next_module_works_in_place(inplace: bool) -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(inplace=inplace), nn.Linear(5, 3)).double()
    x, y = batch(3)
    z = functional.linear(x.flatten(1), model[0].weight, model[0].bias).detach().requires_grad_()
    logits = functional.linear(functional.relu(z), model[2].weight, model[2].bias)
    (expected,) = torch.autograd.grad(functional.cross_entropy(logits, y), z)
    assert bool((expected == 0).any())  # units that are off, which tell the output from the activation
    with Tap({"0": model[0]}, lambda name, y: None) as tap:
        loss = functional.cross_entropy(model(x.flatten(1)), y)
    assert tap.gradients == {}
    loss.backward()
    assert torch.allclose(tap.gradients["0"], expected, rtol=1e-12, atol=0)


def test_a_tap_sums_up_the_backward_passes_through_it() -> None:
    model = nn.Linear(6, 3).double()
    x, _ = batch(0)
    with Tap({"a": model}, lambda name, y: None) as tap:
        out = model(x.flatten(1))
    out.sum().backward(retain_graph=True)
    out.sum().backward()
    assert torch.equal(tap.gradients["a"], 2 * torch.ones_like(out))


def test_a_tap_adds_its_change_in_the_dtype_of_the_output() -> None:
    model = nn.Linear(6, 3)
    x, _ = batch(0, dtype=torch.float32)
    change = torch.full((4, 3), 0.5, dtype=torch.float64)
    plain = model(x.flatten(1))
    with Tap({"a": model}, lambda name, y: change):
        out = model(x.flatten(1))
    assert out.dtype == torch.float32
    assert torch.equal(out, plain + 0.5)
    assert torch.equal(model(x.flatten(1)), plain)


def test_a_tap_leaves_a_module_in_eval_mode_alone() -> None:
    model = nn.Linear(6, 3).eval()
    x, _ = batch(0, dtype=torch.float32)
    with Tap({"a": model}, lambda name, y: torch.ones_like(y)) as tap:
        out = model(x.flatten(1))
        model(x.flatten(1))
    assert torch.equal(out, model(x.flatten(1)))
    assert not tap.edges and not tap.gradients


def test_a_tap_knows_the_size_of_an_input_before_it_is_asked_for_a_change() -> None:
    """Without the batch axis; also where the input is named in the call, and in eval mode."""
    model = nn.ModuleDict({"a": nn.Conv2d(2, 3, 2), "b": nn.Linear(6, 3), "c": nn.ReLU()})
    seen: list[tuple[str, tuple[int, ...]]] = []
    with Tap(dict(model.items()), lambda name, y: seen.append((name, tap.sizes[name]))) as tap:
        assert tap.sizes == {}
        model["a"](torch.zeros(4, 2, 5, 3))
        model["b"](input=torch.zeros(4, 6))
        model.eval()
        model["c"](torch.zeros(4, 7, 1))
    assert seen == [("a", (2, 5, 3)), ("b", (6,))]
    assert tap.sizes == {"a": (2, 5, 3), "b": (6,), "c": (7, 1)}


def test_a_tap_works_where_no_gradient_is_asked_for() -> None:
    model = nn.Linear(6, 3)
    x, _ = batch(0, dtype=torch.float32)
    with torch.no_grad(), Tap({"a": model}, lambda name, y: torch.ones_like(y)) as tap:
        out = model(x.flatten(1))
    assert torch.equal(out, model(x.flatten(1)) + 1)
    assert tap.gradients == {}


def test_a_layer_called_twice_in_one_block_is_an_error_that_names_it_and_leaves_no_hook() -> None:
    model = Twice()
    with (
        pytest.raises(SiteError, match="'a' was called twice inside one block"),
        Tap({"a": model.a}, lambda name, y: None),
    ):
        model(batch(0, dtype=torch.float32)[0])
    assert not model.a._forward_hooks


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_layer_that_backward_would_run_again_without_its_change_is_an_error_that_names_it(reentrant: bool) -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    x = torch.rand(4, 6, requires_grad=True)
    with (
        Tap({"0": model[0]}, lambda name, y: None),
        pytest.raises(SiteError, match=r"'0' runs under torch.utils.checkpoint, which runs it once more"),
    ):
        checkpoint(model[:2], x, use_reentrant=reentrant)
    with Tap({"2": model[2]}, lambda name, y: None) as tap:
        model[2](checkpoint(model[:2], x, use_reentrant=reentrant)).sum().backward()
    assert torch.equal(tap.gradients["2"], torch.ones(4, 3))


@pytest.mark.parametrize("raised", [ValueError, KeyboardInterrupt, SystemExit])
def test_the_hooks_go_whatever_is_raised(raised: type[BaseException]) -> None:
    model = network()
    tap = Tap({name: model.get_submodule(name) for name in ("fc2", "fc3")}, lambda name, y: y)
    with pytest.raises(raised), tap:  # noqa: PT012 - what happens before it is raised is the point
        assert model.fc2._forward_hooks
        raise raised
    assert not any(module._forward_hooks for module in model.modules())


def test_a_hooked_module_is_not_copied() -> None:
    model = network()
    with Tap({"fc2": model.fc2}, lambda name, y: None), pytest.raises(SiteError, match="deepcopy inside the block"):
        copy.deepcopy(model)
    copy.deepcopy(model)


def test_compiled_modules_are_refused_by_name() -> None:
    whole = torch.compile(network(), backend="eager")
    part = network()
    part.fc2.compile(backend="eager")
    itself = network()
    itself.compile(backend="eager")
    for model, name in [(whole, "OptimizedModule"), (part, "module 'fc2'"), (itself, "MLP")]:
        with pytest.raises(SiteError) as error:
            refuse_compiled(model)
        assert str(error.value).startswith(f"{name} is compiled by torch.compile")
    refuse_compiled(network())
