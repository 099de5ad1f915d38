"""Tokens, keys and passwords taken out of what is shown or kept.

Options that are secret are never written at all (see :mod:`dpotrain.recipe.document`). This is for the texts that they
get into by accident: what a library says when it fails, an address with a password in it, a line of a recipe.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

MASK = "***"

#: Environment variables whose values are secrets, by the end of their names.
_SECRET_NAME = re.compile(r"(?:TOKEN|KEY|SECRET|PASSWORD|PASSWD)$", re.IGNORECASE)
#: A shorter value would be found in words that have nothing to do with it.
_SHORTEST = 8

#: Values of secret options.
_told: set[str] = set()

#: ``https://user:password@host``, ``https://token@host``.
_IN_ADDRESS = re.compile(r"(?<=://)[^/\s@'\"]+(?=@)")
#: Hugging Face's tokens are recognisable wherever they come from.
_HUB_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{16,}")
#: ``api_key = "…"`` in a recipe's line, ``--set loggers.0.token=…``, ``?token=…``.
_ASSIGNED = re.compile(
    r"""((?:token|api_?key|secret|password|passwd)["']?\s*=\s*)("[^"]*"?|'[^']*'?|[^\s&,;"']+)""",
    re.IGNORECASE,
)


def mask(text: str) -> str:
    """Return a message without the secrets that it can be seen to hold.

    They are a recipe's secret options, the values of environment variables such as HF_TOKEN, credentials in addresses,
    tokens of the Hugging Face hub, and what is assigned to a name that ends in token, key, secret or password.
    """
    return _ASSIGNED.sub(rf"\1{MASK}", mask_values(text))


def mask_values(text: str) -> str:
    """Return a recipe's value without secrets; only what can be nothing else is taken out, as it may be a program."""
    for secret in _known():
        text = text.replace(secret, MASK)
    return _HUB_TOKEN.sub(MASK, _IN_ADDRESS.sub(MASK, text))


def mask_data(value: Any) -> Any:
    """Return plain data with :func:`mask_values` of every text in it, the keys as they are."""
    if isinstance(value, str):
        return mask_values(value)
    if isinstance(value, Mapping):
        return {key: mask_data(inner) for key, inner in value.items()}
    return [mask_data(inner) for inner in value] if isinstance(value, list | tuple) else value


def keep_secret(value: str) -> None:
    """Take a recipe's secret out of whatever is shown or kept from now on."""
    _told.add(value)


def _known() -> list[str]:
    """Return recipes' secrets and the environment's, the longest first, as one may be the beginning of another."""
    values = _told | {
        value.strip()
        for name, value in os.environ.items()
        if _SECRET_NAME.search(name) and not value.startswith(os.sep)
    }
    return sorted((value for value in values if len(value) >= _SHORTEST), key=len, reverse=True)
