"""The four known datasets: pinned content, parts, draws, tensors."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lat import data
from lat.data.arrays import Split, digests


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("digits")
    data.prepare("digits", root)
    return root


def _rows(arrays: data.Arrays) -> list[tuple[int, bytes]]:
    return [(int(label), image.tobytes()) for label, image in zip(arrays.labels, arrays.images, strict=True)]


@pytest.fixture(params=["digits", "mnist"])
def prepared(request: pytest.FixtureRequest) -> tuple[str, Path]:
    fixture = {"digits": "digits", "mnist": "data_root"}[request.param]
    return request.param, request.getfixturevalue(fixture)


def test_known_datasets_are_pinned_on_both_splits() -> None:
    assert set(data.DATASETS) == {"digits", "mnist", "cifar10", "cifar100"}
    for name, dataset in data.DATASETS.items():
        assert dataset.name == name
        assert set(dataset.pinned) == {"train", "test"}
        assert all(re.fullmatch("[0-9a-f]{64}", digest) for pair in dataset.pinned.values() for digest in pair)


def test_what_is_loaded_has_the_pinned_digests(prepared: tuple[str, Path]) -> None:
    name, root = prepared
    for split, pinned in data.DATASETS[name].pinned.items():
        arrays = data.load(name, split, root)
        assert isinstance(arrays.images, np.memmap)
        assert not arrays.images.flags.writeable
        assert digests(Split(np.array(arrays.images), np.array(arrays.labels))) == pinned


def test_parts_are_disjoint_cover_the_train_split_and_keep_its_proportions(prepared: tuple[str, Path]) -> None:
    name, root = prepared
    train, fit, validation = (data.load(name, part, root) for part in ("train", "fit", "validation"))
    assert len(validation) == {"digits": 200, "mnist": 5000}[name]
    assert sorted(_rows(fit) + _rows(validation)) == _rows(train)
    held_out = np.load(root / name / "validation.npy")
    assert np.array_equal(held_out, np.unique(held_out))
    assert np.array_equal(train.images[held_out], validation.images)
    share = np.bincount(train.labels, minlength=10) / len(train)
    assert np.abs(np.bincount(validation.labels, minlength=10) - share * len(validation)).max() <= 1


def test_digits_split_covers_all_of_digits(digits: Path) -> None:
    from sklearn.datasets import load_digits

    loaded = load_digits()
    original = sorted(
        (int(label), image.astype(np.uint8).tobytes())
        for label, image in zip(loaded.target, loaded.images, strict=True)
    )
    train, test = data.load("digits", "train", digits), data.load("digits", "test", digits)
    assert len(test) == 360
    assert not set(_rows(train)) & set(_rows(test))
    assert sorted(_rows(train) + _rows(test)) == original


@pytest.mark.parametrize("part", data.PARTS)
def test_a_draw_is_stratified_fixed_and_part_of_the_whole(prepared: tuple[str, Path], part: str) -> None:
    name, root = prepared
    whole = data.load(name, part, root)
    drawn, again = data.load(name, part, root, count=100), data.load(name, part, root, count=100)
    assert len(drawn) == 100
    assert np.array_equal(drawn.images, again.images) and drawn.digest == again.digest
    share = np.bincount(whole.labels, minlength=10) / len(whole)
    assert np.abs(np.bincount(drawn.labels, minlength=10) - 100 * share).max() <= 1
    assert set(_rows(drawn)) <= set(_rows(whole))
    assert drawn.digest != whole.digest
    assert data.load(name, part, root, count=len(whole)).digest == whole.digest


@pytest.mark.parametrize("count", [0, -1, 361, 355])
def test_a_draw_that_cannot_be_had_is_an_error_that_says_what_can(digits: Path, count: int) -> None:
    with pytest.raises(data.DataError, match=rf"count: digits, part test: {count} of 360 .*Ask for 1 to 350"):
        data.load("digits", "test", digits, count=count)


def test_tensors_lie_in_the_unit_box_and_reach_both_ends(prepared: tuple[str, Path]) -> None:
    name, root = prepared
    arrays = data.load(name, "test", root)
    images, labels = data.tensors(arrays)
    assert images.dtype == torch.float32 and labels.dtype == torch.int64
    assert tuple(images.shape) == (len(arrays), *arrays.shape)
    assert images.is_contiguous()
    assert images.min() == 0 and images.max() == 1
    back = (images.double() * arrays.levels).round().to(torch.uint8)[:, 0].numpy()
    assert np.array_equal(back, arrays.images)
    assert np.array_equal(labels.numpy(), arrays.labels)


def test_tensors_put_colour_first_and_belong_to_nobody_else() -> None:
    pixels = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    arrays = data.Arrays(pixels, np.array([1, 0], dtype=np.uint8), 255, 2, "")
    images, labels = data.tensors(arrays)
    assert arrays.shape == (3, 4, 5) == tuple(images.shape[1:])
    assert images.is_contiguous()
    for channel in range(3):
        assert np.allclose(images[:, channel].numpy() * 255, pixels[..., channel], atol=1e-4)
    images.zero_()
    assert pixels.max() == 119
    assert labels.tolist() == [1, 0]


def test_preparing_again_touches_nothing(digits: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (digits / "digits").iterdir()}
    assert data.prepare("digits", digits) == digits / "digits"
    assert {path: path.stat().st_mtime_ns for path in (digits / "digits").iterdir()} == before


def test_digits_needs_no_mirror_even_where_one_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAT_DATA_MIRROR", str(tmp_path / "nowhere"))
    data.prepare("digits", tmp_path)
    assert data.describe("digits", tmp_path).source == "installed package"


def test_the_mirror_comes_from_the_environment(mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAT_DATA_MIRROR", str(mirror))
    data.prepare("mnist", tmp_path)
    record = data.describe("mnist", tmp_path)
    assert record.source == str(mirror)
    assert record.shape == (1, 28, 28)
    assert record.counts == {"train": 60000, "fit": 55000, "validation": 5000, "test": 10000}


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.unlink(), "missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "expected uint8"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\x0b"), "altered"),
        (lambda path: np.save(path, np.zeros((360, 8, 8), dtype=np.float32)), "expected uint8 .*found float32"),
        (lambda path: path.write_bytes(b""), "expected uint8"),
    ],
)
def test_a_damaged_array_is_an_error_that_names_it_and_is_mended_by_preparing(
    tmp_path: Path, damage: Callable[[Path], object], said: str
) -> None:
    data.prepare("digits", tmp_path)
    path = tmp_path / "digits" / "test_images.npy"
    damage(path)
    with pytest.raises(data.DataError, match=rf"test_images.npy: {said}.*Prepare it \(again\)"):
        data.load("digits", "test", tmp_path)
    data.prepare("digits", tmp_path)
    assert len(data.load("digits", "test", tmp_path)) == 360


def test_damaged_validation_indices_are_noticed(tmp_path: Path) -> None:
    data.prepare("digits", tmp_path)
    path = tmp_path / "digits" / "validation.npy"
    np.save(path, np.load(path) + 1)
    with pytest.raises(data.DataError, match=r"validation.npy: altered"):
        data.load("digits", "fit", tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"digests": 3}'])
def test_a_record_that_is_no_record_is_an_error_that_names_it(tmp_path: Path, text: str) -> None:
    data.prepare("digits", tmp_path)
    (tmp_path / "digits" / "prepared.json").write_text(text)
    with pytest.raises(data.DataError, match=r"prepared.json: expected the record"):
        data.load("digits", "test", tmp_path)


def test_content_other_than_the_pinned_is_refused_and_replaced(tmp_path: Path) -> None:
    data.prepare("digits", tmp_path)
    folder = tmp_path / "digits"
    images = np.load(folder / "test_images.npy")
    images[0] ^= 1
    np.save(folder / "test_images.npy", images)
    record = json.loads((folder / "prepared.json").read_text())
    record["digests"]["test"]["images"] = digests(Split(images, images[:, 0, 0])).images
    (folder / "prepared.json").write_text(json.dumps(record))
    with pytest.raises(data.DataError, match="expected the digests pinned for digits"):
        data.load("digits", "test", tmp_path)
    data.prepare("digits", tmp_path)
    data.load("digits", "test", tmp_path)


def test_what_is_not_prepared_or_not_known_is_said(tmp_path: Path) -> None:
    with pytest.raises(data.DataError, match=r"mnist.prepared.json: missing.*lat.data.prepare\('mnist'"):
        data.load("mnist", "train", tmp_path)
    with pytest.raises(data.DataError, match="'svhn' is neither one of digits, mnist, cifar10, cifar100 nor prepared"):
        data.load("svhn", "train", tmp_path)
    data.prepare("digits", tmp_path)
    with pytest.raises(data.DataError, match=r"part: 'valid' is not known. Choose one of train, fit, validation, test"):
        data.load("digits", "valid", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_from_the_mirror_has_the_pinned_digests(mirror: Path, tmp_path: Path, name: str) -> None:
    data.prepare(name, tmp_path, str(mirror))
    arrays = data.load(name, "train", tmp_path)
    assert arrays.shape == (3, 32, 32)
    assert np.bincount(arrays.labels).tolist() == [50000 // arrays.classes] * arrays.classes
    means = arrays.images.mean(axis=(0, 1, 2)) / 255
    published = {"cifar10": (0.49139968, 0.48215841, 0.44653091), "cifar100": (0.50707516, 0.48654887, 0.44091784)}
    assert np.allclose(means, published[name], atol=2e-8)
