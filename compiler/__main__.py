"""``python -m compiler`` is the command ``ampc``."""

from compiler.cli import main

main()
