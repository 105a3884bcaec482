"""What is studied: for each family of passes the variants, and which of them are compared with each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from asr_compress.compression.base import Context
from asr_compress.compression.order_table import order_table
from asr_compress.compression.registry import make_pass
from asr_compress.compression.study import Study, Trial
from asr_compress.evaluation.summary import NA, Row
from asr_compress.evaluation.table import bytes_text, markdown_table
from asr_compress.models.convert import from_network, to_network
from asr_compress.models.maps import maps_of
from asr_compress.runtime.bundle import Bundle
from asr_compress.runtime.network import walk

STUDENT = "ds2-tiny"
STUDENT_EPOCHS = 3  # a fresh student trains this many times as long as a compressed model
TAUGHT_EPOCHS = 2  # and one that is factorized and taught by what it was
TRAIN: dict[str, Any] = {"training": {}}  # a stage with the study's budget
CONTROL = "fp32, trained as long"
RANKED = tuple(f"{share} % by effect, trained" for share in (10, 20, 30))
GROUPED = "30 % by group lasso"
ORDERED: dict[str, dict[str, Any]] = {  # passes whose orders are tabulated
    "structured_pruning": {"sparsity": 0.25},
    "gate_pruning": {"share": 0.2},
    "low_rank": {"ratio": 2.0},
    "pruning": {"sparsity": 0.75},
    "block_pruning": {"sparsity": 0.75},
    "quantization": {},
}


@dataclass(frozen=True)
class Base:
    """The recognizer that is compressed, and how long what trains does."""

    bundle: Bundle
    epochs: int


def quantization(base: Base) -> Study:
    def row(name: str, listens: bool = False, **params: Any) -> Trial:
        return Trial(name, [{"passes": [{"quantization": params}]}], listens=listens)

    def aware(name: str, **params: Any) -> Trial:
        return Trial(name, [{"passes": [{"quantization": params}], **TRAIN}])

    maps = maps_of(from_network(base.bundle.network))
    layers = sorted({item.name.split(".")[1] for item in maps if item.gates == 4}, key=int)
    trials = [
        Trial("int8, dynamic", [{"passes": ["dynamic_int8"]}]),
        *(
            row(f"int8, static, {method}", listens=True, activations="static", calibration=method)
            for method in ("minmax", "percentile", "mse")
        ),
        row("float16", numbers="float16"),
        row("int4, first and last layer int8", numbers="int4"),
        row("int4 everywhere", numbers="int4", edges="same"),
        row("codebook of 16, edges int8", numbers="codebook"),
        row("ternary, edges int8", numbers="ternary"),
        row("int4 recurrent, int8 the rest", maps={"recurrent": "int4"}),
        row("int4 input, int8 the rest", maps={"input": "int4"}),
    ]
    if any(item.kind == "conv" for item in maps):
        trials.append(row("int4 convolutions, int8 the rest", maps={"conv": "int4"}, edges="same"))
    for position, index in enumerate(layers, start=1):
        trials.append(
            row(f"int4 LSTM layer {position}, int8 the rest", maps={f"layers.{index}.*": "int4"}, edges="same")
        )
    trials += [
        Trial(CONTROL, [TRAIN]),
        aware("int4 everywhere, in training", numbers="int4", edges="same"),
        aware("int4 everywhere, learned steps", numbers="int4", edges="same", steps="learned"),
        aware("ternary, edges int8, in training", numbers="ternary"),
    ]
    return Study(
        "Quantization",
        "How few bits do weights need, without training and with weights quantized in training? Activations are int8, "
        "scaled by each frame or by calibration on training speech (static); int4 has a scale for each group of "
        "weights, which follows them or is learned.",
        tuple(trials),
        pairs=(
            ("int8, static, mse", "int8, dynamic"),
            ("int4, first and last layer int8", "int8, dynamic"),
            ("int4 recurrent, int8 the rest", "int4 input, int8 the rest"),
            ("int4 everywhere, in training", CONTROL),
            ("int4 everywhere, in training", "int4 everywhere"),
            ("int4 everywhere, learned steps", "int4 everywhere, in training"),
            ("ternary, edges int8, in training", CONTROL),
        ),
        margin=0.01,
    )


def low_rank(base: Base) -> Study:
    shapes: dict[str, dict[str, Any]] = {
        f"SVD, energy {energy:g}": {"low_rank": {"energy": energy}} for energy in (0.99, 0.95, 0.9, 0.8)
    }
    shapes |= {
        "SVD, maps / 2": {"low_rank": {"ratio": 2.0}},
        "SVD, maps / 3.8": {"low_rank": {"ratio": 3.8}},
        "SVD by gate, maps / 3.8": {"low_rank": {"ratio": 3.8, "per_gate": True}},
        "SVD of outputs, maps / 2": {"low_rank": {"ratio": 2.0, "closest": "outputs"}},
        "SVD of outputs, maps / 3": {"low_rank": {"ratio": 3.0, "closest": "outputs"}},
        "SVD of outputs, maps / 3.8": {"low_rank": {"ratio": 3.8, "closest": "outputs"}},
        "joint SVD, maps / 2": {"joint_low_rank": {"ratio": 2.0}},
        "joint SVD, maps / 3.8": {"joint_low_rank": {"ratio": 3.8}},
    }
    tuned = ("SVD, maps / 3.8", *(f"SVD of outputs, maps / {times}" for times in ("3.8", "3", "2")))
    # Where an energy wants no smaller factors, the map stays whole and the row says so by its size.
    trials = [
        Trial(name, [{"passes": [step]}], listens="outputs" in name, strict=False) for name, step in shapes.items()
    ]
    trials.append(Trial(CONTROL, [TRAIN]))
    trials += [Trial(f"{name}, trained", [{"passes": [shapes[name]], **TRAIN}], strict=False) for name in tuned]
    pairs = [("SVD of outputs, maps / 3.8", "SVD, maps / 3.8"), ("SVD of outputs, maps / 2", "SVD, maps / 2")]
    pairs += [(f"{name}, trained", CONTROL) for name in tuned]
    pairs.append(("SVD of outputs, maps / 3.8, trained", "SVD, maps / 3.8, trained"))
    return Study(
        "Low rank",
        "How far can the maps of the LSTMs be factorized, before and after training goes on with the factors? The aim "
        "is a file three times smaller within 3 % relative.",
        tuple(trials),
        pairs=tuple(pairs),
        margin=0.03,
        notes=(
            "'maps / 3.8' asks for so many times fewer weights of each map. SVD of outputs finds the factors whose "
            "outputs on training speech are closest, where plain SVD finds those that are closest themselves. Joint "
            "SVD makes an LSTM with projection; where a layer norm reads the outputs, they are brought back to their "
            "width first, so it shrinks less.",
        ),
    )


def low_rank_taught(base: Base) -> Study:
    step = {"low_rank": {"ratio": 3.72, "closest": "outputs", "scope": "global"}}
    teacher = {"distillation": {"blank_weight": 1.0}}
    training = {
        "epochs": TAUGHT_EPOCHS * base.epochs,
        "batch_s": 60,
        "dropout": 0.0,
        "optimizer": {"lr": 1.5e-3},
        "schedule": {"warmup_steps": 50},
        "augment": {"speeds": [1.0], "frequency_masks": 0, "time_masks": 0, "after_epochs": 0},
    }
    name = "SVD of outputs, one budget, maps / 3.72"
    return Study(
        "Low rank, taught",
        "Does a file three times smaller stay within 3 % relative if the recognizer in fp32 teaches what is left?",
        (
            Trial(name, [{"passes": [step]}], listens=True),
            Trial(f"{name}, taught", [{"passes": [step, teacher], "training": training}]),
            Trial(f"{CONTROL} and taught", [{"passes": [teacher], "training": training}]),
        ),
        pairs=((f"{name}, taught", f"{CONTROL} and taught"), (f"{name}, taught", name)),
        margin=0.03,
        notes=(
            "One budget: ranks differ between maps, and go where they lessen the error of the outputs most. Training, "
            "also that of the control, is CTC and the KL divergence from the recognizer in fp32 at every frame, "
            "without masks, dropout or perturbed voices. All this was chosen on dev speakers.",
        ),
    )


def pruning(base: Base) -> Study:
    units, blocks_bytes, units_bytes = units_of_same_bytes(base.bundle)
    dense = f"dense, {units} units"

    def blocks(share: float, scope: str = "strip") -> dict[str, Any]:
        return {"block_pruning": {"sparsity": share, "scope": scope}}

    def weights(share: float, scope: str = "map") -> dict[str, Any]:
        return {"pruning": {"sparsity": share, "scope": scope}}

    trials = [Trial(f"{100 * share:.0f} % of weights", [{"passes": [weights(share)]}]) for share in (0.5, 0.75, 0.9)]
    trials += [Trial(f"{100 * share:.0f} % of blocks", [{"passes": [blocks(share)]}]) for share in (0.5, 0.75, 0.9)]
    trained = {
        "90 % of weights, by map, trained": weights(0.9),
        "90 % of weights, global, trained": weights(0.9, "global"),
        "90 % of blocks, by strip, trained": blocks(0.9),
        "90 % of blocks, by map, trained": blocks(0.9, "map"),
        "90 % of blocks, global, trained": blocks(0.9, "global"),
        f"{dense}, trained": {"structured_pruning": {"keep": units, "multiple": 4, "schedule": "cubic"}},
    }
    trials += [Trial(CONTROL, [TRAIN])]
    trials += [Trial(name, [{"passes": [step], **TRAIN}]) for name, step in trained.items()]
    kept = "90 % of blocks, by strip, trained"
    return Study(
        "Pruning",
        "What do 90 % of 16 x 4 blocks cost beside 90 % of single weights, and beside a dense model of the same bytes? "
        "Untrained rows are pruned at once; in training, sparsity grows by the cubic schedule over the first half.",
        tuple(trials),
        pairs=(
            *((name, CONTROL) for name in trained),
            (kept, "90 % of weights, by map, trained"),
            (kept, f"{dense}, trained"),
            ("90 % of weights, global, trained", "90 % of weights, by map, trained"),
            ("90 % of blocks, by map, trained", kept),
            ("90 % of blocks, global, trained", kept),
        ),
        notes=(
            f"The dense model keeps {units} units of each direction: {bytes_text(units_bytes)} of maps, where 90 % "
            f"blocks leave {bytes_text(blocks_bytes)}, indices counted. Single weights are stored with a bitmap or "
            "CSR, indices counted.",
        ),
    )


def structured(base: Base) -> Study:
    def units(share: float, schedule: str = "one_shot") -> dict[str, Any]:
        return {"structured_pruning": {"sparsity": share, "multiple": 4, "schedule": schedule}}

    layer = {"layer_removal": {"count": 1}}
    trained = {
        "25 % of units, trained": units(0.25, "cubic"),
        "50 % of units, trained": units(0.5, "cubic"),
        "one LSTM layer less, trained": layer,
    }
    return Study(
        "Whole units and layers",
        "What do hidden units cost, and whole LSTM layers? What is left is an ordinary, smaller model, faster in every "
        "engine (benchmarks/results/structured.md). Units go with everything that is tied to them; of the layers goes "
        "the one that dev speech misses least.",
        (
            *(Trial(f"{100 * share:.0f} % of units", [{"passes": [units(share)]}]) for share in (0.05, 0.1, 0.25, 0.5)),
            Trial("one LSTM layer less", [{"passes": [layer]}], listens=True),
            Trial(CONTROL, [TRAIN]),
            *(Trial(name, [{"passes": [step], **TRAIN}], listens=step is layer) for name, step in trained.items()),
        ),
        pairs=tuple((name, CONTROL) for name in trained),
    )


def repair(base: Base) -> Study:
    harms: dict[str, tuple[str | dict[str, Any], ...]] = {
        "fp32": (),
        "int8": ("dynamic_int8",),
        "75 % of weights": ({"pruning": {"sparsity": 0.75}},),
        "50 % of blocks": ({"block_pruning": {"sparsity": 0.5}},),
        "20 % of gates": ({"gate_pruning": {"criterion": "effect", "share": 0.2}},),
        "90 % of weights": ({"pruning": {"sparsity": 0.9}},),
    }
    trials, pairs = [], []
    for name, passes in harms.items():
        listens = "gates" in name
        mended = f"{name}, blank bias"
        if passes:
            trials.append(Trial(name, [{"passes": list(passes)}], listens=listens))
        trials.append(Trial(mended, [{"passes": [*passes, "blank_bias"]}], listens=True))
        pairs.append((mended, name))
    return Study(
        "Repair of CTC",
        "Compressed models fail by deletions, because the blank wins too often. How much of that does a constant added "
        "to the blank's logit mend, which costs no byte and no training? It is the one with the fewest errors of "
        "greedy decoding on dev speech.",
        tuple(trials),
        pairs=tuple(pairs),
    )


def units_of_same_bytes(bundle: Bundle) -> tuple[int, int, int]:
    """Units a direction of the largest dense model no larger than 90 % blocks; bytes of the blocks, and of it."""

    def stored(name: str, params: dict[str, Any]) -> int:
        model = from_network(bundle.network)
        step = make_pass(name, params)
        step.prepare(model, Context(strict=False))
        step.finalize(model)
        return sum(weights.nbytes for _, weights in walk(to_network(model)))

    blocks = stored("block_pruning", {"sparsity": 0.9})
    most = max(item.weight.shape[0] // 4 for item in maps_of(from_network(bundle.network)) if item.gates == 4)
    for units in range(most - most % 4, 4, -4):
        found = stored("structured_pruning", {"keep": units, "multiple": 4})
        if found <= blocks:
            return units, blocks, found
    return 4, blocks, stored("structured_pruning", {"keep": 4, "multiple": 4})


def distillation(base: Base) -> Study:
    training = {
        "epochs": STUDENT_EPOCHS * base.epochs,
        "optimizer": {"lr": 2.0e-3},
        "schedule": {"warmup_steps": 300},
        "shortest_first_epochs": 1,
        "augment": {"after_epochs": base.epochs},  # past the blank plateau
    }
    alone = f"{STUDENT} alone"
    losses: dict[str, dict[str, Any]] = {
        "frame KL, all frames": {"distillation": {"blank_weight": 1.0}},
        "frame KL, blanks masked": {"distillation": {"blank_weight": 0.0}},
        "frame KL, blanks 0.1, window 1": {"distillation": {"blank_weight": 0.1, "window": 1}},
        "bounded softmax L2": {"distillation": {"loss": "l2", "blank_weight": 1.0}},
        "teacher only, no transcripts": {"distillation": {"hard": 0.0, "blank_weight": 1.0}},
        "N-best sequences": {"sequence_distillation": {}},
        "hidden regression": {"hidden_regression": {}},
        "guided spikes": {"guided_ctc": {}},
        "intermediate CTC, no teacher": {"intermediate_ctc": {}},
    }
    trials = [Trial(alone, [{"training": training}], student=STUDENT)]
    trials += [
        Trial(name, [{"passes": [step], "training": training}], student=STUDENT) for name, step in losses.items()
    ]
    return Study(
        "Distillation",
        f"What does a teacher add to a student ({STUDENT}) that trains as long on the same speech, by loss? The second "
        "table is the answer.",
        tuple(trials),
        pairs=tuple((name, alone) for name in losses),
    )


def gates(base: Base) -> Study:
    def row(criterion: str, share: float) -> tuple[str, dict[str, Any]]:
        return f"{100 * share:.0f} % by {criterion}", {"gate_pruning": {"criterion": criterion, "share": share}}

    shares = dict.fromkeys(("variance", "effect"), (0.02, 0.05, 0.1, 0.2, 0.3)) | {"norm": (0.1,)}
    steps = dict(row(criterion, share) for criterion, some in shares.items() for share in some)
    trials = [Trial(name, [{"passes": [step]}], listens=True) for name, step in steps.items()]
    lasso = [
        {"regularization": {"group": "gate_row", "strength": 1e-3}},
        {"gate_pruning": {"criterion": "norm", "share": 0.3, "when": "after"}},
    ]
    trials += [
        Trial(CONTROL, [TRAIN]),
        *(Trial(name, [{"passes": [steps[name.removesuffix(", trained")]], **TRAIN}]) for name in RANKED),
        Trial(GROUPED, [{"passes": lasso, **TRAIN}]),
    ]
    return Study(
        "Constant gates",
        "How many gates of the LSTMs can be constants? After training, gates are ranked by their variance over "
        "training speech, by what the output would lose (effect), or by the norm of their row; the least "
        "become the constant that is their mean, and their rows are neither stored nor computed.",
        tuple(trials),
        pairs=(
            *((f"{share} % by effect", f"{share} % by variance") for share in (2, 5, 10, 20, 30)),
            *((name, CONTROL) for name in (*RANKED, GROUPED)),
            (GROUPED, RANKED[-1]),
        ),
        margin=0.01,
        appendix=constant_gates,
    )


def constant_gates(rows: Sequence[Row], bundles: Mapping[str, Bundle]) -> str:
    """The largest share at no significant loss by criterion; constant gates by type and layer, as reported."""
    verdicts = {
        row.name: row.accuracy.against.verdict
        for row in rows
        if not isinstance(row.accuracy, NA) and row.accuracy.against is not None
    }
    borne = []
    for criterion in ("variance", "effect", "effect, trained", "norm"):
        ladder = [name for name in verdicts if name.endswith(f"% by {criterion}")]
        kept = list(takewhile(lambda name: verdicts[name] != "worse", ladder))
        if ladder:
            share = (kept or ladder)[-1 if kept else 0].partition(" by")[0]
            borne.append(f"{criterion} {'' if kept else 'less than '}{share}")
    table = []
    for name in (row.name for row in rows if row.name.startswith("10 %") or row.name in (RANKED[-1], GROUPED)):
        bundle = bundles[name]
        reports = [report for entry in bundle.history for report in entry.get("reports", ())]
        for report in (report for report in reports if report["pass"] == "gate_pruning"):
            for direction, figures in report["touched"].items():
                parts = [f"{100 * figures['constant'][gate] / figures['units']:.0f}" for gate in "ifgo"]
                table.append([name, direction.removeprefix("layers."), *parts])
    titles = ["variant", "direction", "i %", "f %", "g %", "o %"]
    return (
        f"Largest share of constant gates before the first significant loss: {'; '.join(borne)}. "
        "Constant gates by type and layer:\n\n" + "\n".join(markdown_table(titles, table, left=2))
    )


def order(base: Base) -> Study:
    units = {"structured_pruning": {"sparsity": 0.25, "multiple": 4}}
    weights = {"pruning": {"sparsity": 0.75}}
    blocks = {"block_pruning": {"sparsity": 0.5}}
    svd = {"low_rank": {"ratio": 2.0}}

    def two(*steps: dict[str, Any]) -> list[dict[str, Any]]:
        return [{"name": f"{next(iter(step), 'train')}-{i}", "passes": [step], **TRAIN} for i, step in enumerate(steps)]

    int8 = {"name": "int8", "passes": ["dynamic_int8"]}
    long = {"training": {"epochs": 2 * base.epochs}}
    trials = (
        Trial(CONTROL, [long]),
        Trial("units / 1.33, then weights / 4", two(units, weights)),
        Trial("weights / 4, then units / 1.33", two(weights, units)),
        Trial("rank / 2, then blocks / 2", two(svd, blocks)),
        Trial("units / 1.33, then rank / 2", two(units, svd)),
        Trial("blocks / 2, then int8 at once", [{"name": "blocks", "passes": [blocks], **long}, int8]),
        Trial(
            "blocks / 2, then int8 in training",
            two(blocks, {"quantization": {"numbers": "int8"}}),
        ),
        Trial(
            "blocks / 2 and int8 together",
            [{"name": "both", "passes": [blocks, {"quantization": {"numbers": "int8"}}], **long}],
        ),
    )
    return Study(
        "Order of passes",
        "Does it matter which pass comes first? Every row trains the same number of epochs in all.",
        trials,
        pairs=(
            ("units / 1.33, then weights / 4", "weights / 4, then units / 1.33"),
            ("blocks / 2, then int8 in training", "blocks / 2, then int8 at once"),
            ("blocks / 2 and int8 together", "blocks / 2, then int8 at once"),
        ),
        notes=("What a recipe may do in which order, checked before any work starts:", order_table(ORDERED)),
    )


STUDIES: dict[str, Callable[[Base], Study]] = {
    "quantization": quantization,
    "low-rank": low_rank,
    "low-rank-taught": low_rank_taught,
    "pruning": pruning,
    "structured": structured,
    "repair": repair,
    "distillation": distillation,
    "gates": gates,
    "order": order,
}
