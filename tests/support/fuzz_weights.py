"""Coverage-guided fuzzing of the readers of foreign files.

    python -m tests.support.fuzz_weights [READER ...] [--runs 100000]

Needs the extra "fuzz". Inputs are mutations of small valid files; readers of archives
are fuzzed as archives (checksums 0) and as entries of a valid archive.
Any exception but the reader's own error, or an input that takes five seconds or a GiB,
ends the run, and the input is kept in runs/fuzz.
"""

import argparse
import collections
import contextlib
import functools
import importlib
import io
import json
import pickle
import pickletools
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from tests.support import weight_files as made

ARRAYS = {
    "conv.weight": np.arange(36, dtype=np.float32).reshape(2, 2, 3, 3),
    "conv.bias": np.arange(2, dtype=np.float16),
    "bn.num_batches_tracked": np.array(7),
    "mask": np.array([True, False]),
}
Read = Callable[[Path, bytes], object]


def checkpoint() -> bytes:
    parts = {
        "epoch": made.integer(300),
        "state_dict": made.state(ARRAYS),
        "view": made.tensor(made.storage("0", "Float", 36), 1, (2, 3), (3, 1)),
        "args": made.named("argparse", "Namespace") + b")\x81}b",
        "config": made.named("omegaconf", "DictConfig") + b")\x81}b",
        "recent": made.call("collections", "deque", b")") + b"(K\1K\2e",
        "loss": made.named("run", "Loss") + b"K\1\x85R",
    }
    return made.table((made.text(name), body) for name, body in parts.items())


def graph() -> bytes:
    """A small network with every kind of operation that is recognised."""
    from tests.support.onnx_files import OnnxNetwork, Style, network_file

    rng = np.random.default_rng(0)
    shapes = {"a.weight": (8, 3, 3, 3), "b.weight": (8, 8, 1, 1), "fc.weight": (4, 8)}
    shapes |= {f"n.{leaf}": (8,) for leaf in ("weight", "bias", "running_mean")}
    state = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    state |= {"n.running_var": np.ones(8), "p.weight": np.ones(8)}

    def layers(net: OnnxNetwork, x):
        x = net.prelu(net.norm(net.conv(x, "a", stride=2, padding=1), "n"), "p")
        out = net.do.relu(net.norm(x, "n")) + net.do.clip(net.conv(x, "b"), 0, 6)
        return net.linear(out.mean((2, 3)), "fc")

    style = Style(fold=False, constants=True, unit=True, scaled=128.0)
    return network_file(layers, state, style, size=(8, 8))


def network() -> bytes:
    node = (made.field(1, b"x"), made.field(1, b"onnx::1"), made.field(4, b"Conv"))
    scope = made.field(3, b"/conv/conv.0/Conv")
    weight = made.initialiser("onnx::1", ARRAYS["conv.weight"])
    return made.onnx(made.field(1, b"".join(node) + scope), made.field(5, weight))


def as_zip(opcodes: bytes) -> bytes:
    storages = {str(n): array.tobytes() for n, array in enumerate(ARRAYS.values())}
    entries = {f"archive/data/{key}": data for key, data in storages.items()}
    return made.zipped({"archive/data.pkl": opcodes} | entries)


def weights(folder: Path, data: bytes) -> None:
    from fr_jax.convert import read_weights

    path = folder / "weights"
    made.write(path, data)
    read_weights(path)


def onnx_network(folder: Path, data: bytes) -> None:
    """The reader, and the comparison of the graph with known networks."""
    from fr_jax.convert import from_weights, read_weights
    from fr_jax.convert.graphs.onnx import OnnxLayers, UnknownGraph
    from fr_jax.errors import UserError

    path = folder / "weights"
    made.write(path, data)
    file = read_weights(path)
    assert file.graph is not None
    with contextlib.suppress(UnknownGraph):
        OnnxLayers(file.graph, file.tensors)
    try:
        from_weights(file)
    except UserError as error:  # the seed too is no network of a paper
        assert len(str(error).splitlines()) == 1, error


def description(folder: Path, data: bytes) -> None:
    """The description of an embedder, up to its options and input specification."""
    from etils import epath

    from fr_jax.embedder import description as checked
    from fr_jax.errors import UserError

    path = folder / "embedder.json"
    made.write(path, data)
    try:
        content = checked.check_description(checked.read_json(epath.Path(path)))
        checked.check_options(content["architecture"], content["options"])
        checked.read_spec(content["input_spec"])
    except ValueError as error:  # as `load_embedder` does
        raise UserError(" ".join(str(error).split())) from error


def described() -> list[bytes]:
    from fr_jax.models.preprocess import InputSpec

    content = {
        "format": 1,
        "kind": "embedding",
        "architecture": "iresnet18",
        "options": {"width": 0.5, "embedding_size": 16, "stage_sizes": [1, 1]},
        "input_spec": InputSpec(crop=(112, 96))._asdict(),
        "provenance": {"identities": {"faces": ["a"]}, "licences": {"faces": "free"}},
        "weights_sha256": "0" * 64,
    }
    heads = {"heads": [["identity", 3], ["real", 1]], "norm": "group"}
    other = {"architecture": "dr_gan_discriminator", "options": heads}
    return [json.dumps(one).encode() for one in (content, content | other)]


def verification_set(folder: Path, data: bytes) -> None:
    from data_pipelines.readers import verification_bin

    path = folder / "set.bin"
    made.write(path, data)
    verification_bin.read(path)


def image(folder: Path, data: bytes) -> None:
    from data_pipelines import images
    from data_pipelines.image_headers import probe

    _, width, height, _ = probe(data)
    if width * height < 1 << 20:  # OpenCV takes a GiB for the largest that are read
        assert images.decode(data).shape == (height, width, 3)


def encoded() -> list[bytes]:
    """JPEG and PNG, with and without an EXIF orientation."""
    import cv2
    from PIL import Image

    picture = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
    progressive = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]
    forms = ((".jpg", []), (".jpg", progressive), (".png", []))
    plain = [cv2.imencode(kind, picture, flags)[1].tobytes() for kind, flags in forms]
    turned = Image.fromarray(picture)
    turned.getexif()[0x0112] = 6
    kinds = "JPEG", "PNG"
    return plain + [saved(turned, kind, exif=turned.getexif()) for kind in kinds]


def other_formats() -> list[bytes]:
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 4), np.uint8)
    deep = Image.fromarray(noise[..., 0].astype(np.uint16) * 257)
    alpha, colour = Image.fromarray(noise), Image.fromarray(noise[..., :3].copy())
    frames: dict[str, Any] = {"save_all": True, "append_images": [colour]}
    packed = ("tiff_lzw", "packbits", "tiff_adobe_deflate", "jpeg")
    return [
        *(saved(colour, kind) for kind in ("BMP", "TIFF", "GIF", "PPM", "WEBP")),
        *(saved(colour, "TIFF", compression=kind) for kind in packed),
        *(saved(alpha, kind) for kind in ("BMP", "TIFF", "WEBP")),
        *(saved(deep, kind) for kind in ("TIFF", "PPM")),
        *(saved(colour, kind, **frames) for kind in ("TIFF", "GIF", "WEBP")),
        saved(colour.convert("CMYK"), "TIFF"),
        saved(colour.convert("1"), "PPM"),
        saved(colour, "WEBP", lossless=True),
        b"P3\n# plain\n2 2\n255\n" + b"1 2 3 4 5 6 7 8 9 10 11 12\n",
    ]


def saved(image: Any, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def set_index(folder: Path, data: bytes) -> None:
    """The index beside a shard of three records."""
    from etils import epath

    from data_pipelines import index as indexes

    made.write(folder / "faces.tfrecord", shard())
    made.write(folder / indexes.FILE, data)
    # NumPy reads the archive by zipfile, whose checksums would refuse most inputs.
    with mock.patch.object(zipfile.ZipExtFile, "_update_crc"):
        loaded = indexes.load(epath.Path(folder))
    for number in range(len(loaded)):
        indexes.read(epath.Path(folder), loaded, number)


@functools.cache
def shard() -> bytes:
    import google_crc32c

    def masked(data: bytes) -> bytes:
        crc = google_crc32c.value(data)
        return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)

    head, bodies = struct.pack("<Q", 9), [bytes([n]) * 9 for n in range(3)]
    return b"".join(head + masked(head) + body + masked(body) for body in bodies)


def indexed() -> list[bytes]:
    """An index of this version, and one without checksums."""
    from etils import epath

    from data_pipelines import index as indexes

    with tempfile.TemporaryDirectory() as name:
        folder = epath.Path(name)
        made.write(Path(name, "faces.tfrecord"), shard())
        offset, length, checksum = indexes.scan(folder / "faces.tfrecord")
        zeros = np.zeros(3)
        columns = {n: zeros.astype(np.int32) for n in ("shard", "label", "light")}
        columns |= {"age": zeros, "yaw": zeros, "session": columns["light"]}
        index = indexes.Index(
            **columns,
            offset=offset,
            length=length,
            checksum=checksum,
            shards=["faces.tfrecord"],
            identities=["a"],
            size=112,
            name="faces",
            licence="",
            source="",
        )
        indexes.save(folder, index)
        whole = Path(name, indexes.FILE).read_bytes()
        with np.load(io.BytesIO(whole)) as file:
            arrays = {key: file[key] for key in file if key != "sha256"}
        older = io.BytesIO()
        np.savez(older, **arrays)
    return [made.without_checksums(data) for data in (whole, older.getvalue())]


def pack(folder: Path, data: bytes) -> None:
    """The index up to an empty line, the records after it."""
    from data_pipelines import DataError
    from data_pipelines.readers import recordio

    index, _, records = data.partition(b"\n\n")
    made.write(folder / "train.idx", index)
    made.write(folder / "train.rec", records)
    opened = recordio.RecordIO(folder)
    errors = [face for face in opened if isinstance(face, DataError)]
    assert all(len(str(error).splitlines()) == 1 for error in errors)
    collections.deque(opened.scan(), maxlen=0)


def packed() -> bytes:
    from tests.support.recordio import write_pack

    with tempfile.TemporaryDirectory() as folder:
        write_pack(Path(folder), [0, 1, 2])
        index, records = (
            Path(folder, name).read_bytes() for name in ("train.idx", "train.rec")
        )
    return index + b"\n" + records


def pair_list(folder: Path, data: bytes) -> None:
    """A list of pairs with the image that most of its lines name."""
    from data_pipelines.protocols import pairs

    (folder / "ann").mkdir(exist_ok=True)
    made.write(folder / "ann/ann_0001.jpg", b"")
    made.write(folder / "pairs.txt", data)
    pairs.load(folder / "pairs.txt", root=folder, missing="drop")


def pair_lists() -> list[bytes]:
    """Every format of `protocols.pair_lists`, with names of one image."""
    image = "ann/ann_0001.jpg"
    return [
        text.encode()
        for text in (
            "2\t1\nann\t1\t1\nann\t1\tann\t1\nann\t1\t1\nann\t1\tann\t1\n",
            "1\nann 1 1\nann 1 ann 1\n",
            f"1 {image} {image}\n0 {image} {image}\n",
            f"{image},{image},1\n{image},{image},-1\n",
            f"{image}\t{image}\t1\n{image}\tbob/b c.png\t0\n",
        )
    ]


def labels(folder: Path, data: bytes) -> None:
    """The table of a labelled folder of one image."""
    from data_pipelines.readers.labelled_folder import FILE, LabelledFolder

    (folder / "faces/a").mkdir(parents=True, exist_ok=True)
    made.write(folder / "faces/a/0.jpg", b"")
    made.write(folder / "faces" / FILE, data)
    LabelledFolder(folder / "faces")


def tables() -> list[bytes]:
    names = "file,identity,age,yaw,light,session,expression"
    return [
        f"{names}\na/0.jpg,ann,3.5,-90,2,1,neutral\n".encode(),
        b'\xef\xbb\xbffile,identity\r\n"a/0.jpg","a\\x07"\r\n',
    ]


def landmarks(suffix: str) -> Read:
    def read(folder: Path, data: bytes) -> None:
        from data_pipelines.readers import landmark_files

        made.write(folder / f"face{suffix}", data)
        with mock.patch.object(zipfile.ZipExtFile, "_update_crc"):
            assert landmark_files.read(folder / f"face{suffix}").shape == (68, 2)

    return read


def points(suffix: str) -> list[bytes]:
    from data_pipelines.readers import landmark_files

    array = np.arange(136, dtype=np.float32).reshape(68, 2)
    if suffix == ".npz":
        return [made.without_checksums(made.npz_of({"landmarks68": array}))]
    with tempfile.TemporaryDirectory() as name:
        landmark_files.write(Path(name, "face.pts"), array)
        return [Path(name, "face.pts").read_bytes()]


def rearranged(data: bytes, rng: np.random.Generator) -> bytes:
    """A pickle with opcodes left out, repeated, moved; other files damaged a little."""
    start = max(data.find(b"\x80\x02}"), data.find(b"\x80\x02c"), 0)
    try:
        places = [at + start for _, _, at in pickletools.genops(data[start:])]
    except (ValueError, IndexError, OverflowError):
        return made.damaged(data, rng, changes=1)
    a, b, c = np.sort(rng.integers(len(places), size=3))
    a, b, c = (places[at] for at in (a, min(b, a + 8), min(c, a + 16)))
    match rng.integers(3):
        case 0:
            return data[:a] + data[b:]
        case 1:
            return data[:b] + data[a:]
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def inside(wrap: Callable[[bytes], bytes]) -> Read:
    return lambda folder, data: weights(folder, wrap(data))


READERS: dict[str, tuple[Read, Callable[[], list[bytes]]]] = {
    "pytorch-zip": (weights, lambda: [made.without_checksums(made.zip_of(ARRAYS))]),
    "pytorch-zip-inside": (
        inside(as_zip),
        lambda: [made.pickled(made.state(ARRAYS)), made.pickled(checkpoint())],
    ),
    "pytorch-legacy": (weights, lambda: [made.legacy_of(ARRAYS)]),
    "safetensors": (weights, lambda: [made.safetensors_of(ARRAYS)]),
    "npz": (
        weights,
        lambda: [
            made.without_checksums(made.npz_of(ARRAYS, compressed=compressed))
            for compressed in (False, True)
        ],
    ),
    "npz-inside": (
        inside(lambda array: made.zipped({"a.npy": array})),
        lambda: [made.npy_of(array) for array in ARRAYS.values()],
    ),
    "onnx": (weights, lambda: [made.onnx_of(ARRAYS), network()]),
    "onnx-graph": (onnx_network, lambda: [graph()]),
    "description": (description, described),
    "bin": (
        verification_set,
        lambda: [
            pickle.dumps(([b"one", bytearray(b"two")], same), protocol)
            for same in ([True], np.array([1.0]), np.array([[1]]))
            for protocol in (0, 2, 4)
        ],
    ),
    "rec": (pack, lambda: [packed()]),
    "image": (image, encoded),
    "image-formats": (image, other_formats),
    "index": (set_index, indexed),
    "pair-list": (pair_list, pair_lists),
    "labels": (labels, tables),
    **{
        f"landmarks{suffix}": (landmarks(suffix), functools.partial(points, suffix))
        for suffix in (".pts", ".npz")
    },
}


def fuzz(name: str, runs: int) -> None:
    """Does not return: libFuzzer ends the process, with 0 if no input failed."""
    import atheris

    packages = ["fr_jax.convert", "fr_jax.embedder.description", "data_pipelines"]
    with atheris.instrument_imports(packages):
        for module in ("fr_jax.convert", "data_pipelines.readers"):
            importlib.import_module(module)
        from data_pipelines import index  # noqa: F401
        from data_pipelines.readers import recordio, verification_bin  # noqa: F401
    from data_pipelines import DataError
    from fr_jax.errors import UserError

    read, seeds = READERS[name]
    counts = collections.Counter[str]()
    began = time.perf_counter()
    folder = Path(tempfile.mkdtemp(prefix="fuzz_"))
    corpus = folder / "corpus"
    corpus.mkdir()
    valid = seeds()
    for number, seed in enumerate(valid):
        read(folder, seed)
        (corpus / str(number)).write_bytes(seed)

    def once(data: bytes) -> None:
        try:
            read(folder, data)
            counts["read"] += 1
        except (UserError, DataError) as error:
            counts["refused"] += 1
            assert len(str(error).splitlines()) == 1, error
        if counts.total() == runs:
            took = time.perf_counter() - began
            print(
                f"{name:<20} {runs:>9,} inputs: {counts['read']:>7,} read, "
                f"{counts['refused']:>9,} refused, {took:6.0f} s",
                flush=True,
            )

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        rng = np.random.default_rng(seed)
        if rng.integers(3) == 0:  # libFuzzer alone drifts away from readable files
            data = valid[rng.integers(len(valid))]
        match rng.integers(4):
            case 0:
                return atheris.Mutate(data, max_size)
            case 1:
                return made.damaged(data, rng)[:max_size]
            case 2:
                return made.damaged(data, rng, changes=1)[:max_size]
        return rearranged(data, rng)[:max_size]

    options = [f"-runs={runs}", "-max_len=8192", "-timeout=5", "-rss_limit_mb=1024"]
    kept = Path("runs/fuzz").absolute()
    kept.mkdir(parents=True, exist_ok=True)
    artifacts = f"-artifact_prefix={kept}/{name}_"
    atheris.Setup(
        [sys.argv[0], *options, artifacts, "-verbosity=0", str(corpus)],
        once,
        custom_mutator=mutate,
    )
    atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.support.fuzz_weights")
    parser.add_argument("readers", nargs="*", metavar="READER", help=", ".join(READERS))
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if unknown := set(arguments.readers) - set(READERS):
        parser.error(
            f"unknown reader {unknown.pop()!r}; there are {', '.join(READERS)}"
        )
    if arguments.here:
        fuzz(arguments.readers[0], arguments.runs)
    failed = 0
    for name in arguments.readers or READERS:  # libFuzzer needs a process for each
        command = [sys.executable, "-m", "tests.support.fuzz_weights", name, "--here"]
        command.append(f"--runs={arguments.runs}")
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            failed += 1
            print(f"{name}: failed\n{done.stderr[-4000:]}", flush=True)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
