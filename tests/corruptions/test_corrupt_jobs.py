"""corrupt on the command line and as the verb of a job."""

from __future__ import annotations

import numpy as np
import pytest
from typer.testing import CliRunner

import eoaug
from eoaug.cli.app import app
from eoaug.cli.verbs import command
from eoaug.jobs.config import read_job
from eoaug.jobs.planning import plan_job
from eoaug.stac.validate import validate

ITEM = "S2A_MSIL2A_20170613T101031_87_48"


def job(out, **parameters):
    return {
        "source": {"catalog": "sample", "ids": [ITEM], "bands": ["B04"]},
        "verb": "corrupt",
        "parameters": {"kind": "clouds", "severity": 2, "seed": 3, **parameters},
        "output": {"catalog": str(out)},
        "run": {"chunks": 128, "pictures": 0},
    }


def test_a_job_corrupts_items_once(tmp_path):
    config = job(tmp_path / "out", pair=True)
    plan = plan_job(config)
    assert (plan.items, plan.planned, plan.model_calls, plan.unreadable) == (1, 1, 0, ())
    assert plan.stored_bytes > 0
    report = eoaug.run_job(config, progress=False)
    assert (report.published, report.failures) == (1, ())
    assert eoaug.run_job(config, progress=False).skipped == 1
    assert eoaug.run_job(job(tmp_path / "out", pair=True, cover=0.5), progress=False).published == 1
    assert validate(tmp_path / "out").sound
    given = eoaug.open_cube(eoaug.sample(), ids=[ITEM], bands=["B04"], chunks=None)
    written = [
        eoaug.open_cube(tmp_path / "out", ids=[i.name], chunks=None)
        for i in sorted((tmp_path / "out" / "sentinel-2-l2a-eoaug").iterdir())
        if i.is_dir()
    ]
    for cube in written:
        cover = cube.eoaug.provenance.parameters["cover"]
        expected = eoaug.corrupt(given, "clouds", 2, seed=3, pair=True, cover=cover)
        for name in ("B04", "B04_clear", "added_cloud_mask", "synthetic"):
            # Files hold reflectances as integers.
            np.testing.assert_allclose(cube[name].values, expected[name].values, atol=5.1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parameters": {"severity": 3}}, "no kind"),
        ({"parameters": {"kind": "cluods"}}, "no corruption 'cluods'"),
        ({"parameters": {"kind": "clouds", "covr": 0.2}}, "no parameter 'covr'"),
        ({"parameters": {"kind": "clouds", "chunks": 10}}, "no parameter of corrupt in a job 'chunks'"),
        ({"generator": "classical"}, "generator 'classical'"),
    ],
)
def test_a_job_is_checked_before_it_runs(tmp_path, change, message):
    with pytest.raises(eoaug.EoaugError, match=message):
        read_job(job(tmp_path / "out") | change)


def test_the_command(tmp_path):
    out = tmp_path / "out"
    run = CliRunner().invoke(
        app,
        [
            *("corrupt", "sample", "--ids", ITEM, "--bands", "B04", "--kind", "clouds"),
            *("--values", "cover=0.25,shadows=false", "--seed", "2", "--out", str(out)),
        ],
    )
    assert run.exit_code == 0, run.output
    cube = eoaug.open_cube(out, chunks=None)
    assert (cube.added_cloud_mask.values == 1).mean() == 0.25
    assert not (cube.added_cloud_mask.values == 2).any()
    assert cube.eoaug.provenance.parameters["shadows"] is False
    wrong = CliRunner().invoke(
        app, ["corrupt", "sample", "--ids", ITEM, "--kind", "cloudss", "--out", str(out)]
    )
    assert wrong.exit_code == 2
    assert "did you mean 'clouds'" in wrong.output
    assert command("corrupt", plan=False).__doc__
