"""Embedders: saving, loading, inference, import of weights, and errors."""

import hashlib
import json
import os
import shutil
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fr_jax
from data_pipelines import images
from fr_jax import models
from fr_jax.convert import to_state_dict
from fr_jax.embedder import Embedder
from fr_jax.embedder.description import check_options
from fr_jax.errors import UserError
from fr_jax.models.preprocess import InputSpec, prepare, resize
from fr_jax.system import Network
from tests.support.faces import encoded, picture
from tests.support.networks import random_variables
from tests.support.paths import read_npz
from tests.support.steps import distance

OPTIONS = {"width": 0.125, "embedding_size": 16}
PROVENANCE = {"identities": {"rendered": ["a", "b"]}, "steps": 3}


def network(**spec):
    model = models.create("iresnet18", **OPTIONS)
    variables = random_variables(model, 32)
    return Network("iresnet18", OPTIONS, variables, InputSpec(size=32, **spec))


FACES = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Returns the folder of an embedder, and the embedder."""
    folder = tmp_path_factory.mktemp("embedder") / "e"
    embedder = Embedder(network(), PROVENANCE, batch_size=4)
    embedder.save(folder)
    return folder, embedder


def test_loaded_embedder_embeds_as_the_saved_one(saved):
    folder, embedder = saved
    loaded = fr_jax.load_embedder(folder, batch_size=4)
    np.testing.assert_array_equal(loaded.embed(FACES), embedder.embed(FACES))
    assert loaded.provenance == PROVENANCE
    assert loaded.network.input_spec == InputSpec(size=32)


def test_digests_of_training_images_are_stored_apart_from_the_description(
    saved, tmp_path
):
    assert fr_jax.load_embedder(saved[0]).digests is None
    values = [1, 2**64 - 1]
    digests = np.array(values, np.uint64)
    embedder = Embedder(network(), PROVENANCE, batch_size=4, digests=digests)
    embedder.save(tmp_path / "e")
    loaded = fr_jax.load_embedder(tmp_path / "e", batch_size=4)
    assert loaded.digests is not None
    assert (loaded.digests.dtype, loaded.digests.tolist()) == (np.uint64, values)
    assert loaded.network.variables.keys() == saved[1].network.variables.keys()
    assert loaded.describe() == saved[1].describe()


def test_folder_of_an_earlier_version_loads(saved, tmp_path):
    """The provenance key `identities` was `people` before fr_jax 0.2.0."""
    folder, embedder = saved
    shutil.copytree(folder, tmp_path / "old")
    path = tmp_path / "old/embedder.json"
    description = json.loads(path.read_text())
    provenance = description["provenance"]
    provenance["people"] = provenance.pop("identities")
    path.write_text(json.dumps(description))
    loaded = fr_jax.load_embedder(tmp_path / "old", batch_size=4)
    assert loaded.provenance == PROVENANCE
    np.testing.assert_array_equal(loaded.embed(FACES), embedder.embed(FACES))
    loaded.save(tmp_path / "new")
    stored = json.loads((tmp_path / "new/embedder.json").read_text())
    assert stored["provenance"] == PROVENANCE


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
    views = embedder.embed_raw(FACES, flip=True)
    assert views.keys() == {"embedding", "mirrored"}
    # Relative to their length of hundreds: float32 on any processor.
    assert distance(views["embedding"], raw) < 1e-6
    assert distance(views["mirrored"], mirrored) < 1e-6
    assert embedder.embed_raw(FACES).keys() == {"embedding"}
    one, other = (embedder.embed(x, flip=True) for x in (FACES, FACES[:, :, ::-1]))
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_preprocessing_follows_the_input_specification():
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
    ids=["one image", "float32", "grey", "alpha"],
)
def test_arrays_other_than_uint8_rgb_are_refused(saved, images):
    with pytest.raises(UserError, match=r"not uint8 RGB \[N, H, W, 3\]"):
        saved[1].embed(images)


@pytest.mark.parametrize("method", ["embed", "embed_raw"])
def test_no_images_are_refused(saved, method):
    with pytest.raises(UserError, match="no images to embed"):
        getattr(saved[1], method)(FACES[:0])


def edited(**fields):
    """Returns a change of an embedder's description."""

    def change(folder):
        path = folder / "embedder.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return change


def flip_a_bit(folder):
    weights = (folder / "weights.npz").read_bytes()
    weights = weights[:5000] + bytes([weights[5000] ^ 1]) + weights[5001:]
    (folder / "weights.npz").write_bytes(weights)


# Intact weights with another preprocessing.
_BGR = InputSpec(size=32, colour="BGR", mean=0.0, scale=255.0)._asdict()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (flip_a_bit, "altered or cut short"),
        (lambda f: (f / "weights.npz").write_bytes(b""), "altered or cut short"),
        (lambda f: (f / "weights.npz").unlink(), "damaged embedder"),
        (lambda f: (f / "embedder.json").unlink(), "no embedder here"),
        (lambda f: (f / "embedder.json").write_text("{"), "damaged embedder"),
        (edited(format=9), "format 9, not 1"),
        (edited(architecture="iresnet19"), "iresnet19"),
        (edited(input_spec={"colour": "CMYK"}), "damaged embedder"),
        (edited(input_spec=_BGR), "canary failed"),
    ],
    ids=[
        "a bit",
        "empty weights",
        "no weights",
        "no description",
        "cut description",
        "format",
        "architecture",
        "specification",
        "another specification",
    ],
)
def test_damaged_embedder_is_refused(saved, tmp_path, change, match):
    shutil.copytree(saved[0], tmp_path / "copy")
    change(tmp_path / "copy")
    with pytest.raises(UserError, match=match) as caught:
        fr_jax.load_embedder(tmp_path / "copy", batch_size=4)
    assert len(str(caught.value).splitlines()) == 1


def written(**fields):
    """Returns a change that replaces options, or the input specification's fields."""

    def change(folder):
        path = folder / "embedder.json"
        description = json.loads(path.read_text())
        for name, value in fields.items():
            description[name] = description[name] | value
        path.write_text(json.dumps(description))

    return change


def nested(folder):
    (folder / "embedder.json").write_text("[" * 100_000 + "]" * 100_000)


def a_pipe(name):
    def change(folder):
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return change


def repacked(change):
    """Returns a change of the arrays, with a digest that fits."""

    def pack(folder):
        arrays = change(read_npz(folder / "weights.npz"))
        np.savez(folder / "weights.npz", **arrays)
        sealed(folder)

    return pack


def sealed(folder):
    digest = hashlib.sha256((folder / "weights.npz").read_bytes()).hexdigest()
    edited(weights_sha256=digest)(folder)


def a_bomb(folder):
    """A header of 10^12 values in an archive of the right digest."""
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }\n"
    array = b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header
    with zipfile.ZipFile(folder / "weights.npz", "w") as archive:
        archive.writestr("params/conv1/kernel.npy", array)
    sealed(folder)


HUGE = 10**12
HOSTILE = {
    "width 1e9": (written(options={"width": 1e9}), "option width is 1"),
    "width NaN": (written(options={"width": float("nan")}), "NaN is no number of JSON"),
    "width infinite": (written(options={"width": 1e999}), "Infinity is no number"),
    "width negative": (written(options={"width": -1.0}), "option width is -1.0; exp"),
    "width a text": (written(options={"width": "0.125"}), "option width is '0.125'"),
    "width a boolean": (written(options={"width": True}), "option width is True"),
    "embedding size a text": (
        written(options={"embedding_size": "16"}),
        "option embedding_size is '16'; expected int",
    ),
    "embedding size 1e12": (
        written(options={"embedding_size": HUGE}),
        "option embedding_size is 1e.12; expected int",
    ),
    "many digits": (
        written(options={"embedding_size": 10**4000}),
        "option embedding_size is a number of many digits; expected int",
    ),
    "blocks": (
        written(options={"stage_sizes": [10**6, 2, 2, 2]}),
        "option stage_sizes is",
    ),
    "nested blocks": (
        written(options={"stage_sizes": [[2], 2, 2, 2]}),
        "option stage_sizes is",
    ),
    "a function": (
        written(options={"conv_init": "os.system"}),
        "option conv_init is 'os.system'",
    ),
    "dropout of another type": (
        written(options={"dropout": "no"}),
        "option dropout is 'no'; expected float",
    ),
    "no such option": (
        written(options={"widht": 1.0}),
        "unknown option 'widht' of iresnet18; did you mean 'width'",
    ),
    "another width": (written(options={"width": 0.25}), r"is \(8,\), this network has"),
    "another network": (edited(architecture="iresnet34"), "is missing"),
    "options a list": (edited(options=[1]), "options is .1., not of type dict"),
    "options missing": (
        lambda folder: (folder / "embedder.json").write_text('{"format": 1}'),
        "no 'kind' in the description",
    ),
    "a list": (lambda f: (f / "embedder.json").write_text("[1]"), "is no JSON object"),
    "architecture a number": (edited(architecture=18), "architecture is 18, not of ty"),
    "input size 1e6": (written(input_spec={"size": 10**6}), "sides of 1e.06 pixels"),
    "input size 0": (written(input_spec={"size": 0}), "sides of 0 pixels"),
    "input size a text": (written(input_spec={"size": "32"}), "sides of '32' pixels"),
    "a crop of texts": (written(input_spec={"crop": ["a", 1]}), "sides of 'a' pixels"),
    "scale 0": (written(input_spec={"scale": 0.0}), "not an input specification"),
    "scale a text": (written(input_spec={"scale": "1"}), "scale or mean '1'"),
    "mean infinite": (written(input_spec={"mean": 1e999}), "Infinity is no number"),
    "no such field": (written(input_spec={"gamma": 1}), "not an input specification"),
    "provenance a text": (edited(provenance="mine"), "provenance is 'mine'"),
    "identities a text": (
        written(provenance={"identities": "all"}),
        "identities of the provenance are no lists",
    ),
    "nested JSON": (nested, "embedder.json is nested too deeply"),
    "a pipe for the weights": (a_pipe("weights.npz"), "weights.npz is no plain file"),
    "a pipe for the description": (a_pipe("embedder.json"), "is no plain file"),
    "a header of 1e12 values": (a_bomb, "holds 0 bytes, not float32"),
    "objects": (
        repacked(lambda a: a | {"params/x": np.array([{}], object)}),
        "an array of .O, not of numbers",
    ),
    "no canary": (
        repacked(lambda a: {k: v for k, v in a.items() if "canary" not in k}),
        "damaged embedder",
    ),
    "a canary of another shape": (
        repacked(lambda a: a | {"canary/images": np.zeros((2, 3), np.uint8)}),
        "not uint8 RGB",
    ),
    "a canary without images": (
        repacked(
            lambda a: (
                {k: v for k, v in a.items() if k != "canary/images"}
                | {"canary/other": np.zeros(3)}
            )
        ),
        "damaged embedder",
    ),
    "identities that are numbers": (
        written(provenance={"identities": {"lfw": [1, 2]}}),
        "identities of the provenance are no lists of names",
    ),
    "a selection without sets": (
        written(provenance={"selection": {"kind": "clean"}}),
        "selection of the provenance has no kind and sets",
    ),
    "digests in a group": (
        repacked(lambda a: a | {"digests/0": np.zeros(1, np.uint64)}),
        "digests are not uint64 of one axis",
    ),
    "digests of another type": (
        repacked(lambda a: a | {"digests": np.zeros(1, np.int32)}),
        "digests are not uint64 of one axis",
    ),
    "a canary that is an array": (
        repacked(
            lambda a: (
                {k: v for k, v in a.items() if "canary" not in k}
                | {"canary": np.zeros(3, np.uint8)}
            )
        ),
        "the canary is no group of arrays",
    ),
    "an array and a group of one name": (
        repacked(lambda a: a | {"params": np.zeros(3, np.float32)}),
        "'params' is an array and a group of arrays",
    ),
    "a further array": (
        repacked(lambda a: a | {"params/x/kernel": np.zeros(3, np.float32)}),
        "params/x/kernel is not in this network",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_folder_from_someone_else_is_checked_before_it_is_built(saved, tmp_path, case):
    change, match = HOSTILE[case]
    shutil.copytree(saved[0], tmp_path / "copy")
    change(tmp_path / "copy")
    with pytest.raises(UserError, match=match) as caught:
        fr_jax.load_embedder(tmp_path / "copy", batch_size=4)
    message = str(caught.value)
    assert len(message.splitlines()) == 1 and message.isprintable()
    assert message.startswith(f"{tmp_path / 'copy'}: ")
    assert len(message) < 600


@pytest.mark.parametrize("architecture", models.ARCHITECTURES)
def test_options_of_every_network_have_checked_types(architecture):
    """Defaults of the fields, in JSON, are within the bounds."""
    module, preset = models.ARCHITECTURES[architecture]
    fields = module.__dataclass_fields__.values()
    defaults = {
        field.name: preset.get(field.name, field.default)
        for field in fields
        if field.name not in ("parent", "name", "dtype")
    }
    options = {}
    for name, value in defaults.items():
        try:
            options[name] = json.loads(json.dumps(value))
        except TypeError:
            continue  # functions
    own_names = ("discofacegan", "identity_encoder")
    assert "width" in options or architecture in own_names
    if "dtype" in module.__dataclass_fields__:
        options["dtype"] = "bfloat16"
    check_options(architecture, options)


def test_canary_is_optional(saved, tmp_path):
    shutil.copytree(saved[0], tmp_path / "copy")
    path = tmp_path / "copy/embedder.json"
    description = json.loads(path.read_text())
    description["input_spec"]["colour"] = "BGR"
    path.write_text(json.dumps(description))
    loaded = fr_jax.load_embedder(tmp_path / "copy", batch_size=4, check=False)
    assert loaded.network.input_spec.colour == "BGR"


def test_one_compilation_for_any_number_of_images(saved, caplog):
    with jax.log_compiles():
        loaded = fr_jax.load_embedder(saved[0], batch_size=4)
        for count in (1, 4, 7):
            loaded.embed(FACES[:count])
    compiled = [r.message for r in caplog.records if "jit(views)" in r.message]
    assert sum(message.startswith("Compiling") for message in compiled) == 1


# --- images ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Returns paths of seven aligned faces, the last two JPEG, and their pixels."""
    folder = tmp_path_factory.mktemp("faces")
    pixels = [picture(112, 112, number) for number in range(7)]
    paths = []
    for number, image in enumerate(pixels):
        kind = ".png" if number < 5 else ".jpg"
        paths.append(folder / f"{number}{kind}")
        paths[-1].write_bytes(encoded(kind, image))
    decoded = [images.decode(path.read_bytes()) for path in paths]
    return paths, np.stack(decoded)


def test_files_arrays_and_iterables_embed_alike(saved, files):
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


def test_iterable_is_consumed_one_batch_ahead(saved):
    _, embedder = saved
    yielded = []

    def faces():
        for number in range(100):
            yielded.append(number)
            yield FACES[number % 7]

    batches = embedder.embed_each(faces())
    assert len(next(batches)) == embedder.batch_size == 4
    assert len(yielded) == 8
    assert sum(map(len, batches)) == 96


@pytest.fixture(scope="module")
def bad_files(files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    (folder / "text.jpg").write_text("hello")
    (folder / "photo.jpg").write_bytes(encoded(".jpg", picture(250, 250)))
    (folder / "cut.jpg").write_bytes(files[0][6].read_bytes()[:3000])
    return folder


@pytest.mark.parametrize(
    ("given", "match"),
    [
        (lambda f, p, d: [f[0], d / "none.jpg"], "none.jpg: no such image"),
        (lambda f, p, d: [d / "text.jpg"], "text.jpg: no image"),
        (lambda f, p, d: [f[0], d / "cut.jpg"], "cut.jpg: truncated JPEG"),
        (
            lambda f, p, d: [d / "photo.jpg"],
            "photo.jpg: 250x250 .* not an aligned",
        ),
        (lambda f, p, d: [*p, FACES[0]], "has 32x32 pixels, the first face 112x112"),
        (lambda f, p, d: [p[0].astype(np.float32)], "float32 .* not uint8 RGB"),
        (lambda f, p, d: [], "no images"),
    ],
    ids=["missing", "text", "truncated", "not aligned", "two sizes", "float32", "none"],
)
def test_error_names_the_invalid_face(saved, files, bad_files, given, match):
    with pytest.raises(UserError, match=match) as caught:
        saved[1].embed(given(*files, bad_files))
    assert len(str(caught.value).splitlines()) == 1


# --- weight files ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def weight_file(tmp_path_factory):
    """The network of `saved` in the dialect arcface_torch, with a classifier."""
    state = dict(to_state_dict(network().variables, "arcface_torch"))
    state = {f"backbone.{name}": array for name, array in state.items()}
    state["head.weight"] = np.zeros((3, 16), np.float32)
    path = tmp_path_factory.mktemp("published") / "net.npz"
    np.savez(path, **state)
    return path


def test_weight_file_embeds_as_its_network(saved, weight_file, tmp_path):
    loaded = fr_jax.load_embedder(weight_file, batch_size=4)
    np.testing.assert_array_equal(loaded.embed(FACES), saved[1].embed(FACES))
    provenance = loaded.provenance
    assert provenance["file"] == "net.npz"
    assert provenance["sha256"] == hashlib.sha256(weight_file.read_bytes()).hexdigest()
    assert provenance["format"] == "npz"
    assert provenance["dialect"] == "arcface_torch"
    assert provenance["unused"] == ["head.weight"]
    loaded.save(tmp_path / "e")
    again = fr_jax.load_embedder(tmp_path / "e", batch_size=4)
    assert again.provenance == provenance
    assert again.network.input_spec == loaded.network.input_spec
    np.testing.assert_array_equal(again.embed(FACES), loaded.embed(FACES))


def test_colour_and_dialect_are_options(saved, weight_file):
    swapped = fr_jax.import_weights(weight_file, colour="BGR", batch_size=4)
    np.testing.assert_allclose(
        swapped.embed(FACES[..., ::-1]), saved[1].embed(FACES), atol=1e-6
    )
    magface = fr_jax.import_weights(weight_file, dialect="magface")
    assert magface.network.architecture == "magface_iresnet18"
    assert magface.network.input_spec.scale == 255.0


@pytest.fixture(scope="module")
def bad_weights(weight_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad_weights")
    (folder / "text.pth").write_text("hello")
    np.savez(folder / "other.npz", a=np.zeros(3))
    state = read_npz(weight_file)
    del state["backbone.layer2.0.bn2.bias"]
    np.savez(folder / "less.npz", **state)
    np.savez(folder / "net.npz", **read_npz(weight_file))
    return folder


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("net.npz", {"dialect": "arcface"}, "did you mean 'arcface_torch'"),
        ("net.npz", {"colour": "RBG"}, "unknown colour order 'RBG'"),
        ("nowhere.pth", {}, "nowhere.pth: no such file"),
        ("text.pth", {}, "text.pth: byte 0"),
        ("other.npz", {}, "other.npz: no known network has tensors a"),
        ("less.npz", {}, "missing layer2.0.bn2.bias"),
    ],
    ids=["dialect", "colour", "no file", "text", "other tensors", "missing tensor"],
)
def test_invalid_import_is_refused(bad_weights, name, options, match):
    with pytest.raises(UserError, match=match) as caught:
        fr_jax.import_weights(bad_weights / name, **options)
    assert len(str(caught.value).splitlines()) == 1


def test_generator_is_saved_and_has_no_embeddings(tmp_path):
    options = {"width": 0.05, "size": 32, "decoder_seed": 2, "poses": 3, "noise": 4}
    model = models.create("dr_gan_generator", **options)
    spec = InputSpec(size=32)
    variables = random_variables(model, 32)
    generator = Network("dr_gan_generator", options, variables, spec, "generator")
    Embedder(generator).save(tmp_path / "g")
    loaded = fr_jax.load_embedder(tmp_path / "g")  # its canary agrees
    assert loaded.network.kind == "generator"
    for embed in (loaded.embed, loaded.embed_raw):
        with pytest.raises(UserError, match="kind 'generator'.*gives no embeddings"):
            embed(FACES)


def test_failed_save_keeps_the_previous_embedder(saved, tmp_path, monkeypatch):
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


def test_encoder_of_a_generator_can_be_imported(tmp_path):
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
