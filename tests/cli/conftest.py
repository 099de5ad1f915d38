from tests.plugin.conftest import site

__all__ = ["site"]
