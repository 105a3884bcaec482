"""The command line: parses, calls, prints. One file a group of verbs.

Verbs import what they work with when they run, so that `--help` and `transcribe` start without torch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import typer

from asr_compress import __version__
from asr_compress.cli import about, compress, corpora, demo, measure, recognize, train, tune
from asr_compress.cli.output import explain

app = typer.Typer(
    name="asr-compress",
    help="Make LSTM/CTC speech recognizers small and fast, and say exactly what that cost.",
    epilog="Every verb has examples: asr-compress VERB --help",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)

for verb in (
    about.doctor,
    about.models,
    corpora.prepare,
    corpora.lm,
    corpora.lexicon,
    train.train,
    compress.compress,
    compress.passes,
    compress.sensitivity,
    tune.tune,
    measure.evaluate,
    measure.compare,
    measure.benchmark,
    measure.gate,
    recognize.transcribe,
    recognize.stream,
    demo.demo,
):
    app.command()(verb)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"asr-compress {__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line, on `sys.argv` if no arguments are given; always ends in SystemExit.

    Exit code 0: done, 1: the machine failed (a full disk), 2: bad input, 130: interrupted.
    """
    try:
        app(arguments)
    except BrokenPipeError:
        # Whoever read our output has gone, as `| head` does; Python must not complain when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        print("asr-compress: interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        known = explain(error)
        if known is None:
            raise
        message, code = known
        print(f"asr-compress: {message}", file=sys.stderr)
        sys.exit(code)
