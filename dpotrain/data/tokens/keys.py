"""Content keys of prompts and tokenized pairs: 16 bytes each, in columns."""

from __future__ import annotations

import json
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from dpotrain.core.hashing import hash_text
from dpotrain.core.messages.values import WRITTEN
from dpotrain.core.pair import Text

#: 16 bytes of a hash, as a column holds them.
KEY = np.dtype("V16")
Keys: TypeAlias = npt.NDArray[np.void]


def prompt_key(prompt: Text) -> bytes:
    """Return 16 bytes that are equal for equal prompts, in every process and for every order of a message's keys.

    Differences in white space are ignored.
    """
    if isinstance(prompt, str):
        text = " ".join(prompt.split())
    else:
        # What a data set keeps beside it, such as an id, makes no other prompt.
        messages = [
            {
                key: " ".join(v.split()) if isinstance(v, str) else v
                for key, v in message.items()
                if key in WRITTEN
            }
            for message in prompt
        ]
        text = json.dumps(messages, sort_keys=True, ensure_ascii=False, default=str)
    return bytes.fromhex(hash_text(text))


def column(keys: list[bytes]) -> Keys:
    """Return keys of 16 bytes each as a (keys,) column."""
    return np.frombuffer(b"".join(keys), KEY)


def sortable(keys: Keys) -> npt.NDArray[Any]:
    """Return the same (keys,) bytes as a dtype that numpy sorts and compares, from the first byte on.

    For whole arrays only: a single element taken out of it loses its trailing zeros.
    """
    return np.ascontiguousarray(keys).view("S16")
