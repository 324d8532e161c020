"""emorl: objects in images without labels, a disentangled code for each.

model = emorl.load("nano")
scene = model.infer(images)
scores = emorl.evaluate("nano")
"""

from typing import TYPE_CHECKING, Any

from emorl.version import __version__ as __version__

if TYPE_CHECKING:
    from emorl.api import evaluate as evaluate
    from emorl.api import load as load

__all__ = ["evaluate", "load"]


def __dir__() -> list[str]:
    """What there is to complete."""
    return [*globals(), *__all__]


def __getattr__(name: str) -> Any:
    """`load` and `evaluate`, when they are first asked for: importing the package alone loads nothing else."""
    if name not in __all__:
        raise AttributeError(f"module emorl has no {name}")
    from emorl import api

    return getattr(api, name)
