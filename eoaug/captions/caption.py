"""`caption`: captions of the images of a training set, from facts or from a model, checked against the facts."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import batched
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eoaug.augmentation.training_items import TrainingItem, TrainingSet
from eoaug.captions.caption_file import write_captions
from eoaug.captions.checks import problems_of, tokens_of
from eoaug.captions.clip import Alignment, ClipModel
from eoaug.captions.facts import ImageFacts, facts_of
from eoaug.captions.facts_captioner import facts_caption
from eoaug.captions.models import CaptionModel
from eoaug.captions.prompts import INSTRUCTIONS, filled_instruction
from eoaug.cube.read import read_cube
from eoaug.errors import ParameterError
from eoaug.progress import Progress, track
from eoaug.quicklook import LOOKS, rgb

__all__ = ["CaptionReport", "caption"]

_RENDERINGS = ("true", "nir", "swir")
"""Which bands are shown to a model, one rendering after the other for several captions."""
_COMPARED = 512
"""Images that CLIP compares with their captions at most."""
_GROUP = 64
"""Images that are captioned together."""


@dataclass(frozen=True)
class CaptionReport:
    """What was captioned."""

    lines: tuple[Mapping[str, Any], ...]
    """Per caption ``id``, ``number``, ``caption``, ``captioner``, ``tokens``, ``problems``; of models also ``instruction`` and
    ``look``."""
    path: Path | None
    """The file."""
    alignment: Alignment | None = None
    """How well images and sound captions agree by a CLIP model, with shuffled captions for comparison; None without one."""

    @property
    def problems(self) -> dict[str, int]:
        """Number of captions by kind of problem."""
        kinds = Counter(problem.partition(":")[0] for line in self.lines for problem in line["problems"])
        return dict(sorted(kinds.items()))

    def __str__(self) -> str:
        """Return a short text."""
        sound = sum(not line["problems"] for line in self.lines)
        shown = ", ".join(f"{kind} {count}" for kind, count in self.problems.items())
        images = len({line["id"] for line in self.lines})
        text = f"{len(self.lines):,} captions of {images:,} images, {sound:,} without a problem"
        text = f"{text} ({shown})" if shown else text
        found = self.alignment
        if found is None:
            return text
        return f"{text}; CLIP cosine {found.cosine:.3f}, of shuffled captions {found.shuffled:.3f} +- {found.shuffled_std:.3f}"


def caption(
    train: TrainingSet,
    captioner: str | os.PathLike[str] | CaptionModel = "facts",
    *,
    several: int = 1,
    out: str | os.PathLike[str] | None = None,
    instructions: Sequence[str] = INSTRUCTIONS,
    sensor: str | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    clip: str | os.PathLike[str] | None = None,
    batch: int = 8,
    device: str = "cpu",
    progress: Progress = None,
) -> CaptionReport:
    """Return captions of all images of a training set.

    Parameters
    ----------
    train
        The images.
    captioner
        ``"facts"``: sentences from class, label map, season, pixel size, sensor and indices, without a model. Else the
        folder of an image-text model of transformers (BLIP-2, InstructBLIP, Florence-2, LLaVA, SmolVLM, Qwen-VL and others), which is
        shown the image in true colour, in near infrared and in short-wave infrared, as far as it has these bands.
    several
        Captions per image.
    out
        File to write, a JSON object per line; None: none.
    instructions
        Of models: templates of what is asked, one after the other for several captions.
    sensor
        Name of the sensor. Default: what the names of the bands say.
    checkpoint
        Folder of the text-to-image checkpoint that will read the captions, whose tokenizers count them. Default: about
        what CLIP counts.
    clip
        Folder of a CLIP model, which compares up to 512 images with their captions (CLIPScore, Hessel et al. 2021,
        arXiv:2104.08718, without its factor 2.5) and with those of other images.
    batch
        Of models, images per forward pass on an accelerator; on the CPU each image is by itself. It changes no caption.
    device
        Of models, as torch names it.
    progress
        True or False; default: a bar on a terminal, elsewhere a line every 30 s.

    Returns
    -------
    CaptionReport
        Captions with the problems that were found: the class is not named, or something contradicts the facts. They are kept
        in the file, and not used.

    Raises
    ------
    EoaugError
        An image cannot be read, or the folder is no such model.

    Examples
    --------
    >>> print(eoaug.caption(train, several=3, out="captions.jsonl"))  # doctest: +SKIP
    48,600 captions of 16,200 images, 48,600 without a problem
    """
    if not isinstance(train, TrainingSet):
        raise ParameterError(f"train={train!r} is no training set", "give eoaug.training_set(...)")
    if isinstance(several, bool) or not isinstance(several, int) or several < 1:
        raise ParameterError(f"several={several!r} asks for no caption", "give a whole number from 1")
    model = None
    if isinstance(captioner, CaptionModel):
        model = captioner
    elif str(captioner) != "facts":
        model = CaptionModel(Path(captioner), device)
    count = tokens_of if checkpoint is None else _token_counter(checkpoint)
    lines: list[dict[str, Any]] = []
    with track(len(train), what="captioning", unit="image", progress=progress) as counter:
        for some in batched(train, _GROUP):
            facts = [facts_of(item, train, sensor=sensor) for item in some]
            if model is None:
                drawn = _from_facts(some, facts, several)
            else:
                drawn = _from_model(some, facts, several, model, instructions, batch)
            lines += [_checked(line, own, count) for line, own in drawn]
            counter.tiles(len(some))
    path = None if out is None else write_captions(lines, Path(out).expanduser())
    alignment = None if clip is None else _alignment(train, lines, Path(clip), device)
    return CaptionReport(tuple(lines), path, alignment)


def _alignment(
    train: TrainingSet, lines: Sequence[Mapping[str, Any]], folder: Path, device: str
) -> Alignment:
    """Return how well images spread over the set agree with their first sound caption."""
    first: dict[str, str] = {}
    for line in lines:
        if not line["problems"]:
            first.setdefault(line["id"], line["caption"])
    own = [item for item in train if item.id in first]
    if len(own) < 2:
        raise ParameterError(
            f"{len(own)} images have a caption without a problem, CLIP compares two or more",
            "look at the problems in the file, or leave clip out",
        )
    some = own[:: -(-len(own) // _COMPARED)]
    model = ClipModel(folder, device)
    return model.alignment([rgb(item.open().load()) for item in some], [first[item.id] for item in some])


def _token_counter(checkpoint: str | os.PathLike[str]) -> Callable[[str], int]:
    """Return what counts the tokens of a text, begin and end included: the tokenizer of a checkpoint that makes most of them."""
    from eoaug.generators.checkpoints.folder import open_checkpoint
    from eoaug.generators.checkpoints.loading import load_tokenizer

    components = open_checkpoint(os.fspath(checkpoint)).components
    tokenizers = [load_tokenizer(one) for role, one in components.items() if role.startswith("tokenizer")]
    if not tokenizers:
        raise ParameterError(
            f"checkpoint={str(checkpoint)!r} has no tokenizer",
            "give the folder of a text-to-image checkpoint",
        )
    return lambda text: max(len(one(text, truncation=False).input_ids) for one in tokenizers)


def _from_facts(
    items: Sequence[TrainingItem], facts: Sequence[ImageFacts], several: int
) -> Iterator[tuple[dict[str, Any], ImageFacts]]:
    for item, own in zip(items, facts, strict=True):
        for number in range(several):
            yield _line(item, number, facts_caption(own, item.id, number), "facts"), own


def _from_model(
    items: Sequence[TrainingItem],
    facts: Sequence[ImageFacts],
    several: int,
    model: CaptionModel,
    instructions: Sequence[str],
    batch: int,
) -> Iterator[tuple[dict[str, Any], ImageFacts]]:
    images: list[NDArray[np.uint8]] = []
    asked: list[str] = []
    whose: list[tuple[TrainingItem, ImageFacts, int, str]] = []
    for item, own in zip(items, facts, strict=True):
        ds = item.open().load()
        looks = _looks(ds)
        for number in range(several):
            look = looks[number % len(looks)]
            images.append(rgb(ds, look=look or None))  # type: ignore[arg-type]
            asked.append(filled_instruction(own, number, instructions))
            whose.append((item, own, number, look or "grey"))
    texts = model.captions(images, asked, batch)
    for (item, own, number, look), text, question in zip(whose, texts, asked, strict=True):
        yield {**_line(item, number, text, model.name), "instruction": question, "look": look}, own


def _looks(ds: Any) -> list[str]:
    """Return the renderings that the bands allow; an empty text for the first band in grey."""
    names = {str(band.common_name or band.name) for band in read_cube(ds).bands}
    looks = [look for look in _RENDERINGS if set(LOOKS[look]) <= names]
    return looks or (["radar"] if set(LOOKS["radar"]) <= names else [""])


def _line(item: TrainingItem, number: int, text: str, captioner: str) -> dict[str, Any]:
    return {"id": item.id, "number": number, "caption": text, "captioner": captioner}


def _checked(line: dict[str, Any], facts: ImageFacts, count: Callable[[str], int]) -> dict[str, Any]:
    """Return a line with its number of tokens and what is wrong with its caption."""
    tokens = count(line["caption"])
    return {**line, "tokens": tokens, "problems": problems_of(line["caption"], facts, tokens=tokens)}
