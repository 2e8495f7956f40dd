"""The three chains that `make test` proves: real servers imaged, lost, and back on other hardware."""

from __future__ import annotations

import os

import pytest

from tests.lab.__main__ import attempt
from tests.lab.lab import Lab
from tests.lab.scenarios import SCENARIOS

pytestmark = pytest.mark.vm


@pytest.mark.parametrize("name", [each.name for each in SCENARIOS.values() if each.essential])
def test_chain(name: str) -> None:
    assert os.geteuid() == 0, "the lab needs root: network namespaces and mmdebstrap"
    assert attempt(Lab(), SCENARIOS[name]), f"see build/lab/{name}"
