"""`read_weights` with valid and damaged files of every format."""

import contextlib
import hashlib
import io
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest

from fr_jax.convert import read_weights
from fr_jax.errors import UserError
from tests.support import fuzz_weights
from tests.support import weight_files as made

RNG = np.random.default_rng(0)
ARRAYS = {
    "stem.weight": RNG.normal(size=(4, 3, 3, 3)).astype(np.float32),
    "stem.bias": RNG.normal(size=4).astype(np.float16),
    "fc.weight": RNG.normal(size=(5, 4)),
    "fc.scale": RNG.normal(size=5).astype(ml_dtypes.bfloat16),
    "bn.num_batches_tracked": np.array(7),
    "mask": np.array([True, False]),
    "nothing": np.zeros((0, 3), np.float32),
}
NPZ_ARRAYS = {k: v for k, v in ARRAYS.items() if v.dtype != ml_dtypes.bfloat16}


@pytest.fixture
def read(tmp_path):
    """Returns a function: bytes of a file -> result of `read_weights`."""

    def from_bytes(data: bytes, **options):
        path = tmp_path / "weights"
        path.write_bytes(data)
        return read_weights(path, **options)

    return from_bytes


def check(loaded: dict, expected: dict):
    assert list(loaded) == list(expected)
    for name, array in expected.items():
        dtype = array.dtype if array.dtype.kind in "iub" else np.float32
        assert loaded[name].dtype == dtype, name
        assert loaded[name].shape == array.shape, name
        np.testing.assert_array_equal(loaded[name], array.astype(dtype), err_msg=name)
        flags = loaded[name].flags
        assert flags.owndata and flags.writeable and flags.aligned, name


@pytest.mark.parametrize("form", made.OF)
def test_tensors_are_read_as_saved(form, read):
    arrays = NPZ_ARRAYS if form == "npz" else ARRAYS
    data = made.OF[form](arrays)
    loaded = read(data)
    assert loaded.format == form
    assert loaded.sha256 == hashlib.sha256(data).hexdigest()
    assert loaded.path.endswith("weights")
    assert (loaded.part, loaded.other_parts) == ("", ())
    check(loaded.tensors, arrays)


def test_npz_variants(read):
    arrays = {
        "compressed": np.arange(1000.0, dtype=np.float32),
        "fortran": np.asfortranarray(RNG.normal(size=(3, 4, 2)).astype(np.float32)),
        "big": np.arange(6, dtype=">f4").reshape(2, 3),
        "folder/conv/kernel:0": np.arange(3, dtype=np.uint8),
    }
    expected = {name: a.astype(a.dtype.newbyteorder("=")) for name, a in arrays.items()}
    check(read(made.npz_of(arrays)).tensors, expected)
    check(read(made.npz_of(arrays, compressed=True)).tensors, expected)


def test_views_and_shared_storages(read):
    numbers = np.arange(24, dtype=np.float32)
    place = made.storage("0", "Float", 24)
    tensors = {
        "all": made.tensor(place, 0, (4, 6), (6, 1)),
        "transposed": made.tensor(place, 0, (6, 4), (1, 6)),
        "part": made.tensor(place, 7, (2, 3), (6, 2)),
        "scalar": made.tensor(place, 23, (), ()),
        "expanded": made.tensor(place, 5, (3, 2), (0, 1)),
        "tied": made.tensor(place, 0, (4, 6), (6, 1)),
    }
    whole = numbers.reshape(4, 6)
    expected = {
        "all": whole,
        "transposed": whole.T,
        "part": whole[1:3, 1:6:2],
        "scalar": np.array(23, np.float32),
        "expanded": np.array([[5, 6]] * 3, np.float32),
        "tied": whole,
    }
    body = made.table((made.text(name), item) for name, item in tensors.items())
    loaded = read(made.torch_zip(body, {"0": numbers.tobytes()})).tensors
    check(loaded, expected)
    assert loaded["tied"] is loaded["all"]
    body = body.replace(made.integer(24) + b"t", made.integer(24) + b"Nt")
    check(
        read(made.torch_legacy(body, {"0": (24, numbers.tobytes())})).tensors, expected
    )


def test_views_of_the_legacy_format(read):
    """A storage as a range of another: (key, first, length)."""
    view = made.several(made.text("1"), made.integer(2), made.integer(3))
    place = made.storage("0", "Float", 6, view)
    body = made.table([(made.text("a"), made.tensor(place, 1, (2,), (1,)))])
    numbers = np.arange(6, dtype=np.float32)
    loaded = read(made.torch_legacy(body, {"0": (6, numbers.tobytes())}))
    check(loaded.tensors, {"a": numbers[3:5]})


def test_byte_order_of_an_archive(read):
    arrays = {"a": np.arange(5, dtype=np.float32), "n": np.array(7)}
    swapped = {str(n): a.byteswap().tobytes() for n, a in enumerate(arrays.values())}
    check(
        read(made.torch_zip(made.state(arrays), swapped, byteorder=b"big")).tensors,
        arrays,
    )
    half = {"a": np.zeros(2, ml_dtypes.bfloat16)}
    data = made.torch_zip(made.state(half), {"0": bytes(4)}, byteorder=b"big")
    with pytest.raises(UserError, match="big-endian bfloat16"):
        read(data)


def test_float64_beyond_float32_is_refused(read):
    with pytest.raises(UserError, match="beyond float32"):
        read(made.safetensors_of({"a": np.array([1e300])}))
    check(
        read(made.safetensors_of({"a": np.array([np.inf, np.nan])})).tensors,
        {"a": np.array([np.inf, np.nan])},
    )


def checkpoint(**parts: bytes) -> bytes:
    return made.table((made.text(name), body) for name, body in parts.items())


def test_state_dict_of_a_checkpoint_is_found(read):
    arrays = {f"conv{n}.weight": np.full(3, n, np.float32) for n in range(4)}
    storages = {str(n): a.tobytes() for n, a in enumerate(arrays.values())}
    storages["head"] = bytes(4_000)
    head = made.tensor(made.storage("head", "Float", 1000), 0, (1000,), (1,))
    momentum = checkpoint(momentum_buffer=head)
    body = checkpoint(
        epoch=made.integer(3),
        head=checkpoint(weight=head),  # larger than the network
        nested=checkpoint(state_dict=made.state(arrays)),
        optimizer=checkpoint(
            state=made.table([(made.integer(0), momentum)]), buffers=made.state(arrays)
        ),
        args=made.named("argparse", "Namespace")
        + b")\x81"
        + checkpoint(lr=b"G" + struct.pack(">d", 0.1))
        + b"b",
        callbacks=made.table(
            [(made.named("pytorch_lightning.callbacks", "ModelCheckpoint"), b"N")]
        ),
        best=made.call(
            "numpy.core.multiarray",
            "scalar",
            made.call("numpy", "dtype", made.text("f8"), b"K\0", b"K\1"),
            made.call("_codecs", "encode", made.text("x" * 8), made.text("latin1")),
        ),
        log=made.text("x" * 100_000),
    )
    data = made.torch_zip(body, storages)
    loaded = read(data)
    check(loaded.tensors, arrays)
    assert (loaded.part, loaded.other_parts) == ("nested.state_dict", ("head",))
    other = read(data, part="head")
    assert list(other.tensors) == ["weight"]
    with pytest.raises(UserError, match="unknown part 'heat'; did you mean 'head'"):
        read(data, part="heat")


def built(module: str, name: str, state: bytes = b"}") -> bytes:
    """An object made by NEWOBJ, with a state."""
    return made.named(module, name) + b")\x81" + state + b"b"


def settings(**values: bytes) -> bytes:
    return checkpoint(**values)


LEARNING_RATE = b"G" + struct.pack(">d", 0.1)
NESTED = b"(" + made.named("run", "Options") + made.text("Level") + b"t"
OMEGACONF = built(
    "omegaconf.dictconfig",
    "DictConfig",
    settings(
        _metadata=built(
            "omegaconf.base",
            "ContainerMetadata",
            settings(
                ref_type=made.named("typing", "Any"),
                object_type=made.named("__builtin__", "dict"),
                flags=made.call(
                    "collections", "defaultdict", made.named("__builtin__", "int")
                ),
            ),
        ),
        _content=settings(
            lr=built("omegaconf.nodes", "AnyNode", settings(_val=LEARNING_RATE))
        ),
        _parent=b"N",
    ),
)
# Objects beside a state dict: they are data of classes that are never imported.
BESIDE = {
    "OmegaConf": OMEGACONF,
    "a script's class": built("__main__", "Config", settings(lr=LEARNING_RATE)),
    "a package's class": built("my_project.options", "Options", settings(lr=b"N")),
    "a dict": built("mmcv.utils.config", "ConfigDict") + settings(lr=b"N")[1:],
    "a list": built("omegaconf", "Own") + b"(K\1K\2e",
    "a deque": made.call("collections", "deque", b")", b"K\5") + b"(K\1K\2e",
    "a named tuple": made.named("run", "Sizes") + b"K\1K\2\x86\x81",
    "keywords": made.named("run", "Sizes") + b")" + settings(a=b"N") + b"\x92",
    "slots": built("run", "Slots", b"N" + settings(lr=b"N") + b"\x86"),
    "a class of Python 2": b"(" + made.named("options", "Options") + b"o}b",
    "a class of protocol 0": made.call(
        "copy_reg",
        "_reconstructor",
        made.named("run", "Options"),
        made.named("__builtin__", "object"),
        b"N",
    ),
    "a function": made.named("__main__", "train"),
    "an enumeration": made.call("run", "Loss", made.integer(2)),
    "a nested class": made.named("__builtin__", "getattr") + NESTED + b"R)\x81}b",
    "a partial": made.call("functools", "partial", made.named("torch.nn", "PReLU"))
    + b"("
    + made.named("torch.nn", "PReLU")
    + b")}Ntb",
    "a path": made.call("pathlib._local", "PosixPath", made.text("runs")),
    "a random state": made.call(
        "numpy.random._pickle", "__randomstate_ctor", made.text("MT19937")
    ),
    "a scheduler": built("torch.optim.lr_scheduler", "StepLR", settings(gamma=b"N")),
    "a loss": built("torch.nn.modules.loss", "CrossEntropyLoss", settings(a=b"N")),
}


@pytest.mark.parametrize("form", ["zip", "legacy"])
@pytest.mark.parametrize("beside", BESIDE)
def test_objects_beside_the_weights_are_inert(beside, form, read, monkeypatch):
    monkeypatch.setattr("builtins.__import__", refusing_foreign_packages(__import__))
    array = np.arange(3, dtype=np.float32)
    view = (b"N",) if form == "legacy" else ()
    state = made.state({"conv.weight": array}, *view)
    for before in (True, False):
        parts = {"hyper_parameters": BESIDE[beside], "state_dict": state}
        items = list(parts.items())
        body = checkpoint(**dict(items if before else items[::-1]))
        if form == "zip":
            loaded = read(made.torch_zip(body, {"0": array.tobytes()}))
        else:
            loaded = read(made.torch_legacy(body, {"0": (3, array.tobytes())}))
        check(loaded.tensors, {"conv.weight": array})
        assert (loaded.part, loaded.other_parts) == ("state_dict", ())


def refusing_foreign_packages(importing):
    def checked(name, *arguments):
        assert name.split(".")[0] not in ("omegaconf", "mmcv", "run", "my_project")
        return importing(name, *arguments)

    return checked


def test_state_dict_of_an_unknown_subclass_of_dict_is_read(read):
    array = np.arange(3, dtype=np.float32)
    state = made.state({"conv.weight": array})
    state = state.replace(
        b"ccollections\nOrderedDict\n(tR(X", b"crun\nState\n)\x81(X", 1
    )
    body = checkpoint(epoch=b"K\3", model=state)
    loaded = read(made.torch_zip(body, {"0": array.tobytes()}))
    check(loaded.tensors, {"conv.weight": array})


TENSOR = made.tensor(made.storage("0", "Float", 3), 0, (3,), (1,))
DEPENDENT = {
    "a tensor made by a function": made.call("quant", "rebuild", TENSOR),
    "a tensor of a class": made.named("quant", "Packed") + b"(" + TENSOR + b"t\x81",
    "a tensor as a state": built("quant", "Packed", settings(data=TENSOR)),
    "a storage in nested arguments": made.call(
        "quant",
        "rebuild",
        made.several(made.storage("0", "Float", 3), b"K\0"),
        made.named("quant", "Packed"),
    ),
    "a module": built(
        "torch.nn.modules.conv",
        "Conv2d",
        settings(
            _parameters=made.call("collections", "OrderedDict")
            + b"("
            + made.text("weight")
            + TENSOR
            + b"u"
        ),
    ),
}


@pytest.mark.parametrize("dependent", DEPENDENT)
def test_tensor_that_depends_on_an_unknown_class_is_refused(dependent, read):
    """In the state dict; beside it, the object is inert."""
    item = DEPENDENT[dependent]
    storages = {"0": np.arange(3, dtype=np.float32).tobytes()}
    state = checkpoint(weight=TENSOR, packed=item)
    with pytest.raises(
        UserError, match=r"'packed' is a '.*' with tensors in it.*save\("
    ):
        read(made.torch_zip(checkpoint(model=state), storages))
    with pytest.raises(
        UserError, match=r"'model' is a '.*' with tensors in it.*save\("
    ):
        read(made.torch_zip(checkpoint(epoch=b"K\3", model=item), storages))
    with pytest.raises(UserError, match=r"holds a whole module|asks for 'quant"):
        read(made.torch_zip(item, storages))
    state = checkpoint(weight=TENSOR, bias=TENSOR)
    loaded = read(made.torch_zip(checkpoint(old=item, model=state), storages))
    assert list(loaded.tensors) == ["weight", "bias"]
    assert (loaded.part, loaded.other_parts) == ("model", ())


def test_ordered_dicts_of_python_2(read):
    """A list of pairs as the argument, byte strings as names."""
    place = made.tensor(made.storage("0", "Float", 1, b"N"), 0, (1,), (1,))
    pairs = b"](](U\1w" + place + b"ee"
    body = made.named("collections", "OrderedDict") + pairs + b"\x85R}U\1xK\1sb"
    loaded = read(made.torch_legacy(body, {"0": (1, struct.pack("<f", 2.5))}))
    check(loaded.tensors, {"w": np.float32([2.5])})


def test_initialisers_are_named_after_their_modules(read):
    def node(scope: str, operator: str, *inputs: str) -> bytes:
        taken = b"".join(made.field(1, name.encode()) for name in inputs)
        said = made.field(3, scope.encode()) + made.field(4, operator.encode())
        return made.field(1, taken + made.field(2, b"out") + said)

    floats = np.arange(3, dtype=np.float32)
    counts = made.field(1, 2) + made.field(2, 7) + made.field(8, b"shape")
    minus = made.varint(1) + made.varint((1 << 64) - 1)
    data = made.onnx(
        node(
            "/features/features.0/conv/conv.1/conv.1.0/Conv",
            "Conv",
            "x",
            "onnx::1",
            "2",
        ),
        node("/output/PRelu", "PRelu", "x", "onnx::3"),
        node("", "Conv", "x", "onnx::4"),
        *(made.field(5, made.initialiser(name, floats)) for name in ("onnx::1", "2")),
        *(made.field(5, made.initialiser(f"onnx::{n}", floats)) for n in (3, 4)),
        made.field(5, counts + made.field(7, minus)),
        made.field(
            5,
            made.field(1, b"\3")
            + made.field(2, 1)
            + made.field(8, b"f")
            + made.field(4, floats.tobytes()),
        ),
    )
    check(
        read(data).tensors,
        {
            "features.0.conv.1.0.weight": floats,
            "2": floats,
            "output.weight": floats,
            "onnx::4": floats,
            "shape": np.array([1, -1]),
            "f": floats,
        },
    )


def test_archive_without_checksums_is_read(read):
    data = made.zip_of(ARRAYS)
    stored = made.without_checksums(data)
    assert stored != data
    check(read(stored).tensors, ARRAYS)


def test_missing_folder_or_too_large_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=rf"^{tmp_path}/missing: no such file$"):
        read_weights(tmp_path / "missing")
    with pytest.raises(UserError, match=rf"^{tmp_path}: is a folder, no weight file$"):
        read_weights(tmp_path)
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(1 << 40)  # holes: nothing is written
    with pytest.raises(UserError, match=r"large: 1,099,511,627,776 bytes; 1 byte to"):
        read_weights(large)


# --- written by PyTorch itself ------------------------------------------------------


def torch_tensors(torch) -> dict:
    torch.manual_seed(0)
    base = torch.randn(4, 6)
    return {
        "float": base,
        "transposed": base.T,
        "column": base[:, 2],
        "expanded": torch.ones(1).expand(5),
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 3),
        "half": torch.randn(3).half(),
        "bfloat": torch.randn(3).bfloat16(),
        "double": torch.randn(3).double(),
        "long": torch.tensor(7),
        "bool": torch.tensor([True, False]),
        "parameter": torch.nn.Parameter(torch.randn(2, 2)),
    }


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_files_of_torch_save_are_read(zipped, protocol, tmp_path):
    torch = pytest.importorskip("torch")
    tensors = torch_tensors(torch)
    if zipped:
        tensors["uint16"] = torch.ones(2).to(torch.uint16)
        tensors["float8"] = torch.randn(4).to(torch.float8_e4m3fn)
    path = tmp_path / "a.pth"
    torch.save(
        tensors,
        path,
        _use_new_zipfile_serialization=zipped,
        pickle_protocol=protocol,
    )
    loaded = read_weights(path)
    assert loaded.format == ("pytorch-zip" if zipped else "pytorch-legacy")
    expected = {
        name: (t.detach().float() if t.is_floating_point() else t.detach()).numpy()
        for name, t in tensors.items()
    }
    check(loaded.tensors, expected)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_training_checkpoint_of_torch_is_read(zipped, tmp_path):
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.PReLU(4)
    )
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    path = tmp_path / "a.pth.tar"
    state = model.state_dict()
    torch.save(
        {
            "epoch": 3,
            "best": np.float64(0.5),
            "device": torch.device("cpu"),
            "random": torch.get_rng_state(),
            "numpy": np.random.RandomState(0).get_state(),
            "arch": "iresnet18",
            "classes": {1, 2},
            "model": state,
            "optimizer": optimizer.state_dict(),
        },
        path,
        _use_new_zipfile_serialization=zipped,
    )
    loaded = read_weights(path)
    assert (loaded.part, loaded.other_parts) == (
        "model",
        ("",),
    )  # "random" is the tensor in ""
    check(loaded.tensors, {name: tensor.numpy() for name, tensor in state.items()})

    torch.save(model, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"holds a whole module.*model.state_dict\(\)"):
        read_weights(path)


# --- published ----------------------------------------------------------------------


def test_published_checkpoint(real):
    path = real("weights/mobilefacenet.pt")
    loaded = read_weights(path)
    assert loaded.format == "pytorch-legacy"
    assert len(loaded.tensors) == 307
    assert loaded.tensors["conv1.0.weight"].shape == (64, 3, 3, 3)
    assert all(np.isfinite(array).all() for array in loaded.tensors.values())

    network = read_weights(real("weights/MobileFaceNet.onnx"))
    assert network.format == "onnx"
    # BatchNorm is folded, so only convolutions have equal modules.
    kernels = [name for name, array in network.tensors.items() if array.ndim == 4]
    assert len(kernels) == 51
    for name in kernels:
        assert network.tensors[name].shape == loaded.tensors[name].shape, name


def test_published_checkpoint_equals_torch_load(real):
    torch = pytest.importorskip("torch")
    path = real("weights/mobilefacenet.pt")
    state = torch.load(path, map_location="cpu", weights_only=True)
    check(read_weights(path).tensors, {name: t.numpy() for name, t in state.items()})


# --- damage -------------------------------------------------------------------------


def with_damage(form: str, data: bytes, rng: np.random.Generator) -> bytes:
    """Returns damaged bytes; half of the archives are valid with a damaged entry."""
    if form not in ("pytorch-zip", "npz") or rng.integers(2):
        return made.damaged(data, rng)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    name = next(iter(entries))
    return made.zipped(entries | {name: made.damaged(entries[name], rng)})


@pytest.mark.parametrize("reader", fuzz_weights.READERS)
def test_seeds_of_the_fuzzer_are_read(reader, tmp_path):
    read, seeds = fuzz_weights.READERS[reader]
    rng = np.random.default_rng(0)
    for seed in seeds():
        # The small graph is no known network.
        with contextlib.suppress(*([UserError] if reader == "onnx-graph" else [])):
            read(tmp_path, seed)
        fuzz_weights.rearranged(seed, rng)


@pytest.mark.parametrize("form", made.OF)
def test_damaged_file_is_read_or_a_user_error(form, tmp_path):
    arrays = {k: ARRAYS[k] for k in ("stem.weight", "stem.bias", "mask", "nothing")}
    data = made.OF[form](arrays)
    path = tmp_path / "weights"
    rng = np.random.default_rng(0)
    refused, tried = 0, 600
    for _ in range(tried):
        made.write(path, with_damage(form, data, rng))
        try:
            read_weights(path)
        except UserError as error:
            refused += 1
            assert str(error).isprintable()
    assert refused > tried / 4
