"""Attacks by kind.

Adding one is one file here, one line in `ATTACKS`, an entry in `config/attacks.yaml` and one in its schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lat.attacks.autoattack import AutoAttack
from lat.attacks.boundary import Boundary
from lat.attacks.cw import CW
from lat.attacks.cw_l2 import CWL2
from lat.attacks.draws import Draws, sample_index
from lat.attacks.eot import EoT
from lat.attacks.fgsm import FGSM
from lat.attacks.hopskipjump import HopSkipJump
from lat.attacks.ifgsm import IFGSM
from lat.attacks.lbfgs import LBFGS
from lat.attacks.mi_fgsm import MIFGSM
from lat.attacks.noise import Noise
from lat.attacks.pgd import PGD
from lat.attacks.pgd_restarts import PGDRestarts
from lat.attacks.protocol import Attack, AttackError, Outcome, SettingError, Threat, right, run_attack, undisturbed
from lat.attacks.settings import build
from lat.attacks.transfer import Transfer
from lat.attacks.zoo import ZOO

__all__ = [
    "ATTACKS",
    "CW",
    "CWL2",
    "FGSM",
    "IFGSM",
    "LBFGS",
    "MIFGSM",
    "PGD",
    "ZOO",
    "Attack",
    "AttackError",
    "AutoAttack",
    "Boundary",
    "Draws",
    "EoT",
    "HopSkipJump",
    "Noise",
    "Outcome",
    "PGDRestarts",
    "SettingError",
    "Threat",
    "Transfer",
    "from_settings",
    "right",
    "run_attack",
    "sample_index",
    "undisturbed",
]

ATTACKS: Mapping[str, type] = {
    "fgsm": FGSM,
    "ifgsm": IFGSM,
    "pgd": PGD,
    "eot": EoT,
    "cw": CW,
    "cw_l2": CWL2,
    "mi_fgsm": MIFGSM,
    "pgd_restarts": PGDRestarts,
    "autoattack": AutoAttack,
    "noise": Noise,
    "lbfgs": LBFGS,
    "hopskipjump": HopSkipJump,
    "boundary": Boundary,
    "zoo": ZOO,
}


def from_settings(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, Attack]:
    """Name -> attack, from the settings of each name; `radii` gives one attack a radius, called name@radius.

    Raises SettingError naming the attack, the key and the value for anything unknown, missing or impossible.
    """
    return build(ATTACKS, settings)
