"""Building, scanning and streaming records of 112x112 JPEGs."""

import io
import itertools
import pickle
import struct
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks import contest

IDENTITIES, IMAGES, BATCH = 100, 40, 64


def write_faces(folder: Path) -> None:
    """Writes rendered faces as JPEGs of quality 95, as published sets have it.

    Rotated, noisy copies of one image per identity: as slow to decode, fast to render.
    """
    import cv2

    from fr_jax.faces import files, sets

    faces = sets.arrays(sets.default(), num_identities=IDENTITIES, images=1)["image"]
    rng = np.random.default_rng(0)
    for identity, copy in itertools.product(range(IDENTITIES), range(IMAGES)):
        matrix = cv2.getRotationMatrix2D((56, 56), copy - IMAGES / 2, 1.0)
        image = cv2.warpAffine(faces[identity], matrix, (112, 112))
        image = np.clip(image + rng.normal(0, 4, image.shape), 0, 255)
        path = folder / f"p{identity:03}" / f"{copy}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(files.jpeg(image.astype(np.uint8)))


def ours(folder: str):
    """Returns a function that reads 20 batches of the record stream."""
    from data_pipelines import samplers
    from data_pipelines.record_set import RecordSet
    from data_pipelines.stream import RecordStream

    faces = RecordSet(Path(folder) / "records/faces")
    sampler = samplers.epochs(len(faces), BATCH)
    stream = RecordStream(faces, sampler, {"label": faces.label})
    steps = itertools.count()

    def run():
        for _ in range(20):
            stream.batch_at(next(steps))

    return run


def pytorch(folder: str):
    """Returns the same for a DataLoader with two workers, as is usual."""
    import torch
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset

    class Faces(Dataset):
        def __init__(self):
            self.paths = sorted((Path(folder) / "faces").rglob("*.jpg"))

        def __len__(self):
            return 10**9

        def __getitem__(self, number):
            path = self.paths[number % len(self.paths)]
            with Image.open(io.BytesIO(path.read_bytes())) as image:
                return torch.from_numpy(np.array(image)), number

    batches = iter(DataLoader(Faces(), BATCH, num_workers=2, prefetch_factor=4))

    def run():
        for _ in range(20):
            next(batches)

    return run


def readers(folder: Path, jpegs: list[bytes]) -> dict[str, float]:
    """Returns the rates of reading, not decoding, 12,000 images and 100,000 records."""
    from data_pipelines.readers import recordio, verification_bin

    images = list(itertools.islice(itertools.cycle(jpegs), 12_000))
    (folder / "set.bin").write_bytes(pickle.dumps((images, [True] * 6000), 4))
    began = time.perf_counter()
    verification_bin.read(folder / "set.bin")
    per_bin = len(images) / (time.perf_counter() - began)

    body = struct.pack("<IfQQ", 0, 1.0, 0, 0) + jpegs[0][:3000]
    record = struct.pack("<II", 0xCED7230A, len(body)) + body + b"\0" * (-len(body) % 4)
    (folder / "train.rec").write_bytes(record * 100_000)
    (folder / "train.idx").write_text("1\t0\n")
    began = time.perf_counter()
    records = sum(1 for _ in recordio.RecordIO(folder).scan())
    per_record = records / (time.perf_counter() - began)
    return {
        "data/bin_images_per_second": per_bin,
        "data/rec_records_per_second": per_record,
    }


def run(rounds: int) -> dict[str, float]:
    from data_pipelines.builders import faces as builder
    from data_pipelines.readers.image_folder import ImageFolder

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_faces(folder / "faces")
        began = time.perf_counter()
        builder.build(ImageFolder(folder / "faces"), folder / "records", "faces")
        converted = IDENTITIES * IMAGES / (time.perf_counter() - began)
        names = ["ours", "pytorch"]
        seconds = contest.contest("data", 3 * rounds, names, [temporary])
        jpegs = [p.read_bytes() for p in sorted((folder / "faces").rglob("*.jpg"))]
        rates = readers(folder, jpegs)
    rates["data/converted_images_per_second"] = converted
    return rates | contest.figures("data/stream", seconds, 20 * BATCH)
