"""Does changing one slot leave the rest of the picture alone? (`emorl.representation.locality`.)

python benchmarks/locality.py WEIGHTS... [--images 64] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from emorl.errors import InputError
from emorl.feed import feed
from emorl.representation import locality
from emorl.runs import find_weights, load_weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("weights", nargs="+")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    try:
        for name in given.weights:
            model, about = load_weights(find_weights(name))
            scenes = feed(about).source.read(np.arange(given.images))
            rows.append({"weights": name, "data": about["data"], **locality(model, scenes)})
            print(json.dumps(rows[-1]))
    except InputError as error:
        parser.error(str(error))
    if given.json:
        given.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
