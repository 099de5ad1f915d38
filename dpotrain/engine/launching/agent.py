"""torch's elastic agent over the ranks of a run: it starts them again where that helps, and says what ended them."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public all the same
from torch.distributed.elastic.agent.server.api import (
    RunResult,
    SimpleElasticAgent,
    WorkerSpec,
    WorkerState,
)

from dpotrain.core.errors import ProcessLostError, RunStopped
from dpotrain.engine.launching.machines import Machines, Meeting, RunEnd
from dpotrain.engine.launching.processes import RankProcesses
from dpotrain.engine.launching.request import LaunchRequest

#: Seconds that the other ranks have to end by themselves once one has failed: they are told why, and close loggers.
ENDING_SECONDS = 45.0
#: Seconds between SIGTERM and SIGKILL for those that have not.
KILLING_SECONDS = 5.0
#: Seconds that ranks have to save when machines were added.
SAVING_SECONDS = 30 * 60.0
#: Seconds between two looks at the ranks.
LOOK_SECONDS = 0.25
#: Seconds in which another machine's wish to join, or how the run ended there, is known here.
_KNOWN_SECONDS = 2.0
_JOINED = "another machine has come: the run resumes with it from its last checkpoint"


class RankAgent(SimpleElasticAgent):
    """Keeps the ranks of this machine running until they are done, fail, or are asked to stop.

    A rank that is killed, a machine that is lost and a rank that has lost another one (:class:`ProcessLostError`) are
    reasons to start again, at most ``max_restarts`` times, and machines that join are one that does not count. Every
    other exit code is a person's to deal with and would come again: it ends the run, everywhere with that code.

    In the methods that torch calls, ``worker_group`` is its ``WorkerGroup``, whose numbers it declares as None.
    """

    def __init__(
        self,
        request: LaunchRequest,
        meeting: Meeting,
        processes: RankProcesses,
        say: Callable[[str], None],
    ) -> None:
        """Prepare; ``say`` shows a line to the person."""
        spec = WorkerSpec(
            role="ranks",
            local_world_size=request.processes,
            rdzv_handler=meeting.handler,
            entrypoint="dpotrain",
            max_restarts=request.max_restarts,
            monitor_interval=LOOK_SECONDS,
        )
        super().__init__(spec)
        self._processes, self._say, self._most = processes, say, request.most
        self._meeting = meeting
        self._machines: Machines | None = None
        self._store_of_ranks: TCPStore | None = None
        self.first: dict[int, int] = {}
        """Of the ranks that ended the last start, their exit codes: those of the others may follow from these."""
        self.reason = ""
        """What ended them, if a new start could help."""
        self.end: RunEnd | None = None
        """How the run ends, if a new start could not: here, or on the machine that was the first to say so."""

    def _start_workers(self, worker_group: Any) -> dict[int, Any]:
        self.first = {}
        self._machines = Machines(worker_group.store, worker_group.group_rank, worker_group.group_world_size)
        if worker_group.group_world_size > 1:
            number = worker_group.group_rank + 1
            shown = "" if worker_group.group_rank == 0 else "; its first process shows the run elsewhere"
            self._say(f"machine {number} of {worker_group.group_world_size}{shown}")
        store = self._open_store(worker_group)
        environments = {
            worker.global_rank: self._environment(worker_group, worker) | store
            for worker in worker_group.workers
        }
        ids = self._processes.start(environments)
        return {worker.local_rank: ids[worker.global_rank] for worker in worker_group.workers}

    def _open_store(self, worker_group: Any) -> dict[str, str]:
        """Return where the ranks of this start find each other, as their environment has it.

        torch's agents keep one store for all starts, in which ranks find the addresses of those that have ended.
        """
        if worker_group.group_rank == 0:
            self._store_of_ranks = TCPStore(self._meeting.address, 0, is_master=True, wait_for_workers=False)
            worker_group.store.set("ranks", json.dumps([self._meeting.address, self._store_of_ranks.port]))
        address, port = json.loads(worker_group.store.get("ranks"))
        return {"MASTER_ADDR": address, "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": str(True)}

    def _environment(self, worker_group: Any, worker: Any) -> dict[str, str]:
        """Return what torchrun would add to a rank's environment, but for the store."""
        spec = worker_group.spec
        values = {
            "RANK": worker.global_rank,
            "LOCAL_RANK": worker.local_rank,
            "GROUP_RANK": worker_group.group_rank,
            "ROLE_RANK": worker.role_rank,
            "ROLE_NAME": spec.role,
            "WORLD_SIZE": worker.world_size,
            "LOCAL_WORLD_SIZE": spec.local_world_size,
            "GROUP_WORLD_SIZE": worker_group.group_world_size,
            "ROLE_WORLD_SIZE": worker.role_world_size,
            "TORCHELASTIC_RESTART_COUNT": spec.max_restarts - self._remaining_restarts,
            "TORCHELASTIC_MAX_RESTARTS": spec.max_restarts,
            "TORCHELASTIC_RUN_ID": spec.rdzv_handler.get_run_id(),
            "TORCH_NCCL_ASYNC_ERROR_HANDLING": os.environ.get("TORCH_NCCL_ASYNC_ERROR_HANDLING", 1),
        }
        return {name: str(value) for name, value in values.items()}

    def _monitor_workers(self, worker_group: Any) -> RunResult:
        self._processes.collect()
        if any(self._processes.codes.values()):
            return self._ended(worker_group)
        assert self._machines is not None
        # Where the main process exports, for hours perhaps, the others go on looking at its machine.
        if not self._processes.running and self._machines.done():
            values = {worker.global_rank: None for worker in worker_group.workers}
            return RunResult(WorkerState.SUCCEEDED, return_values=values)
        self.end = self._machines.ended()
        if self.end is not None:
            self._end(ENDING_SECONDS)  # they may have been told as well
            self._remaining_restarts = 0
            return RunResult(WorkerState.FAILED)
        lost = self._machines.lost()
        if lost is None:
            return RunResult(WorkerState.HEALTHY)
        # They wait for it, and for nothing else.
        self._end(0.0)
        self.first = {worker.global_rank: ProcessLostError.exit_code for worker in worker_group.workers}
        self.reason = f"machine {lost + 1} of {worker_group.group_world_size} does not answer any more"
        self._say_restart()
        return RunResult(WorkerState.UNHEALTHY)

    def _ended(self, worker_group: Any) -> RunResult:
        """Return what follows from a rank's exit code, once all ranks have ended."""
        assert self._machines is not None
        self.first = {rank: code for rank, code in self._processes.codes.items() if code}
        own = self._own_end()
        if own is not None and own.code != RunStopped.exit_code:
            self._machines.end(
                own
            )  # at once: ranks that have not joined each other hear of it in no other way
        self._end(ENDING_SECONDS)
        if self._processes.asked is None and self._joined_by_others(worker_group, self.first):
            self._say(_JOINED)
            return RunResult(
                WorkerState.HEALTHY
            )  # which makes the base class look for machines and start again
        self.reason = describe_ended(min(self.first, key=lambda rank: self.first[rank]), self.first)
        own = self._own_end()
        if own is None and not (self._remaining_restarts and self._processes.asked is None):
            own = RunEnd(ProcessLostError.exit_code, self.reason)
        if own is not None:
            self._machines.end(own)
        self.end = self.ended_elsewhere(0.0 if own is not None else _KNOWN_SECONDS) or own
        if self.end is None:
            self._say_restart()
        else:
            self._remaining_restarts = 0
        return RunResult(WorkerState.FAILED)

    def _own_end(self) -> RunEnd | None:
        """Return how the run ends if a rank of this machine has ended in a way that would come again, or as asked."""
        codes, asked = self._processes.codes, self._processes.asked
        # The first of those that were asked may have lost another one that saved.
        final = final_ranks(self.first) or (final_ranks(codes) if asked is not None else [])
        if final:
            lines = self._processes.last_lines(final[0])
            return RunEnd(codes[final[0]], describe_ended(final[0], codes) + (f":\n{lines}" if lines else ""))
        if asked is not None and any(-code in (asked, signal.SIGTERM) for code in self.first.values()):
            text = f"{asked.name} ended the processes before they could save; --resume begins or continues the run"
            return RunEnd(RunStopped.exit_code, text)
        return None

    def ended_elsewhere(self, seconds: float = 0.0) -> RunEnd | None:
        """Return how the run has ended on all machines, if one has said so or does within so many seconds."""
        return None if self._machines is None else self._machines.ended(seconds)

    def leave(self) -> None:
        """Let the other machines hear how the run has ended, if they would not without this one."""
        if self._machines is not None:
            self._machines.leave(hosts=self._meeting.hosts)

    def _joined_by_others(self, worker_group: Any, first: Mapping[int, int]) -> bool:
        """Whether the ranks were asked to stop by another machine's agent, which has seen a new one before this."""
        if worker_group.group_world_size == self._most:
            return False
        if any(code != RunStopped.exit_code for code in first.values()):
            return False
        time.sleep(_KNOWN_SECONDS)
        return bool(worker_group.spec.rdzv_handler.num_nodes_waiting() > 0)

    def _say_restart(self) -> None:
        if self._remaining_restarts:
            most = self._worker_group.spec.max_restarts
            number = most - self._remaining_restarts + 1
            self._say(f"{self.reason}\nthe run resumes from its last checkpoint (restart {number} of {most})")

    def _end(self, seconds: float) -> None:
        """Return once no rank runs: those that have not ended after so many seconds are ended."""
        if not self._processes.wait(seconds, self._beat):
            self._processes.send(signal.SIGTERM)
            if not self._processes.wait(KILLING_SECONDS, self._beat):
                self._processes.send(signal.SIGKILL)
                self._processes.wait(math.inf, self._beat)

    def _beat(self) -> None:
        """Let the other machines know, meanwhile, that this one is there."""
        if self._machines is not None:
            with suppress(RuntimeError):  # where they meet is gone; the ranks have to end all the same
                self._machines.beat()

    def _exit_barrier(self) -> None:
        """Do not wait: machines end when those of all have done their part, or one has said how the run ends."""

    def _stop_workers(self, worker_group: Any) -> None:
        self._processes.collect()
        if self._processes.running:  # machines were added
            self._processes.send(signal.SIGTERM)
            self._end(SAVING_SECONDS)
            self._say(_JOINED)

    def _shutdown(self, death_sig: signal.Signals = signal.SIGTERM, timeout: int = 30) -> None:
        self._end(ENDING_SECONDS)


def final_ranks(codes: Mapping[int, int]) -> list[int]:
    """Return the ranks with an exit code that would come again."""
    return [rank for rank, code in sorted(codes.items()) if code > 0 and code != ProcessLostError.exit_code]


def describe_ended(rank: int, codes: Mapping[int, int]) -> str:
    """Return which process ended, and how, by its exit code."""
    code = codes[rank]
    who = f"process {rank} on {socket.gethostname()}"
    if code == ProcessLostError.exit_code:
        return f"{who} has lost another process of the run"
    if code > 0:
        return f"{who} ended with exit code {code}"
    number = -code
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    memory = " (the system does that, too, when its memory runs out)" if number == signal.SIGKILL else ""
    return f"{who} was killed by {name}{memory}"
