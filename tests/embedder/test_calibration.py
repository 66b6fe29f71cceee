"""calibration.json: written, read, refused."""

import json

import pytest

from fr_jax.embedder import calibration
from fr_jax.embedder.calibration import Calibration
from fr_jax.errors import UserError

CALIBRATION = Calibration(
    threshold=0.31,
    low=0.29,
    high=0.35,
    far=1e-3,
    flip_sum=True,
    tar=0.95,
    impostors_accepted=3,
    impostor_pairs=3000,
    genuine_pairs=3000,
    resampled="identities",
    pairs="own",
)


@pytest.fixture
def folder(tmp_path):
    """A folder with the digest of an embedder's weights."""
    (tmp_path / "embedder.json").write_text('{"weights_sha256": "abc"}')
    return tmp_path


def test_a_calibration_is_read_as_it_was_written(folder):
    assert calibration.read(folder, "abc") is None
    for one in (CALIBRATION, CALIBRATION._replace(tar=None, seen=True)):
        calibration.write(folder, one)
        assert calibration.read(folder, "abc") == one
    assert not list(folder.glob("*.part"))
    assert not CALIBRATION.reliable and CALIBRATION._replace(far=0.01).reliable
    assert "fewer than 10/FAR impostor pairs" in CALIBRATION.describe()


def test_a_calibration_of_other_weights_is_refused(folder):
    calibration.write(folder, CALIBRATION)
    match = r"calibration.json belongs to other weights; calibrate again"
    with pytest.raises(UserError, match=match):
        calibration.read(folder, "def")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"threshold": 2}, "threshold is 2, not -1.01 to 1.01"),
        ({"threshold": True}, "threshold is True"),
        ({"low": "0.1"}, "low is 0.1, not"),
        ({"impostor_pairs": 0}, "impostor_pairs is 0, not 1 to"),
        ({"impostor_pairs": 1.5}, "impostor_pairs is 1.5"),
        ({"flip_sum": 1}, "flip_sum is neither true nor false"),
        ({"pairs": "a\u001b[2J"}, "pairs is no printable text"),
        ({"resampled": "images"}, "resampled is none of identities, pairs"),
        ({"more": 1}, "'more' is missing or unknown"),
        ({"format": 2}, "no calibration of format 1"),
    ],
)
def test_a_damaged_calibration_is_refused(folder, change, match):
    path = calibration.write(folder, CALIBRATION)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=match):
        calibration.read(folder, "abc")
