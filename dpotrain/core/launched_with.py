"""The options of ``dpotrain run`` that started a run's processes, for the command that resumes it."""

from __future__ import annotations

from collections.abc import Mapping

#: Where a process of several finds the options that its launcher was given, one a line.
LAUNCH_OPTIONS = "DPOTRAIN_LAUNCH_OPTIONS"


def launch_options(environment: Mapping[str, str]) -> list[str]:
    """Return the options that start as many processes as a process with this environment is one of; none for one.

    Those that ``dpotrain run`` was given; of another launcher (torchrun, accelerate launch) those that do the same.
    """
    if given := environment.get(LAUNCH_OPTIONS):
        return given.splitlines()
    everywhere, here = (_number(environment, name) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    if everywhere < 2:
        return []
    here = here or everywhere
    options = ["--processes", str(here)]
    if everywhere > here:
        # The other launcher's port may be taken by then.
        meeting = environment.get("MASTER_ADDR", "HOST")
        options += ["--machines", str(-(-everywhere // here)), "--rendezvous", meeting]
    return options


def _number(environment: Mapping[str, str], name: str) -> int:
    value = environment.get(name, "")
    return int(value) if value.isdecimal() else 0
