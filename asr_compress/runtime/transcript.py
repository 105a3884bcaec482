"""What a recognizer returns, and the formats it is written in."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from asr_compress.runtime.decoding import Word

# Captions as broadcasters make them: two lines of 42 characters, seven seconds, a new one after a pause.
_CAPTION_LINE, _CAPTION_LINES = 42, 2
_CAPTION_LONGEST_S = 7.0
_CAPTION_PAUSE_S = 1.0
_CAPTION_SHORTEST_S = 0.5  # a word that flashes by cannot be read


@dataclass(frozen=True)
class Timings:
    """Seconds of work by stage; reading and loading files are not in it."""

    features_s: float = 0.0
    model_s: float = 0.0
    decode_s: float = 0.0

    @property
    def total_s(self) -> float:
        """From a waveform in memory to text."""
        return self.features_s + self.model_s + self.decode_s

    def __add__(self, other: Timings) -> Timings:
        return Timings(self.features_s + other.features_s, self.model_s + other.model_s, self.decode_s + other.decode_s)


@dataclass(frozen=True)
class Transcript:
    """What was said, and when.

    Attributes:
        text: words with spaces between; "" for silence.
        words: each word with its times, counted from the start of the recording or stream.
        duration_s: length of the audio that this is the transcript of.
        start_s: where that audio begins; 0 for a recording, later for the segments of a stream.
        timings: what the work cost.
    """

    text: str
    words: tuple[Word, ...]
    duration_s: float
    start_s: float = 0.0
    timings: Timings = field(default_factory=Timings, compare=False)

    def to_json(self) -> dict[str, Any]:
        """Plain data; times rounded to the millisecond."""
        return {
            "text": self.text,
            "start_s": round(self.start_s, 3),
            "duration_s": round(self.duration_s, 3),
            "words": [
                {"text": word.text, "start_s": round(word.start_s, 3), "end_s": round(word.end_s, 3)}
                for word in self.words
            ],
            "timings": {name: round(value, 6) for name, value in asdict(self.timings).items()},
        }

    def to_srt(self) -> str:
        """Captions in SubRip format; "" where nothing was said."""
        captions = _captions(self.words)
        blocks = []
        for number, caption in enumerate(captions, start=1):
            start_s = caption[0].start_s
            next_s = captions[number][0].start_s if number < len(captions) else float("inf")
            end_s = min(max(caption[-1].end_s, start_s + _CAPTION_SHORTEST_S), next_s)
            text = "\n".join(_lines([word.text for word in caption]))
            blocks.append(f"{number}\n{_clock(start_s)} --> {_clock(end_s)}\n{text}\n")
        return "\n".join(blocks)


def _captions(words: tuple[Word, ...]) -> list[list[Word]]:
    """Divide words into captions that fit in lines and time and do not bridge a pause."""
    captions: list[list[Word]] = []
    for word in words:
        current = captions[-1] if captions else []
        fits = (
            current
            and word.start_s - current[-1].end_s <= _CAPTION_PAUSE_S
            and word.end_s - current[0].start_s <= _CAPTION_LONGEST_S
            and len(_lines([*(other.text for other in current), word.text])) <= _CAPTION_LINES
        )
        if fits:
            current.append(word)
        else:
            captions.append([word])
    return captions


def _lines(words: list[str]) -> list[str]:
    lines: list[str] = []
    for word in words:
        if lines and len(lines[-1]) + 1 + len(word) <= _CAPTION_LINE:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _clock(time_s: float) -> str:
    """SubRip's hours:minutes:seconds,milliseconds."""
    milliseconds = round(time_s * 1000)
    seconds, milliseconds = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02},{milliseconds:03}"
