"""The published files of DiscoFaceGAN: pickle, checkpoints, mean identity."""

import gzip
import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest

from fr_jax import models
from fr_jax.convert import discofacegan
from fr_jax.convert.readers import network_pickle, read_weights, tensor_bundle
from fr_jax.convert.readers.refusal import Refusal
from fr_jax.errors import UserError
from tests.support import discofacegan as files
from tests.support.paths import DATA, PARITY

_GENERATOR = "network.pkl"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny generator, its decoders and its mean identity."""
    root = tmp_path_factory.mktemp("disco")
    files.write_generator(root / _GENERATOR)
    files.write_vae(root / "vae")
    mean = 0.1 * np.random.default_rng(12).standard_normal(16)
    np.savetxt(root / "mean.txt", np.tile(mean, (14, 1)))
    return root


def _read(folder, **options):
    options = {"mean_identity": folder / "mean.txt"} | options
    return discofacegan.read(folder / _GENERATOR, folder / "vae", **options)


def test_arrays_are_in_the_layout_of_the_network(folder):
    imported = _read(folder)
    params = imported.network.variables["params"]
    gain = np.sqrt(2 / (9 * 8))
    stored = files.value("synthesis", "32x32/Conv1/weight", (3, 3, 8, 8))
    kernel = params["synthesis"]["layer7"]["kernel"]
    np.testing.assert_allclose(kernel, gain * stored, rtol=1e-6)
    stored = files.value("synthesis", "256x256/Conv0_up/weight", (3, 3, 4, 2))
    rotated = np.sqrt(2 / (9 * 4)) * stored[::-1, ::-1]
    kernel = params["synthesis"]["layer12"]["kernel"]
    np.testing.assert_allclose(kernel, rotated, rtol=1e-6)
    stored = files.value("mapping", "Dense0/weight", (286, 16))
    kernel = params["mapping"]["dense0"]["kernel"]
    np.testing.assert_allclose(kernel, 0.01 * np.sqrt(2 / 286) * stored, rtol=1e-6)
    bias = params["mapping"]["dense7"]["bias"]
    stored = files.value("mapping", "Dense7/bias", (16,))
    np.testing.assert_allclose(bias, 0.01 * stored, rtol=1e-6)
    stored = files.decoder("id")["id/stage1/decoder/x_hat/kernel"]
    kernel = params["decoders_id"]["x_hat"]["kernel"]
    np.testing.assert_array_equal(kernel, stored)
    assert imported.network.options == files.TINY
    assert len(imported.notes) == 5  # none of the files is the published one


def test_the_third_network_of_the_pickle_is_taken(folder, tmp_path):
    """G of the stored file has other values than Gs; so has every other order."""
    networks = [files.network(**files.state(files.TINY, name=n)) for n in ("Gs", "D")]
    path = files.write_pickle(tmp_path / "g.pkl", tuple(networks))
    with pytest.raises(UserError, match="of which Gs is used"):
        discofacegan.read(path, folder / "vae")
    networks.append(files.network(**files.state(files.TINY, name="G")))
    path = files.write_pickle(tmp_path / "g.pkl", tuple(networks))
    with pytest.raises(UserError, match="of which Gs is used"):
        discofacegan.read(path, folder / "vae")


@files.needs(PARITY)
def test_the_pickle_of_the_original_classes_has_the_same_arrays():
    data = np.memmap(PARITY / "files/disco_tiny_fake.pkl", np.uint8, "r").data
    networks = network_pickle.read(Path("fake.pkl"), data)
    expected = files.variables(files.TINY)
    for part, component in networks[2].state["components"].items():
        arrays = network_pickle.arrays_of(component)
        assert list(arrays) == [name for name, _ in expected[part]]
        for name, value in expected[part]:
            np.testing.assert_array_equal(arrays[name], value, name)


@files.needs(PARITY)
def test_variables_have_the_published_names_and_shapes():
    table = (PARITY / "keys/disco_gs_variables.tsv").read_text().splitlines()[1:]
    rows = [line.split("\t") for line in table]
    for part, arrays in files.variables(files.FULL).items():
        published = [(row[2], row[3]) for row in rows if row[0] == part]
        ours = [(name, str(list(np.shape(value)))) for name, value in arrays]
        assert ours == published


class _Call:
    """An object whose pickle calls a function when it is loaded by Python."""

    def __reduce__(self):
        import os

        return os.system, ("echo run",)


def _write_other(path, content):
    path.write_bytes(pickle.dumps(content, protocol=4))


def _object_array(path):
    array = np.array([{}], object)
    files.write_pickle(path, (files.network(name="Gs", variables=[("a", array)]),))


def _double(path):
    variables = [("a", np.zeros(3))]
    files.write_pickle(path, (files.network(name="Gs", variables=variables),))


def _variables(*pairs):
    """Returns a writer of a network Gs with these variables."""

    def write(path):
        files.write_pickle(path, (files.network(name="Gs", variables=list(pairs)),))

    return write


def _nested_name(path):
    """Of 2^40 lists in 40 objects."""
    name = []
    for _ in range(40):
        name = [name, name]
    files.write_generator(path, name=name)


def _other_widths(path):
    """The last component states another width than Gs."""
    state = files.state(files.TINY)
    state["components"]["mapping"].__dict__["static_kwargs"] = {"fmap_max": 4}
    files.write_state(path, state)


def _changed(part, change):
    """Returns a writer of a generator with changed variables of a component."""

    def write(path):
        state = files.state(files.TINY)
        arrays = state["components"][part].__dict__["variables"]
        change(arrays)
        files.write_state(path, state)

    return write


def _with_argument(**arguments):
    def write(path):
        files.write_generator(path, {**files.TINY, **arguments})

    return write


_WRONG = {
    "calls a function": (lambda path: _write_other(path, _Call()), "posix.system"),
    "no networks": (lambda path: _write_other(path, [1, 2]), "no networks"),
    "array of objects": (_object_array, "an array of type 'O8'"),
    "float64": (_double, "an array of type 'f8'"),
    "missing variable": (
        _changed("synthesis", lambda arrays: arrays.pop(5)),
        "missing noise4",
    ),
    "further variable": (
        _changed("mapping", lambda a: a.append(("extra", np.zeros(1, "f4")))),
        "unexpected 'extra'",
    ),
    "misshapen variable": (
        _changed("mapping", lambda a: a.__setitem__(1, ("Dense0/bias", a[0][1]))),
        r"Dense0/bias has shape \(286, 16\), not \(16,\)",
    ),
    "axes": (
        _changed("synthesis", lambda a: a.__setitem__(1, ("noise0", np.float32(1)))),
        r"noise0 has shape \(\), not \(1, 1, 4, 4\)",
    ),
    "number": (
        _changed(
            "synthesis",
            lambda a: a.__setitem__(18, ("4x4/Const/StyleMod/weight", np.float32(1))),
        ),
        r"4x4/Const/StyleMod/weight has shape \(\), not \(16, 16\)",
    ),
    "65 axes": (
        _variables(("a", files.StatedArray((1,) * 65, bytes(4)))),
        "an array of 65 dimensions",
    ),
    "axis of length 0": (
        _variables(("a", files.StatedArray((3, 3, 0, 8)))),
        "an array of 0 bytes with another shape",
    ),
    "repeated variable": (
        _changed("mapping", lambda arrays: arrays.append(arrays[3])),
        "several variables are named 'Dense1/bias'",
    ),
    "without lod": (
        _changed("synthesis", lambda arrays: arrays.pop(0)),
        "missing lod",
    ),
    "without an unused layer": (
        _changed("synthesis", lambda arrays: arrays.pop(25)),
        "missing ToRGB_lod6",
    ),
    "nested name": (_nested_name, "3 networks: 'G', 'D', list"),
    "components of different widths": (_other_widths, "fmap_max = 8 and 4"),
    "growing": (
        _changed("synthesis", lambda a: a.__setitem__(0, ("lod", np.float32(0.5)))),
        "lod of the synthesis network is .*0.5.*, not 0",
    ),
    "version": (lambda path: files.write_generator(path, version=1), "version 1"),
    "component": (
        lambda path: files.write_generator(path, components={}),
        "no component 'synthesis'",
    ),
    "argument": (_with_argument(fused_scale=1), "the argument 'fused_scale' = 1"),
    "width": (_with_argument(fmap_max=1 << 20), "fmap_max = 1048576"),
    "resolution": (
        lambda path: files.write_generator(path, static_kwargs={"resolution": 512}),
        "resolution = 512, not 256",
    ),
    "Git LFS": (
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"),
        "is a Git LFS pointer",
    ),
    "page": (lambda path: path.write_text("<!DOCTYPE html>"), "is a web page"),
    "empty": (lambda path: path.write_text(""), "is empty"),
}


@pytest.mark.parametrize("case", _WRONG)
def test_other_pickles_are_refused(case, folder, tmp_path, capfd):
    write, message = _WRONG[case]
    path = tmp_path / "wrong.pkl"
    write(path)
    with pytest.raises(UserError, match=message) as error:
        discofacegan.read(path, folder / "vae", mean_identity=folder / "mean.txt")
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert "run" not in capfd.readouterr().out


@pytest.mark.parametrize(
    "text", ["\ud800", "\n" * (1 << 21)], ids=["surrogate", "long"]
)
def test_any_source_text_is_only_noted(text, folder, tmp_path):
    state = files.state(files.TINY)
    state["components"]["synthesis"].__dict__["build_module_src"] = text
    path = files.write_state(tmp_path / "g.pkl", state)
    imported = discofacegan.read(
        path, folder / "vae", mean_identity=folder / "mean.txt"
    )
    assert "the source text in the file is not the published one" in imported.notes


def test_defaults_do_not_replace_stated_widths(folder, tmp_path):
    """The components of this file state none of the widths, Gs all."""
    state = files.state(files.TINY)
    for part in state["components"].values():
        part.__dict__["static_kwargs"] = {"resolution": 256}
    path = files.write_state(tmp_path / "g.pkl", state)
    imported = discofacegan.read(
        path, folder / "vae", mean_identity=folder / "mean.txt"
    )
    assert imported.network.options == files.TINY


def test_large_files_are_refused_before_they_are_read(folder, tmp_path):
    path = tmp_path / "g.pkl"
    with path.open("wb") as file:
        file.write(b"\x80\x04")
        file.truncate(3 << 30)  # without blocks on the disk
    with pytest.raises(UserError, match=r"3,221,225,472 bytes; up to"):
        discofacegan.read(path, folder / "vae")
    prefix = files.write_bundle(tmp_path, files.decoder("rot"))
    with tensor_bundle.data_file(prefix).open("r+b") as file:
        file.truncate(3 << 30)
    with pytest.raises(Refusal, match="3,221,225,472 bytes"):
        tensor_bundle.read(prefix)


def test_import_without_decoders_names_the_option(folder):
    with pytest.raises(UserError, match="needs --vae DIR"):
        read_weights(folder / _GENERATOR)


def test_cut_pickles_are_refused(folder, tmp_path):
    content = (folder / _GENERATOR).read_bytes()
    path = tmp_path / "cut.pkl"
    for size in np.linspace(1, len(content) - 1, 40).astype(int):
        path.write_bytes(content[:size])
        with pytest.raises(UserError):
            discofacegan.read(path, folder / "vae")


def test_missing_decoders_are_named(folder, tmp_path):
    files.write_vae(tmp_path / "vae", ["exp", "gamma", "rot"])
    with pytest.raises(UserError, match="16,950,168 bytes.*ed755557.*--identity-coef"):
        discofacegan.read(folder / _GENERATOR, tmp_path / "vae")
    files.write_vae(tmp_path / "vae", ["id"])
    data = next((tmp_path / "vae/rot").glob("*.data*"))
    data.unlink()
    with pytest.raises(UserError, match=f"{data.name}: no such file; the decoder"):
        discofacegan.read(folder / _GENERATOR, tmp_path / "vae")
    data.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(UserError, match="is a Git LFS pointer"):
        discofacegan.read(folder / _GENERATOR, tmp_path / "vae")


def test_identity_coefficients_replace_the_decoder(folder, tmp_path):
    rows = np.random.default_rng(0).standard_normal((5, 160)).astype("f4")
    np.save(tmp_path / "rows.npy", rows)
    imported = _read(folder, identity_coefficients=tmp_path / "rows.npy")
    digest = hashlib.sha256((tmp_path / "rows.npy").read_bytes()).hexdigest()
    assert imported.sha256["identity_coefficients"] == digest
    network = imported.network
    assert network.options["identities"] == 5
    model = models.create("discofacegan", **network.options)
    codes = np.zeros((2, 179), "f4")
    found = model.apply(
        network.variables, codes, np.array([3, 0]), method="coefficients"
    )
    np.testing.assert_array_equal(found[:, :160], rows[[3, 0]])
    np.save(tmp_path / "rows.npy", rows[:, :100])
    with pytest.raises(UserError, match=r"\[N, 160\], got \[5, 100\]"):
        _read(folder, identity_coefficients=tmp_path / "rows.npy")


def test_the_mean_identity_follows_the_recipe(folder):
    network = _read(folder).network
    mean = discofacegan.mean_of_identities(network.options, network.variables, 30)
    random = np.random.RandomState(1)
    expected = np.zeros(16)
    decoder, params = files.decoder("id"), network.variables["params"]["mapping"]
    for _ in range(30):
        codes, noise = random.normal(size=(1, 179)), random.normal(size=(1, 32))
        x = codes[:, :128]
        for layer in ("fc0", "fc1", "fc2", "x_hat"):
            name = f"id/stage1/decoder/{layer}"
            x = x @ decoder[f"{name}/kernel"] + decoder[f"{name}/bias"]
            x = x if layer == "x_hat" else np.maximum(x, 0)
        x = np.concatenate([x, np.zeros((1, 94)), noise], axis=1)
        for number in range(8):
            layer = params[f"dense{number}"]
            x = x @ layer["kernel"] + layer["bias"]
            x = np.maximum(x, 0.2 * x)
        expected += x[0] / 30
    np.testing.assert_allclose(mean, expected, atol=1e-4)


@pytest.mark.parametrize(
    "rows", [np.ones((14, 7)), np.eye(14, 16), np.full(16, np.nan)]
)
def test_other_mean_identities_are_refused(rows, folder, tmp_path):
    np.savetxt(tmp_path / "mean.txt", rows)
    with pytest.raises(UserError, match="mean.txt: (the mean identity is 16|numbers)"):
        _read(folder, mean_identity=tmp_path / "mean.txt")


def _header(text):
    return b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text.encode()


_START, _OBJECTS, _BYTES = (
    f"{{'descr': '{kind}', 'fortran_order': False, 'shape': "
    for kind in ("<f4", "|O", "|S1")
)
_ARRAYS = {
    "empty": ("a.npy", b"", "is empty"),
    "zip": ("a.npy", b"PK\3\4 and more", "no .npy file"),
    "Git LFS": (
        "a.npy",
        b"version https://git-lfs.github.com/spec/v1\n",
        "LFS pointer",
    ),
    "long": (
        "a.npy",
        _header(_START + "(1099511627776,)}"),
        "no array that can be read",
    ),
    "cut": ("a.npy", _header(_START + "(100000, 160)}"), "no array that can be read"),
    "nested": ("a.npy", _header("(" * 5000), "no array that can be read"),
    "objects": ("a.npy", _header(_OBJECTS + "(1,)}"), "no array that can be read"),
    "bytes": ("a.npy", _header(_BYTES + "(1,)}") + b"1", "an array of .S1, not of"),
    "ragged": ("a.txt", b"1 2\n3\n", "the number of columns changed"),
    "binary": ("a.txt", b"\xff\xfe", "can't decode"),
    "comment": ("a.txt", b"# no numbers\n", r"16 numbers.*got \[0\]"),
    "large": ("a.txt", b"1 " * (3 << 20), "6,291,456 bytes of text; save it as .npy"),
    "compressed": ("a.txt.gz", gzip.compress(b"1\n" * 16), "can't decode"),
}


@pytest.mark.parametrize("case", _ARRAYS)
def test_damaged_arrays_are_refused(case, folder, tmp_path):
    name, content, message = _ARRAYS[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        _read(folder, mean_identity=tmp_path / name)
    assert str(error.value).startswith(f"{tmp_path / name}: ")
    assert str(error.value).isprintable()


def test_checkpoints_have_the_tensors_that_were_written(tmp_path):
    tensors = files.decoder("gamma")
    for permuted in (False, True):
        prefix = files.write_bundle(
            tmp_path / str(permuted), tensors, permuted=permuted
        )
        read = tensor_bundle.read(prefix)
        assert list(read) == sorted(tensors)
        for name, tensor in tensors.items():
            np.testing.assert_array_equal(read[name], tensor)
            assert read[name].dtype == tensor.dtype
        assert tensor_bundle.read(prefix, ["gamma/global_step", "other"]) == {
            "gamma/global_step": 395
        }


def test_tensors_that_share_bytes_are_refused(tmp_path):
    tensors = {
        "a": np.ones(9, "f4"),
        "b": np.zeros((0, 5), "f4"),
        "c": np.ones(9, "f4"),
    }
    for permuted in (False, True):
        prefix = files.write_bundle(tmp_path, tensors, permuted=permuted)
        assert tensor_bundle.read(prefix)["b"].shape == (0, 5)
    prefix = files.write_bundle(tmp_path, tensors, shared=True)
    with pytest.raises(Refusal, match="byte 0: 'c' overlaps another tensor"):
        tensor_bundle.read(prefix)


@pytest.mark.parametrize("blocks", ["a0b", "aab", "aba"])
def test_blocks_are_read_once(blocks, tmp_path):
    prefix = files.write_bundle(tmp_path, files.decoder("rot"), blocks=blocks)
    message = "without records" if "0" in blocks else "blocks overlap"
    with pytest.raises(Refusal, match=message):
        tensor_bundle.read(prefix)


def test_values_may_begin_as_a_web_page_does(tmp_path):
    first = np.frombuffer(b"<<<<", "f4")
    prefix = files.write_bundle(tmp_path, {"a": first})
    np.testing.assert_array_equal(tensor_bundle.read(prefix)["a"], first)
    tensor_bundle.data_file(prefix).write_text(" <!DOCTYPE html><html>")
    with pytest.raises(Refusal, match="is a web page"):
        tensor_bundle.read(prefix)


def test_keys_out_of_order_are_refused(tmp_path):
    tensors = files.decoder("rot")
    order = sorted(tensors)
    order[3], order[4] = order[4], order[3]
    prefix = files.write_bundle(tmp_path, tensors, order=order)
    with pytest.raises(Refusal, match="out of order"):
        tensor_bundle.read(prefix)


def test_damaged_checkpoints_are_refused_or_read_equal(tmp_path):
    """Every byte of the index and bytes of the data, changed and cut."""
    tensors = files.decoder("rot")
    prefix = files.write_bundle(tmp_path, tensors)
    index, data = (
        prefix.with_name(f"{prefix.name}.{end}")
        for end in ("index", "data-00000-of-00001")
    )
    content, values = index.read_bytes(), data.read_bytes()
    equal = 0
    for at in range(len(content)):
        changed = bytearray(content)
        changed[at] ^= 1 << at % 8
        index.write_bytes(changed)
        try:
            read = tensor_bundle.read(prefix)
        except Refusal as refusal:
            assert refusal.args[0].startswith(index.name)
        else:
            equal += 1
            for name, tensor in tensors.items():
                np.testing.assert_array_equal(read[name], tensor)
    assert equal < 60  # padding of the footer, and the unused meta index
    for size in range(0, len(content), 5):
        index.write_bytes(content[:size])
        with pytest.raises(Refusal):
            tensor_bundle.read(prefix)
    index.write_bytes(content)
    for at in range(0, len(values), 97):
        changed = bytearray(values)
        changed[at] ^= 1
        data.write_bytes(changed)
        with pytest.raises(Refusal, match="checksum"):
            tensor_bundle.read(prefix)
    data.write_bytes(values[:-1])
    with pytest.raises(Refusal, match="ends at byte"):
        tensor_bundle.read(prefix)


@files.needs(DATA)
@pytest.mark.parametrize("factor", ["exp", "gamma", "rot"])
def test_published_decoders_are_read_as_by_tensorflow(factor):
    tensorflow = pytest.importorskip("tensorflow")
    prefix = DATA / f"weights/discofacegan/vae/{factor}/{files.CHECKPOINT}"
    reader = tensorflow.train.load_checkpoint(str(prefix))
    read = tensor_bundle.read(prefix)
    assert read.keys() == reader.get_variable_to_shape_map().keys()
    for name, tensor in read.items():
        np.testing.assert_array_equal(tensor, reader.get_tensor(name))


@files.needs(DATA)
def test_the_index_of_the_decoder_of_identities_is_that_of_the_documentation():
    prefix = DATA / f"weights/discofacegan/vae/id/{files.CHECKPOINT}"
    entries = tensor_bundle.index(prefix)
    entry = entries["id/stage1/decoder/x_hat/kernel"]
    assert entry.shape == (512, 160)
    assert (entry.offset, entry.size, entry.checksum) == (13666200, 327680, 2650642182)
