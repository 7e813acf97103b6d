"""`augment`: every draw once with its label and source, the same bytes after kills and by workers, and no test image."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pystac
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox
from PIL import Image

import eoaug
from eoaug.augmentation.augment import plan_augment, run_augment
from eoaug.augmentation.augment_job import read_augment_job
from eoaug.augmentation.missing import able_to_miss
from eoaug.augmentation.policy import KeepRules, Policy, draws_by_round, draws_of, read_policy
from eoaug.captions.caption_file import write_captions
from eoaug.cube.provenance import of as provenance_of
from eoaug.cube.read import read_cube
from eoaug.errors import BandError, GeneratorError, ParameterError, SourceError, TargetError
from eoaug.formats.chips import GROUP
from eoaug.jobs.report import Report
from eoaug.jobs.status import resumable, status_of
from eoaug.stac.images import cube_of
from eoaug.stac.validate import validate
from eoaug.torch.augmented import children_of
from tests.forks import Forks

CLASSES = {"Forest": 6, "River": 3, "SeaLake": 2}
HAZE = {"verb": "corrupt", "parameters": {"kind": "haze"}, "strengths": [1, 3]}
TURNED = {"verb": "corrupt", "parameters": {"kind": "rotation"}, "strengths": [1]}
POLICY: dict[str, Any] = {"per_real": 2, "draws": [HAZE, TURNED], "seed": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images by class without coordinates; two of each class are of the split test."""
    home = tmp_path_factory.mktemp("set") / "chips"
    rng = np.random.default_rng(0)
    for split, counts in (("train", CLASSES), ("test", dict.fromkeys(CLASSES, 2))):
        for name, count in counts.items():
            place = home / split / name
            place.mkdir(parents=True)
            for number in range(count):
                values = rng.integers(20, 230, (4, 4, 3)).repeat(6, 0).repeat(6, 1).astype(np.uint8)
                Image.fromarray(values).save(place / f"{name}_{split}_{number}.png")
    return home


def files(out: Path) -> dict[str, bytes]:
    """All files of a catalog but journals, reports and leases."""
    own = (path for path in sorted(out.rglob("*")) if path.is_file() and ".eoaug" not in path.parts)
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in own}


@pytest.fixture
def epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")


def config(folder: Path, out: Path, **output: Any) -> dict[str, Any]:
    return {
        "source": {"path": str(folder)},
        "policy": POLICY,
        "output": {"catalog": str(out), "format": "chips", "shard": 5, **output},
    }


def test_every_draw_is_made_once_with_class_split_and_source(folder: Path, tmp_path: Path) -> None:
    train = eoaug.training_set(folder)
    report = eoaug.augment(train, tmp_path / "out", policy=POLICY)
    assert not report.failures
    made = eoaug.training_set(tmp_path / "out")
    real = {item.id: item for item in train}
    expected = sorted((draw.item, draw.number) for draw in draws_of(Policy.model_validate(POLICY), train))
    got = sorted((item.source.fields["made_from"], item.source.fields["draw"]) for item in made)  # type: ignore[attr-defined]
    assert got == expected
    assert len(made) > 2 * sum(CLASSES.values())  # rare classes get more
    assert made.classes == train.classes
    for item in made:
        source = real[item.made_from[0]]
        assert source.split == "train"
        assert (item.split, item.label) == ("train", source.label)
        assert item.properties["class"] == source.label
        ds = item.open()
        record = provenance_of(ds)
        assert record is not None
        assert record.operation == "corrupt"
        assert ds.red.shape == (24, 24)
        assert (ds.synthetic.values != 255).any()
    assert validate(tmp_path / "out").sound


def test_a_chip_is_what_the_verb_makes(folder: Path, tmp_path: Path) -> None:
    train = eoaug.training_set(folder)
    eoaug.augment(train, tmp_path / "out", policy=POLICY)
    draws = {(d.item, d.number): d for d in draws_of(Policy.model_validate(POLICY), train)}
    real = {item.id: item for item in train}
    for item in eoaug.training_set(tmp_path / "out"):
        fields = item.source.fields  # type: ignore[attr-defined]
        draw = draws[fields["made_from"], fields["draw"]]
        ds = real[draw.item].open()
        ds = able_to_miss(ds) if draw.parameters["kind"] == "rotation" else ds
        direct = able_to_miss(eoaug.corrupt(ds, **draw.parameters))
        chip = item.open()
        for name in ("red", "green", "blue", "synthetic"):
            np.testing.assert_array_equal(chip[name].values, direct[name].values)
            assert chip[name].dtype == direct[name].dtype


def test_masks_of_added_clouds_are_in_all_chips_of_their_set(folder: Path, tmp_path: Path) -> None:
    clouds = {"verb": "corrupt", "parameters": {"kind": "clouds"}, "strengths": [3]}
    train, policy = eoaug.training_set(folder), {**POLICY, "per_real": 1, "draws": [HAZE, clouds]}
    eoaug.augment(train, tmp_path / "out", policy=policy)
    draws = {(d.item, d.number): d for d in draws_of(Policy.model_validate(policy), train)}
    real = {item.id: item for item in train}
    clouded = 0
    for item in eoaug.training_set(tmp_path / "out"):
        fields = item.source.fields  # type: ignore[attr-defined]
        draw, chip = draws[fields["made_from"], fields["draw"]], item.open()
        direct = eoaug.corrupt(real[draw.item].open(), **draw.parameters)
        cloudy = draw.parameters["kind"] == "clouds"
        for name in ("added_cloud_mask", "added_cloud_opacity"):
            expected = direct[name].values if cloudy else np.zeros((24, 24), chip[name].dtype)
            np.testing.assert_array_equal(chip[name].values, expected)
        assert [band.name for band in read_cube(chip).bands] == ["red", "green", "blue"]
        clouded += cloudy
    assert 0 < clouded < len(draws)


MADE = {"verb": "translate", "parameters": {"to": ["red"]}}


def test_a_band_made_from_the_others_is_a_draw(folder: Path, tmp_path: Path) -> None:
    """Hidden in the real image, made from what is left, another one in every draw; labels and measured bands stay."""
    train, policy = eoaug.training_set(folder), {**POLICY, "draws": [MADE, HAZE]}
    job = {**config(folder, tmp_path / "out"), "policy": policy, "generator": "classical"}
    planned = plan_augment(job)
    assert planned.model_calls > 0
    assert planned.by_verb["translate"] > 0
    assert not run_augment(job).failures
    real = {item.id: item for item in train}
    reds: dict[str, list[bytes]] = {}
    for item in eoaug.training_set(tmp_path / "out"):
        chip, source = item.open(), real[item.made_from[0]]
        assert item.label == source.label
        record = provenance_of(chip)
        assert record is not None
        if record.operation != "translate":
            continue
        whole = able_to_miss(source.open())
        for name in ("green", "blue"):
            np.testing.assert_array_equal(chip[name].values, whole[name].values)
        assert np.isfinite(chip.red.values).all()
        assert (chip.synthetic.values == 1).all()
        assert record.parameters["to"] == ["red"]
        reds.setdefault(source.id, []).append(chip.red.values.tobytes())
    assert sum(map(len, reds.values())) == planned.by_verb["translate"]
    assert all(len(set(each)) == len(each) for each in reds.values())
    assert validate(tmp_path / "out").sound


@pytest.mark.parametrize(
    ("to", "message"),
    [
        (["red", "green", "blue"], "do not tell it|all bands"),
        (["swir16"], "adds swir16"),
        (["vv"], "do not tell it"),
    ],
)
def test_bands_that_no_image_can_have_are_refused_before_the_work(folder, tmp_path, to, message) -> None:
    draw = {"verb": "translate", "parameters": {"to": to}}
    job = {
        **config(folder, tmp_path / "out"),
        "policy": {**POLICY, "draws": [draw]},
        "generator": "classical",
    }
    with pytest.raises((ParameterError, BandError), match=message):
        plan_augment(job)


@pytest.mark.usefixtures("epoch")
def test_a_repeat_makes_nothing_and_a_damaged_shard_is_made_again(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = run_augment(config(folder, out), progress=False)
    before = files(out)
    again = run_augment(config(folder, out), progress=False)
    assert (again.published, again.skipped) == (0, report.published)
    assert files(out) == before
    array = next(path for path in sorted(out.rglob("0")) if path.is_file())
    array.write_bytes(array.read_bytes()[:-1])
    assert not validate(out).sound
    assert run_augment(config(folder, out), progress=False).published == 1
    assert files(out) == before
    state = status_of(read_augment_job(config(folder, out)))
    assert (state.published, state.failures) == (report.published, ())


@pytest.mark.usefixtures("epoch")
def test_a_killed_run_ends_with_the_bytes_of_a_quiet_one(folder: Path, tmp_path: Path, forks: Forks) -> None:
    kills(folder, tmp_path, forks, tries=1)


@pytest.mark.long
@pytest.mark.usefixtures("epoch")
def test_many_kills_change_no_byte(folder: Path, tmp_path: Path, forks: Forks) -> None:
    kills(folder, tmp_path, forks, tries=25)


def kills(folder: Path, tmp_path: Path, forks: Forks, *, tries: int) -> None:
    quiet, out = tmp_path / "quiet" / "out", tmp_path / "killed" / "out"
    run_augment(config(folder, quiet), progress=False)
    path = tmp_path / "set.json"
    path.write_text(json.dumps(config(folder, out)))
    code = (
        "import sys; from eoaug.augmentation.augment import run_augment; print('ready', flush=True); "
        "run_augment(sys.argv[1], progress=False)"
    )
    rng = np.random.default_rng(tries)
    killed = 0
    for turn in range(tries):
        two = [forks.start(code, path) for _ in range(2)]
        for process in two:
            process.until_it_prints()
        # The first time while shards are made: the folder of the first appears before it is whole.
        if turn == 0:
            while not out.exists() and two[0].lives:
                time.sleep(0.002)
        else:
            time.sleep(rng.uniform(0, 0.6))
        for process in two:
            killed += process.kill() == -signal.SIGKILL
    assert killed > 0
    report = run_augment(path, progress=False)
    assert not report.failures
    assert validate(out).sound
    data = {name: content for name, content in files(out).items() if "/.eoaug-" not in name}
    assert data == files(quiet)


@pytest.mark.parametrize("how", ["torn", "deleted"])
def test_an_image_that_cannot_be_read_is_left_out_until_it_can(
    how: str, folder: Path, tmp_path: Path
) -> None:
    home, out = tmp_path / "chips", tmp_path / "out"
    shutil.copytree(folder, home)
    train = eoaug.training_set(home)
    damaged = Path(train.split("train")[0].href)
    content = damaged.read_bytes()
    if how == "torn":
        damaged.write_bytes(content[: len(content) // 2])
    else:
        damaged.unlink()

    def run() -> Report:
        if how == "torn":  # in shards of five
            return run_augment(config(home, out), progress=False)
        # A set that is read again has no image whose file is gone.
        return eoaug.augment(train, out, policy=POLICY, progress=False)

    count = len(list(draws_of(Policy.model_validate(POLICY), train)))
    first = run()
    made = eoaug.training_set(out)
    missing = {failure.item for failure in first.failures}
    assert missing
    assert all(damaged.stem in name for name in missing)
    assert len(made) == count - len(missing)
    assert not missing & {item.id for item in made}
    assert validate(out).sound
    second = run()  # tries again what may pass
    assert {failure.item for failure in second.failures} == missing
    # Shards that are complete are not made again.
    assert second.published < first.published if how == "torn" else second.published == first.published == 1
    damaged.write_bytes(content)
    assert not run().failures
    assert missing < {item.id for item in eoaug.training_set(out)}
    assert validate(out).sound


def test_resume_needs_the_set_that_was_given_from_python(folder: Path, tmp_path: Path) -> None:
    eoaug.augment(eoaug.training_set(folder), tmp_path / "out", policy=POLICY)
    (head,) = resumable(tmp_path / "out")
    with pytest.raises(ParameterError, match=r"(?s)given from Python.*call eoaug\.augment"):
        read_augment_job(head).source.training_set()


def test_images_with_coordinates_become_items_with_labels_and_sources(tmp_path: Path) -> None:
    box = GeoBox((24, 24), Affine(10, 0, 500000, 0, -10, 5000000), "EPSG:32633")
    rng = np.random.default_rng(1)
    values = {name: rng.integers(500, 3000, (1, 24, 24)).astype(np.uint16) for name in ("B03", "B04")}
    cover = rng.integers(1, 4, (24, 24)).astype(np.uint8)
    ds = cube_of(
        values, box, attrs={"scale_factor": 1e-4, "add_offset": 0.0, "nodata": 0},
        coords={"time": np.array(["2024-06-01"], "datetime64[ns]")},
    )  # fmt: skip
    flags = {
        "flag_values": np.array([1, 2, 3], np.uint8),
        "flag_meanings": "field water woods",
        "grid_mapping": "spatial_ref",
    }
    ds["lc"] = (("time", *box.dimensions), cover[None], flags)
    source = tmp_path / "source"
    eoaug.write(ds, source, ids=["tile"])
    train = eoaug.training_set(source, "lc", task="pixels", split="train")
    out = tmp_path / "out"
    report = eoaug.augment(train, out, policy={"per_real": 2, "draws": [HAZE]}, format="cog")
    assert (report.published, report.failures) == (2, ())
    assert validate(out).sound
    items = list(pystac.Catalog.from_file(str(out / "catalog.json")).get_items(recursive=True))
    assert len(items) == 2
    for item in items:
        assert "labels" in (item.assets["lc"].roles or ())
        assert "synthetic" not in (item.assets["lc"].roles or ())
        assert item.properties["ml-aoi:split"] == "train"
        assert [Path(link.get_absolute_href() or "").name for link in item.get_links("derived_from")] == [
            "tile.json"
        ]
        child = eoaug.open_cube(item, chunks=None)
        np.testing.assert_array_equal(child["lc"].values[0], cover)
        assert not np.array_equal(child["B04"].values, ds["B04"].values)
    # A shard names the items that its chips were made of, too.
    eoaug.augment(train, tmp_path / "chips", policy={"per_real": 2, "draws": [HAZE]}, format="chips")
    (shard,) = pystac.Catalog.from_file(str(tmp_path / "chips" / "catalog.json")).get_items(recursive=True)
    (link,) = shard.get_links("derived_from")
    assert Path(link.get_absolute_href() or "").samefile(source / train.items[0].href)
    assert validate(tmp_path / "chips").sound


# -- rounds -------------------------------------------------------------------------------------------


def test_a_further_round_makes_more_where_classifiers_err(folder: Path) -> None:
    """As many as the first round, in proportion to the error and at most four times, numbered after the earlier ones."""
    train = eoaug.training_set(folder)
    own = train.split("train")
    policy = Policy.model_validate({**POLICY, "per_real": 2.5, "balance": 0})
    sure = {item.id: 1.0 for item in own}
    lost = {item.id: 0.0 if item.label == "River" else 0.95 for item in own}
    first, none, third = (list(some) for some in draws_by_round(policy, train, [sure, lost]))
    assert first == list(draws_of(policy, train))
    assert none == []
    rivers = [draw for draw in third if draw.item in {item.id for item in own if item.label == "River"}]
    assert len(rivers) / len(third) > 0.8
    most = Counter(draw.item for draw in third)
    assert max(most.values()) <= 4 * 2.5 + 1
    begun = Counter(draw.item for draw in first)
    for name in most:
        numbers = [draw.number for draw in third if draw.item == name]
        assert numbers == list(range(begun[name], begun[name] + len(numbers)))
    even = {item.id: 0.5 for item in own}
    again = list(draws_by_round(policy, train, [even])[1])
    assert abs(len(again) - 2.5 * len(own)) <= len(own)


def test_rounds_accumulate_resume_and_continue_fewer_rounds(
    folder: Path, tmp_path: Path, epoch: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two rounds give the same bytes at once, and after one round and a stop in the second."""

    def job(name: str, rounds: int) -> dict[str, Any]:
        policy = {"per_real": 1, "draws": [HAZE], "seed": 3, "rounds": rounds}
        base = config(folder, tmp_path / name / "out", shard=8)
        return {**base, "policy": policy, "select": {"updates": 4, "batch": 8}}

    report = run_augment(job("whole", 2))
    assert not report.failures
    train = eoaug.training_set(folder)
    made = eoaug.training_set(tmp_path / "whole/out")
    numbers = [number for some in children_of(train.split("train"), made).values() for number in some]
    assert sorted(numbers) == list(range(len(made)))  # each once, though id and address name the source
    first = len(list(draws_of(read_augment_job(job("whole", 1)).policy, train)))
    assert first + 3 < len(made) <= 2 * first + 3
    assert len({item.id for item in made}) == len(made)
    plan = plan_augment(job("whole", 2))
    assert plan.existing == plan.items == report.published
    assert "2 further rounds" in str(plan_augment(job("whole", 3)))
    run_augment(job("grown", 1))
    with monkeypatch.context() as patch:
        patch.setattr("eoaug.augmentation.augment.chances_of_round", stopped)
        with pytest.raises(KeyboardInterrupt):
            run_augment(job("grown", 2))
    grown = run_augment(job("grown", 2))
    assert grown.skipped > 0
    assert files(tmp_path / "grown/out") == files(tmp_path / "whole/out")
    assert validate(tmp_path / "grown/out").sound
    assert run_augment(job("grown", 2)).published == 0


def test_classifiers_of_a_round_learn_from_what_the_policy_keeps(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`keep` is asked about the images of the earlier rounds, and decides what the next one is made of."""
    seen: list[set[str] | None] = []

    def select(train: Any, made: Any, *, keep: KeepRules, **how: Any) -> Any:
        assert keep.duplicate == 0.9
        drop = keep.agreement == 0.9
        return SimpleNamespace(
            lines=[{"id": item.id, "keep": not drop and i > 0} for i, item in enumerate(made)]
        )

    def classify(train: Any, made: Any, **how: Any) -> dict[str, float]:
        seen.append(None if made is None else {item.id for item in made})
        return {item.id: 0.5 for item in train.split("train")}

    monkeypatch.setattr("eoaug.selection.select.select", select)
    monkeypatch.setattr("eoaug.selection.agreement.chances_by_id", classify)

    def job(name: str, **keep: float) -> dict[str, Any]:
        policy = {"per_real": 1, "draws": [HAZE], "seed": 3, "rounds": 2, "keep": {"duplicate": 0.9, **keep}}
        return {
            **config(folder, tmp_path / name, shard=8),
            "policy": policy,
            "select": {"updates": 4, "batch": 8},
        }

    for name, keep in (("some", 0.1), ("nothing", 0.9)):
        run_augment(job(name, agreement=keep))
    first = len(list(draws_of(read_augment_job(job("some")).policy, eoaug.training_set(folder))))
    assert seen[0] is not None
    assert len(seen[0]) == first - 1
    assert seen[1] is None
    ids = [read_augment_job(job("some", agreement=keep)).id for keep in (0.1, 0.9)]
    assert ids[0] != ids[1]


def test_policy_and_captions_are_assets_of_the_collection(folder: Path, tmp_path: Path) -> None:
    """With checksums: another file in their place is found."""
    train = eoaug.training_set(folder)
    lines = [{"id": item.id, "caption": f"a view of {item.label}"} for item in train]
    write_captions(lines, tmp_path / "captions.jsonl")
    job = config(folder, tmp_path / "out")
    run_augment({**job, "source": {**job["source"], "captions": str(tmp_path / "captions.jsonl")}})
    file = tmp_path / "out/augmented/collection.json"
    assets = json.loads(file.read_text())["assets"]
    assert list(assets) == ["captions", "policy"]
    assert assets["policy"]["href"] == "../policy.yaml"
    assert assets["policy"]["roles"] == ["metadata"]
    assert read_policy(tmp_path / "out/policy.yaml") == read_policy(POLICY)
    assert set(pystac.Collection.from_file(str(file)).assets) == {"captions", "policy"}
    assert validate(tmp_path / "out").sound
    (tmp_path / "out/policy.yaml").write_text("per_real: 9\n")
    assert "policy.yaml: is another file than its collection lists" in str(validate(tmp_path / "out"))
    (tmp_path / "out/captions.jsonl").unlink()
    assert "'captions', whose file 'captions.jsonl' is not there" in str(validate(tmp_path / "out"))


def stopped(*arguments: Any) -> Any:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"policy": {"draws": [{"verb": "super_resolve", "parameters": {"factor": 2}}]}}, "another size"),
        ({"output": {"format": "cog"}}, r"(?s)no coordinate reference system.*format: chips"),
        ({"source": {"split": "test"}}, "no item of the training set is in the split 'train'"),
        ({"outptu": {}}, "outptu"),
    ],
)
def test_what_cannot_be_made_is_refused_before_the_work(
    folder: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    base = config(folder, tmp_path / "out")
    merged = {
        key: {**base.get(key, {}), **value} for key, value in {**{key: {} for key in base}, **change}.items()
    }
    with pytest.raises(ParameterError, match=message):
        plan_augment(merged)
    assert not (tmp_path / "out").exists()


def test_the_plan_counts_and_the_source_folder_is_no_target(folder: Path, tmp_path: Path) -> None:
    plan = plan_augment(config(folder, tmp_path / "out"))
    assert (plan.real, plan.left_alone) == (11, 6)
    assert sum(plan.by_class.values()) == plan.images
    assert plan.by_class["SeaLake"] / CLASSES["SeaLake"] > plan.by_class["Forest"] / CLASSES["Forest"]
    assert plan.items == -(-plan.images // 5)
    larger = plan_augment(config(folder, tmp_path / "out", shard=50))
    image = 4 * 24 * 24 * 4  # three bands and the mask, as float32
    assert larger.memory_bytes - plan.memory_bytes == (min(50, plan.images) - 5) * image
    with pytest.raises(TargetError, match="taken for real ones"):
        plan_augment(config(folder, folder / "made"))


def test_images_of_another_split_or_set_are_refused_in_a_collection(folder: Path, tmp_path: Path) -> None:
    train, out = eoaug.training_set(folder), tmp_path / "out"
    first = eoaug.augment(train, out, policy=POLICY)
    before = files(out)
    moved = train.with_splits({train.split("train")[0].id: "test"})
    for other, policy in ((moved, POLICY), (train, {**POLICY, "seed": 4})):
        with pytest.raises(TargetError, match=r"(?s)does not make of this set.*another catalog"):
            eoaug.augment(other, out, policy=policy)
    assert files(out) == before
    assert eoaug.augment(train, out, policy=POLICY).skipped == first.published
    with pytest.raises(TargetError, match="taken for real ones"):
        eoaug.augment(train, folder / "made", policy=POLICY)
    assert not (folder / "made").exists()


def test_what_the_generator_cannot_do_is_refused_before_the_work(folder: Path, tmp_path: Path) -> None:
    policy = {"draws": [HAZE, {"verb": "synthesize", "strengths": [0.1], "prompt": "{{ class }}"}]}
    with pytest.raises(GeneratorError, match=r"a draw of .*prompt"):
        eoaug.augment(eoaug.training_set(folder), tmp_path / "out", policy=policy, generator="classical")
    assert not (tmp_path / "out").exists()


def test_labels_of_pixels_are_labels_of_a_shard(tmp_path: Path) -> None:
    home = tmp_path / "set"
    rng = np.random.default_rng(5)
    cover = {}
    for kind in ("images", "masks"):
        (home / kind).mkdir(parents=True)
    for name in ("a", "b"):
        cover[name] = rng.integers(0, 3, (24, 24)).astype(np.uint8)
        Image.fromarray(rng.integers(20, 230, (24, 24, 3)).astype(np.uint8)).save(home / f"images/{name}.png")
        Image.fromarray(cover[name]).save(home / f"masks/{name}.png")
    train = eoaug.training_set(home, task="pixels", split="train", classes=["field", "water", "woods"])
    report = eoaug.augment(train, tmp_path / "out", policy={"per_real": 2, "draws": [HAZE]})
    assert (report.published, report.failures) == (1, ())
    (item,) = pystac.Catalog.from_file(str(tmp_path / "out" / "catalog.json")).get_items(recursive=True)
    assert item.assets["masks"].roles == ["labels"]
    assert [one["name"] for one in item.assets["masks"].extra_fields["classification:classes"]] == [
        "field", "water", "woods",
    ]  # fmt: skip
    assert validate(tmp_path / "out").sound
    made = eoaug.training_set(tmp_path / "out", task="pixels")
    assert len(made) == 4
    for chip in made:
        np.testing.assert_array_equal(chip.open()["masks"].values, cover[chip.made_from[0]])


def test_a_table_that_is_damaged_or_elsewhere_is_refused(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    eoaug.augment(eoaug.training_set(folder), out, policy=POLICY)
    table = next(out.rglob("samples.jsonl"))
    assert (table.parent / GROUP).is_dir()
    table.write_text("[]\n")
    with pytest.raises(SourceError, match="table of chips"):
        eoaug.training_set(out)
    table.unlink()
    outside = tmp_path / "secret.jsonl"
    outside.write_text('{"id": "x"}\n')
    table.symlink_to(outside)
    with pytest.raises(SourceError):
        eoaug.training_set(out)
