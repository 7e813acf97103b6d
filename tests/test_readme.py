"""Every Python block of the README runs as printed."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eoaug.testing import scene

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
VERB = re.compile(r"\.(inpaint|extend|super_resolve|synthesize)\(")


def test_the_readme_is_short_and_shows_every_verb() -> None:
    assert len(TEXT.splitlines()) < 150
    shown = set(re.findall(r"\]\(docs/images/([\w-]+)\.png\)", TEXT))
    assert {"inpaint", "super-resolve", "synthesize", "extend", "failure"} <= shown


def test_every_verb_has_an_example_of_at_most_six_lines() -> None:
    assert {verb for block in BLOCKS for verb in VERB.findall(block)} == {
        *("inpaint", "extend", "super_resolve", "synthesize")
    }
    of_sample = [block for block in BLOCKS if VERB.search(block) and "sample" in block]
    assert len(of_sample) == 4
    assert all(len(block.splitlines()) <= 6 for block in of_sample)


def test_from_a_folder_of_chips_to_a_loader_are_twelve_lines() -> None:
    (block,) = [block for block in BLOCKS if not VERB.search(block)]
    assert "AugmentedLoader" in block
    assert len([line for line in block.splitlines() if line]) <= 12


@pytest.mark.parametrize("block", BLOCKS, ids=[(VERB.findall(block) or ["loader"])[0] for block in BLOCKS])
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_blocks_run(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "catalogs").symlink_to(ROOT / "catalogs")
    for name in ("Forest", "River"):
        (tmp_path / "chips" / name).mkdir(parents=True)
        Image.new("RGB", (16, 16), "green").save(tmp_path / "chips" / name / f"{name}.png")
    monkeypatch.chdir(tmp_path)
    own = scene((24, 24), dates=2, bands=("B02", "B03", "B04", "B08"))
    cloudy = np.where(np.arange(24) < 6, 9, 4).astype(np.uint8)
    own["SCL"] = ("time", "y", "x"), np.broadcast_to(cloudy, (2, 24, 24))
    for band in own.data_vars.values():
        band.attrs.clear()
    own.to_netcdf("own.nc", engine="h5netcdf")
    exec(block, {})


def test_the_set_up_is_two_commands() -> None:
    section = TEXT.partition("## Set-up")[2].partition("\n## ")[0]
    assert re.findall(r"^    (.*)$", section, re.MULTILINE) == ["make demo", "make test"]


def test_links_stay_in_the_repository() -> None:
    for path in re.findall(r"`((?:examples|catalogs)/[\w./-]*)`", TEXT):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", sorted(ROOT.glob("*.md")), ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text("utf-8")):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        headings = re.findall(r"^#+ (.*)$", target.read_text("utf-8"), re.MULTILINE) if anchor else []
        assert not anchor or anchor in {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}


def test_every_file_has_its_line_in_the_architecture() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    for path in re.findall(r"`(eoaug/[\w./-]*)`", text):
        assert (ROOT / path).exists(), path
    folders = re.findall(r"^\| `(eoaug/[\w/]+/)` \|(.*)$", text, re.MULTILINE)
    listed = {f"{folder}{name}" for folder, names in folders for name in re.findall(r"`(\w+\.py)`", names)}
    listed |= set(
        re.findall(r"`(eoaug/[\w/]+\.py)`", text.partition("## The floors")[2].partition("## The way")[0])
    )
    files = {
        p.relative_to(ROOT).as_posix() for p in (ROOT / "eoaug").rglob("*.py") if p.name != "__init__.py"
    }
    assert files - listed == set()
    assert listed - files == set()


def test_files_named_in_the_walks_exist() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8").partition("## The way of a cube")[2]
    for path in re.findall(r"`([\w/]+/\w+\.py)`", text.partition("## Decisions")[0]):
        assert (ROOT / "eoaug" / path).exists(), path


@pytest.mark.parametrize("page", ["SECURITY.md", "CONTRIBUTING.md"])
def test_files_named_in_the_pages_exist(page: str) -> None:
    for path in re.findall(r"`((?:eoaug|tests)/[\w./-]+)`", (ROOT / page).read_text("utf-8")):
        assert (ROOT / path).exists() or "VERB" in path, path


def test_the_tests_that_hold_the_guards_exist() -> None:
    text = (ROOT / "SECURITY.md").read_text("utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and "`eoaug/" in line]
    assert len(rows) > 10
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row)
        assert named, row
        for path, name in named:
            assert f"def {name}(" in (ROOT / path).read_text("utf-8"), name
