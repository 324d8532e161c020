"""Every table and figure of the paper: which experiments it is made of, how it is drawn, and what it is said to show.

The one place to look up which experiment serves what: `serves` in the files of experiments/ says the same, and a test
holds them together. Labels are those of rows, lines and panels; published values are found by them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from emorl.benchmark.pictures import fig10, fig22
from emorl.experiments import Scale
from emorl.reproduce import curves, pictures, tables
from emorl.reproduce.claims import AtLeast, AtMost, Claim, Measured, More
from emorl.reproduce.curves import Conditions, Panel, Quantity, Swept
from emorl.reproduce.lab import Lab
from emorl.reproduce.output import Content
from emorl.reproduce.published import TABLE1, TABLE2, TABLE3
from emorl.results import Known

Runs = Mapping[str, str]
"""Label -> name of an experiment."""


@dataclass(frozen=True)
class Item:
    """A table or figure."""

    title: str
    caption: str
    make: Callable[[Lab, Runs], Content]
    runs: dict[Scale, Runs] = field(default_factory=dict)
    """What it is made of; a scale that is missing has no data for it."""
    claims: tuple[Claim, ...] = ()


DATA: dict[Scale, dict[str, str]] = {
    "paper": {"Tetrominoes": "tetrominoes", "Multi-dSprites": "multi-dsprites", "CLEVR6": "clevr6"},
    "nano": {"Tetrominoes": "nano", "Multi-dSprites": "multi-dsprites-32"},
}
MODELS = {
    "EfficientMORL": "efficientmorl",
    "Slot Attention": "slot-attention",
    "IODINE": "iodine",
    "MONet": "monet",
    "Slot MLP": "slot-mlp",
}
MORE_MODELS = {"GENESIS": "genesis", "GENESIS-S": "genesis-s", "GENESIS-v2": "genesis-v2"}
"""Not in the paper's Table 1."""

_TABLE1: dict[Scale, Runs] = {
    scale: {
        f"{data}: {model}": f"{prefix}-{suffix}"
        for data, suffix in DATA[scale].items()
        for model, prefix in (MODELS if scale == "paper" else MODELS | MORE_MODELS).items()
    }
    for scale in DATA
}
_NANO = "efficientmorl-nano"
_TABLE1["paper"] = {
    **_TABLE1["paper"],
    "Tetrominoes: EfficientMORL, 24,000 steps": "efficientmorl-tetrominoes-24k",
    "Tetrominoes: EfficientMORL, 48,000 steps": "efficientmorl-tetrominoes-48k",
    "Tetrominoes: EfficientMORL, 24,000 steps, then 16,000 on a CPU": "efficientmorl-tetrominoes-tuned",
    "Tetrominoes: EfficientMORL, 24,000 steps, then 16,000 more": "efficientmorl-tetrominoes-tuned-16k",
    "Multi-dSprites: EfficientMORL, 24,000 steps": "efficientmorl-multi-dsprites-24k",
    "Multi-dSprites: EfficientMORL, going on to 48,000": "efficientmorl-multi-dsprites-48k",
    "Multi-dSprites: EfficientMORL, going on to 84,000": "efficientmorl-multi-dsprites-84k",
    "CLEVR6: EfficientMORL, 24,000 steps from `multi-dsprites-48k`": "efficientmorl-clevr6-24k",
    "CLEVR6: EfficientMORL, 24,000 steps from scratch": "efficientmorl-clevr6-scratch-24k",
    "CLEVR6 at 64x64: EfficientMORL, 4,500 steps from `multi-dsprites-48k` on a CPU": "efficientmorl-clevr6-tuned",
}
_TABLE1["nano"] = {
    **_TABLE1["nano"],
    "Tetrominoes: EfficientMORL, bottom-up prior, I = 3": f"{_NANO}-bottom-up-i3",
    "Tetrominoes: EfficientMORL, `tetrominoes-fast`": "efficientmorl-tetrominoes-fast",
    "Tetrominoes: EfficientMORL at full size": "efficientmorl-tetrominoes-cpu",
    "Multi-dSprites at 48x48: EfficientMORL": "efficientmorl-multi-dsprites-nano",
    "CLEVR6 at 48x48: EfficientMORL": "efficientmorl-clevr6-nano",
}
_OURS: dict[Scale, dict[str, str]] = {
    scale: {data: f"efficientmorl-{suffix}" for data, suffix in of.items()} for scale, of in DATA.items()
}


def _ours(paper: str, nano: str | None = None) -> dict[Scale, Runs]:
    """EfficientMORL on one data set of each scale."""
    runs: dict[Scale, Runs] = {"paper": {paper: _OURS["paper"][paper]}}
    return runs | ({"nano": {nano: _OURS["nano"][nano]}} if nano else {})


_SWEPT = (
    Swept("foreground_ari", Panel("Segmentation", "refinement steps at test time", "foreground ARI")),
    Swept("mse", Panel("Reconstruction", "refinement steps at test time", "MSE, pixels in [0, 1]")),
    Swept("kl", Panel("KL of the last step", "refinement steps at test time", "KL, nats per image")),
)
_MORE_OBJECTS = Panel("More objects than trained on", "refinement steps at test time", "foreground ARI")
_LOSS = Panel("Training loss (of more terms where I is larger)", "training step", "loss, nats per image")
_ELBO = Panel("Negative ELBO of the last refinement step", "training step", "nats per image")
_KL = Panel("KL of the last refinement step", "training step", "KL, nats per image")
_NORM = Panel("Size of the updates of the posterior", "training step", "L2 norm")
_LAYERS = Panel("Segmentation by number of layers", "stochastic layers L", "foreground ARI")


_REFINED = ("CLEVR6", "Tetrominoes", "Tetrominoes, 24,000 steps")
_LAST_ELBO = "last negative ELBO"
_CHANGE = "ARI minus that with as many objects as trained on"
_LAYER1 = "MSE of layer 1 over that of the result"
_DISENTANGLED: dict[Scale, Runs] = {
    "paper": {"EfficientMORL": "efficientmorl-clevr6", "Slot Attention": "slot-attention-clevr6"},
    "nano": {"EfficientMORL": _NANO, "Slot Attention": "slot-attention-nano"},
}
_WITHOUT_GECO: dict[Scale, Runs] = {
    "paper": {"Tetrominoes, without GECO": "efficientmorl-tetrominoes-no-geco"},
    "nano": {"Tetrominoes": _NANO},
}
_TEXTURED: dict[Scale, str] = {"paper": "", "nano": "-32"}


def _fig7(lab: Lab, runs: Runs) -> Content:
    """Scores by I, and those on scenes with more objects than were trained on."""
    few, many = "objects as trained on", "more objects"
    config = lab.experiment(runs[few]).config(0)
    test = Conditions("clevr10", None, 11) if config.data == "clevr6" else Conditions(config.data, "4-5", 6)
    own = tuple(label for label in runs if label not in (few, many))
    scores = [replace(score, labels=own) for score in _SWEPT]
    shown = curves.refinement(lab, runs, [*scores, Swept("foreground_ari", _MORE_OBJECTS, (few, many))], {many: test})
    found = lab.ask(runs[many], partial(_change, test=test, steps=config.model.refinement_steps))
    return replace(shown, numbers={**shown.numbers, many: {**shown.numbers[many], _CHANGE: list(found.values())}})


def _change(known: Known, test: Conditions, steps: int) -> float:
    """Foreground ARI under other conditions minus that of the run's own."""
    here, there = (curves.evaluated(known, of, steps)["foreground_ari"]["mean"] for of in (Conditions(), test))
    return float(there - here)


PLAN: dict[str, Item] = {
    "table1": Item(
        "Table 1: how well objects are found",
        "Scores on test scenes, mean and standard deviation over seeds; the paper has foreground ARI alone. It finds "
        "EfficientMORL on a par with the best of its time. Published values are of full-size models; the nano scale "
        "has small networks and, for Multi-dSprites, 32x32 pixels. All but EfficientMORL's are quoted from the models' "
        "own papers; in the authors' run of Slot Attention on CLEVR6 at 96x96 it reached 0.933 ± 0.111, one of five "
        "seeds failing. Slot MLP's layer sizes are ours; MONet and the GENESIS family see Tetrominoes cut to 32x32.",
        partial(tables.scores, columns=[tables.ARI, tables.MIOU, tables.MSE], published=TABLE1),
        _TABLE1,
        (
            *(
                More(
                    f"{data}: EfficientMORL is within 0.05 of Slot Attention or better",
                    (f"{data}: EfficientMORL", "foreground ARI"),
                    (f"{data}: Slot Attention", "foreground ARI"),
                    margin=-0.05,
                )
                for data in DATA["paper"]
            ),
            More(
                "EfficientMORL outperforms IODINE on Multi-dSprites",
                ("Multi-dSprites: EfficientMORL", "foreground ARI"),
                ("Multi-dSprites: IODINE", "foreground ARI"),
            ),
        ),
    ),
    "table2": Item(
        "Table 2: what every part is good for",
        "Ablations on test scenes, mean and standard deviation over seeds. The paper finds the full model best, a "
        "higher KL without the DualGRU, and a collapsed one without GECO. The small model replaces GECO by a slow "
        "warm-up of the KL, so the nano scale also shows GECO, and neither of them.",
        partial(tables.scores, columns=[tables.ARI, tables.MSE, tables.KL], published=TABLE2),
        {
            "paper": {
                "CLEVR6: EfficientMORL": "efficientmorl-clevr6-50k",
                "CLEVR6: without DualGRU": "efficientmorl-clevr6-single-gru-50k",
                "CLEVR6: without GECO": "efficientmorl-clevr6-no-geco-50k",
                "Tetrominoes: EfficientMORL": "efficientmorl-tetrominoes",
                "Tetrominoes: without GECO": "efficientmorl-tetrominoes-no-geco",
                "Tetrominoes: bottom-up prior": "efficientmorl-tetrominoes-bottom-up",
                "Tetrominoes: reversed prior": "efficientmorl-tetrominoes-reversed",
            },
            "nano": {
                "Tetrominoes: EfficientMORL": _NANO,
                "Tetrominoes: without DualGRU": f"{_NANO}-single-gru",
                "Tetrominoes: GECO for the KL's warm-up": f"{_NANO}-geco",
                "Tetrominoes: the same, target by running median": f"{_NANO}-geco-quantile",
                "Tetrominoes: without GECO": f"{_NANO}-no-warmup",
                "Tetrominoes: bottom-up prior": f"{_NANO}-bottom-up",
                "Tetrominoes: reversed prior": f"{_NANO}-reversed",
            },
        },
        (
            *(
                More(
                    f"Tetrominoes: the full model has a higher ARI than the row '{what}'",
                    ("Tetrominoes: EfficientMORL", "foreground ARI"),
                    (f"Tetrominoes: {what}", "foreground ARI"),
                )
                for what in ("without GECO", "bottom-up prior", "reversed prior")
            ),
            More(
                "Tetrominoes: without GECO the KL ends lower",
                ("Tetrominoes: EfficientMORL", "KL"),
                ("Tetrominoes: without GECO", "KL"),
            ),
            *(
                More(
                    f"{data}: a single GRU has a higher KL",
                    (f"{data}: without DualGRU", "KL"),
                    (f"{data}: EfficientMORL", "KL"),
                )
                for data in ("CLEVR6", "Tetrominoes")
            ),
        ),
    ),
    "table3": Item(
        "Table 3: disentanglement",
        "DCI of the codes of matched slots: disentanglement D, completeness C, informativeness I. Only the variant "
        "'as released' can be compared with published values: it has a fault that keeps a regressor for all factors "
        "and counts exact equality; beside it stands DCI as it is defined. The paper finds EfficientMORL better by "
        "all three. Published values are of CLEVR6.",
        partial(tables.scores, columns=tables.DCI, published=TABLE3, codes=True),
        _DISENTANGLED,
        (
            *(
                More(f"EfficientMORL has the higher {what}", ("EfficientMORL", what), ("Slot Attention", what))
                for what in ("D", "C", "D as released", "C as released", "I as released")
            ),
        ),
    ),
    "fig3": Item(
        "Fig. 3: refinement in training",
        "Loss over training with I refinement steps, mean over seeds and its 95 % confidence interval. The paper "
        "finds that without refinement training stays in poor minima, and that one step nearly suffices. The training "
        "loss sums more terms where I is larger, so what is compared is the negative ELBO of the last step (right): "
        "the NLL and, as published, the KL of the last posterior alone, without refinement that of all layers.",
        partial(
            curves.training,
            quantities=[
                Quantity("loss", _LOSS, lambda row: row["loss"]),
                Quantity("negative ELBO", _ELBO, curves.elbo),
            ],
        ),
        {
            "paper": {
                "I = 0": "efficientmorl-tetrominoes-i0",
                "I = 1": "efficientmorl-tetrominoes-i1",
                "I = 3": "efficientmorl-tetrominoes",
            },
            "nano": {"I = 0": f"{_NANO}-i0", "I = 1": _NANO, "I = 3": f"{_NANO}-i3"},
        },
        (
            More("Without refinement the ELBO is worse", ("I = 0", _LAST_ELBO), ("I = 1", _LAST_ELBO)),
            More("Three steps are slightly better than one", ("I = 1", _LAST_ELBO), ("I = 3", _LAST_ELBO)),
        ),
    ),
    "fig4": Item(
        "Fig. 4: when refinement becomes small",
        "KL of the last refinement step, and L2 norm of every step's update, over training. The paper finds that as "
        "the KL converges the updates of the second and third step become small, and takes them out of training then.",
        partial(
            curves.training,
            quantities=[
                Quantity("KL", _KL, lambda row: row["kl"]),
                *(Quantity(f"step {step}", _NORM, curves.update_norm(step), own_line=True) for step in (1, 2, 3)),
            ],
        ),
        {"paper": {"EfficientMORL": "efficientmorl-clevr6"}, "nano": {"EfficientMORL, I = 3": f"{_NANO}-i3"}},
        tuple(
            AtMost(
                f"The update of step {step} falls to 0.8 of its largest or less",
                (label, f"last over largest step {step}"),
                0.8,
            )
            for step in (2, 3)
            for label in ("EfficientMORL", "EfficientMORL, I = 3")
        ),
    ),
    "fig5": Item(
        "Fig. 5: scenes taken apart",
        "Two test scenes of every data set. With the Gaussian likelihood a plain background is shared by all slots; "
        "the mixture, used for CLEVR6 at paper scale, gives it one slot.",
        partial(pictures.sheets, draw=partial(pictures.decomposition, first=0, count=2)),
        {scale: dict(of) for scale, of in _OURS.items()},
    ),
    "fig6": Item(
        "Fig. 6: what the layers see",
        "A sample of every layer's posterior decoded, its masks, and the attention that led to it; below, the result "
        "of refinement. The paper finds objects in all layers, and that refinement hardly changes the picture.",
        partial(pictures.sheets, draw=partial(pictures.posteriors, position=0)),
        _ours("CLEVR6", "Tetrominoes"),
    ),
    "fig7": Item(
        "Fig. 7: refinement at test time, and more objects",
        "Test scores by the number of refinement steps; right, the same on scenes with more objects than any that "
        "were trained on, with more slots. The paper finds that without any step 99.1 % of the refined ARI are kept, "
        "that the KL falls with the first step, and a slight drop with more objects. At I = 0 the KL is that of all "
        "layers, from I = 1 on that of the refined posterior alone, as published: most of the fall is that.",
        _fig7,
        {
            "paper": {
                "CLEVR6": "efficientmorl-clevr6",
                "Tetrominoes, 24,000 steps": "efficientmorl-tetrominoes-24k",
                "objects as trained on": "efficientmorl-clevr6",
                "more objects": "efficientmorl-clevr6",
            },
            "nano": {
                "Tetrominoes": _NANO,
                "objects as trained on": "efficientmorl-multi-dsprites-32-few",
                "more objects": "efficientmorl-multi-dsprites-32-few",
            },
        },
        (
            *(
                AtLeast(f"{data}: without refinement 0.99 of the ARI are kept", (data, "kept foreground_ari"), 0.99)
                for data in _REFINED
            ),
            *(
                More(f"{data}: the first step lowers the KL", (data, "kl at I = 0"), (data, "kl at I = 1"))
                for data in _REFINED
            ),
            AtLeast(
                "With more objects the ARI drops by no more than 0.05",
                ("more objects", _CHANGE),
                -0.05,
            ),
        ),
    ),
    "fig8": Item(
        "Fig. 8: number of layers",
        "Foreground ARI on test scenes by the number of stochastic layers L, mean over seeds and its 95 % confidence "
        "interval. The paper finds three best; with none, refinement alone finds the objects.",
        partial(curves.by_layers, panel=_LAYERS),
        {
            "paper": {
                **{f"L = {count}": f"efficientmorl-clevr6-l{count}" for count in (0, 1, 2)},
                "L = 3": "efficientmorl-clevr6",
            },
            "nano": {**{f"L = {count}": f"{_NANO}-l{count}" for count in (0, 1, 2)}, "L = 3": _NANO},
        },
        tuple(
            More(f"L = 3 is better than L = {count}", ("L = 3", "foreground ARI"), (f"L = {count}", "foreground ARI"))
            for count in (0, 1, 2)
        ),
    ),
    "fig9": Item(
        "Fig. 9: disentanglement of EfficientMORL and Slot Attention",
        "What the most active dimensions of one object's code do (rows; named after what they serve better than the "
        "others do), how active all of them are, and DCI. The paper finds most dimensions of EfficientMORL's codes "
        "without effect, and few that change several attributes; Slot Attention's are all in use and entangled. "
        "Published values are of CLEVR6.",
        partial(pictures.disentanglement, position=0),
        _DISENTANGLED,
        (
            More(
                "A larger share of Slot Attention's dimensions is active",
                ("Slot Attention", "active share"),
                ("EfficientMORL", "active share"),
            ),
        ),
    ),
    "fig10": Item(
        "Fig. 10: time and memory",
        "Training and inference of CLEVR6's models by image size, ours and the plain formulation of the same model. "
        "The paper finds, on its GPU and at 128x128, a forward pass without refinement 10 times faster than IODINE's, "
        "and 6 times with the backward pass. Claims are judged by the ratio at the largest size and its "
        "range over the rounds of the measurement.",
        partial(pictures.benchmark, draw=fig10),
        {"paper": {}, "nano": {}},
        (
            Measured("Forward 10 times faster than IODINE", ("IODINE, flattened", "forward over that of E-0"), 10),
            Measured("A training step 6 times faster than IODINE", ("IODINE, flattened", "step over that of E-0"), 6),
        ),
    ),
    "fig11": Item(
        "Fig. 11: does a change of one slot reach the others?",
        "Sprites of several colours on textures. The dimensions of one slot's code are changed one by one; the leak is "
        "the share of the picture's change outside that slot. The paper shows that with the ordered slots of GENESIS "
        "all objects change.",
        partial(pictures.leaks, num_images=32, position=0),
        {
            scale: {
                model: f"{prefix}-multi-dsprites-textured{suffix}"
                for model, prefix in (
                    ("EfficientMORL", "efficientmorl"),
                    ("GENESIS", "genesis"),
                    ("GENESIS-S", "genesis-s"),
                )
            }
            for scale, suffix in _TEXTURED.items()
        },
        tuple(
            More(f"{model} leaks more than EfficientMORL", (model, "leak"), ("EfficientMORL", "leak"))
            for model in ("GENESIS", "GENESIS-S")
        ),
    ),
    "fig13": Item(
        "Fig. 13: what the layers see under other priors",
        "As Fig. 6, for the three hierarchical priors. The paper finds that under the bottom-up and the reversed "
        "prior the lower layers stay close to where they begin, so that their samples show little of the scene.",
        partial(pictures.intermediate, position=0),
        {
            "paper": {
                "reversed++ prior": "efficientmorl-tetrominoes",
                "reversed prior": "efficientmorl-tetrominoes-reversed",
                "bottom-up prior": "efficientmorl-tetrominoes-bottom-up",
            },
            "nano": {
                "reversed++ prior": _NANO,
                "reversed prior": f"{_NANO}-reversed",
                "bottom-up prior": f"{_NANO}-bottom-up",
            },
        },
        tuple(
            More(f"Layer 1 reconstructs worse under the {prior}", (prior, _LAYER1), ("reversed++ prior", _LAYER1))
            for prior in ("reversed prior", "bottom-up prior")
        ),
    ),
    "fig14": Item(
        "Fig. 14: refinement at test time, trained with three steps",
        "Test scores by the number of refinement steps, of models that were trained with three throughout, under two "
        "priors. The paper finds a small loss of ARI without any step, a larger KL, and no loss with up to six. At "
        "I = 0 the KL is that of all layers, from I = 1 on that of the refined posterior alone, as published.",
        partial(curves.refinement, scores=_SWEPT),
        {
            "paper": {
                "reversed++ prior": "efficientmorl-tetrominoes",
                "bottom-up prior": "efficientmorl-tetrominoes-bottom-up",
            },
            "nano": {"reversed++ prior": f"{_NANO}-i3", "bottom-up prior": f"{_NANO}-bottom-up-i3"},
        },
        (
            *(
                More(f"{prior}: the first step lowers the KL", (prior, "kl at I = 0"), (prior, "kl at I = 1"))
                for prior in ("reversed++ prior", "bottom-up prior")
            ),
            More(
                "Six steps are as good as three, within 0.01",
                ("reversed++ prior", "foreground_ari at I = 6"),
                ("reversed++ prior", "foreground_ari at I = 3"),
                margin=-0.01,
            ),
        ),
    ),
    "fig15": Item(
        "Fig. 15: what the layers see, another scene",
        "As Fig. 6, for another test scene.",
        partial(pictures.sheets, draw=partial(pictures.posteriors, position=1)),
        _ours("CLEVR6", "Tetrominoes"),
    ),
    **{
        name: Item(
            f"Fig. {name[3:]}: more scenes of {data}",
            f"Test scenes of {data} by their position, from the third on: none was chosen.",
            partial(pictures.sheets, draw=partial(pictures.decomposition, first=2, count=8)),
            _ours(data, nano),
        )
        for name, data, nano in (
            ("fig16", "CLEVR6", None),
            ("fig17", "Multi-dSprites", "Multi-dSprites"),
            ("fig18", "Tetrominoes", "Tetrominoes"),
        )
    },
    **{
        name: Item(
            f"Fig. {name[3:]}: traversals, {data}",
            "Each row sets one dimension of an object's code to values over the range that it has in the data, the "
            "most active dimension first; it is named after what it serves better than the others do. The paper draws "
            "dimensions at random and finds that most do nothing.",
            partial(pictures.sheets, draw=partial(pictures.traversal, position=1, dimensions=8)),
            runs,
        )
        for name, data, runs in (
            ("fig19", "CLEVR6", _ours("CLEVR6")),
            ("fig20", "Tetrominoes", _WITHOUT_GECO),
            ("fig21", "Multi-dSprites", _ours("Multi-dSprites", "Multi-dSprites")),
        )
    },
    "fig22": Item(
        "Fig. 22: time by image size",
        "A forward pass and a training step by image size, ours and the plain formulation of the same model.",
        partial(pictures.benchmark, draw=fig22),
        {"paper": {}, "nano": {}},
    ),
    "convergence": Item(
        "How fast settings learn",
        "Not in the paper: foreground ARI of 64 validation scenes of Tetrominoes in training, mean and standard "
        "deviation over seeds, and the first validation, one every 2,500 steps, at which it reaches a level.",
        partial(
            tables.convergence,
            steps=(2500, 5000, 10_000, 20_000),
            levels=(0.85, 0.90, 0.95),
            quantity="foreground_ari",
        ),
        {
            "nano": {
                "nano": _NANO,
                "I = 0": f"{_NANO}-i0",
                "I = 3": f"{_NANO}-i3",
                "bottom-up prior": f"{_NANO}-bottom-up",
                "bottom-up prior, I = 3": f"{_NANO}-bottom-up-i3",
                "bottom-up prior, I = 3, modulated decoder": f"{_NANO}-modulated",
                "`tetrominoes-fast`": "efficientmorl-tetrominoes-fast",
                "reversed prior": f"{_NANO}-reversed",
                "no warm-up of the KL": f"{_NANO}-no-warmup",
                "GECO for the warm-up of the KL": f"{_NANO}-geco",
                "the same, target by running median": f"{_NANO}-geco-quantile",
                "one GRU": f"{_NANO}-single-gru",
                "full size": "efficientmorl-tetrominoes-cpu",
            },
        },
    ),
    "settings": Item(
        "Settings of short runs",
        "Not in the paper: scores on test scenes after 40,000 images, 5,000 steps of 8 where nothing else is said, "
        "with the warm-up of the KL over the first two fifths of the steps and the decay of the learning rate over "
        "all of them; mean and standard deviation over seeds.",
        partial(tables.scores, columns=[tables.ARI, tables.MSE, tables.KL], published={}),
        {
            "nano": {
                "nano: learning rate 1e-3, batch 8, sigma 0.17": f"{_NANO}-short",
                "learning rate 5e-4": f"{_NANO}-short-learning-rate-5e-4",
                "learning rate 2e-3": f"{_NANO}-short-learning-rate-2e-3",
                "warm-up of the learning rate over 2,000 steps, not 500": f"{_NANO}-short-warmup-2000",
                "batch 4, 10,000 steps": f"{_NANO}-short-batch-4",
                "batch 16, 2,500 steps": f"{_NANO}-short-batch-16",
                "sigma 0.1": f"{_NANO}-short-sigma-0.1",
                "sigma 0.3": f"{_NANO}-short-sigma-0.3",
                "PyTorch's initial weights": f"{_NANO}-short-pytorch-weights",
            },
        },
    ),
}
