"""Masking of tokens, keys and passwords in texts that contain them by accident: errors, addresses, recipe lines."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

MASK = "***"

#: Environment variables whose values are secrets, by the end of their names.
_SECRET_NAME = re.compile(r"(?:TOKEN|KEY|SECRET|PASSWORD|PASSWD)$", re.IGNORECASE)
_SHORTEST = 8  # a shorter value would occur in unrelated words
#: Values of secret options.
_secrets: set[str] = set()

#: ``https://user:password@host``, ``https://token@host``.
_IN_ADDRESS = re.compile(r"(?<=://)[^/\s@'\"]+(?=@)")
#: Hugging Face's tokens are recognisable by themselves.
_HUB_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{16,}")
#: ``api_key = "…"`` in a recipe's line, ``--set loggers.0.token=…``, ``?token=…``.
_ASSIGNED = re.compile(
    r"""(?i)((?:token|api_?key|secret|password|passwd)["']?\s*=\s*)("[^"]*"?|'[^']*'?|[^\s&,;"']+)"""
)


def mask(text: str) -> str:
    """Return a message with its recognisable secrets masked.

    They are a recipe's secret options, the values of environment variables such as HF_TOKEN, credentials in addresses,
    tokens of the Hugging Face hub, and values assigned to a name that ends in token, key, secret or password.
    """
    return _ASSIGNED.sub(rf"\1{MASK}", mask_values(text))


def mask_values(text: str) -> str:
    """Return a recipe's value with certain secrets masked; assignments stay: it can be a template's code."""
    for secret in _known():
        text = text.replace(secret, MASK)
    return _HUB_TOKEN.sub(MASK, _IN_ADDRESS.sub(MASK, text))


def mask_data(value: Any) -> Any:
    """Return plain data with :func:`mask_values` applied to every text; keys are unchanged."""
    if isinstance(value, str):
        return mask_values(value)
    if isinstance(value, Mapping):
        return {key: mask_data(inner) for key, inner in value.items()}
    return [mask_data(inner) for inner in value] if isinstance(value, list | tuple) else value


def keep_secret(value: str) -> None:
    """Mask this value from now on: it is a recipe's secret option."""
    _secrets.add(value)


def has_secret(text: str) -> bool:
    """Whether a recipe's secret option stands in a text."""
    return any(secret in text for secret in _secrets if len(secret) >= _SHORTEST)


def _known() -> list[str]:
    """Return recipes' and the environment's secrets, the longest first, as one can be a prefix of another."""
    values = _secrets | {
        value.strip()
        for name, value in os.environ.items()
        if _SECRET_NAME.search(name) and not value.startswith(os.sep)
    }
    return sorted((value for value in values if len(value) >= _SHORTEST), key=len, reverse=True)
