"""What the tests of whole runs share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.run.forked import Forked


@pytest.fixture(scope="session")
def forked() -> Iterator[Forked]:
    """Return a server that has imported everything and starts runs in a moment."""
    server = Forked()
    yield server
    server.close()
