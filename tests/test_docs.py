"""The documentation: every public name is in it, links lead somewhere, pictures are small, and the site builds."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from PIL import Image

import eoaug
import eoaug.torch
from eoaug.augmentation.augment_job import read_augment_job
from eoaug.jobs.config import read_job

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if not {"_build", "_notebooks"} & set(path.parts))
REFERENCE = "\n".join(path.read_text("utf-8") for path in (DOCS / "api").glob("*.md"))
FENCED = re.compile(r"^(`{3,})([^\n]*)\n(.*?)^\1$", re.MULTILINE | re.DOTALL)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("name", [*eoaug.__all__, *eoaug.torch.__all__])
def test_every_public_name_is_in_the_reference(name: str) -> None:
    if name not in ("__version__", "EpochSampler"):
        assert re.search(rf"\b{name}\b", REFERENCE), name


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files(page: Path) -> None:
    text = FENCED.sub("", page.read_text("utf-8"))
    for link in re.findall(r"\]\((?!https?:)([^)\s#]+)", text):
        assert (page.parent / link).exists() or (page.parent / f"{link}.md").exists(), link


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_in_the_pages_is_python(page: Path) -> None:
    for _, kind, code in FENCED.findall(page.read_text("utf-8")):
        if kind.startswith(("python", "{code-cell}")):
            lines = [line for line in code.splitlines() if not line.startswith((":tags:", "!"))]
            ast.parse("\n".join(lines))


def settings() -> list[tuple[str, str]]:
    """The YAML blocks of the pages that describe a whole job."""
    found = []
    for page in PAGES:
        for _, kind, text in FENCED.findall(page.read_text("utf-8")):
            if kind == "yaml" and "source" in yaml.safe_load(text):
                found.append((page.stem, text))
    return found


@pytest.mark.parametrize("text", [pytest.param(text, id=name) for name, text in settings()])
def test_jobs_in_the_pages_are_valid(text: str) -> None:
    config = yaml.safe_load(text)
    assert read_augment_job(config) if "policy" in config else read_job(config)


def test_every_tutorial_is_listed_and_executed() -> None:
    listed = re.findall(r"^[\w-]+$", (DOCS / "tutorials/index.md").read_text("utf-8"), re.MULTILINE)
    pages = {path.stem: path.read_text("utf-8") for path in (DOCS / "tutorials").glob("*.md")}
    assert set(listed) == set(pages) - {"index"}
    for name in listed:
        assert pages[name].startswith("---\nfile_format: mystnb"), name
        assert f"_notebooks/{name}.ipynb" in pages[name], name


def test_pictures_are_small_and_used() -> None:
    used = "".join(path.read_text("utf-8") for path in (*PAGES, ROOT / "README.md"))
    for path in (DOCS / "images").glob("*.png"):
        assert path.stat().st_size < 120_000, path.name
        assert Image.open(path).width <= 1400
        assert f"images/{path.name}" in used, path.name


class Loaded(HTMLParser):
    """What a page loads by itself: scripts, styles, pictures, frames."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag in ("script", "img", "iframe", "source") or (tag == "link" and "canonical" not in str(values)):
            self.addresses += [str(values[key]) for key in ("src", "href") if values.get(key)]


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_loads_nothing(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "--builder",
        "html",
        "--fail-on-warning",
        "--keep-going",
        "--quiet",
    ]
    done = subprocess.run(
        [*command, "-D", f"nb_execution_cache_path={tmp_path / 'cache'}", str(DOCS), str(tmp_path / "html")],
        capture_output=True,
        text=True,
        timeout=3600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    pages = [path for path in (tmp_path / "html").rglob("*.html") if "_static" not in path.parts]
    assert len(pages) > 30
    for page in pages:
        text = page.read_text("utf-8")
        # A failing shell command raises nothing in a notebook.
        assert "command not found" not in text, page.name
        assert "Traceback (most recent call last)" not in text, page.name
        loaded = Loaded()
        loaded.feed(text)
        for address in loaded.addresses:
            assert not address.startswith(("http:", "https:", "//")), (page.name, address)
            if not address.startswith("data:"):
                assert (page.parent / re.split(r"[?#]", address)[0]).exists(), (page.name, address)
        for link in re.findall(r'<a [^>]*href="(?!https?:|mailto:)([^"]+)"', text):
            path, _, anchor = link.partition("#")
            target = page.parent / path.partition("?")[0] if path else page
            assert target.exists(), (page.name, link)
            assert not anchor or target.suffix != ".html" or f'id="{anchor}"' in target.read_text("utf-8"), (
                link
            )
