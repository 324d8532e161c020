"""Runs emorl commands in processes that kill themselves where they are about to touch a file.

Reads from standard input a JSON list of [words of the command, pattern, number]: the process is killed at the
number-th file operation "operation path" that the pattern is found in; with an empty pattern, after so many
seconds. Writes a JSON list of [exit status as the system reports it, number of operations that were found].
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import tempfile
import time

import torch._dynamo  # noqa: F401  # what the first optimizer imports, so that no child has to

import emorl.cli.train  # noqa: F401  # nor the command
from emorl.cli import main

OPERATIONS = {"open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate", "shutil.rmtree"}


def killed(words: list[str], pattern: str, number: float) -> tuple[int, int]:
    """Forked, since importing the package takes longer than the command. The parent itself never trains."""
    with tempfile.TemporaryFile() as tally:
        child = os.fork()
        if child == 0:
            found = re.compile(pattern)

            def watch(operation: str, arguments: tuple[object, ...]) -> None:
                if pattern and operation in OPERATIONS and found.search(f"{operation} {arguments[0]}"):
                    if os.lseek(tally.fileno(), 0, os.SEEK_CUR) + 1 == number:
                        os.kill(os.getpid(), signal.SIGKILL)
                    os.write(tally.fileno(), b".")

            os.dup2(2, 1)
            sys.addaudithook(watch)
            os._exit(main(words))
        if not pattern:
            time.sleep(number)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status), os.fstat(tally.fileno()).st_size


if __name__ == "__main__":
    print(json.dumps([killed(*case) for case in json.load(sys.stdin)]))
