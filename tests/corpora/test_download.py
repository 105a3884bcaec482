"""Downloads from a server on this machine that can be as unreliable as any."""

from __future__ import annotations

import hashlib
import http.server
import io
import re
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr_compress.corpora.download import Archive, download_librispeech
from asr_compress.corpora.registry import read_corpus
from asr_compress.runtime.errors import InputError


def archive_of(files: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def archive() -> bytes:
    audio = io.BytesIO()
    soundfile.write(audio, np.random.default_rng(0).normal(0, 0.1, 16000), 16000, format="FLAC")
    chapter = "LibriSpeech/dev-clean-2/7/8/7-8"
    return archive_of(
        {
            "LibriSpeech/README.TXT": b"about",
            f"{chapter}-0000.flac": audio.getvalue(),
            f"{chapter}.trans.txt": b"7-8-0000 A SMALL CHAPTER\n",
        }
    )


class Mirror(http.server.ThreadingHTTPServer):
    """Serves one file; `break_after` bytes it drops the connection, as often as `breaks` says."""

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content = content
        self.resumes = True
        self.breaks = 0
        self.break_after = len(content) // 2
        self.requests: list[tuple[str, str | None]] = []
        self.url = f"http://127.0.0.1:{self.server_port}/resources"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Mirror

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.requests.append((self.path, asked))
        content = self.server.content
        if not self.path.endswith("/31/dev-clean-2.tar.gz"):
            self.send_error(404)
            return
        begin = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and self.server.resumes else 0
        if begin and begin >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(content) - begin))
        self.end_headers()
        if self.server.breaks:
            self.server.breaks -= 1
            self.wfile.write(content[begin : begin + self.server.break_after])
            self.close_connection = True
            return
        self.wfile.write(content[begin:])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def mirror(archive: bytes) -> Iterator[Mirror]:
    server = Mirror(archive)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def fetch(folder: Path, archive: bytes, *mirrors: str, split: str = "dev-clean-2") -> None:
    archives = {"dev-clean-2": Archive(31, hashlib.md5(archive).hexdigest()), "absent": Archive(31, "0")}
    download_librispeech(folder, [split], mirrors=mirrors, archives=archives, pause_s=0)


def left_over(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_split_comes_and_can_be_read(tmp_path: Path, mirror: Mirror, archive: bytes) -> None:
    fetch(tmp_path, archive, mirror.url)
    cuts = read_corpus("librispeech", tmp_path, splits=["dev-clean-2"])["dev-clean-2"]
    assert [(cut.id, cut.supervisions[0].text, cut.duration) for cut in cuts] == [("7-8-0000", "A SMALL CHAPTER", 1.0)]
    assert left_over(tmp_path) == {"LibriSpeech"}
    assert mirror.requests == [("/resources/31/dev-clean-2.tar.gz", None)]
    fetch(tmp_path, archive, mirror.url)
    assert len(mirror.requests) == 1  # it is there


def test_a_broken_connection_is_resumed(tmp_path: Path, mirror: Mirror, archive: bytes) -> None:
    mirror.breaks = 1
    fetch(tmp_path, archive, mirror.url)
    assert [asked for _, asked in mirror.requests] == [None, f"bytes={mirror.break_after}-"]
    assert left_over(tmp_path) == {"LibriSpeech"}


def test_a_later_run_goes_on_where_one_gave_up(tmp_path: Path, mirror: Mirror, archive: bytes) -> None:
    mirror.breaks, mirror.break_after = 3, 100
    with pytest.raises(InputError, match="run again"):
        fetch(tmp_path, archive, mirror.url)
    assert (tmp_path / "dev-clean-2.tar.gz.part").read_bytes() == archive[:300]
    fetch(tmp_path, archive, mirror.url)
    assert mirror.requests[-1][1] == "bytes=300-"
    assert left_over(tmp_path) == {"LibriSpeech"}


def test_a_server_that_does_not_resume_begins_again(tmp_path: Path, mirror: Mirror, archive: bytes) -> None:
    mirror.breaks, mirror.resumes = 1, False
    fetch(tmp_path, archive, mirror.url)
    assert left_over(tmp_path) == {"LibriSpeech"}


def test_all_there_but_not_yet_checked(tmp_path: Path, mirror: Mirror, archive: bytes) -> None:
    (tmp_path / "dev-clean-2.tar.gz.part").write_bytes(archive)
    fetch(tmp_path, archive, mirror.url)
    assert left_over(tmp_path) == {"LibriSpeech"}


def test_another_mirror_is_tried(tmp_path: Path, mirror: Mirror, archive: bytes) -> None:
    fetch(tmp_path, archive, "http://127.0.0.1:9/resources", f"{mirror.url}/elsewhere/../404", mirror.url)
    assert left_over(tmp_path) == {"LibriSpeech"}


def test_no_mirror_names_them_all(tmp_path: Path, mirror: Mirror, archive: bytes) -> None:
    with pytest.raises(InputError, match=r"absent\.tar\.gz.*127\.0\.0\.1:9.*refused.*404"):
        fetch(tmp_path, archive, "http://127.0.0.1:9/resources", mirror.url, split="absent")


def test_a_wrong_checksum_is_refused_and_nothing_is_unpacked(tmp_path: Path, mirror: Mirror, archive: bytes) -> None:
    mirror.content = archive[:-1] + b"x"
    with pytest.raises(InputError, match=f"MD5 is {hashlib.md5(mirror.content).hexdigest()}"):
        fetch(tmp_path, archive, mirror.url)
    assert left_over(tmp_path) == set()


@pytest.mark.parametrize(
    ("files", "links", "message"),
    [
        ({"LibriSpeech/dev-clean-2/x": b"", "../outside": b"bad"}, {}, "outside"),
        ({"LibriSpeech/dev-clean-2/x": b""}, {"LibriSpeech/dev-clean-2/l": "/etc/passwd"}, "cannot be unpacked"),
        ({"LibriSpeech/test-clean/x": b""}, {}, "no LibriSpeech/dev-clean-2"),
    ],
)
def test_archives_that_are_not_what_they_should_be(
    tmp_path: Path, mirror: Mirror, files: dict, links: dict, message: str
) -> None:
    mirror.content = archive_of(files, links)
    folder = tmp_path / "in"
    with pytest.raises(InputError, match=message):
        fetch(folder, mirror.content, mirror.url)
    assert left_over(tmp_path) == {"in"}
    assert left_over(folder) == {"dev-clean-2.tar.gz"}


def test_not_an_archive(tmp_path: Path, mirror: Mirror) -> None:
    mirror.content = b"<html>moved</html>" * 9
    with pytest.raises(InputError, match="cannot be unpacked"):
        fetch(tmp_path, mirror.content, mirror.url)


def test_no_room_is_said_before_it_begins(
    tmp_path: Path, mirror: Mirror, archive: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    from asr_compress.corpora import download

    usage = download.shutil.disk_usage(tmp_path)._replace(free=len(archive))
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(InputError, match="GB are free"):
        fetch(tmp_path, archive, mirror.url)


def test_wrong_names(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'train-clean-7'.*train-clean-100"):
        download_librispeech(tmp_path, ["train-clean-7"])
    with pytest.raises(InputError, match="name the splits"):
        read_corpus("librispeech", tmp_path, download=True)
