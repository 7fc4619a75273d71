"""Cases at the edge of the equations' domains that the laws beside them draw too seldom."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lat.equations import Geometry, convolution_closed_radius, convolution_input_gradient


@pytest.mark.parametrize(
    "numbers",
    [
        ((1, 1), (0, -1), (1, 1)),
        ((1, 1), (-1, 0), (1, 1)),
        ((1, 0), (0, 0), (1, 1)),
        ((1, 1), (0, 0), (0, 1)),
        ((1, 1), (0, 0), (1, 1), -1),
    ],
)
def test_one_number_out_of_range_on_one_axis_is_enough_to_be_refused(numbers: tuple) -> None:
    with pytest.raises(ValueError, match="padding starts at 0, the others at 1"):
        Geometry(*numbers)


def test_a_convolution_that_is_not_padded_with_zeros_evenly_has_no_geometry() -> None:
    with pytest.raises(ValueError, match=r"padding_mode: 'circular' is not covered by eq\. \(8\); use 'zeros'"):
        Geometry.of(nn.Conv1d(1, 1, 3, padding=1, padding_mode="circular"))
    with pytest.raises(ValueError, match="padding: 'same' pads one side more than the other here"):
        Geometry.of(nn.Conv2d(1, 1, (3, 2), padding="same"))


def test_padding_in_words_has_the_geometry_of_the_numbers_that_it_stands_for() -> None:
    same = nn.Conv2d(2, 4, (3, 5), dilation=(2, 1), padding="same", groups=2)
    assert Geometry.of(same) == Geometry((1, 1), (2, 2), (2, 1), 2)
    assert Geometry.of(nn.Conv2d(1, 1, (2, 4), padding="same", dilation=2)) == Geometry((1, 1), (1, 3), (2, 2))
    assert Geometry.of(nn.Conv1d(1, 1, 3, stride=2, padding="valid")) == Geometry((2,), (0,), (1,))


@pytest.mark.parametrize("size", [(4,), (4, 4, 1)])
def test_a_size_with_another_number_of_axes_than_the_kernel_is_refused(size: tuple[int, ...]) -> None:
    with pytest.raises(ValueError):
        convolution_input_gradient(
            torch.ones(1, 1, 2, 2), torch.ones(1, 1, 3, 3), Geometry((1, 1), (0, 0), (1, 1)), size
        )


def test_the_radius_of_a_convolution_is_formed_on_the_device_of_its_weight() -> None:
    w = torch.ones(2, 1, 3, 3, device="meta", dtype=torch.float64)
    radius = convolution_closed_radius(w, Geometry((1, 1), (0, 0), (1, 1)), (5, 4))
    assert (radius.device.type, radius.dtype, radius.shape) == ("meta", torch.float64, (2, 3, 2))
