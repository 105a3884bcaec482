"""Long use: a stream that goes on and on, and many short utterances, must not make memory grow."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from asr_compress.runtime.engine import Engine
from asr_compress.runtime.extension import instruction_sets
from asr_compress.runtime.formats import Int8
from tests.runtime.networks import Maker, backward_networks, streaming_networks

pytestmark = [
    pytest.mark.skipif(not instruction_sets(), reason="the native engine was not built here"),
    pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc"),
]
GROWTH_BYTES = 4 * 2**20  # allocators round; an hour of frames leaked would be many times this


def resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("name", ["stacked", "tdnn"])
def test_an_hour_of_one_stream_in_flat_memory(name):
    stream = Engine(streaming_networks(Int8.encode)[name], "native").stream()
    chunk = Maker(1).frames(600, 6)
    pushes = 3600 * 100 // len(chunk)  # frames of 10 ms
    for _ in range(50):
        stream.push(chunk)
    before = resident_bytes()
    for _ in range(pushes):
        stream.push(chunk)
    assert resident_bytes() - before < GROWTH_BYTES
    assert np.isfinite(stream.finish()).all()


def test_engines_and_utterances_leave_nothing_behind():
    network = backward_networks(Int8.encode)["mixed"]
    batch = [Maker(length).frames(length, 6) for length in (3, 50, 20)]
    for _ in range(20):
        Engine(network, "native", 2).run_batch(batch)
    before = resident_bytes()
    for _ in range(300):
        Engine(network, "native", 2).run_batch(batch)
    assert resident_bytes() - before < GROWTH_BYTES


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere weights lie in the allocator's memory")
def test_weights_are_the_systems_again_while_later_ones_stay():
    """Weights in pages that the allocator hands on run slower, so each engine's come from the system and go back."""
    network = (Maker(2, Int8.encode).linear(1024, 8192),)
    Engine((Maker(2, Int8.encode).linear(1024, 12288),), "native")  # from now on an allocator would keep as much
    before = resident_bytes()
    engines = [Engine(network, "native") for _ in range(5)]
    assert resident_bytes() - before > 5 * 8 * 2**20
    last = engines.pop()
    engines.clear()
    assert resident_bytes() - before < 8 * 2**20 + GROWTH_BYTES
    assert np.isfinite(last.run(Maker(3).frames(2, 1024))).all()
