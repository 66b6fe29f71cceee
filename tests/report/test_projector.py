"""Embeddings for TensorBoard's projector, with its own description of the files."""

import numpy as np
import pytest
from google.protobuf import text_format
from PIL import Image
from tensorboard.plugins.projector import projector_config_pb2

from fr_jax.errors import UserError
from fr_jax.report import projector


def labels(count):
    names = [f"p{n}\t{n}\n.jpg" if n % 2 else f"\u00e9{n}.jpg" for n in range(count)]
    return {"name": names, "identity": [f"p{n // 2}" for n in range(count)]}


def test_tensorboard_reads_what_was_written(tmp_path):
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(5, 4)).astype(np.float32)
    images = rng.integers(0, 256, (5, 1, 1, 3), np.uint8).repeat(80, 1).repeat(80, 2)
    thumbnails = projector.Thumbnails(5)
    batches = list(thumbnails.of(iter([images[:4], images[4:]])))
    np.testing.assert_equal(np.concatenate(batches), images)
    folder = tmp_path / "deep/er"
    projector.write(folder, embeddings, labels(5), thumbnails, name='a "name"')
    text = (folder / projector.CONFIG).read_text()
    config = text_format.Parse(text, projector_config_pb2.ProjectorConfig())
    (one,) = config.embeddings
    assert one.tensor_name == 'a "name"'
    assert list(one.tensor_shape) == [5, 4]
    tensors = np.loadtxt(folder / one.tensor_path, np.float32, delimiter="\t")
    np.testing.assert_array_equal(tensors, embeddings)
    lines = (folder / one.metadata_path).read_text().splitlines()
    assert lines[:3] == ["name\tidentity", "\u00e90.jpg\tp0", "p1\\t1\\n.jpg\tp0"]
    assert len(lines) == 6
    side = 64
    assert list(one.sprite.single_image_dim) == [side, side]
    sprite = np.asarray(Image.open(folder / one.sprite.image_path))
    assert sprite.shape == (3 * side, 3 * side, 3)  # square, though two rows are full
    for number, image in enumerate(images):
        row, column = divmod(number, 3)
        tile = sprite[row * side : (row + 1) * side, column * side :][:, :side]
        assert (tile == image[0, 0]).all()
    assert not list(folder.glob("*.part"))


def test_points_without_pictures(tmp_path):
    paths = projector.write(tmp_path, np.ones((2, 3)), labels(2))
    assert [path.name for path in paths][-1] == projector.CONFIG
    assert "sprite" not in (tmp_path / projector.CONFIG).read_text()
    assert not (tmp_path / "sprite.png").exists()


@pytest.mark.parametrize(
    ("count", "side"), [(1, 64), (16_384, 64), (16_385, 63), (262_144, 16)]
)
def test_thumbnails_fit_into_a_sprite(count, side):
    assert projector.thumbnail_side(count) == side
    assert side * np.ceil(np.sqrt(count)) <= 8192


def test_too_many_points_have_no_sprite(tmp_path):
    assert projector.thumbnail_side(262_145) == 0
    thumbnails = projector.Thumbnails(262_145)
    assert thumbnails.sprite.size == 0
    assert len(list(thumbnails.of([np.zeros((2, 8, 8, 3), np.uint8)]))) == 1
    projector.write(tmp_path, np.ones((2, 3)), labels(2), thumbnails)
    assert not (tmp_path / "sprite.png").exists()


def test_wrong_columns_and_embeddings_are_refused(tmp_path):
    with pytest.raises(ValueError, match="for 3 embeddings"):
        projector.write(tmp_path, np.ones((3, 3)), labels(2))
    with pytest.raises(UserError, match="1 of 2 embeddings are not finite"):
        projector.write(tmp_path, np.array([[np.nan], [1]]), labels(2))
    thumbnails = projector.Thumbnails(1)
    with pytest.raises(ValueError, match="more than 1 images"):
        list(thumbnails.of([np.zeros((2, 8, 8, 3), np.uint8)]))
    assert not list(tmp_path.iterdir())
