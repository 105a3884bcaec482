"""Verbs that make what training and decoding read: manifests, language models, lexicons."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from asr_compress.cli.output import say, show_json, show_table
from asr_compress.runtime.errors import InputError

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def prepare(
    corpus: Annotated[str, typer.Argument(help="folder, kaldi, librispeech, fsdd, or what makes speech: demo, aloud.")],
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Where it is; for aloud a text file, for demo where to keep it.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the manifests, <split>.jsonl.gz each.")],
    split: Annotated[list[str] | None, typer.Option(help="Only this split; can be repeated.")] = None,
    normalize: Annotated[str, typer.Option(help="Text normalizer.")] = "upper",
    hours: Annotated[float | None, typer.Option(help="Take about so many hours of each training split.")] = None,
    utterances: Annotated[Path | None, typer.Option(help="File of utterance ids to keep, one a line.")] = None,
    dev_speakers: Annotated[
        int, typer.Option(help="Move so many speakers out of each training split into <split>-dev.")
    ] = 0,
    download: Annotated[bool, typer.Option(help="For librispeech: fetch the splits named with --split.")] = False,
    leave_out: Annotated[str | None, typer.Option(help="For fsdd: test on this speaker, train on the others.")] = None,
    seed: Annotated[int, typer.Option(help="For every random choice.")] = 0,
    json: Json = False,
) -> None:
    """Read a corpus and write its manifests, one a split.

    \b
    Examples:
      asr-compress prepare librispeech corpora/LibriSpeech --out manifests
      asr-compress prepare librispeech corpora --split train-clean-100 --hours 5 --dev-speakers 10 --out manifests
      asr-compress prepare librispeech corpora --download --split mini --out manifests
      asr-compress prepare kaldi corpora/speechocean762 --out manifests
      asr-compress prepare folder my-recordings --out manifests      # audio and a TSV, CSV or JSONL of transcripts
      asr-compress prepare fsdd free-spoken-digit-dataset --leave-out lucas --out manifests/without-lucas
      asr-compress prepare demo runs/demo-speech --out manifests      # synthesized sentences
      asr-compress prepare aloud books.txt --hours 20 --out manifests      # a text read by synthesized voices
    """
    from asr_compress.corpora.manifests import summarize, write_manifests
    from asr_compress.corpora.registry import read_corpus
    from asr_compress.corpora.splits import hold_out
    from asr_compress.corpora.text_files import read_lines
    from asr_compress.corpora.utterances import Problem, is_training

    problems: list[Problem] = []
    wanted = [line.strip() for line in read_lines(utterances) if line.strip()] if utterances else None
    given = {"leave_out": leave_out, "download": download}
    options = {name: value for name, value in given.items() if value}
    splits = read_corpus(
        corpus,
        folder,
        audio_dir=out / "audio",
        hours=hours,
        utterances=wanted,
        seed=seed,
        splits=split or None,
        normalize=normalize,
        problems=problems,
        **options,
    )
    if dev_speakers:
        for name in [name for name in splits if is_training(name)]:
            splits[name], splits[f"{name}-dev"] = hold_out(splits[name], dev_speakers, seed=seed)
    paths = write_manifests(splits, out)
    rows = [asdict(summarize(name, cuts)) | {"manifest": str(paths[name])} for name, cuts in splits.items()]
    if json:
        show_json({"splits": rows, "problems": [str(problem) for problem in problems]})
        return
    show_table(
        [row | {"hours": f"{row['hours']:.2f}"} for row in rows],
        right=("utterances", "speakers", "words", "hours", "failed"),
    )
    for problem in problems[:20]:
        say(f"problem: {problem}")
    if len(problems) > 20:
        say(f"problem: and {len(problems) - 20} more; --json lists them all")


def lm(
    text: Annotated[list[Path], typer.Argument(metavar="TEXT...", help="Text files, a sentence a line.")],
    out: Annotated[Path, typer.Option(help="The model, .arpa or .arpa.gz.")],
    order: Annotated[int, typer.Option(help="Longest n-gram.")] = 3,
    vocabulary: Annotated[
        Path | None, typer.Option(help="Words to allow, one a line (a lexicon will do); without it, all that occur.")
    ] = None,
    cutoff: Annotated[
        list[int] | None,
        typer.Option(help="Leave out n-grams seen at most so often; give one for each order, from 1-grams up."),
    ] = None,
    held_out: Annotated[
        Path | None, typer.Option(help="Text for the perplexity, and to fit the weights of several texts.")
    ] = None,
    weight: Annotated[list[float] | None, typer.Option(help="Mixture weight of each text, in order.")] = None,
    normalize: Annotated[str, typer.Option(help="Text normalizer.")] = "upper",
    json: Json = False,
) -> None:
    """Estimate an n-gram language model, modified Kneser-Ney, from text.

    \b
    Examples:
      asr-compress lm books.txt --order 3 --out lm.arpa.gz
      asr-compress lm books.txt --vocabulary lexicon.txt --held-out dev.txt --out lm.arpa.gz
      asr-compress lm books.txt prompts.txt --held-out dev.txt --out mixed.arpa.gz      # weights fitted on dev.txt
    """
    from asr_compress.corpora.language_model import build_language_model

    report = build_language_model(
        text,
        out,
        order=order,
        vocabulary=vocabulary,
        cutoffs=cutoff or (),
        weights=weight or None,
        held_out=held_out,
        normalize=normalize,
    )
    if json:
        show_json(asdict(report))
        return
    counts = ", ".join(f"{count:,} {n}-grams" for n, count in enumerate(report.ngrams, start=1))
    typer.echo(f"{report.path}: {counts}; vocabulary of {report.vocabulary:,} words")
    for name, share in report.weights.items():
        typer.echo(f"weight {share:.3f} for {name}")
    if report.held_out:
        found = report.held_out
        typer.echo(
            f"{held_out}: perplexity {found.perplexity:.1f}, {found.unknown_words} of {found.words} words unknown"
        )


def lexicon(
    source: Annotated[
        list[Path], typer.Argument(metavar="SOURCE...", help="Text files, word lists or manifests (.jsonl.gz).")
    ],
    out: Annotated[Path, typer.Option(help="The lexicon: a word, a tab, its phones.")],
    normalize: Annotated[str, typer.Option(help="Text normalizer.")] = "upper",
    json: Json = False,
) -> None:
    """Find pronunciations for every word of some text: CMUdict, and letter-to-sound for the rest.

    \b
    Examples:
      asr-compress lexicon manifests/train.jsonl.gz books.txt --out lexicon.txt
    """
    from asr_compress.corpora.language_model import read_sentences
    from asr_compress.corpora.manifests import SUFFIX, read_manifest
    from asr_compress.corpora.pronounce import pronounce
    from asr_compress.runtime.files import atomic_write

    words: set[str] = set()
    for path in source:
        if path.name.endswith(SUFFIX):
            words.update(word for cut in read_manifest(path) for word in cut.supervisions[0].text.split())
        else:
            words.update(word for sentence in read_sentences(path, normalize) for word in sentence)
    if not words:
        raise InputError(f"{', '.join(map(str, source))}: no words")
    spoken = pronounce(sorted(words))
    with atomic_write(out) as temporary:
        temporary.write_text(spoken.lexicon.to_text())
    if json:
        show_json({"path": str(out), "words": len(words), "sources": spoken.sources})
        return
    origins = ", ".join(f"{count:,} from {name}" for name, count in spoken.sources.items() if count)
    typer.echo(f"{out}: {len(words):,} words ({origins})")
