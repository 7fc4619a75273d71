"""Batches from bytes on the device: the floats that `lat.data` gives, each epoch's order, and the augmentation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from plain_network import cell
from torch import Tensor

from lat import data
from lat.batches import MARGIN, Batches, as_floats, flip_crop
from lat.cells import Cell, Compute, Schedule, shared_seed
from lat.data import Arrays


def pixels(n: int, shape: tuple[int, int, int] = (3, 6, 5), seed: int = 0) -> tuple[Tensor, Tensor]:
    """Images (n, C, H, W) of random bytes, each of another first pixel, and labels."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (n, *shape), generator=generator, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.arange(n, dtype=torch.uint8)
    return images, torch.randint(3, (n,), generator=generator)


def with_flips(asked: Cell) -> Cell:
    return replace(asked, schedule=replace(asked.schedule, augmentation="flip_crop"))


@pytest.mark.parametrize("levels", [16, 255])
@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 3)], ids=["grey", "colour"])
def test_bytes_become_the_floats_that_the_data_has_bit_for_bit(levels: int, shape: tuple[int, ...]) -> None:
    values = np.arange(4 * np.prod(shape)).reshape(4, *shape) % (levels + 1)
    arrays = Arrays(values.astype(np.uint8), np.array([0, 1, 2, 1], np.uint8), levels, 3, "")
    x, y = data.byte_tensors(arrays)
    expected, labels = data.tensors(arrays)
    assert x.dtype == torch.uint8 and x.is_contiguous()
    assert x.shape == (4, *arrays.shape)
    assert torch.equal(as_floats(x, levels), expected)
    assert torch.equal(y, labels)
    by_hand = values.astype(np.float32) / np.float32(levels)
    moved = by_hand[:, None] if len(shape) == 2 else by_hand.transpose(0, 3, 1, 2)
    assert np.array_equal(expected.numpy(), moved)


def test_floats_are_taken_as_they_are() -> None:
    x = torch.rand(2, 1, 3, 3, dtype=torch.float64)
    assert as_floats(x, 255) is x


def test_an_epoch_from_bytes_is_that_from_floats_bit_for_bit() -> None:
    x, y = pixels(21)
    asked = cell("standard")
    bytewise, floating = Batches(x, y, 255, asked, 3), Batches(as_floats(x, 255), y, 1, asked, 3)
    for _ in range(2):
        pairs = list(zip(bytewise.epoch(), floating.epoch(), strict=True))
        assert len(pairs) == bytewise.steps == 2
        for (a, b), (c, d) in pairs:
            assert a.dtype == torch.float32
            assert torch.equal(a, c) and torch.equal(b, d)


@given(
    st.integers(1, 5),
    st.sampled_from([(1, 8, 8), (3, 5, 7), (2, 1, 1)]),
    st.sampled_from([torch.uint8, torch.float32]),
    st.integers(0, 2**32),
)
def test_the_augmentation_is_a_flip_and_a_cut_from_a_frame_of_zeros(
    n: int, shape: tuple[int, int, int], dtype: torch.dtype, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(1, 256, (n, *shape), generator=generator).to(dtype)
    flipped = torch.randint(0, 2, (n,), generator=generator).bool()
    corners = torch.randint(0, 2 * MARGIN + 1, (n, 2), generator=generator)
    found = flip_crop(x, flipped, corners)
    assert found.dtype == dtype
    _, h, w = shape
    for i in range(n):
        image = np.pad(x[i].numpy(), ((0, 0), (4, 4), (4, 4)))
        if flipped[i]:
            image = image[:, :, ::-1]
        row, column = corners[i].tolist()
        assert np.array_equal(found[i].numpy(), image[:, row : row + h, column : column + w])


def test_no_flip_and_no_shift_is_the_image_itself() -> None:
    x, _ = pixels(4)
    assert torch.equal(flip_crop(x, torch.zeros(4, dtype=torch.bool), torch.full((4, 2), MARGIN)), x)


def test_the_augmentation_draws_an_image_its_own_flip_and_shift_and_leaves_the_order_alone() -> None:
    x, y = pixels(240, (1, 9, 9))
    plain = replace(cell("standard"), schedule=Schedule(epochs=2, batch=60))
    asked = with_flips(plain)
    generator = torch.Generator().manual_seed(shared_seed(asked, 5, "augmentation"))
    ours, theirs = Batches(x, y, 255, asked, 5), Batches(x, y, 255, plain, 5)
    seen = []
    for _ in range(2):
        flips = torch.randint(0, 2, (240,), generator=generator).bool()
        corners = torch.randint(0, 9, (240, 2), generator=generator)
        seen.append((flips, corners))
        drawn = zip(ours.epoch(), theirs.epoch(), flips.split(60), corners.split(60), strict=True)
        for (images, labels), (plain_images, plain_labels), flipped, corner in drawn:
            assert torch.equal(images, flip_crop(plain_images, flipped, corner))
            assert torch.equal(labels, plain_labels)
    flips, corners = (torch.cat(parts) for parts in zip(*seen, strict=True))
    assert 0.4 < flips.float().mean().item() < 0.6
    assert sorted(corners[:, 0].unique().tolist()) == sorted(corners[:, 1].unique().tolist()) == list(range(9))
    assert not torch.equal(seen[0][1], seen[1][1])


def test_all_methods_share_the_augmentation_and_seeds_do_not() -> None:
    x, y = pixels(16)
    first, second, other = (
        next(iter(Batches(x, y, 255, with_flips(cell(method)), seed).epoch()))[0]
        for method, seed in [("standard", 0), ("pgd", 0), ("standard", 1)]
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


@given(st.integers(0, 3), st.integers(0, 2), st.booleans())
def test_an_epoch_goes_on_at_any_step_with_the_same_batches(step: int, epochs: int, flips: bool) -> None:
    x, y = pixels(24)
    asked = with_flips(cell("standard")) if flips else cell("standard")
    whole, begun = Batches(x, y, 255, asked, 2), Batches(x, y, 255, asked, 9)
    for _ in range(epochs):
        list(whole.epoch())
    running = list(whole.epoch())
    begun.load_state_dict(whole.state_dict())
    for expected, found in [(running[step:], begun.epoch(step)), (list(whole.epoch()), begun.epoch())]:
        for (a, b), (c, d) in zip(expected, found, strict=True):
            assert torch.equal(a, c) and torch.equal(b, d)


def test_channels_last_changes_the_order_in_memory_and_no_value() -> None:
    x, y = pixels(16)
    asked = cell("standard")
    last = replace(asked, compute=Compute(channels_last=True))
    for (a, _), (b, _) in zip(Batches(x, y, 255, asked, 0).epoch(), Batches(x, y, 255, last, 0).epoch(), strict=True):
        assert a.is_contiguous()
        assert b.is_contiguous(memory_format=torch.channels_last) and not b.is_contiguous()
        assert torch.equal(a, b)
