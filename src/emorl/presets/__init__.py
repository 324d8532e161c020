"""Named runs, a module per model: MODEL/DATA, with -VARIANT behind it."""

from __future__ import annotations

import difflib

from emorl.config import TrainConfig
from emorl.errors import InputError
from emorl.presets import efficientmorl, genesis, genesis_v2, iodine, monet, slot_attention, slot_mlp
from emorl.presets.base import Preset, on_small_sprites

PRESETS: dict[str, Preset] = {
    **efficientmorl.PRESETS,
    **genesis.PRESETS,
    **genesis_v2.PRESETS,
    **iodine.PRESETS,
    **monet.PRESETS,
    **slot_attention.PRESETS,
    **slot_mlp.PRESETS,
}
for _model in [name.removesuffix("/nano") for name in PRESETS if name.endswith("/nano")]:
    for _data in ("multi-dsprites", "multi-dsprites-textured"):
        PRESETS.setdefault(f"{_model}/{_data}-32", on_small_sprites(PRESETS[f"{_model}/nano"], _data))


def full_name(name: str) -> str:
    """EfficientMORL's names may be given without the model."""
    return name if "/" in name else f"efficientmorl/{name}"


def preset(name: str) -> TrainConfig:
    """The config of a preset; raises InputError that lists what there is."""
    found = PRESETS.get(full_name(name))
    if found is None:
        close = difflib.get_close_matches(full_name(name), PRESETS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(PRESETS)}"
        raise InputError(f"unknown preset {name}; {hint}")
    return found()
