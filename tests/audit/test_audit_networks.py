"""Checks that ask the network: each fires on one built for it, and is silent on its neighbour."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from noisy import Noisy
from subjects import ATTACKS, SETTINGS, Quantised, Times, asked, two_scores
from torch import Tensor, nn

from lat import bounds
from lat.attacks import Draws, Threat
from lat.audit import AuditError, Result, Subject, examine
from lat.audit.binarization import discriminant
from lat.audit.containment import excess


def results(check: str, subject: Subject, **changed: object) -> list[Result]:
    return examine(subject, {check: SETTINGS[check] | changed})


def one(check: str, subject: Subject, **changed: object) -> Result:
    (result,) = results(check, subject, **changed)
    return result


class Scored(nn.Module):
    """Two classes, the second one's score a function of the image."""

    def __init__(self, score: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.score = score

    def forward(self, x: Tensor) -> Tensor:
        return two_scores(self.score(x))


def grey(n: int, pixels: int = 1) -> tuple[Tensor, Tensor]:
    """Grey images (n, 1, 1, pixels) of class 0, at 0.5."""
    return torch.full((n, 1, 1, pixels), 0.5), torch.zeros(n, dtype=torch.int64)


def random_network(seed: int = 0, width: int = 32) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10)).eval()


def random_images(n: int, seed: int = 0) -> Tensor:
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def test_without_images_every_check_is_skipped() -> None:
    plain = random_network()
    empty = asked(plain, random_images(0), torch.zeros(0, dtype=torch.int64))
    found = examine(empty, SETTINGS)
    assert [result.check for result in found] == list(SETTINGS)
    assert {(result.status, result.reason) for result in found} == {("skipped", "there are no images")}


def test_a_gradient_that_is_zero_is_noted_and_found_past_one_percent() -> None:
    def flat(count: int) -> Result:
        """`count` of 1,000 images lie where the ReLU is off."""
        x, y = grey(1000)
        x[:count] = 0.1
        return one("zero_gradients", asked(Scored(lambda x: (x.flatten() - 0.3).relu() - 1), x, y))

    assert [flat(count).status for count in (0, 1, 10, 11)] == ["passed", "noted", "noted", "found"]
    assert (flat(11).value, flat(11).n) == (0.011, 1000)


def test_a_gradient_is_there_if_one_pixel_of_it_is_a_number() -> None:
    x, y = grey(2, pixels=2)
    model = Scored(lambda x: x[:, 0, 0, 0] + (x[:, 0, 0, 1] - 0.5).abs().sqrt())  # 0 / 0 at the second pixel
    assert one("zero_gradients", asked(model, x, y)).value == 0


def test_one_pixel_with_a_gradient_is_enough() -> None:
    x, y = grey(10, pixels=3)
    assert one("zero_gradients", asked(Scored(lambda x: x[:, 0, 0, 1]), x, y)).value == 0


def faint(x: Tensor) -> Tensor:
    """A score so small that the loss is a line in it; the second class never wins in the ball around grey."""
    return 0.01 * (x[:, 0, 0, 0] - 0.61)


def test_an_ascent_that_still_gains_has_not_converged() -> None:
    """A loss that grows by equal steps gains a quarter in its last ten of forty; in the ball it stops at the edge."""
    x, y = grey(4)
    steady = asked(Scored(faint), x, y)
    slow = {"pgd": replace(ATTACKS["pgd"], relative_step=1 / 40, start="clean")}
    found = one("converged", replace(steady, attacks=slow))
    assert (found.status, found.n) == ("found", 4)
    assert found.value == pytest.approx(0.25, abs=1e-3)
    fast = {"pgd": replace(ATTACKS["pgd"], relative_step=1 / 10, start="clean")}
    assert (one("converged", replace(steady, attacks=fast)).status) == "passed"
    within = one("converged", replace(steady, attacks=slow), share=0.2501)
    assert within.status == "passed"


def test_images_that_are_broken_long_ago_do_not_hide_that_the_others_still_gain() -> None:
    """One of five is broken by the first steps, and its loss, ten thousand times the others', stands still then."""
    x, y = grey(5, pixels=2)
    x[0, :, :, 1] = 1.0

    def score(x: Tensor) -> Tensor:
        return torch.where(x[:, 0, 0, 1] > 0.8, 1e4 * (x[:, 0, 0, 0].clamp(max=0.52) - 0.505), faint(x))

    slow = {"pgd": replace(ATTACKS["pgd"], relative_step=1 / 40, start="clean")}
    found = one("converged", replace(asked(Scored(score), x, y), attacks=slow))
    assert (found.status, found.n) == ("found", 4)
    assert found.value == pytest.approx(0.25, abs=1e-3)
    gone = one("converged", replace(asked(Scored(score), x[:1], y[:1]), attacks=slow))
    assert (gone.status, gone.reason) == ("skipped", "all 1 images are broken 10 steps before the end")


def test_a_loss_that_never_changes_has_converged() -> None:
    x, y = grey(4)
    assert one("converged", asked(Scored(lambda x: 0 * x.flatten()), x, y)).value == 0


def test_an_attack_without_steps_cannot_converge() -> None:
    x, y = grey(2)
    assert one("converged", asked(Scored(lambda x: x.flatten()), x, y), attack="fgsm").status == "skipped"


def test_logits_that_saturate_hide_what_smaller_ones_show() -> None:
    """The score is -200: e^-200 is 0 in float32, e^-20 is not. The image is broken at 0.55."""

    def saturated(count: int) -> Result:
        """`count` of 200 images have logits a thousand times too large."""
        x, y = grey(200, pixels=2)
        x[:, :, :, 1] = 0
        x[:count, :, :, 1] = 1

        def score(x: Tensor) -> Tensor:
            first, second = x.flatten(1).unbind(1)
            return (first - 0.55) * torch.where(second > 0.5, 4000.0, 4.0)

        from_the_image = {"pgd": replace(ATTACKS["pgd"], start="clean")}
        return one("scaled_logits", asked(Scored(score), x, y, from_the_image))

    assert [saturated(count).value for count in (0, 2, 3)] == [0, 1.0, 1.5]
    assert [saturated(count).status for count in (0, 2, 3)] == ["passed", "passed", "found"]


def test_robust_accuracy_that_rises_on_scaled_logits_is_no_finding() -> None:
    """Divided by ten, the score underflows where it did not."""
    x, y = grey(20)
    scarce = asked(Scored(lambda x: 1600 * (x.flatten() - 0.55)), x, y)
    assert one("scaled_logits", scarce, factors=[10.0]).value == 0


class Turned(nn.Module):
    """Logits of length 1, turned by `angle` more at every pass."""

    def __init__(self, angle: float) -> None:
        super().__init__()
        self.angle, self.passes = angle, 0

    def forward(self, x: Tensor) -> Tensor:
        turned = torch.tensor(self.angle * self.passes, dtype=torch.float64)
        self.passes += 1
        return 7 * torch.stack([turned.cos(), turned.sin()]).expand(len(x), 2)


def test_passes_may_differ_by_a_ten_thousandth_of_the_length_of_the_logits() -> None:
    x, y = grey(3)
    for angle, status in ((0.0, "passed"), (0.99e-4 / 4, "passed"), (1.01e-4 / 4, "found")):
        result = one("repeated_passes", asked(Turned(angle), x, y))
        assert result.status == status
        assert result.value == pytest.approx(4 * angle, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_scores_that_are_not_finite_pass_no_check_of_the_network(value: float) -> None:
    x, y = grey(3)
    empty = asked(Scored(lambda x: x.flatten() * 0 + value), x, y)
    for check in ("converged", "repeated_passes", "scaled_logits", "fresh_draws"):
        result = one(check, empty)
        assert (result.status, result.reason) == ("skipped", "the network's scores or its loss are not all finite")
    lost = one("zero_gradients", empty)
    assert (lost.status, lost.value) == ("found", 1.0), "a gradient that is no number moves no attack"


def test_a_network_that_is_random_between_numbers_and_none_is_found() -> None:
    class Wavers(nn.Module):
        passes = 0

        def forward(self, x: Tensor) -> Tensor:
            self.passes += 1
            return two_scores(x.flatten() if self.passes % 2 else x.flatten() * torch.nan)

    x, y = grey(3)
    assert one("repeated_passes", asked(Wavers(), x, y)).status == "found"


class Wavering(nn.Module):
    """Right on everything; on the first `wavering` images wrong every second time that it is asked without gradient."""

    def __init__(self, wavering: int) -> None:
        super().__init__()
        self.wavering, self.asked = wavering, 0

    def forward(self, x: Tensor) -> Tensor:
        score = x.flatten() * 1e-3 - 1
        if not torch.is_grad_enabled():
            self.asked += 1
            if self.asked % 4 == 0:
                score = torch.where(torch.arange(len(x)) < self.wavering, score.abs(), score)
        return two_scores(score)


def test_accuracy_on_fresh_draws_may_differ_by_a_point_and_no_more() -> None:
    """Every second rescoring is wrong on the wavering images, the attack's own is not: half of them differ."""
    x, y = grey(100)
    fixed = {"pgd": replace(ATTACKS["fgsm"])}
    for wavering in (0, 2, 3):
        subject = asked(Scored(lambda x: x.flatten() - 2), x, y, fixed)
        model = Wavering(wavering)
        result = one("fresh_draws", replace(subject, model=model))
        assert result.status == ("found" if wavering > 2 else "passed"), (wavering, result)
        assert result.value == wavering / 2


def test_the_discriminant_is_the_best_of_all_directions() -> None:
    generator = torch.Generator().manual_seed(0)
    for m, d in ((40, 6), (6, 40)):
        inner = torch.randn(m, d, generator=generator, dtype=torch.float64)
        hidden = torch.randn(d, generator=generator, dtype=torch.float64)
        spread = torch.cov(inner.T)
        spread = spread + torch.eye(d, dtype=torch.float64) * spread.diagonal().mean()

        def told_apart(w: Tensor, inner: Tensor = inner, hidden: Tensor = hidden, spread: Tensor = spread) -> Tensor:
            return (w @ (hidden - inner.mean(0))).square() / (w @ spread @ w)

        best = discriminant(inner, hidden)
        for _ in range(50):
            other = best + 0.1 * best.norm() * torch.randn(d, generator=generator, dtype=torch.float64)
            assert told_apart(other) < told_apart(best)


def test_the_self_test_is_passed_by_a_plain_network_and_failed_by_a_staircase() -> None:
    x = random_images(12)
    plain = random_network()
    y = plain(x).argmax(1)
    fewer = {"examples": 12, "inner_points": 50}
    passed = one("breakable", asked(plain, x, y), **fewer)
    assert (passed.status, passed.value, passed.n) == ("passed", 1.0, 12)
    found = one("breakable", asked(nn.Sequential(Quantised(20), plain), x, y), **fewer)
    assert found.status == "found" and found.value < 0.5


def test_the_self_test_leaves_the_network_as_it_is_and_needs_a_last_linear_layer() -> None:
    x, plain = random_images(3), random_network()
    before = copy.deepcopy(plain.state_dict())
    subject = asked(plain, x, plain(x).argmax(1))
    first = one("breakable", subject, examples=3, inner_points=20)
    assert first == one("breakable", subject, examples=3, inner_points=20)
    assert all(torch.equal(before[key], value) for key, value in plain.state_dict().items())
    assert isinstance(plain[3], nn.Linear) and plain[3].out_features == 10 and not plain[3]._forward_hooks
    scaled = one("breakable", asked(nn.Sequential(plain, Times(2.0)), x, subject.y))
    assert scaled.status == "skipped" and "does not end in nn.Linear" in scaled.reason


def test_features_that_tell_nothing_apart_are_no_self_test() -> None:
    x = random_images(2)
    dead = random_network()
    nn.init.constant_(dead[1].bias, -1000.0)
    assert one("breakable", asked(dead, x, dead(x).argmax(1)), tries=2).status == "skipped"


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_excess_is_measured_outside_ball_and_box(norm: str) -> None:
    x = np.array([[0.5, 0.5], [0.95, 0.5]])
    threat = Threat(norm, 0.1)
    assert excess(x + np.array([[0.1, 0.0], [0.05, 0.0]]), x, threat) == pytest.approx(0, abs=1e-15)
    assert excess(x + np.array([[-0.13, 0.0], [0.0, 0.0]]), x, threat) == pytest.approx(0.03)
    assert excess(x + np.array([[0.0, 0.0], [0.07, 0.0]]), x, threat) == pytest.approx(0.02)
    assert excess(x - np.array([[0.6, 0.0], [0.0, 0.0]]), x, Threat(norm, None)) == pytest.approx(0.1)


@dataclass(frozen=True)
class Astray:
    """Proposes the images moved by `shift`, whatever the threat allows."""

    shift: float
    examples: int | None = None

    @property
    def threat(self) -> Threat:
        return Threat("linf", 0.1)

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
        return x + self.shift


@pytest.mark.parametrize(
    ("shift", "complaint"), [(0.11, "eot: .* lies outside ball or box by 0.01"), (float("nan"), "eot: .* not finite")]
)
def test_an_example_outside_is_an_error_before_the_wrapper_sees_it(shift: float, complaint: str) -> None:
    x, plain = 0.2 + 0.5 * random_images(5), random_network()
    subject = asked(plain, x, plain(x).argmax(1))
    passed = one("ball_and_box", subject)
    assert passed.status == "passed" and 0 <= passed.value <= 1e-6 and passed.n == 5
    within = one("ball_and_box", replace(subject, attacks={"eot": Astray(0.1)}))
    assert (within.status, within.reason) == ("passed", "not run: fgsm, ifgsm, pgd, cw")
    with pytest.raises(AuditError, match=complaint):
        results("ball_and_box", replace(subject, attacks={"pgd": ATTACKS["pgd"], "eot": Astray(shift)}))
    assert one("ball_and_box", replace(subject, attacks={"homemade": Astray(shift)})).status == "skipped"


def test_verdicts_of_no_attack_of_the_run_are_an_error() -> None:
    x, plain = random_images(2), random_network()
    subject = asked(plain, x, plain(x).argmax(1))
    verdict = (np.arange(2), np.ones(2, dtype=np.bool_))
    with pytest.raises(AuditError, match="homemade: there are verdicts, but the run has no such attack"):
        results("ball_and_box", replace(subject, verdicts={"homemade": verdict}))
    for index in ([1, 0], [0, 2], [0]):
        wrong = replace(subject, verdicts={"pgd": (np.array(index), verdict[1])})
        with pytest.raises(AuditError, match="not one an image, in ascending order"):
            results("ball_and_box", wrong)


def test_certificates_are_those_of_the_bounds_and_hold_against_the_attacks() -> None:
    x, plain = random_images(30), random_network()
    y = plain(x).argmax(1)
    y[:5] = (y[:5] + 1) % 10
    subject = asked(plain, x, y)
    found = results("certified", subject, radii=[0.001, 0.01, 0.5])
    assert [result.check for result in found] == ["certified@0.001", "certified@0.01", "certified@0.5"]
    for result in found:
        proved = bounds.certified(plain, x, y, float(result.check.partition("@")[2]))
        assert result.n == int(proved.sum())
        assert result.value == pytest.approx(100 * float(proved.double().mean()))
    assert [result.status for result in found] == ["noted", "noted", "skipped"]
    assert found[1].n and (found[2].n, found[2].reason) == (0, "no image of 30 is certified")


def test_an_attack_that_breaks_a_certified_image_is_an_error() -> None:
    x, plain = random_images(30), random_network()
    subject = asked(plain, x, plain(x).argmax(1))
    proved = bounds.certified(plain, x, subject.y, 0.001).numpy()
    victim = int(np.flatnonzero(proved)[3])
    robust = np.arange(30) != victim
    small = replace(ATTACKS["fgsm"], threat=Threat("linf", 0.001))
    inside = [Threat(norm, radius) for norm in ("linf", "l2") for radius in (0.0009, 0.001)]
    outside = [Threat("linf", 0.0011), Threat("l2", 0.0011), Threat("linf", 0.001, (-1.0, 1.0))]
    for threat, wrong in [*((threat, True) for threat in inside), *((threat, False) for threat in outside)]:
        attacks = dict(ATTACKS) | {"fgsm": replace(small, threat=threat)}
        broken = replace(subject, attacks=attacks, verdicts={"fgsm": (np.arange(30), robust)})
        if wrong:
            with pytest.raises(AuditError, match=rf"fgsm breaks 1 of {proved.sum()} certified images, number {victim}"):
                results("certified", broken, radii=[0.001])
        else:
            results("certified", broken, radii=[0.001])
    with pytest.raises(AuditError, match="the network on the clean image breaks 1 of"):
        results("certified", replace(subject, clean=robust), radii=[0.001])


@pytest.mark.parametrize(("distance", "wrong"), [(0.001, True), (0.0011, False), (np.inf, False)])
def test_a_smallest_distance_within_the_certified_radius_is_an_error(distance: float, wrong: bool) -> None:
    x, plain = random_images(30), random_network()
    subject = asked(plain, x, plain(x).argmax(1))
    index = np.flatnonzero(bounds.certified(plain, x, subject.y, 0.001).numpy())[2:5]
    found = np.array([9.0, distance, 9.0], dtype=np.float32)
    held = replace(subject, verdicts={"cw_l2": (index, np.isinf(found))}, distances={"cw_l2": found})
    if wrong:
        with pytest.raises(AuditError, match=rf"cw_l2 breaks 1 of \d+ certified images, number {index[1]}"):
            results("certified", held, radii=[0.001])
    else:
        results("certified", held, radii=[0.001])


def test_the_audit_s_own_attacks_run_at_the_certified_radius(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds that certify everything are found out."""
    x, plain = random_images(30), random_network()
    subject = asked(plain, x, plain(x).argmax(1))
    monkeypatch.setattr(bounds, "certified", lambda model, x, y, eps, box: torch.ones(len(x), dtype=torch.bool))
    assert results("certified", subject, radii=[1e-6])[0].n == 30
    with pytest.raises(AuditError, match=r"pgd at radius 0.2 breaks \d+ of 30 certified images"):
        results("certified", subject, radii=[0.2])


def test_a_network_that_bounds_do_not_pass_has_no_certificates() -> None:
    x, plain = random_images(3), random_network()
    random = nn.Sequential(Noisy(0.1), plain)
    assert one("certified", asked(random, x, plain(x).argmax(1))).status == "skipped"
