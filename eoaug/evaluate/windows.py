"""The windows of a folder of cubes, by place: what the tasks with requests of their own are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from eoaug.datasets.positions import Positions
from eoaug.datasets.series import SMALL_WINDOW_PX, WINDOW_PX, Series, history_of, read_masks, read_series
from eoaug.errors import RadiometryError, SourceError
from eoaug.evaluate.cases import DATED, Case, EvaluationTask, evenly, makers
from eoaug.generators.base import Card
from eoaug.raster.arrays import BoolArray

__all__ = ["WindowsByPlace"]


@dataclass(frozen=True, kw_only=True, eq=False)
class WindowsByPlace:
    """The windows of a folder of cubes, by place."""

    folder: Path
    slots: Sequence[str]
    train_dir: Path | None
    places: Mapping[str, Sequence[Series]]
    """Calibrated files."""
    dated_places: Mapping[str, Sequence[Series]]
    """Files with several dates, 8-bit display values and earlier dates of other files included."""
    skipped: dict[str, str]
    """Files that cannot be used, and the reason."""

    masks: Mapping[tuple[str, int], Sequence[BoolArray]]
    """Real cloud masks by place and edge in pixels."""

    @classmethod
    def read(
        cls, folder: Path, slots: Sequence[str], train_dir: Path | None, tasks: Sequence[str], card: Card
    ) -> WindowsByPlace:
        """Read a folder; files with several dates, masks and radar only if ``tasks`` need them."""
        paths = sorted(folder.glob("*.nc"))
        if not paths:
            raise SourceError(f"{folder} holds no *.nc file", "pass a folder of netCDF cubes")
        reader = _Reader(slots=slots, paths=paths, tasks=tasks, multiple_of=card.multiple_of)
        places = reader.places()
        if not places:
            raise SourceError(
                f"no file in {folder} can be used: "
                + "; ".join(f"{name}: {why}" for name, why in reader.skipped.items()),
                "pass the folder of the validation cubes, calibrated and at least 32 x 32 pixels large",
            )
        return cls(
            folder=folder,
            slots=slots,
            train_dir=train_dir,
            places=places,
            dated_places=reader.dated_places(train_dir) if set(DATED) & set(tasks) else places,
            skipped=reader.skipped,
            masks=reader.masks() if "inpaint with dates" in tasks else {},
        )

    def training_places(self) -> Mapping[str, Sequence[Series]]:
        """Return the windows of the training cubes, if their folder is given."""
        if self.train_dir is None:
            return {}
        reader = _Reader(
            slots=self.slots, paths=sorted(self.train_dir.glob("*.nc")), tasks=(), skipped=self.skipped
        )
        return reader.places()

    def cases_of(self, task: EvaluationTask, card: Card, limit: int | None, seed: int) -> list[Case]:
        """Return the cases of a task, at most ``limit`` per place."""
        places = self.dated_places if task in DATED else self.places
        selected: list[Case] = []
        for place, windows in places.items():
            found = [
                make
                for series in windows
                for make in makers(card, task, series, self._masks_for(place, series), seed)
            ]
            # Only those that are scored are made.
            made = (found[i]() for i in evenly(len(found), limit))
            selected += [case for case in made if case.scored.any()]
        return selected

    def _masks_for(self, place: str, series: Series) -> list[BoolArray]:
        """Return the masks of the size of a window, those of its own place first."""
        edge = series.values.shape[-1]
        own = self.masks.get((place, edge), ())
        others = (of for (name, size), of in self.masks.items() if name != place and size == edge)
        return [*own, *(mask for of_place in others for mask in of_place)]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Reader:
    """Reads the files of a folder."""

    slots: Sequence[str]
    paths: Sequence[Path]
    tasks: Sequence[str]
    multiple_of: int = 1
    skipped: dict[str, str] = field(default_factory=dict)

    @cached_property
    def positions(self) -> Positions:
        return Positions.of(self.paths)

    @property
    def place_of(self) -> Mapping[str, str]:
        return self.positions.place_of

    @property
    def radar(self) -> Sequence[Path]:
        return self.positions.radar if "inpaint with radar" in self.tasks else ()

    def places(self) -> dict[str, list[Series]]:
        """Return the windows of every usable file; record the others in ``skipped``."""
        places: dict[str, list[Series]] = {}
        for path in self.paths:
            try:
                windows = read_series(path, self.slots, radar_files=self.radar)
            except (SourceError, RadiometryError) as error:
                self.skipped[path.name] = error.problem
                continue
            if not any(series.usable.size for series in windows):
                self.skipped[path.name] = (
                    f"{path.name} has no clear window of {SMALL_WINDOW_PX} x {SMALL_WINDOW_PX} pixels"
                )
            elif (edge := windows[0].values.shape[-1]) % self.multiple_of:
                self.skipped[path.name] = f"windows of {edge} px are no multiple of {self.multiple_of} px"
            else:
                self._add(places, path, windows)
        return places

    def dated_places(self, train_dir: Path | None) -> dict[str, list[Series]]:
        """Return the windows of every file fit for tasks with other dates, with the dates that it continues."""
        places: dict[str, list[Series]] = {}
        for path in self.paths:
            try:
                history = history_of(path, train_dir)
                windows = read_series(path, self.slots, history=history, display_values=True)
            except (SourceError, RadiometryError) as error:
                self.skipped.setdefault(path.name, error.problem)
                continue
            fits = any(series.own[series.usable].any() and len(series.usable) > 1 for series in windows)
            if fits and windows[0].values.shape[-1] % self.multiple_of == 0:
                self._add(places, path, windows)
                if path.name in self.skipped:
                    self.skipped[path.name] += (
                        "; used for tasks with other dates only, 255 as reflectance 0.5"
                    )
        return places

    def _add(self, places: dict[str, list[Series]], path: Path, windows: Sequence[Series]) -> None:
        place = self.place_of[path.stem]
        places.setdefault(place, []).extend(replace(series, place=place) for series in windows)

    def masks(self) -> dict[tuple[str, int], list[BoolArray]]:
        """Return the real masks of all files, cut into windows of both sizes."""
        masks: dict[tuple[str, int], list[BoolArray]] = {}
        for path in self.paths:
            with suppress(SourceError):
                for edge, of_edge in read_masks(path, (WINDOW_PX, SMALL_WINDOW_PX)).items():
                    masks.setdefault((self.place_of[path.stem], edge), []).extend(of_edge)
        return masks
