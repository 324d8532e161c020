"""emorl evaluate."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from tyro.conf import Positional

from emorl.cli.shared import check_json, parse, print_rows, save_json
from emorl.data.base import Source, Subset
from emorl.data.progress import bar
from emorl.data.protocols import ProtocolName, Split
from emorl.data.sources import Fit
from emorl.errors import InputError
from emorl.evaluation import BATCH_SIZE
from emorl.feed import feed
from emorl.models.base import InferOptions, Model
from emorl.precision import Precision, pick_device
from emorl.representation import are_active, describe, num_describing_steps
from emorl.results import evaluate_feed, is_run, keep_results
from emorl.runs import find_weights, load_weights, newest_checkpoint


@dataclass(frozen=True)
class Evaluate:
    """Score weights on images: foreground ARI, ARI, mIoU, MSE, NLL, KL."""

    weights: Positional[str]
    """Shipped name, run folder or weights folder."""
    data: str | None = None
    """Generator or path; what the weights were trained on by default."""
    split: Split | None = None
    """Of a generator, and of what the weights were trained on: test by default. Other files are read whole."""
    protocol: ProtocolName | None = None
    """Whose split, crop and resizing; that of the weights by default."""
    subset: str | None = None
    """Only scenes with so many objects, such as clevr10 or 3-6; on their own data that of the weights by default."""
    num_images: int | None = None
    """The first ones only."""
    refinement_steps: tuple[int, ...] = ()
    """I at test time; several make a sweep. The model's own by default."""
    num_slots: tuple[int, ...] = ()
    """K at test time; several make a sweep."""
    fit: Fit | None = None
    """How images of another size are brought to that of the model: crop takes the protocol's window, of pictures the
    largest centred one; or the name of a window. none leaves them at their own. By default as for the training images,
    and crop for pictures."""
    score_size: int | None = None
    """Height and width at which masks are scored, after they are resized to it: those of the window that is cut out of
    the scenes. 192 for CLEVR, as the EfficientMORL authors do. By default the model's size."""
    codes: bool = False
    """Also say what the codes are worth: disentanglement (DCI), what simple predictors read from them, activeness of
    every dimension, use of the slots, stability under other noise. Minutes; with one K and I."""
    posterior_mean: bool = False
    """Decode the mean of the last posterior rather than a sample. Refinement goes by samples all the same."""
    draws: int = 1
    """Inferences of each image with noise of their own, of which the one with the least NLL + KL is kept: so many times
    the time, and fewer unlucky ones."""
    seed: int = 0
    """Of the noise; an image's noise depends on the seed and its position alone."""
    batch_size: int = BATCH_SIZE
    """Changes speed and memory, not results."""
    device: str = "auto"
    """auto, cpu, cuda, ..."""
    precision: Precision = "float32"
    """Of the convolutions; not what the weights were trained in, so that scores do not depend on the machine."""
    json: Path | None = None
    """Write the results there."""


def evaluate(words: Sequence[str]) -> int:
    """score weights on images: foreground ARI, ARI, mIoU, MSE, NLL, KL"""
    options: Evaluate = parse(Evaluate, words, "evaluate")
    check_json(options.json)
    if options.batch_size < 1:
        raise InputError("--batch-size must be at least 1")
    weights = find_weights(options.weights)
    model, about = load_weights(weights, pick_device(options.device), options.precision)
    fed = feed(
        about,
        options.data,
        split=options.split,
        fit=options.fit,
        protocol=options.protocol,
        subset=options.subset,
        score_size=options.score_size,
    )
    source = fed.source
    if fed.seen:
        print(f"the weights may have been trained on some or all of these images: {about['data']}", file=sys.stderr)
    if options.num_images is not None:
        if not 1 <= options.num_images <= len(source):
            raise InputError(f"--num-images must be from 1 to {len(source)}")
        source = Subset(source, 0, options.num_images)
        fed = replace(fed, source=source)
    rows = []
    sweep = [(k, i) for k in options.num_slots or (None,) for i in options.refinement_steps or (None,)]
    if options.codes and len(sweep) > 1:
        raise InputError("--codes goes with one K and one I: ask for a sweep without it")
    with bar("evaluating", len(source) * len(sweep)) as advance:
        for num_slots, steps in sweep:
            chosen = InferOptions(num_slots, steps, sample=not options.posterior_mean, draws=options.draws)
            row = evaluate_feed(
                model,
                fed,
                options=chosen,
                seed=options.seed,
                batch_size=options.batch_size,
                precision=options.precision,
                progress=advance,
            )
            rows.append({"weights": options.weights, **row})
    print_rows(rows, ["foreground_ari", "ari", "miou", "mse", "nll", "kl", "kl_stage1"])
    try:
        if options.codes:  # which takes much longer, and may fail
            rows[0]["codes"] = _described(model, source, options, sweep[0])
    finally:
        save_json(options.json, rows[0] if len(rows) == 1 else {"rows": rows})
    run, usual = Path(options.weights), replace(Evaluate(options.weights), **_harmless(options))
    if is_run(run) and weights == newest_checkpoint(run) and options == usual:
        try:
            keep_results(run, weights, rows[0])
            print(f"kept: {run / 'results.json'}")
        except InputError as error:  # of a run that others have made, for example; the scores are told
            print(f"not kept: {error}", file=sys.stderr)
    return 0


def _described(
    model: Model, source: Source, options: Evaluate, counts: tuple[int | None, int | None]
) -> dict[str, Any]:
    """What the codes are worth, printed too."""
    chosen = InferOptions(*counts, sample=not options.posterior_mean, draws=options.draws)
    with bar("describing the codes", num_describing_steps(model, source)) as advance:
        codes = describe(
            model, source, options=chosen, seed=options.seed, batch_size=options.batch_size, progress=advance
        )
    _print_codes(codes)
    return codes


def _harmless(options: Evaluate) -> dict[str, Any]:
    """What changes no score: with these alone, the results are the ones that a run folder keeps."""
    return {name: getattr(options, name) for name in ("codes", "batch_size", "device", "json")}


def _print_codes(codes: dict[str, Any]) -> None:
    table = Table(box=None, pad_edge=False)
    for column in ("codes", "value"):
        table.add_column(column)
    usage, active = codes["slots"], np.array(codes["activeness"]["values"])
    table.add_row("share of pixels by slot", " ".join(f"{share:.2f}" for share in usage["share"]))
    if "count_error" in usage:
        table.add_row(
            "slots in use minus objects", f"{usage['count_error']:+.2f} ({usage['absolute_count_error']:.2f})"
        )

    def told(value: float | None, spec: str) -> str:
        return "-" if value is None else f"{value:{spec}}"

    table.add_row("stability", told(codes["stability"]["mean"], ".3f"))
    table.add_row("active dimensions", f"{int(are_active(active).sum())} of {len(active)}")
    for score in (name for name in ("dci", "dci_released") if name in codes):
        values = [
            f"{part[:1].upper()} {told(codes[score][part], '.3f')}" for part in ("disentanglement", "completeness")
        ]
        table.add_row(score.replace("_", ", "), " ".join(values))
    for name in ("linear_probe", "mlp_probe") if "dci" in codes else ():
        for kind, scores in codes[name].items():
            values = [f"{factor} {told(value, '.2f')}" for factor, value in scores.items()]
            table.add_row(f"{name.replace('_', ' ')}, {kind}", " ".join(values))
    Console(width=160).print(table)
