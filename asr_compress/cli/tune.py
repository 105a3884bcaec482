"""The verb that tunes a recognizer's search."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asr_compress.cli.output import show_json

if TYPE_CHECKING:
    from asr_compress.evaluation.tuning import Trial


def tune(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Recognizer.")],
    data: Annotated[Path, typer.Option(help="Manifest of a dev set, never of one that is reported.")],
    out: Annotated[Path, typer.Option(help="Bundle with the tuned weights; may be BUNDLE itself.")],
    lm: Annotated[Path | None, typer.Option(help="n-gram language model that the search will use.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only so many utterances.")] = None,
    beam_width: Annotated[int | None, typer.Option(help="Hypotheses that the search keeps.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tune the weights of the beam search on a dev set, and store them in the bundle.

    The acoustic model runs once, the search about thirty times: weight of the language model, score of a word, share
    of the label priors that is taken from the model's posteriors.

    \b
    Examples:
      asr-compress tune model.safetensors --data manifests/dev.jsonl.gz --lm lm.arpa.gz --out tuned.safetensors
      asr-compress tune model.safetensors --data manifests/dev.jsonl.gz --lm lm.arpa.gz --limit 100 \\
          --out model.safetensors
    """
    from asr_compress.evaluation.tuning import tune_bundle
    from asr_compress.runtime.bundle import Bundle

    trials: list[Trial] = []

    def report(trial: Trial) -> None:
        trials.append(trial)
        if not json:
            typer.echo(f"WER {trial.wer:7.2%}  {_weights(trial)}")

    widths: dict[str, Any] = {} if beam_width is None else {"beam_width": beam_width}
    tuned, weights = tune_bundle(Bundle.load(bundle), data, lm, limit, report=report, **widths)
    tuned.save(out)
    best = next(trial for trial in trials if trial.weights == weights)
    if json:
        show_json({"bundle": str(out), "dev_wer": best.wer, "trials": len(trials), "decoding": tuned.decoding})
    else:
        typer.echo(f"{out}: WER {best.wer:.2%} on dev with {_weights(best)}")


def _weights(trial: Trial) -> str:
    weights = trial.weights
    return f"lm_weight {weights.lm_weight:g}, word_score {weights.word_score:g}, prior_share {weights.prior_share:g}"
