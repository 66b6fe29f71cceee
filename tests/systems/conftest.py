"""Fixtures of the systems' tests."""

import pytest

from fr_jax.backend import cpu
from tests.support import steps


@pytest.fixture(scope="module")
def quick_compilation():
    """Compiles programs sooner than they would run: for a few steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "compiler_options", lambda: steps.QUICK)
        patch.setattr(cpu, "quick_compilation", lambda: steps.QUICK)
        yield
