"""The mutation tool itself: it makes the mutants that matter, and it says so when tests notice nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import bars
import judge
import mutants
import pytest
from bars import Verdict
from mutants import Mutant

TOY = '''"""A docstring."""

from __future__ import annotations

import functools

import torch
from torch import Tensor


@functools.cache
def cached(a: int, b: int = 1) -> int:
    """One more."""
    return a + b


def radius(w: Tensor, g: "Float[Tensor, 'n out']") -> Tensor:
    return w.T.abs().sum(dim=0, keepdim=True) * torch.sign(g)


class Box:
    def __init__(self, low: float) -> None:
        self.low = low

    @property
    def width(self) -> float:
        if self.low > 0 and self.low is not None:
            raise ValueError(f"low: {self.low} " "is too high")
        return 1 - self.low

    def nothing(self) -> None:
        """Only words."""
'''


@pytest.fixture(scope="module")
def made() -> set[tuple[str, str]]:
    return {(mutant.function, mutant.after) for mutant in mutants.of(TOY, standard=False)}


@pytest.mark.parametrize(
    "after",
    [
        "return (w.T).sum(dim=0, keepdim=True) * torch.sign(g)",  # no abs
        "return w.T.abs().sum(dim=0, keepdim=True) * g",  # no sign
        "return w.abs().sum(dim=0, keepdim=True) * torch.sign(g)",  # not transposed
        "return (w.T.abs().mean(dim=0, keepdim=True)) * torch.sign(g)",
        "return w.T.abs().sum(dim=(1), keepdim=True) * torch.sign(g)",
        "return w.T.abs().sum(dim=0, keepdim=False) * torch.sign(g)",
        "return (w.T.abs().sum(dim=0)) * torch.sign(g)",
        "return ((w.T.abs().sum(dim=0, keepdim=True)) / (torch.sign(g)))",
        "return (None)",
    ],
)
def test_abs_sign_transpose_sum_dimension_and_operator_are_each_changed_alone(
    made: set[tuple[str, str]], after: str
) -> None:
    spelled = {(function, text.replace(" ", "")) for function, text in made}
    assert ("radius", after.replace(" ", "")) in spelled


def test_functions_under_a_decorator_defaults_and_dropped_statements_are_reached(made: set[tuple[str, str]]) -> None:
    assert ("cached", "return ((a) - (b))") in made
    assert ("cached", "def cached(a: int, b: int = (2)) -> int:") in made
    assert ("Box.__init__", "pass") in made
    assert ("Box.width", "pass") in made
    assert ("Box.width", "return ((1) + (self.low))") in made
    assert any(function == "Box.width" and " or " in after for function, after in made)
    assert any(function == "Box.width" and ">=" in after for function, after in made)


def test_only_code_is_changed_one_place_at_a_time_and_every_mutant_compiles() -> None:
    for mutant in mutants.of(TOY, standard=False):
        compile(mutant.source, "toy", "exec")
        assert '"""A docstring."""' in mutant.source and '"""One more."""' in mutant.source
        assert "is too high" in mutant.source or mutant.after == "pass"
        assert "'n out'" in mutant.source
        assert mutant.source != TOY


def test_every_function_that_does_something_is_counted() -> None:
    one_less = [m for m in mutants.of(TOY, standard=False) if m.function != "cached"]
    counts = mutants.per_function(TOY, one_less)
    assert set(counts) == {"cached", "radius", "Box.__init__", "Box.width"}
    assert [name for name, count in counts.items() if count == 0] == ["cached"]
    _, found = bars.complaints("toy", TOY, [Verdict(m, "killed", 0.0) for m in one_less], {})
    assert found == ["toy.cached: no mutant was made of it"]


def test_mutmuts_operators_are_added_and_none_counts_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mutmut", reason="comes with `make mutation`")
    monkeypatch.chdir(judge.ROOT)
    own = {mutant.source for mutant in mutants.of(TOY, standard=False)}
    both = [mutant.source for mutant in mutants.of(TOY)]
    assert own < set(both)
    assert len(both) == len(set(both))


# A suite that looks, and one that does not ---------------------------------------------------------------------------

PROGRAM = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import judge, mutants
tree = Path(sys.argv[2])
made = [m for m in mutants.of((tree / "toy.py").read_text(), standard=False) if m.function == "size"]
verdicts = judge.judge(tree, "toy.py", made, sys.argv[3:], 2)
print(json.dumps([[v.mutant.after, v.outcome] for v in verdicts]))
"""
SIZE = """def size(x: int) -> int:
    n = abs(x)
    if n < 1:
        n += 1
    return n


def unused() -> int:
    return 1
"""
ASSERTS = "import toy\n\ndef test_size():\n    assert [toy.size(x) for x in (-3, 0, 1)] == [3, 1, 1]\n"
ASSERTS_NOTHING = "import toy\n\ndef test_size():\n    toy.size(3)\n"


def outcomes(tree: Path, tests: str) -> dict[str, str]:
    (tree / "toy.py").write_text(SIZE)
    (tree / "test_toy.py").write_text(tests)
    (tree / "pyproject.toml").write_text("[tool.pytest.ini_options]\n")
    command = [sys.executable, "-c", PROGRAM, str(Path(__file__).parent), str(tree), "test_toy.py"]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_a_suite_that_looks_kills_what_one_that_asserts_nothing_lets_live(tmp_path: Path) -> None:
    watched, unwatched = tmp_path / "watched", tmp_path / "unwatched"
    watched.mkdir()
    unwatched.mkdir()
    seen, unseen = outcomes(watched, ASSERTS), outcomes(unwatched, ASSERTS_NOTHING)
    assert seen["n = x"] == "killed"
    assert seen["return (None)"] == "killed"
    assert unseen["n = x"] == unseen["return (None)"] == "survived"
    assert seen["if ((n) <= (1)):"] == "killed"


def test_tests_that_fail_without_a_mutant_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="fail without a mutant"):
        outcomes(tmp_path, ASSERTS.replace("[3, 1, 1]", "[3, 1, 2]"))


# The bars ---------------------------------------------------------------------------------------------------------


def verdict(function: str, after: str, outcome: str) -> Verdict:
    return Verdict(Mutant(function, "return a + b", after, ""), outcome, 0.0)


def test_a_survivor_must_be_listed_and_a_listed_one_must_survive() -> None:
    source = "def f(a, b):\n    return a + b\n"
    killed = [verdict("f", f"return a + b + {k}", "killed") for k in range(40)]
    lives = verdict("f", "return a - b", "survived")
    key = lives.mutant.key
    score, found = bars.complaints("toy", source, [*killed, lives], {})
    assert score == 40 / 41
    assert len(found) == 1 and "survived and is not listed" in found[0]
    assert bars.complaints("toy", source, [*killed, lives], {key: "accepted"}) == (40 / 41, [])
    assert bars.complaints("toy", source, [*killed, lives], {key: "equivalent"}) == (1.0, [])
    _, found = bars.complaints("toy", source, killed, {key: "equivalent"})
    assert len(found) == 1 and "killed or no longer made" in found[0]


def test_accepted_survivors_count_against_the_bar() -> None:
    source = "def f(a, b):\n    return a + b\n"
    verdicts = [verdict("f", f"return {k}", "killed" if k < 18 else "survived") for k in range(20)]
    explained = {v.mutant.key: "accepted" for v in verdicts if v.outcome == "survived"}
    score, found = bars.complaints("toy", source, verdicts, explained)
    assert score == 0.9
    assert found == ["toy: 90.0% of the mutants are noticed; 95% are asked for"]


def test_the_list_of_survivors_gives_every_one_a_kind_and_a_reason(tmp_path: Path) -> None:
    for module in bars.listed():
        assert module in judge.TESTS
    short = tmp_path / "survivors.toml"
    short.write_text(
        '[[survivor]]\nmodule = "m"\nfunction = "f"\nbefore = "a"\nafter = "b"\nkind = "equivalent"\nwhy = ""\n'
    )
    with pytest.raises(bars.MutationError, match="and why"):
        bars.listed(short)
