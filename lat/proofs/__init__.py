"""The laws of the paper's equations: each statement proved, tested or refuted, on a stated domain, by evidence.

`lat verify` decides them all. Adding a law is one entry here or in one of the files below, and its expected status in
`config/equations.yaml`.
"""

from __future__ import annotations

from lat.proofs import activations, convolutions, linear, propagation, stacks, training
from lat.proofs.law import PROFILES, Law, LawError
from lat.proofs.verification import complain, differences, expected, profile, verify

__all__ = ["LAWS", "PROFILES", "Law", "LawError", "complain", "differences", "expected", "profile", "verify"]

LAWS: tuple[Law, ...] = tuple(
    sorted(
        [
            *linear.LAWS,
            *training.LAWS,
            *stacks.LAWS,
            *propagation.LAWS,
            *convolutions.LAWS,
            *activations.LAWS,
        ],
        key=lambda law: law.equation,
    )
)
