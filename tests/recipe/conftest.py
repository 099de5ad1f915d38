from pathlib import Path

import pytest

from dpotrain.plugin.runtime.manager import PluginManager
from tests.plugin.conftest import site
from tests.plugin.fakes import fake_plugin
from tests.recipe.writing import MINIMAL

__all__ = ["site"]


@pytest.fixture(scope="session")
def plugins() -> PluginManager:
    return PluginManager.of(fake_plugin())


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a minimal recipe ``base.toml`` in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.toml").write_text(MINIMAL)
    return tmp_path
