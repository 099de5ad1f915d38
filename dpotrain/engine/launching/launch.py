"""A run of several processes, from the start of its agent to its exit code."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import suppress

from torch.distributed.elastic.rendezvous import (
    RendezvousClosedError,
    RendezvousError,
    RendezvousTimeoutError,
)

from dpotrain.core.errors import ProcessLostError, RunError
from dpotrain.engine.launching.agent import RankAgent, describe_ended, final_ranks
from dpotrain.engine.launching.machines import JOIN_SECONDS, rendezvous_of
from dpotrain.engine.launching.processes import RankProcesses
from dpotrain.engine.launching.request import LaunchRequest


def launch(request: LaunchRequest, processes: RankProcesses, say: Callable[[str], None]) -> int:
    """Run the ranks of this machine, together with those of the others, and return the exit code of the run.

    ``say`` shows lines to the person, beside what world rank 0 shows if it is on this machine.

    Raises:
        RunError: the ranks did not say by themselves why they ended.
    """
    if "LOGLEVEL" not in os.environ:  # with which torch's launcher is made to talk
        logging.getLogger("torch.distributed.elastic").addHandler(logging.NullHandler())
        logging.getLogger("torch.distributed.elastic").propagate = False
    handler, address = rendezvous_of(request, say)
    agent = RankAgent(request, handler, address, processes, say)
    try:
        agent.run()
    except RendezvousClosedError as error:
        raise RunError(
            f"the run that met at {request.endpoint} has ended on the other machines; their messages say why."
        ) from error
    except RendezvousTimeoutError as error:
        raise RunError(
            f"fewer than {request.fewest} machines came to {request.endpoint} within {JOIN_SECONDS // 60} minutes.\n"
            "Start the same command on every machine; a firewall may be between them."
        ) from error
    except (RendezvousError, RuntimeError) as error:
        # The machine where all meet is gone. The ranks have ended by now, perhaps with a reason of their own.
        if not final_ranks(agent.first or processes.codes):
            raise ProcessLostError(
                f"{request.endpoint}, where the machines of the run meet, is lost.\n"
                "--resume, given on every machine, continues from the last checkpoint."
            ) from error
    finally:
        with suppress(RendezvousError, RuntimeError):
            handler.shutdown()
    return _exit_code(processes, agent, request, say)


def _exit_code(
    processes: RankProcesses, agent: RankAgent, request: LaunchRequest, say: Callable[[str], None]
) -> int:
    """Return the exit code of ranks that have ended, and show what no rank has shown.

    Raises:
        ProcessLostError: they were started again as often as may be.
    """
    codes = processes.codes
    first = agent.first or {rank: code for rank, code in codes.items() if code}
    if not first:
        return 0
    if final := final_ranks(first):
        rank = final[0]
        # World rank 0 says what ended it or another one, if it is here and was able to.
        if codes.get(0, -1) < 0 or codes[0] == ProcessLostError.exit_code:
            lines = processes.last_lines(rank)
            say(describe_ended(rank, first) + (f":\n{lines}" if lines else ""))
        return first[rank]
    killed = [rank for rank, code in sorted(first.items()) if code < 0]
    if processes.asked is not None and killed:
        return 128 - first[killed[0]]
    for rank in killed:
        if lines := processes.last_lines(rank):
            say(f"the last lines of process {rank}:\n{lines}")
    raise ProcessLostError(
        f"{agent.reason}.\nThe processes were started {processes.starts} times (--max-restarts "
        f"{request.max_restarts}). The last checkpoint remains: --resume continues from it."
    )
