"""Solids by their definition alone, in float64 and without hurry: what the fast answers are held against."""

from __future__ import annotations

import numpy as np

from emorl.data.clevr.solids import FILLETS


def distance(shape: str, point: np.ndarray) -> np.ndarray:
    """Signed distance (...) of points (... 3) to a solid of half-height 1."""
    q = np.abs(point)
    if shape == "cylinder":
        q = np.stack([np.hypot(point[..., 0], point[..., 1]), q[..., 2]], axis=-1)
    q = q - (1 - FILLETS[shape])
    result: np.ndarray = np.linalg.norm(np.maximum(q, 0), axis=-1) + np.minimum(q.max(axis=-1), 0) - FILLETS[shape]
    return result


def lowest(
    shape: str, origin: np.ndarray, direction: np.ndarray, low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Where lines (M 3 each) come nearest between low and high (M), and how near: the best of many, ever closer."""
    rows, num = np.arange(len(origin)), 64
    for _ in range(12):
        t = low[:, None] + (high - low)[:, None] * np.linspace(0, 1, num)
        values = distance(shape, origin[:, None] + t[..., None] * direction[:, None])
        best = values.argmin(axis=1)
        low, high = t[rows, np.maximum(best - 1, 0)], t[rows, np.minimum(best + 1, num - 1)]
        num = 16
    return t[rows, best], values[rows, best]


def enter(shape: str, origin: np.ndarray, direction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where rays (M 3 each) enter, infinite where they miss, and how near or deep they get: M each."""
    middle = -(origin * direction).sum(axis=1)
    nearest, depth = lowest(shape, origin, direction, np.maximum(middle - 2, 0), np.maximum(middle + 2, 0))
    low, high = np.zeros_like(nearest), nearest
    for _ in range(60):
        t = (low + high) / 2
        inside = distance(shape, origin + t[:, None] * direction) < 0
        low, high = np.where(inside, low, t), np.where(inside, t, high)
    return np.where(depth < 0, high, np.inf), depth
