"""A run of several processes, from the start of its agent to its exit code."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from torch.distributed import DistError
from torch.distributed.elastic.rendezvous import (
    RendezvousClosedError,
    RendezvousError,
    RendezvousTimeoutError,
)

from dpotrain.core.errors import ProcessLostError, RunError, RunStopped
from dpotrain.engine.launching.agent import RankAgent
from dpotrain.engine.launching.host_watch import HostWatch
from dpotrain.engine.launching.machines import JOIN_SECONDS, RunEnd, meet
from dpotrain.engine.launching.processes import RankProcesses
from dpotrain.engine.launching.request import LaunchRequest

#: Seconds in which machines that wait to join see that the run is over: torch looks once a second.
CLOSED_SECONDS = 3.0


def launch(
    request: LaunchRequest,
    processes: RankProcesses,
    document: Mapping[str, Any],
    say: Callable[[str], None],
) -> int:
    """Run the ranks of this machine, together with those of the others, and return the exit code of the run.

    ``document`` is the resolved recipe. ``say`` shows lines to the person, beside what world rank 0 shows if it is on
    this machine.

    Raises:
        RunError: the ranks did not say by themselves why they ended.
        RunStopped: a signal ended them before they could say so.
    """
    if "LOGLEVEL" not in os.environ:  # with which torch's launcher is made to talk
        logging.getLogger("torch.distributed.elastic").addHandler(logging.NullHandler())
        logging.getLogger("torch.distributed.elastic").propagate = False
    meeting = meet(request, document, say)
    watch = HostWatch(request) if request.host and not meeting.hosts else None
    agent = RankAgent(request, meeting, processes, say)
    try:
        agent.run()
    except RendezvousClosedError as error:
        agent.end = agent.ended_elsewhere()
        if agent.end is None:
            raise RunError(
                f"the run that met at {request.endpoint} has ended on the other machines; their messages say why."
            ) from error
    except RendezvousTimeoutError as error:
        raise _too_few(request, agent) from error
    except (RendezvousError, DistError) as error:
        if not request.host:
            raise
        # The machine where all meet is gone. The ranks have ended by now, perhaps with a reason of their own.
        if agent.end is None:
            raise ProcessLostError(
                f"{request.endpoint}, where the machines of the run meet, is lost.\n"
                "--resume, given on every machine, continues from the last checkpoint."
            ) from error
    finally:
        if watch is not None:
            watch.close()
        with suppress(RendezvousError, DistError):
            meeting.handler.shutdown()
            agent.leave()
            if request.host and meeting.hosts:
                time.sleep(CLOSED_SECONDS)
    if not processes.starts and agent.end is None:
        say(f"the run at {request.endpoint} has ended without this machine, which was a spare one")
    return _exit_code(processes, agent, request, say)


def _too_few(request: LaunchRequest, agent: RankAgent) -> RunError:
    """Return the error for machines that did not come in time."""
    minutes = JOIN_SECONDS // 60
    if agent.reason:
        return ProcessLostError(
            f"{agent.reason}.\nFewer than {request.fewest} machines came to {request.endpoint} within {minutes} "
            "minutes to go on. The last checkpoint remains: --resume, given on every machine, continues from it."
        )
    return RunError(
        f"fewer than {request.fewest} machines came to {request.endpoint} within {minutes} minutes.\n"
        "Start the same command on every machine; a firewall may be between them."
    )


def _exit_code(
    processes: RankProcesses, agent: RankAgent, request: LaunchRequest, say: Callable[[str], None]
) -> int:
    """Return the exit code of ranks that have ended, and show what no rank has shown.

    Raises:
        ProcessLostError: they were started again as often as may be.
        RunStopped: a signal ended them before they could say so.
    """
    if agent.end is not None and agent.end.code != ProcessLostError.exit_code:
        return _code_of_end(agent.end, processes, say)
    if agent.end is None and not agent.first:
        return 0
    for rank in sorted(rank for rank, code in agent.first.items() if code < 0):
        if lines := processes.last_lines(rank):
            say(f"the last lines of process {rank}:\n{lines}")
    raise ProcessLostError(
        f"{agent.reason if agent.end is None else agent.end.text}.\n"
        f"The processes were started {processes.starts} times (--max-restarts "
        f"{request.max_restarts}). The last checkpoint remains: --resume continues from it."
    )


def _code_of_end(end: RunEnd, processes: RankProcesses, say: Callable[[str], None]) -> int:
    """Return the exit code of a run that a person has to deal with; world rank 0 has said why, if it could."""
    if processes.codes.get(0) == end.code:
        return end.code
    if end.code == RunStopped.exit_code:
        raise RunStopped(end.text)
    say(end.text)
    return end.code
