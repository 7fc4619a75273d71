"""A user's own dataset from class folders in zip shards, and what is refused on the way."""

from __future__ import annotations

import fcntl
import io
import json
import os
import stat
import threading
import zipfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_mirror import CLASSES, folders, pack, picture, small_mirror, write_manifest

from lat import data


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    return small_mirror(tmp_path / "mirror")


def _nothing_prepared(root: Path) -> bool:
    return not any(path.suffix in (".npy", ".json") for path in root.rglob("*"))


def test_labels_follow_the_alphabet_and_pixels_are_kept(mine: Path, tmp_path: Path) -> None:
    folder = data.prepare("mine", tmp_path / "data", str(mine))
    record = data.describe("mine", tmp_path / "data")
    assert record.class_names == CLASSES
    assert record.shape == (3, 6, 5)
    assert record.counts == {"train": 30, "fit": 27, "validation": 3, "test": 9}
    assert set(record.files) == {"mine/train-000.zip", "mine/train-001.zip", "mine/test-000.zip"}
    expected = sorted(
        (CLASSES.index(path.split("/")[1]), np.asarray(Image.open(io.BytesIO(content))).tobytes())
        for path, content in folders("train", 10, 1).items()
    )
    train = data.load("mine", "train", tmp_path / "data")
    assert [(int(y), x.tobytes()) for y, x in zip(train.labels, train.images, strict=True)] == expected
    assert data.tensors(train)[0].shape == (30, 3, 6, 5)
    assert sorted(path.name for path in folder.iterdir()) == [
        "prepared.json",
        "test_images.npy",
        "test_labels.npy",
        "train_images.npy",
        "train_labels.npy",
        "validation.npy",
    ]


def test_grey_images_have_one_channel(tmp_path: Path) -> None:
    data.prepare("grey", tmp_path, str(small_mirror(tmp_path / "mirror", "grey", (7, 4))))
    arrays = data.load("grey", "validation", tmp_path)
    assert arrays.images.shape == (3, 7, 4)
    assert arrays.shape == (1, 7, 4)


def test_once_prepared_it_needs_no_mirror(mine: Path, tmp_path: Path) -> None:
    data.prepare("mine", tmp_path / "data", str(mine))
    assert data.prepare("mine", tmp_path / "data") == tmp_path / "data" / "mine"


def test_the_same_content_packed_otherwise_is_the_same_dataset(mine: Path, tmp_path: Path) -> None:
    data.prepare("mine", tmp_path / "data", str(mine))
    before = data.load("mine", "train", tmp_path / "data").digest
    (mine / "mine" / "train-001.zip").unlink()
    pack(mine / "mine" / "train-000.zip", folders("train", 10, 1))
    write_manifest(mine)
    data.prepare("mine", tmp_path / "data", str(mine))
    assert data.load("mine", "train", tmp_path / "data").digest == before


def test_other_content_under_the_same_name_is_an_error_that_names_both(mine: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    data.prepare("mine", root, str(mine))
    before = data.describe("mine", root)
    other = small_mirror(tmp_path / "other", seed=7)
    with pytest.raises(data.DataError) as error:
        data.prepare("mine", root, str(other))
    assert str(mine) in str(error.value) and str(other) in str(error.value)
    assert before.digests["train"].images[:12] in str(error.value)
    assert data.describe("mine", root) == before
    (root / "mine" / "train_images.npy").unlink()
    with pytest.raises(data.DataError, match="was prepared from"):
        data.prepare("mine", root, str(other))
    data.prepare("mine", root, str(mine))
    assert data.load("mine", "train", root).images.shape == (30, 6, 5, 3)


def test_a_name_in_neither_place_is_an_error_that_lists_the_names(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = "Known are digits, mnist, cifar10, cifar100"
    with pytest.raises(data.DataError, match=rf"'yours' is not known\. {known}.* on the mirror .*: mine\."):
        data.prepare("yours", tmp_path / "data", str(mine))
    monkeypatch.delenv("LAT_DATA_MIRROR", raising=False)
    with pytest.raises(data.DataError, match=rf"{known}.*LAT_DATA_MIRROR"):
        data.prepare("yours", tmp_path / "data")
    assert _nothing_prepared(tmp_path / "data")


@pytest.mark.parametrize("name", ["../mine", "a/b", "", ".mine", "/mine"])
def test_a_name_that_leads_elsewhere_is_refused(mine: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(data.DataError, match="is no name"):
        data.prepare(name, tmp_path / "data", str(mine))
    with pytest.raises(data.DataError):
        data.load(name, "train", tmp_path / "data")


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("../../outside.png", "leads upwards"),
        ("train/../../outside.png", "leads upwards"),
        ("/train/ant/a.png", "absolute"),
        ("train\\ant\\a.png", "absolute or leads upwards"),
        ("C:/ant/a.png", "absolute"),
        ("a.png", "expected train/<class>/<file>"),
        ("test/ant/a.png", "expected train/<class>/<file>"),
        ("train/ant/deep/a.png", "expected train/<class>/<file>"),
    ],
)
def test_an_entry_that_is_not_in_a_class_folder_is_refused(mine: Path, tmp_path: Path, entry: str, said: str) -> None:
    pack(mine / "mine" / "train-001.zip", {"train/ant/good.png": picture(1), entry: picture(2)})
    write_manifest(mine)
    with pytest.raises(data.DataError, match=rf"train-001.zip: .*{said}"):
        data.prepare("mine", tmp_path / "data", str(mine))
    assert _nothing_prepared(tmp_path / "data")
    assert not list(tmp_path.rglob("outside.png"))


def test_a_link_and_an_encrypted_entry_are_refused(mine: Path, tmp_path: Path) -> None:
    shard = mine / "mine" / "train-001.zip"
    link = zipfile.ZipInfo("train/ant/link.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(shard, "w") as archive:
        archive.writestr(link, "/etc/hostname")
    write_manifest(mine)
    with pytest.raises(data.DataError, match=r"link.png.*it is a link"):
        data.prepare("mine", tmp_path / "data", str(mine))
    pack(shard, {"train/ant/secret.png": picture(1)})
    content = bytearray(shard.read_bytes())
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    shard.write_bytes(content)
    write_manifest(mine)
    with pytest.raises(data.DataError, match=r"secret.png.*encrypted"):
        data.prepare("mine", tmp_path / "data", str(mine))


def _animation() -> bytes:
    file = io.BytesIO()
    frames = [Image.fromarray(np.full((6, 5, 3), value, dtype=np.uint8)) for value in (0, 255)]
    frames[0].save(file, "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (picture(1, (5, 5, 3)), r"shape \(5, 5, 3\), but the first training image has \(6, 5, 3\)"),
        (picture(1, (6, 5)), r"shape \(6, 5\)"),
        (picture(1, (6, 5, 4)), "mode RGBA"),
        (picture(1, (5000, 5000)), "at most 16777216 pixels"),
        (_animation(), "one 8-bit grey or RGB image"),
        (picture(1)[:-30], "whole image"),
        (b"no image at all", "image of a known kind"),
        (b"", "image of a known kind"),
    ],
)
def test_an_entry_that_is_not_one_whole_image_of_the_common_shape_is_named(
    mine: Path, tmp_path: Path, content: bytes, said: str
) -> None:
    pack(mine / "mine" / "train-001.zip", {**folders("train", 10, 1), "train/ant/zz.png": content})
    write_manifest(mine)
    with pytest.raises(data.DataError, match=rf"train-001.zip: train/ant/zz.png.*{said}"):
        data.prepare("mine", tmp_path / "data", str(mine))
    assert _nothing_prepared(tmp_path / "data")


def test_a_huge_entry_is_refused_before_it_is_unpacked(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = mine / "mine" / "test-000.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("test/ant/bomb.png", bytes((1 << 25) + 1))
    write_manifest(mine)
    assert path.stat().st_size < 1 << 20
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *_: pytest.fail("unpacked"))
    with pytest.raises(data.DataError, match=r"bomb.png.*more than 33554432"):
        data.prepare("mine", tmp_path / "data", str(mine))


def test_files_that_a_file_manager_adds_are_passed_over(mine: Path, tmp_path: Path) -> None:
    entries = {**folders("test", 3, 2), "__MACOSX/test/ant/._0.png": b"x", "test/ant/.DS_Store": b"x", "test/bee/": b""}
    pack(mine / "mine" / "test-000.zip", entries)
    write_manifest(mine)
    data.prepare("mine", tmp_path, str(mine))
    assert len(data.load("mine", "test", tmp_path)) == 9


def test_classes_that_only_the_test_split_has_are_refused(mine: Path, tmp_path: Path) -> None:
    pack(mine / "mine" / "test-000.zip", {"test/dog/0.png": picture(3)})
    write_manifest(mine)
    with pytest.raises(data.DataError, match="test classes without training images: dog"):
        data.prepare("mine", tmp_path, str(mine))


def test_one_image_in_a_class_is_too_few_to_hold_some_out(mine: Path, tmp_path: Path) -> None:
    pack(mine / "mine" / "train-001.zip", {"train/dog/0.png": picture(3)})
    write_manifest(mine)
    with pytest.raises(data.DataError, match=r"mine: validation part.*two examples or more"):
        data.prepare("mine", tmp_path / "data", str(mine))
    assert _nothing_prepared(tmp_path / "data")


@pytest.mark.parametrize("path", ["/mine/train-000.zip", "../mine/train-000.zip", "mine/./train-000.zip", "a\\b"])
def test_a_manifest_that_leads_out_of_the_mirror_is_refused(mine: Path, tmp_path: Path, path: str) -> None:
    manifest = json.loads((mine / "manifest.json").read_text())
    manifest["files"][path] = {"bytes": 1, "sha256": "0" * 64}
    (mine / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(data.DataError, match="absolute, leads upwards or is not plain"):
        data.prepare("mine", tmp_path, str(mine))


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"files": 3}', '{"files": {"a": {"bytes": "1", "sha256": ""}}}', '{"files": {"a": 1}}']
)
def test_a_manifest_that_is_none_is_named(mine: Path, tmp_path: Path, text: str) -> None:
    (mine / "manifest.json").write_text(text)
    with pytest.raises(data.DataError, match=r"manifest.json: .*Renew the manifest"):
        data.prepare("mine", tmp_path, str(mine))


def test_a_mirror_without_a_manifest_or_with_an_unknown_scheme_is_named(tmp_path: Path) -> None:
    with pytest.raises(data.DataError, match=r"nowhere.manifest.json: cannot be read"):
        data.prepare("mnist", tmp_path, str(tmp_path / "nowhere"))
    with pytest.raises(data.DataError, match=r"scheme 'ftp' is not known. Give a directory, or http"):
        data.prepare("mnist", tmp_path, "ftp://example.org/data")


def test_processes_that_prepare_at_once_leave_one_whole_dataset(mine: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    with ProcessPoolExecutor(3, mp_context=get_context("spawn")) as pool:
        found = list(pool.map(data.prepare, ["mine"] * 8, [root] * 8, [str(mine)] * 8))
    assert found == [root / "mine"] * 8
    assert len(data.load("mine", "train", root)) == 30
    assert sorted(path.name for path in root.iterdir()) == [".mine.lock", "mine"]


def test_preparing_waits_while_another_holds_the_lock(mine: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    waiting = threading.Thread(target=data.prepare, args=("mine", root, str(mine)))
    with (root / ".mine.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting.start()
        waiting.join(0.5)
        assert waiting.is_alive() and _nothing_prepared(root)
    waiting.join(30)
    assert len(data.load("mine", "train", root)) == 30


def test_a_move_that_fails_half_way_leaves_no_record_to_trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data.prepare("digits", tmp_path)
    (tmp_path / "digits" / "validation.npy").unlink()
    replace, calls = os.replace, []

    def failing(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == 3:
            raise OSError(5, "Input/output error")
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OSError, match="Input/output"):
        data.prepare("digits", tmp_path)
    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(data.DataError, match=r"prepared.json: missing"):
        data.load("digits", "test", tmp_path)
    data.prepare("digits", tmp_path)
    assert len(data.load("digits", "validation", tmp_path)) == 200


def test_an_error_while_writing_leaves_nothing_under_the_final_names(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, calls = np.save, []

    def full_disk(path: Path, array: np.ndarray) -> None:
        calls.append(path)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        save(path, array)

    monkeypatch.setattr(np, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        data.prepare("mine", tmp_path / "data", str(mine))
    assert len(calls) == 3
    assert _nothing_prepared(tmp_path / "data")
