"""``python -m dpotrain`` is ``dpotrain``."""

from dpotrain.cli import main

main(prog_name="dpotrain")
