"""emorl decompose, sample and traverse: commands that draw what a model sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from emorl.cli.shared import parse
from emorl.data.base import Subset
from emorl.data.progress import bar
from emorl.data.protocols import ProtocolName, Split
from emorl.data.sources import DATASETS, Fit
from emorl.decompose import decompose as run_decomposition
from emorl.errors import InputError
from emorl.feed import feed, image_size
from emorl.figures import check_figure_path, contact_sheet, save_figure
from emorl.models.base import InferOptions
from emorl.precision import pick_device
from emorl.runs import find_weights, load_weights
from emorl.sample import sample as draw_scenes
from emorl.traverse import num_ranging_steps, ranges
from emorl.traverse import traverse as run_traversal


@dataclass(frozen=True)
class Decompose:
    """Take pictures apart: sheets, masks, components and codes."""

    weights: Positional[str]
    """Shipped name, run folder or weights folder."""
    sources: Positional[tuple[str, ...]]
    """Pictures, folders of pictures, or data sources."""
    out: Path
    """Folder for the results."""
    num_images: int | None = None
    """Of each source, the first ones only; 8 by default for a generator, else all."""
    split: Split | None = None
    """Of each source: test by default for a generator and the file that the weights were trained on, else all."""
    protocol: ProtocolName | None = None
    """Whose split, crop and resizing; that of the weights by default."""
    subset: str | None = None
    """Only scenes with so many objects: clevr6, clevr10 or a range such as 3-6."""
    fit: Fit | None = None
    """How images of another size are brought to that of the model: crop takes the protocol's window, of pictures the
    largest centred one; or the name of a window. none leaves them at their own. By default as for the training images,
    and crop for pictures."""
    refinement_steps: int | None = None
    """I; the model's own by default."""
    num_slots: int | None = None
    """K; the model's own by default."""
    draws: int = 1
    """Inferences of each image with noise of their own, of which the one with the least NLL + KL is kept: so many times
    the time, and fewer unlucky ones."""
    seed: int = 0
    """Of the noise; another seed may show another decomposition."""
    device: str = "auto"
    """auto, cpu, cuda, ..."""


def decompose(words: Sequence[str]) -> int:
    """take pictures apart: sheets, masks, components and codes"""
    options: Decompose = parse(Decompose, words, "decompose")

    if not options.sources:
        raise InputError("name at least one picture, folder or data source")
    model, about = load_weights(find_weights(options.weights), pick_device(options.device))
    chosen = InferOptions(options.num_slots, options.refinement_steps, draws=options.draws)
    sources = []
    for name in options.sources:
        source = feed(
            about,
            name,
            split=options.split,
            fit=options.fit,
            protocol=options.protocol,
            subset=options.subset,
        ).source
        count = (8 if name in DATASETS else len(source)) if options.num_images is None else options.num_images
        sources.append(Subset(source, 0, min(count, len(source))))
    with bar("decomposing", sum(map(len, sources))) as advance:
        sheets = run_decomposition(model, sources, options.out, chosen, options.seed, advance)
    print(f"wrote {sum(map(len, sources))} decompositions to {options.out}; sheets: {', '.join(map(str, sheets))}")
    return 0


@dataclass(frozen=True)
class Sample:
    """Draw whole scenes from a model's prior."""

    weights: Positional[str]
    """Shipped name, run folder or weights folder."""
    num: int = 16
    """Scenes."""
    out: Path = Path("samples.png")
    """The picture, .png or .pdf: each scene with its masks, a colour for each slot."""
    size: tuple[int, int] | None = None
    """Height and width; those that the weights were trained on by default."""
    num_slots: int | None = None
    """K; the model's own by default."""
    seed: int = 0
    """Of the noise; a scene depends on the seed and its number alone."""
    device: str = "auto"
    """auto, cpu, cuda, ..."""


def sample(words: Sequence[str]) -> int:
    """draw whole scenes from a model's prior, where it has one"""
    options: Sample = parse(Sample, words, "sample")
    model, about = load_weights(find_weights(options.weights), pick_device(options.device))
    size = options.size or image_size(about)
    if size is None:
        raise InputError("these weights name no image size: give --size")
    check_figure_path(options.out)
    scenes = draw_scenes(model, options.num, size, num_slots=options.num_slots, seed=options.seed)
    save_figure(contact_sheet(scenes, num=len(scenes), title=f"{options.weights}: from the prior"), options.out)
    print(f"picture: {options.out}")
    return 0


@dataclass(frozen=True)
class Traverse:
    """Show what each dimension of a slot's code does to the picture: sheets and animations."""

    weights: Positional[str]
    """Shipped name, run folder or weights folder."""
    out: Path
    """Folder for the sheets (.png) and animations (.webp)."""
    data: str | None = None
    """Generator or path; what the weights were trained on by default. Its codes give the range of each dimension."""
    image: int = 0
    """Position of the image, in the test split of a generator."""
    slots: tuple[int, ...] = ()
    """Which slots; by default those that win some pixels."""
    dimensions: int = 8
    """Dimensions of the code that are shown, most active first."""
    values: int = 9
    """Values of each."""
    seed: int = 0
    """Of the noise."""
    device: str = "auto"
    """auto, cpu, cuda, ..."""


def traverse(words: Sequence[str]) -> int:
    """show what each dimension of a slot's code does to the picture: sheets and animations"""
    options: Traverse = parse(Traverse, words, "traverse")
    if min(options.dimensions, options.values - 1) < 1:
        raise InputError("--dimensions must be at least 1 and --values at least 2")
    model, about = load_weights(find_weights(options.weights), pick_device(options.device))
    source = feed(about, options.data).source
    if not 0 <= options.image < len(source):
        raise InputError(f"--image must be from 0 to {len(source) - 1}")
    with bar("looking at data", num_ranging_steps(model, source)) as advance:
        known = ranges(model, source, options.values, options.seed, advance)
    files = run_traversal(
        model,
        source,
        options.image,
        known,
        options.out,
        slots=options.slots,
        num_dimensions=options.dimensions,
        seed=options.seed,
    )
    print(f"wrote {', '.join(str(file) for file in files)}")
    return 0
