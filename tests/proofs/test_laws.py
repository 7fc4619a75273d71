"""Laws: what each kind of evidence decides, what it refuses to decide, and that a wrong law or equation is noticed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from lat import equations, proofs
from lat.bounds import primitives
from lat.cli import main
from lat.proofs.comparison import at_most, equal, exactly_where, implies, watched
from lat.proofs.enumeration import Counterexample, _smallest_first
from lat.proofs.exact import exact
from lat.proofs.law import Evidence, Induction, Law, Profile, anything, nonnegative, nonzero, unit
from lat.proofs.sampling import Experiment, Tests, ranges
from lat.proofs.solver import Proof
from lat.proofs.verification import status, verify

DEV = Profile("dev", 25, derandomize=True)
ONE = ({"i": 1},)
BY_ID = {law.id: law for law in proofs.LAWS}


PAIR = {"x": anything("i"), "y": anything("i")}


def law(holds: Callable[[Any], Tensor] | None, *evidence: Evidence, **changes: Any) -> Law:
    given = {"variables": PAIR if holds else None, "holds": holds, "evidence": evidence}
    return Law(id="5.made_up", role="claim", statement="x", domain="all x", **given | changes)


def decided(*laws: Law) -> list[str]:
    return [entry["status"] for entry in verify(laws, DEV)["laws"]]


# Evidence -------------------------------------------------------------------------------------------------------------


def true(c: Any) -> Tensor:
    return equal((c.x - c.y) * (c.x + c.y), c.x * c.x - c.y * c.y)


def false(c: Any) -> Tensor:
    return equal((c.x - c.y) * (c.x - c.y), c.x * c.x - c.y * c.y)


def test_a_true_law_is_proved_tested_and_never_refuted() -> None:
    assert decided(law(true, Proof(ONE))) == ["proved"]
    assert decided(law(true, Tests(ranges(i=(1, 3))))) == ["tested"]
    assert decided(law(true, Proof(ONE), Tests(ranges(i=(1, 3))))) == ["proved"]
    assert decided(law(true, Counterexample(ONE))) == ["contradicted"]


def test_a_false_law_is_refuted_and_neither_proved_nor_tested() -> None:
    assert decided(law(false, Counterexample(ONE))) == ["refuted"]
    assert decided(law(false, Proof(ONE))) == ["contradicted"]
    assert decided(law(false, Tests(ranges(i=(1, 3))))) == ["contradicted"]
    assert decided(law(false, Counterexample(ONE), Proof(ONE))) == ["contradicted"]


def test_a_law_whose_evidence_was_emptied_is_unsupported() -> None:
    assert decided(law(true)) == ["unsupported"]
    assert decided(law(true, Proof(()))) == ["unsupported"]
    assert decided(law(false, Counterexample(()))) == ["unsupported"]
    assert decided(law(None, Induction((), "so it is"))) == ["unsupported"]
    assert decided(law(true, Proof(ONE), Induction((), ""))) == ["unsupported"]


def test_a_law_that_compares_nothing_is_not_supported_by_tests() -> None:
    assert decided(law(lambda c: torch.tensor(True), Tests(ranges(i=(1, 2))))) == ["contradicted"]


def test_an_equation_that_raises_contradicts_its_law_and_says_where() -> None:
    def broken(c: Any) -> Tensor:
        raise RuntimeError("shapes do not fit")

    (entry,) = verify([law(broken, Proof(ONE))], DEV)["laws"]
    assert entry["status"] == "contradicted"
    assert entry["evidence"][0]["failure"].startswith("RuntimeError: shapes do not fit (test_laws.py, line ")


def test_what_the_solver_cannot_decide_in_time_is_undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lat.proofs.solver.decided", lambda *_: ("unknown", {}))
    assert decided(law(true, Proof(ONE))) == ["undecided"]


def test_the_solver_s_model_of_a_false_law_makes_it_false() -> None:
    (entry,) = verify([law(false, Proof(ONE))], DEV)["laws"]
    model = {name: float(eval(value)) for name, value in entry["evidence"][0]["shapes"][0]["model"].items()}
    x, y = model["x_0"], model["y_0"]
    assert (x - y) ** 2 != pytest.approx(x**2 - y**2)


def test_an_induction_stands_on_proved_lemmas_alone() -> None:
    lemma = law(true, Proof(ONE))
    above = dataclasses.replace(
        lemma, id="5.above", variables=None, holds=None, evidence=(Induction(["5.made_up"], "step by step"),)
    )
    assert decided(lemma, above) == ["proved", "proved"]
    for weaker in (law(true, Tests(ranges(i=(1, 1)))), law(false, Proof(ONE)), law(true)):
        assert decided(weaker, above)[1] == "undecided"
    assert decided(above, lemma)[0] == "undecided", "a lemma comes before what is built on it"


def test_a_counterexample_is_the_smallest_in_its_order_and_is_one() -> None:
    found = verify([law(false, Counterexample(ONE))], DEV)["laws"][0]["evidence"][0]
    assert found["values"] == {"x": [0], "y": [1]}
    assert (found["left"], found["right"]) == ([1], [-1])
    tuples = list(_smallest_first(["any", "nonzero"], 2))
    assert len(tuples) == len(set(tuples)) == 20
    assert set(_smallest_first(["unit", "nonnegative"], 2)) == {(u, v) for u in (-1, 0, 1) for v in (0, 1, 2)}
    keys = [(max(map(abs, t)), sum(map(abs, t)), sum(v < 0 for v in t)) for t in tuples]
    assert keys == sorted(keys)


def test_every_published_counterexample_fails_in_floating_point_too(verified: dict[str, Any]) -> None:
    """An independent evaluation: the values as plain float64 tensors, through the equations themselves."""
    refuted = [entry for entry in verified["laws"] if entry["status"] == "refuted"]
    assert len(refuted) > 15
    for entry in refuted:
        one, (found,) = BY_ID[entry["id"]], entry["evidence"]
        (evidence,) = one.evidence
        values = {name: torch.tensor(value, dtype=torch.float64) for name, value in found["values"].items()}
        shapes = {name: tuple(value.shape) for name, value in values.items()}
        sizes = next(s for s in evidence.sizes if {n: v.sized(s) for n, v in one.variables.items()} == shapes)
        assert not one.holds(one.case(values, sizes)), one.id


def test_domains_and_kinds_narrow_a_law() -> None:
    kinds = {"x": nonnegative("i"), "y": nonnegative("i")}
    positive = law(lambda c: at_most(0 * c.x, c.x * c.y), Proof(ONE), Tests(ranges(i=(1, 3))), variables=kinds)
    assert decided(positive) == ["proved"]
    assert decided(law(lambda c: at_most(0 * c.x, c.x * c.y), Proof(ONE))) == ["contradicted"]
    ordered = law(
        lambda c: at_most(c.x * c.x, c.y * c.y), Proof(ONE), variables=kinds, where=lambda c: (c.x <= c.y).all()
    )
    assert decided(ordered) == ["proved"]
    inside = law(lambda c: at_most(c.x * c.x, 1 + 0 * c.x), Proof(ONE), variables={"x": unit("i")})
    assert decided(inside) == ["proved"]
    invertible = law(lambda c: equal(c.x / c.x, 1 + 0 * c.x), Proof(ONE), variables={"x": nonzero("i")})
    assert decided(invertible) == ["proved"]


@pytest.mark.parametrize(
    "changes",
    [{"id": "five.x"}, {"role": "lemma"}, {"holds": None}, {"variables": None}],
)
def test_a_law_that_is_not_well_formed_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(proofs.LawError):
        dataclasses.replace(law(true), **changes)


def test_two_laws_of_one_id_are_refused() -> None:
    with pytest.raises(proofs.LawError, match=r"5\.made_up: stands twice"):
        verify([law(true, Proof(ONE))] * 2, DEV)


# Comparisons ----------------------------------------------------------------------------------------------------------


def test_comparisons_are_exact_on_exact_tensors_and_within_a_tolerance_on_floats() -> None:
    one, near, far = (torch.tensor([1.0, v], dtype=torch.float64) for v in (1.0, 1.0 + 1e-12, 1.0 + 1e-8))
    assert equal(one, near) and not equal(one, far)
    assert at_most(near, one) and at_most(one, far) and not at_most(far, one)
    assert not equal(exact(one), exact(near)).terms[()]
    assert at_most(exact(one), exact(near)).terms[()] and not at_most(exact(near), exact(one)).terms[()]


def test_the_largest_relative_error_is_kept() -> None:
    with watched() as watch:
        equal(torch.tensor([100.0, 0.0]), torch.tensor([101.0, 0.001]))
        at_most(torch.tensor([1.0]), torch.tensor([9.0]))
    assert watch.largest_error == pytest.approx(1 / 101)
    assert watch.compared == 2


def test_implications_are_those_of_logic() -> None:
    yes, no = torch.tensor(True), torch.tensor(False)
    assert [bool(implies(a, b)) for a in (yes, no) for b in (yes, no)] == [True, False, True, True]
    assert [bool(exactly_where(a, b)) for a in (yes, no) for b in (yes, no)] == [True, False, False, True]


def test_a_failing_example_can_be_reproduced_from_what_is_printed() -> None:
    failing = law(false, Tests(ranges(i=(1, 1))))
    (entry,) = verify([failing], DEV)["laws"]
    assert "@reproduce_failure(" in entry["evidence"][0]["failure"]


def test_an_experiment_that_fails_once_contradicts_its_law() -> None:
    from hypothesis import strategies as st

    rare = Experiment(lambda draw: equal(torch.tensor(float(draw(st.integers(0, 10)) == 7)), torch.tensor(0.0)))
    assert decided(law(None, rare)) == ["contradicted"]


# The project's laws ---------------------------------------------------------------------------------------------------


def test_every_equation_has_laws_and_every_claim_a_verdict() -> None:
    assert {one.equation for one in proofs.LAWS} == set(range(5, 15))
    rows = yaml.safe_load((Path(proofs.verification.ROOT) / "config/equations.yaml").read_text())["rows"]
    assert set(proofs.expected()) == set(BY_ID)
    for row in rows:
        assert row["claim"] in row["laws"]
        assert {BY_ID[name].equation for name in row["laws"]} == {row["equation"]}
        if row["laws"][row["claim"]] == "refuted":
            roles = {BY_ID[name].role for name in row["laws"]}
            assert roles & {"condition", "instead"} or row["part"] in ("stacked", "previous batch"), row


def test_a_difference_in_either_direction_is_a_sentence() -> None:
    document = {
        "laws": [{"id": "a", "status": "proved"}, {"id": "b", "status": "tested"}, {"id": "c", "status": "refuted"}]
    }
    assert proofs.differences(document, {"a": "proved", "b": "tested", "c": "refuted"}) == []
    wrong = proofs.differences(document, {"a": "tested", "b": "proved", "d": "proved"})
    assert [line.split(":")[0] for line in wrong] == ["a", "b", "c", "d"]


def negated(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *given: -function(*given)


# A wrong equation each, and laws that it has to turn: (function, what stands in its place, laws).
WRONG: dict[str, tuple[Any, str, Callable[..., Any], tuple[str, ...]]] = {
    "the sign of the change": (equations, "output_change", lambda w, r: -(r @ w.T), ("5.identity",)),
    "the weight not transposed": (equations, "output_change", lambda w, r: r @ w, ("5.identity", "5.stack")),
    "FGSM down the gradient": (
        equations, "input_perturbation", lambda g, w, eps: -eps * torch.sign(g @ w), ("6.one_unit", "6.ascent"),
    ),
    "the sign dropped": (equations, "input_perturbation", lambda g, w, eps: eps * (g @ w), ("6.one_unit",)),
    "the radius without abs": (equations, "closed_radius", lambda w: w.sum(dim=1), ("6.bound", "6.attained", "6.l_1")),
    "the radius over outputs": (equations, "closed_radius", lambda w: w.abs().sum(dim=0), ("6.bound",)),
    "the closed form without sign": (
        equations, "closed", lambda g, w, eps: eps * equations.closed_radius(w) * g, ("6.one_unit", "6.l_1"),
    ),
    "the chain without abs": (
        equations, "closed_stack_radius", lambda ws, initial=None: ws[1] @ ws[0].abs().sum(dim=1), ("7.bound",),
    ),
    "the convolution's radius without abs": (
        equations, "convolution_closed_radius",
        lambda w, at, size, initial=None: equations.convolution(
            w, torch.ones(1, w.shape[1] * at.groups, *size, dtype=w.dtype), at
        )[0],
        ("8.bound", "8.attained"),
    ),
    "the transposed convolution's sign": (
        equations, "convolution_input_gradient", negated(equations.convolution_input_gradient),
        ("8.one_output", "8.ascent"),
    ),
    "the ReLU before the perturbation": (
        equations, "relu_output",
        lambda w, b, v, d, x, r: (torch.relu(x @ w.T + b) + r @ w.T) @ v.T + d, ("10.definition", "14.unflipped"),
    ),
    "the moved ReLU without its sign": (
        equations, "relu_moved_inside", lambda w, z: torch.relu(w.abs() * z), ("11.elements",),
    ),
    "the scalar difference swapped": (
        equations, "scalar_difference", negated(equations.scalar_difference), ("12.scalar",),
    ),
    "the cases of eq. 13 without a sign": (
        equations, "scalar_difference_by_cases",
        lambda w, b, v, x, r: equations.scalar_difference(w.abs(), b, v.abs(), x, r), ("13.positive",),
    ),
    "the mask without its sign": (
        equations, "masked_difference", lambda w, b, v, x, r: torch.relu(w * x + b) * v * w * r,
        ("14.domain", "14.error"),
    ),
    "the l_0 claim made true": (
        equations, "closed", lambda g, w, eps: eps * (w != 0).sum(dim=1) * torch.sign(g), ("6.l_0", "6.l_1"),
    ),
    "a ReLU that halves radii": (primitives, "relu_radius", lambda q: q / 2, ("7.radius_relu", "7.bound_network")),
    "a scale without abs": (primitives, "scale_radius", lambda s, q: s * q, ("7.radius_scale",)),
    "an interval with its ends swapped": (
        primitives, "relu_interval", lambda low, high: (torch.relu(high), torch.relu(low)), ("7.interval_relu",),
    ),
}  # fmt: skip


def without_tests(one: Law) -> Law:
    """The law with its solver's, enumerated and inductive evidence alone: quick, and enough where there is some."""
    kept = tuple(e for e in one.evidence if not isinstance(e, Tests | Experiment))
    return dataclasses.replace(one, evidence=kept or one.evidence)


@pytest.mark.parametrize("fault", WRONG)
def test_a_wrong_equation_turns_its_laws(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    module, name, wrong, turned = WRONG[fault]
    lemmas = [
        lemma for law_id in turned for e in BY_ID[law_id].evidence if isinstance(e, Induction) for lemma in e.lemmas
    ]
    laws = [without_tests(BY_ID[law_id]) for law_id in dict.fromkeys([*lemmas, *turned])]
    expected = {one.id: status for one in laws for status in [proofs.expected()[one.id]]}
    assert proofs.differences(verify(laws, DEV), expected) == []
    monkeypatch.setattr(module, name, wrong)
    wrong_statuses = {entry["id"]: entry["status"] for entry in verify(laws, DEV)["laws"]}
    assert [one for one in turned if wrong_statuses[one] == expected[one]] == []


def test_a_status_that_is_not_expected_fails_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = (without_tests(BY_ID["6.bound"]), BY_ID["6.l_0"])
    monkeypatch.setattr(proofs, "LAWS", few)
    monkeypatch.setattr(proofs, "expected", lambda: {"6.bound": "proved", "6.l_0": "refuted"})
    output = tmp_path / "equations.json"
    arguments = ["verify", "--profile", "dev", "--output", str(output)]
    assert main(arguments) == 0
    document = json.loads(output.read_text())
    assert [(entry["id"], entry["equation"], entry["status"]) for entry in document["laws"]] == [
        ("6.bound", 6, "proved"), ("6.l_0", 6, "refuted"),
    ]  # fmt: skip
    monkeypatch.setattr(equations, "closed_radius", lambda w: w.sum(dim=1))
    assert main(arguments) == 1
    assert "6.bound: contradicted, but proved is expected" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.setattr(proofs, "LAWS", (dataclasses.replace(few[0], evidence=()), few[1]))
    monkeypatch.setattr(proofs, "expected", lambda: {"6.bound": "proved", "6.l_0": "refuted"})
    assert main(arguments) == 1
    assert "6.bound: unsupported, but proved is expected" in capsys.readouterr().err


def test_an_unknown_profile_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--profile", "hasty"]) == 2
    assert "profile: 'hasty' is not known; use one of dev, ci, thorough" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content",
    ["rows: []", "rows: [{equation: 6, part: null, says: x, claim: 6.x, laws: {6.x: asserted}}]", "rowz: []"],
)
def test_expectations_that_do_not_fit_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "equations.yaml"
    path.write_text(content)
    with pytest.raises(proofs.LawError, match=r"equations\.yaml"):
        proofs.expected(path)


def test_statuses_come_together() -> None:
    finding = proofs.law.Finding
    assert status([]) == "unsupported"
    assert status([finding("tested", {}), finding("proved", {})]) == "proved"
    assert status([finding("refuted", {}), finding("tested", {})]) == "contradicted"
    assert status([finding("proved", {}), finding("undecided", {})]) == "undecided"
