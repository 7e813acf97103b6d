"""The house is kept: short files and functions, one word for one thing, one of each thing, plain English."""

from __future__ import annotations

import ast
import re
import statistics
from collections import Counter, defaultdict
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "eoaug"
FILES = sorted(PACKAGE.rglob("*.py"))
PAGES = sorted(
    path
    for pattern in (
        "*.md",
        "docs/**/*.md",
        "examples/*.md",
        "examples/*.py",
        "catalogs/**/*.md",
        "eoaug/**/*.md",
    )
    for path in ROOT.glob(pattern)
)
ROOMS = sorted({path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in FILES})

LONG_FILES: dict[str, str] = {}
"""Files above 500 lines, by what makes them one thing."""

LONG_FUNCTIONS: dict[str, str] = {}
"""Functions above 60 lines, by the paper or algorithm that they read like."""

LONG_CLASSES: dict[str, str] = {}
"""Classes above 250 lines, by what makes them one thing."""


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def nodes(path: Path) -> list[ast.AST]:
    """Definitions and calls of a file; most tests here look through all files."""
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Call
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kinds)]


def definitions(path: Path, *kinds: type[ast.AST]) -> list[ast.AST]:
    return [node for node in nodes(path) if isinstance(node, kinds)]


def lines_of(node: ast.AST) -> int:
    """Lines of a definition without its docstring."""
    body = node.body
    doc = (
        body[0]
        if body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant)
        else None
    )
    documented = (
        doc.end_lineno - doc.lineno + 1 if doc is not None and isinstance(doc.value.value, str) else 0
    )
    return node.end_lineno - node.lineno + 1 - documented


# -- sizes --------------------------------------------------------------------------------------------


def test_files_are_short():
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in FILES}
    assert statistics.median(lengths.values()) <= 200
    assert {name for name, lines in lengths.items() if lines > 500} == set(LONG_FILES)


@pytest.mark.parametrize("where", ROOMS)
def test_functions_and_classes_are_short(where):
    found = {
        f"{name_of(path)}:{node.name}": lines_of(node)
        for path in FILES
        if room(path) == where
        for node in definitions(path, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        if lines_of(node) > (250 if isinstance(node, ast.ClassDef) else 60)
    }
    allowed = {*LONG_FUNCTIONS, *LONG_CLASSES}
    assert {name: lines for name, lines in found.items() if name not in allowed} == {}


def test_exceptions_are_needed():
    names = {
        f"{name_of(path)}:{node.name}"
        for path in FILES
        for node in definitions(path, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        if lines_of(node) > 60
    }
    assert set(LONG_FUNCTIONS) | set(LONG_CLASSES) <= names


@pytest.mark.parametrize("where", ROOMS)
def test_parameter_lists_are_short(where):
    found = {}
    for path in FILES:
        if room(path) != where:
            continue
        for node in definitions(path, ast.FunctionDef):
            arguments = node.args
            own = [a.arg for a in (*arguments.posonlyargs, *arguments.args) if a.arg not in ("self", "cls")]
            # Commands of the command line and the public verbs list their options; nobody else does.
            private = node.name.startswith("_")
            long = len(own) > 8 or (len(own) + len(arguments.kwonlyargs) > 8 and private)
            if long and where != "cli":
                found[f"{name_of(path)}:{node.name}"] = len(own) + len(arguments.kwonlyargs)
    assert found == {}


# -- one of each --------------------------------------------------------------------------------------


def test_no_two_classes_share_a_name():
    places = defaultdict(list)
    for path in FILES:
        for node in definitions(path, ast.ClassDef):
            places[node.name.lstrip("_")].append(name_of(path))
    assert {name: paths for name, paths in places.items() if len(paths) > 1} == {}


def test_nothing_stands_twice():
    """No six lines of code in a row stand in two places."""
    seen: dict[tuple[str, ...], tuple[str, int]] = {}
    twice = []
    for path in FILES:
        lines = [
            (number, text)
            for number, line in enumerate(path.read_text().splitlines(), 1)
            if len(text := line.strip()) > 2 and not text.startswith(("#", "import ", "from ", '"""'))
        ]
        for first in range(len(lines) - 5):
            run = lines[first : first + 6]
            if any(after[0] - before[0] > 3 for before, after in pairwise(run)):
                continue
            key = tuple(text for _, text in run)
            here = (name_of(path), run[0][0])
            if key in seen and (seen[key][0] != here[0] or here[1] - seen[key][1] > 5):
                twice.append((seen[key], here))
            seen.setdefault(key, here)
    assert twice == []


# -- plain English ------------------------------------------------------------------------------------

BANNED = [
    r"told", r"foretold", r"foretells?", r"beside", r"land from nothing", r"from nothing", r"made-up", r"made up",
    r"nodata forms?", r"all well", r"not sound", r"a wrong use", r"seal(ed|s)?", r"broken_seal",
    r"too large to be true", r"by a declared rule", r"less that\b", r"tell (what|how)", r"places far apart",
    r"another seed, another draw", r"its card's", r"on its sleeve", r"its company", r"walks?", r"walked", r"_walk",
    r"doubts?", r"doubted", r"remembers?", r"people or rock", r"text encoders say", r"learned words?",
    r"opponents?", r"elsewhen", r"lets? go", r"let_go", r"under way", r"_books", r"_team", r"strangers?",
    r"anew", r"go(es)? on from", r"what stands", r"that stands?", r"stands? there", r"hand(ed)? on",
    r"a town much", r"would print", r"grounds", r"nothing to go by", r"is no (name|text|folder|number|integer|pair)",
]  # fmt: skip
"""Words and phrases for which the field has its own: see CONTRIBUTING.md."""

ALLOWED = [
    r"os\.walk", r"ast\.walk", r"walk_packages", r"root\.walk", r"\.walk\(", r"random walk", r"walk of ",
]  # fmt: skip
"""Where such a word is another library's name, or the field's own."""

_BANNED = re.compile(r"(?<![A-Za-z])(" + "|".join(BANNED) + r")(?![A-Za-z])", re.IGNORECASE)
_ALLOWED = re.compile("|".join(ALLOWED))


def plain(path: Path) -> list[str]:
    text = path.read_text()
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        found += [
            f"{name_of(path)}:{number}: {match[0]}" for match in _BANNED.finditer(_ALLOWED.sub("", line))
        ]
    return found


@pytest.mark.parametrize("where", ROOMS)
def test_code_speaks_the_fields_english(where):
    assert [line for path in FILES if room(path) == where for line in plain(path)] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_pages_speak_the_fields_english(page):
    assert plain(page) == []


ERRORS = {
    node.name for node in definitions(PACKAGE / "errors.py", ast.ClassDef) if node.name.endswith("Error")
}


def shown(node: ast.AST) -> tuple[str, str]:
    """First and last characters of a message; an inserted value counts as a lower-case word."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value[:2], node.value[-1:]
    if isinstance(node, ast.JoinedStr) and node.values:
        first, last = node.values[0], node.values[-1]
        begin = first.value[:2] if isinstance(first, ast.Constant) else "x"
        return begin, last.value[-1:] if isinstance(last, ast.Constant) else "x"
    return "x", "x"


@pytest.mark.parametrize("where", ROOMS)
def test_errors_have_one_style(where):
    """Problem and remedy begin in lower case (but for names) and have no full stop at the end."""
    found = []
    for path in FILES:
        if room(path) != where:
            continue
        for node in definitions(path, ast.Call):
            called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            if called not in ERRORS:
                continue
            for part in node.args[:2]:
                begin, end = shown(part)
                # A capital before a small letter begins a sentence; names (CRS, GDAL, B02) have two.
                if end == "." or (begin[:1].isupper() and begin[1:2].islower()):
                    found.append(f"{name_of(path)}:{node.lineno}: {begin}...{end}")
    assert found == []


def test_no_two_files_of_tests_share_a_name() -> None:
    """Folders of tests that are no packages share one space of module names."""
    names = Counter(path.name for path in Path(__file__).parent.rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []
