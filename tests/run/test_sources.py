"""The digest of the code behind a step: an edit that can change its result changes it, another one does not."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from small_run import ROOT, small_run

from lat import sources
from lat.attacks import ATTACKS
from lat.defences import DEFENCES
from lat.models import MODELS

PLAIN = ("4fc", "standard")
LAYERWISE = ("4fc", "layerwise")
ATTACKED = ("4fc", "fgsm", "pgd")


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package, to be edited."""
    shutil.copytree(ROOT / "lat", tmp_path / "lat", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "lat"


def digest(step: str, used: tuple[str, ...], package: Path) -> str:
    """The digest of the files as they are now; `sources.digest` reads them once in a process."""
    sources._digest.cache_clear()
    return sources.digest(step, used, package)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_a_copy_of_the_package_has_the_packages_digest(package: Path) -> None:
    for step, used in (("train", PLAIN), ("train", LAYERWISE), ("attack", ATTACKED)):
        assert digest(step, used, package) == digest(step, used, sources.PACKAGE)


@pytest.mark.parametrize(
    ("name", "mapping"), [("lat.attacks", ATTACKS), ("lat.defences", DEFENCES), ("lat.models", MODELS)]
)
def test_the_names_read_from_the_source_are_the_registered_ones(name: str, mapping: dict[str, object]) -> None:
    assert sources.registered(name) == list(mapping)


@pytest.mark.parametrize(
    ("line", "use"),
    [
        ("from lat.attacks import PGD", "PGD"),
        ("from lat.attacks import PGD as Search", "Search"),
        ("from lat import attacks", "attacks.PGD"),
        ("from lat import attacks as known", "known.PGD"),
        ("import lat.attacks", "lat.attacks.PGD"),
        ("import lat.attacks as known", "known.PGD"),
    ],
)
def test_what_a_method_takes_from_another_registry_belongs_to_it(package: Path, line: str, use: str) -> None:
    """Though the cell does not name it."""
    method = "from lat.defences.base import Defence\n{}\n\n\nclass Own(Defence):\n    examples = {}\n"
    (package / "defences/own.py").write_text(method.format(line, use), encoding="utf-8")
    edit(package / "defences/__init__.py", '    "standard": ', '    "own": Own,\n    "standard": ')
    edit(
        package / "defences/__init__.py",
        "from lat.defences.base",
        "from lat.defences.own import Own\nfrom lat.defences.base",
    )
    before, other = digest("train", ("4fc", "own"), package), digest("train", PLAIN, package)
    edit(package / "attacks/pgd.py", "def perturb", "def unused(self):\n        pass\n\n    def perturb")
    assert digest("train", ("4fc", "own"), package) != before
    assert digest("train", PLAIN, package) == other


def test_comments_docstrings_and_blank_lines_change_nothing(package: Path) -> None:
    before = digest("train", LAYERWISE, package), digest("attack", ATTACKED, package)
    for path in package.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        first = ast.get_docstring(tree, clean=False)
        if first:
            edit(path, first, first + " More of it.")
        path.write_text(path.read_text(encoding="utf-8") + "\n\n# a comment at the end\n", encoding="utf-8")
    edit(package / "training.py", '"""The learning rate of', '"""The rate of')
    edit(package / "training.py", '"""A trained network with', '"""A network with')
    assert (digest("train", LAYERWISE, package), digest("attack", ATTACKED, package)) == before


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("training.py", "0.1 **", "0.2 **"),
        ("models/mlp.py", "nn.ReLU()", "nn.Tanh()"),
        ("defences/layerwise.py", "cross_entropy(", "cross_entropy(0 * "),
        ("perturbation/gradients.py", "torch.sign(", "torch.neg("),
        ("perturbation/passing.py", "scale * value", "value"),
        ("equations.py", "return ", "return 0 * "),
        ("cells.py", '"big"', '"little"'),
    ],
)
def test_an_edit_of_code_that_training_uses_changes_its_digest(package: Path, file: str, old: str, new: str) -> None:
    before = digest("train", LAYERWISE, package)
    edit(package / file, old, new)
    assert digest("train", LAYERWISE, package) != before


@pytest.mark.parametrize(
    "file", ["attacks/pgd.py", "attacks/ascent.py", "attacks/protocol.py", "evaluation.py", "norms.py"]
)
def test_an_edit_of_an_attack_changes_the_attacks_digest_and_retrains_nothing(package: Path, file: str) -> None:
    attack, train = digest("attack", ATTACKED, package), digest("train", LAYERWISE, package)
    path = package / file
    path.write_text(path.read_text(encoding="utf-8") + "\n\nCHANGED = 1\n", encoding="utf-8")
    assert digest("attack", ATTACKED, package) != attack
    assert digest("train", LAYERWISE, package) == train


def test_the_comparison_with_fgsm_depends_on_the_equations_and_on_no_attack_or_method(package: Path) -> None:
    before = digest("equivalence", (), package)
    for file in ("attacks/fgsm.py", "defences/layerwise.py", "training.py", "evaluation.py"):
        path = package / file
        path.write_text(path.read_text(encoding="utf-8") + "\n\nCHANGED = 1\n", encoding="utf-8")
    assert digest("equivalence", (), package) == before
    edit(package / "equations.py", "return ", "return 0 * ")
    assert digest("equivalence", (), package) != before


@pytest.mark.parametrize("file", ["attacks/cw_l2.py", "attacks/eot.py", "attacks/cw.py"])
def test_an_attack_that_is_not_used_does_not_count(package: Path, file: str) -> None:
    before = digest("attack", ATTACKED, package)
    path = package / file
    path.write_text(path.read_text(encoding="utf-8") + "\n\nCHANGED = 1\n", encoding="utf-8")
    assert digest("attack", ATTACKED, package) == before
    assert digest("attack", (*ATTACKED, file.removeprefix("attacks/").removesuffix(".py")), package) != before


def test_a_defence_that_is_not_used_does_not_count(package: Path) -> None:
    before = digest("train", PLAIN, package)
    for file in ("defences/layerwise.py", "defences/inputs.py", "perturbation/adversary.py"):
        path = package / file
        path.write_text(path.read_text(encoding="utf-8") + "\n\nCHANGED = 1\n", encoding="utf-8")
    assert digest("train", PLAIN, package) == before


def test_adding_a_defence_an_attack_or_a_model_makes_no_result_old(package: Path) -> None:
    before = digest("train", PLAIN, package), digest("attack", ATTACKED, package)
    (package / "defences/mixup.py").write_text("class Mixup:\n    pass\n", encoding="utf-8")
    edit(
        package / "defences/__init__.py",
        "from lat.defences.layerwise",
        "from lat.defences.mixup import Mixup\nfrom lat.defences.layerwise",
    )
    edit(package / "defences/__init__.py", '"layerwise": Layerwise,', '"layerwise": Layerwise,\n    "mixup": Mixup,')
    edit(package / "defences/__init__.py", '"build"]', '"build", "Mixup"]')
    (package / "attacks/square.py").write_text("class Square:\n    pass\n", encoding="utf-8")
    edit(
        package / "attacks/__init__.py",
        "from lat.attacks.pgd",
        "from lat.attacks.square import Square\nfrom lat.attacks.pgd",
    )
    edit(package / "attacks/__init__.py", '"cw": CW,', '"cw": CW,\n    "square": Square,')
    edit(package / "models/__init__.py", '"4fc": four_layers,', '"4fc": four_layers,\n    "5fc": four_layers,')
    assert (digest("train", PLAIN, package), digest("attack", ATTACKED, package)) == before
    assert sources.registered("lat.defences", package)[-1] == "mixup"
    assert digest("train", ("4fc", "mixup"), package) != before[0]


def test_another_class_under_the_used_name_is_another_digest(package: Path) -> None:
    before = digest("train", ("4fc", "fgsm"), package)
    edit(package / "defences/__init__.py", '"fgsm": Fgsm,', '"fgsm": Noise,')
    assert digest("train", ("4fc", "fgsm"), package) != before


def test_a_relative_import_is_refused_by_module_and_line(package: Path) -> None:
    edit(package / "training.py", "from lat import defences, models", "from . import defences, models")
    with pytest.raises(
        ValueError, match=r"lat\.training, line \d+: a relative import cannot be followed; write it from lat"
    ):
        digest("train", PLAIN, package)


def test_the_order_of_the_used_names_does_not_matter() -> None:
    assert sources.digest("train", ["layerwise", "4fc"]) == sources.digest("train", ("4fc", "layerwise"))


def test_the_spelling_of_a_tree_is_that_of_python_3_11() -> None:
    """A ledger made under one version of Python is read under another: its digests must not look old there."""
    code = "def f(a, *, b=None):\n    x: int = f'{a!r:>{b}}'\n    return [x, ...] if a else None\n\nclass A[int]: pass"
    for text in (code.partition("\n\n")[0], "import a as b\nfrom c import d\nlambda: (yield)\n{**a, 'b': 1}\na[1:]"):
        tree = ast.parse(text)
        for node in ast.walk(tree):
            if hasattr(node, "type_params"):
                del node.type_params
        shown = {"show_empty": True} if sys.version_info >= (3, 13) else {}
        assert sources._spelled(tree) == ast.dump(tree, **shown)
    assert sources._spelled(ast.parse("def f(): pass").body[0]) == (
        "FunctionDef(name='f', args=arguments(posonlyargs=[], args=[], kwonlyargs=[], kw_defaults=[], defaults=[]), "
        "body=[Pass()], decorator_list=[])"
    )


# The modules that are followed suffice: the step runs with these files and nothing else of the package.

TRAIN = """
import sys, torch
from lat import training
from lat.cells import Cell, Law, Reading, Schedule
layers = ("fc3", "fc4") if "layerwise" in sys.argv[1] else ()
law = Law("normal", 0.1)
cell = Cell("digits", "4fc", 3, sys.argv[1], layers, law if layers else None, Reading() if layers else None,
            law if "fgsm" in sys.argv[1] else None, False, Schedule(1, batch=4))
x, y = torch.rand(8, 1, 8, 8), torch.arange(8)
assert len(training.fit(cell, 0, (x, y), (x, y), 10).epochs) == 1
"""
ATTACK = """
import torch
from lat import evaluation
from lat.attacks import from_settings
every = dict(norm="linf", radius=0.1, box=[0.0, 1.0], examples=None)
settings = {"fgsm": dict(kind="fgsm", **every),
            "pgd": dict(kind="pgd", steps=2, relative_step=0.5, start="uniform", **every)}
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
x, y = torch.rand(4, 1, 8, 8), torch.arange(4)
assert set(evaluation.evaluate(model, x, y, from_settings(settings), 0).verdicts) == {"fgsm", "pgd"}
"""
EQUIVALENCE = """
import torch
from lat import equivalence
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
x, y = torch.rand(4, 1, 2, 2), torch.tensor([0, 1, 0, 1])
assert len(equivalence.measure(model, x, y, 2, 0.1, 0)) == 1 + 2 * 13
"""
OUTSIDE = "import sys; sys.stdout.write(' '.join(n for n in sys.modules if n.startswith('lat.')))"


def closure_alone(step: str, used: tuple[str, ...], folder: Path) -> set[str]:
    """A package of the modules that decide the step and nothing else; their names. Registries lose what is absent."""
    names = set(sources.modules(step, used))
    (folder / "lat").mkdir()
    (folder / "lat/__init__.py").touch()
    for name in names:
        origin = sources._path(name, sources.PACKAGE)
        target = folder / origin.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(origin, target)
        if name in sources.REGISTRIES:
            target.write_text(without_absent(target.read_text(encoding="utf-8"), names, sources.REGISTRIES[name]))
    return names


def without_absent(text: str, present: set[str], mapping: str) -> str:
    """A registry's source without the imports of absent modules and the entries that need them."""
    tree = ast.parse(text)
    absent: set[str] = set()
    for node in list(tree.body):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lat.") and node.module not in present:
            absent |= {alias.asname or alias.name for alias in node.names}
            tree.body.remove(node)
    for node in tree.body:
        if sources._assigns(node, mapping):
            assert isinstance(node, ast.AnnAssign)
            assert isinstance(node.value, ast.Dict)
            kept = [
                pair
                for pair in zip(node.value.keys, node.value.values, strict=True)
                if ast.unparse(pair[1]) not in absent
            ]
            node.value.keys, node.value.values = [key for key, _ in kept], [value for _, value in kept]
    return ast.unparse(tree)


@pytest.mark.parametrize(
    ("step", "used", "code"),
    [
        ("train", PLAIN, TRAIN),
        ("train", ("4fc", "fgsm", "layerwise"), TRAIN),
        ("attack", ATTACKED, ATTACK),
        ("equivalence", (), EQUIVALENCE),
    ],
)
def test_a_step_runs_with_the_modules_of_its_digest_alone(
    tmp_path: Path, step: str, used: tuple[str, ...], code: str
) -> None:
    names = closure_alone(step, used, tmp_path)
    command = [sys.executable, "-c", f"{code}\n{OUTSIDE}", "+".join(used[1:])]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert loaded <= names
    assert sources.ENTRIES[step][0] in loaded


def test_each_cell_of_a_run_has_the_digest_of_what_it_uses() -> None:
    run = small_run()
    dnn, fc_4 = run.entry("dnn"), run.entry("fc_4")
    assert run.sources(dnn, "train") == sources.digest("train", PLAIN)
    assert run.sources(fc_4, "train") == sources.digest("train", LAYERWISE)
    assert run.sources(dnn, "attack") == run.sources(fc_4, "attack") == sources.digest("attack", ("4fc", "fgsm"))
