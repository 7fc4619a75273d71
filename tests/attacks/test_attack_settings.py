"""config/attacks.yaml says everything; a slip in it is an error that names the attack and the key."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from lat.attacks import ATTACKS, Attack, SettingError, Threat, from_settings
from lat.attacks.settings import keys

SCHEMA = Path(__file__).resolve().parents[2] / "workflow" / "schemas" / "attacks.schema.yaml"
Settings = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def schema() -> jsonschema.Draft202012Validator:
    loaded = yaml.safe_load(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(loaded)
    return jsonschema.Draft202012Validator(loaded)


def test_the_settings_are_valid_and_hold_the_attacks_of_the_tables(
    schema: jsonschema.Draft202012Validator, settings: Settings, attacks: dict[str, Attack]
) -> None:
    schema.validate(settings)
    curve = [f"pgd_curve@{radius:g}" for radius in (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)]
    costly = ["autoattack", "apgd_ce", "apgd_t", "fab_t", "square", "noise", "lbfgs", "hopskipjump", "boundary"]
    more = ["mi_fgsm", "pgd_twice", "pgd_restarts", "cw_restarts", *costly, "zoo"]
    assert {"fgsm", "ifgsm", "pgd", "eot", "cw", "cw_l2", *curve, *more} <= set(attacks)
    for name in ("fgsm", "ifgsm", "pgd", "eot", "cw"):
        assert attacks[name].threat == Threat("linf", 0.1, (0.0, 1.0)), name
        assert attacks[name].examples is None, name
    assert attacks["cw_l2"].threat == Threat("l2", None, (0.0, 1.0))
    assert attacks["pgd_curve@0.05"].threat.radius == 0.05
    assert attacks["pgd_curve@0.05"].examples == 1000


def test_the_schema_knows_the_keys_that_the_classes_have(schema: jsonschema.Draft202012Validator) -> None:
    for kind, built in ATTACKS.items():
        known = schema.schema["$defs"][kind]
        assert set(known["properties"]) - {"radii"} == set(keys(built)), kind
        assert set(known["required"]) == set(keys(built)) - {"radius"}, kind
        assert known["additionalProperties"] is False, kind


def test_a_key_left_out_is_an_error_that_names_it(schema: jsonschema.Draft202012Validator, settings: Settings) -> None:
    for name, given in settings.items():
        for key in given:
            lacking = copy.deepcopy(settings)
            del lacking[name][key]
            assert list(schema.iter_errors(lacking)), (name, key)
            wanted = "radius" if key == "radii" else key
            with pytest.raises(SettingError, match=rf"^{name}.*: {wanted}: missing"):
                from_settings(lacking)


def test_a_key_too_many_is_an_error_that_names_it(schema: jsonschema.Draft202012Validator, settings: Settings) -> None:
    for name in settings:
        mistyped = copy.deepcopy(settings)
        mistyped[name]["step_size"] = 0.01
        assert any("step_size" in error.message for error in schema.iter_errors(mistyped)), name
        with pytest.raises(SettingError, match=rf"^{name}.*step_size: unknown to"):
            from_settings(mistyped)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("fgsm", "kind", "fgms"),
        ("fgsm", "norm", "l1"),
        ("fgsm", "radius", -0.1),
        ("fgsm", "radius", None),
        ("fgsm", "examples", 0),
        ("ifgsm", "steps", 0),
        ("pgd", "relative_step", 0),
        ("pgd", "start", "random"),
        ("eot", "noise_draws", 0),
        ("eot", "relative_noise", -1.0),
        ("cw", "steps", True),
        ("cw_l2", "norm", "linf"),
        ("cw_l2", "shrink", 1.0),
        ("cw_l2", "lr", 0.0),
        ("cw_l2", "confidence", -1.0),
        ("mi_fgsm", "decay", -1.0),
        ("pgd_restarts", "restarts", 0),
        ("pgd_restarts", "loss", "hinge"),
        ("autoattack", "attacks", []),
        ("autoattack", "attacks", "square"),
        ("autoattack", "attacks", ["square", "square"]),
        ("autoattack", "batch", 0),
        ("noise", "noise_draws", 0),
        ("noise", "distribution", "normal"),
        ("hopskipjump", "directions", 0),
        ("hopskipjump", "norm", "l2"),
        ("boundary", "norm", "linf"),
        ("boundary", "source_step", 0.0),
        ("zoo", "norm", "linf"),
        ("zoo", "coordinates", 0),
        ("zoo", "difference", 0.0),
        ("lbfgs", "norm", "linf"),
        ("lbfgs", "initial_constant", 0.0),
        ("pgd_curve", "radii", []),
        ("pgd_curve", "radii", [0.1, 0.1]),
    ],
)
def test_an_impossible_value_is_an_error_that_names_attack_and_key(
    schema: jsonschema.Draft202012Validator, settings: Settings, name: str, key: str, value: object
) -> None:
    wrong = copy.deepcopy(settings)
    wrong[name][key] = value
    assert list(schema.iter_errors(wrong))
    with pytest.raises(SettingError, match=rf"^{name}: .*{key}.*{re.escape(str(value))}"):
        from_settings(wrong)


@pytest.mark.parametrize(
    ("name", "key", "value"), [("fgsm", "radius", "0.1"), ("fgsm", "box", [0.0]), ("ifgsm", "steps", 2.5)]
)
def test_a_value_of_the_wrong_type_is_refused_by_the_schema(
    schema: jsonschema.Draft202012Validator, settings: Settings, name: str, key: str, value: object
) -> None:
    assert list(schema.iter_errors({name: settings[name] | {key: value}}))


def test_a_box_upside_down_and_two_ways_to_give_a_radius_are_refused(settings: Settings) -> None:
    upside_down = {"fgsm": settings["fgsm"] | {"box": [1.0, 0.0]}}
    with pytest.raises(SettingError, match=r"fgsm: box: .*the lower one first"):
        from_settings(upside_down)
    with pytest.raises(SettingError, match="radius and radii are both given"):
        from_settings({"fgsm": settings["fgsm"] | {"radii": [0.1]}})
    with pytest.raises(SettingError, match="belongs to an attack with radii"):
        from_settings({"pgd@0.1": settings["pgd"]})


@pytest.mark.parametrize("name", ["autoattack", "hopskipjump", "boundary"])
def test_a_box_that_the_package_would_not_keep_is_refused(
    schema: jsonschema.Draft202012Validator, settings: Settings, name: str
) -> None:
    wider = {name: settings[name] | {"box": [0.0, 2.0]}}
    assert list(schema.iter_errors(wider))
    with pytest.raises(SettingError, match=rf"{name}: box: \(0\.0, 2\.0\) must be \(0\.0, 1\.0\)"):
        from_settings(wider)


def test_every_kind_that_searches_a_ball_can_be_given_several_radii(settings: Settings) -> None:
    for name in ("fgsm", "ifgsm", "pgd", "eot", "cw", "mi_fgsm", "pgd_restarts", "autoattack", "noise", "hopskipjump"):
        several = {key: value for key, value in settings[name].items() if key != "radius"} | {"radii": [0.1, 0.25]}
        built = from_settings({name: several})
        assert {key: attack.threat.radius for key, attack in built.items()} == {
            f"{name}@0.1": 0.1,
            f"{name}@0.25": 0.25,
        }
