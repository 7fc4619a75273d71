"""Canonical order, IDX files, stratified draws, a local mirror's files, and torchvision as a source."""

from __future__ import annotations

import gzip
import hashlib
import json
import pickle
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lat import data
from lat.data.arrays import Split, canonical, digests
from lat.data.draw import stratified
from lat.data.idx import read_idx
from lat.data.official import read_official

BYTE = st.sampled_from([0, 1, 127, 128, 255])
STACK = arrays.arrays(np.uint8, arrays.array_shapes(min_dims=3, max_dims=4, max_side=4), elements=BYTE)


@given(STACK, st.randoms(use_true_random=False))
@example(np.array([[[1, 0]], [[1, 0]], [[0, 255]], [[128, 0]]], dtype=np.uint8), None)
def test_canonical_order_is_python_s_order_of_label_and_bytes(images: np.ndarray, random: Random | None) -> None:
    labels = np.array([random.choice([0, 1, 200]) if random else 0 for _ in images], dtype=np.uint8)
    found = canonical(Split(images, labels))
    expected = sorted((int(label), image.tobytes()) for label, image in zip(labels, images, strict=True))
    assert [(int(y), x.tobytes()) for y, x in zip(found.labels, found.images, strict=True)] == expected
    assert found.images.flags.c_contiguous and found.images.dtype == np.uint8
    mixed = np.arange(len(labels))[::-1]
    assert digests(canonical(Split(images[mixed], labels[mixed]))) == digests(found)


@given(
    st.lists(st.integers(2, 30), min_size=1, max_size=6).flatmap(
        lambda sizes: st.tuples(st.just(sizes), st.integers(len(sizes), sum(sizes) - len(sizes)))
    )
)
def test_a_stratified_draw_misses_no_class_s_share_by_more_than_one(drawn: tuple[list[int], int]) -> None:
    sizes, count = drawn
    labels = np.repeat(np.arange(len(sizes), dtype=np.uint8), sizes)
    rows = stratified(labels, count, "draw")
    assert len(rows) == count == len(np.unique(rows))
    assert np.array_equal(rows, np.sort(rows))
    share = count * np.array(sizes) / len(labels)
    assert np.abs(np.bincount(labels[rows], minlength=len(sizes)) - share).max() <= 1
    assert np.array_equal(rows, stratified(labels, count, "draw"))


@given(
    st.lists(st.integers(2, 9), min_size=2, max_size=20).flatmap(
        lambda s: st.tuples(st.just(s), st.integers(1, len(s) - 1))
    )
)
def test_a_draw_of_fewer_than_the_classes_has_no_two_of_one(drawn: tuple[list[int], int]) -> None:
    sizes, count = drawn
    labels = np.repeat(np.arange(len(sizes), dtype=np.uint8), sizes)
    rows = stratified(labels, count, "draw")
    assert len(rows) == count == len(set(labels[rows].tolist()))
    assert np.array_equal(rows, np.sort(rows)) and rows.dtype == np.int64
    assert np.array_equal(rows, stratified(labels, count, "draw"))


def _idx(path: Path, header: bytes, body: bytes) -> Path:
    path.write_bytes(gzip.compress(header + body))
    return path


def test_an_idx_file_is_read_by_its_header(tmp_path: Path) -> None:
    path = _idx(tmp_path / "a.gz", struct.pack(">HBB3I", 0, 8, 3, 2, 3, 4), bytes(range(24)))
    assert np.array_equal(read_idx(path), np.arange(24, dtype=np.uint8).reshape(2, 3, 4))


@pytest.mark.parametrize(
    ("header", "body", "said"),
    [
        (struct.pack(">HBBI", 0, 8, 1, 5), b"1234", "announces 5 bytes, found 4 bytes"),
        (struct.pack(">HBBI", 0, 8, 1, 3), b"1234", "announces 3 bytes, found more"),
        (struct.pack(">HBBI", 0, 13, 1, 1), b"1234", "unsigned bytes"),
        (struct.pack(">HBBI", 7, 8, 1, 4), b"1234", "unsigned bytes"),
        (struct.pack(">HBB", 0, 8, 3), b"1234", "whole gzipped IDX file"),
        (struct.pack(">HBB3I", 0, 8, 3, 2**31, 2**31, 9), b"", "more than"),
        (b"", b"", "whole gzipped IDX file"),
    ],
)
def test_an_idx_file_that_breaks_its_own_word_is_named(tmp_path: Path, header: bytes, body: bytes, said: str) -> None:
    path = _idx(tmp_path / "broken.gz", header, body)
    with pytest.raises(data.DataError, match=rf"broken.gz: .*{said}"):
        read_idx(path)


def test_a_gzip_file_that_is_cut_or_none_is_named(tmp_path: Path) -> None:
    path = _idx(tmp_path / "cut.gz", struct.pack(">HBBI", 0, 8, 1, 1000), bytes(1000))
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(data.DataError, match=r"cut.gz: expected a whole gzipped IDX file"):
        read_idx(path)
    path.write_bytes(b"no gzip")
    with pytest.raises(data.DataError, match=r"cut.gz: expected a whole gzipped IDX file"):
        read_idx(path)


@pytest.fixture
def own_copy(mirror: Path, tmp_path: Path) -> Path:
    """A copy of the MNIST part of the real mirror, to be damaged."""
    shutil.copytree(mirror / "MNIST", tmp_path / "copy" / "MNIST", copy_function=shutil.copyfile)
    shutil.copyfile(mirror / "manifest.json", tmp_path / "copy" / "manifest.json")
    for folder in (tmp_path / "copy").rglob("*"):
        folder.chmod(0o755)
    return tmp_path / "copy"


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.unlink(), "missing; .*manifest.json lists it with 4517 bytes"),
        (lambda path: path.write_bytes(path.read_bytes()[:4000]), "truncated; .* says 4517 bytes, found 4000"),
        (lambda path: path.write_bytes(path.read_bytes() + b"x"), "too long; .* says 4517 bytes, found 4518"),
        (_flip, "altered; .* says SHA-256 [0-9a-f]{64}, found [0-9a-f]{64}"),
    ],
)
def test_a_damaged_file_of_a_local_mirror_is_named(
    own_copy: Path, tmp_path: Path, damage: Callable[[Path], object], said: str
) -> None:
    damage(own_copy / "MNIST" / "raw" / "t10k-labels-idx1-ubyte.gz")
    with pytest.raises(data.DataError, match=rf"t10k-labels-idx1-ubyte.gz: {said}.*Renew the file on the mirror"):
        data.prepare("mnist", tmp_path / "data", str(own_copy))
    assert not (tmp_path / "data" / "mnist").exists()


def test_files_that_the_manifest_agrees_to_but_are_not_mnist_are_refused(own_copy: Path, tmp_path: Path) -> None:
    path = own_copy / "MNIST" / "raw" / "t10k-images-idx3-ubyte.gz"
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[-400] ^= 1
    path.write_bytes(gzip.compress(bytes(content), 1))
    manifest = json.loads((own_copy / "manifest.json").read_text())
    manifest["files"]["MNIST/raw/t10k-images-idx3-ubyte.gz"] = {
        "bytes": path.stat().st_size,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    (own_copy / "manifest.json").write_text(json.dumps(manifest))
    pinned = data.DATASETS["mnist"].pinned["test"].images
    with pytest.raises(data.DataError, match=rf"mnist, test split from .*copy: expected SHA-256 {pinned} .*, found"):
        data.prepare("mnist", tmp_path / "data", str(own_copy))
    assert not (tmp_path / "data" / "mnist").exists()


def test_a_mirror_that_does_not_list_a_dataset_s_files_says_what_it_lists(own_copy: Path, tmp_path: Path) -> None:
    manifest = json.loads((own_copy / "manifest.json").read_text())
    manifest["files"] = {path: entry for path, entry in manifest["files"].items() if "labels" in path}
    (own_copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(data.DataError, match=r"train-images-idx3-ubyte.gz: not listed in .* lists MNIST/raw/t10k-lab"):
        data.prepare("mnist", tmp_path / "data", str(own_copy))
    with pytest.raises(data.DataError, match=r"lists no cifar10/train-\*.zip.*does list: none"):
        data.prepare("cifar10", tmp_path / "data", str(own_copy))


def test_torchvision_s_own_reader_gives_the_pinned_mnist(
    mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The official files are unpacked where torchvision keeps them, so that it has nothing to download."""
    monkeypatch.delenv("LAT_DATA_MIRROR", raising=False)
    raw = tmp_path / ".mnist.downloads" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for path in (mirror / "MNIST" / "raw").glob("*.gz"):
        (raw / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    data.prepare("mnist", tmp_path)
    assert data.describe("mnist", tmp_path).source == "official host"
    assert not raw.exists()


@pytest.mark.parametrize(("kind", "key"), [("CIFAR10", "labels"), ("CIFAR100", "fine_labels")])
def test_torchvision_s_cifar_batches_become_splits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, key: str
) -> None:
    from lat.data.official import torchvision_datasets

    dataset = getattr(torchvision_datasets(), kind)
    folder = tmp_path / dataset.base_folder
    folder.mkdir()
    pixels = np.arange(3 * 1024, dtype=np.uint32).astype(np.uint8)
    for number, (name, _) in enumerate(dataset.train_list + dataset.test_list):
        (folder / name).write_bytes(pickle.dumps({"data": pixels[None] + np.uint8(number), key: [number]}))
    (folder / dataset.meta["filename"]).write_bytes(pickle.dumps({dataset.meta["key"]: []}))
    monkeypatch.setattr("torchvision.datasets.cifar.CIFAR10._check_integrity", lambda _: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    splits = read_official(kind, tmp_path)
    batches = len(dataset.train_list)
    assert splits["train"].images.shape == (batches, 32, 32, 3)
    assert splits["train"].labels.tolist() == list(range(batches))
    assert splits["test"].labels.tolist() == [batches]
    assert np.array_equal(splits["train"].images[0], pixels.reshape(3, 32, 32).transpose(1, 2, 0))


def test_an_official_host_that_fails_is_named_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lat.data.official import torchvision_datasets

    def unreachable(*_: object, **__: object) -> None:
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz")

    monkeypatch.setattr(torchvision_datasets().MNIST, "download", unreachable)
    monkeypatch.delenv("LAT_DATA_MIRROR", raising=False)
    with pytest.raises(data.DataError, match=r"official host \(Error downloading train-images.*LAT_DATA_MIRROR"):
        data.prepare("mnist", tmp_path)
    assert not (tmp_path / "mnist").exists()


IMPORTS = """
import sys
import lat.data
assert not {"torch", "torchvision", "sklearn"} & set(sys.modules), "imported too early"
from lat.data.official import torchvision_datasets
assert torchvision_datasets().MNIST.__name__ == "MNIST"
import torchvision
assert torchvision_datasets() is torchvision.datasets
"""


def test_importing_the_package_is_light_and_torchvision_imports_beside_any_torch() -> None:
    done = subprocess.run([sys.executable, "-W", "error", "-c", IMPORTS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_failure_of_torchvision_that_is_another_one_is_passed_on() -> None:
    script = """
import builtins
import pytest
from lat.data.official import torchvision_datasets
original = builtins.__import__
def failing(name, *rest):
    if name.startswith("torchvision"):
        raise RuntimeError("another failure")
    return original(name, *rest)
builtins.__import__ = failing
with pytest.raises(RuntimeError, match="another failure"):
    torchvision_datasets()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
