"""One fresh environment with wheels of all packages, found by their entry points alone."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.environments import environment_with, plain_environ
from tests.external.packages import NAMES, copied
from tests.run.forked import Forked

#: The packages' own tests are run where the packages are installed.
collect_ignore_glob = ["dpotrain-*"]


@pytest.fixture(scope="session")
def packages(tmp_path_factory) -> dict[str, Path]:
    """Copies of the packages, by name, with the model and the data that their recipes name."""
    parent = tmp_path_factory.mktemp("packages")
    return {name: copied(name, parent) for name in NAMES}


@pytest.fixture(scope="session")
def python(packages, tmp_path_factory) -> str:
    """The interpreter of that environment."""
    return environment_with(packages.values(), tmp_path_factory.mktemp("environment"))


@pytest.fixture(scope="session")
def installed(python) -> Iterator[Forked]:
    """``dpotrain`` of that environment."""
    server = Forked(python, plain_environ())
    yield server
    server.close()
