"""Land tuned on a training set: its classes, colours and bands, judged by images that were held back."""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

import eoaug
from eoaug.augmentation.training_items import TrainingItem, TrainingSet
from eoaug.cli.app import app
from eoaug.datasets.eurosat import CLASSES as EUROSAT
from eoaug.errors import EoaugError
from eoaug.generators.embedded.ground_cover import CLASSES
from eoaug.generators.embedded.land import VISIBLE, LandPlane
from eoaug.generators.embedded.legend import SHIPPED, LandClass, Legend
from eoaug.generators.embedded.weights_config import land_for, load_config
from eoaug.land_tuning.covers import LIKE, cover_of_name, cover_of_word
from eoaug.land_tuning.fit import LandFit, painted_bands
from eoaug.land_tuning.tune import tune_land
from eoaug.land_tuning.windows import read_windows

EDGE = 24
BANDS = ("red", "nir", "green", "yellow")
BOX = (500_000, 5_000_000, 500_320, 5_000_320)


@cache
def pixels_of(cover, seed):
    if cover == "none":
        return 0.3 + 0.1 * np.sin(np.mgrid[:EDGE, :EDGE].sum(axis=0) + seed) * np.ones((4, 1, 1))
    plane = LandPlane(seed, 0, 0, tuple(float(name == cover) for name in CLASSES), 10.0)
    values = land_for(load_config(None)).pixels(
        plane, (0, 0), (EDGE, EDGE), bands=("red", "nir", "green", "red")
    )
    return 0.02 + np.array([1.6, 1.0, 1.3, 1.2])[:, None, None] * values


@dataclass(frozen=True)
class Drawn:
    """An image of known land in colours that the shipped statistics do not have; other bands, and no yellow among them."""

    cover: str
    seed: int

    def open(self):
        values = pixels_of(self.cover, self.seed)
        names = dict(zip(BANDS, values.astype(np.float32), strict=True))
        grid = {"y": 10.0 * np.arange(EDGE)[::-1] + 5e6, "x": 10.0 * np.arange(EDGE) + 5e5}
        return xr.Dataset(
            {name: (("y", "x"), band, {"units": "1"}) for name, band in names.items()}, grid
        ).odc.assign_crs("EPSG:32633")

    def place(self):
        return None

    def identity(self):
        return f"{self.cover} {self.seed}"


def set_of(covers, count=22, test=0):
    items = [
        TrainingItem(
            f"{name}-{number}",
            Drawn(cover, 1000 * k + number),
            name,
            "test" if number < test else "train",
        )
        for k, (name, cover) in enumerate(covers.items())
        for number in range(count)
    ]
    return TrainingSet(tuple(items), "classes", "class", tuple(covers))


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    train = set_of({"Winter maize": "annual_crop", "Quarter 7": "residential", "Stripes": "none"})
    return tune_land(
        train, tmp_path_factory.mktemp("tuned") / "own-land", classes={"Quarter 7": "residential"}, images=8,
        progress=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "cover"),
    [
        *zip(EUROSAT, CLASSES, strict=True),
        *(("sugar_cane", "annual_crop"), ("Winter wheat", "annual_crop"), ("Vineyards", "permanent_crop")),
        *(("dense_residential", "residential"), ("Broad-leaved forest", "forest"), ("Water bodies", "sea_lake")),
        *(("forest road", None), ("airport", None), ("class 7", None), ("", None)),
    ],
)  # fmt: skip
def test_the_name_of_a_class_says_its_ground_cover_or_nothing(name, cover):
    assert cover_of_name(name) == cover


def test_a_user_names_a_cover_by_any_of_its_words():
    assert cover_of_word("hops", "PermanentCrop") == cover_of_word("hops", "orchards") == "permanent_crop"
    assert cover_of_word("cloud", "none") is None
    with pytest.raises(EoaugError, match=r"'hops' is to look like 'forrest'.*\n.*did you mean 'forest'"):
        cover_of_word("hops", "forrest")


def test_a_class_is_offered_if_it_passes_and_not_drawn_as_something_else(tuned):
    maize, quarter, stripes = tuned.classes
    assert (maize.cover, maize.how, maize.offered) == ("annual_crop", "name", True)
    assert (quarter.cover, quarter.how, quarter.offered) == ("residential", "word", True)
    assert (stripes.cover, stripes.how, stripes.offered) == (None, "likeness", False)
    assert stripes.likeness > LIKE
    assert "no ground cover has its structure" in stripes.reason
    for one in (maize, quarter):
        assert one.named.after > 0.6
        assert one.colours.after < one.colours.real + 0.1
        assert np.isnan(one.colours.before)  # the shipped statistics know no yellow
    card = eoaug.load(str(tuned.path)).card
    assert card.name == "own-land"
    assert card.classes == ("Winter maize", "Quarter 7")
    assert {*BANDS, *load_config(None).card.bands, "rededge075"} <= card.land_bands
    stored = json.loads((tuned.path / "tuning.json").read_text())
    assert [one["offered"] for one in stored["classes"]] == [True, True, False]
    assert "not offered: no ground cover" in (tuned.path / "README.md").read_text()
    assert (tuned.path / "land.png").stat().st_size > 10_000


def test_a_prompt_draws_a_class_in_the_colours_and_bands_of_the_set(tuned):
    how = {"like": BOX, "crs": "EPSG:32633", "resolution": 10, "seed": 4, "generator": str(tuned.path)}
    own = eoaug.synthesize(prompt="winter maize", bands=[*BANDS, "blue", "swir16"], labels="crop", **how)
    own = own.compute()
    assert set(np.unique(own.crop)) == {1}
    assert own.crop.attrs["flag_meanings"].split() == ["Winter_maize", "Quarter_7"]
    assert np.isfinite(own.blue).all()
    assert 0.02 < float(own.swir16.mean()) < 0.5
    # The gate draws what the verb draws.
    land = land_for(load_config(str(tuned.path)))
    top, left = round(-own.y.values[0] / 10 - 0.5), round(own.x.values[0] / 10 - 0.5)
    plane = LandPlane(4, 0, 0, land.legend.shares_of("winter maize"), 10.0)
    pixels = land.pixels(plane, (top, left), (32, 32), bands=BANDS)
    for band, drawn in zip(BANDS, pixels, strict=True):
        np.testing.assert_allclose(own[band].squeeze().values, drawn, atol=1e-5)
    with pytest.raises(EoaugError, match=r"'stripes' holds no word that generator 'own-land' knows"):
        eoaug.synthesize(prompt="stripes", **how)


def test_the_folder_is_a_generator_to_every_part(tuned):
    generator = eoaug.load(tuned.path)
    assert pickle.loads(pickle.dumps(generator)).card.sha256 == generator.card.sha256
    assert generator.card.sha256 != eoaug.load("embedded").card.sha256
    policy = {
        "per_real": 1,
        "draws": [{"verb": "synthesize", "parameters": {"strength": 1.0}, "prompt": "{{ class }}"}],
    }
    train = set_of({"Winter maize": "annual_crop"}, 2)
    report = eoaug.augment(
        train, tuned.path.parent / "made", policy=policy, generator=str(tuned.path), progress=False
    )
    assert (report.published, report.failures) == (1, ())
    made = eoaug.training_set(tuned.path.parent / "made")
    assert len(made) == 2
    assert set(BANDS) <= set(made[0].open().data_vars)


@pytest.mark.long
def test_the_same_set_gives_the_same_bytes_and_test_images_are_never_opened(tmp_path):
    class Closed(Drawn):
        def open(self):
            raise AssertionError("an image of the split test was opened")

    covers = {"Crops": "annual_crop", "Water": "sea_lake"}
    train = set_of(covers, 16)
    closed = tuple(TrainingItem(f"t{i}", Closed("forest", i), "Crops", "test") for i in range(3))
    with_test = TrainingSet((*train.items[::-1], *closed), "classes", "class", train.classes)
    files = []
    for name, one in (("a", train), ("b", with_test)):
        tune_land(one, tmp_path / name, name="same", images=8, offer_all=True, progress=False)
        files.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert files[0].keys() == files[1].keys()
    assert all(files[0][name] == files[1][name] for name in files[0])


def test_windows_of_classes_of_pixels_have_their_largest_class():
    @dataclass(frozen=True)
    class Mapped(Drawn):
        def open(self):
            ds = super().open()
            codes = np.full((EDGE, EDGE), 2, np.uint8)
            codes[: 4 + 3 * (self.seed % 4)] = 1
            return ds.assign(
                lc=(("y", "x"), codes, {"flag_values": np.array([1, 2], np.uint8), "flag_meanings": "a b"})
            )

    items = tuple(TrainingItem(f"i{i}", Mapped("annual_crop", i), None, "train") for i in range(16))
    windows = read_windows(TrainingSet(items, "pixels", "lc", ("a", "b")), seed=0, progress=False)
    assert windows.bands == BANDS
    assert windows.edge == EDGE
    assert windows.gsd_m == pytest.approx(10, rel=0.01)
    assert not windows.tuned["a"]
    assert {round(float(one.inside.mean()) * EDGE) for one in windows.tuned["b"]} == {EDGE - 4, EDGE - 7}


def test_what_lies_around_is_moved_to_the_colours_of_the_set():
    windows = read_windows(set_of({"Woods": "forest"}, 14), seed=0, progress=False)
    shipped = land_for(load_config(None))
    fit = LandFit(windows, shipped)
    assert fit.painted == painted_bands(BANDS) == ("red", "nir", "green")
    land = fit.land({"Woods": "forest"}, {"Woods": 1.0}, BANDS)
    assert [kind.cover for kind in land.legend.around] == [name for name in CLASSES if name != "forest"]
    assert land.legend.surroundings((0.0, 0.0, 0.0, 1.0, *[0.0] * 6)).sum() == pytest.approx(1)
    moved = land.statistics.levels[1:, ..., 0] - np.delete(shipped.statistics.levels, 1, axis=0)[..., 2]
    np.testing.assert_allclose(moved, moved.mean(), atol=1e-6)  # red, of all covers alike
    # Woods of .015 to .03 in red are .044 to .068 in the set.
    assert np.log(1.4) < moved.mean() < np.log(2.2)


def test_words_of_a_cover_mean_all_its_classes_and_names_go_first():
    legend = Legend((LandClass("Maize", "annual_crop", 0.5), LandClass("Crop", "annual_crop", 0.5)))
    assert legend.shares_of("fields") == (0.5, 0.5)
    assert legend.shares_of("crops") == (0, 1)
    assert legend.shares_of("maize with crop") == pytest.approx((0.7, 0.3))
    assert SHIPPED.surroundings(SHIPPED.shares_of("river")).sum() == pytest.approx(1)
    assert set(VISIBLE) < land_for(load_config(None)).statistics.bands


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (
            {"classes": {"Crop": "forest"}},
            "classes names 'Crop', which is no class.*\n.*did you mean 'Crops'",
        ),
        ({"images": 2}, "images=2 tell little"),
        ({"gsd_m": 0}, "gsd_m=0 is no pixel size"),
        ({"classes": {"Crops": "none"}}, "no class of the set can be drawn .Crops: left out"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path, options, match):
    with pytest.raises(EoaugError, match=match):
        tune_land(set_of({"Crops": "annual_crop"}, 14), tmp_path / "out", progress=False, **options)


def test_radar_and_other_folders_are_refused(tmp_path):
    class Radar(Drawn):
        def open(self):
            return super().open().rename(red="vv")[["vv"]]

    items = tuple(TrainingItem(f"i{i}", Radar("forest", i), "Forest", "train") for i in range(4))
    with pytest.raises(EoaugError, match="no band of reflectance, but vv"):
        tune_land(TrainingSet(items, "classes", "class", ("Forest",)), tmp_path / "new", progress=False)
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(EoaugError, match="is no tuning of land"):
        tune_land(set_of({"Crops": "annual_crop"}, 4), tmp_path)


def test_a_folder_that_names_files_elsewhere_is_refused(tuned, tmp_path):
    for path in tuned.path.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    for change in (
        {"file": "../land.safetensors"},
        {"classes": [{"name": "a", "cover": "castle", "share": 1}]},
    ):
        broken = json.loads(json.dumps(config))
        broken["networks"]["land"] |= change
        (tmp_path / "config.json").write_text(json.dumps(broken))
        with pytest.raises(EoaugError, match="cannot be read"):
            eoaug.load(tmp_path)


def test_the_command_and_finetune_name_each_other(tmp_path):
    run = CliRunner().invoke(
        app, ["finetune", "--base", "embedded", "--cubes", str(tmp_path), "--out", str(tmp_path / "o")]
    )
    assert run.exit_code != 0
    assert "eoaug tune-land SET" in run.output
    run = CliRunner().invoke(app, ["tune-land", str(tmp_path / "nothing"), "--out", str(tmp_path / "o")])
    assert run.exit_code != 0
