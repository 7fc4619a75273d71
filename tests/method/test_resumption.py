"""A training that goes on from a checkpoint ends with the same bits, whatever the method and the step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from plain_network import cell
from unfinished_training import STEPS, Leaving, fit, more_networks, on, planned, result, stopped

from lat import Law, Reading
from lat.cells import Cell, Compute
from lat.checkpoints import Checkpoint
from lat.defences import DEFENCES
from lat.defences.base import Defence, placed
from lat.resumption import ResumptionError, Store, own_draws

__all__ = ["more_networks"]

PLAIN_LOSS = [name for name, kind in DEFENCES.items() if kind.loss is Defence.loss]  # another is joined with no layers
OTHERS = [name for name in PLAIN_LOSS if name not in ("standard", "layerwise")]
CASES: dict[str, Cell] = {
    **{name: cell(name) for name in DEFENCES},
    **{f"{name}+layerwise": cell(f"{name}+layerwise") for name in OTHERS},
    **{f"{name} mixed": cell(name, mix=True) for name in OTHERS},
    "pairing same": cell(reading=Reading(pairing="same")),
    "one direction": cell(law=Law("normal", 0.1, "batch"), reading=Reading(pairing="mean")),
    "one draw for all layers": cell(reading=Reading("propagated", "network", gradient="attached")),
    "from an attack": cell(reading=Reading("propagated", "network", source="cw")),
    "carried over epochs": cell(reading=Reading(reset="once")),
    "without momentum": planned(cell("standard"), momentum=0.0),
    "augmented": planned(cell("fgsm"), augmentation="flip_crop"),
    "dropout": on("dropping", cell("standard")),
    "everything": planned(on("dropping", cell("fgsm_previous+layerwise"), ("1", "5")), augmentation="flip_crop"),
    "re-estimated": replace(on("wrn10", cell("layerwise"), ("fc1",)), width=1, statistics="reestimated"),
    "bf16": replace(on("convolving", cell("pgd+layerwise"), ("0", "4")), compute=Compute("bf16", channels_last=True)),
}


@pytest.mark.usefixtures("more_networks")
@pytest.mark.parametrize("name", CASES)
def test_a_training_stopped_after_any_step_goes_on_to_the_same_bits(name: str, tmp_path: Path) -> None:
    asked, left = CASES[name], Leaving(tmp_path / "seed0.safetensors")
    expected = result(fit(asked, left))
    assert len(left.files) == 2 * STEPS
    for path in left.files:
        torch.manual_seed(1)  # another process begins with another global generator
        assert result(fit(asked, Checkpoint(path, {}))) == expected, path


@pytest.mark.usefixtures("more_networks")
def test_a_training_stopped_at_every_step_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    asked = CASES["everything"]
    path = tmp_path / "seed0.safetensors"
    for _ in range(2 * STEPS):
        stopped(asked, path, 1)
    assert result(fit(asked, Checkpoint(path, {}))) == result(fit(asked))


@pytest.mark.usefixtures("more_networks")
@pytest.mark.parametrize(
    "part", ["epoch", "step", "total", "history", "model", "momentum", "batches", "defence", "cpu"]
)
def test_nothing_in_the_state_can_be_left_out(part: str, tmp_path: Path) -> None:
    """With any one part as it was after the first step, the training comes out otherwise: no law above is empty."""
    asked = CASES["everything"]
    early = stopped(asked, tmp_path / "early.safetensors", 1).kept()
    late = stopped(asked, tmp_path / "late.safetensors", STEPS + 2)
    state = late.kept()
    assert early is not None and state is not None
    if part == "cpu":
        state["generators"] = early["generators"]
    else:
        state[part] = early[part]
    late.keep(state)
    assert result(fit(asked, late)) != result(fit(asked))


def test_a_training_that_was_stopped_hears_of_the_epochs_before(tmp_path: Path) -> None:
    asked = cell("standard", epochs=3)
    store = stopped(asked, tmp_path / "a.safetensors", 2 * STEPS + 1)
    done = fit(asked, store)
    assert [epoch.epoch for epoch in done.epochs] == [1, 2, 3]
    assert done.epochs == fit(asked).epochs


def test_the_processor_time_of_a_step_counts_the_steps_before(tmp_path: Path) -> None:
    store = stopped(cell("standard"), tmp_path / "a.safetensors", STEPS)
    state = store.kept()
    assert state is not None and state["spent"] > 0
    state["spent"] = 6000.0
    store.keep(state)
    assert fit(cell("standard"), store).step_ms == pytest.approx(1e6, rel=0.01)


def test_keeping_the_state_changes_no_bit(tmp_path: Path) -> None:
    asked = cell("fgsm+layerwise")
    assert result(fit(asked, Checkpoint(tmp_path / "a.safetensors", {}, every_s=0))) == result(fit(asked))


def test_a_state_of_another_type_of_device_is_refused_and_says_where_it_goes_on(tmp_path: Path) -> None:
    store = stopped(cell("noise"), tmp_path / "a.safetensors", 2)
    state = store.kept()
    assert state is not None
    store.keep(state | {"device": "cuda"})
    with pytest.raises(ResumptionError, match=r"on 'cuda', whose .* 'cpu' cannot draw; finish it on 'cuda', or delete"):
        fit(cell("noise"), store)
    assert store.path.exists()


def test_a_state_is_placed_on_the_models_device_but_for_the_states_of_generators() -> None:
    state = {"a": [torch.ones(2), (torch.ones(1, dtype=torch.long), 3)], "b": torch.get_rng_state(), "c": None}
    found = placed(state, torch.device("meta"))
    assert found["a"][0].is_meta and found["a"][1][0].is_meta
    assert found["a"][1][1:] == (3,)
    assert torch.equal(found["b"], state["b"])
    assert found["c"] is None


def test_a_checkpoint_is_a_store_and_the_store_is_asked_at_every_step() -> None:
    class Counting:
        asked = 0

        def due(self) -> bool:
            self.asked += 1
            return False

        def keep(self, state: Any) -> None:
            raise AssertionError("not due")

        def kept(self) -> None:
            return None

    store = Counting()
    assert isinstance(store, Store) and isinstance(Checkpoint(Path("a"), {}), Store)
    fit(cell("standard"), store)  # type: ignore[arg-type]
    assert store.asked == 2 * STEPS


# The network's own draws ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("more_networks")
def test_dropout_draws_from_the_cells_seed_and_the_global_generator_is_left_alone() -> None:
    asked = on("dropping", cell("standard"))
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = fit(asked)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    assert result(fit(asked)) == result(first)


def test_a_block_of_own_draws_begins_at_its_seed_and_is_undone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    with own_draws(7, torch.device("cpu")):
        drawn = torch.rand(4)
    assert torch.equal(drawn, torch.rand(4, generator=torch.Generator().manual_seed(7)))
    assert torch.equal(torch.get_rng_state(), before)
