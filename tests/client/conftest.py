"""A certificate that both the tests' servers and the clients know."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.network import self_signed


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1, signed by itself, and its key."""
    return self_signed(tmp_path_factory.mktemp("tls"))
