"""The end of the process: nothing that is left behind keeps it from ending."""

from __future__ import annotations

import os
import threading
import time

from dpotrain.core.leaving import flush_output

#: Seconds that threads and exit handlers of libraries have once everything is done. A service's client may wait in
#: one for an upload that never ends, after its logger was dropped.
EXIT_SECONDS = 30.0


def leave_with(code: int) -> None:
    """End the process with an exit code if it is still there :data:`EXIT_SECONDS` after its main thread ended."""
    threading.Thread(target=_watch, args=(code,), name="leaving", daemon=True).start()


def _watch(code: int) -> None:
    threading.main_thread().join()
    time.sleep(EXIT_SECONDS)
    text = f"note: all is done, but a library did not let the process end for {EXIT_SECONDS:g} s, so it was ended\n"
    os.write(2, text.encode())
    flush_output()
    os._exit(code)
