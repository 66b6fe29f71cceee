"""Fixtures of DR-GAN's tests."""

import pytest

from tests.support import dr_gan


@pytest.fixture(scope="module")
def shallow_networks():
    """Halves the depth of the networks, and with it the time to compile them."""
    with pytest.MonkeyPatch.context() as patch:
        dr_gan.use_shallow_networks(patch)
        yield
