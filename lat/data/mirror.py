"""A mirror: a directory or an http(s) address that holds the data files and a ``manifest.json`` that lists them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, urlsplit

from lat.data.arrays import DataError
from lat.data.download import Patience, check_file, download, read_small

MANIFEST = "manifest.json"
MANIFEST_LIMIT = 1 << 24


@dataclass(frozen=True)
class Listed:
    """A file as the manifest lists it: size in bytes, SHA-256 in hexadecimal."""

    size: int
    sha256: str


class Mirror:
    """The files of a mirror, each checked against the manifest before it is used.

    address: a directory, or an http(s) address. downloads: where files of an http(s) mirror are kept until the
    dataset is prepared. Raises DataError where there is no readable manifest.
    """

    def __init__(self, address: str, downloads: Path, patience: Patience | None = None) -> None:
        self.address = address.rstrip("/") or address
        self.downloads = downloads
        self.patience = patience or Patience()
        scheme = urlsplit(self.address).scheme
        self.remote = scheme in ("http", "https")
        if "://" in self.address and not self.remote:
            raise DataError(
                f"mirror {address}: scheme {scheme!r} is not known. Give a directory, or http:// or https://."
            )
        self.files: Mapping[str, Listed] = self._manifest()

    def fetch(self, path: str) -> Path:
        """The file ``path`` (as the manifest writes it) on this machine, with the size and SHA-256 listed.

        Raises DataError where the manifest does not list it, or where the file is missing, truncated or altered.
        """
        if path not in self.files:
            known = ", ".join(sorted(self.files)) or "nothing"
            raise DataError(f"{self.place(path)}: not listed in {self.place(MANIFEST)}, which lists {known}.")
        listed = self.files[path]
        manifest = self.place(MANIFEST)
        if not self.remote:
            local = Path(self.address) / path
            check_file(local, listed.size, listed.sha256, manifest, "Renew the file on the mirror.")
            return local
        target = self.downloads / path
        if target.exists():
            try:
                check_file(target, listed.size, listed.sha256, manifest, "")
                return target
            except DataError:
                target.unlink()
        download(self.place(quote(path)), target, listed.size, listed.sha256, self.patience)
        return target

    def shards(self, name: str, split: str) -> list[str]:
        """Paths of the zip shards of one split of a dataset, in order; empty where there are none."""
        shard = re.compile(rf"{re.escape(name)}/{re.escape(split)}-[^/]+\.zip")
        return sorted(path for path in self.files if shard.fullmatch(path))

    def datasets(self) -> list[str]:
        """Names of the datasets of which the manifest lists both a train and a test shard."""
        names = {path.split("/")[0] for path in self.files if path.count("/") == 1}
        return sorted(name for name in names if self.shards(name, "train") and self.shards(name, "test"))

    def place(self, path: str) -> str:
        """Where ``path`` lies on this mirror, for messages and requests."""
        return f"{self.address}/{path}"

    def _manifest(self) -> dict[str, Listed]:
        place = self.place(MANIFEST)
        if self.remote:
            text = read_small(place, MANIFEST_LIMIT, self.patience)
        else:
            try:
                text = Path(place).read_bytes()
            except OSError as error:
                raise DataError(
                    f"{place}: cannot be read ({error.strerror}); a mirror needs a {MANIFEST} that lists every file "
                    "with its size and SHA-256. Check LAT_DATA_MIRROR or the mirror in the run file."
                ) from error
        try:
            listed: dict[str, Any] = json.loads(text)["files"]
            return {path: _listed(place, path, entry) for path, entry in listed.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f'{place}: expected {{"files": {{path: {{"bytes": ..., "sha256": ...}}}}}}, found something else '
                f"({type(error).__name__}: {error}). Renew the manifest."
            ) from error


def _listed(place: str, path: str, entry: Any) -> Listed:
    """One entry of the manifest, refused where its path could lead out of the mirror or its figures are no figures."""
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or "\\" in path or str(pure) != path:
        raise DataError(
            f"{place}: the path {path!r} is absolute, leads upwards or is not plain. Write it as folder/file."
        )
    size, sha256 = entry["bytes"], str(entry["sha256"]).lower()
    if not isinstance(size, int) or size < 0 or not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise DataError(f"{place}: {path}: bytes {size!r} or sha256 {sha256!r} is not valid. Renew the manifest.")
    return Listed(size, sha256)
