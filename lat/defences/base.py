"""What a training method may do in a step; the base class is standard training, which does nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lat.cells import Cell, CellError, own_seed

HOOKS = ("start_epoch", "examples", "loss", "after_backward")


class Defence:
    """Standard training, and the protocol of all methods: examples, then the loss, then what follows its backward
    pass.

    A method that overrides no hook, as one may be misspelt, is a TypeError where its class is made.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if all(getattr(cls, hook) is getattr(Defence, hook) for hook in HOOKS):
            raise TypeError(f"{cls.__name__} overrides none of {', '.join(HOOKS)}: it would be standard training")

    def __init__(self, model: nn.Module, cell: Cell, seed: int) -> None:
        self.model = model
        self.cell = cell
        self.seed = seed

    def start_epoch(self, epoch: int) -> None:
        """Called before the first batch of each epoch, counted from 0."""

    def examples(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The batch that is trained on: images (m, C, H, W) in [0, 1] and labels (m), from (n, …); n = m but for
        mixtures.
        """
        return x, y

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """The scalar loss whose gradient the optimiser follows."""
        return cross_entropy(self.model(x), y)

    def after_backward(self) -> None:
        """Called after the loss's backward pass and before the optimiser's step."""

    @property
    def skipped(self) -> int:
        """Batches that went unperturbed because they did not fit."""
        return 0

    def state_dict(self) -> dict[str, Any]:
        """What the method carries from step to step: mappings, tuples and lists of tensors, numbers, text and None.

        Bytes (uint8) are states of generators; all other tensors lie on the model's device.
        """
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`, bit for bit, on a device of the type that it was taken on."""

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return next(self.model.parameters()).device

    def generator(self, purpose: str, device: torch.device) -> torch.Generator:
        """A generator of this method's own: its stream derives from (cell, seed, purpose)."""
        return torch.Generator(device).manual_seed(own_seed(self.cell, self.seed, purpose))


class Combined(Defence):
    """Methods side by side: the inputs pass through each in turn, and the loss is that of the last one.

    Raises CellError where a method before the last has a loss of its own, which would be dropped.
    """

    def __init__(self, model: nn.Module, cell: Cell, seed: int, parts: Sequence[Defence]) -> None:
        super().__init__(model, cell, seed)
        for name, part in zip(cell.methods[:-1], parts[:-1], strict=True):
            if type(part).loss is not Defence.loss:
                raise CellError(
                    f"method: {cell.method!r} would drop the loss of {name!r} for that of {cell.methods[-1]!r}; write "
                    f"{name!r} last, or let it stand alone"
                )
        self.parts = parts

    def start_epoch(self, epoch: int) -> None:
        for part in self.parts:
            part.start_epoch(epoch)

    def examples(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        for part in self.parts:
            x, y = part.examples(x, y)
        return x, y

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return self.parts[-1].loss(x, y)

    def after_backward(self) -> None:
        for part in self.parts:
            part.after_backward()

    @property
    def skipped(self) -> int:
        return sum(part.skipped for part in self.parts)

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for part, values in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(values)


def placed(state: Any, device: torch.device) -> Any:
    """A nested state with its tensors on `device`, but for bytes: the states of generators stay on the CPU."""
    if isinstance(state, Tensor):
        return state if state.dtype == torch.uint8 else state.to(device)
    if isinstance(state, Mapping):
        return {key: placed(value, device) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(placed(value, device) for value in state)
    return state
