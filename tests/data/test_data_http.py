"""Mirrors over http: a server that truncates, stalls, ignores ranges, changes its mind, or goes away and comes back."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from small_mirror import small_mirror

from lat import data
from lat.data.download import download, read_small

IMPATIENT = data.Patience(timeout=0.3, tries=3, pause=0.01)
CONTENT = np.random.default_rng(0).integers(0, 256, 300_000, dtype=np.uint8).tobytes()


class Host:
    """What the server holds, how it misbehaves, and what it was asked for.

    cut: for each answer in turn, after how many bytes of the body the connection closes (None: never).
    stall: as cut, but the connection stays open and silent. status: for each answer in turn, a status to fail with.
    """

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.cut: list[int | None] = []
        self.stall: list[int | None] = []
        self.status: list[int | None] = []
        self.ranges = True
        self.wrong_range = False
        self.etag: str | None = '"one"'
        self.length = True
        self.asked: list[dict[str, str]] = []
        self.released = threading.Event()
        self.address = ""

    def start(self, port: int = 0) -> ThreadingHTTPServer:
        host = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                host.asked.append({"path": self.path, **{key.lower(): value for key, value in self.headers.items()}})
                with contextlib.suppress(ConnectionError):
                    host.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        self.address = f"http://127.0.0.1:{server.server_port}"
        return server

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        status = self.status.pop(0) if self.status else None
        body = self.files.get(handler.path.lstrip("/"))
        if status or body is None:
            handler.send_error(status or 404)
            return
        begin, wanted = 0, handler.headers.get("Range")
        if wanted and self.ranges and handler.headers.get("If-Range", self.etag) == self.etag:
            begin = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if begin >= len(body):
                handler.send_error(416)
                return
            handler.send_response(206)
            said = begin + 1 if self.wrong_range else begin
            handler.send_header("Content-Range", f"bytes {said}-{len(body) - 1}/{len(body)}")
        else:
            handler.send_response(200)
        if self.length:
            handler.send_header("Content-Length", str(len(body) - begin))
        if self.etag:
            handler.send_header("ETag", self.etag)
        handler.end_headers()
        cut = self.cut.pop(0) if self.cut else None
        stall = self.stall.pop(0) if self.stall else None
        stop = next((place for place in (cut, stall) if place is not None), len(body))
        handler.wfile.write(body[begin : begin + stop])
        handler.wfile.flush()
        if stall is not None:
            self.released.wait(5)
        handler.close_connection = True


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host({"big.bin": CONTENT})
    server = host.start()
    yield host
    host.released.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def get(host: Host, tmp_path: Path) -> Callable[[], Path]:
    """Download the file of the server to ``tmp_path / big.bin``."""
    target = tmp_path / "big.bin"

    def get_it() -> Path:
        sha256 = hashlib.sha256(CONTENT).hexdigest()
        download(f"{host.address}/big.bin", target, len(CONTENT), sha256, IMPATIENT)
        return target

    return get_it


def _ranges(host: Host) -> list[str]:
    return [asked.get("range", "") for asked in host.asked]


def test_a_file_arrives_whole_and_alone(host: Host, get: Callable[[], Path], tmp_path: Path) -> None:
    assert get().read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["big.bin"]
    assert _ranges(host) == [""]


@pytest.mark.parametrize("length", [True, False])
def test_a_cut_connection_is_resumed_where_it_broke(host: Host, get: Callable[[], Path], length: bool) -> None:
    host.cut, host.length = [100_000, 50_000], length
    assert get().read_bytes() == CONTENT
    assert _ranges(host) == ["", "bytes=100000-", "bytes=150000-"]
    assert host.asked[1]["if-range"] == '"one"'


def test_a_stalled_connection_is_given_up_and_resumed(host: Host, get: Callable[[], Path]) -> None:
    host.stall = [70_000]
    begun = time.monotonic()
    assert get().read_bytes() == CONTENT
    assert 0.3 <= time.monotonic() - begun < 4
    assert _ranges(host) == ["", "bytes=70000-"]


def test_more_cuts_than_tries_are_survived_while_bytes_arrive(host: Host, get: Callable[[], Path]) -> None:
    host.cut = [20_000] * 10
    assert get().read_bytes() == CONTENT
    assert len(host.asked) == 11


def test_a_server_that_ignores_ranges_is_read_from_the_start(host: Host, get: Callable[[], Path]) -> None:
    host.cut, host.ranges = [100_000], False
    assert get().read_bytes() == CONTENT
    assert _ranges(host) == ["", "bytes=100000-"]


def test_a_server_that_answers_another_range_is_read_from_the_start(host: Host, get: Callable[[], Path]) -> None:
    host.cut, host.wrong_range = [100_000], True
    assert get().read_bytes() == CONTENT
    assert _ranges(host) == ["", "bytes=100000-", ""]


def test_a_file_that_changed_in_between_is_not_patched_together(host: Host, get: Callable[[], Path]) -> None:
    host.files["big.bin"], host.cut = bytes(len(CONTENT)), [100_000, 0, 0]
    with pytest.raises(data.Unreachable, match="100000 of 300000"):
        get()
    host.files["big.bin"], host.etag = CONTENT, '"two"'
    host.asked.clear()
    assert get().read_bytes() == CONTENT
    assert [(asked["range"], asked["if-range"]) for asked in host.asked] == [("bytes=100000-", '"one"')]


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_without_a_strong_validator_a_wrong_start_is_found_by_the_digest(
    host: Host, get: Callable[[], Path], tmp_path: Path, etag: str | None
) -> None:
    host.etag, host.cut = etag, [100_000, 0, 0, 0]
    with pytest.raises(data.Unreachable):
        get()
    (part,) = tmp_path.glob("*.part")
    part.write_bytes(bytes(100_000))
    host.cut = []
    assert get().read_bytes() == CONTENT
    assert _ranges(host)[-2:] == ["bytes=100000-", ""]
    assert "if-range" not in host.asked[-2]


def test_a_restart_of_server_and_process_goes_on_from_the_bytes_kept(tmp_path: Path) -> None:
    host = Host({"big.bin": CONTENT})
    server = host.start()
    host.cut = [180_000, 0, 0, 0]
    place = (tmp_path / "big.bin", len(CONTENT), hashlib.sha256(CONTENT).hexdigest(), IMPATIENT)
    with pytest.raises(data.Unreachable, match=r"given up after 3 tries.*180000 of 300000 bytes are kept"):
        download(f"{host.address}/big.bin", *place)
    server.shutdown()
    server.server_close()
    with pytest.raises(data.Unreachable, match="180000 of 300000"):
        download(f"{host.address}/big.bin", *place)
    assert not (tmp_path / "big.bin").exists()
    host.cut, host.asked = [], []
    server = host.start(server.server_port)
    try:
        download(f"{host.address}/big.bin", *place)
    finally:
        server.shutdown()
        server.server_close()
    assert (tmp_path / "big.bin").read_bytes() == CONTENT
    assert _ranges(host) == ["bytes=180000-"]


def test_passing_trouble_is_waited_out_and_lasting_trouble_is_not(host: Host, get: Callable[[], Path]) -> None:
    host.status = [503, 429]
    assert get().read_bytes() == CONTENT
    host.files.clear()
    host.asked.clear()
    with pytest.raises(data.DataError, match=r"big.bin: expected the file, found 404.*address of the mirror"):
        get()
    assert len(host.asked) == 1
    host.status = [500] * 5
    with pytest.raises(data.Unreachable, match="given up after 3 tries"):
        get()


@pytest.mark.parametrize(
    ("served", "length", "said"),
    [
        (CONTENT[:-1], True, "truncated; .* says 300000 bytes, the host has 299999"),
        (CONTENT + b"x", True, "too long; .* says 300000 bytes, the host has 300001"),
        (CONTENT + b"x" * 9999, False, "too long; "),
        (CONTENT[:-1], False, "given up after 3 tries"),
        (CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]), True, "altered; .* says SHA-256 [0-9a-f]{64}, received [0-9a-f]{64}"),
    ],
)
def test_a_file_other_than_the_listed_one_is_refused(
    host: Host, get: Callable[[], Path], tmp_path: Path, served: bytes, length: bool, said: str
) -> None:
    host.files["big.bin"], host.length = served, length
    with pytest.raises(data.DataError, match=said):
        get()
    assert not (tmp_path / "big.bin").exists()
    host.files["big.bin"] = CONTENT
    assert get().read_bytes() == CONTENT


def test_an_empty_file_can_be_downloaded(host: Host, tmp_path: Path) -> None:
    host.files["empty"] = b""
    download(f"{host.address}/empty", tmp_path / "empty", 0, hashlib.sha256(b"").hexdigest(), IMPATIENT)
    assert (tmp_path / "empty").read_bytes() == b""


def test_a_bar_is_drawn_on_a_terminal_alone(
    get: Callable[[], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    get().unlink()
    assert capsys.readouterr().err == ""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    get()
    assert "big.bin" in terminal.getvalue() and "300k" in terminal.getvalue()


def test_a_manifest_is_retried_and_limited(host: Host) -> None:
    host.files["manifest.json"], host.cut = b"0123456789", [4]
    assert read_small(f"{host.address}/manifest.json", 10, IMPATIENT) == b"0123456789"
    assert len(host.asked) == 2
    with pytest.raises(data.DataError, match="longer than 9 bytes"):
        read_small(f"{host.address}/manifest.json", 9, IMPATIENT)


def test_a_manifest_that_stalls_is_given_up_and_asked_for_again(host: Host) -> None:
    host.files["manifest.json"], host.stall = b"0123456789", [4]
    begun = time.monotonic()
    assert read_small(f"{host.address}/manifest.json", 10, IMPATIENT) == b"0123456789"
    assert 0.3 <= time.monotonic() - begun < 4


@pytest.fixture
def served(host: Host, tmp_path: Path) -> Path:
    """The directory of a small mirror that the host serves."""
    place = small_mirror(tmp_path / "mirror")
    host.files |= {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}
    return place


def test_a_dataset_over_http_equals_the_one_from_the_directory(host: Host, served: Path, tmp_path: Path) -> None:
    host.cut = [None, 100, 200]
    data.prepare("mine", tmp_path / "far", host.address + "/", IMPATIENT)
    data.prepare("mine", tmp_path / "near", str(served))
    for part in data.PARTS:
        assert data.load("mine", part, tmp_path / "far").digest == data.load("mine", part, tmp_path / "near").digest
    assert sorted(path.name for path in (tmp_path / "far").iterdir()) == [".mine.lock", "mine"]


def test_a_failed_preparation_keeps_what_arrived_and_the_next_one_fetches_only_the_rest(
    host: Host, served: Path, tmp_path: Path
) -> None:
    whole = host.files.pop("mine/test-000.zip")
    with pytest.raises(data.DataError, match=r"mine/test-000.zip: expected the file, found 404"):
        data.prepare("mine", tmp_path / "data", host.address, IMPATIENT)
    assert not (tmp_path / "data" / "mine").exists()
    host.files["mine/test-000.zip"] = whole
    host.asked.clear()
    data.prepare("mine", tmp_path / "data", host.address, IMPATIENT)
    assert [asked["path"] for asked in host.asked] == ["/manifest.json", "/mine/test-000.zip"]


def test_a_download_kept_from_before_is_checked_again(host: Host, served: Path, tmp_path: Path) -> None:
    kept = tmp_path / "data" / ".mine.downloads" / "mine" / "train-000.zip"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"spoilt")
    data.prepare("mine", tmp_path / "data", host.address, IMPATIENT)
    assert len(data.load("mine", "train", tmp_path / "data")) == 30


def test_a_prepared_dataset_does_not_need_its_host(host: Host, served: Path, tmp_path: Path) -> None:
    data.prepare("mine", tmp_path / "data", host.address, IMPATIENT)
    host.asked.clear()
    data.prepare("mine", tmp_path / "data", host.address, IMPATIENT)
    assert [asked["path"] for asked in host.asked] == ["/manifest.json"]
    host.status = [503] * 9
    data.prepare("mine", tmp_path / "data", host.address, IMPATIENT)
    with pytest.raises(data.Unreachable, match=r"manifest.json: given up after 3 tries"):
        data.prepare("mine", tmp_path / "elsewhere", host.address, IMPATIENT)


def test_mnist_over_http_from_the_real_files(host: Host, mirror: Path, data_root: Path, tmp_path: Path) -> None:
    for path in ["manifest.json", *json.loads((mirror / "manifest.json").read_text())["files"]]:
        if path.startswith(("MNIST", "manifest")):
            host.files[path] = (mirror / path).read_bytes()
    host.cut = [None, 1_000_000]
    data.prepare("mnist", tmp_path, host.address, data.Patience(timeout=10, tries=3, pause=0.01))
    assert data.load("mnist", "test", tmp_path).digest == data.load("mnist", "test", data_root).digest
