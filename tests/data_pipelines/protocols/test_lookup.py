"""Files of listed images: exact names, names in aligned sets, other suffixes."""

import pytest

from data_pipelines import DataError
from data_pipelines.protocols import lookup


@pytest.fixture
def found(tmp_path):
    """Returns a function: files, listed name -> the file found, renamed or not."""

    def find(files, name):
        for file in files:
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).write_bytes(b"")
        (path,), renamed = lookup.find(tmp_path, [name])
        return path and path.relative_to(tmp_path).as_posix(), bool(renamed)

    return find


@pytest.mark.parametrize(
    ("files", "name", "expected", "renamed"),
    [
        (["a/1.jpg", "a/1.png"], "a/1.jpg", "a/1.jpg", False),
        (["001/frontal_01.jpg"], "001/frontal/01.jpg", "001/frontal_01.jpg", False),
        (["001/frontal_01.png"], "001/frontal/01.jpg", "001/frontal_01.png", True),
        (["a/1.png"], "a/1.jpg", "a/1.png", True),
        (["1.JPEG"], "1.jpg", "1.JPEG", True),
        (["a/001A02.JPG"], "a/001a02.jpg", "a/001A02.JPG", True),
        (["a/1.png", "a/1.txt", "a/1.pts"], "a/1.jpg", "a/1.png", True),
        (["a/x.jpg", "a/x.png.jpg"], "a/x.png", "a/x.png.jpg", True),
        (["a/1_Ann.B_5.png"], "a/1_Ann.B_5.jpg", "a/1_Ann.B_5.png", True),
        (["a/1_Ann.B_5.png"], "a/1_Ann.B_5", "a/1_Ann.B_5.png", True),
        (["a/X.png", "a/x.bmp"], "a/x.jpg", "a/x.bmp", True),
        (["a/1.txt"], "a/1.jpg", None, False),
        (["a/1.png/2.png"], "a/1.jpg", None, False),
        (["a/12.png"], "a/1.jpg", None, False),
        (["a/1.png"], "b/1.jpg", None, False),
        (["a/1.png"], "a/" + 300 * "x", None, False),
        (["a/1.png"], "a\0b/1.jpg", None, False),
    ],
)
def test_file_of_a_listed_name(found, files, name, expected, renamed):
    assert found(files, name) == (expected, renamed)


def test_two_candidates_are_refused(found):
    with pytest.raises(
        DataError, match="a/1.jpg is missing, and 1.bmp and 1.png could"
    ):
        found(["a/1.png", "a/1.bmp"], "a/1.jpg")
