"""A model as one file: everything needed to get the same text again, and nothing that runs code when read.

The file is safetensors (https://github.com/huggingface/safetensors). Its metadata has one entry,
"asr_compress": a JSON header with the layers, the feature configuration, the tokens and the history of the
model. Tensors are named as `network.walk` names maps; the lexicon is zlib-compressed text in a uint8 tensor.
An uncompressed model and a compressed one differ in weight formats only.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from asr_compress import __version__
from asr_compress.runtime.errors import InputError
from asr_compress.runtime.features import FeatureConfig
from asr_compress.runtime.files import atomic_write
from asr_compress.runtime.lexicon import Lexicon
from asr_compress.runtime.network import Network, output_width
from asr_compress.runtime.serialize import describe, restore
from asr_compress.runtime.tokens import Tokens

FORMAT_VERSION = 1
_METADATA_KEY = "asr_compress"
_LEXICON = "lexicon"
_LARGEST_LEXICON_BYTES = 2**28  # a compressed lexicon that claims more is an accident or an attack
_HEADER_KEYS = {
    "format_version",
    "written_by",
    "features",
    "tokens",
    "lexicon_bytes",
    "model",
    "decoding",
    "history",
    "layers",
    "crc32",
}


@dataclass(frozen=True)
class Bundle:
    """A recognizer.

    Attributes:
        network: layers from features (frames, features.bins) to logits (frames', len(tokens)).
        features: how a waveform becomes frames.
        tokens: what the logits stand for.
        lexicon: pronunciations for decoding; phones need one.
        model: JSON values: the zoo's name and configuration it was built from.
        decoding: JSON values: tuned weights of the decoder.
        history: JSON values, one dict a step: training, then each pass, its parameters and measured effect.

    Raises InputError if the network does not take the features or does not give the tokens.
    """

    network: Network
    features: FeatureConfig
    tokens: Tokens
    lexicon: Lexicon | None = None
    model: dict[str, Any] = field(default_factory=dict)
    decoding: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        outputs = output_width(self.network, self.features.bins)
        if outputs != len(self.tokens):
            raise InputError(f"the network gives {outputs} outputs for {len(self.tokens)} tokens")

    def save(self, path: str | Path) -> None:
        """Write the file, whole or not at all; the same bundle gives the same bytes.

        Raises:
            InputError: model, decoding or history hold something that is not JSON.
            OSError: the file cannot be written.
        """
        layers, tensors = describe(self.network)
        text = b"" if self.lexicon is None else self.lexicon.to_text().encode()
        if self.lexicon is not None:
            tensors[_LEXICON] = np.frombuffer(zlib.compress(text, 9), np.uint8)
        header = {
            "format_version": FORMAT_VERSION,
            "written_by": f"asr_compress {__version__}",
            "features": self.features.to_json(),
            "tokens": self.tokens.to_json(),
            "lexicon_bytes": None if self.lexicon is None else len(text),
            "model": self.model,
            "decoding": self.decoding,
            "history": self.history,
            "layers": layers,
            "crc32": _checksum(tensors),
        }
        try:
            encoded = json.dumps(header, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
        except (TypeError, ValueError) as error:
            raise InputError(f"{path}: model, decoding and history must be JSON values: {error}") from None
        try:
            with atomic_write(path) as temporary:
                # One metadata entry only: several would be written in an arbitrary order.
                save_file(tensors, temporary, metadata={_METADATA_KEY: encoded})
        except SafetensorError as error:  # its writer wraps the system's error, a full disk for instance
            raise OSError(f"{path}: not written, the file before it stays ({error})") from None

    @classmethod
    def load(cls, path: str | Path) -> Bundle:
        """Read and check a file.

        Raises InputError, naming the file and what is wrong with it: missing, not a bundle, cut short,
        damaged, written by a later version, or with contents that do not fit together.
        """
        header, tensors = _read(Path(path))
        try:
            return _assemble(header, tensors)
        except (InputError, TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
            # The header is a stranger's JSON: whatever its readers stumble over is bad input, not a crash.
            said = str(error) if isinstance(error, InputError) else f"{type(error).__name__} {error}"
            raise InputError(f"{path}: malformed bundle: {said}") from None


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    if not path.is_file():
        raise InputError(f"{path}: {'a folder' if path.is_dir() else 'no such file'}; give a .safetensors bundle")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if _METADATA_KEY not in metadata:
                raise InputError(f"{path}: safetensors, but not an asr_compress bundle: no {_METADATA_KEY!r} entry")
            header = _parse_header(path, metadata[_METADATA_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not a bundle, or cut short: {error}") from None
    if header["crc32"] != _checksum(tensors):
        raise InputError(f"{path}: damaged: the checksum of its tensors is wrong; copy or download it again")
    return header, tensors


def _parse_header(path: Path, encoded: str) -> dict[str, Any]:
    try:
        header = json.loads(encoded)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: malformed bundle: header is not JSON: {error}") from None
    version = header.get("format_version") if isinstance(header, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise InputError(
            f"{path}: bundle format {version} is newer than the {FORMAT_VERSION} that this asr_compress "
            "reads; update asr_compress"
        )
    if version != FORMAT_VERSION or isinstance(version, bool):
        raise InputError(f"{path}: malformed bundle: format_version is {version!r}; it must be {FORMAT_VERSION}")
    if set(header) != _HEADER_KEYS:
        wrong = sorted(set(header) ^ _HEADER_KEYS)
        raise InputError(f"{path}: malformed bundle: header keys missing or unknown: {', '.join(wrong)}")
    return header


def _assemble(header: dict[str, Any], tensors: dict[str, np.ndarray]) -> Bundle:
    lexicon = None
    if header["lexicon_bytes"] is not None:
        lexicon = _unpack_lexicon(tensors.pop(_LEXICON, None), header["lexicon_bytes"])
    for key, kind in (("model", dict), ("decoding", dict), ("history", list)):
        if not isinstance(header[key], kind):
            raise InputError(f"{key} must be a JSON {'object' if kind is dict else 'list'}")
    return Bundle(
        network=restore(header["layers"], tensors),
        features=FeatureConfig.from_json(header["features"]),
        tokens=Tokens.from_json(header["tokens"]),
        lexicon=lexicon,
        model=header["model"],
        decoding=header["decoding"],
        history=header["history"],
    )


def _unpack_lexicon(packed: np.ndarray | None, size_bytes: int) -> Lexicon:
    if packed is None or packed.dtype != np.uint8:
        raise InputError("the lexicon's uint8 tensor is missing")
    if not 0 <= size_bytes <= _LARGEST_LEXICON_BYTES:
        raise InputError(f"lexicon_bytes is {size_bytes}; at most {_LARGEST_LEXICON_BYTES} are allowed")
    unpacker = zlib.decompressobj()
    try:
        text = unpacker.decompress(packed.tobytes(), size_bytes + 1)
        if len(text) != size_bytes or not unpacker.eof:
            raise InputError(f"the lexicon does not unpack to the {size_bytes} bytes that the header states")
        return Lexicon.from_text(text.decode())
    except (zlib.error, UnicodeDecodeError) as error:
        raise InputError(f"the lexicon does not unpack: {error}") from None


def _checksum(tensors: dict[str, np.ndarray]) -> int:
    checksum = 0
    for name in sorted(tensors):
        checksum = zlib.crc32(name.encode(), checksum)
        checksum = zlib.crc32(np.ascontiguousarray(tensors[name]).view(np.uint8).data, checksum)
    return checksum
