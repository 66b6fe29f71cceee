"""Where the project and the real data are."""

import os
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("FR_JAX_TEST_DATA", ROOT.parent / "shared/data"))
PARITY = DATA.parent / "parity"


def read_npz(path):
    """Returns the arrays of an .npz, which is closed again."""
    with np.load(path, allow_pickle=False) as file:
        return dict(file)
