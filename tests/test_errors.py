"""Wrong uses: each refused by an error of ours that names culprit, value and remedy."""

from __future__ import annotations

import copy
import inspect
import json
import os
import pickle

import numpy as np
import pytest
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox

import eoaug
from eoaug import errors
from eoaug.errors import (
    BandError,
    EoaugError,
    GeneratorError,
    GridError,
    ParameterError,
    RadiometryError,
    SourceError,
    TargetError,
    TimeError,
    did_you_mean,
    first_line,
)
from eoaug.generators import Card
from eoaug.generators.classical import Classical
from eoaug.testing import TinyDenoiser, grid, scene

CLASSICAL, TINY = Classical(), TinyDenoiser()
SEVEN = {"generator": CLASSICAL}


def cube(**options):
    return scene((24, 30), **{"dates": 2} | options)


def mask(ds, **coords):
    return xr.zeros_like(ds.blue, dtype=bool).assign_coords(**coords)


class Reader(TinyDenoiser):
    """A generator that only inpaints."""

    @property
    def card(self):
        import dataclasses

        return dataclasses.replace(super().card, name="reader", verbs=frozenset({"inpaint"}))


S = eoaug.synthesize
I = eoaug.inpaint  # noqa: E741
E = eoaug.extend
R = eoaug.super_resolve

WRONG = {
    # the cube
    "no cube": (lambda: I(np.zeros((4, 4))), ParameterError, "ndarray"),
    "no bands": (lambda: I(cube()[["blue"]].astype(bool), **SEVEN), BandError, "'blue'"),
    "no spatial dims": (lambda: R(cube().rename(x="a"), **SEVEN), GridError, "'a'"),
    "an extra dim": (lambda: R(cube().expand_dims(level=3), **SEVEN), ParameterError, "'level' .* 3"),
    "no scale": (lambda: R(xr.Dataset({"B04": (("y", "x"), np.ones((8, 8), "uint16"))}), **SEVEN),
                 RadiometryError, "'B04' .* uint16"),
    "a scale of 0": (lambda: R(cube().blue.assign_attrs(scale_factor=0), **SEVEN), RadiometryError,
                     "scale_factor=0"),
    "irregular grid": (lambda: R(cube().assign_coords(x=np.arange(30.0) ** 2), **SEVEN), GridError, "'x'"),
    "a broken CRS": (lambda: R(cube().assign_coords(spatial_ref=((), 0, {"crs_wkt": "nonsense"})), **SEVEN),
                     GridError, "nonsense"),
    "dates twice": (lambda: R(cube().isel(time=[0, 0]), **SEVEN), TimeError, "2021-03-01"),
    "an empty tree": (lambda: R(xr.DataTree(), **SEVEN), BandError, "DataTree"),
    "a band without slot": (lambda: R(cube(bands=("blue", "lwir11")), generator=TinyDenoiser(bands=("blue",))),
                            BandError, "'lwir11'"),
    "two bands for a slot": (lambda: R(cube(bands=("blue",)).assign(B02=lambda d: d.blue),
                                       generator=TinyDenoiser(bands=("blue",))), BandError, "'B02'"),
    # the generator
    "unknown generator": (lambda: R(cube(), generator="clasical"), GeneratorError, "'clasical'.*classical"),
    "no generator": (lambda: R(cube(), generator=3), GeneratorError, "generator=3"),
    "a verb it lacks": (lambda: R(cube(), generator=Reader()), GeneratorError, "'reader' cannot super-resolve"),
    "a prompt it lacks": (lambda: S(cube(), prompt="sea", **SEVEN), GeneratorError, "'classical'.*prompt='sea'"),
    "a device, loaded": (lambda: S(cube(), device="cuda", **SEVEN), ParameterError, "'cuda'"),
    "a device it lacks": (lambda: S(cube(), device="cuda", generator="classical"), GeneratorError, "cuda"),
    # arguments
    "a misspelt argument": (lambda: I(cube(), membres=3), ParameterError, "'membres'.*'members'"),
    "a misspelt argument of a plan": (lambda: eoaug.plan("inpaint", cube(), maks=1), ParameterError, "'maks'.*'mask'"),
    "a misspelt verb": (lambda: eoaug.plan("inpiant", cube()), ParameterError, "'inpiant'.*'inpaint'"),
    "factor 3.5": (lambda: R(cube(), factor=3.5, **SEVEN), ParameterError, "3.5"),
    "factor 1": (lambda: R(cube(), factor=1, **SEVEN), ParameterError, "factor=1 "),
    "factor 9": (lambda: R(cube(), factor=9, **SEVEN), ParameterError, "factor=9"),
    "an unknown sensor": (lambda: R(cube(), sensor="lens", **SEVEN), ParameterError, "'lens'"),
    "an MTF of 2": (lambda: R(cube(), sensor=2.0, **SEVEN), ParameterError, "2.0"),
    "MTFs of other bands": (lambda: R(cube(), sensor=[0.3, 0.3], **SEVEN), ParameterError, "2 MTF values for 4"),
    "strength 2": (lambda: S(cube(), strength=2, **SEVEN), ParameterError, "strength=2"),
    "seed -1": (lambda: S(cube(), seed=-1, **SEVEN), ParameterError, "seed=-1"),
    "seed 1.5": (lambda: S(cube(), seed=1.5, **SEVEN), ParameterError, "seed=1.5"),
    "members 0": (lambda: S(cube(), members=0, **SEVEN), ParameterError, "members=0"),
    "reduce alone": (lambda: S(cube(), reduce="mean", **SEVEN), ParameterError, "reduce='mean'"),
    "reduce maximum": (lambda: S(cube(), members=2, reduce="max", **SEVEN), ParameterError, "'max'"),
    "quantile 7": (lambda: S(cube(), members=2, reduce=7, **SEVEN), ParameterError, "reduce 7"),
    "steps many": (lambda: S(cube(), steps="many", generator=TINY), ParameterError, "'many'"),
    "joint without steps": (lambda: S(cube(), joint_steps=2, **SEVEN), ParameterError, "joint_steps=2.*steps=0"),
    "joint as all steps": (lambda: S(cube(), joint_steps=4, generator=TINY), ParameterError, "joint_steps=4"),
    "a chunk of 0": (lambda: S(cube(), chunks={"x": 0}, **SEVEN), ParameterError, r"chunks\['x'\]=0"),
    "chunks along z": (lambda: S(cube(), chunks={"z": 9}, **SEVEN), ParameterError, "'z'"),
    "no batch": (lambda: S(cube(), batch_tiles=0, **SEVEN), ParameterError, "batch_tiles=0"),
    "a metadata field": (lambda: S(cube(), metadata={"clouds": 1}, generator=TINY), ParameterError, "'clouds'"),
    "metadata of one word": (lambda: S(cube(), metadata="month", generator=TINY), ParameterError, "metadata='month'"),
    "metadata in a list": (lambda: S(cube(), metadata=["month"], generator=TINY), ParameterError, "list"),
    "a cloud cover in words": (lambda: S(cube().assign_coords(cloud_cover=("time", ["low", "high"])), generator=TINY),
                               ParameterError, "cloud_cover.*low"),
    "more chunks than any graph holds": (lambda: S(like=grid((90_000, 90_000)), chunks=8, **SEVEN), ParameterError,
                                         "126,562,500 chunks and members of 1 x 8 x 8"),
    "a plan without dates": (lambda: eoaug.plan("extend", cube()), ParameterError, "extend needs times="),
    "a plan of a tree": (lambda: eoaug.plan("inpaint", xr.DataTree(cube())), ParameterError, "tree of 1 nodes"),
    "a verb in a list": (lambda: eoaug.plan(["inpaint"], cube()), ParameterError, "inpaint"),
    "a generator's class": (lambda: S(cube(), generator=TinyDenoiser), GeneratorError, "card of type cached_property"),
    "an empty layout": (lambda: S(cube(), layout=xr.Dataset(), generator=TINY), GridError, r"shape \(\)"),
    "chunks in words": (lambda: S(cube(), chunks="big", **SEVEN), ParameterError, "chunks='big'.*'auto'"),
    "a month of 13": (lambda: S(cube(), metadata={"month": 13}, generator=TINY), ParameterError, "13.*1 to 12"),
    "an array to reduce by": (lambda: S(cube(), members=2, reduce=np.ones(2), **SEVEN), ParameterError, "reduce"),
    "an array for progress": (lambda: S(cube(), progress=np.ones(2), **SEVEN), ParameterError, "progress"),
    "an array for a sequence": (lambda: E(cube(), times="2024-01-01", sequence=np.ones(2), **SEVEN), ParameterError,
                                "sequence"),
    "members times chunks": (lambda: S(like=grid((3000, 3000)), chunks=1, members=100, **SEVEN), ParameterError,
                             "900,000,000"),
    "nodata in words": (lambda: S(cube().assign(blue=lambda d: d.blue.assign_attrs(_FillValue="no")), **SEVEN),
                        RadiometryError, "'blue' has _FillValue='no'"),
    "nodata that does not fit": (lambda: S(cube().assign(blue=lambda d: d.blue.assign_attrs(_FillValue=-9999)), **SEVEN),
                                 RadiometryError, "'blue' has _FillValue=-9999.*uint16"),
    "a card's steps without verbs": (lambda: Card(name="x", steps=4), GeneratorError, "'x' has steps=4"),
    "a card's joint steps without verbs": (lambda: Card(name="x", joint_steps=2), GeneratorError, "joint_steps=2"),
    "metadata in words": (lambda: S(cube(), metadata={"year": "now"}, generator=TINY), ParameterError, "'now'"),
    "a guidance in words": (lambda: S(cube(), guidance="strong", generator=TINY), ParameterError, "'strong'"),
    "a prompt of numbers": (lambda: S(cube(), prompt=5, generator=TINY), ParameterError, "prompt=5"),
    "a layout elsewhere": (lambda: S(cube(), layout=xr.DataArray(np.ones((1, 2, 2))), generator=TINY), GridError,
                           r"\(1, 2, 2\)"),
    "a layout beside the cube": (lambda: S(cube(), layout=cube(dates=1).assign_coords(x=cube().x + 1000),
                                           generator=TINY), GridError, "layout lies on another grid"),
    "a layout nobody uses": (lambda: S(cube(), layout=cube(dates=0).blue, generator="embedded"), ParameterError,
                             "embedded uses a layout for new land only"),
    # synthesize from nothing
    "neither ds nor like": (lambda: S(**SEVEN), ParameterError, "neither"),
    "both ds and like": (lambda: S(cube(), like=grid(), **SEVEN), ParameterError, "both"),
    "times with a cube": (lambda: S(cube(), times=["2024-01-01"], **SEVEN), ParameterError, "2024-01-01"),
    "strength with like": (lambda: S(like=grid(), strength=0.5, **SEVEN), ParameterError, "0.5"),
    "a box without CRS": (lambda: S(like=GeoBox((4, 4), grid().affine, None), **SEVEN), GridError, "no CRS"),
    "a box without resolution": (lambda: S(like=(0, 0, 9, 9), crs=4326, **SEVEN), GridError, "resolution=None"),
    "a box without end": (lambda: S(like=(0, 0, np.inf, 9), crs=32633, resolution=1, **SEVEN), GridError, "inf"),
    "a pixel without end": (lambda: S(like=(0, 0, 9, 9), crs=32633, resolution=np.inf, **SEVEN), GridError, "inf"),
    "a box in words": (lambda: S(like="1234", crs=32633, resolution=1, **SEVEN), GridError, "'1234'"),
    "a GeoBox without area": (lambda: S(like=GeoBox((4, 4), Affine(0, 0, 0, 0, 0, 0), 32633), **SEVEN), GridError, "without area"),
    "too many pixels": (lambda: S(like=(0, 0, 9, 9), crs=32633, resolution=1e-9, **SEVEN), GridError,
                        "more than 100,000,000 pixels of 1e-09"),
    "a GeoBox of too many pixels": (lambda: S(like=GeoBox((10, 10**9), grid().affine, 32633), **SEVEN), GridError,
                                    "10 x 1,000,000,000 pixels"),
    "a date in words": (lambda: S(like=grid(), times=["soon"], **SEVEN), TimeError, "soon"),
    # extend
    "extend without dates": (lambda: E(cube(dates=0), times="2024-01-01", **SEVEN), TimeError, "no time"),
    "a date that is there": (lambda: E(cube(), times="2021-03-01T10:20:30", **SEVEN), TimeError, "2021-03-01"),
    "a new date twice": (lambda: E(cube(), times=["2024-01-01"] * 2, **SEVEN), TimeError, "2024-01-01"),
    "new dates within a second": (lambda: E(cube(), times=["2024-01-01T00:00:00.2", "2024-01-01T00:00:00.7"], **SEVEN),
                                  TimeError, "00.2.*00.7"),
    "a date of the far past": (lambda: E(cube(), times=["1677-09-21T00:12:43.2"], **SEVEN), TimeError, "1677"),
    "a span for a date": (lambda: E(cube(), times=np.timedelta64(1, "D"), **SEVEN), TimeError, "not a date"),
    "a date of the far future": (lambda: E(cube(), times=["2300-01-01"], **SEVEN), TimeError, "2300-01-01"),
    "a number for a date": (lambda: E(cube(), times=[2024], **SEVEN), TimeError, r"times=\[2024\]"),
    "no new date": (lambda: E(cube(), times=[], **SEVEN), TimeError, r"times=\[\]"),
    "no date at all": (lambda: E(cube(), times=[None], **SEVEN), TimeError, "None"),
    # inpaint
    "fill nothing": (lambda: I(cube(), fill="none", **SEVEN), ParameterError, "'none'"),
    "a mask of another size": (lambda: I(cube(), mask=mask(cube()).isel(x=slice(9)), **SEVEN), GridError, "24 x 9"),
    "a mask of another place": (lambda: I(cube(), mask=mask(cube(), x=cube().x + 20), **SEVEN), GridError,
                                "mask"),
    "a mask of another CRS": (lambda: I(cube(), mask=mask(scene((24, 30), dates=2, crs="EPSG:32634")), **SEVEN),
                              GridError, "another grid"),
    "a mask of other dates": (lambda: I(cube(), mask=mask(cube()).isel(time=[0]), **SEVEN), TimeError, "2021-03-11"),
    "a mask of too many dims": (lambda: I(cube(), mask=mask(cube()).expand_dims(k=2), **SEVEN), EoaugError, "k"),
    "an unknown mask": (lambda: I(cube(), mask="sclx", **SEVEN), ParameterError, "'sclx'"),
    "an array as mask": (lambda: I(cube(), mask=np.ones((24, 30)), **SEVEN), ParameterError, "ndarray"),
    "classes without a band": (lambda: I(cube(), mask=["cloud"], **SEVEN), ParameterError, "'cloud'"),
    "an unknown class": (lambda: I(cube().assign(scl=lambda d: (d.blue.dims, np.zeros(d.blue.shape, "uint8"))),
                                   mask=["kloud"], **SEVEN), EoaugError, "'kloud'"),
}  # fmt: skip


def check(call, kind, words):
    with pytest.raises(kind, match=f"(?s){words}") as caught:
        call()
    error = caught.value
    assert isinstance(error, EoaugError)
    assert len(error.problem) > 15
    assert len(error.remedy) > 8, "what is to be typed instead?"
    assert str(error) == f"{error.problem}\n  -> {error.remedy}"


@pytest.mark.parametrize("use", WRONG)
def test_wrong_uses_of_the_verbs(use):
    check(*WRONG[use])


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"source": "no/such/place"}, SourceError, "no/such/place"),
        ({"source": 5}, EoaugError, "5|int"),
        ({"bands": ["B99"]}, BandError, "'B99'"),
        ({"bbox": (10, 50, 5)}, EoaugError, r"\(10, 50, 5\)|3"),
        ({"bbox": (0, 0, 1, 1)}, SourceError, "bbox"),
        ({"datetime": "sometime"}, EoaugError, "sometime"),
        ({"datetime": "1999"}, SourceError, "1999"),
        ({"collections": ["nowhere"]}, SourceError, "nowhere"),
        ({"ids": ["nobody"]}, SourceError, "nobody"),
        ({"limit": 0}, ParameterError, "limit=0"),
        ({"resolution": -10}, ParameterError, "-10"),
        ({"crs": "EPSG:0"}, EoaugError, "EPSG:0"),
    ],
)
def test_wrong_uses_of_open_cube(options, kind, words):
    sample = os.path.join(os.path.dirname(__file__), "..", "catalogs", "sample")
    given = {"source": sample, "collections": ["sentinel-2-l2a"]} | options
    check(lambda: eoaug.open_cube(**given), kind, words)


def test_wrong_uses_of_write(tmp_path):
    ds = cube()
    file = tmp_path / "file"
    file.write_text("hello")
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "catalog.json").write_text(json.dumps({"type": "Feature"}))
    lost = eoaug.super_resolve(ds, **SEVEN)
    lost.attrs = {}
    eoaug.write(ds, tmp_path / "twice", ids=["a", "b"])
    wrong = [
        (lambda: eoaug.write(ds, tmp_path / "new", format="png"), ParameterError, "'png'"),
        (lambda: eoaug.write(ds, file), TargetError, "file"),
        (lambda: eoaug.write(ds, strange), TargetError, "Feature"),
        (lambda: eoaug.write(lost, tmp_path / "new"), TargetError, "provenance"),
        (lambda: eoaug.write(ds, tmp_path / "twice", ids=["a", "b"]), TargetError, "'a' already exists"),
        (lambda: eoaug.write(ds, tmp_path / "new", ids=["a"]), ParameterError, "1|'a'"),
        (
            lambda: eoaug.write(ds.drop_vars("spatial_ref").drop_attrs(), tmp_path / "new"),
            GridError,
            "coordinate",
        ),
        (lambda: eoaug.write(ds.isel(time=0, drop=True), tmp_path / "new"), TimeError, "time|date"),
        (lambda: eoaug.write(ds.expand_dims(level=2), tmp_path / "new"), TargetError, "'level'"),
        (lambda: eoaug.write(ds.astype(complex), tmp_path / "new"), EoaugError, "complex"),
    ]
    for call, kind, words in wrong:
        check(call, kind, words)
    assert not (tmp_path / "new").exists()


# -- the errors themselves ----------------------------------------------------------------------------

KINDS = [getattr(errors, name) for name in errors.__all__ if name.endswith("Error")]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_errors_cross_processes_whole(kind):
    error = kind("it broke at 3", "mend it")
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is kind
        assert (again.problem, again.remedy, str(again)) == (error.problem, error.remedy, str(error))
    assert issubclass(kind, ValueError)
    assert inspect.getdoc(kind)


def test_a_context_begins_the_problem_and_changes_nothing_else():
    with (
        pytest.raises(GridError) as caught,
        errors.error_context("inpaint"),
        errors.error_context("mask"),
    ):
        raise GridError("dimension 'x' is empty", "check it")
    error = caught.value
    assert (error.problem, error.remedy) == ("inpaint: mask: dimension 'x' is empty", "check it")
    assert str(error) == str(pickle.loads(pickle.dumps(error))) == f"{error.problem}\n  -> check it"
    with pytest.raises(ZeroDivisionError, match=r"^division by zero$"), errors.error_context("inpaint"):
        _ = 1 / 0


@pytest.mark.parametrize(
    "call",
    [
        lambda: R(cube(), factor=9, **SEVEN),
        lambda: eoaug.plan("super_resolve", cube(), factor=9, **SEVEN),
        lambda: R(xr.DataTree(cube()), factor=9, **SEVEN),
    ],
    ids=["the verb", "its plan", "a tree"],
)
def test_a_message_begins_with_the_verb_once(call):
    with pytest.raises(ParameterError) as caught:
        call()
    assert caught.value.problem.count("super_resolve") == 1
    assert caught.value.problem.startswith("super_resolve: factor=9")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one.\ntwo"), "one"),
        (ValueError("\n  one ...\r\ntwo"), "one"),
        (KeyError(), "KeyError"),
        (ValueError("."), "ValueError"),
        (ValueError("x" * 400), "x" * 300),
    ],
)
def test_first_line_has_no_full_stop_and_is_never_empty(error, line):
    assert first_line(error) == line


def test_did_you_mean_names_the_most_similar_only():
    known = ["inpaint", "extend"]
    assert did_you_mean("inpiant", known) == "did you mean 'inpaint'?"
    assert did_you_mean("zzz", known) == ""
    assert did_you_mean("paint", ["a point"], cutoff=0.95) == ""


# -- inputs that were once wrong without a word --------------------------------------------------------


def flagged(ds, name, values, **attrs):
    layer = xr.full_like(ds.blue, 0, dtype=np.uint8).copy(data=np.resize(np.uint8(values), ds.blue.shape))
    return ds.assign({name: layer.drop_attrs().assign_attrs(grid_mapping="spatial_ref", **attrs)})


def stored(ds, **attrs):
    """Digital numbers in the blue band, with other attributes and no encoding."""
    numbers = xr.full_like(ds.blue, 1000, dtype=np.int16).drop_attrs().drop_encoding()
    return ds.assign(blue=numbers.assign_attrs(common_name="blue", grid_mapping="spatial_ref", **attrs))


def stack(ds, **attrs):
    return ds[["blue", "red"]].to_dataarray("band").assign_attrs(**attrs)


def of_calendar(calendar):
    dates = xr.date_range("2024-02-01", periods=2, calendar=calendar, use_cftime=True)
    return cube().assign_coords(time=dates)


HIDDEN = {
    "mask with NaN": (lambda: I(cube(), mask=mask(cube()).astype(float) * np.nan, **SEVEN), ParameterError, "NaN"),
    "mask of other dates": (
        lambda: I(cube(), mask=mask(cube()).assign_coords(time=cube().time + np.timedelta64(1, "D")), **SEVEN),
        TimeError, "no date",
    ),
    "mask of another grid": (
        lambda: I(cube(), mask=mask(cube()).assign_coords(x=cube().x + 5), **SEVEN), GridError, "mask|grid",
    ),
    "numbers that nothing explains": (
        lambda: I(flagged(cube(), "layer", [0, 3, 7]), mask="layer", **SEVEN), ParameterError, "0, 3, 7",
    ),
    "a name that does not say which is good": (
        lambda: I(flagged(cube(), "udm2", [0, 1]), mask="udm2", **SEVEN), ParameterError, "'udm2'",
    ),
    "a valid mask given as booleans": (
        lambda: I(flagged(cube(), "valid", [0, 1]), mask=flagged(cube(), "valid", [0, 1]).valid == 1, **SEVEN),
        ParameterError, "valid",
    ),
    "flags that do not fit": (
        lambda: I(flagged(cube(), "scl", [4], flag_values=[4, 9], flag_meanings="land"), mask="scl", **SEVEN),
        ParameterError, "2 flag_values and 1 flag_meanings",
    ),
    "a class that is not there": (
        lambda: I(flagged(cube(), "scl", [4, 9]), mask=["clouds"], **SEVEN), ParameterError, "clouds",
    ),
    "a percentage under the name of a mask": (
        lambda: I(flagged(cube(), "cloud", [0, 90]), mask="cloud", **SEVEN), ParameterError, "holds 90",
    ),
    "classes alone": (lambda: R(flagged(cube(), "scl", [4])[["scl"]], factor=2, **SEVEN), BandError, "scl"),
    "no known pixel": (lambda: I(cube() * np.float32(np.nan), **SEVEN), ParameterError, "not one pixel"),
    "dates of 360 days": (lambda: E(of_calendar("360_day"), times=["2024-03-01"], **SEVEN), TimeError, "360_day"),
    "dates of 365 days": (lambda: I(of_calendar("noleap"), fill="all", **SEVEN), TimeError, "noleap"),
    "dates as text": (
        lambda: I(cube().assign_coords(time=["20240601", "20240611"]), fill="all", **SEVEN), TimeError, "20240601",
    ),
    "numbers without a scale": (lambda: R(stored(cube()), factor=2, **SEVEN), RadiometryError, "'blue'"),
    "two scales": (
        lambda: R(stored(cube(), scale_factor=1e-4, scale=1e-3), factor=2, **SEVEN), RadiometryError, "0.001|1e-03",
    ),
    "a scale of NaN": (
        lambda: R(stored(cube(), scale_factor=float("nan")), factor=2, **SEVEN), RadiometryError, "nan",
    ),
    "scales of other bands": (
        lambda: R(stack(cube(), scales=(1e-4, 1e-3, 1e-2)), factor=2, **SEVEN), BandError, "2 bands",
    ),
    "bands of one name": (
        lambda: R(stack(cube()).assign_coords(band=["red", "red"]), factor=2, **SEVEN), BandError, "'red'",
    ),
    "marks that were dropped": (
        lambda: I(I(cube(), fill="all", **SEVEN).drop_vars("synthetic"), fill="all", **SEVEN),
        ParameterError, "synthetic",
    ),
    "marks that were computed": (
        lambda: I(I(cube(), fill="all", **SEVEN).mean("time", keep_attrs=True), fill="all", **SEVEN),
        ParameterError, "synthetic",
    ),
    "a resampling that GDAL does not have": (
        lambda: eoaug.open_cube(eoaug.sample(), ids=["S2A_MSIL2A_20170617T113321_36_85"], resampling="none such"),
        EoaugError, "none such",
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*filled nothing:eoaug.errors.EoaugWarning")
@pytest.mark.parametrize("name", HIDDEN)
def test_what_was_silently_wrong_is_refused(name):
    check(*HIDDEN[name])
