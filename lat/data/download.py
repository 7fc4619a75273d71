"""Fetch one file over http(s): time-outs, bounded retries, resumption, and a digest before the name is given."""

from __future__ import annotations

import hashlib
import http.client
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tqdm import tqdm

from lat.data.arrays import DataError

BLOCK = 1 << 18
WORTH_A_RETRY = {408, 425, 429, 500, 502, 503, 504}


class Unreachable(DataError):
    """The host did not answer, or stopped answering, in every try that was allowed."""


@dataclass(frozen=True)
class Patience:
    """How long to wait for a host.

    timeout: seconds without a byte before a connection is given up.
    tries: connections in a row that may fail without one new byte.
    pause: seconds before the second try; doubled before each further one, at most a minute.
    """

    timeout: float = 30.0
    tries: int = 5
    pause: float = 1.0


class _Restart(Exception):
    """What has been kept of a file is of no use: begin at its first byte."""


def sha256_of(path: Path) -> str:
    """SHA-256 (hexadecimal) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_file(path: Path, size: int, sha256: str, said_by: str, mend: str) -> None:
    """Compare a file with the size in bytes and the SHA-256 that ``said_by`` gives for it.

    Raises DataError, ending in ``mend``, where the file is missing, has another size or another digest.
    """
    if not path.is_file():
        raise DataError(f"{path}: missing; {said_by} lists it with {size} bytes. {mend}")
    found = path.stat().st_size
    if found != size:
        state = "truncated" if found < size else "too long"
        raise DataError(f"{path}: {state}; {said_by} says {size} bytes, found {found}. {mend}")
    digest = sha256_of(path)
    if digest != sha256:
        raise DataError(f"{path}: altered; {said_by} says SHA-256 {sha256}, found {digest}. {mend}")


def read_small(url: str, limit: int, patience: Patience) -> bytes:
    """The body of a short answer (at most ``limit`` bytes), with retries.

    Raises DataError where the host refuses or the answer is longer, Unreachable where it does not answer.
    """
    failures = 0
    while True:
        try:
            with urlopen(_request(url), timeout=patience.timeout) as answer:
                body: bytes = answer.read(limit + 1)
                promised = answer.headers.get("Content-Length", "")
            if len(body) > limit:
                raise DataError(f"{url}: longer than {limit} bytes, which is no manifest. Check the address.")
            if promised.isdigit() and len(body) < int(promised):
                raise OSError(f"{promised} bytes promised, {len(body)} received")
            return body
        except (OSError, http.client.HTTPException) as error:
            _refuse(url, error)
            failures += 1
            _go_on(url, failures, error, patience)


def download(url: str, target: Path, size: int, sha256: str, patience: Patience) -> None:
    """Bring ``url`` to ``target``, which appears only when its size and SHA-256 are right.

    What has arrived is kept beside it in a ``.part`` file named after the expected digest, and a later try, or a
    later process, goes on from there. Raises DataError where the host refuses or has something else, and
    Unreachable where it fails ``patience.tries`` times in a row without one new byte.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.{sha256[:12]}.part")
    validator = part.with_suffix(".validator")
    furthest, failures, second_start = _length(part), 0, False
    hidden = not sys.stderr.isatty()
    with tqdm(total=size, desc=target.name, unit="B", unit_scale=True, disable=hidden, leave=False) as bar:
        while True:
            try:
                from_zero = _append(url, part, validator, size, patience, bar)
            except _Restart as restart:
                part.unlink(missing_ok=True)
                failures += 1
                _go_on(url, failures, restart, patience)
                continue
            except (OSError, http.client.HTTPException) as error:
                _refuse(url, error)
                failures = 1 if _length(part) > furthest else failures + 1
                furthest = max(furthest, _length(part))
                _go_on(url, failures, error, patience, f"{_length(part)} of {size} bytes are kept in {part}; ")
                continue
            digest = sha256_of(part)
            if digest == sha256:
                break
            part.unlink()
            if from_zero or second_start:
                raise DataError(
                    f"{url}: altered; the mirror's manifest says SHA-256 {sha256}, received {digest}. "
                    "Renew the file or the manifest on the mirror."
                )
            furthest, failures, second_start = 0, 0, True
    validator.unlink(missing_ok=True)
    os.replace(part, target)


def _append(url: str, part: Path, validator: Path, size: int, patience: Patience, bar: tqdm[NoReturn]) -> bool:
    """Append to ``part`` until it has ``size`` bytes; True where the answer began at byte 0.

    Raises OSError or HTTPException where the connection fails on the way, _Restart where the bytes kept cannot be
    gone on with, and DataError where the host announces or sends another size.
    """
    kept = _length(part)
    if kept >= size and part.exists():
        return False  # the digest decides
    headers = {"Range": f"bytes={kept}-"} if kept else {}
    if kept and validator.is_file():
        headers["If-Range"] = validator.read_text("utf-8")
    try:
        answer = urlopen(_request(url, headers), timeout=patience.timeout)
    except HTTPError as error:
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        error.close()
        raise _Restart(f"the host has no bytes from {kept} on") from error
    with answer:
        resumed = answer.status == http.client.PARTIAL_CONTENT
        begins, _, total = answer.headers.get("Content-Range", "").partition("/")
        if resumed and not begins.startswith(f"bytes {kept}-"):
            raise _Restart(f"asked for bytes from {kept}, received {begins or 'a range without Content-Range'}")
        _check_total(url, total if resumed else answer.headers.get("Content-Length", ""), size)
        if not resumed:
            tag = answer.headers.get("ETag", "")
            strong = tag if tag and not tag.startswith("W/") else answer.headers.get("Last-Modified", "")
            validator.unlink(missing_ok=True)
            if strong:
                validator.write_text(strong, "utf-8")
        bar.n = kept if resumed else 0
        with part.open("ab" if resumed else "wb") as file:
            while block := answer.read1(min(BLOCK, size + 1 - file.tell())):
                file.write(block)
                bar.update(len(block))
                if file.tell() > size:
                    file.truncate(0)
                    _check_total(url, str(size + 1), size)
    if _length(part) < size:
        raise OSError(f"connection closed after {_length(part)} of {size} bytes")
    return not resumed


def _check_total(url: str, announced: str, size: int) -> None:
    """Raise DataError where a host announces (or has sent) another size in bytes than the manifest says."""
    if announced.isdigit() and int(announced) != size:
        state = "truncated" if int(announced) < size else "too long"
        raise DataError(
            f"{url}: {state}; the mirror's manifest says {size} bytes, the host has {announced}. "
            "Renew the file or the manifest on the mirror."
        )


def _request(url: str, headers: dict[str, str] | None = None) -> Request:
    return Request(url, headers={"User-Agent": "lat", "Accept-Encoding": "identity", **(headers or {})})


def _refuse(url: str, error: Exception) -> None:
    """Turn an answer that no further try will change into a DataError."""
    if isinstance(error, HTTPError):
        error.close()
        if error.code not in WORTH_A_RETRY:
            raise DataError(
                f"{url}: expected the file, found {error.code} {error.reason}. Check the address of the mirror, or "
                "renew what is on it."
            ) from error


def _go_on(url: str, failures: int, reason: Exception, patience: Patience, kept: str = "") -> None:
    """Wait before the next try after ``failures`` in a row; raise Unreachable after the last that is allowed."""
    if failures >= patience.tries:
        raise Unreachable(
            f"{url}: given up after {failures} tries in a row ({reason}); {kept}"
            "run it again later, or set LAT_DATA_MIRROR to another mirror (a directory or an http(s) address)."
        ) from reason
    time.sleep(min(patience.pause * 2 ** (failures - 1), 60.0))


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
