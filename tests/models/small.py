"""Zoo models small enough for tests: sizes that no tile divides."""

from __future__ import annotations

import warnings

import numpy as np
import torch

from asr_compress.models.acoustic import AcousticModel
from asr_compress.models.zoo import Size, blstm, ds2, lstm, tdnn_lstm
from asr_compress.runtime.engine import Engine
from asr_compress.runtime.network import Network

warnings.filterwarnings("ignore", message="LSTM with projections is not supported with oneDNN")

TOKENS, BINS = 12, 8
LENGTHS = torch.tensor([13, 7])
BUILDERS = {
    "lstm": (lstm, Size(2, 18, dropout=0.0)),
    "blstm": (blstm, Size(2, 21, dropout=0.0)),
    "ds2": (ds2, Size(1, 18, dropout=0.0)),
    "tdnn-lstm": (tdnn_lstm, Size(1, 18, dropout=0.0)),
    "lstmp": (lstm, Size(2, 20, projection=10, dropout=0.0)),
}


def small(name: str = "blstm", seed: int = 3) -> AcousticModel:
    torch.manual_seed(seed)
    builder, size = BUILDERS[name]
    return builder(size, TOKENS, BINS).eval()


def frames() -> torch.Tensor:
    return torch.randn(2, 13, BINS, generator=torch.Generator().manual_seed(1))


def logits(model: AcousticModel) -> list[np.ndarray]:
    """What torch gives for each utterance of a padded batch, `(frames', tokens)`."""
    with torch.no_grad():
        y, lengths = model(frames(), LENGTHS)
    return [y[row, :length].numpy() for row, length in enumerate(lengths.tolist())]


def engine_logits(network: Network, backend: str = "reference") -> list[np.ndarray]:
    """What the engine gives for the same utterances."""
    x = frames().numpy()
    batch = [x[row, :length] for row, length in enumerate(LENGTHS.tolist())]
    return Engine(network, backend=backend).run_batch(batch)


def assert_close(ours: list[np.ndarray], theirs: list[np.ndarray], atol: float) -> None:
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=atol)
