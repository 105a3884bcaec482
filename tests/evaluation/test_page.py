"""The page must work from a file, offline, in a browser: drawn, sorted, clicked."""

from __future__ import annotations

import html.parser
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from asr_compress.evaluation.compare import compare
from tests.evaluation.bundles import bundle
from tests.evaluation.results_files import Made, Spoken, write

# A transcript that would end the script element it is embedded in, were it not escaped.
SPOKEN = [Spoken("u1", "THE CAT SAT"), Spoken("u2", "BIRDS FLY HOME", "ben"), Spoken("u3", "A </script> B", "cleo")]
RIGHT = {s.id: s.text for s in SPOKEN}


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    history = [{"pass": "distill", "temperature": 2}]
    made = [
        Made("teacher", RIGHT, (0.2,), bundle(folder, "teacher", hidden=24)),
        Made("student", {**RIGHT, "u1": "THE HAT SAT"}, (0.1,), bundle(folder, "student", hidden=8, history=history)),
        Made("tiny & <fast>", {**RIGHT, "u2": "BIRDS"}, (0.05,), bundle(folder, "tiny", hidden=4)),
        Made("absent", {}, (), extra={"unavailable": "no such engine"}),
    ]
    results = write(folder / "results.jsonl", SPOKEN, made, normalizer="spaces")
    return compare([results], folder / "report").files["html"]


def test_page_is_self_contained(page):
    text = page.read_text()
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)
    assert not re.search(r"<(link|img|iframe)|src=|@import|url\(", text)
    scripts: list[str] = []

    class Scripts(html.parser.HTMLParser):
        def handle_data(self, content: str) -> None:
            if self.cdata_elem == "script":
                scripts.append(content)

    Scripts().feed(text)
    assert len(scripts) == 2
    data = json.loads(scripts[0])
    assert [row["name"] for row in data["rows"]] == ["teacher", "student", "tiny & <fast>", "absent"]
    assert [reference["text"] for reference in data["references"]] == list(RIGHT.values())
    student = data["rows"][1]
    assert student["errors"]["broken"] == [["CAT", 1, 0, 1]]
    assert student["utterances"][0]["o"] == "=S="
    assert student["history"] == [{"pass": "distill", "temperature": 2}]
    assert data["rows"][3]["cells"]["rtf"]["why"] == "no such engine"


def dump(page: Path, script: str = "", fragment: str = "") -> str:
    """The document after its scripts, and after `script`, have run in headless Chromium."""
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next((found for name in names if (found := shutil.which(name))), None)
    if browser is None:
        pytest.skip("no Chromium to look at the page with")
    copy = page.with_name("tested.html")
    copy.write_text(page.read_text().replace("</body>", f"<script>{script}</script></body>"))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--virtual-time-budget=2000"]
    profile = f"--user-data-dir={page.parent / 'profile'}"
    command = [browser, *options, profile, "--dump-dom", f"{copy.as_uri()}{fragment}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if not done.stdout.strip():
        pytest.skip(f"Chromium does not run here: {done.stderr.strip()[-200:]}")
    return done.stdout


def test_page_draws_sorts_and_opens_variants(page):
    script = """
      const errors = [];
      window.onerror = (message) => errors.push(message);
      const names = () => [...document.querySelectorAll('#table tbody tr')].map((row) => row.cells[0].textContent);
      const log = { first: names(), ready: document.documentElement.dataset.ready };
      log.points = document.querySelectorAll('.point').length;
      const head = (key) => document.querySelector(`#table button[data-key="${key}"]`);
      head('rtfx').click(); log.rising = names();
      head('rtfx').click(); log.falling = names();
      document.querySelector('.point[data-row="1"]').dispatchEvent(new MouseEvent('click', { bubbles: true }));
      const detail = document.getElementById('detail');
      log.clicked = detail.querySelector('h2').textContent;
      log.words = detail.textContent;
      const buttons = () => [...detail.querySelectorAll('button')];
      const tab = (name) => buttons().find((button) => button.textContent === name).click();
      tab('Utterances'); log.utterances = detail.textContent;
      tab('Layers'); log.layers = detail.textContent;
      tab('Passes'); log.passes = detail.textContent;
      tab('Speakers, lengths'); log.groups = detail.textContent;
      document.querySelectorAll('#sections button')[2].click();
      log.na = [...document.querySelectorAll('td.na')].map((cell) => cell.title);
      log.hash = location.hash;
      log.errors = errors;
      const out = document.createElement('pre'); out.id = 'log'; out.textContent = JSON.stringify(log);
      document.body.append(out);
    """
    found = re.search(r'<pre id="log">(.*?)</pre>', dump(page, script), re.DOTALL)
    assert found, "the page's script did not run to its end"
    log = json.loads(html.unescape(found[1]))
    assert log["errors"] == [] and log["ready"] == "yes"
    assert log["first"] == ["teacher", "student", "tiny & <fast>", "absent"]
    assert log["rising"] == ["teacher", "student", "tiny & <fast>", "absent"]
    assert log["falling"] == ["tiny & <fast>", "student", "teacher", "absent"]  # n/a last either way
    assert log["points"] == 2 * 3
    assert log["clicked"] == "student" and log["hash"] == "#student"
    assert "CAT" in log["words"] and "HAT" in log["words"]
    assert "A </script> B" in log["utterances"] and "u1, anna: 1 of 3 words" in log["utterances"]
    assert "Bidirectional" in log["layers"] and "float32" in log["layers"]
    assert "1. distill" in log["passes"] and '"temperature": 2' in log["passes"]
    assert "ben" in log["groups"]
    assert "no such engine" in log["na"]


def test_page_opens_the_variant_in_its_address(page):
    assert re.search(r"<h2>tiny &amp; &lt;fast&gt;</h2>", dump(page, fragment="#tiny%20%26%20%3Cfast%3E"))
