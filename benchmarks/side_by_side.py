"""What several models make of the same scenes, as one picture.

python benchmarks/side_by_side.py NAME=WEIGHTS... --out FILE [--images 4] [--first 0]

The scenes are of the test split of what the first weights were trained on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from emorl.errors import InputError
from emorl.evaluation import infer
from emorl.feed import feed
from emorl.figures import comparison_sheet, save_figure
from emorl.models.base import InferOptions
from emorl.runs import find_weights, load_weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("models", nargs="+", metavar="NAME=WEIGHTS")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--first", type=int, default=0)
    given = parser.parse_args()
    weights = {name: path for name, _, path in (words.partition("=") for words in given.models)}
    if given.images < 1:
        parser.error("--images must be at least 1")
    if len(weights) < len(given.models) or not all(weights.values()):
        parser.error("give every model as NAME=WEIGHTS, each by a name of its own")
    try:
        models, abouts = zip(*(load_weights(find_weights(path)) for path in weights.values()), strict=True)
        scenes, *others = (
            feed(about).source.read(np.arange(given.first, given.first + given.images)) for about in abouts
        )
        if not all(np.array_equal(scenes.image, other.image) for other in others):
            raise InputError("these models were trained on different pictures, or other sizes or crops of them")
        if scenes.mask is None:
            raise InputError(f"{abouts[0]['data']} has no true masks")
        found = [infer(model, scenes, InferOptions(), 0) for model in models]
        save_figure(comparison_sheet(scenes.image, dict(zip(weights, found, strict=True)), scenes.mask), given.out)
    except InputError as error:
        parser.error(str(error))
    print(f"wrote {given.out}")


if __name__ == "__main__":
    main()
