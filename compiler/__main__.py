"""``python -m compiler`` is the command ``ampc``."""

from compiler.cli import main

if __name__ == "__main__":
    main()
