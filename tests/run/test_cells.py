"""The identity of a cell: equal cells share a digest, any other field is another cell; and its seeds."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lat import runs
from lat.cells import (
    ADDED,
    AUGMENTATIONS,
    COMPILATIONS,
    DRAWS,
    FORMS,
    GRADIENTS,
    LAWS,
    PAIRINGS,
    PARTS,
    PRECISIONS,
    RESETS,
    SCHEDULES,
    SCOPES,
    SITES_OF_GRADIENT,
    Cell,
    CellError,
    Compute,
    Law,
    Reading,
    Schedule,
    own_seed,
    seed_for,
    shared_seed,
)

LAYERS = ("fc1", "fc2", "fc3", "fc4")
positive = st.floats(1e-6, 1e3)
laws = st.fixed_dictionaries({"kind": st.sampled_from(LAWS), "radius": positive, "draw": st.sampled_from(DRAWS)})
readings = st.fixed_dictionaries(
    {
        "form": st.sampled_from(FORMS),
        "scope": st.sampled_from(SCOPES),
        "pairing": st.sampled_from(PAIRINGS),
        "gradient": st.sampled_from(GRADIENTS),
        "at": st.sampled_from(SITES_OF_GRADIENT),
        "reset": st.sampled_from(RESETS),
    }
)
schedules = st.fixed_dictionaries(
    {
        "epochs": st.integers(1, 300),
        "batch": st.integers(1, 512),
        "lr": positive,
        "momentum": st.floats(0, 1),
        "weight_decay": st.floats(0, 1),
        "schedule": st.sampled_from(SCHEDULES),
    },
    optional={"augmentation": st.sampled_from(AUGMENTATIONS)},
)
computes = st.fixed_dictionaries({"precision": st.sampled_from(PRECISIONS), "channels_last": st.booleans()})


@st.composite
def some_values(draw: st.DrawFn) -> dict[str, Any]:
    """Any cell that can be, as JSON: with and without perturbed layers, with and without perturbed inputs."""
    layerwise, other = draw(st.booleans()), draw(st.sampled_from([None, "fgsm", "pgd", "noise"]))
    parts = [part for part in (other, "layerwise" if layerwise else None) if part]
    return {
        "dataset": draw(st.sampled_from(["mnist", "digits"])),
        "model": draw(st.sampled_from(["4fc", "4fc_input_counted"])),
        "width": draw(st.integers(1, 512)),
        "method": "+".join(parts) or "standard",
        "layers": draw(st.lists(st.sampled_from(LAYERS), min_size=1, unique=True)) if layerwise else [],
        "law": draw(laws) if layerwise else None,
        "reading": draw(readings) if layerwise else None,
        "input_law": draw(laws) if other else None,
        "mix": draw(st.booleans()) if other else False,
        "schedule": draw(schedules),
        "train": draw(st.none() | st.integers(1, 60_000)),
        "part": draw(st.sampled_from(PARTS)),
        "compute": draw(computes) | {"compile": "none" if layerwise else draw(st.sampled_from(COMPILATIONS))},
    }


def a_cell(**changes: Any) -> Cell:
    """A combined cell, in which every field has a meaning."""
    values: dict[str, Any] = {
        "dataset": "mnist",
        "model": "wrn10",
        "width": 10,
        "method": "fgsm+layerwise",
        "layers": ("fc2", "fc3"),
        "law": Law("normal", 0.1),
        "reading": Reading(),
        "input_law": Law("normal", 0.2),
        "mix": False,
        "schedule": Schedule(epochs=2),
        "train": None,
        "part": "train",
    }
    return Cell(**(values | changes))


def control(compute: Compute) -> Cell:
    law = {"law": None, "input_law": Law("fixed", 0.1)}
    return a_cell(method="interval_bound", layers=(), reading=None, compute=compute, **law)


# Identity


@given(some_values(), st.permutations([field.name for field in fields(Cell)]))
def test_equal_cells_have_equal_digests_whatever_the_order_of_their_keys(
    values: dict[str, Any], order: list[str]
) -> None:
    cell = Cell.from_json(values)
    written = cell.to_json()
    again = Cell.from_json({key: written[key] for key in order if key in written})
    assert again == cell
    assert again.digest == cell.digest
    assert again.slug == cell.slug


@given(some_values())
def test_from_json_undoes_to_json_also_through_text(values: dict[str, Any]) -> None:
    cell = Cell.from_json(values)
    assert Cell.from_json(json.loads(json.dumps(cell.to_json()))) == cell


@pytest.mark.parametrize("draw", DRAWS)
def test_a_fixed_law_ignores_its_draw(draw: str) -> None:
    assert a_cell(law=Law("fixed", 0.1, draw)).digest == a_cell(law=Law("fixed", 0.1)).digest


def test_the_reset_of_a_pairing_that_carries_nothing_over_is_ignored() -> None:
    assert Reading(pairing="same", reset="once") == Reading(pairing="same", reset="epoch")
    assert Reading(pairing="slot", reset="once") != Reading(pairing="slot", reset="epoch")


def test_a_whole_number_is_spelt_like_its_float() -> None:
    whole = a_cell(law=Law("normal", 1), schedule=Schedule(epochs=2, lr=1, momentum=0, weight_decay=0))
    point = a_cell(law=Law("normal", 1.0), schedule=Schedule(epochs=2, lr=1.0, momentum=0.0, weight_decay=0.0))
    assert whole.digest == point.digest


CHANGES: dict[str, Callable[[Cell], Cell]] = {
    "dataset": lambda cell: replace(cell, dataset="cifar10"),
    "model": lambda cell: replace(cell, model=cell.model + "_other"),
    "width": lambda cell: replace(cell, width=cell.width + 1),
    "method": lambda cell: replace(cell, method="pgd+layerwise"),
    "layers": lambda cell: replace(cell, layers=cell.layers[::-1]),
    "law": lambda cell: replace(cell, law=Law("abs_normal", 0.1)),
    "reading": lambda cell: replace(cell, reading=Reading(form="propagated")),
    "input_law": lambda cell: replace(cell, input_law=Law("normal", 0.3)),
    "mix": lambda cell: replace(cell, mix=not cell.mix),
    "schedule": lambda cell: replace(cell, schedule=Schedule(epochs=3)),
    "train": lambda cell: replace(cell, train=100),
    "part": lambda cell: replace(cell, part="fit"),
    "compute": lambda cell: replace(cell, compute=Compute("bf16")),
    "statistics": lambda cell: replace(cell, statistics="reestimated"),
}


def test_every_field_of_a_cell_has_a_change() -> None:
    assert set(CHANGES) == {field.name for field in fields(Cell)}


@pytest.mark.parametrize("field", CHANGES)
def test_any_other_field_is_another_digest(field: str) -> None:
    cell = a_cell()
    assert CHANGES[field](cell).digest != cell.digest


@given(some_values(), some_values(), st.sampled_from(["width", "train", "part", "schedule", "dataset", "model"]))
def test_any_field_that_differs_makes_another_digest(one: dict[str, Any], two: dict[str, Any], field: str) -> None:
    other = Cell.from_json(one | {field: two[field]})
    assert (other.digest == Cell.from_json(one).digest) == (one[field] == two[field])


@pytest.mark.parametrize(("part", "values"), [("law", Law("normal", 0.1)), ("reading", Reading())])
def test_each_field_of_a_law_and_of_a_reading_counts(part: str, values: Law | Reading) -> None:
    others: dict[str, Any] = {
        "kind": "abs_normal",
        "radius": 0.2,
        "draw": "element",
        "form": "propagated",
        "scope": "network",
        "pairing": "mean",
        "gradient": "attached",
        "at": "activation",
        "reset": "once",
    }
    for field in fields(values):
        if field.name == "source":  # it asks for a scope: see below
            continue
        changed = replace(values, **{field.name: others[field.name]})
        assert a_cell(**{part: changed}).digest != a_cell(**{part: values}).digest, field.name


def test_the_source_of_r_counts_and_asks_for_the_scope_that_starts_at_the_input() -> None:
    gradient, attack = Reading(scope="network"), Reading(scope="network", source="cw")
    assert a_cell(reading=gradient).digest != a_cell(reading=attack).digest
    assert Reading(scope="network", at="activation", source="cw") == attack  # no gradient is taken at a layer
    for scope in ("local", "layer_set"):
        with pytest.raises(CellError, match=f"source: 'cw' .* scope '{scope}' must be 'network'"):
            Reading(scope=scope, source="cw")


def test_each_field_of_a_schedule_counts() -> None:
    others: dict[str, Any] = {
        "epochs": 3,
        "batch": 64,
        "lr": 0.2,
        "momentum": 0.0,
        "weight_decay": 0.0,
        "schedule": "cosine",
        "augmentation": "flip_crop",
    }
    assert set(others) == {field.name for field in fields(Schedule)}
    for name, value in others.items():
        assert a_cell(schedule=replace(Schedule(epochs=2), **{name: value})).digest != a_cell().digest, name


def test_each_field_of_compute_counts() -> None:
    plain = a_cell(method="fgsm", layers=(), law=None, reading=None)
    others: dict[str, Any] = {"precision": "bf16", "channels_last": True, "compile": "reduce-overhead"}
    assert set(others) == {field.name for field in fields(Compute)}
    found = {replace(plain, compute=Compute(**{name: value})).digest for name, value in others.items()}
    assert len(found | {plain.digest}) == 4


# Fields that the first cells had not

LATER: dict[str, tuple[str | None, Cell]] = {
    "augmentation": ("schedule", a_cell(schedule=Schedule(epochs=2, augmentation="flip_crop"))),
    "compute": (None, a_cell(compute=Compute(channels_last=True))),
    "source": ("reading", a_cell(reading=Reading(scope="network", source="cw"))),
    "statistics": (None, a_cell(statistics="reestimated")),
}


def test_fields_added_later_are_known() -> None:
    found = {entry.name for kind in (Cell, Law, Reading, Schedule) for entry in fields(kind) if entry.metadata == ADDED}
    assert found == set(LATER)


def test_the_digests_of_the_first_cells_stay_what_they_are() -> None:
    """Records, weights and verdicts of finished runs are found by them."""
    found = {entry.cell.slug for entry in runs.load("config/mnist.yaml").entries}
    assert found >= {
        "mnist-4fc-w12-pgd-a045d12e",
        "mnist-4fc-w256-layerwise-fc2.fc3-8c41d075",
        "mnist-4fc-w12-standard-395fb916",
    }


@pytest.mark.parametrize("name", LATER)
def test_a_field_added_later_is_left_out_of_the_json_while_it_has_its_default(name: str) -> None:
    part, changed = LATER[name]
    plain = a_cell().to_json()
    written = changed.to_json()
    assert name not in (plain[part] if part else plain)
    assert name in (written[part] if part else written)
    assert changed.digest != a_cell().digest
    assert Cell.from_json(written) == changed


def test_a_default_that_is_spelt_out_is_the_same_cell() -> None:
    written = a_cell().to_json()
    spelt = written | {
        "schedule": written["schedule"] | {"augmentation": "none"},
        "compute": {"precision": "float32", "channels_last": False, "compile": "none"},
    }
    assert Cell.from_json(spelt).digest == a_cell().digest


# What cannot be


@pytest.mark.parametrize(
    ("build", "key", "value", "mend"),
    [
        (lambda: Law("uniform", 0.1), "law", "'uniform'", "fixed, normal, abs_normal"),
        (lambda: Law("normal", -0.1), "radius", "-0.1", "at least 0"),
        (lambda: Law("normal", 0.1, "pixel"), "draw", "'pixel'", "batch, sample, element"),
        (lambda: Reading(form="open"), "form", "'open'", "closed, propagated"),
        (lambda: Reading(scope="global"), "scope", "'global'", "local, layer_set, network"),
        (lambda: Reading(pairing="next"), "pairing", "'next'", "slot, mean, same"),
        (lambda: Reading(gradient="cut"), "gradient", "'cut'", "detached, attached"),
        (lambda: Reading(at="input"), "at", "'input'", "output, activation"),
        (lambda: Reading(reset="never"), "reset", "'never'", "epoch, once"),
        (lambda: Reading(source="pgd"), "source", "'pgd'", "gradient, cw"),
        (lambda: Schedule(epochs=0), "epochs", "0", "at least 1"),
        (lambda: Schedule(epochs=1, batch=True), "batch", "True", "whole number"),
        (lambda: Schedule(epochs=1, lr=0), "lr", "0", "above 0"),
        (lambda: Schedule(epochs=1, momentum=-1), "momentum", "-1", "at least 0"),
        (lambda: Schedule(epochs=1, schedule="linear"), "schedule", "'linear'", "steps, constant, cosine"),
        (lambda: Schedule(epochs=1, augmentation="crop"), "augmentation", "'crop'", "none, flip_crop"),
        (lambda: Compute(precision="fp16"), "precision", "'fp16'", "float32, bf16"),
        (lambda: Compute(compile="max"), "compile", "'max'", "none, default, reduce-overhead"),
        (lambda: a_cell(compute=Compute(compile="default")), "compile", "'fgsm+layerwise'", "use compile 'none'"),
        (lambda: control(Compute(compile="default")), "compile", "'interval_bound'", "use compile 'none'"),
        (lambda: a_cell(statistics="batch"), "statistics", "'batch'", "running, reestimated"),
        (lambda: a_cell(model="4fc", statistics="reestimated"), "statistics", "'4fc'", "use 'running'"),
        (lambda: a_cell(width=0), "width", "0", "above 0"),
        (lambda: a_cell(part="test"), "part", "'test'", "train, fit"),
        (lambda: a_cell(method="fgsm+pgd+layerwise"), "method", "'fgsm+pgd+layerwise'", "leave one out"),
        (lambda: a_cell(method="fgsm+"), "method", "'fgsm+'", "leave one out"),
        (lambda: a_cell(layers=()), "layers", "()", "name at least one layer"),
        (lambda: a_cell(layers=("fc2", "fc2")), "layers", "('fc2', 'fc2')", "twice"),
        (lambda: a_cell(method="fgsm"), "layers", "('fc2', 'fc3')", "need method 'layerwise'"),
        (lambda: a_cell(method="layerwise"), "input_law", "normal 0.2", "leave"),
    ],
)
def test_a_bad_value_is_named_with_its_key_and_its_mend(
    build: Callable[[], object], key: str, value: str, mend: str
) -> None:
    with pytest.raises(CellError) as raised:
        build()
    assert str(raised.value).startswith(key)
    assert value in str(raised.value)
    assert mend in str(raised.value)


@pytest.mark.parametrize("key", [field.name for field in fields(Cell) if field.metadata != ADDED])
def test_a_key_missing_from_a_cell_is_named(key: str) -> None:
    values = a_cell().to_json()
    del values[key]
    with pytest.raises(CellError, match=rf"^{key}: missing"):
        Cell.from_json(values)


def test_an_unknown_key_of_a_cell_is_named() -> None:
    with pytest.raises(CellError, match=r"^widht: a cell has no such field"):
        Cell.from_json(a_cell().to_json() | {"widht": 3})


# Names and seeds


@given(some_values())
def test_a_slug_is_safe_as_a_file_name(values: dict[str, Any]) -> None:
    cell = Cell.from_json(values)
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]*", cell.slug)
    assert len(cell.slug) < 200
    assert cell.slug.endswith(f"-{cell.digest[:8]}")


def test_epsilon_is_the_layers_law_in_words() -> None:
    assert a_cell().epsilon == "normal 0.1 per sample"
    assert a_cell(law=Law("fixed", 0.1)).epsilon == "fixed 0.1"
    assert a_cell(method="standard", layers=(), law=None, reading=None, input_law=None).epsilon == ""


@given(some_values(), st.integers(0, 100))
def test_all_methods_share_initialisation_and_order_and_nothing_else(values: dict[str, Any], seed: int) -> None:
    cell = Cell.from_json(values)
    plain = replace(
        cell, method="standard", layers=(), law=None, reading=None, input_law=None, mix=False, schedule=Schedule(1)
    )
    assert shared_seed(plain, seed, "order") == shared_seed(cell, seed, "order")
    assert (own_seed(plain, seed, "epsilon") == own_seed(cell, seed, "epsilon")) == (plain == cell)


@given(some_values(), st.integers(0, 100))
def test_a_seed_belongs_to_its_purpose_and_number_and_fits_torch(values: dict[str, Any], seed: int) -> None:
    cell = Cell.from_json(values)
    for derive in (shared_seed, own_seed):
        found = {derive(cell, seed, "a"), derive(cell, seed, "b"), derive(cell, seed + 1, "a")}
        assert len(found) == 3
        assert all(0 <= value < 2**63 for value in found)
        assert derive(cell, seed, "a") == derive(cell, seed, "a")


def test_the_statistics_that_serve_once_it_is_trained_change_no_draw_of_the_training() -> None:
    running, reestimated = a_cell(), a_cell(statistics="reestimated")
    for derive in (shared_seed, own_seed):
        assert derive(running, 3, "epsilon") == derive(reestimated, 3, "epsilon")


def test_another_width_or_dataset_is_another_initialisation() -> None:
    found = {shared_seed(a_cell(**change), 0, "i") for change in ({}, {"width": 11}, {"dataset": "digits"})}
    assert len(found) == 3


def test_the_parts_of_a_seed_do_not_run_together() -> None:
    assert seed_for("ab", "c") != seed_for("a", "bc")
    assert seed_for(1, 2) == seed_for("1", "2")


def test_seeds_stay_what_they_are() -> None:
    """Published figures rest on these streams: a change of the derivation is a change of every result."""
    assert seed_for("mnist", "4fc", 10, 0, "initialisation") == 5404973324824442817
