"""Laws of bounds through networks, counted under eq. (7): a lemma an operation, and the induction that joins them."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from lat import bounds
from lat.bounds import primitives
from lat.proofs.comparison import at_most, equal
from lat.proofs.law import Case, Induction, Law, anything, nonnegative, unit
from lat.proofs.sampling import DTYPE, Draw, Experiment, Tests, ranges
from lat.proofs.solver import Proof

VECTORS = {"x": anything("n i"), "u": unit("n i"), "q": nonnegative("n i")}
WINDOWS = {"x": anything("k o"), "u": unit("k o"), "q": nonnegative("k o")}
PAIRS = {"x": anything("n i"), "u": unit("n i"), "q": nonnegative("n i"), "y": anything("n i"), "t": unit("n i"), "p": nonnegative("n i")}  # fmt: skip
WEIGHTS = {"w": anything("o i"), "b": anything("o")}
SCALES = {"w": anything("i"), "b": anything("i")}
VECTOR, WINDOW = ranges(n=(1, 3), i=(1, 4), o=(1, 4)), ranges(k=(1, 5), o=(1, 3))
MATRICES = tuple({"n": 1, "o": o, "i": i} for o, i in ((1, 2), (2, 2)))
ONE, TWO, THREE = ({"n": 1, "i": 1},), ({"k": 2, "o": 1},), ({"k": 2, "o": 1}, {"k": 3, "o": 1})


def _moved(c: Case) -> Tensor:
    """x + r with |r| at most the radius q."""
    return c.x + c.u * c.q


def _ends(c: Case) -> tuple[Tensor, Tensor]:
    """[x - q, x + q], which `_moved` lies in."""
    return c.x - c.q, c.x + c.q


def _within(value: Tensor, ends: tuple[Tensor, Tensor]) -> Tensor:
    return at_most(ends[0], value) & at_most(value, ends[1])


def _affine(c: Case, x: Tensor) -> Tensor:
    return x @ c.w.T + c.b


def _scaled(c: Case, x: Tensor) -> Tensor:
    return c.w * x + c.b


RADII = (
    Law(
        id="7.radius_linear",
        role="step",
        statement="abs(W (x + r) + b - (W x + b)) <= abs(W) q",
        domain="all W, b, x, |r| ≤ q: fully connected layers, and convolutions as matrices",
        variables=VECTORS | WEIGHTS,
        holds=lambda c: at_most((_affine(c, _moved(c)) - _affine(c, c.x)).abs(), primitives.linear_radius(c.w, c.q)),
        evidence=(Proof(MATRICES), Tests(VECTOR)),
    ),
    Law(
        id="7.radius_relu",
        role="step",
        statement='abs(op("ReLU")(x + r) - op("ReLU")(x)) <= q',
        domain="all x, |r| ≤ q",
        variables=VECTORS,
        holds=lambda c: at_most((torch.relu(_moved(c)) - torch.relu(c.x)).abs(), primitives.relu_radius(c.q)),
        evidence=(Proof(ONE), Tests(VECTOR)),
    ),
    Law(
        id="7.radius_max",
        role="step",
        statement="abs(max_k (x_k + r_k) - max_k x_k) <= max_k q_k",
        domain="all x, |r| ≤ q: max pooling",
        variables=WINDOWS,
        holds=lambda c: at_most((_moved(c).amax(dim=0) - c.x.amax(dim=0)).abs(), primitives.max_radius(c.q)),
        evidence=(Proof(THREE), Tests(WINDOW)),
    ),
    Law(
        id="7.radius_mean",
        role="step",
        statement='abs(op("mean")_k (x_k + r_k) - op("mean")_k x_k) <= op("mean")_k q_k',
        domain="all x, |r| ≤ q: average pooling",
        variables=WINDOWS,
        holds=lambda c: at_most((_moved(c).mean(dim=0) - c.x.mean(dim=0)).abs(), primitives.mean_radius(c.q)),
        evidence=(Proof(THREE), Tests(WINDOW)),
    ),
    Law(
        id="7.radius_sum",
        role="step",
        statement="abs((x + r) + (y + s) - (x + y)) <= q + p",
        domain="all x, y, |r| ≤ q, |s| ≤ p: residual additions",
        variables=PAIRS,
        holds=lambda c: at_most((_moved(c) + (c.y + c.t * c.p) - (c.x + c.y)).abs(), primitives.sum_radius(c.q, c.p)),
        evidence=(Proof(ONE), Tests(VECTOR)),
    ),
    Law(
        id="7.radius_scale",
        role="step",
        statement="abs((s (x + r) + t) - (s x + t)) <= abs(s) q",
        domain="all s, t, x, |r| ≤ q: BatchNorm in eval mode, s = γ / σ of either sign",
        variables=VECTORS | SCALES,
        holds=lambda c: at_most((_scaled(c, _moved(c)) - _scaled(c, c.x)).abs(), primitives.scale_radius(c.w, c.q)),
        evidence=(Proof(ONE), Tests(VECTOR)),
    ),
)

INTERVALS = (
    Law(
        id="7.interval_linear",
        role="step",
        statement="W c + b - abs(W) q <= W x + b <= W c + b + abs(W) q",
        domain="all W, b and |x - c| ≤ q",
        variables=VECTORS | WEIGHTS,
        holds=lambda c: _within(_affine(c, _moved(c)), primitives.linear_interval(c.w, c.b, *_ends(c))),
        evidence=(Proof(MATRICES), Tests(VECTOR)),
    ),
    Law(
        id="7.interval_relu",
        role="step",
        statement='op("ReLU")(l) <= op("ReLU")(x) <= op("ReLU")(h)',
        domain="all l ≤ x ≤ h",
        variables=VECTORS,
        holds=lambda c: _within(torch.relu(_moved(c)), primitives.relu_interval(*_ends(c))),
        evidence=(Proof(ONE), Tests(VECTOR)),
    ),
    Law(
        id="7.interval_max",
        role="step",
        statement="max_k l_k <= max_k x_k <= max_k h_k",
        domain="all l ≤ x ≤ h",
        variables=WINDOWS,
        holds=lambda c: _within(_moved(c).amax(dim=0), primitives.max_interval(*_ends(c))),
        evidence=(Proof(THREE), Tests(WINDOW)),
    ),
    Law(
        id="7.interval_mean",
        role="step",
        statement='op("mean")_k l_k <= op("mean")_k x_k <= op("mean")_k h_k',
        domain="all l ≤ x ≤ h",
        variables=WINDOWS,
        holds=lambda c: _within(_moved(c).mean(dim=0), primitives.mean_interval(*_ends(c))),
        evidence=(Proof(THREE), Tests(WINDOW)),
    ),
    Law(
        id="7.interval_sum",
        role="step",
        statement="l + l' <= x + y <= h + h'",
        domain="all l ≤ x ≤ h, l' ≤ y ≤ h'",
        variables=PAIRS,
        holds=lambda c: _within(
            _moved(c) + (c.y + c.t * c.p), primitives.sum_interval(*_ends(c), c.y - c.p, c.y + c.p)
        ),
        evidence=(Proof(ONE), Tests(VECTOR)),
    ),
    Law(
        id="7.interval_scale",
        role="step",
        statement="s c + t - abs(s) q <= s x + t <= s c + t + abs(s) q",
        domain="all s, t and |x - c| ≤ q",
        variables=VECTORS | SCALES,
        holds=lambda c: _within(_scaled(c, _moved(c)), primitives.scale_interval(c.w, c.b, *_ends(c))),
        evidence=(Proof(ONE), Tests(VECTOR)),
    ),
)


class Small(nn.Module):
    """A convolutional network of everything that radii pass: a residual block between two poolings, then a layer.

    For images (n, channels, 8, 8), in eval mode and float64.
    """

    def __init__(self, channels: int, filters: int, stride: int, groups: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, filters, 3, stride, 1)
        self.normed = nn.BatchNorm2d(filters)
        self.on = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.inner = nn.Conv2d(filters, filters, 3, 1, 1, groups=groups)
        self.inner_on = nn.ReLU()
        self.mean = nn.AvgPool2d(2)
        self.flat = nn.Flatten()
        self.last = nn.Linear(filters * (2 if stride == 1 else 1) ** 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.pool(self.on(self.normed(self.first(x))))
        return self.last(self.flat(self.mean(h + self.inner_on(self.inner(h)))))


def network(draw: Draw, *, nonnegative: bool) -> tuple[nn.Module, int]:
    """A random `Small` network and its number of channels; where asked for, with no negative weight or scale and no
    shift.
    """
    channels, filters = draw(st.integers(1, 2)), draw(st.sampled_from([2, 4]))
    model = Small(channels, filters, draw(st.integers(1, 2)), draw(st.sampled_from([1, 2])))
    model = model.double().eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    for name, values in model.state_dict().items():
        if values.is_floating_point():
            drawn = torch.randn(values.shape, generator=generator, dtype=DTYPE)
            shifts = name.endswith(("bias", "running_mean"))
            values.copy_(drawn.abs() if nonnegative or name.endswith("running_var") else drawn)
            if nonnegative and shifts:
                values.zero_()
    return model, channels


def _outputs(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """The outputs of all layers, by their names."""
    found: dict[str, Tensor] = {}
    handles = [
        module.register_forward_hook(lambda _, __, y, name=name: found.__setitem__(name, y))
        for name, module in model.named_modules()
        if name
    ]
    try:
        model(x)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _bounded(draw: Draw) -> Tensor:
    """Every layer's output moves by no more than its radius, and lies in its interval, which is no wider."""
    model, channels = network(draw, nonnegative=False)
    eps = draw(st.sampled_from([0.01, 0.1, 1.0]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    x, r = torch.rand(2, 4, channels, 8, 8, generator=generator, dtype=DTYPE)
    r = eps * (torch.sign(2 * r - 1) if draw(st.booleans()) else 2 * r - 1)
    before, after = _outputs(model, x), _outputs(model, x + r)
    radii = bounds.radii(model, (channels, 8, 8), eps)
    intervals = bounds.intervals(model, x - eps, x + eps)
    holds = torch.tensor(True)
    for name, y in before.items():
        low, high = intervals[name]
        holds = holds & at_most((after[name] - y).abs(), radii[name]) & _within(after[name], (low, high))
        holds = holds & at_most((high - low) / 2, radii[name])
    return holds


def _attained(draw: Draw) -> Tensor:
    """Without negative numbers, r = eps everywhere moves every unit of every layer by exactly its radius.

    The images are of one grey, so that a maximum is taken where the radius is largest.
    """
    model, channels = network(draw, nonnegative=True)
    eps, grey = draw(st.sampled_from([0.01, 0.1, 1.0])), draw(st.floats(0, 1))
    x = torch.full((1, channels, 8, 8), grey, dtype=DTYPE)
    before, after = _outputs(model, x), _outputs(model, x + eps)
    radii = bounds.radii(model, (channels, 8, 8), eps)
    holds = torch.tensor(True)
    for name, y in before.items():
        holds = holds & equal(after[name] - y, radii[name].expand_as(y))
    return holds


def _certified(draw: Draw) -> Tensor:
    """What the chain certifies, intervals certify; and no certified prediction changes at corners of the ball."""
    model, channels = network(draw, nonnegative=False)
    eps = draw(st.sampled_from([1e-3, 3e-3, 1e-2]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    x = torch.rand(8, channels, 8, 8, generator=generator, dtype=DTYPE)
    y = model(x).argmax(1)
    certified = bounds.certified(model, x, y, eps)
    holds = at_most(bounds.certified_by_chain(model, x, y, eps).to(DTYPE), certified.to(DTYPE))
    for _ in range(8):
        corner = (x + eps * torch.sign(torch.rand(x.shape, generator=generator, dtype=DTYPE) - 0.5)).clamp(0, 1)
        holds = holds & at_most(certified.to(DTYPE), (model(corner).argmax(1) == y).to(DTYPE))
    return holds


ARGUMENT = (
    "Let the operations of the network be numbered so that each comes after its inputs. _Claim_: for every operation and every {}. "
    "_Base_: the input, by the choice of {}. _Step_: the inputs of an operation satisfy the claim by hypothesis, and the "
    "lemma of its kind turns that into the claim for its output: a convolution is a linear map of the flattened input, pooling "
    "is a maximum or mean over each window, BatchNorm in eval mode scales and shifts each channel, a residual addition sums two "
    "outputs, dropout in eval mode and flattening change nothing."
)

NETWORKS = (
    Law(
        id="7.bound_network",
        role="instead",
        statement="abs(y_l (x + r) - y_l (x)) <= epsilon q_l",
        domain="every layer l of any network of fully connected layers, convolutions, ReLU, max and average pooling, BatchNorm "
        "in eval mode and residual additions; q the radii carried from q₀ = 1; all x, all r with |r| ≤ ε",
        evidence=(
            Induction(
                tuple(law.id for law in RADII),
                ARGUMENT.format(
                    "$x$ and $r$ with $abs(r) <= epsilon$, its output moves by at most $epsilon q$", "$q_0$"
                ),
            ),
            Experiment(_bounded, share=0.2),
        ),
    ),
    Law(
        id="7.attained_network",
        role="instead",
        statement="y_l (x + epsilon bold(1)) - y_l (x) = epsilon q_l",
        domain="the same networks without a negative weight or scale, without shifts, x of one grey: the radii are attained by all units of all layers at once",
        evidence=(Experiment(_attained, share=0.2),),
    ),
    Law(
        id="7.interval_network",
        role="instead",
        statement="l_k <= y_k (x + r) <= h_k, quad (h_k - l_k) / 2 <= epsilon q_k",
        domain="the same networks: interval bounds are sound, and no wider than the closed chain",
        evidence=(
            Induction(
                tuple(law.id for law in INTERVALS),
                ARGUMENT.format("input in the box, its output lies in its interval", "the box"),
            ),
            Experiment(_bounded, share=0.2),
        ),
    ),
    Law(
        id="7.certified",
        role="instead",
        statement='"chain" => "intervals" => "the prediction stays"',
        domain="the same networks: what the chain certifies, interval bounds certify, and no certified prediction changes in the "
        "ball (at random corners)",
        evidence=(Experiment(_certified, share=0.2),),
    ),
)

LAWS = (*RADII, *INTERVALS, *NETWORKS)
