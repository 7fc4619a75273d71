"""The training images on their device, and each epoch's batches of them: order, augmentation, conversion to floats.

The images stay bytes, a quarter of their floats, and nothing is copied from the host in a step: what an epoch draws
goes to the device once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from lat.cells import Cell, CellError, shared_seed
from lat.types import Labels

Batch = tuple[Float[Tensor, "m c h w"], Int[Tensor, " m"]]
MARGIN = 4
"""Pixels by which the crop may shift an image to each side."""


def as_floats(pixels: Shaped[Tensor, "n c h w"], levels: int) -> Float[Tensor, "n c h w"]:
    """Images in [0, 1]: bytes are divided by `levels` in float32, as `lat.data.tensors` does it, bit for bit; floats
    are in [0, 1] already.
    """
    if pixels.is_floating_point():
        return pixels
    return pixels.to(torch.float32).div_(torch.full((), levels, dtype=torch.float32, device=pixels.device))


def flip_crop(
    pixels: Shaped[Tensor, "n c h w"], flipped: Bool[Tensor, " n"], corners: Int[Tensor, "n 2"]
) -> Shaped[Tensor, "n c h w"]:
    """Each image mirrored left to right where `flipped`, in a frame of MARGIN zeros, cut to its size again.

    `corners` are the row and the column of the frame, 0 to 2 MARGIN, at which the cut begins: MARGIN is no shift.
    """
    n, c, h, w = pixels.shape
    device = pixels.device
    framed = nn.functional.pad(pixels, (MARGIN,) * 4)
    rows = corners[:, 0, None] + torch.arange(h, device=device)
    columns = corners[:, 1, None] + torch.arange(w, device=device)
    columns = torch.where(flipped[:, None], w + 2 * MARGIN - 1 - columns, columns)
    images = torch.arange(n, device=device)[:, None, None, None]
    channels = torch.arange(c, device=device)[None, :, None, None]
    return framed[images, channels, rows[:, None, :, None], columns[:, None, None, :]]


class Batches:
    """The batches of a training, epoch by epoch, from images (n, C, H, W) and labels (n) on one device.

    Images are floats in [0, 1], or uint8 of which `levels` stands for 1.0; batches are floats. Each epoch is a new
    permutation whose short last batch is dropped. It depends, as the augmentation does, on (dataset, model, width,
    seed) alone, so that all methods share it; both are drawn on the CPU, so that devices share them too.

    Raises CellError where there are fewer images than a batch has.
    """

    def __init__(self, images: Shaped[Tensor, "n c h w"], labels: Labels, levels: int, cell: Cell, seed: int) -> None:
        self.images, self.labels, self.levels = images, labels, levels
        self.batch = cell.schedule.batch
        self.augmented = cell.schedule.augmentation == "flip_crop"
        self.layout = torch.channels_last if cell.compute.channels_last else torch.contiguous_format
        self.steps = len(labels) // self.batch
        if self.steps == 0:
            raise CellError(f"batch: {self.batch} images in a batch and {len(labels)} to train on; lower batch")
        self._order = torch.Generator().manual_seed(shared_seed(cell, seed, "order"))
        self._augmentation = torch.Generator().manual_seed(shared_seed(cell, seed, "augmentation"))
        self._began = self._states()

    def epoch(self, start: int = 0) -> Iterator[Batch]:
        """The next epoch's batches from step `start` on: images (m, C, H, W) in [0, 1] and labels (m)."""
        self._began = self._states()
        used = self.steps * self.batch
        order = torch.randperm(len(self.labels), generator=self._order)[:used]
        indices = order.to(self.images.device).view(self.steps, self.batch)[start:]
        if not self.augmented:
            return (self._batch(index) for index in indices)
        flips = torch.randint(0, 2, (used,), generator=self._augmentation).bool()
        corners = torch.randint(0, 2 * MARGIN + 1, (used, 2), generator=self._augmentation)
        flips = flips.to(self.images.device).view(self.steps, self.batch)[start:]
        corners = corners.to(self.images.device).view(self.steps, self.batch, 2)[start:]
        return (self._batch(*drawn) for drawn in zip(indices, flips, corners, strict=True))

    def in_order(self) -> Iterator[Float[Tensor, "m c h w"]]:
        """The images as they are, in their own order, a batch at a time; a short last batch is dropped."""
        for pixels in self.images[: self.steps * self.batch].split(self.batch):
            yield as_floats(pixels, self.levels).contiguous(memory_format=self.layout)

    def _batch(self, index: Tensor, flipped: Tensor | None = None, corners: Tensor | None = None) -> Batch:
        pixels, labels = self.images.index_select(0, index), self.labels.index_select(0, index)
        if flipped is not None and corners is not None:
            pixels = flip_crop(pixels, flipped, corners)
        return as_floats(pixels, self.levels).contiguous(memory_format=self.layout), labels

    def state_dict(self) -> dict[str, Any]:
        """The generators' states as they were when the running epoch began."""
        return dict(self._began)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Back to where `state_dict()` was taken: the next epoch is the one that was running then."""
        self._order.set_state(state["order"])
        self._augmentation.set_state(state["augmentation"])

    def _states(self) -> dict[str, Tensor]:
        return {"order": self._order.get_state(), "augmentation": self._augmentation.get_state()}
