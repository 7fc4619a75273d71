"""Zip shards of images in class folders: ``<split>/<class>/<image file>``, lossless 8-bit grey or RGB."""

from __future__ import annotations

import io
import stat
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from lat.data.arrays import Bytes, DataError, Split
from lat.data.mirror import Mirror

FORMATS = ("WEBP", "PNG", "BMP", "TIFF", "PPM", "GIF", "JPEG")
MOST_BYTES = 1 << 25
MOST_PIXELS = 1 << 24
MOST_CLASSES = 256


class Folders(NamedTuple):
    """A dataset read from class folders: its classes in alphabetical order, its splits with labels as indices."""

    classes: list[str]
    splits: dict[str, Split]


class _Entry(NamedTuple):
    archive: zipfile.ZipFile
    info: zipfile.ZipInfo
    label: str

    def __str__(self) -> str:
        return f"{self.archive.filename}: {self.info.filename}"


def read_folders(mirror: Mirror, name: str) -> Folders:
    """Both splits of the dataset ``name`` of a mirror; the label is the class name's index in alphabetical order.

    Raises DataError where a shard is missing or damaged, an entry is no plain image file in a class folder, or the
    images have not all one shape.
    """
    paths = {split: [mirror.fetch(path) for path in _listed(mirror, name, split)] for split in ("train", "test")}
    archives: list[zipfile.ZipFile] = []
    try:
        entries: dict[str, list[_Entry]] = {}
        for split, files in paths.items():
            opened = [_open(path) for path in files]
            archives += opened
            entries[split] = [entry for archive in opened for entry in _entries(archive, split)]
        classes = _classes(mirror.place(name), entries)
        shape = np.shape(_decode(entries["train"][0]))
        splits = {split: _split(found, classes, shape) for split, found in entries.items()}
    finally:
        for archive in archives:
            archive.close()
    return Folders(classes, splits)


def _listed(mirror: Mirror, name: str, split: str) -> list[str]:
    shards = mirror.shards(name, split)
    if not shards:
        raise DataError(
            f"{mirror.place('manifest.json')}: lists no {name}/{split}-*.zip. Datasets in class folders that it does "
            f"list: {', '.join(mirror.datasets()) or 'none'}."
        )
    return shards


def _open(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{path}: expected a zip archive, found {error}. Renew the file.") from error


def _entries(archive: zipfile.ZipFile, split: str) -> Iterator[_Entry]:
    """The image entries of an archive, after every entry has been found harmless."""
    for info in archive.infolist():
        path = PurePosixPath(info.filename)
        where = f"{archive.filename}: {info.filename!r}"
        if path.is_absolute() or ".." in path.parts or "\\" in info.orig_filename or ":" in info.filename:
            raise DataError(f"{where}: refused, its path is absolute or leads upwards. Pack {split}/<class>/<file>.")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise DataError(f"{where}: refused, it is a link. Pack the image itself.")
        if info.flag_bits & 1:
            raise DataError(f"{where}: refused, it is encrypted. Pack it without a password.")
        if info.is_dir() or path.name.startswith(".") or path.parts[0] == "__MACOSX":
            continue
        if len(path.parts) != 3 or path.parts[0] != split:
            raise DataError(f"{where}: expected {split}/<class>/<file>. Pack the images in class folders.")
        if info.file_size > MOST_BYTES:
            raise DataError(
                f"{where}: {info.file_size} bytes, more than {MOST_BYTES} for one image. Pack smaller images."
            )
        yield _Entry(archive, info, path.parts[1])


def _classes(place: str, entries: dict[str, list[_Entry]]) -> list[str]:
    for split, found in entries.items():
        if not found:
            raise DataError(f"{place}: its {split} shards hold no images. Pack {split}/<class>/<file>.")
    classes = sorted({entry.label for entry in entries["train"]})
    unknown = sorted({entry.label for entry in entries["test"]} - set(classes))
    if unknown:
        raise DataError(f"{place}: test classes without training images: {', '.join(unknown)}. Add some, or drop them.")
    if not 2 <= len(classes) <= MOST_CLASSES:
        raise DataError(
            f"{place}: {len(classes)} classes; from 2 to {MOST_CLASSES} can be used. Change the class folders."
        )
    return classes


def _split(entries: Sequence[_Entry], classes: list[str], shape: tuple[int, ...]) -> Split:
    index = {name: number for number, name in enumerate(classes)}
    labels = np.array([index[entry.label] for entry in entries], dtype=np.uint8)
    images = np.empty((len(entries), *shape), dtype=np.uint8)
    what = f"{Path(entries[0].archive.filename or '').parent.name}, {entries[0].info.filename.partition('/')[0]}"
    for number, entry in enumerate(tqdm(entries, desc=what, unit="image", disable=None)):
        images[number] = _decode(entry, shape)
    return Split(images, labels)


def _decode(entry: _Entry, shape: tuple[int, ...] | None = None) -> Bytes:
    """One image as uint8 H x W (grey) or H x W x 3; its size is compared with ``shape`` before pixels are unpacked."""
    try:
        data = entry.archive.read(entry.info)
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
        with picture:
            width, height = picture.size
            if picture.mode not in ("L", "RGB") or width * height > MOST_PIXELS or getattr(picture, "n_frames", 1) > 1:
                raise DataError(
                    f"{entry}: {width} x {height} in mode {picture.mode}; expected one 8-bit grey or RGB image of at "
                    f"most {MOST_PIXELS} pixels. Convert it."
                )
            found = (height, width) if picture.mode == "L" else (height, width, 3)
            if shape is not None and found != shape:
                raise DataError(f"{entry}: shape {found}, but the first training image has {shape}. Make them equal.")
            return np.asarray(picture)
    except (UnidentifiedImageError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{entry}: expected an image of a known kind and size, found {error}. Renew it.") from error
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, ValueError, SyntaxError) as error:
        raise DataError(f"{entry}: expected a whole image, found {error}. Renew the archive.") from error
