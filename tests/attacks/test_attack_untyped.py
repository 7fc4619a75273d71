"""Errors that a user meets, where nothing but the code itself checks types and shapes.

Under pytest a type checker speaks first, so these run in a process of their own.
"""

from __future__ import annotations

import subprocess
import sys

from small_networks import SETTINGS

SCRIPT = """
import sys, torch, yaml
from lat.attacks import AttackError, SettingError, Threat, from_settings, run_attack
from lat.evaluation import evaluate

def expect(kind, message, call):
    try:
        call()
    except kind as error:
        assert str(error).startswith(message), error
    else:
        raise SystemExit(f"no error, where {message!r} was expected")

settings = yaml.safe_load(open(sys.argv[1]))
for name, key, value in [
    ("fgsm", "radius", "0.1"), ("fgsm", "box", [0.0]), ("fgsm", "box", 1.0), ("fgsm", "examples", 2.5),
    ("ifgsm", "steps", 2.5), ("pgd", "relative_step", "0.1"), ("pgd", "start", None), ("cw_l2", "shrink", None),
    ("autoattack", "attacks", 4), ("noise", "distribution", None), ("pgd_restarts", "loss", None), ("zoo", "lr", "0.1"),
    ("autoattack", "attacks", [["square"]]), ("noise", "distribution", ["sign"]), ("pgd_restarts", "loss", ["margin"]),
    ("fgsm", "kind", ["fgsm"]), ("fgsm", "norm", ["linf"]), ("pgd", "start", ["clean"]),
]:
    wrong = {name: settings[name] | {key: value}}
    expect(SettingError, f"{name}: {key}: ", lambda: from_settings(wrong))
for entry in (None, "fgsm", ["fgsm"]):
    expect(SettingError, f"fgsm: {entry!r} must be a mapping", lambda: from_settings({"fgsm": entry}))

class Cutting:
    threat, examples = Threat("linf", 0.1), None
    def perturb(self, model, x, y, draws):
        return x[:2]

model, x, y = torch.nn.Linear(3, 2), torch.full((5, 3), 0.5), torch.zeros(5, dtype=torch.int64)
cut = lambda: run_attack(model, x, y, range(5), Cutting(), 0)
expect(AttackError, "Cutting: candidates are torch.float32 (2, 3)", cut)
expect(ValueError, "x: 5 images, y: 4 labels", lambda: evaluate(model, x, y[:4], {}, 0))
expect(ValueError, "attacks: 'fgsm' has settings and is no attack", lambda: evaluate(model, x, y, settings, 0))
print("all refused")
"""


def test_values_and_shapes_that_cannot_be_are_refused_by_name() -> None:
    command = [sys.executable, "-c", SCRIPT, str(SETTINGS)]
    done = subprocess.run(command, cwd=SETTINGS.parents[1], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "all refused"
