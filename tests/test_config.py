"""Configs to and from JSON, what is refused, and what they say about a step."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import pytest

from emorl.config import TrainConfig, from_json, model_from_json, model_to_json, to_json
from emorl.errors import InputError
from emorl.presets import PRESETS, preset
from tests import tiny

Json = dict[str, Any]
CLEVR6 = PRESETS["efficientmorl/clevr6"]


def through_json(content: Json) -> Json:
    """What is left of it once it was in a file."""
    result: Json = json.loads(json.dumps(content))
    return result


@pytest.fixture
def content() -> Json:
    return through_json(to_json(CLEVR6()))


def refusal(content: Any) -> str:
    """The one line with which a config is refused; it names the file."""
    with pytest.raises(InputError) as caught:
        from_json(content, "run/config.json")
    message = str(caught.value)
    assert message.startswith("run/config.json: ") and len(message.splitlines()) == 1
    return message


# ----------------------------------------------------------------------- round trips


@pytest.mark.parametrize("make", [*PRESETS.values(), lambda: tiny.RUN, lambda: tiny.GECO_RUN])
def test_json_gives_the_same_config_back(make: Callable[[], TrainConfig]) -> None:
    config = make()
    assert from_json(through_json(to_json(config)), "here") == config
    assert model_from_json(through_json(model_to_json(config.model)), "here") == config.model


def test_every_field_is_in_the_json() -> None:
    content = to_json(CLEVR6())
    assert content["model"].pop("name") == "efficientmorl"
    assert content == asdict(CLEVR6())


def test_a_field_that_is_not_there_has_its_default(content: Json) -> None:
    del content["clip_norm"], content["model"]["num_layers"]
    assert from_json(content, "here") == CLEVR6()


# ----------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("where", [(), ("model",), ("model", "geco"), ("model", "patch")])
def test_an_unknown_key_is_named(content: Json, where: tuple[str, ...]) -> None:
    entry = content
    for name in where:
        entry = entry[name]
    entry["learning_rat"] = 1
    assert '"learning_rat"' in refusal(content)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", "5"),
        ("steps", 5.5),
        ("steps", None),
        ("learning_rate", "fast"),
        ("data", 3),
        ("decay", "slow"),
        ("data_split", "test"),
        ("curriculum", 5),
        ("curriculum", [5]),
        ("curriculum", [[0, 1, 2]]),
        ("curriculum", [["0", 1]]),
        ("image_size", 96),
        ("image_size", [96]),
        ("image_size", "96"),
        ("protocol", "monet"),
        ("protocol", 3),
        ("subset", 6),
        ("model.num_slots", "seven"),
        ("model.decoder", "big"),
        ("model.likelihood", None),
        ("model.geco", []),
        ("model.patch", 2),
        ("model.geco.warmup_steps", "many"),
        ("model.patch.encoder_patch", 2.5),
    ],
)
def test_a_wrong_type_is_named(content: Json, name: str, value: object) -> None:
    *path, field = name.split(".")
    entry = content
    for part in path:
        entry = entry[part]
    entry[field] = value
    assert field in refusal(content)


def test_of_a_choice_that_is_none_the_choices_are_told(content: Json) -> None:
    content["model"]["decoder"] = "big"
    assert "decoder cannot be 'big'; there are: broadcast, small, deconv" in refusal(content)


@pytest.mark.parametrize("name", ["unknown", "", None, 3, ["efficientmorl"], {}])
def test_an_unknown_model_is_refused_with_those_there_are(content: Json, name: object) -> None:
    content["model"]["name"] = name
    assert "efficientmorl" in refusal(content)


@pytest.mark.parametrize("model", [None, 3, "efficientmorl", [], {}])
def test_a_config_without_a_model_is_refused(content: Json, model: object) -> None:
    content["model"] = model
    assert "no known model" in refusal(content)


@pytest.mark.parametrize("content", [None, [], 3, "config", {}])
def test_anything_else_is_refused(content: object) -> None:
    refusal(content)


def test_a_missing_field_without_default_is_named(content: Json) -> None:
    del content["data"]
    assert '"data"' in refusal(content)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_images", 0),
        ("batch_size", 0),
        ("steps", 0),
        ("log_every", 0),
        ("checkpoint_every", -1),
        ("half_life_steps", 0),
        ("warmup_steps", -1),
        ("kl_warmup_steps", -1),
        ("validate_every", -1),
        ("validation_images", -1),
        ("learning_rate", 0.0),
        ("learning_rate", math.nan),
        ("clip_norm", math.inf),
        ("betas", (0.9, 1.0)),
        ("betas", (-0.1, 0.999)),
        ("batch_size", 100_000),
        ("curriculum", ()),
        ("curriculum", ((1, 3),)),
        ("curriculum", ((0, 3), (0, 1))),
        ("curriculum", ((0, 3), (20, 1), (10, 2))),
        ("curriculum", ((0, -1),)),
        ("seed", 2**64),
        ("seed", -(2**63) - 1),
    ],
)
def test_values_out_of_range_are_named(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=name):
        replace(CLEVR6(), **{name: value})


@pytest.mark.parametrize("name", ["slot-mlp/nano", "monet/nano", "genesis/nano", "genesis-v2/nano"])
def test_a_model_without_refinement_steps_is_trained_with_none(name: str) -> None:
    with pytest.raises(InputError, match="no refinement steps"):
        replace(preset(name), curriculum=((0, 0), (10, 1)))


# ----------------------------------------------------------------------- schedules


def test_the_curriculum_changes_at_its_steps() -> None:
    config = replace(CLEVR6(), curriculum=((0, 3), (100, 1), (250, 2)))
    steps = (0, 1, 99, 100, 249, 250, 10**9)
    assert [config.refinement_steps(step) for step in steps] == [3, 3, 3, 1, 1, 2, 2]


def test_the_weight_of_the_kl_grows_to_that_of_the_model() -> None:
    model = replace(tiny.MODEL, kl_weight=4.0)
    config = replace(tiny.RUN, model=model, kl_warmup_steps=100)
    assert [config.kl_weight(step) for step in (0, 25, 50, 100, 1000)] == [0.0, 1.0, 2.0, 4.0, 4.0]
    assert replace(config, kl_warmup_steps=0).kl_weight(0) == 4.0
