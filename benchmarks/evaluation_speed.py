"""How much faster is `evaluate` than a loop over images? Both on the same scenes, weights and threads.

    python benchmarks/evaluation_speed.py [WEIGHTS] [--images 320] [--rounds 3] [--device cpu]

The loop infers one image at a time and gives it the same scores: scikit-learn's adjusted Rand index (objects' pixels,
and all), mIoU with and without background by SciPy's assignment, mean best overlap, covering and a mean squared error.
Of each the fastest of the rounds counts, taken in turn; the data is in memory. The scores of masks alone are compared
too, with the labels given.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score

from emorl.data.base import Subset, take
from emorl.errors import InputError
from emorl.evaluation import evaluate, infer, winners
from emorl.feed import feed
from emorl.metrics.ari import ari, foreground_ari
from emorl.metrics.iou import matched_iou
from emorl.metrics.segmentation import mean_best_overlap, segmentation_covering
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


NAMES = ("foreground_ari", "ari", "miou", "miou_with_background", "mbo", "covering")


def by_hand(truth: np.ndarray, labels: np.ndarray) -> tuple[float, ...]:
    """The scores `NAMES` of one image."""
    there = truth > 0
    masks, slots = ([part == value for value in np.unique(part)] for part in (truth, labels))
    overlaps = np.array([[(mask & slot).sum() / (mask | slot).sum() for slot in slots] for mask in masks])
    objects, pixels = overlaps[1:], np.bincount(truth[there])[1:]
    return (
        adjusted_rand_score(truth[there], labels[there]),
        adjusted_rand_score(truth.ravel(), labels.ravel()),
        *(of[linear_sum_assignment(of, maximize=True)].sum() / len(of) for of in (objects, overlaps)),
        objects.max(axis=1).mean(),
        np.average(objects.max(axis=1), weights=pixels[pixels > 0]),
    )


def batched(truth: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, ...]:
    """The same of all images at once, as `evaluate` has them."""
    return (
        foreground_ari(truth, labels),
        ari(truth, labels),
        matched_iou(truth, labels),
        matched_iou(truth, labels, include_background=True),
        mean_best_overlap(truth, labels),
        segmentation_covering(truth, labels),
    )


def loop(model: Model, scenes: Batch) -> list[tuple[float, ...]]:
    """The scores of every image, the mean squared error last."""
    found = []
    for i in range(len(scenes)):
        one = take(scenes, np.array([i]))
        inference = infer(model, one, InferOptions(), 0)
        assert one.mask is not None
        labels = inference.masks[0, :, 0].argmax(dim=0).cpu().numpy()
        error = np.square(one.image[0] / 255 - inference.reconstruction[0].permute(1, 2, 0).cpu().numpy()).mean()
        found.append((*by_hand(one.mask[0], labels), error))
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
    try:
        model, about = load_weights(find_weights(given.weights), given.device)
        source = Subset(feed(about).source, 0, given.images)
        scenes = source.read(np.arange(given.images))
    except InputError as error:
        parser.error(str(error))
    held = Held(source, scenes)
    assert scenes.mask is not None
    truth, labels = scenes.mask, winners(infer(model, scenes, InferOptions(), 0).masks, scenes.mask.shape[1:])

    ours, theirs = evaluate(model, held), np.mean(loop(model, scenes), axis=0)
    for name, value in zip([*NAMES, "mse"], theirs, strict=True):
        assert abs(ours[name]["mean"] - value) < 1e-3, (name, ours[name], value)
    times = fastest(
        {
            "evaluate": lambda: evaluate(model, held),
            "loop over images": lambda: loop(model, scenes),
            "scores, batched": lambda: batched(truth, labels),
            "scores, one by one": lambda: [by_hand(*pair) for pair in zip(truth, labels, strict=True)],
        },
        given.rounds,
    )
    for name, seconds in times.items():
        print(f"{name:20} {seconds:8.3f} s")
    print(f"evaluation: {times['loop over images'] / times['evaluate']:.1f} times faster than the loop")
    print(f"scores alone: {times['scores, one by one'] / times['scores, batched']:.1f} times faster")


if __name__ == "__main__":
    main()
