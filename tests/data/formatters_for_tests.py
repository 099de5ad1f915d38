"""Formatters with something about them, in a module of their own so that worker processes can import them."""

import os
import threading
from pathlib import Path

from dpotrain.plugin.api import Component, DatasetFormatter, Recognition
from dpotrain_plugins.formatters.standard import StandardFormatter


class Plain(StandardFormatter):
    """Reads what the standard one reads."""

    name = "plain"

    class Options(DatasetFormatter.Options):
        suffix: str = ""

    def format(self, row):
        pair = super().format(row)
        return type(pair)(pair.prompt + self.options.suffix, pair.chosen, pair.rejected)


class Failing(Plain):
    """Fails, other than by UnusableRow, on a row that says so."""

    name = "failing"

    def format(self, row):
        if "broken" in row["prompt"]:
            raise ZeroDivisionError("a fault of the plugin")
        return super().format(row)


class Dying(Plain):
    """Ends every process but the one whose number is in a file of that name."""

    name = "dying"

    class Options(Component.Options):
        suffix: str = ""
        main: str

    def format(self, row):
        if os.getpid() != int(Path(self.options.main).read_text()):
            os._exit(1)
        return super().format(row)


class Unsendable(Plain):
    """Holds what no other process can have."""

    name = "unsendable"

    def __init__(self, options):
        super().__init__(options)
        self.lock = threading.Lock()


class Watching(Plain):
    """Writes down which modules there are where it works."""

    name = "watching"

    class Options(Component.Options):
        suffix: str = ""
        folder: str

    def format(self, row):
        import sys

        heavy = [name for name in ("torch", "accelerate", "datasets") if name in sys.modules]
        Path(self.options.folder, str(os.getpid())).write_text(" ".join(heavy))
        return super().format(row)


class Slow(Plain):
    """Takes its time, and says that it has begun."""

    name = "slow"

    class Options(Component.Options):
        suffix: str = ""
        folder: str

    def format(self, row):
        import time

        Path(self.options.folder, str(os.getpid())).touch()
        time.sleep(0.01)
        return super().format(row)


__all__ = ["Dying", "Failing", "Plain", "Recognition", "Slow", "Unsendable", "Watching"]
