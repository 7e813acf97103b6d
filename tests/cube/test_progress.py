"""Bars count what is done, once, and end at what was planned."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest

import eoaug
from eoaug.errors import ParameterError
from eoaug.progress import ProgressCounter, track
from eoaug.testing import CountingGenerator, TinyDenoiser, grid, scene


@pytest.fixture
def drawn(monkeypatch):
    """The bars that were drawn: (what, unit, total, counts) of each."""
    bars = []

    class Bar:
        def __init__(self, *, total, desc, unit, **_):
            self.kept = (desc, unit, total, [])
            bars.append(self.kept)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def update(self, count):
            self.kept[3].append(count)

    import tqdm.auto

    monkeypatch.setattr(tqdm.auto, "tqdm", Bar)
    return bars


@pytest.mark.parametrize("joint", [0, 1, 2])
@pytest.mark.parametrize("progress", [True, "steps"])
def test_a_bar_counts_every_unit_of_an_unbounded_synthesis(drawn, joint, progress):
    box = grid((150, 170))
    options = {"generator": TinyDenoiser(), "times": ["2021-06-01"], "steps": 4, "joint_steps": joint}
    lazy = eoaug.synthesize(like=box, **options)
    assert not drawn, "a lazy result has nothing to watch yet"
    like = lazy.compute()
    made = eoaug.plan("synthesize", like=box, **options)
    eoaug.synthesize(
        like, strength=0.5, **{k: v for k, v in options.items() if k != "times"}, progress=progress
    )
    ((what, unit, total, counts),) = drawn
    assert (what, unit) == ("synthesize", "tile" if progress is True else "step")
    assert sum(counts) == total
    assert max(counts) <= made.card.batch, "one batch at a time, and no jump for tiles that could not be"
    first = made.tiles(made.core(0, 0))[0]
    if progress is True:
        assert total == len(first)
    else:
        assert total >= 4 * len(first)


def test_tiles_with_nothing_to_fill_count_as_done(drawn):
    ds = scene((300, 300), dates=2, content="texture")
    mask = ds.blue.astype(bool) & False
    mask.values[0, 150, 150] = True
    generator = CountingGenerator(TinyDenoiser())
    eoaug.inpaint(ds, mask=mask, generator=generator, joint_steps=0, progress=True)
    ((_, _, total, counts),) = drawn
    assert sum(counts) == total
    assert counts[:-1] == [generator.requests], "those that were made, and the rest"


def test_a_bar_moves_within_a_chunk_of_joint_steps(drawn):
    """All tiles of such a chunk are finished together, in its last step."""
    eoaug.synthesize(scene((200, 200)), generator=TinyDenoiser(), steps=4, joint_steps=2, progress=True)
    ((_, _, total, counts),) = drawn
    assert sum(counts) == total
    assert counts[-1] <= total / 4


@pytest.mark.parametrize("progress", [True, "steps"])
def test_a_sequence_has_one_bar(drawn, progress):
    ds = scene((100, 100), dates=2, content="texture")
    options = {"times": ["2021-03-05", "2021-03-15"], "generator": TinyDenoiser(), "progress": progress}
    for members in (None, 2):
        eoaug.extend(ds, sequence=True, members=members, **options)
        eoaug.extend(ds, sequence=False, members=members, **options)
    totals = [total for _, _, total, _ in drawn]
    assert totals == [totals[0], totals[0], 2 * totals[0], 2 * totals[0]]
    assert totals[0] > 0
    assert all(sum(counts) == total and len(counts) > 4 for _, _, total, counts in drawn)


def test_an_unknown_progress_is_refused():
    with pytest.raises(ParameterError, match="progress='step'"):
        eoaug.synthesize(scene((70, 70)), generator=TinyDenoiser(), progress="step")


def test_members_count_each(drawn):
    ds = scene((100, 100), content="texture")
    for members, reduce in ((None, None), (3, None), (3, "mean")):
        eoaug.synthesize(ds, generator=TinyDenoiser(), members=members, reduce=reduce, progress=True)
    one, several, mean = (total for _, _, total, _ in drawn)
    assert several == mean == 3 * one
    assert all(sum(counts) == total for _, _, total, counts in drawn)


def test_no_bar_is_drawn_when_none_is_wanted(drawn, monkeypatch):
    eoaug.synthesize(scene((70, 70)), generator=TinyDenoiser(), progress=False)
    assert not drawn


def test_a_log_stays_quiet(monkeypatch):
    """Without a terminal, and unasked, nothing is written."""
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    with track(3, what="work", unit="tile") as seen:
        seen.tiles(3)
    assert log.getvalue() == ""


def test_a_watch_settles_what_was_not_needed():
    counts = []
    seen = ProgressCounter(counts.append)
    seen.tiles(2)
    seen.steps(100)
    seen.settle(5)
    seen.tiles(4)
    seen.settle(4)
    assert np.cumsum(counts).tolist()[-1] == 9


def test_a_line_per_interval_where_there_is_no_terminal(capsys):
    from time import sleep

    from eoaug.progress import line_per_interval

    with line_per_interval(lambda: "3 items", every_s=0.02):
        sleep(0.2)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 2
    assert all(line.startswith("eoaug: 3 items, ") and line.endswith(" s") for line in lines)
    with line_per_interval(lambda: "nothing", every_s=60):
        pass
    assert capsys.readouterr().err == ""


def test_long_work_without_a_terminal_prints_lines(capsys, monkeypatch):
    from time import sleep

    from eoaug import progress

    monkeypatch.setattr(progress, "LINE_S", 0.02)
    with progress.track(4, what="inpaint", unit="tile") as counter:
        counter.tiles(3)
        sleep(0.1)
    assert "eoaug: inpaint: 3 of 4 tiles, " in capsys.readouterr().err
    with progress.track(4, what="inpaint", unit="tile", progress=False):
        sleep(0.1)
    assert capsys.readouterr().err == ""
