"""The check that images have the size of aligned faces."""

import pytest

from data_pipelines import DataError, aligned
from tests.support.faces import encoded, picture


@pytest.mark.parametrize(
    ("width", "height", "valid"),
    [(112, 112, True), (160, 160, True), (250, 250, False), (96, 112, False)],
)
def test_size_of_an_aligned_face(width, height, valid):
    assert aligned.is_aligned(width, height, (160,)) == valid


def test_all_images_are_checked_before_the_error(tmp_path):
    sources = [encoded(image=picture(side, side)) for side in (112, 250, 64)]
    sources += [tmp_path / "missing.jpg", b"junk"]
    match = (
        r"3 of 5 images are no aligned faces, such as face 1: 250x250 pixels, expected "
        r"112x112; align .* with --anyway"
    )
    with pytest.raises(DataError, match=match):
        aligned.check(sources, "face {}".format, (64,), unless="--anyway")
    aligned.check(sources[:1], str, ())
