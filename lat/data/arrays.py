"""Images and labels in memory: canonical order, digests, and the way to tensors."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

Bytes = NDArray[np.uint8]


class DataError(Exception):
    """Data that is missing, damaged or not what it should be; the message names the file, both sides and the mend."""


class Split(NamedTuple):
    """One split: ``images`` (uint8, N x H x W or N x H x W x C) and ``labels`` (uint8, N)."""

    images: Bytes
    labels: Bytes


class Digests(NamedTuple):
    """SHA-256 (hexadecimal) of a split's images and of its labels, both C-contiguous."""

    images: str
    labels: str


@dataclass(frozen=True, eq=False)
class Arrays:
    """One part of a dataset, ready to become tensors.

    images: uint8, N x H x W or N x H x W x C; a read-only memory map where the part is a whole split.
    labels: uint8, N.
    levels: the image value that stands for 1.0 (255; 16 for ``digits``).
    classes: number of classes; labels lie in 0 .. classes - 1.
    digest: SHA-256 over the digests of this part's images and labels.
    """

    images: Bytes
    labels: Bytes
    levels: int
    classes: int
    digest: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of one image as a network sees it."""
        return image_shape(self.images)

    def __len__(self) -> int:
        return len(self.labels)


def image_shape(images: Bytes) -> tuple[int, int, int]:
    """Shape (C, H, W) of one image of a stack N x H x W (grey) or N x H x W x C."""
    height, width, *channels = images.shape[1:]
    return (channels[0] if channels else 1, height, width)


def canonical(split: Split) -> Split:
    """The split sorted by (label, image bytes), so that nothing depends on where the images came from.

    Image bytes are the uint8 pixels in height-width-channel order (height-width for grey images), compared as
    unsigned numbers, first pixel first.
    """
    flat = np.ascontiguousarray(split.images).reshape(len(split.images), -1)
    # A fixed-width byte string compares like its bytes: all have one length, so its zero padding changes nothing.
    by_image = np.argsort(flat.view(f"S{flat.shape[1]}")[:, 0], kind="stable")
    order = by_image[np.argsort(split.labels[by_image], kind="stable")]
    return Split(np.ascontiguousarray(split.images[order]), np.ascontiguousarray(split.labels[order]))


def sha256_array(array: NDArray[Any]) -> str:
    """SHA-256 (hexadecimal) of an array's values, C-contiguous."""
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def digests(split: Split) -> Digests:
    """SHA-256 of the images and of the labels of a split."""
    return Digests(sha256_array(split.images), sha256_array(split.labels))


def joint_digest(parts: Digests) -> str:
    """One SHA-256 over a split's two digests."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def byte_tensors(arrays: Arrays, device: str | torch.device = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
    """Images as uint8 N x C x H x W, of which ``levels`` stands for 1.0, and labels as int64 N, on ``device``."""
    import torch

    images = torch.tensor(arrays.images, device=device)
    images = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()
    return images, torch.tensor(arrays.labels, device=device).to(torch.int64)


def tensors(arrays: Arrays, device: str | torch.device = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
    """Images as float32 N x C x H x W in [0, 1] (value / levels) and labels as int64 N, on ``device``."""
    import torch

    images, labels = byte_tensors(arrays, device)
    # A divisor on the device: by a number of the host a GPU multiplies with its reciprocal, which rounds otherwise.
    levels = torch.full((), arrays.levels, dtype=torch.float32, device=device)
    return images.to(torch.float32).div_(levels), labels
