"""`python -m emorl` is the command `emorl`."""

from emorl.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
