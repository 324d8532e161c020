"""What a draw depends on, and on nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from emorl.noise import ImageNoise, RecordedNoise, StepNoise, as_noise

LIKE = torch.zeros(3, 4, 5, dtype=torch.float64)
INDICES = [7, 2, 40]


def draw(seed: int = 0, image: int = 7, name: str = "z0", index: int = 0, like: Tensor = LIKE[:1]) -> Tensor:
    return ImageNoise(seed, [image]).normal(name, index, like)


def test_noise_of_an_image_does_not_depend_on_its_batch() -> None:
    together = ImageNoise(0, INDICES).normal("z0", 0, LIKE)
    for row, image in zip(together, INDICES, strict=True):
        assert torch.equal(row, draw(image=image)[0])
    reversed_ = ImageNoise(0, INDICES[::-1]).normal("z0", 0, LIKE)
    assert torch.equal(reversed_, together.flip(0))


def test_a_draw_does_not_depend_on_earlier_draws() -> None:
    noise = ImageNoise(0, INDICES)
    late = [noise.normal("refine", 1, LIKE), noise.normal("z0", 0, LIKE), noise.normal("refine", 1, LIKE)]
    assert torch.equal(late[0], late[2])
    assert torch.equal(late[0], ImageNoise(0, INDICES).normal("refine", 1, LIKE))
    step = StepNoise(0, 5)
    step.normal("z0", 0, LIKE)
    assert torch.equal(step.normal("z0", 1, LIKE), StepNoise(0, 5).normal("z0", 1, LIKE))


def test_no_global_generator_is_read_or_moved() -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1]
    one = (draw(), StepNoise(0, 0).normal("z0", 0, LIKE))
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)
    torch.manual_seed(1)
    np.random.seed(1)
    assert torch.equal(one[0], draw())
    assert torch.equal(one[1], StepNoise(0, 0).normal("z0", 0, LIKE))


def test_seed_image_name_and_number_each_make_another_draw() -> None:
    draws = [draw(), draw(seed=1), draw(image=8), draw(index=1)]
    draws += [draw(name=name) for name in ("layers", "prior", "refine")]
    draws += [draw(seed=7, image=0), draw(seed=-1)]
    steps = [StepNoise(0, 7), StepNoise(1, 7), StepNoise(0, 8)]
    draws += [noise.normal("z0", 0, LIKE[:1]).to(LIKE) for noise in steps]
    draws += [steps[0].normal("layers", 0, LIKE[:1]), steps[0].normal("z0", 1, LIKE[:1])]
    for i, x in enumerate(draws):
        for y in draws[:i]:
            assert not bool(torch.isin(x, y).any())


def test_streams_do_not_overlap() -> None:
    """Long draws of neighbouring images, numbers and names share no value."""
    like = torch.zeros(1, 20_000, dtype=torch.float64)
    streams = [
        draw(image=0, like=like),
        draw(image=1, like=like),
        draw(image=0, index=1, like=like),
        draw(image=0, name="layers", like=like),
    ]
    everything = torch.cat(streams).flatten()
    assert len(everything.unique()) == len(everything)


def test_the_first_slots_stay_when_there_are_more_of_them() -> None:
    more = torch.zeros(3, 6, 5, dtype=torch.float64)
    assert torch.equal(
        ImageNoise(0, INDICES).normal("z0", 0, more)[:, :4], ImageNoise(0, INDICES).normal("z0", 0, LIKE)
    )


def test_a_process_gets_its_slice_of_the_global_batch() -> None:
    whole = StepNoise(0, 3).normal("z0", 0, torch.zeros(8, 3, 5))
    for first, size in ((0, 8), (0, 3), (3, 4), (7, 1)):
        part = StepNoise(0, 3, first).normal("z0", 0, torch.zeros(size, 3, 5))
        assert torch.equal(part, whole[first : first + size])


@pytest.mark.parametrize("kind", ["image", "step"])
def test_draws_are_standard_normal(kind: str) -> None:
    if kind == "image":
        x = ImageNoise(0, range(100)).normal("z0", 0, torch.zeros(100, 40, 50, dtype=torch.float64))
    else:
        x = StepNoise(0, 0).normal("z0", 0, torch.zeros(100, 40, 50)).double()
    n = x.numel()
    assert float(x.mean()) == pytest.approx(0, abs=4 / n**0.5)
    assert float(x.var()) == pytest.approx(1, abs=4 * (2 / n) ** 0.5)
    assert float((x**3).mean()) == pytest.approx(0, abs=4 * (15 / n) ** 0.5)
    assert float((x**4).mean()) == pytest.approx(3, abs=4 * (96 / n) ** 0.5)
    rows = x.reshape(100, -1)
    neighbours = (rows[1:] * rows[:-1]).mean()
    assert float(neighbours) == pytest.approx(0, abs=4 / n**0.5)


def test_shape_and_dtype_follow_the_request() -> None:
    for noise in (ImageNoise(0, INDICES), StepNoise(0, 0)):
        double = noise.normal("z0", 0, LIKE)
        single = noise.normal("z0", 0, LIKE.float())
        assert (double.dtype, single.dtype) == (torch.float64, torch.float32)
        assert double.shape == single.shape == LIKE.shape
        assert torch.equal(double.float(), single)


def test_recorded_draws_are_replayed_by_name_and_number() -> None:
    arrays = [torch.full((3, 4, 5), float(i)) for i in range(2)]
    noise = RecordedNoise({"layers": arrays, "z0": [arrays[1] + 5]})
    for i in (1, 0, 1):
        assert torch.equal(noise.normal("layers", i, LIKE), arrays[i].double())
    assert float(noise.normal("z0", 0, LIKE)[0, 0, 0]) == 6


def test_recorded_draws_of_another_shape_are_refused() -> None:
    noise = RecordedNoise({"z0": [torch.zeros(1, 4, 5)]})
    with pytest.raises(ValueError, match=r"z0\[0\] is \(1, 4, 5\), need \(3, 4, 5\)"):
        noise.normal("z0", 0, LIKE)


def test_a_seed_counts_the_images_from_zero() -> None:
    expected = ImageNoise(3, range(3)).normal("z0", 0, LIKE)
    assert torch.equal(as_noise(3, 3).normal("z0", 0, LIKE), expected)
    assert torch.equal(as_noise(None, 3).normal("z0", 0, LIKE), ImageNoise(0, range(3)).normal("z0", 0, LIKE))
    noise = StepNoise(0, 0)
    assert as_noise(noise, 3) is noise
