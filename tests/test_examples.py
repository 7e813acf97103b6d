"""The examples run, with the generator that needs no weights."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pystac
import pytest

from tests.later import Later

tiny_checkpoints = Later("tests.tiny_checkpoints")
EXAMPLES = Path(__file__).parents[1] / "examples"
SHORT = sorted(path for path in EXAMPLES.glob("*.py") if path.name != "demo.py")


def run_here(
    path: Path,
    *arguments: object,
    cwd: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> tuple[object, str, str]:
    """Run a script in this process, where imports are paid already; return exit code, output and errors."""
    monkeypatch.chdir(cwd)
    monkeypatch.setattr(sys, "argv", [str(path), *map(str, arguments)])
    code: object = 0
    try:
        runpy.run_path(str(path), run_name="__main__")
    except SystemExit as end:
        code = end.code
    printed = capsys.readouterr()
    # A text as exit code is printed to stderr by the interpreter.
    return code, printed.out, printed.err + (code if isinstance(code, str) else "")


def run_demo_here(
    generator: str, cwd: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[object, str]:
    """Run the demo in this process; return exit code and errors."""
    given = ("--generator", generator, "--out", "made")
    code, _, errors = run_here(EXAMPLES / "demo.py", *given, cwd=cwd, monkeypatch=monkeypatch, capsys=capsys)
    return code, errors


def run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize("path", SHORT, ids=lambda path: path.stem)
def test_short_examples(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= 40
    code, out, errors = run_here(
        path, "classical", "made", cwd=tmp_path, monkeypatch=monkeypatch, capsys=capsys
    )
    assert not code, errors
    assert out


def test_a_checkpoint_is_a_generator_of_an_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = tiny_checkpoints.sd(tmp_path / "tiny")
    (tmp_path / "tiny.json").write_text('{"base": "tiny", "lift": "inject", "steps": 2}')
    script, given = EXAMPLES / "checkpoint_variation.py", (tiny.with_suffix(".json"), "made")
    code, out, errors = run_here(script, *given, cwd=tmp_path, monkeypatch=monkeypatch, capsys=capsys)
    assert not code, errors
    assert "nir: transferred, stretch" in out


@pytest.mark.slow
def test_demo(tmp_path: Path) -> None:
    demo = EXAMPLES / "demo.py"
    done = run(demo, "--generator", "classical", "--out", "made", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "dB" in done.stdout
    made = tmp_path / "made"
    catalog = pystac.Catalog.from_file(str(made / "catalog" / "catalog.json"))
    items = list(catalog.get_items(recursive=True))
    assert {item.properties["eoaug:operation"] for item in items} == {
        *("inpaint", "super_resolve", "synthesize", "extend")
    }
    assert [i for i in items if i.collection_id == "inpainted"]
    assert all(
        i.properties["eoaug:synthetic_fraction"] == pytest.approx(0.30, abs=1e-6)
        for i in items
        if i.collection_id == "inpainted"
    )
    assert (made / "sheet.png").stat().st_size > 10_000
    assert "://" not in (made / "index.html").read_text("utf-8")


def test_demo_leaves_other_folders_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "thesis.txt").write_text("mine")
    code, errors = run_demo_here("classical", tmp_path, monkeypatch, capfd)
    assert code
    assert "--out" in errors
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["thesis.txt"]


def test_demo_names_an_unknown_generator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    code, errors = run_demo_here("clasical", tmp_path, monkeypatch, capfd)
    assert code
    assert "classical" in errors
    assert "Traceback" not in errors
