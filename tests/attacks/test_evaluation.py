"""Verdicts are per example, the same however the work is cut, and survive their file."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from small_networks import Digits
from torch import Tensor, nn

from lat.attacks import Attack, AttackError, Threat, sample_index
from lat.evaluation import Evaluation, evaluate, load_verdicts, save_verdicts, worst_case
from lat.memory import Batch, EvaluationError

BALL = ("fgsm", "ifgsm", "pgd", "eot", "cw")


@pytest.fixture
def quick(attacks: dict[str, Attack]) -> dict[str, Attack]:
    """The attacks with fewer steps, the searches for a distance and one of a curve on a sample of the images."""
    chosen = {name: attacks[name] for name in ("fgsm", "ifgsm", "pgd", "cw")}
    chosen["eot"] = replace(attacks["eot"], steps=10, noise_draws=3)
    chosen["mi_fgsm"] = attacks["mi_fgsm"]
    chosen["cw_restarts"] = replace(attacks["cw_restarts"], steps=10, restarts=3)
    chosen["noise"] = replace(attacks["noise"], noise_draws=20)
    chosen["lbfgs"] = replace(attacks["lbfgs"], examples=13, search_steps=2, steps=10)
    chosen["cw_l2"] = replace(attacks["cw_l2"], examples=13, search_steps=2, steps=40)
    chosen["pgd_curve@0.3"] = replace(attacks["pgd_curve@0.3"], examples=25)
    return chosen


def same(one: Evaluation, other: Evaluation) -> None:
    """Every verdict, index and distance of the two is equal."""
    assert list(one.verdicts) == list(other.verdicts)
    assert list(one.distances) == list(other.distances)
    assert one.finite == other.finite
    np.testing.assert_array_equal(one.clean, other.clean)
    for name in one.verdicts:
        np.testing.assert_array_equal(one.verdicts[name], other.verdicts[name], err_msg=name)
        np.testing.assert_array_equal(one.index[name], other.index[name], err_msg=name)
    for name in one.distances:
        np.testing.assert_array_equal(one.distances[name], other.distances[name], err_msg=name)


def test_verdicts_do_not_depend_on_the_size_of_the_batches(digits: Digits, quick: dict[str, Attack]) -> None:
    model, x, y = copy.deepcopy(digits.model).double(), digits.x[:60].double(), digits.y[:60]
    whole = evaluate(model, x, y, quick, seed=5, batch=1000)
    for batch in (7, 60):
        cut = evaluate(model, x, y, quick, seed=5, batch=batch)
        for name in quick:
            assert int((cut.verdicts[name] != whole.verdicts[name]).sum()) == 0, name
        for name in ("cw_l2", "lbfgs"):
            np.testing.assert_allclose(cut.distances[name], whole.distances[name], rtol=1e-6)
    # and the draws matter at all: another seed gives another evaluation of the attacks that draw
    other = evaluate(model, x, y, {"pgd": replace(quick["pgd"], steps=1)}, seed=6)
    assert not np.array_equal(
        other.verdicts["pgd"], evaluate(model, x, y, {"pgd": replace(quick["pgd"], steps=1)}, seed=5).verdicts["pgd"]
    )


def test_the_same_seed_gives_the_same_evaluation_whatever_else_is_attacked(
    digits: Digits, quick: dict[str, Attack]
) -> None:
    x, y = digits.x[:60], digits.y[:60]
    torch.manual_seed(1)
    whole = evaluate(digits.model, x, y, quick, seed=5)
    torch.manual_seed(2)
    same(whole, evaluate(digits.model, x, y, quick, seed=5))
    alone = evaluate(digits.model, x, y, {"eot": quick["eot"]}, seed=5)
    np.testing.assert_array_equal(alone.verdicts["eot"], whole.verdicts["eot"])


def test_an_evaluation_holds_what_it_says(digits: Digits, quick: dict[str, Attack]) -> None:
    x, y = digits.x[:60], digits.y[:60]
    result = evaluate(digits.model, x, y, quick, seed=0)
    with torch.no_grad():
        np.testing.assert_array_equal(result.clean, (digits.model(x).argmax(1) == y).numpy())
    assert result.finite
    assert set(result.verdicts) == set(result.index) == set(result.seconds) == set(quick)
    assert set(result.distances) == {"cw_l2", "lbfgs"}
    for name, attack in quick.items():
        np.testing.assert_array_equal(result.index[name], sample_index(60, attack.examples), err_msg=name)
        assert result.verdicts[name].dtype == np.bool_
        assert not (result.verdicts[name] & ~result.clean[result.index[name]]).any(), name  # robust implies clean
        assert result.seconds[name] > 0
    infinite = np.isinf(result.distances["cw_l2"])
    np.testing.assert_array_equal(infinite, result.verdicts["cw_l2"])
    wrong = ~result.clean[result.index["cw_l2"]]
    np.testing.assert_array_equal(result.distances["cw_l2"] == 0, wrong)


def test_the_worst_case_is_the_and_over_attacks(digits: Digits, quick: dict[str, Attack]) -> None:
    result = evaluate(digits.model, digits.x[:60], digits.y[:60], quick, seed=0)
    worst = worst_case(result.verdicts, BALL)
    np.testing.assert_array_equal(worst, np.all([result.verdicts[name] for name in BALL], axis=0))
    assert worst.mean() <= min(result.verdicts[name].mean() for name in BALL)


@given(st.integers(1, 40), st.integers(1, 5), st.integers(0, 10**6))
def test_one_more_attack_never_raises_the_worst_case(n: int, count: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    verdicts = {str(k): random.random(n) < 0.7 for k in range(count + 1)}
    fewer, more = worst_case(verdicts, list(verdicts)[:-1]), worst_case(verdicts, list(verdicts))
    assert not (more & ~fewer).any()
    np.testing.assert_array_equal(worst_case(verdicts, reversed(list(verdicts))), more)


def test_a_worst_case_over_nothing_or_over_different_images_is_refused() -> None:
    verdicts = {"pgd": np.ones(5, dtype=np.bool_), "cw_l2": np.ones(3, dtype=np.bool_)}
    with pytest.raises(ValueError, match="no attack is named"):
        worst_case(verdicts, [])
    with pytest.raises(ValueError, match="eot: no verdicts"):
        worst_case(verdicts, ["pgd", "eot"])
    with pytest.raises(ValueError, match="different numbers of images"):
        worst_case(verdicts, ["pgd", "cw_l2"])


def test_attacks_of_one_threat_have_a_worst_case_and_others_are_named(digits: Digits, quick: dict[str, Attack]) -> None:
    result = evaluate(digits.model, digits.x[:20], digits.y[:20], quick, seed=0)
    inside = {name: quick[name] for name in BALL}
    np.testing.assert_array_equal(worst_case(result.verdicts, inside), worst_case(result.verdicts, BALL))
    with pytest.raises(ValueError, match="cw_l2: looks for the smallest distance and has no radius, so that"):
        worst_case(result.verdicts, inside | {"cw_l2": quick["cw_l2"]})
    threat = replace(quick["pgd"].threat, radius=0.2)
    other = inside | {"pgd": replace(quick["pgd"], threat=threat)}  # type: ignore[type-var]
    with pytest.raises(ValueError, match=r"pgd: norm, radius and box \('linf', 0\.2, .* another attack has .* 0\.1"):
        worst_case(result.verdicts, other)


@given(st.integers(0, 300), st.integers(1, 300), st.integers(1, 300))
@example(n=10, few=3, many=10)
def test_a_sample_follows_from_the_number_of_images_and_a_smaller_one_is_part_of_it(
    n: int, few: int, many: int
) -> None:
    few, many = sorted((few, many))
    small, large = sample_index(n, few), sample_index(n, many)
    assert set(small) <= set(large) <= set(range(n))
    assert len(small) == min(few, n)
    np.testing.assert_array_equal(small, np.unique(small))  # ascending, none twice
    np.testing.assert_array_equal(sample_index(n, None), np.arange(n))
    np.testing.assert_array_equal(sample_index(n, few), small)


def test_the_sample_of_a_thousand_is_pinned_and_even() -> None:
    index = sample_index(10_000, 1000)
    assert index[:5].tolist() == [11, 17, 24, 26, 28]  # another sample would not be comparable with records kept
    assert 4500 < index.mean() < 5500


class Small(nn.Module):
    """A device with memory for so many images at a time; `seen` has the size of each batch that was tried."""

    def __init__(self, model: nn.Module, images: int) -> None:
        super().__init__()
        self.model, self.images = model, images
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        if len(x) > self.images:
            raise torch.OutOfMemoryError(f"{len(x)} images")
        return self.model(x)


@pytest.mark.parametrize("images", [1, 7, 16, 60])
def test_where_memory_runs_out_the_batch_is_halved_and_no_verdict_differs(
    digits: Digits, quick: dict[str, Attack], images: int
) -> None:
    model, x, y = copy.deepcopy(digits.model).double(), digits.x[:60].double(), digits.y[:60]
    if images == 1:  # sixty single images: two attacks are enough
        quick = {name: quick[name] for name in ("pgd", "pgd_curve@0.3")}
    whole = evaluate(model, x, y, quick, seed=5)
    small = Small(model, images)
    cut = evaluate(small, x, y, quick, seed=5)
    differing = {name: int((cut.verdicts[name] != whole.verdicts[name]).sum()) for name in quick}
    assert differing == dict.fromkeys(quick, 0)
    np.testing.assert_array_equal(cut.clean, whole.clean)
    assert cut.finite == whole.finite
    assert whole.batch == Batch(1000)
    expected = {1: Batch(1, 5), 7: Batch(7, 3), 16: Batch(15, 2), 60: Batch(1000)}  # 60 -> 30 -> 15 -> 7 -> 3 -> 1
    assert cut.batch == expected[images]
    tried = [n for n in small.seen if n > images]
    assert len(tried) == expected[images].halvings  # it does not try again what did not fit


def test_an_attack_whose_draws_are_of_a_batch_is_marked_where_the_cut_is_no_multiple_of_it(
    digits: Digits, attacks: dict[str, Attack]
) -> None:
    """Forty images are cut into tens where sixteen fit."""
    short = replace(attacks["boundary"], steps=2)
    chosen = {"tens": replace(short, batch=10), "twenties": replace(short, batch=20), "fgsm": attacks["fgsm"]}
    x, y = digits.x[:40], digits.y[:40]
    whole, cut = (evaluate(model, x, y, chosen, seed=0) for model in (digits.model, Small(digits.model, 16)))
    assert (whole.redrawn, cut.redrawn) == ((), ("twenties",))
    assert cut.batch == Batch(10, 2)
    np.testing.assert_array_equal(cut.distances["tens"], whole.distances["tens"])
    assert (cut.distances["twenties"] != whole.distances["twenties"]).any()


def test_one_image_that_does_not_fit_is_an_error_that_says_what_to_do(digits: Digits, quick: dict[str, Attack]) -> None:
    class Greedy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if torch.is_grad_enabled():
                raise torch.OutOfMemoryError("gradients")
            return digits.model(x)

    for name, model in (("pgd", Greedy()), ("clean", Small(digits.model, 0))):
        with pytest.raises(EvaluationError, match=rf"{name}: memory ran out on a single image; .*--device cpu"):
            evaluate(model, digits.x[:5], digits.y[:5], {"pgd": quick["pgd"]}, seed=0)
        assert model.training  # it comes back as it was


def test_an_evaluation_tells_how_far_it_is(digits: Digits, quick: dict[str, Attack]) -> None:
    told: list[tuple[str, int, int]] = []
    chosen = {name: quick[name] for name in ("fgsm", "pgd_curve@0.3")}
    small = Small(digits.model, 16)
    evaluate(small, digits.x[:40], digits.y[:40], chosen, seed=0, progress=lambda *words: told.append(words))
    fgsm = [("fgsm", done, 40) for done in (0, 10, 20, 30, 40)]
    assert told == [*fgsm, *[("pgd_curve@0.3", done, 25) for done in (0, 10, 20, 25)]]


class Broken(nn.Module):
    """Scores that are not finite where the image's first pixel is bright."""

    def __init__(self, model: nn.Module, value: float) -> None:
        super().__init__()
        self.model, self.value = model, value

    def forward(self, x: Tensor) -> Tensor:
        scores = self.model(x)
        return torch.where(x.flatten(1)[:, :1] > 0.5, self.value + 0 * scores, scores)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_are_wrong_and_recorded(
    digits: Digits, quick: dict[str, Attack], value: float
) -> None:
    x, y = digits.x[:30].clone(), digits.y[:30]
    x[:, 0, 0, 0] = 0.0
    x[10:20, 0, 0, 0] = 1.0
    result = evaluate(Broken(digits.model, value), x, y, quick, seed=0)
    assert not result.finite
    assert not result.clean[10:20].any()
    assert result.clean[:10].any()
    for name in quick:
        spoilt = np.isin(result.index[name], np.arange(10, 20))
        assert not result.verdicts[name][spoilt].any(), name


def test_a_diverged_network_is_evaluated_not_a_crash(digits: Digits, quick: dict[str, Attack]) -> None:
    diverged = copy.deepcopy(digits.model)
    with torch.no_grad():
        for parameter in diverged.parameters():
            parameter.fill_(math.nan)
    result = evaluate(diverged, digits.x[:30], digits.y[:30], quick, seed=0)
    assert not result.finite
    assert not result.clean.any()
    assert not any(verdict.any() for verdict in result.verdicts.values())


def test_a_constant_network_is_finite_and_keeps_its_class(digits: Digits, quick: dict[str, Attack]) -> None:
    constant = copy.deepcopy(digits.model)
    with torch.no_grad():
        for parameter in constant.parameters():
            parameter.zero_()
        constant[-1].bias[3] = 1.0
    result = evaluate(constant, digits.x[:60], digits.y[:60], quick, seed=0)
    assert result.finite
    expected = digits.y[:60].numpy() == 3
    for name in quick:
        np.testing.assert_array_equal(result.verdicts[name], expected[result.index[name]], err_msg=name)


def test_an_attack_that_cheats_is_an_error_under_its_name(digits: Digits) -> None:
    class Cheating:
        threat, examples = Threat("linf", 0.1), None

        def perturb(self, model, x, y, draws):
            return 1 - x

    with pytest.raises(AttackError, match=r"liar: .*ball of radius 0\.1"):
        evaluate(digits.model, digits.x[:5], digits.y[:5], {"liar": Cheating()}, seed=0)


@st.composite
def fields(draw: st.DrawFn) -> dict[str, Any]:
    """Those of an Evaluation, which is made in the test: the check of its types draws from `random`."""
    n = draw(st.integers(0, 40))
    random = np.random.default_rng(draw(st.integers(0, 10**6)))
    index, verdicts = {}, {}
    for name in draw(st.lists(st.sampled_from(["fgsm", "pgd", "cw_l2", "pgd_curve@0.05"]), unique=True)):
        index[name] = np.flatnonzero(random.random(n) < 0.8)
        verdicts[name] = random.random(len(index[name])) < 0.5
    distances = {}
    if "cw_l2" in index:
        raw = random.random(len(index["cw_l2"])).astype(np.float32)
        distances["cw_l2"] = np.where(verdicts["cw_l2"], np.float32(np.inf), raw)
    return {
        "clean": random.random(n) < 0.9,
        "verdicts": verdicts,
        "index": index,
        "distances": distances,
        "finite": bool(random.random() < 0.5),
    }


@given(fields())
def test_what_is_stored_comes_back(tmp_path_factory: pytest.TempPathFactory, parts: dict[str, Any]) -> None:
    evaluation = Evaluation(**parts, seconds={"fgsm": 1.0})
    place = tmp_path_factory.mktemp("verdicts")
    save_verdicts(place / "new" / "a.npz", evaluation)
    same(load_verdicts(place / "new" / "a.npz"), evaluation)
    slower = replace(evaluation, seconds={"fgsm": 2.0})
    save_verdicts(place / "b.npz", slower)
    assert (place / "b.npz").read_bytes() == (place / "new" / "a.npz").read_bytes()  # wall times do not change the file
    assert sorted(path.name for path in place.iterdir()) == ["b.npz", "new"]  # and no draft is left


def test_verdicts_are_small(tmp_path: Path) -> None:
    verdict = np.random.default_rng(0).random(10_000) < 0.5
    index = np.arange(10_000)
    save_verdicts(tmp_path / "a.npz", Evaluation(verdict, {"pgd": verdict}, {"pgd": index}, {}, True))
    assert (tmp_path / "a.npz").stat().st_size < 5000  # two times 10,000 bits, and names


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = Evaluation(np.ones(8, dtype=np.bool_), {}, {}, {}, True)
    save_verdicts(tmp_path / "a.npz", old)

    def full_disk(file, **arrays) -> None:
        file.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(np, "savez_compressed", full_disk)
    with pytest.raises(OSError, match="no space left"):
        save_verdicts(tmp_path / "a.npz", replace(old, finite=False))
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]
    same(load_verdicts(tmp_path / "a.npz"), old)
