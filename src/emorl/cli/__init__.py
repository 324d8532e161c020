"""The command line: parse, call, print.

Exit codes: 0 done; 1 the check said no; 2 the user's input is wrong, told in one line; 130 interrupted.

A command is a function of its name in a module of this package, which is loaded when the command is called: what one
of them needs costs the others no time.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from emorl.errors import InputError
from emorl.version import __version__

COMMANDS = {
    "demo": ("demo", "decompose fresh scenes with shipped weights, print scores, write a picture"),
    "data": (
        "data",
        "generate scenes (make), write them to another file (convert), look at them (show), say what is there (info)",
    ),
    "train": (
        "train",
        "train a preset in a run folder, or resume one: train PRESET | train --resume DIR | train --experiment FILE",
    ),
    "evaluate": ("evaluate", "score weights on images: foreground ARI, ARI, mIoU, MSE, NLL, KL"),
    "decompose": ("pictures", "take pictures apart: sheets, masks, components and codes"),
    "sample": ("pictures", "draw whole scenes from a model's prior, where it has one"),
    "traverse": ("pictures", "show what each dimension of a slot's code does to the picture: sheets and animations"),
    "explore": ("export", "take pictures apart by hand, in the browser"),
    "export-onnx": ("export", "write a model's encoder and decoder as ONNX files"),
    "export-web": ("export", "write the explorer of a model as a folder for any static host"),
    "reproduce": ("reproduce", "make a table or figure of the paper from run folders: reproduce fig7 | reproduce all"),
    "benchmark": (
        "benchmark",
        "measure time, memory and work of training and inference beside the plain formulation",
    ),
    "verify-reference": ("released", "replay recorded values of the released model through ours"),
    "import-released": ("released", "turn a checkpoint of the EfficientMORL authors into a weights folder"),
}
"""Name -> module, and what `emorl --help` says of it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. KeyboardInterrupt goes through, to `emorl.__main__`."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _run(words)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except InputError as error:
        said = " ".join(str(error).split())
    except BrokenPipeError:  # the reader of our output has gone
        _give_up_output()
        return 0
    except OSError as error:
        said = f"{error.strerror or error}" + ("" if error.filename is None else f": {str(error.filename)[:200]}")
    except (MemoryError, RuntimeError) as error:
        if not _is_of_memory(error):
            raise
        said = "not enough memory: take smaller images, a smaller batch, or fewer slots"
    _give_up_output()
    print(f"emorl: {said}", file=sys.stderr)
    return 2


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(_overview())
        return 0 if words else 2
    if words[0] == "--version":
        print(__version__)
        return 0
    if words[0] not in COMMANDS:
        raise InputError(f"unknown command {words[0]}; emorl --help lists them")
    return command(words[0])(words[1:])


def command(name: str) -> Callable[[Sequence[str]], int]:
    """What runs a command: given the words behind its name, it returns the exit code."""
    function: Callable[[Sequence[str]], int] = getattr(
        import_module(f"emorl.cli.{COMMANDS[name][0]}"), name.replace("-", "_")
    )
    return function


def _give_up_output() -> None:
    """Where standard output cannot be written, have the process end without another try and its complaint."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError), open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _is_of_memory(error: Exception) -> bool:
    """torch's allocators have no type of their own for it but on GPUs, and that one says so too."""
    said = str(error).lower()
    phrases = ("can't allocate memory", "cannot allocate memory", "out of memory")
    return isinstance(error, MemoryError) or any(phrase in said for phrase in phrases)


def _overview() -> str:
    lines = ["usage: emorl COMMAND ...", "", "emorl finds the objects in images without labels.", ""]
    lines += [f"  {name:18} {says}" for name, (_, says) in COMMANDS.items()]
    return "\n".join([*lines, "", "emorl COMMAND --help tells its options."])
