"""What an unfinished training is at a step boundary, so that it can be kept and gone on from, bit for bit."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Epoch:
    """One epoch's figures: the mean training loss, the accuracy on clean examples after it, and the learning rate
    in it.
    """

    epoch: int
    loss: float
    clean_accuracy: float
    lr: float


@runtime_checkable
class Stateful(Protocol):
    """What carries something from step to step, and can give it away and take it back."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


@runtime_checkable
class Store(Protocol):
    """Where the state of an unfinished training is kept; `lat.checkpoints.Checkpoint` is a file that does it."""

    def due(self) -> bool:
        """Whether it is time to keep the state again; asked at every step."""

    def keep(self, state: Mapping[str, Any]) -> None:
        """Keep the state in place of the last one. Its tensors are the training's own and change with the next step."""

    def kept(self) -> dict[str, Any] | None:
        """The state kept last, its tensors on the CPU; None where there is none."""


class ResumptionError(RuntimeError):
    """A state that cannot be gone on from here; the message says where it can be."""


@dataclass
class State:
    """A training between two steps: its parts, and its place in the schedule.

    `epoch` is the running one, counted from 0; `step` and `total` are the steps done in it and their summed losses.
    `spent` is the processor time of all steps so far, in seconds.
    """

    model: nn.Module
    optimizer: torch.optim.SGD
    batches: Stateful
    defence: Stateful
    total: Tensor
    epoch: int = 0
    step: int = 0
    spent: float = 0.0
    history: list[Epoch] = field(default_factory=list)

    @property
    def stopped(self) -> bool:
        """Whether the last epoch's loss was no longer finite."""
        return bool(self.history) and not math.isfinite(self.history[-1].loss)

    def end_epoch(self, epoch: Epoch) -> None:
        """Put the running epoch into the history, and begin the next."""
        self.history.append(epoch)
        self.epoch, self.step = self.epoch + 1, 0
        self.total.zero_()

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on, as a nest of mappings and lists of tensors, numbers and text."""
        device = self.total.device
        momentum = {
            name: self.optimizer.state.get(p, {}).get("momentum_buffer") for name, p in self.model.named_parameters()
        }
        return {
            "device": device.type,
            "epoch": self.epoch,
            "step": self.step,
            "spent": self.spent,
            "total": self.total,
            "history": [asdict(epoch) for epoch in self.history],
            "model": self.model.state_dict(),
            "momentum": momentum,
            "batches": self.batches.state_dict(),
            "defence": self.defence.state_dict(),
            "generators": {
                "cpu": torch.get_rng_state(),
                "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`. Raises ResumptionError for a state of another type of device, whose generators
        draw other numbers here.
        """
        device = self.total.device
        if state["device"] != device.type:
            raise ResumptionError(
                f"the checkpoint is of a training on {state['device']!r}, whose random numbers {device.type!r} cannot "
                f"draw; finish it on {state['device']!r}, or delete the checkpoint to train anew"
            )
        self.epoch, self.step, self.spent = state["epoch"], state["step"], state["spent"]
        self.total.copy_(state["total"])
        self.history = [Epoch(**values) for values in state["history"]]
        self.model.load_state_dict(state["model"])
        for name, p in self.model.named_parameters():
            if state["momentum"][name] is not None:
                self.optimizer.state[p]["momentum_buffer"] = torch.empty_like(p).copy_(state["momentum"][name])
        self.batches.load_state_dict(state["batches"])
        self.defence.load_state_dict(state["defence"])
        torch.set_rng_state(state["generators"]["cpu"])
        if device.type == "cuda":
            torch.cuda.set_rng_state(state["generators"]["cuda"], device)


@contextmanager
def own_draws(seed: int, device: torch.device) -> Iterator[None]:
    """A block in which torch's global generators, from which dropout draws, start from `seed`; they are restored."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        for one in devices:
            with torch.cuda.device(one):
                torch.cuda.manual_seed(seed)
        yield
