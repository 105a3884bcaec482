"""Fetching LibriSpeech from its public mirrors (openslr.org/12 and /31): resumed, checked, unpacked whole or not.

An archive is fetched into `<name>.tar.gz.part`, which stays where a run is interrupted; the next one asks for the rest.
It is unpacked only if its MD5 is the published one.
"""

from __future__ import annotations

import hashlib
import http.client
import shutil
import tarfile
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import progress

from asr_compress.runtime.errors import InputError

MIRRORS = (
    "https://www.openslr.org/resources",
    "https://us.openslr.org/resources",
    "https://openslr.elda.org/resources",
    "https://openslr.trmal.net/resources",
)


@dataclass(frozen=True)
class Archive:
    """A split's archive: its number at openslr.org and the MD5 published there."""

    resource: int
    md5: str


ARCHIVES = {
    "dev-clean": Archive(12, "42e2234ba48799c1f50f24a7926300a1"),
    "dev-other": Archive(12, "c8d0bcc9cca99d4f8b62fcc847357931"),
    "test-clean": Archive(12, "32fa31d27d2e1cad72775fee3f4849a9"),
    "test-other": Archive(12, "fb5a50374b501bb3bac4815ee91d3135"),
    "train-clean-100": Archive(12, "2a93770f6d5c6c964bc36631d331a522"),
    "train-clean-360": Archive(12, "c0e676e450a7ff2f54aeade5171606fa"),
    "train-other-500": Archive(12, "d1a0fd59409feb2c614ce4d30c387708"),
    "dev-clean-2": Archive(31, "6d7ab67ac6a1d2c993d050e16d61080d"),
    "train-clean-5": Archive(31, "5df7d4e78065366204ca6845bb08f490"),
}

_TIMEOUT_S = 30
_ROUNDS = 3  # over all mirrors, before giving up
_CHUNK_BYTES = 1 << 20


def download_librispeech(
    folder: str | Path,
    splits: Sequence[str],
    *,
    mirrors: Sequence[str] = MIRRORS,
    archives: dict[str, Archive] | None = None,
    pause_s: float = 5.0,
) -> None:
    """Bring `<folder>/LibriSpeech/<split>` for each split; one that is there is left as it is.

    Args:
        mirrors: addresses that `/<resource>/<split>.tar.gz` is added to, tried in this order.
        archives: what can be fetched; LibriSpeech and Mini LibriSpeech by default.
        pause_s: wait between two rounds over the mirrors.

    Raises:
        InputError: an unknown split; no mirror gives the file; another checksum than published; not enough room.
    """
    archives = ARCHIVES if archives is None else archives
    for split in splits:
        if split not in archives:
            raise InputError(f"download: no split {split!r}; there are {', '.join(archives)}")
    root = Path(folder)
    for split in splits:
        if (root / "LibriSpeech" / split).is_dir():
            continue
        archive = archives[split]
        path = root / f"{split}.tar.gz"
        if not path.is_file():
            root.mkdir(parents=True, exist_ok=True)
            _fetch([f"{mirror}/{archive.resource}/{path.name}" for mirror in mirrors], path, archive.md5, pause_s)
        _unpack(path, split, root)
        path.unlink()


def _fetch(urls: list[str], path: Path, md5: str, pause_s: float) -> None:
    part = path.with_name(path.name + ".part")
    failures = {}
    for attempt in range(_ROUNDS):
        for url in urls:
            try:
                _continue(url, part)
            except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
                if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
                    raise  # the disk, not the network
                reason = error.reason if type(error) is urllib.error.URLError else error
                failures[urllib.parse.urlsplit(url).netloc] = str(reason) or type(reason).__name__
                continue
            found = _md5(part)
            if found != md5:
                part.unlink()
                raise InputError(
                    f"{url}: its MD5 is {found}, published is {md5}; the file was removed, try again or "
                    f"fetch {path} by other means"
                )
            part.replace(path)
            return
        if attempt + 1 < _ROUNDS:
            time.sleep(pause_s)
    told = "; ".join(f"{host}: {failure}" for host, failure in failures.items())
    raise InputError(f"{path.name}: no mirror gives it ({told}); what came is kept, run again to go on")


def _continue(url: str, part: Path) -> None:
    """Fetch what is missing of `part`.

    Raises:
        OSError, HTTPException: the connection failed or ended early; `part` has what came.
        InputError: not enough room on the disk.
    """
    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            return  # there is no more: complete, or else the checksum tells
        raise
    with response:
        if response.status != http.client.PARTIAL_CONTENT:
            have = 0  # a server that does not resume begins again
        missing = int(response.headers.get("Content-Length") or 0)
        # Twice: FLAC does not shrink, so unpacked it takes the same once more.
        needed, free = have + 2 * missing, shutil.disk_usage(part.parent).free
        if needed > free:
            raise InputError(f"{part.parent}: {needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free")
        with part.open("ab" if have else "wb") as file, _bar() as bar:
            task = bar.add_task(part.name.removesuffix(".part"), total=have + missing or None, completed=have)
            while chunk := response.read(_CHUNK_BYTES):
                file.write(chunk)
                bar.advance(task, len(chunk))
        came = part.stat().st_size - have
        if came < missing:
            raise http.client.IncompleteRead(b"", missing - came)


def _bar() -> progress.Progress:
    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
    )


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _unpack(path: Path, split: str, root: Path) -> None:
    """Unpack beside the place it goes to, then move it there in one step."""
    if not hasattr(tarfile, "data_filter"):
        raise InputError(f"{path}: unpacking it safely needs Python 3.11.4 or newer")
    temporary = Path(tempfile.mkdtemp(prefix=f".{split}-", dir=root))
    try:
        with (
            progress.open(path, "rb", description=f"unpacking {path.name}") as file,
            tarfile.open(fileobj=file, mode="r|gz") as archive,
        ):
            archive.extractall(temporary, filter="data")  # refuses paths and links that lead outside
        if not (temporary / "LibriSpeech" / split).is_dir():
            raise InputError(f"{path}: has no LibriSpeech/{split} in it")
        (root / "LibriSpeech").mkdir(exist_ok=True)
        (temporary / "LibriSpeech" / split).replace(root / "LibriSpeech" / split)
    except (tarfile.TarError, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise InputError(f"{path}: cannot be unpacked ({error}); remove it and download again") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
