"""What the errors of `lat.sites` say of the layer that they refuse."""

from __future__ import annotations

import pytest
from torch import nn

from lat import sites


def test_a_layer_padded_more_on_one_side_is_refused_by_its_kind_kernel_and_dilation() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, kernel_size=(3, 2), dilation=(2, 1), padding="same"))
    with pytest.raises(sites.SiteError, match=r"'0' is a Conv2d with padding 'same', kernel \(3, 2\) and dilation \(2"):
        sites.layer(model, "0")
