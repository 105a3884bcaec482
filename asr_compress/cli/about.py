"""Verbs that tell what there is: the machine, the zoo."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from asr_compress.cli.output import show_json, show_table

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def doctor(json: Json = False) -> None:
    """Say what this machine can run, and what to install for the rest. Exit code 1 if something is broken.

    \b
    Examples:
      asr-compress doctor
      asr-compress doctor --json
    """
    from asr_compress.doctor import examine

    checks = examine()
    if json:
        show_json([asdict(check) for check in checks])
    else:
        for check in checks:
            typer.echo(f"{check.status:8} {check.name:12} {check.found}")
            if check.advice:
                typer.echo(f"{'':21} to do: {check.advice}")
    if any(check.status == "problem" for check in checks):
        raise typer.Exit(1)


def models(
    tokens: Annotated[int, typer.Option(help="Size of the output layer, the blank included.")] = 40,
    json: Json = False,
) -> None:
    """List the zoo: parameters, multiply-accumulates for a second of audio, and whether a model streams.

    \b
    Examples:
      asr-compress models
      asr-compress models --tokens 500 --json
    """
    from asr_compress.models.summary import summarize_zoo

    rows = [asdict(summary) for summary in summarize_zoo(tokens)]
    if json:
        show_json(rows)
        return
    show_table(
        [
            {
                "model": row["name"],
                "parameters": f"{row['parameters']:,}",
                "MACs/s": f"{row['macs_per_audio_s'] / 1e6:.1f} M",
                "frame": f"{row['frame_s'] * 1000:.0f} ms",
                "streams": "yes" if row["streams"] else "no",
            }
            for row in rows
        ],
        right=("parameters", "MACs/s", "frame"),
    )
