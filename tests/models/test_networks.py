"""The networks: what they compute, held against functions written out by hand; their sizes, names and first weights."""

from __future__ import annotations

from math import prod, sqrt

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, batch_norm, conv2d, linear, max_pool2d, relu

from lat.cells import BATCH_NORMALISED
from lat.models import MODELS, build
from lat.models.wide_resnet import WideResNet
from lat.sites import PERTURBABLE, Tracer

DIGITS, MNIST, CIFAR = (1, 8, 8), (1, 28, 28), (3, 32, 32)
NAMES = sorted(MODELS)
SMALL = ("3conv2fc", "3conv2fc_average", "3conv2fc_strided", "3conv2fc_unpooled")
DEEP = ("vgg16", "wrn10", "wrn28")
VGG_CONVS = [f"conv{number}" for number in range(1, 14)]
VGG_WIDTHS = [1, 1, 2, 2, 4, 4, 4, 8, 8, 8, 8, 8, 8]


def restless(name: str, shape: tuple[int, ...], classes: int, width: int) -> nn.Module:
    """A network in float64 and eval mode whose biases and BatchNorm are drawn at random, so that none is idle."""
    model = build(name, shape, classes, width, seed=0).double().eval()
    draws = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.dim() == 1:
                values = torch.rand(tensor.shape, generator=draws, dtype=torch.float64)
                tensor.copy_(values + 0.5 if "var" in key else 2 * values - 1)
    return model


def images(shape: tuple[int, ...], n: int = 2) -> Tensor:
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def normalised(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    mean, var, weight, bias = (state[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
    return batch_norm(x, mean, var, weight, bias)


def sites(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, PERTURBABLE)]


# What they compute ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_networks_with_batchnorm_are_known_without_building_them(name: str) -> None:
    model = build(name, (3, 8, 8), 10, 1, seed=0)
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.modules()) == (name in BATCH_NORMALISED)


@pytest.mark.parametrize("shape", [DIGITS, MNIST, CIFAR])
@pytest.mark.parametrize("name", SMALL)
def test_3conv2fc_is_three_convolutions_and_two_fully_connected_layers(name: str, shape: tuple[int, ...]) -> None:
    model, x = restless(name, shape, 10, 2), images(shape)
    state = model.state_dict()
    h = x
    for layer in ("conv1", "conv2", "conv3"):
        stride = 2 if name == "3conv2fc_strided" else 1
        h = relu(conv2d(h, state[f"{layer}.weight"], state[f"{layer}.bias"], stride=stride, padding=1))
        if name == "3conv2fc":
            h = max_pool2d(h, 2)
        if name == "3conv2fc_average":
            h = avg_pool2d(h, 2)
    h = relu(linear(h.flatten(1), state["fc1.weight"], state["fc1.bias"]))
    torch.testing.assert_close(model(x), linear(h, state["fc2.weight"], state["fc2.bias"]))


@pytest.mark.parametrize("shape", [DIGITS, MNIST, CIFAR])
def test_vgg16_is_thirteen_convolutions_with_batchnorm_and_one_linear_layer(shape: tuple[int, ...]) -> None:
    model, h = restless("vgg16", shape, 10, 2), images(shape)
    state = model.state_dict()
    for number, layer in enumerate(VGG_CONVS, start=1):
        h = relu(normalised(conv2d(h, state[f"{layer}.weight"], padding=1), state, f"bn{number}"))
        if number in (2, 4, 7, 10, 13):
            h = max_pool2d(functional.pad(h, (0, h.shape[3] % 2, 0, h.shape[2] % 2)), 2)  # h >= 0: a pad of 0 is none
    torch.testing.assert_close(model(images(shape)), linear(h.flatten(1), state["fc1.weight"], state["fc1.bias"]))


@pytest.mark.parametrize(("name", "blocks", "width"), [("wrn10", 1, 1), ("wrn10", 1, 2), ("wrn28", 4, 1)])
@pytest.mark.parametrize("shape", [DIGITS, MNIST, CIFAR])
def test_a_wide_residual_network_is_the_published_one(
    name: str, blocks: int, width: int, shape: tuple[int, ...]
) -> None:
    model, x = restless(name, shape, 10, width), images(shape)
    state = model.state_dict()
    h = conv2d(x, state["conv1.weight"], padding=1)
    for group in (1, 2, 3):
        for place in range(blocks):
            base, stride = f"group{group}.block{place}", 2 if group > 1 and place == 0 else 1
            first = relu(normalised(h, state, f"{base}.bn1"))
            y = conv2d(first, state[f"{base}.conv1.weight"], stride=stride, padding=1)
            y = conv2d(relu(normalised(y, state, f"{base}.bn2")), state[f"{base}.conv2.weight"], padding=1)
            changes = place == 0 and (group > 1 or width > 1)
            assert (f"{base}.shortcut.weight" in state) == changes
            h = y + (conv2d(first, state[f"{base}.shortcut.weight"], stride=stride) if changes else h)
    h = adaptive_avg_pool2d(relu(normalised(h, state, "bn")), 1).flatten(1)
    torch.testing.assert_close(model(x), linear(h, state["fc1.weight"], state["fc1.bias"]))


# Sizes and names -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "classes", "width", "shape", "millions"),
    [("vgg16", 10, 64, CIFAR, 14.7), ("wrn28", 100, 10, CIFAR, 36.5), ("3conv2fc", 10, 16, MNIST, 0.1)],
)
def test_the_full_networks_have_the_published_numbers_of_weights(
    name: str, classes: int, width: int, shape: tuple[int, ...], millions: float
) -> None:
    with torch.device("meta"):
        model = MODELS[name](shape, classes, width)
    assert round(sum(weight.numel() for weight in model.parameters()) / 1e6, 1) == millions


@pytest.mark.parametrize("width", [1, 16])
def test_the_layers_of_3conv2fc_have_their_names_and_widths(width: int) -> None:
    for name in SMALL:
        with torch.device("meta"):
            model = MODELS[name](MNIST, 10, width)
        layers = [model.get_submodule(site) for site in sites(model)]
        assert sites(model) == ["conv1", "conv2", "conv3", "fc1", "fc2"]
        assert [len(layer.weight) for layer in layers] == [width, 2 * width, 4 * width, 8 * width, 10]


def test_the_layers_of_vgg16_have_their_names_and_widths() -> None:
    with torch.device("meta"):
        model = MODELS["vgg16"](CIFAR, 10, 64)
    assert sites(model) == [*VGG_CONVS, "fc1"]
    assert [len(model.get_submodule(name).weight) for name in VGG_CONVS] == [64 * widths for widths in VGG_WIDTHS]
    assert model.fc1.weight.shape == (10, 512)


def test_the_layers_of_a_wide_residual_network_have_their_names_and_widths() -> None:
    with torch.device("meta"):
        model = MODELS["wrn28"](CIFAR, 100, 10)
    found = {name: tuple(model.get_submodule(name).weight.shape) for name in sites(model)}
    assert len(found) == 1 + 3 * (4 * 2 + 1) + 1
    assert found["conv1"] == (16, 3, 3, 3)
    assert found["group1.block0.shortcut"] == (160, 16, 1, 1)
    assert found["group2.block0.conv1"] == (320, 160, 3, 3)
    assert found["group3.block3.conv2"] == (640, 640, 3, 3)
    assert found["fc1"] == (100, 640)
    assert [name for name in found if name.endswith("shortcut")] == [f"group{k}.block0.shortcut" for k in (1, 2, 3)]


@pytest.mark.parametrize("name", NAMES)
def test_modules_are_held_in_the_order_in_which_the_forward_pass_calls_them_once(name: str) -> None:
    model = build(name, CIFAR, 10, 2, seed=0)
    called = [str(node.target) for node in Tracer().trace(model).nodes if node.op == "call_module"]
    assert called == [key for key, module in model.named_modules() if not list(module.children())]


# First weights -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_first_weights_are_those_of_the_seed_and_the_global_generator_is_left_alone(name: str) -> None:
    before = torch.get_rng_state()
    one, again, other = (build(name, DIGITS, 10, 2, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[key], again[key]) for key in one)
    assert not any(torch.equal(one[key], other[key]) for key in one if key.endswith("weight") and one[key].dim() > 1)


@pytest.mark.parametrize(("name", "width"), [("vgg16", 16), ("wrn10", 4)])
def test_convolutions_of_the_deep_networks_start_with_a_deviation_of_two_by_fan_out(name: str, width: int) -> None:
    model = build(name, CIFAR, 10, width, seed=0)
    convs = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    for conv in convs:
        fan_out = prod(conv.kernel_size) * conv.out_channels
        count = conv.weight.numel()
        assert conv.bias is None, "BatchNorm subtracts it"
        assert abs(conv.weight.std().item() * sqrt(fan_out / 2) - 1) < 4 / sqrt(2 * count)
        assert abs(conv.weight.mean().item() * sqrt(fan_out / 2)) < 4 / sqrt(count)
    assert not model.fc1.bias.any()
    assert model.fc1.weight.abs().max().item() <= 1 / sqrt(model.fc1.in_features)


# Refusals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["3conv2fc", "3conv2fc_average"])
def test_images_that_cannot_be_pooled_three_times_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"^shape: images of 8 × 7 cannot be halved 3 times; give .* at least 8 × 8"):
        build(name, (1, 8, 7), 10, 2, seed=0)


@pytest.mark.parametrize("depth", [4, 12, 26, 29, -2])
def test_a_depth_of_no_whole_number_of_blocks_is_refused(depth: int) -> None:
    with pytest.raises(ValueError, match=rf"^depth: {depth} is not 6 n \+ 4 .* use 10, 16, 22, 28"):
        WideResNet(CIFAR, 10, 1, depth=depth)
