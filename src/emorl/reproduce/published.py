"""The numbers of the paper's tables: (mean, standard deviation over runs); ARI and DCI in [0, 1].

Table 1 quotes all but EfficientMORL from their own papers. The authors' own run of Slot Attention on CLEVR6 at 96x96
gave an ARI of 0.933 +- 0.111: one of its five runs failed.
"""

from __future__ import annotations

Published = dict[str, dict[str, tuple[float, float]]]
"""Label of a row -> heading of a column -> mean, standard deviation."""

_ARI = {
    "Tetrominoes: EfficientMORL": (0.982, 0.018),
    "Tetrominoes: Slot Attention": (0.995, 0.002),
    "Tetrominoes: IODINE": (0.992, 0.004),
    "Tetrominoes: Slot MLP": (0.251, 0.343),
    "Multi-dSprites: EfficientMORL": (0.912, 0.004),
    "Multi-dSprites: Slot Attention": (0.913, 0.003),
    "Multi-dSprites: IODINE": (0.767, 0.056),
    "Multi-dSprites: MONet": (0.904, 0.008),
    "Multi-dSprites: Slot MLP": (0.603, 0.018),
    "CLEVR6: EfficientMORL": (0.962, 0.016),
    "CLEVR6: Slot Attention": (0.988, 0.003),
    "CLEVR6: IODINE": (0.988, 0.000),
    "CLEVR6: MONet": (0.962, 0.006),
    "CLEVR6: Slot MLP": (0.604, 0.066),
}

TABLE1: Published = {label: {"foreground ARI": value} for label, value in _ARI.items()}

TABLE2: Published = {
    "CLEVR6: EfficientMORL": {"foreground ARI": (0.824, 0.079), "MSE": (8.3e-4, 1.1e-4), "KL": (692.7, 281.4)},
    "CLEVR6: without DualGRU": {"foreground ARI": (0.797, 0.223), "MSE": (8.1e-4, 1.7e-4), "KL": (1357.4, 321.6)},
    "CLEVR6: without GECO": {"foreground ARI": (0.799, 0.099), "MSE": (9.9e-4, 2.5e-4), "KL": (177.5, 14.7)},
    "Tetrominoes: EfficientMORL": {"foreground ARI": (0.979, 0.024), "MSE": (7.0e-4, 6.0e-4), "KL": (98.5, 21.4)},
    "Tetrominoes: without GECO": {"foreground ARI": (0.822, 0.177), "MSE": (68.8e-4, 42.2e-4), "KL": (45.9, 9.3)},
    "Tetrominoes: bottom-up prior": {"foreground ARI": (0.857, 0.110), "MSE": (17.1e-4, 14.6e-4)},
    "Tetrominoes: reversed prior": {"foreground ARI": (0.869, 0.162), "MSE": (22.1e-4, 21.4e-4)},
}

TABLE3: Published = {
    "Slot Attention": {
        "D as released": (0.46, 0.01),
        "C as released": (0.38, 0.02),
        "I as released": (0.34, 0.01),
    },
    "EfficientMORL": {
        "D as released": (0.63, 0.04),
        "C as released": (0.63, 0.06),
        "I as released": (0.46, 0.01),
    },
}
