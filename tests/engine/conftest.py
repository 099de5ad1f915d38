import pytest

from dpotrain.engine.launching import agent as agents


@pytest.fixture
def said(monkeypatch) -> list[str]:
    """What the launcher said; it waits for no rank longer than a test should."""
    monkeypatch.setattr(agents, "ENDING_SECONDS", 0.5)
    monkeypatch.setattr(agents, "LOOK_SECONDS", 0.02)
    return []
