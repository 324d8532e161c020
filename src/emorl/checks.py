"""What the numbers of a config may be; a field that is None is passed over."""

from __future__ import annotations

import math
from typing import Any

from emorl.errors import InputError


def at_least(least: int, config: Any, *names: str) -> None:
    """Raises InputError, and names the first field that is below `least`."""
    for name, value in _values(config, names):
        if value < least:
            raise InputError(f"{name} must be at least {least}, got {value}")


def positive(config: Any, *names: str) -> None:
    """Raises InputError, and names the first field that is not a positive, finite number."""
    for name, value in _values(config, names):
        if not 0 < value < math.inf:
            raise InputError(f"{name} must be a positive number, got {value}")


def not_negative(config: Any, *names: str) -> None:
    """Raises InputError, and names the first field that is not 0 or a positive, finite number."""
    for name, value in _values(config, names):
        if not 0 <= value < math.inf:
            raise InputError(f"{name} must be a number of at least 0, got {value}")


def _values(config: Any, names: tuple[str, ...]) -> list[tuple[str, Any]]:
    values = [(name, getattr(config, name)) for name in names]
    return [(name, value) for name, value in values if value is not None]
