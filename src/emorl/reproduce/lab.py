"""What the tables and figures ask: of an experiment, one question to every finished seed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from emorl.errors import InputError
from emorl.experiments import Experiment, SeedState, seed_state
from emorl.results import Known

T = TypeVar("T")


@dataclass
class Lab:
    """Experiments and their run folders."""

    experiments: dict[str, Experiment]
    runs: Path
    benchmark: tuple[Path, ...] = ()
    """Where the rows of `emorl benchmark --sweep --json` may be; the first file that exists counts."""
    device: str = "auto"
    advance: Callable[[int], None] = lambda images: None
    """Told of every image that is evaluated."""
    _states: dict[str, list[SeedState]] = field(default_factory=dict)
    _known: dict[Path, Known] = field(default_factory=dict)
    _problems: dict[Path, str] = field(default_factory=dict)

    def experiment(self, name: str) -> Experiment:
        """By name; raises InputError where there is no such file."""
        if name not in self.experiments:
            raise InputError(f"there is no experiment {name}.toml among the {len(self.experiments)} that were found")
        return self.experiments[name]

    def data(self, runs: Mapping[str, str]) -> list[str]:
        """Names of the data sets that experiments (label -> name) are trained on, each once."""
        return list(dict.fromkeys(self.experiment(name).config(0).data for name in runs.values()))

    def states(self, name: str) -> list[SeedState]:
        """How far every seed of an experiment is."""
        if name not in self._states:
            experiment = self.experiment(name)
            self._states[name] = [seed_state(experiment, seed, self.runs) for seed in experiment.seeds]
        return self._states[name]

    def describe(self, name: str) -> dict[str, Any]:
        """An experiment and how far its seeds are, as plain values."""
        kept = ("seed", "state", "step", "steps", "minutes", "hardware", "version", "reason")
        seeds = [{key: getattr(state, key) for key in kept} for state in self.states(name)]
        return {"experiment": name, "command": self.experiment(name).command(self.runs), "seeds": seeds}

    def ask(self, name: str, question: Callable[[Known], T], *, most: int | None = None) -> dict[int, T]:
        """The answers of the finished seeds, by seed; of the first ones (never the best) where `most` are wanted.

        A seed that cannot answer is left out, and `told` says why.
        """
        answers: dict[int, T] = {}
        for state in self.states(name):
            if state.state == "finished" and (most is None or len(answers) < most):
                known = self._known.setdefault(state.folder, Known(state.folder, self.device, self.advance))
                try:
                    answers[state.seed] = question(known)
                except InputError as error:
                    self._problems[state.folder] = " ".join(str(error).split())
        return answers

    def told(self, name: str, answered: Collection[int]) -> str:
        """How many seeds stand behind an answer, and what became of the others; the command, where there are none."""
        experiment, states = self.experiment(name), self.states(name)
        others = [state for state in states if state.seed not in answered and state.state != "not run"]
        reasons = [f"seed {state.seed}: {self._problems.get(state.folder, state.told)}" for state in others]
        if not answered:
            told = "; ".join(reasons)
            command = experiment.command(self.runs)
            return f"{told}; go on: {command}" if reasons else f"not run: {command}"
        count = f"{len(answered)}" if len(answered) == len(states) else f"{len(answered)} of {len(states)}"
        return "; ".join([f"{count} seed{'s' * (len(states) > 1)}", *reasons])
