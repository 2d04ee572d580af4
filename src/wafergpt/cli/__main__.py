"""``python -m wafergpt.cli`` is ``wafergpt``."""

from wafergpt.cli import main

main()
