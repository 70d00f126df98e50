"""`python -m fastkeras` is the command `fastkeras`."""

from fastkeras.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
