"""A machine that has been measured: several processes would wait for the one that measures it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.machines import MACHINE, remember
from wafergpt.devices import detect


@pytest.fixture(scope="module", autouse=True)
def measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        remember(replace(MACHINE, cores=detect.cores()))
        yield
