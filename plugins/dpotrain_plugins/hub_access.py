"""Whether the Hugging Face hub answers, before its client asks again and again for a minute.

Where it does not, the libraries are put offline for as long as a model or a data set is loaded: what is in the cache is
used, and what is not is refused at once.
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Thread
from urllib.parse import urlsplit

from dpotrain.plugin.api import RunWarning

#: Seconds that the hub has to answer, unless HF_HUB_ETAG_TIMEOUT says otherwise.
_PATIENCE = 5.0
#: Seconds for which an answer holds: a run asks for tokenizer, data and weights one after the other.
_HOLDS = 60.0


@dataclass(slots=True)
class _Answer:
    """What the last question came to."""

    endpoint: str
    at: float
    """By :func:`time.monotonic`."""
    fault: str
    """That the hub cannot be reached, and why; empty where it answered."""
    shown: bool = False
    """Whether a person was warned of the fault."""


_last: _Answer | None = None


@contextmanager
def cache_where_unreachable() -> Iterator[None]:
    """Undo afterwards what :func:`ask_hub` does inside, and warn once where what was asked for came from the cache."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    try:
        yield
        if constants.HF_HUB_OFFLINE and not before and _last is not None and not _last.shown:
            _last.shown = True
            warnings.warn(
                f"{_last.fault}: what is in the cache is used as it is ({constants.HF_HUB_CACHE}); HF_HUB_OFFLINE=1 "
                "does so without asking",
                RunWarning,
                stacklevel=3,
            )
    finally:
        _set_offline(before)


def ask_hub() -> None:
    """Put the libraries offline if the hub does not answer; called before a name is looked up there.

    To be called inside of :func:`cache_where_unreachable`. Nothing is asked where HF_HUB_OFFLINE is set.
    """
    global _last
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return
    now, endpoint = time.monotonic(), constants.ENDPOINT
    if _last is None or _last.endpoint != endpoint or now - _last.at > _HOLDS:
        _last = _Answer(endpoint, now, _ask(endpoint))
    if _last.fault:
        _set_offline(True)


def why_offline() -> str:
    """Return why what is not in the cache cannot be fetched: the hub is not to be asked, or does not answer."""
    from huggingface_hub import constants

    if _last is not None and _last.fault:
        return _last.fault
    return "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the hub cannot be reached"


def remedies(name: str, key: str, kind: str = "model") -> str:
    """Return what to do where ``name``, the value of a recipe's ``key``, cannot be fetched."""
    from huggingface_hub import constants

    option = "" if kind == "model" else " --repo-type dataset"
    network = (
        "Unset HF_HUB_OFFLINE"
        if constants.HF_HUB_OFFLINE and not (_last and _last.fault)
        else f"Check the network and its proxy (HTTPS_PROXY), set HF_ENDPOINT to a mirror of {constants.ENDPOINT}"
    )
    return (
        f"{network}, or set {key} to a folder.\nOn a machine with a network, `hf download {name}{option}` fetches it "
        f"into the cache ({constants.HF_HUB_CACHE} here); with HF_HUB_OFFLINE=1 only the cache is used."
    )


def _ask(endpoint: str) -> str:
    """Send one request, and return "" for any answer, or why there is none."""
    found: list[str] = []
    patience = _PATIENCE
    with suppress(ValueError):
        patience = float(os.environ.get("HF_HUB_ETAG_TIMEOUT", patience))

    def request() -> None:
        from huggingface_hub import get_session

        try:
            # The client's own session, which has the proxies and certificates that are set for it.
            get_session().head(endpoint, timeout=patience, follow_redirects=False)
        except Exception as error:
            found.append(str(error).strip().partition("\n")[0][:100] or type(error).__name__)
        else:
            found.append("")

    # A look-up of the name has no time limit of its own.
    thread = Thread(target=request, name="dpotrain-hub", daemon=True)
    thread.start()
    thread.join(patience)
    fault = found[0] if found else f"no answer in {patience:g} s"
    return f"the hub cannot be reached ({urlsplit(endpoint).hostname or endpoint}: {fault})" if fault else ""


def _set_offline(value: bool) -> None:
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = value
    if "datasets" in sys.modules:
        import datasets

        datasets.config.HF_HUB_OFFLINE = value
