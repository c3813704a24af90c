"""`python -m decodetr` is the `decodetr` command."""

from decodetr.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
