"""R on every kind of layer, in a small network, against the matrix of the layer and a forward pass written by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pytest
import torch
from plain_network import Epsilons, taps, transposed_taps
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import cross_entropy, relu

from lat import AbsNormal, Fixed, Law, LayerwiseAdversary, Normal, Reading, SiteError
from lat.cells import DRAWS, FORMS, GRADIENTS, PAIRINGS, SITES_OF_GRADIENT
from lat.equations import Geometry
from lat.sites import Tap, layer

CLASSES = 3
N = 4
Function = Callable[[Tensor, Tensor, Tensor | None], Tensor]


@dataclass(frozen=True)
class Kind:
    """A layer, the shape of its inputs, the numbers by which its kernel moves, and the function it stands for."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    at: Geometry | None
    function: Function

    def numbers(self) -> Tensor:
        """The layer's matrix (outputs, inputs) with the number of a weight in each entry, from 1; 0 for none."""
        module = self.make()
        if self.at is None:
            return torch.arange(1, module.weight.numel() + 1).view(module.weight.shape)
        numbers = transposed_taps if module.transposed else taps
        return numbers(module.kernel_size, module.in_channels, module.out_channels, self.at, self.shape[1:])


def by_axes(
    axes: int, stride: int = 1, padding: int = 0, dilation: int = 1, groups: int = 1, more: int | None = None
) -> Geometry:
    further = () if more is None else (more,) * axes
    return Geometry((stride,) * axes, (padding,) * axes, (dilation,) * axes, groups, further)


KINDS = {
    "linear": Kind(lambda: nn.Linear(6, 5), (6,), None, functional.linear),
    "conv1d": Kind(lambda: nn.Conv1d(2, 3, 3), (2, 5), by_axes(1), functional.conv1d),
    "conv1d strided, inputs left over": Kind(
        lambda: nn.Conv1d(1, 3, 2, stride=3), (1, 7), by_axes(1, 3), lambda x, w, b: functional.conv1d(x, w, b, 3)
    ),
    "conv2d": Kind(lambda: nn.Conv2d(1, 2, 3), (1, 4, 5), by_axes(2), functional.conv2d),
    "conv2d padded": Kind(
        lambda: nn.Conv2d(1, 2, 3, padding=1), (1, 3, 4), by_axes(2, 1, 1),
        lambda x, w, b: functional.conv2d(x, w, b, 1, 1),
    ),
    "conv2d without a bias": Kind(
        lambda: nn.Conv2d(1, 2, 2, bias=False), (1, 3, 3), by_axes(2), lambda x, w, _: functional.conv2d(x, w)
    ),
    "conv2d valid": Kind(lambda: nn.Conv2d(1, 2, 2, padding="valid"), (1, 3, 3), by_axes(2), functional.conv2d),
    "conv2d same": Kind(
        lambda: nn.Conv2d(1, 2, (3, 2), padding="same", dilation=(1, 2)), (1, 3, 4), Geometry((1, 1), (1, 1), (1, 2)),
        lambda x, w, b: functional.conv2d(x, w, b, 1, (1, 1), (1, 2)),
    ),
    "conv2d strided, padded, dilated, grouped": Kind(
        lambda: nn.Conv2d(2, 4, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2), (2, 4, 3),
        Geometry((2, 1), (1, 2), (1, 2), 2), lambda x, w, b: functional.conv2d(x, w, b, (2, 1), (1, 2), (1, 2), 2),
    ),
    "conv2d of single channels": Kind(
        lambda: nn.Conv2d(3, 3, 2, groups=3), (3, 3, 2), by_axes(2, groups=3),
        lambda x, w, b: functional.conv2d(x, w, b, groups=3),
    ),
    "conv3d": Kind(lambda: nn.Conv3d(1, 2, 2), (1, 3, 2, 3), by_axes(3), functional.conv3d),
    "conv3d strided and padded": Kind(
        lambda: nn.Conv3d(1, 2, (2, 1, 3), stride=2, padding=1), (1, 3, 2, 3), by_axes(3, 2, 1),
        lambda x, w, b: functional.conv3d(x, w, b, 2, 1),
    ),
    "transposed 1d": Kind(lambda: nn.ConvTranspose1d(2, 3, 3), (2, 4), by_axes(1, more=0), functional.conv_transpose1d),
    "transposed 1d, longer by more than its stride": Kind(
        lambda: nn.ConvTranspose1d(1, 2, 2, dilation=3, output_padding=2), (1, 3), by_axes(1, 1, 0, 3, more=2),
        lambda x, w, b: functional.conv_transpose1d(x, w, b, 1, 0, 2, 1, 3),
    ),
    "transposed 2d strided, padded, lengthened, dilated, grouped": Kind(
        lambda: nn.ConvTranspose2d(
            4, 2, (3, 2), stride=(2, 3), padding=(1, 0), output_padding=(1, 2), groups=2, dilation=(1, 2)
        ),
        (4, 2, 2), Geometry((2, 3), (1, 0), (1, 2), 2, (1, 2)),
        lambda x, w, b: functional.conv_transpose2d(x, w, b, (2, 3), (1, 0), (1, 2), 2, (1, 2)),
    ),
    "transposed 3d": Kind(
        lambda: nn.ConvTranspose3d(1, 2, (2, 1, 2), stride=(1, 2, 1)), (1, 2, 1, 2),
        Geometry((1, 2, 1), (0,) * 3, (1,) * 3, 1, (0,) * 3),
        lambda x, w, b: functional.conv_transpose3d(x, w, b, (1, 2, 1)),
    ),
}  # fmt: skip
HARD = [
    "linear",
    "conv1d strided, inputs left over",
    "conv2d strided, padded, dilated, grouped",
    "conv3d strided and padded",
    "transposed 2d strided, padded, lengthened, dilated, grouped",
]
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
hard_kinds = pytest.mark.parametrize("kind", [KINDS[name] for name in HARD], ids=HARD)


class Small(nn.Module):
    """A scaling of the inputs, so that a layer lies before the perturbed one; `site`; a ReLU; `head`."""

    def __init__(self, kind: Kind, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            first = nn.Linear if len(kind.shape) == 1 else (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(kind.shape) - 2]
            channels = kind.shape[0]
            self.before = first(channels, channels) if first is nn.Linear else first(channels, channels, 1)
            self.relu0 = nn.ReLU()
            self.site = kind.make()
            self.relu = nn.ReLU()
            self.flatten = nn.Flatten()
            self.head = nn.Linear(len(kind.numbers()), CLASSES)
            self.double()
            with torch.no_grad():
                self.before.bias.fill_(0.5)  # few units that are off: every input and output of the site counts
                if self.site.bias is not None:
                    self.site.bias.fill_(0.2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.flatten(self.relu(self.site(self.relu0(self.before(x))))))


def batch(kind: Kind, seed: int, n: int = N) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand((n, *kind.shape), generator=generator, dtype=torch.float64)
    return x, torch.randint(CLASSES, (n,), generator=generator)


@dataclass(frozen=True)
class Pass:
    """The network as matrices: logits, loss, its gradients by the parameters, and dL/dy at the site (n, outputs)."""

    logits: Tensor
    loss: Tensor
    parameters: Mapping[str, Tensor]
    at_output: Tensor
    at_activation: Tensor


class ByHand:
    """The model's forward pass by matrices alone, R included; its parameters are the model's, copied."""

    def __init__(self, kind: Kind, model: Small) -> None:
        self.kind, self.numbers = kind, kind.numbers()
        self.p = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}

    def matrix(self) -> Tensor:
        w = self.p["site.weight"]
        return torch.cat([w.new_zeros(1), w.flatten()])[self.numbers]

    def run(self, x: Tensor, y: Tensor, R: Tensor | float = 0.0, r: Tensor | float = 0.0) -> Pass:
        """With R (n, outputs) added to the site's output, and r (n, inputs) to its input."""
        p, n = self.p, len(x)
        first = p["before.weight"].flatten(1)
        rows = x if x.dim() == 2 else x.flatten(2).transpose(1, 2)  # a kernel of one pixel mixes channels alone
        h = relu(rows @ first.T + p["before.bias"])
        h = h if x.dim() == 2 else h.transpose(1, 2).flatten(1)
        z = (h + r) @ self.matrix().T + R
        if "site.bias" in p:
            z = z + p["site.bias"].repeat_interleave(z.shape[1] // len(p["site.bias"]))
        a = relu(z)
        logits = a @ p["head.weight"].T + p["head.bias"]
        loss = cross_entropy(logits, y)
        *grads, at_output, at_activation = torch.autograd.grad(loss, [*p.values(), z, a])
        assert n == len(at_output)
        return Pass(logits.detach(), loss.detach(), dict(zip(p, grads, strict=True)), at_output, at_activation)

    def direction(self, reading: Reading, seen: Pass) -> Tensor:
        """sign(dL/dy) (n, outputs), or sign(dL/dx) (n, inputs) where the form is propagated."""
        g = seen.at_output if reading.at == "output" else seen.at_activation
        if reading.pairing == "mean":
            g = torch.stack([sum(row for row in g) / len(g)] * len(g))  # type: ignore[arg-type]
        slope = g if reading.form == "closed" else g @ self.matrix().detach()
        return torch.where(slope.abs() < 1e-14, 0.0, slope.sign())

    def formed(self, reading: Reading, scaled: Tensor) -> Tensor:
        """R (n, outputs) from eps · sign and the matrix of the current weights, differentiable by them."""
        D = self.matrix()
        return scaled * D.abs().sum(1) if reading.form == "closed" else scaled @ D.T


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a.detach().reshape(b.shape), b, rtol=1e-9, atol=1e-12)


def descend(model: nn.Module, seed: int) -> None:
    """Move every parameter, so that the weights of one step are not those of the next."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator, dtype=p.dtype))


# R -------------------------------------------------------------------------------------------------------------------

READINGS = [
    Reading(form, "local", pairing, gradient, at)
    for form in FORMS
    for pairing in PAIRINGS
    for gradient in GRADIENTS
    for at in SITES_OF_GRADIENT
]
LAWS = [Fixed(0.1), *(Normal(0, 0.1, draw) for draw in DRAWS), AbsNormal(0.1)]


def name_of(reading: Reading) -> str:
    return "-".join((reading.form, reading.pairing, reading.gradient, reading.at))


def trained_against_the_matrices(kind: Kind, reading: Reading, law: Law) -> None:
    """Three steps of the adversary and of the matrices: R, logits, loss and the parameters' gradients agree."""
    model = Small(kind, 7)
    adversary = LayerwiseAdversary(model, ["site"], law, reading, seed=5)
    epsilons = Epsilons(law, 5)
    outputs = model.site(torch.zeros(1, *kind.shape, dtype=torch.float64)).shape[1:]
    drawn = tuple(outputs) if reading.form == "closed" else kind.shape

    def scaled(by_hand: ByHand, seen: Pass) -> Tensor:
        eps = torch.from_numpy(epsilons.draw(N, *drawn)).expand(N, *drawn).flatten(1)
        return eps * by_hand.direction(reading, seen)

    signs: Tensor | None = None
    detached: Tensor | None = None
    for t in range(3):
        x, y = batch(kind, 100 + t)
        by_hand = ByHand(kind, model)
        if reading.pairing == "same":
            adversary.observe(lambda model=model, x=x, y=y: cross_entropy(model(x), y))
            signs = scaled(by_hand, by_hand.run(x, y))
            detached = by_hand.formed(reading, signs).detach()
        R: Tensor | float = 0.0
        if signs is not None:
            R = by_hand.formed(reading, signs) if reading.gradient == "attached" else detached
            found = adversary.perturbations["site"]
            assert close(found.expand(N, *found.shape[1:]), R.detach())
            assert bool((found != 0).any())
        else:
            assert adversary.perturbations == {}
        expected = by_hand.run(x, y, R)

        with adversary:
            logits = model(x)
        loss = cross_entropy(logits, y)
        model.zero_grad()
        loss.backward()
        assert close(logits, expected.logits)
        assert close(loss, expected.loss)
        for name, p in model.named_parameters():
            assert close(p.grad, expected.parameters[name])

        if reading.pairing != "same":
            adversary.update()
            signs = scaled(by_hand, expected)
            detached = by_hand.formed(reading, signs).detach()
        descend(model, t)
    assert adversary.skipped == 0


@hard_kinds
@pytest.mark.parametrize("reading", READINGS, ids=name_of)
def test_r_and_all_that_it_changes_are_those_of_the_layers_matrix(kind: Kind, reading: Reading) -> None:
    for law in LAWS:
        trained_against_the_matrices(kind, reading, law)


@every_kind
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_every_kind_of_layer_has_the_r_of_its_matrix(kind: Kind, form: str, gradient: str) -> None:
    trained_against_the_matrices(kind, Reading(form, gradient=gradient), Normal(0, 0.1))


@every_kind
def test_r_put_on_by_a_tap_is_r_written_into_the_forward_pass(kind: Kind) -> None:
    model = Small(kind, 3)
    x, y = batch(kind, 0)
    R = torch.randn(model.site(x).shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with Tap({"site": model.site}, lambda name, y: R) as tap:
        logits = model(x)
    loss = cross_entropy(logits, y)
    loss.backward()

    p = {name: value.detach().clone().requires_grad_() for name, value in model.named_parameters()}
    before = functional.linear if kind.at is None else getattr(functional, f"conv{kind.at.axes}d")
    h = relu(before(x, p["before.weight"], p["before.bias"]))
    z = kind.function(h, p["site.weight"], p.get("site.bias")) + R
    expected = functional.linear(relu(z).flatten(1), p["head.weight"], p["head.bias"])
    *grads, g = torch.autograd.grad(cross_entropy(expected, y), [*p.values(), z])
    assert close(logits, expected) and close(loss, cross_entropy(expected, y))
    assert close(tap.gradients["site"], g)
    assert tap.sizes == {"site": kind.shape}
    for (_, found), grad in zip(model.named_parameters(), grads, strict=True):
        assert close(found.grad, grad)


# What the loss is differentiated through ----------------------------------------------------------------------------


def observed_and_trained(kind: Kind, gradient: str) -> tuple[Small, Tensor, Tensor | None]:
    """The model with its gradients after one step with R = w r, r = 0.2 sign(dL/dx) of the same batch; the loss, and
    the sign where R is attached.
    """
    model = Small(kind, 4)
    x, y = batch(kind, 3)
    adversary = LayerwiseAdversary(model, ["site"], 0.2, Reading("propagated", "local", "same", gradient))
    adversary.observe(lambda: cross_entropy(model(x), y))
    direction = adversary.state_dict()["terms"]["site"]["direction"]
    with adversary:
        loss = cross_entropy(model(x), y)
    loss.backward()
    return model, loss, direction


@every_kind
def test_attached_w_r_is_training_on_the_perturbed_input_of_the_layer(kind: Kind) -> None:
    model, loss, _ = observed_and_trained(kind, "attached")
    plain = Small(kind, 4)
    x, y = batch(kind, 3)
    r = torch.zeros(N, *kind.shape, dtype=torch.float64, requires_grad=True)

    def on_the_perturbed_input(r: Tensor) -> Tensor:
        h = plain.relu0(plain.before(x)) + r
        return cross_entropy(plain.head(plain.flatten(plain.relu(plain.site(h)))), y)

    (g,) = torch.autograd.grad(on_the_perturbed_input(r), r)
    expected = on_the_perturbed_input(0.2 * g.sign())
    expected.backward()
    assert torch.allclose(loss, expected, rtol=1e-12, atol=0)
    for a, b in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, rtol=1e-10, atol=1e-13)


@every_kind
def test_the_detached_gradient_lacks_exactly_g_times_r_at_every_weight(kind: Kind) -> None:
    """For a fully connected layer the sum of g rᵀ over the batch; a kernel's weight sums it where it is used."""
    attached, _, direction = observed_and_trained(kind, "attached")
    detached, _, _ = observed_and_trained(kind, "detached")
    by_hand = ByHand(kind, attached)
    x, y = batch(kind, 3)
    assert direction is not None
    r = 0.2 * direction.flatten(1)
    g = by_hand.run(x, y, r=r).at_output
    outer = sum(torch.outer(g[s], r[s]) for s in range(N))
    lacking = torch.stack([outer[by_hand.numbers == k].sum() for k in range(1, attached.site.weight.numel() + 1)])
    assert bool((lacking != 0).any())
    for (name, a), b in zip(attached.named_parameters(), detached.parameters(), strict=True):
        difference = a.grad - b.grad
        assert close(difference, lacking if name == "site.weight" else torch.zeros_like(difference))


# The numbers of a convolution -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.at is not None])
def test_the_geometry_of_a_convolution_is_in_numbers(name: str) -> None:
    assert Geometry.of(KINDS[name].make()) == KINDS[name].at


@pytest.mark.parametrize(
    ("module", "complaint"),
    [
        (nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular"), "Conv2d with padding_mode 'circular'; .* 'zeros'"),
        (nn.Conv1d(1, 1, 3, padding=1, padding_mode="reflect"), "is a Conv1d with padding_mode 'reflect'"),
        (nn.Conv3d(1, 1, 3, padding=1, padding_mode="replicate"), "is a Conv3d with padding_mode 'replicate'"),
        (nn.Conv1d(1, 1, 4, padding="same"), r"'same', kernel \(4,\) and dilation \(1,\), .* use an odd kernel"),
        (nn.Conv2d(1, 1, (3, 2), padding="same", dilation=(2, 1)), r"'same', kernel \(3, 2\) and dilation \(2, 1\)"),
        (nn.Conv2d(1, 1, 2, padding="same", dilation=3), "padding 'same'"),
        (nn.Bilinear(1, 1, 2), "is a Bilinear, which cannot be perturbed; name one of fc"),
        (nn.MaxPool2d(2), "is a MaxPool2d, which cannot be perturbed"),
    ],
)  # fmt: skip
def test_what_eq_8_does_not_cover_is_refused_by_name(module: nn.Module, complaint: str) -> None:
    model = nn.ModuleDict({"odd": module, "fc": nn.Linear(2, 2)})
    for refused in (lambda: layer(model, "odd"), lambda: LayerwiseAdversary(model, ["fc", "odd"], 0.1)):
        with pytest.raises(SiteError, match=f"layers: 'odd' .*{complaint}"):
            refused()


def test_padding_same_is_accepted_where_both_sides_are_equal() -> None:
    for kernel, dilation, padding in [(3, 1, 1), (2, 2, 1), (5, 3, 6), (1, 1, 0)]:
        module = nn.Conv1d(1, 1, kernel, padding="same", dilation=dilation)
        assert layer(nn.Sequential(module), "0") is module
        assert Geometry.of(module) == by_axes(1, 1, padding, dilation)
