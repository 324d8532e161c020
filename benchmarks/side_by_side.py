"""What several models make of the same scenes, as one picture.

python benchmarks/side_by_side.py NAME=WEIGHTS... --out FILE [--images 4] [--first 0]

The scenes are of the test split of what the first weights were trained on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

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
    weights = dict(words.split("=", 1) for words in given.models)
    _, about = load_weights(find_weights(next(iter(weights.values()))))
    scenes = feed(about).source.read(np.arange(given.first, given.first + given.images))
    found = {
        name: infer(load_weights(find_weights(path))[0], scenes, InferOptions(), 0) for name, path in weights.items()
    }
    save_figure(comparison_sheet(scenes.image, found, scenes.mask), given.out)
    print(f"wrote {given.out}")


if __name__ == "__main__":
    main()
