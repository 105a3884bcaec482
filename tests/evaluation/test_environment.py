"""The record must tell the machine apart and give nothing away."""

from __future__ import annotations

import getpass
import json
import platform
from pathlib import Path

from asr_compress.evaluation import environment as module
from asr_compress.evaluation.environment import environment, machine


def test_record_is_json_and_names_no_place_or_person():
    record = environment(uses_gpu=True)
    text = json.dumps(record)
    assert record["cpu"] and record["cores"] >= 1 and record["packages"]["numpy"]
    assert str(Path.home()) + "/" not in text and str(Path(__file__).parents[2]) not in text
    assert platform.node() not in text.replace(str(record["cpu"]), "") or len(platform.node()) < 4
    assert getpass.getuser() not in {value for value in record.values() if isinstance(value, str)}
    assert record["date"].endswith("+00:00")


def test_machine_is_what_times_depend_on():
    record = {"cpu": "X", "cores": 8, "gpu": None}
    assert machine(record) == "X, 8 cores"
    assert machine({**record, "gpu": {"name": "G"}}) == "X, 8 cores, G"


def test_cpuinfo_of_x86_and_arm(tmp_path, monkeypatch):
    texts = {
        "x86": "processor\t: 0\nmodel name\t: A Processor\nflags\t\t: fpu avx2 avx512f avx512_vnni\n",
        "arm": "processor\t: 0\nFeatures\t: fp asimd asimddp\nModel\t\t: A Board\n",
    }
    found = {}
    for name, text in texts.items():
        file = tmp_path / name
        file.write_text(text)
        monkeypatch.setattr(module, "Path", lambda _, file=file: file)
        found[name] = (module.cpu_model(), module.instruction_sets())
    assert found["x86"] == ("A Processor", ["avx2", "avx512f", "avx512_vnni"])
    assert found["arm"] == ("A Board", ["asimd", "asimddp"])
