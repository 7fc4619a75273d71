"""Cases at the edge of the equations' domains that the laws beside them draw too seldom."""

from __future__ import annotations

import pytest

from lat.equations import Geometry


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
