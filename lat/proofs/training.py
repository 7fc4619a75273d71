"""Laws of training equivalence, counted under eq. (5): is training on x + r training with R added to the output?"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lat import equations as eq
from lat.cells import PAIRINGS, Reading
from lat.linear_maps import linear_map
from lat.perturbation import LayerwiseAdversary
from lat.proofs.comparison import equal
from lat.proofs.enumeration import Counterexample
from lat.proofs.law import Law, anything, nonnegative, nonzero
from lat.proofs.sampling import DTYPE, Draw, Experiment
from lat.sites import CONVOLUTIONS, PERTURBABLE, TRANSPOSED, Tap

CLASSES = 3
Gradients = dict[str, Tensor]


class Perturbed:
    """One network, one batch, and one layer of it whose input is perturbed by r: FGSM at that place, not clipped."""

    def __init__(self, draw: Draw) -> None:
        self.generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
        convolutional = draw(st.booleans())
        self.model = self._convolutional() if convolutional else self._fully_connected()
        self.layer = draw(st.sampled_from([name for name, m in self.model.named_modules() if hasattr(m, "weight")]))
        self.module = self._layer()
        n = draw(st.integers(1, 4))
        self.x = self._normal(n, 2, 6, 6) if convolutional else self._normal(n, 5)
        self.y = torch.randint(CLASSES, (n,), generator=self.generator)
        self.r = draw(st.sampled_from([0.01, 0.1, 1.0])) * torch.sign(self.input_gradient())

    def _layer(self) -> nn.Linear | nn.Conv2d:
        module = self.model.get_submodule(self.layer)
        assert isinstance(module, nn.Linear | nn.Conv2d)
        return module

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=DTYPE)

    def _with_weights(self, model: nn.Module) -> nn.Module:
        with torch.no_grad():
            for p in model.double().parameters():
                p.copy_(0.5 * self._normal(*p.shape))
        return model.train()

    def _fully_connected(self) -> nn.Module:
        return self._with_weights(
            nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, CLASSES))
        )

    def _convolutional(self) -> nn.Module:
        strided = nn.Conv2d(4, 4, 2, stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2)
        return self._with_weights(
            nn.Sequential(
                nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), strided, nn.ReLU(), nn.Flatten(),
                nn.Linear(4 * 4 * 4, CLASSES),
            )
        )  # fmt: skip

    def input_gradient(self) -> Tensor:
        """dL/dh at the layer's input h."""
        seen: list[Tensor] = []

        def keep(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
            seen.append(inputs[0].detach().requires_grad_())
            return (seen[0],)

        handle = self.module.register_forward_pre_hook(keep)
        loss = cross_entropy(self.model(self.x), self.y)
        handle.remove()
        return torch.autograd.grad(loss, seen[0])[0]

    def change(self) -> Tensor:
        """R = w r, with the layer's own weight: the attached form."""
        return linear_map(self.module, tuple(self.r.shape[1:])).change(self.r)

    def at_input(self) -> tuple[Tensor, Gradients]:
        """Loss and gradients where r is added to the layer's input."""
        handle = self.module.register_forward_pre_hook(lambda _, inputs: (inputs[0] + self.r,))
        found = self._gradients()
        handle.remove()
        return found

    def at_output(self, change: Callable[[], Tensor]) -> tuple[Tensor, Gradients, Tensor]:
        """Loss and gradients where `change` is added to the layer's output through a `Tap`, and dL/dy there."""
        with Tap({self.layer: self.module}, lambda name, y: change()) as tap:
            loss, gradients = self._gradients()
        return loss, gradients, tap.gradients[self.layer]

    def _gradients(self) -> tuple[Tensor, Gradients]:
        self.model.zero_grad()
        loss = cross_entropy(self.model(self.x), self.y)
        loss.backward()
        return loss.detach(), {name: p.grad.clone() for name, p in self.model.named_parameters() if p.grad is not None}

    def missing(self, g: Tensor) -> Tensor:
        """g rᵀ, what the weight's gradient gains by r alone: dL/dw of <g, w r>."""
        w = self.module.weight.detach().requires_grad_()
        if isinstance(self.module, nn.Linear):
            return g.T @ self.r
        return torch.autograd.grad(eq.convolution(w, self.r, eq.Geometry.of(self.module)), w, g)[0]


def _same(a: Gradients, b: Gradients) -> Tensor:
    holds = torch.tensor(set(a) == set(b))
    for name, value in a.items():
        holds = holds & equal(value, b[name])
    return holds


def _attached(draw: Draw) -> Tensor:
    case = Perturbed(draw)
    loss, gradients = case.at_input()
    other, others, _ = case.at_output(case.change)
    return equal(loss, other) & _same(gradients, others)


def _detached(draw: Draw) -> Tensor:
    case = Perturbed(draw)
    loss, gradients = case.at_input()
    other, others, g = case.at_output(lambda: case.change().detach())
    weight = f"{case.layer}.weight"
    return equal(loss, other) & _same(gradients, others | {weight: others[weight] + case.missing(g)})


def _injected(draw: Draw) -> Tensor:
    """A layer of any kind that can be perturbed, at x + r, and the same with w r added to its output through a `Tap`."""
    kind = draw(st.sampled_from(PERTURBABLE))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    axes = next((axis for axis in (1, 2, 3) if kind in (CONVOLUTIONS[axis - 1], TRANSPOSED[axis - 1])), 0)
    groups = draw(st.sampled_from([1, 2])) if axes else 1
    if axes:
        stride, padding, dilation = (draw(st.integers(low, 2)) for low in (1, 0, 1))
        module = kind(2 * groups, 2 * groups, 2, stride=stride, padding=padding, dilation=dilation, groups=groups)
    else:
        module = kind(2, 3)
    module = module.double()
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=DTYPE))
        x, r = torch.randn(2, draw(st.integers(1, 3)), 2 * groups, *[4] * axes, generator=generator, dtype=DTYPE)
        change = linear_map(module, tuple(r.shape[1:])).change(r)
        with Tap({"layer": module}, lambda name, y: change):
            tapped = module(x)
        return equal(module(x + r), tapped)


def _removed(draw: Draw) -> Tensor:
    """Some steps of Algorithm 1; then the network, outside the block, against one of the same weights that never had
    an adversary. In the block the layer's output is another one wherever there is an R, so that there is something to
    remove.
    """
    case = Perturbed(draw)
    untouched = copy.deepcopy(case.model)
    adversary = LayerwiseAdversary(case.model, [case.layer], 0.5, Reading(pairing=draw(st.sampled_from(PAIRINGS[:2]))))
    optimizer = torch.optim.SGD(case.model.parameters(), 0.01)
    for _ in range(draw(st.integers(1, 3))):
        with adversary:
            loss = cross_entropy(case.model(case.x), case.y)
        optimizer.zero_grad()
        loss.backward()
        adversary.update()
        optimizer.step()
    untouched.load_state_dict(case.model.state_dict())
    with torch.no_grad():
        plain, usual = _with_output(untouched, case)
        with adversary:
            _, changed = _with_output(case.model, case)
        outside = case.model(case.x)
        case.model.eval()
        with adversary:
            in_eval = case.model(case.x)
    added = any(bool(R.any()) for R in adversary.perturbations.values())
    bits = all(torch.equal(found, plain) for found in (outside, in_eval)) and torch.equal(usual, changed) != added
    return equal(outside, plain) & equal(in_eval, plain) & torch.tensor(bits)


def _with_output(model: nn.Module, case: Perturbed) -> tuple[Tensor, Tensor]:
    """The scores of a network, and the output of the case's layer in it."""
    seen: list[Tensor] = []
    handle = model.get_submodule(case.layer).register_forward_hook(lambda _, given, y: seen.append(y))
    scores = model(case.x)
    handle.remove()
    return scores, seen[0]


LAWS = (
    Law(
        id="5.removed",
        role="claim",
        statement='"network trained with" R = "network of the same weights that never had" R',
        domain="after steps of Algorithm 1 on any one layer, outside its block in training mode and anywhere in eval mode, bit for "
        "bit. Fully connected and convolutional networks",
        evidence=(Experiment(_removed, share=0.3),),
    ),
    Law(
        id="5.injection",
        role="step",
        statement='"layer"(x + r) = "layer"(x) + W r',
        domain="every kind of layer that can be perturbed (fully connected, convolutions of one to three axes and their transposes), w r "
        "added to its output by the hooks that training uses",
        evidence=(Experiment(_injected),),
    ),
    Law(
        id="5.training_attached",
        role="condition",
        statement="L(h + r) = L(y + W r), quad nabla_theta L(h + r) = nabla_theta L(y + W r)",
        domain="r at the input h of any one layer, from this batch, not clipped; R = W r differentiated through W. Fully "
        "connected and convolutional networks",
        evidence=(Experiment(_attached, share=0.3),),
    ),
    Law(
        id="5.training_detached",
        role="instead",
        statement='nabla_W L(h + r) - nabla_W L(y + R) = g r^T, quad "all other gradients equal"',
        domain="R = W r as a constant: the weight's gradient lacks exactly this term",
        evidence=(Experiment(_detached, share=0.3),),
    ),
    Law(
        id="5.training_clipped",
        role="claim",
        statement='W op("clip")_([0, 1])(x + r) = W x + W r',
        domain="inputs in the data's box [0, 1], perturbed images clipped to it",
        variables={"w": nonzero("o i"), "x": nonnegative("n i"), "r": anything("n i")},
        where=lambda c: (c.x <= 1).all(),
        holds=lambda c: equal(
            eq.output_change(c.w, (c.x + c.r).clamp(min=0, max=1)),
            eq.output_change(c.w, c.x) + eq.output_change(c.w, c.r),
        ),
        evidence=(Counterexample(({"n": 1, "o": 1, "i": 1},)),),
    ),
    Law(
        id="5.training_previous",
        role="claim",
        statement="R(g^(t - 1)) = R(g^t)",
        domain="the previous batch's gradients in the place of this one's, as Algorithm 1 has it",
        variables={"w": nonzero("o i"), "g": nonzero("n o"), "before": nonzero("n o"), "eps": nonnegative("")},
        holds=lambda c: equal(eq.closed(c.before, c.w, c.eps), eq.closed(c.g, c.w, c.eps)),
        evidence=(Counterexample(({"n": 1, "o": 1, "i": 1},)),),
    ),
)
