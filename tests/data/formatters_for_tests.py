"""Formatters with something about them, in a module of their own so that worker processes can import them."""

import os
import sys
import threading
import time
from pathlib import Path

from dpotrain.plugin.api import Component, DatasetFormatter
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


class InFolder(Plain):
    """Leaves files where it works, one a process."""

    class Options(Component.Options):
        suffix: str = ""
        folder: str

    @property
    def file(self) -> Path:
        return Path(self.options.folder, str(os.getpid()))


class Watching(InFolder):
    """Writes down which modules there are where it works."""

    name = "watching"

    def format(self, row):
        self.file.write_text(" ".join({"torch", "accelerate", "datasets"} & sys.modules.keys()))
        return super().format(row)


class Slow(InFolder):
    """Takes its time, and says that it has begun."""

    name = "slow"

    def format(self, row):
        self.file.touch()
        time.sleep(0.01)
        return super().format(row)
