"""Imports between the package's floors go only down, and what runs on a device never sees torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "asr_compress"

# Which parts of the package each part may import, itself aside. On the third floor each may also know those above it
# in this list.
ALLOWED = {
    "runtime": set(),
    "models": {"runtime"},
    "corpora": {"runtime"},
    "training": {"runtime", "models", "corpora"},
    "export": {"runtime", "models"},
    "evaluation": {"runtime", "models", "corpora", "training", "export"},
    "compression": {"runtime", "models", "corpora", "training", "evaluation"},
}
HEAVY = ("torch", "torchaudio", "lhotse", "librosa", "scipy", "pydantic", "yaml", "matplotlib", "jiwer", "numba")


def imports(path: Path, everywhere: bool) -> Iterator[str]:
    """Dotted names that a file imports, in its functions too if `everywhere`; those for type checkers are left out."""
    todo: list[ast.AST] = [ast.parse(path.read_text())]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif everywhere or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            todo += ast.iter_child_nodes(node)


def parts() -> list[str]:
    return sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py") if path.parent.name != "cli")


def test_every_part_has_its_place() -> None:
    assert set(parts()) == set(ALLOWED)


@pytest.mark.parametrize("part", sorted(ALLOWED))
def test_imports_go_down(part: str) -> None:
    for path in sorted((PACKAGE / part).rglob("*.py")):
        for name in imports(path, everywhere=True):
            home, _, rest = name.partition(".")
            if home != "asr_compress":
                continue
            above = rest.partition(".")[0]
            assert above in ALLOWED[part] | {part, "__version__"}, f"{path}: {part} imports {name}"


def test_the_runtime_names_no_heavy_package() -> None:
    for path in sorted((PACKAGE / "runtime").rglob("*.py")):
        named = {name.partition(".")[0] for name in imports(path, everywhere=False)}
        assert not named & set(HEAVY), f"{path} imports {named & set(HEAVY)} when it is imported"
        inside = {name.partition(".")[0] for name in imports(path, everywhere=True)}
        assert not inside & {"torch", "torchaudio", "lhotse", "scipy"}, f"{path} imports {inside & set(HEAVY)}"


def test_the_runtime_and_the_command_line_load_without_heavy_packages() -> None:
    """In a fresh process in which importing one of them fails."""
    modules = [
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        for folder in ("runtime", "cli")
        for path in sorted((PACKAGE / folder).rglob("*.py"))
    ]
    program = f"""
import sys, importlib
heavy = {HEAVY!r}
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in heavy and name.partition(".")[0] != "pydantic":  # typer requires it
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Blocker())
for name in {modules!r}:
    importlib.import_module(name)
print(*sorted(set(heavy) & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) <= {"pydantic"}
