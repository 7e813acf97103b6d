"""The plugin of QGIS: its algorithms have the options of the verbs, and run in a real QGIS where there is one."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import eoaug
from eoaug.verbs.options import OWN_OPTIONS

ROOT = Path(__file__).parents[1] / "integrations" / "qgis"
PLUGIN = ROOT / "eoaug_processing"
PROCESSES = json.loads((PLUGIN / "processes.json").read_text("utf-8"))


def test_the_options_are_those_of_the_verbs() -> None:
    spec = importlib.util.spec_from_file_location("make_processes", ROOT / "make_processes.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.processes() == PROCESSES, "run integrations/qgis/make_processes.py"
    assert [one["id"] for one in PROCESSES] == [f"eoaug-{verb.replace('_', '-')}" for verb in OWN_OPTIONS]


@pytest.mark.parametrize("path", sorted(PLUGIN.glob("*.py")), ids=lambda path: path.name)
def test_the_plugin_needs_no_newer_python_than_qgis_has(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"), feature_version=(3, 9))
    imported = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not any(name.startswith("eoaug") for name in imported), "QGIS has a Python of its own"


# Debian's wrapper passes options that belong to the desktop.
QGIS = shutil.which("qgis_process.bin") or shutil.which("qgis_process") or ""


@pytest.mark.slow
@pytest.mark.skipif(not QGIS, reason="qgis_process is not installed")
def test_an_algorithm_runs_in_qgis(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
        "QT_QPA_PLATFORM": "offscreen",
        "QGIS_PLUGINPATH": str(ROOT),
        "HOME": str(tmp_path),
        "XDG_RUNTIME_DIR": str(tmp_path),
        "EOAUG": str(Path(sys.executable).parent / "eoaug"),
    }

    def qgis(*words: str) -> str:
        done = subprocess.run(
            [QGIS, *words],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    qgis("plugins", "enable", "eoaug_processing")
    listed = qgis("list")
    assert all(f"eoaug:{verb}" in listed for verb in OWN_OPTIONS)
    source = next(eoaug.sample().glob("sentinel-1-grd/*_36_85/*.json"))
    out = tmp_path / "catalog"
    options = [f"SOURCE={source}", "factor=2", "generator=classical", f"OUT={out}"]
    qgis("run", "eoaug:super_resolve", "--", *options)
    cube = eoaug.open_cube(out)
    assert cube.sizes["x"] == 240
    assert "synthetic" in cube
