"""The command `emorl`, also as `python -m emorl`."""

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns its exit code. Loading it takes seconds, in which Ctrl-C must be one line too."""
    try:
        from emorl import cli

        return cli.main(argv)
    except KeyboardInterrupt:
        print("emorl: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
