"""Cell → objects → Records: each step of the grid is one function with one record."""

from __future__ import annotations

from lat.experiment.attack_step import attack, attack_checkpoint, attack_figures, told
from lat.experiment.audit_step import Audited, audit_cell
from lat.experiment.harder_step import Attacked, attack_harder
from lat.experiment.job import Job, at_once, file_digest, load_weights
from lat.experiment.rederivation import rederive
from lat.experiment.training_step import checkpoint_identity, train

__all__ = [
    "Attacked",
    "Audited",
    "Job",
    "at_once",
    "attack",
    "attack_checkpoint",
    "attack_figures",
    "attack_harder",
    "audit_cell",
    "checkpoint_identity",
    "file_digest",
    "load_weights",
    "rederive",
    "told",
    "train",
]
