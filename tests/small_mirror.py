"""Small mirrors made on the spot: images in class folders, in zip shards, with a manifest."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("ant", "bee", "cow")


def picture(seed: int, shape: tuple[int, ...] = (6, 5, 3), kind: str = "PNG", **options: object) -> bytes:
    """An encoded random image; lossless unless ``kind`` is a lossy format."""
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def folders(split: str, each: int, seed: int, shape: tuple[int, ...] = (6, 5, 3)) -> dict[str, bytes]:
    """Entries of one split: ``each`` images in each class, listed in an order that is not the alphabetical one."""
    return {
        f"{split}/{name}/{number}.png": picture(1000 * seed + 100 * label + number, shape)
        for number in range(each)
        for label, name in reversed(list(enumerate(CLASSES)))
    }


def pack(path: Path, entries: Mapping[str, bytes]) -> None:
    """Write a zip archive with the entries as given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def write_manifest(mirror: Path) -> None:
    """List every file of the mirror with its size and SHA-256."""
    files = {
        str(path.relative_to(mirror)): {
            "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in sorted(mirror.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }
    (mirror / "manifest.json").write_text(json.dumps({"files": files}))


def small_mirror(place: Path, name: str = "mine", shape: tuple[int, ...] = (6, 5, 3), seed: int = 1) -> Path:
    """A mirror with one dataset of three classes: 30 training images in two shards, 9 test images in one."""
    train = list(folders("train", 10, seed, shape).items())
    pack(place / name / "train-000.zip", dict(train[:14]))
    pack(place / name / "train-001.zip", dict(train[14:]))
    pack(place / name / "test-000.zip", folders("test", 3, seed + 1, shape))
    write_manifest(place)
    return place
