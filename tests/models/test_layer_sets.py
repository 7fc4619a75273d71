"""Layer sets by name: which layers All and Conv-all are, network by network."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import lat
from lat.cells import Cell, Law, Reading, Schedule
from lat.defences import build as build_defence
from lat.models import MODELS, build
from lat.models.layer_sets import LAYER_SETS, layer_set
from lat.sites import PERTURBABLE, SiteError, Tracer

CIFAR = (3, 32, 32)
LAYERS = "conv1, conv2, conv3, fc1, fc2"
CONVOLUTIONAL = [name for name in sorted(MODELS) if not name.startswith("4fc")]
BY_HAND = {
    "4fc": {"all": ("fc2", "fc3", "fc4")},
    "4fc_input_counted": {"all": ("fc3", "fc4")},
    "3conv2fc": {
        "all": ("conv2", "conv3", "fc1", "fc2"),
        "conv_all": ("conv2", "conv3"),
        "conv_all_with_first": ("conv1", "conv2", "conv3"),
    },
    "vgg16": {
        "all": (*[f"conv{number}" for number in range(2, 14)], "fc1"),
        "conv_all": tuple(f"conv{number}" for number in range(2, 14)),
        "conv_all_with_first": tuple(f"conv{number}" for number in range(1, 14)),
    },
    "wrn10": {
        "conv_all": (
            "group1.block0.conv1", "group1.block0.conv2", "group1.block0.shortcut",
            "group2.block0.conv1", "group2.block0.conv2", "group2.block0.shortcut",
            "group3.block0.conv1", "group3.block0.conv2", "group3.block0.shortcut",
        ),
    },
}  # fmt: skip


def network(name: str) -> nn.Module:
    return build(name, CIFAR, 10, 2, seed=0)


@pytest.mark.parametrize(("model", "name"), [(model, name) for model, sets in BY_HAND.items() for name in sets])
def test_a_set_is_the_layers_written_out_by_hand(model: str, name: str) -> None:
    assert layer_set(network(model), [name]) == BY_HAND[model][name]


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_sets_hold_the_layers_of_the_forward_pass_in_its_order(name: str) -> None:
    model = network(name)
    called = [str(node.target) for node in Tracer().trace(model).nodes if node.op == "call_module"]
    layers = [site for site in called if isinstance(model.get_submodule(site), PERTURBABLE)]
    convs = [site for site in layers if isinstance(model.get_submodule(site), nn.Conv2d)]
    assert layer_set(model, ["all"]) == tuple(layers[1:])
    assert layer_set(model, ["conv_all"]) == tuple(convs[1:])
    assert layer_set(model, ["conv_all_with_first"]) == tuple(convs)


def test_all_without_its_fully_connected_layers_is_conv_all() -> None:
    for name in CONVOLUTIONAL:
        model = network(name)
        convs = tuple(site for site in layer_set(model, ["all"]) if ".fc" not in f".{site}")
        assert layer_set(model, ["conv_all"]) == convs


def test_a_set_beginning_with_a_fully_connected_layer_keeps_its_first_convolution_out() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Conv1d(1, 1, 1), nn.Conv1d(1, 1, 1))
    assert layer_set(model, ["all"]) == ("1", "2")
    assert layer_set(model, ["conv_all"]) == ("2",)


@pytest.mark.parametrize("names", [(), ("conv2",), ("fc2", "conv1"), ("relu1", "conv1"), ("conv1", "conv1")])
def test_names_of_modules_pass_as_they_are(names: tuple[str, ...]) -> None:
    assert layer_set(network("3conv2fc"), names) == names


def test_a_module_that_is_called_as_a_set_is_that_module() -> None:
    model = nn.ModuleDict({"first": nn.Linear(2, 2), "all": nn.Linear(2, 2), "last": nn.Linear(2, 2)})
    assert layer_set(model, ["all"]) == ("all",)
    assert layer_set(model, ["all", "last"]) == ("all", "last")


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (("conv_all", "fc1"), "layers: 'conv_all' is a set beside other names; name one set, or layers alone"),
        (("fc1", "all"), "layers: 'all' is a set beside other names"),
        (("all", "all"), "layers: 'all' is a set beside other names"),
        (("conv4",), f"layers: 'conv4' is no layer of SmallCNN; it has {LAYERS}, and the sets {', '.join(LAYER_SETS)}"),
        (("conv1", ""), "layers: '' is no layer of SmallCNN"),
    ],
)
def test_what_is_neither_one_set_nor_layers_is_refused(names: tuple[str, ...], complaint: str) -> None:
    with pytest.raises(SiteError) as error:
        layer_set(network("3conv2fc"), names)
    assert str(error.value).startswith(complaint)


@pytest.mark.parametrize(
    ("model", "name", "held"),
    [
        (nn.Conv2d(2, 2, 1), "conv_all_with_first", "Conv2d; it has none to perturb"),
        (nn.Sequential(nn.Linear(2, 2)), "all", "Sequential; it has 0"),
        (nn.Sequential(nn.ReLU()), "conv_all_with_first", "Sequential; it has none to perturb"),
    ],
)
def test_an_empty_set_is_refused(model: nn.Module, name: str, held: str) -> None:
    with pytest.raises(SiteError) as error:
        layer_set(model, [name])
    assert str(error.value) == f"layers: the set {name!r} holds no layer of {held}"


class OutOfOrder(nn.Module):
    """Registers its layers last first, with one that it never calls."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(4, 4)
        self.last = nn.Linear(4, 2)
        self.middle = nn.Linear(4, 4)
        self.first = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.middle(self.first(x).relu()).relu())


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x)) if x.sum() > 0 else self.a(x)


def test_the_first_layer_is_the_one_that_is_called_first() -> None:
    assert layer_set(OutOfOrder(), ["all"]) == ("middle", "last")


def test_a_network_whose_order_cannot_be_traced_has_no_sets() -> None:
    with pytest.raises(SiteError, match=r"layers: Branching cannot be traced \(.*\), so that .*; name the layers"):
        layer_set(Branching(), ["all"])
    assert layer_set(Branching(), ["b"]) == ("b",)


def test_one_text_is_no_list_of_names() -> None:
    with pytest.raises(SiteError) as error:
        layer_set(network("4fc"), "all")
    assert str(error.value) == "layers: 'all' is one text; give a list of names, ['all']"


@pytest.mark.parametrize("name", LAYER_SETS)
def test_a_cell_may_name_a_set(name: str) -> None:
    plan = Schedule(epochs=1)
    cell = Cell("cifar10", "wrn10", 1, "layerwise", (name,), Law("normal", 0.1), Reading(), None, False, plan)
    model = network("wrn10")
    defence = build_defence(model, cell, seed=0)
    assert defence.adversary.layers == layer_set(model, [name])
    assert cell.slug.startswith(f"cifar10-wrn10-w1-layerwise-{name}-")


def test_the_library_offers_it() -> None:
    assert lat.layer_set is layer_set
    assert "layer_set" in lat.__all__


def test_a_transposed_convolution_is_a_convolution() -> None:
    model = nn.Sequential(
        nn.ConvTranspose2d(1, 2, 2), nn.ReLU(), nn.Conv2d(2, 2, 2), nn.Linear(4, 4), nn.ConvTranspose2d(2, 1, 2)
    )
    assert layer_set(model, ["conv_all_with_first"]) == ("0", "2", "4")
    assert layer_set(model, ["conv_all"]) == ("2", "4")


def test_a_part_whose_layers_no_trace_shows_is_named() -> None:
    """Its layers are called all the same, so that a set without them would be short."""
    block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.Sequential(nn.Linear(8, 8), block, nn.Linear(8, 3))
    with pytest.raises(SiteError, match=r"'1' is a TransformerEncoderLayer, into which the order of layers cannot be"):
        layer_set(model, ["all"])
    assert layer_set(model, ["1.linear1", "2"]) == ("1.linear1", "2")


def test_the_order_of_a_compiled_network_is_that_of_none() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    with pytest.raises(SiteError, match=r"OptimizedModule is compiled by torch\.compile, .*give the module it was"):
        layer_set(torch.compile(model, backend="eager"), ["all"])
    with pytest.raises(SiteError, match=r"DataParallel .* use DistributedDataParallel"):
        layer_set(nn.DataParallel(model), ["all"])
