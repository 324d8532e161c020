"""How much faster is `evaluate` than a loop over images? Both on the same scenes, weights and threads.

    python benchmarks/evaluation_speed.py [WEIGHTS] [--images 320] [--rounds 3] [--device cpu]

The loop infers one image at a time and scores it with scikit-learn's adjusted Rand index (objects' pixels, and all) and
a mean squared error. `evaluate` does more: also mIoU, mean best overlap and covering. Of each the fastest of the rounds
counts, taken in turn; the data is in memory. The scores alone are compared too, with the labels given.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
from sklearn.metrics import adjusted_rand_score

from emorl.data.base import Subset, take
from emorl.evaluation import evaluate, infer, winners
from emorl.feed import feed
from emorl.metrics.ari import ari, foreground_ari
from emorl.models.base import InferOptions, Model
from emorl.runs import find_weights, load_weights
from emorl.types import Batch


class Held(Subset):
    """Scenes that were read already."""

    def __init__(self, source: Subset, batch: Batch) -> None:
        super().__init__(source, 0, len(batch))
        self.batch = batch

    def read(self, indices: np.ndarray) -> Batch:
        return take(self.batch, indices)


def by_hand(truth: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Foreground ARI and ARI of one image."""
    there = truth > 0
    return adjusted_rand_score(truth[there], labels[there]), adjusted_rand_score(truth.ravel(), labels.ravel())


def loop(model: Model, scenes: Batch) -> list[float]:
    """Foreground ARI of every image, and what a loop would score beside it."""
    found = []
    for i in range(len(scenes)):
        one = take(scenes, np.array([i]))
        inference = infer(model, one, InferOptions(), 0)
        assert one.mask is not None
        labels = inference.masks[0, :, 0].argmax(dim=0).cpu().numpy()
        found.append(by_hand(one.mask[0], labels)[0])
        np.square(one.image[0] / 255 - inference.reconstruction[0].permute(1, 2, 0).cpu().numpy()).mean()
    return found


def fastest(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    times: dict[str, float] = {}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name] = min(times.get(name, np.inf), time.perf_counter() - start)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("weights", nargs="?", default="nano")
    parser.add_argument("--images", type=int, default=320)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    model, about = load_weights(find_weights(given.weights), given.device)
    source = Subset(feed(about).source, 0, given.images)
    scenes = source.read(np.arange(given.images))
    held = Held(source, scenes)
    assert scenes.mask is not None
    truth, labels = scenes.mask, winners(infer(model, scenes, InferOptions(), 0).masks, scenes.mask.shape[1:])

    ours, theirs = evaluate(model, held)["foreground_ari"]["mean"], float(np.mean(loop(model, scenes)))
    assert abs(ours - theirs) < 1e-3, (ours, theirs)
    times = fastest(
        {
            "evaluate": lambda: evaluate(model, held),
            "loop over images": lambda: loop(model, scenes),
            "ARI, batched": lambda: (foreground_ari(truth, labels), ari(truth, labels)),
            "ARI, scikit-learn": lambda: [by_hand(*pair) for pair in zip(truth, labels, strict=True)],
        },
        given.rounds,
    )
    for name, seconds in times.items():
        print(f"{name:20} {seconds:8.3f} s")
    print(f"evaluation: {times['loop over images'] / times['evaluate']:.1f} times faster than the loop")
    print(f"scores alone: {times['ARI, scikit-learn'] / times['ARI, batched']:.1f} times faster than scikit-learn")


if __name__ == "__main__":
    main()
