"""Mutation testing: every mutant of a module must be noticed by that module's tests.

    make mutation                                       # all modules
    .venv/bin/python tests/mutation/judge.py norms        # one
    .venv/bin/python tests/mutation/judge.py norms --function project --show

mutmut 3.8.1 makes the standard mutants; they are run here, where each costs seconds. The project is copied once, a
process imports what the tests import, and a fork of it for each mutant imports anew, with its types checked, the
mutated module and what imports it, and runs the tests that call the mutated function, the quick ones first, until the
first failure: under hypothesis' `ci` profile without shrinking, with few examples, and once more with all of them where
the few let the mutant live. A mutant that breaks the import or the shapes is killed like any other.

It fails where a module's score is below 95 % (mutants listed in survivors.toml as equivalent left out), a function
has no mutant, a survivor is not listed, or a listed one is killed or no longer made.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import gc
import importlib
import importlib.machinery
import json
import math
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mutants
import pytest
from bars import MutationError, Verdict, complaints, listed
from mutants import Mutant

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("lat", "tests", "config", "pyproject.toml")
PACKAGE = "lat"
FEW = 0.2
"""The share of hypothesis' examples that a mutant meets at first: most need no more."""

ADVERSARY = (
    "tests/method/test_perturbation*.py",
    "tests/method/test_adversary_contract.py",
    "tests/method/test_convolutional_contract.py",
    "tests/method/test_wider_scopes.py",
    "tests/method/test_pushed_delta.py",
    "tests/method/test_equations_transposed.py",
)
TESTS: Mapping[str, tuple[str, ...]] = {
    "equations": (
        "tests/method/test_equations_*.py",
        "tests/method/test_convolutional_sites.py",
        "tests/method/test_perturbation.py",
    ),
    "norms": ("tests/attacks/test_norms.py",),
    "sites": (
        "tests/method/test_sites*.py",
        "tests/method/test_convolutional_sites.py",
        "tests/method/test_adversary_contract.py",
        "tests/method/test_wider_scopes.py",
    ),
    "linear_maps": (
        "tests/method/test_convolutional_sites.py",
        "tests/method/test_convolutional_contract.py",
        "tests/method/test_linear_maps_edges.py",
        "tests/method/test_equations_transposed.py",
        "tests/method/test_perturbation.py",
    ),
    "laws": ("tests/method/test_perturbation*.py",),
    "perturbation/adversary": ADVERSARY,
    "perturbation/forming": (
        "tests/method/test_perturbation*.py",
        "tests/method/test_wider_scopes.py",
        "tests/method/test_pushed_delta.py",
    ),
    "perturbation/gradients": (*ADVERSARY, "tests/method/test_convolutional_sites.py"),
    "perturbation/kept": ("tests/method/test_kept.py",),
    "perturbation/passing": (
        "tests/method/test_wider_scopes.py",
        "tests/method/test_pushed_delta.py",
        "tests/method/test_routes.py",
    ),
    "perturbation/routes": (
        "tests/method/test_wider_scopes.py",
        "tests/method/test_pushed_delta.py",
        "tests/method/test_routes.py",
        "tests/method/test_perturbation_edges.py",
    ),
}
"""The test files of each module, as patterns."""

PASSED = 0
NOTICED = (1, 2, 4)
"""Statuses of pytest: a test failed, a test file could not be imported, a conftest could not be imported."""


# One run of the tests -----------------------------------------------------------------------------------------------


class _Fast:
    """A pytest plugin: hypothesis under the profile `ci`, but a failing example is not made smaller. `order` names the
    tests that run, and `share` is the share of the examples.
    """

    def __init__(self, order: Sequence[str] | None, share: float) -> None:
        self.share = share
        self.order = None if order is None else {name: place for place, name in enumerate(order)}

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        if self.order is not None:
            order = self.order
            items[:] = sorted((item for item in items if item.nodeid in order), key=lambda item: order[item.nodeid])

    def pytest_configure(self) -> None:
        from hypothesis import Phase, settings

        phases = [Phase.explicit, Phase.generate]  # the parent is the profile that tests/conftest.py has loaded
        examples = math.ceil(self.share * settings.default.max_examples)
        settings.register_profile(
            "mutation", settings.default, phases=phases, report_multiple_bugs=False, max_examples=examples
        )
        settings.load_profile("mutation")


class _Watch:
    """A pytest plugin: which functions of one module each test calls, by their first lines, and how long it takes."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.calls: dict[str, tuple[float, list[int]]] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: Any) -> Any:
        lines: set[int] = set()

        def note(frame: Any, event: str, _: object) -> None:
            if event == "call" and frame.f_code.co_filename == self.path:
                lines.add(frame.f_code.co_firstlineno)

        started = time.process_time()
        sys.setprofile(note)
        try:
            return (yield)
        finally:
            sys.setprofile(None)
            self.calls[item.nodeid] = time.process_time() - started, sorted(lines)


@dataclass(frozen=True)
class Baseline:
    """The tests on the module as it is: their processor seconds in all, and the names of those that call a function,
    the quick ones first; all of them for the module's own level.
    """

    seconds: float
    by_function: Mapping[str, Sequence[str]]


def _replace(path: Path, source: str) -> None:
    """From now on importing `path` in this process compiles `source`, and no byte code stands in its place."""
    loader = importlib.machinery.SourceFileLoader
    get_data, path_stats = loader.get_data, loader.path_stats

    def read(self: Any, name: str) -> bytes:
        return source.encode() if Path(name) == path else get_data(self, name)

    def stats(self: Any, name: str) -> Mapping[str, Any]:
        if Path(name) == path:
            raise OSError(f"{name} is mutated")
        return path_stats(self, name)

    loader.get_data, loader.path_stats = read, stats  # type: ignore[method-assign]


def _in_child(
    tree: Path,
    tests: Sequence[str],
    path: Path,
    source: str,
    limit: int,
    share: float = 1.0,
    watch: bool = False,
) -> int:
    """Fork; the child runs `tests` of `tree` (files, or names of single tests in their order) with `path` holding
    `source`, and exits with pytest's status. `watch` makes it leave imported.txt, calls.json and unmutated.log.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if child := os.fork():
        return child
    status = 70
    try:
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 2))
        sink = os.open(tree / "unmutated.log" if watch else os.devnull, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        os.chdir(tree)
        sys.path.insert(0, str(tree))
        _replace(path, source)
        options = ["-x", "-q", "--no-header", "--tb=short" if watch else "--tb=no", "-p", "no:cacheprovider"]
        options += ["-p", "no:xdist", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
        files = dict.fromkeys(name.partition("::")[0] for name in tests)
        watcher = _Watch(path)
        plugins: list[object] = [_Fast([name for name in tests if "::" in name] or None, share)]
        status = int(pytest.main([*options, *files], plugins=[*plugins, *([watcher] if watch else [])]))
        if watch:
            (tree / "imported.txt").write_text("\n".join(_imported(tree)))
            (tree / "calls.json").write_text(json.dumps(watcher.calls))
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _untouched(tree: Path, path: Path, names: Sequence[str]) -> list[str]:
    """Those of the project's modules `names` that do not import the module of `path`, not even through another. The
    package itself, whose names are lazy, imports none of them.
    """
    files = {name: tree.joinpath(*name.split(".")) for name in names}
    files = {name: file / "__init__.py" if file.is_dir() else file.with_suffix(".py") for name, file in files.items()}
    asked = {name: _imports(name, file) for name, file in files.items()}
    stale = {name for name, file in files.items() if file == path}
    while more := {name for name, wanted in asked.items() if name not in stale and wanted & (stale - {PACKAGE})}:
        stale |= more
    return [name for name in names if name not in stale | {PACKAGE}]


def _imports(name: str, origin: Path) -> set[str]:
    """The modules that the source of module `name` imports anywhere, and the packages that it lies in."""
    found = {name.rpartition(".")[0]} - {""}
    for node in ast.walk(ast.parse(origin.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def _imported(tree: Path) -> list[str]:
    """The modules that the tests have imported: other packages', then the project's own, the tests left out."""
    files = {name: getattr(module, "__file__", None) for name, module in list(sys.modules.items())}
    elsewhere = [name for name, origin in files.items() if origin and not Path(origin).is_relative_to(tree)]
    return elsewhere + [
        name for name, origin in files.items() if origin and Path(origin).is_relative_to(tree / PACKAGE)
    ]


def _outcome(status: int) -> str:
    if os.WIFSIGNALED(status):
        return "timeout" if os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL) else "crashed"
    code = os.WEXITSTATUS(status)
    if code not in (PASSED, *NOTICED):
        raise MutationError(f"pytest ended with status {code}; the runner is broken, not the mutant")
    return "survived" if code == PASSED else "killed"


# All mutants --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def copied(root: Path) -> Iterator[Path]:
    """A copy of the project, so that it may be edited while the mutants run."""
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        tree = Path(folder).resolve()
        for name in COPIED:
            source = root / name
            if source.is_dir():
                shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__", "mutation"))
            elif source.exists():
                shutil.copy2(source, tree / name)
        yield tree


def _wait(child: int) -> tuple[int, float]:
    _, status, used = os.wait4(child, 0)
    return status, used.ru_utime + used.ru_stime


def warm_up(tree: Path, tests: Sequence[str], path: Path, source: str) -> Baseline:
    """Run the tests on the module as it is, and import what they imported, for all forks to come.

    Raises MutationError where they do not pass.
    """
    status, seconds = _wait(_in_child(tree, tests, path, source, 600, watch=True))
    if status != 0:
        raise MutationError(
            f"the tests of {path.name} fail without a mutant:\n{(tree / 'unmutated.log').read_text()[-3000:]}"
        )
    sys.path[:0] = [str(tree), str(Path(__file__).resolve().parents[1])]
    import type_checks

    names = (tree / "imported.txt").read_text().splitlines()
    for name in [name for name in names if name.partition(".")[0] != PACKAGE]:
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    # beartype remembers classes by their names: what will be imported anew must not be here yet
    with type_checks.install(tree / PACKAGE):
        for name in _untouched(tree, path, [name for name in names if name.partition(".")[0] == PACKAGE]):
            importlib.import_module(name)
    gc.freeze()
    calls = sorted(json.loads((tree / "calls.json").read_text()).items(), key=lambda item: item[1][0])
    by_function = {
        function: [name for name, (_, lines) in calls if any(first <= line <= last for line in lines)]
        for function, first, last in mutants.spans(source)
    }
    return Baseline(seconds, {**by_function, mutants.MODULE_LEVEL: [name for name, _ in calls]})


def judge(
    tree: Path, module: str, made: Sequence[Mutant], tests: Sequence[str], jobs: int, report: bool = False
) -> list[Verdict]:
    """What becomes of each mutant of `module` (a path below `tree`), in their order, `jobs` at a time."""
    path = tree / module
    source = path.read_text(encoding="utf-8")
    baseline = warm_up(tree, tests, path, source)
    limit = math.ceil(20 + 5 * baseline.seconds)
    broken = _in_child(tree, tests, path, "raise RuntimeError('every test must notice this')\n", limit)
    if _outcome(_wait(broken)[0]) != "killed":
        raise MutationError(f"the tests pass although {module} cannot be imported: they do not use this copy of it")
    if _outcome(_wait(_in_child(tree, tests, path, source, limit, FEW))[0]) != "survived":
        raise MutationError(f"the tests of {module} fail in a fork without a mutant: a mutant would prove nothing")
    waiting = [(place, mutant, FEW) for place, mutant in enumerate(made)][::-1]
    running: dict[int, tuple[int, float, float]] = {}
    verdicts: dict[int, Verdict] = {}
    while waiting or running:
        while waiting and len(running) < jobs:
            place, mutant, share = waiting.pop()
            callers = baseline.by_function[mutant.function] or tests
            child = _in_child(tree, callers, path, mutant.source, limit, share)
            running[child] = place, share, time.monotonic()
        child, status = os.wait()
        place, share, started = running.pop(child)
        if _outcome(status) == "survived" and share < 1 and baseline.by_function[made[place].function]:
            waiting.append((place, made[place], 1.0))
            continue
        verdict = verdicts[place] = Verdict(made[place], _outcome(status), time.monotonic() - started)
        if report:
            sign = {"survived": "SURVIVED", "killed": "."}.get(verdict.outcome, verdict.outcome)
            if verdict.outcome == "killed":
                print(sign, end="", flush=True)
            else:
                print(f"\n{sign} {module}, {verdict.mutant.function}:", flush=True)
                print(f"  - {verdict.mutant.before}\n  + {verdict.mutant.after}", flush=True)
    return [verdicts[place] for place in range(len(made))]


def main() -> int:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("modules", nargs="*", default=[], help=f"of {', '.join(TESTS)}; all by default")
    words.add_argument("--jobs", type=int, default=2)
    words.add_argument("--function", help="only the mutants of this one; the bars are then not applied")
    words.add_argument("--result", type=Path, default=ROOT / "build/mutation.json")
    words.add_argument("--show", action="store_true", help="list the mutants and run nothing")
    chosen = words.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["HYPOTHESIS_PROFILE"] = "ci"
    os.chdir(ROOT)  # mutmut reads its settings from pyproject.toml in the working directory
    found: list[str] = []
    results = {}
    for module in chosen.modules or TESTS:
        with copied(ROOT) as tree:
            source = (tree / f"lat/{module}.py").read_text(encoding="utf-8")
            made = [m for m in mutants.of(source) if chosen.function in (None, m.function)]
            if chosen.show:
                print("\n".join(f"{m.function}\n  - {m.before}\n  + {m.after}" for m in made))
                continue
            tests = [str(p.relative_to(tree)) for pattern in TESTS[module] for p in sorted(tree.glob(pattern))]
            started = time.monotonic()
            verdicts = judge(tree, f"lat/{module}.py", made, tests, chosen.jobs, report=True)
            spent = time.monotonic() - started
        score, wrong = complaints(module, source, verdicts, listed().get(module, {}))
        outcomes = [verdict.outcome for verdict in verdicts]
        results[module] = {
            "score": score,
            **{outcome: outcomes.count(outcome) for outcome in ("killed", "timeout", "crashed", "survived")},
            "seconds": spent,
            "per_function": mutants.per_function(source, made),
            "survivors": [list(v.mutant.key) for v in verdicts if v.outcome == "survived"],
        }
        print(f"\n{module}: {len(made)} mutants in {spent:.0f} s, {outcomes.count('survived')} survived, {score:.1%}")
        found += [] if chosen.function else wrong
    if results:
        chosen.result.parent.mkdir(parents=True, exist_ok=True)
        chosen.result.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print("\n".join(found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
