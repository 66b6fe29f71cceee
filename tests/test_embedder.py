"""Embedders: what is saved embeds the same when it is loaded, or is refused."""

import hashlib
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fr_jax
from data_pipelines import images
from fr_jax import models
from fr_jax.convert import to_state_dict
from fr_jax.embedder import Embedder
from fr_jax.errors import UserError
from fr_jax.models.preprocess import InputSpec, prepare, resize
from fr_jax.system import Network
from tests.networks import random_variables
from tests.test_images import encoded, picture

OPTIONS = {"width": 0.125, "embedding_size": 16}


def network(**spec):
    model = models.create("iresnet18", **OPTIONS)
    variables = random_variables(model, 32)
    return Network("iresnet18", OPTIONS, variables, InputSpec(size=32, **spec))


FACES = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("embedder") / "e"
    people = {"drawn": ["a", "b"]}
    embedder = Embedder(network(), {"people": people, "steps": 3}, batch_size=4)
    embedder.save(folder)
    return folder, embedder


def test_what_is_loaded_embeds_as_what_was_saved(saved):
    folder, embedder = saved
    loaded = fr_jax.load_embedder(folder, batch_size=4)
    np.testing.assert_array_equal(loaded.embed(FACES), embedder.embed(FACES))
    assert loaded.provenance == {"people": {"drawn": ["a", "b"]}, "steps": 3}
    assert loaded.network.input_spec == InputSpec(size=32)


def test_embeddings_do_not_depend_on_the_batch(saved):
    folder, _ = saved
    whole = fr_jax.load_embedder(folder, batch_size=3).embed(FACES)
    single = np.concatenate([saved[1].embed(FACES[n : n + 1]) for n in range(7)])
    np.testing.assert_allclose(whole, single, atol=1e-5)
    assert whole.shape == (7, 16)
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-5)


def test_flip_adds_the_mirrored_face_and_makes_mirrors_equal(saved):
    _, embedder = saved
    raw = embedder.embed(FACES, normalize=False)
    mirrored = embedder.embed(FACES[:, :, ::-1], normalize=False)
    both = embedder.embed(FACES, normalize=False, flip=True)
    np.testing.assert_allclose(both, raw + mirrored, atol=1e-4)
    one, other = (embedder.embed(x, flip=True) for x in (FACES, FACES[:, :, ::-1]))
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_pixels_are_brought_to_the_network_as_its_spec_says():
    image = np.zeros((1, 2, 2, 3), np.uint8)
    image[..., 0], image[..., 2] = 255, 51
    rgb = prepare(image, InputSpec(size=2))
    np.testing.assert_allclose(rgb[0, 0, 0], [1, -1, -0.6], atol=1e-6)
    bgr = prepare(image, InputSpec(size=2, colour="BGR", mean=0, scale=255))
    np.testing.assert_allclose(bgr[0, 0, 0], [0.2, 0, 1], atol=1e-6)
    large = Embedder(network(), batch_size=2)
    big = np.kron(FACES[:2], np.ones((1, 2, 2, 1), np.uint8))
    assert large.embed(big).shape == (2, 16)
    np.testing.assert_allclose(resize(jnp.array(FACES), 32), FACES)
    np.testing.assert_allclose(
        resize(jnp.array(big), 32).mean(), FACES[:2].mean(), atol=0.5
    )


@pytest.mark.parametrize(
    "images",
    [
        FACES[0],
        FACES.astype(np.float32),
        FACES[..., :1],
        np.zeros((2, 32, 32, 4), np.uint8),
    ],
)
def test_anything_but_uint8_rgb_is_refused(saved, images):
    with pytest.raises(UserError, match=r"not uint8 RGB \[N, H, W, 3\]"):
        saved[1].embed(images)


def test_no_images_are_refused(saved):
    with pytest.raises(UserError, match="no images to embed"):
        saved[1].embed(FACES[:0])


def test_damage_is_found_on_loading(saved, tmp_path):
    def damaged(match, change):
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(saved[0], copy)
        change(copy)
        with pytest.raises(UserError, match=match) as caught:
            fr_jax.load_embedder(copy, batch_size=4)
        assert len(str(caught.value).splitlines()) == 1

    def edit(copy, **fields):
        path = copy / "embedder.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    weights = (saved[0] / "weights.npz").read_bytes()
    flipped = weights[:5000] + bytes([weights[5000] ^ 1]) + weights[5001:]
    damaged("altered or cut short", lambda c: (c / "weights.npz").write_bytes(flipped))
    damaged("altered or cut short", lambda c: (c / "weights.npz").write_bytes(b""))
    damaged("damaged embedder", lambda c: (c / "weights.npz").unlink())
    damaged("no embedder here", lambda c: (c / "embedder.json").unlink())
    damaged("damaged embedder", lambda c: (c / "embedder.json").write_text("{"))
    damaged("format 9, not 1", lambda c: edit(c, format=9))
    damaged("iresnet19", lambda c: edit(c, architecture="iresnet19"))
    damaged("damaged embedder", lambda c: edit(c, input_spec={"colour": "CMYK"}))
    # The weights are whole, but they would be used in another way than before.
    other = InputSpec(size=32, colour="BGR", mean=0.0, scale=255.0)._asdict()
    damaged("canary failed", lambda c: edit(c, input_spec=other))


def test_a_canary_can_be_left_out(saved, tmp_path):
    shutil.copytree(saved[0], tmp_path / "copy")
    path = tmp_path / "copy/embedder.json"
    description = json.loads(path.read_text())
    description["input_spec"]["colour"] = "BGR"
    path.write_text(json.dumps(description))
    loaded = fr_jax.load_embedder(tmp_path / "copy", batch_size=4, check=False)
    assert loaded.network.input_spec.colour == "BGR"


def test_one_program_serves_every_number_of_images(saved, caplog):
    with jax.log_compiles():
        loaded = fr_jax.load_embedder(saved[0], batch_size=4)
        for count in (1, 4, 7):
            loaded.embed(FACES[:count])
    compiled = [r.message for r in caplog.records if "jit(views)" in r.message]
    assert sum(message.startswith("Compiling") for message in compiled) == 1


# --- what is embedded -----------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Seven aligned faces as files, the last two JPEG, and their pixels."""
    folder = tmp_path_factory.mktemp("faces")
    pixels = [picture(112, 112, number) for number in range(7)]
    paths = []
    for number, image in enumerate(pixels):
        kind = ".png" if number < 5 else ".jpg"
        paths.append(folder / f"{number}{kind}")
        paths[-1].write_bytes(encoded(kind, image))
    decoded = [images.decode(path.read_bytes()) for path in paths]
    return paths, np.stack(decoded)


def test_files_arrays_and_iterables_embed_the_same(saved, files):
    _, embedder = saved
    paths, pixels = files
    expected = embedder.embed(pixels)
    for given in (
        paths,
        [str(path) for path in paths],
        iter(paths),
        list(pixels),
        (face for face in pixels),
        (paths[0], pixels[1], pixels[2:6], paths[6]),
        jnp.asarray(pixels),
    ):
        np.testing.assert_array_equal(embedder.embed(given), expected)
    np.testing.assert_array_equal(embedder.embed(paths[5]), expected[5:6])


def test_a_generator_is_drawn_from_as_needed(saved):
    _, embedder = saved
    drawn = []

    def faces():
        for number in range(100):
            drawn.append(number)
            yield FACES[number % 7]

    found = embedder.embed_each(faces())
    assert len(next(found)) == embedder.batch_size == 4
    assert len(drawn) == 8  # one batch ahead
    assert sum(map(len, found)) == 96


def test_faces_that_cannot_be_embedded_are_named(saved, files, tmp_path):
    _, embedder = saved
    paths, pixels = files

    def refused(match, *given):
        with pytest.raises(UserError, match=match) as caught:
            embedder.embed(list(given))
        assert len(str(caught.value).splitlines()) == 1

    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "photo.jpg").write_bytes(encoded(".jpg", picture(250, 250)))
    (tmp_path / "cut.jpg").write_bytes(paths[6].read_bytes()[:3000])
    refused("nowhere.jpg: no such image", paths[0], tmp_path / "nowhere.jpg")
    refused("text.jpg: neither JPEG nor PNG", tmp_path / "text.jpg")
    refused("cut.jpg: truncated JPEG", paths[0], tmp_path / "cut.jpg")
    refused("photo.jpg: 250x250 pixels, not an aligned", tmp_path / "photo.jpg")
    refused("a face has 32x32 pixels, the first one 112x112", *pixels, FACES[0])
    refused("float32 .* not uint8 RGB", pixels[0].astype(np.float32))
    refused("no images")


# --- what is imported -----------------------------------------------------------------


@pytest.fixture(scope="module")
def weight_file(tmp_path_factory):
    """The network of `saved` as arcface_torch writes it, and a classifier beside it."""
    state = dict(to_state_dict(network().variables, "arcface_torch"))
    state = {f"backbone.{name}": array for name, array in state.items()}
    state["head.weight"] = np.zeros((3, 16), np.float32)
    path = tmp_path_factory.mktemp("published") / "net.npz"
    np.savez(path, **state)
    return path


def test_a_weight_file_embeds_as_the_network_it_holds(saved, weight_file, tmp_path):
    loaded = fr_jax.load_embedder(weight_file, batch_size=4)
    np.testing.assert_array_equal(loaded.embed(FACES), saved[1].embed(FACES))
    known = loaded.provenance
    assert known["file"] == "net.npz"
    assert known["sha256"] == hashlib.sha256(weight_file.read_bytes()).hexdigest()
    assert known["format"] == "npz"
    assert known["dialect"] == "arcface_torch"
    assert known["unused"] == ["head.weight"]
    loaded.save(tmp_path / "e")
    again = fr_jax.load_embedder(tmp_path / "e", batch_size=4)
    assert again.provenance == known
    assert again.network.input_spec == loaded.network.input_spec
    np.testing.assert_array_equal(again.embed(FACES), loaded.embed(FACES))


def test_colour_and_dialect_can_be_stated(saved, weight_file):
    swapped = fr_jax.import_weights(weight_file, colour="BGR", batch_size=4)
    np.testing.assert_allclose(
        swapped.embed(FACES[..., ::-1]), saved[1].embed(FACES), atol=1e-6
    )
    magface = fr_jax.import_weights(weight_file, dialect="magface")
    assert magface.network.architecture == "magface_iresnet18"
    assert magface.network.input_spec.scale == 255.0


def test_weight_files_that_are_not_understood(weight_file, tmp_path):
    def refused(match, path=weight_file, **options):
        with pytest.raises(UserError, match=match) as caught:
            fr_jax.import_weights(path, **options)
        assert len(str(caught.value).splitlines()) == 1

    refused("did you mean 'arcface_torch'", dialect="arcface")
    refused("unknown colour order 'RBG'", colour="RBG")
    refused("nowhere.pth: no such file", tmp_path / "nowhere.pth")
    (tmp_path / "text.pth").write_text("hello")
    refused("text.pth: byte 0", tmp_path / "text.pth")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    refused("other.npz: no known network has tensors a", tmp_path / "other.npz")
    state = dict(np.load(weight_file))
    del state["backbone.layer2.0.bn2.bias"]
    np.savez(tmp_path / "less.npz", **state)
    refused("missing layer2.0.bn2.bias", tmp_path / "less.npz")


def test_networks_that_embed_nothing_are_kept_too(tmp_path):
    options = {"width": 0.05, "size": 32, "decoder_seed": 2, "poses": 3, "noise": 4}
    model = models.create("dr_gan_generator", **options)
    spec = InputSpec(size=32)
    variables = random_variables(model, 32)
    generator = Network("dr_gan_generator", options, variables, spec, "generator")
    Embedder(generator).save(tmp_path / "g")
    loaded = fr_jax.load_embedder(tmp_path / "g")  # its canary agrees
    assert loaded.network.kind == "generator"
    with pytest.raises(UserError, match="kind 'generator'.*gives no embeddings"):
        loaded.embed(FACES)


def test_a_save_that_fails_leaves_what_was_there(saved, tmp_path, monkeypatch):
    shutil.copytree(saved[0], tmp_path / "e")
    other = Embedder(network(colour="BGR"), batch_size=4)

    def full(*arguments, **options):
        raise OSError("No space left on device")

    monkeypatch.setattr("json.dumps", full)
    with pytest.raises(OSError):
        other.save(tmp_path / "e")
    monkeypatch.undo()
    loaded = fr_jax.load_embedder(tmp_path / "e", batch_size=4)
    assert loaded.network.input_spec.colour == "RGB"
    other.save(tmp_path / "e")
    loaded = fr_jax.load_embedder(tmp_path / "e", batch_size=4)
    assert loaded.network.input_spec.colour == "BGR"


def test_the_recogniser_inside_a_generator(tmp_path):
    options = {"width": 0.05, "poses": 3, "noise": 50, "confidence_head": "none"}
    model = models.create("dr_gan_generator", **options)
    dialect = "kayamin_dr_gan_generator"
    state = to_state_dict(random_variables(model, 96), dialect)
    np.savez(tmp_path / "g.npz", **state)
    with pytest.raises(UserError, match="gives no embeddings"):
        fr_jax.import_weights(tmp_path / "g.npz").embed(FACES)
    encoder = fr_jax.import_weights(tmp_path / "g.npz", encoder=True)
    assert encoder.network.architecture == "dr_gan_encoder"
    assert encoder.embed(FACES[:2]).shape == (2, 16)
