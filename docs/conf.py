"""How Sphinx builds the site; `make docs` runs it. Nothing is loaded from another host, neither here nor by a reader."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.manager import KernelManager
from myst_nb.core.read import read_myst_markdown_notebook

import eoaug

HERE = Path(__file__).parent
ROOT = HERE.parent

project = "eoaug"
author = "the eoaug developers"
copyright = "the eoaug developers"  # noqa: A001 - the name that Sphinx reads
version = release = eoaug.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "myst_nb",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build", "_notebooks", "README.md"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
suppress_warnings = ["myst.strikethrough"]

# -- reference ----------------------------------------------------------------------------------------

default_role = "py:obj"  # single backticks in docstrings name objects
autodoc_typehints = "none"  # the sections of the docstrings say types and more
autodoc_member_order = "bysource"
autodoc_default_options = {"show-inheritance": False}
napoleon_google_docstring = False
napoleon_use_rtype = False
python_display_short_literal_types = True
maximum_signature_line_length = 90

# -- notebooks ----------------------------------------------------------------------------------------

os.environ["PATH"] = os.pathsep.join(
    [str(Path(sys.executable).parent), os.environ["PATH"]]
)  # for cells with a command


def _of_this_code() -> str:
    """Return a name that changes with any module of eoaug, because pages are executed anew when what they show may change."""
    digest = hashlib.sha256()
    for path in sorted(Path(eoaug.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


nb_execution_mode = "cache"
nb_execution_cache_path = str(HERE / "_build" / "executed" / _of_this_code())
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_execution_show_tb = True
nb_output_stderr = "remove"
nb_merge_streams = True
KernelManager.transport_encryption.default_value = "auto"  # a kernel warns of an open connection

# -- pages --------------------------------------------------------------------------------------------

html_theme = "pydata_sphinx_theme"
html_title = f"eoaug {release}"
html_static_path = ["_static"]
html_css_files = ["eoaug.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "logo": {"text": "eoaug"},
    "navbar_align": "left",
    "header_links_before_dropdown": 7,
    "navbar_persistent": [],
    "navbar_end": ["search-button", "theme-switcher", "navbar-icon-links"],
    "show_prev_next": True,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "tango",
    "pygments_dark_style": "github-dark",
    "show_toc_level": 2,
}
html_sidebars = {page: [] for page in ("index", "start", "gallery")}

PAGES = {
    "changelog": "CHANGELOG.md",
    "architecture": "ARCHITECTURE.md",
    "contributing": "CONTRIBUTING.md",
    "security": "SECURITY.md",
    "model-card": "catalogs/generators/MODEL_CARD.md",
    "howto/checkpoints": "examples/checkpoints.md",
    "howto/eurosat": "examples/augment_eurosat.md",
    "howto/public-api-to-object-store": "examples/operator.md",
}
"""Pages of the site that are files of the repository, so that nothing stands in two places."""

_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#|mailto:)([^)\s#]+)(#[^)\s]*)?\)")


def page_of(docname: str) -> str:
    """Return the text of a page that is a file of the repository, its links leading to pages of the site.

    A link to a file that is no page becomes the name of the file.
    """
    source = ROOT / PAGES[docname]
    pages = {(ROOT / path).resolve(): name for name, path in PAGES.items()}
    up = "../" * docname.count("/")

    def led(match: re.Match[str]) -> str:
        picture, text, path, anchor = match.groups()
        target = (source.parent / path).resolve()
        if picture:
            return f"![{text}]({up}../{target.relative_to(ROOT.resolve()).as_posix()})"
        if target in pages:
            return f"[{text}]({up}{pages[target]}.md{anchor or ''})"
        return text if text.startswith("`") else f"`{text}`"

    return _LINK.sub(led, source.read_text("utf-8"))


def read_page(_app: Any, docname: str, content: list[str]) -> None:
    """Give Sphinx the text of a page that is a file of the repository."""
    if docname in PAGES:
        content[0] = page_of(docname)


def write_notebooks(_app: Any) -> None:
    """Write the tutorials as notebooks, which their pages offer for download."""
    folder = HERE / "_notebooks"
    folder.mkdir(exist_ok=True)
    for page in sorted((HERE / "tutorials").glob("*.md")):
        if page.stem != "index":
            notebook = read_myst_markdown_notebook(page.read_text("utf-8"), add_source_map=False)
            nbformat.write(notebook, folder / f"{page.stem}.ipynb")


def setup(app: Any) -> None:
    """Register the hooks."""
    app.connect("source-read", read_page)
    app.connect("builder-inited", write_notebooks)
