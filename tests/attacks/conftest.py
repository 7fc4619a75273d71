"""Fixtures of the attack tests: a trained network, and the attacks as they are configured."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import yaml
from shuffled_digits import dense, shuffled_digits
from small_networks import SETTINGS, Digits
from torch import nn

from lat.attacks import Attack, from_settings


@pytest.fixture(scope="session")
def digits() -> Digits:
    """A 64-32-32-10 network after a second of training on scikit-learn's digits; float32, in eval mode."""
    x, y = shuffled_digits()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = dense(32)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(25):
            for rows in torch.randperm(1200).split(64):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
                optimizer.step()
    for parameter in model.parameters():
        parameter.grad = None
    model.eval()
    held_x, held_y = x[1200:], y[1200:]
    assert (model(held_x).argmax(1) == held_y).float().mean() > 0.93, "the digits network did not train"
    return Digits(model, held_x, held_y)


@pytest.fixture(scope="session")
def settings() -> dict[str, dict[str, Any]]:
    """What config/attacks.yaml says."""
    return yaml.safe_load(SETTINGS.read_text())


@pytest.fixture
def attacks(settings: dict[str, dict[str, Any]]) -> dict[str, Attack]:
    """The attacks of config/attacks.yaml."""
    return from_settings(settings)
