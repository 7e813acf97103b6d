"""What a job's report shows of names that others chose."""

from __future__ import annotations

import html
import re

from hypothesis import given
from hypothesis import strategies as st

from eoaug.jobs.report import Failure, Report


@given(st.text(alphabet=st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1, max_size=40))
def test_names_are_legible_and_no_markdown(name):
    name = " ".join(name.split()) or "_"
    failure = Failure(item=name, error="SourceError", problem="lost", remedy="look")
    row = Report(job="j", failures=(failure,)).to_markdown().splitlines()[-1]
    shown = row.removeprefix("| ").split(" | ")[0]
    assert html.unescape(shown) == name
    assert not re.search(r"[\\`*_\[\]<>|!]", shown)
