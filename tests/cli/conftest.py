from __future__ import annotations

from tests.plugin.conftest import site

__all__ = ["site"]
