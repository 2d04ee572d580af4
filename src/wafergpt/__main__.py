"""``python -m wafergpt`` is ``wafergpt``, where its script is not on the PATH."""

from wafergpt.cli import main

main()
