"""Making, scanning and streaming records of 112x112 JPEGs."""

import io
import pickle
import struct
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks import contest

PEOPLE, IMAGES, BATCH = 100, 40, 64


def write_faces(folder: Path) -> None:
    """Rendered faces, encoded like published sets: JPEG of quality 95.

    Rotated and noisy copies of a few: no rendering cost, the same decoding cost.
    """
    import cv2

    from fr_jax.faces import sets

    faces = sets.arrays(sets.default(), num_identities=PEOPLE, images=1)["image"]
    rng = np.random.default_rng(0)
    for number in range(PEOPLE * IMAGES):
        person, turn = divmod(number, IMAGES)
        matrix = cv2.getRotationMatrix2D((56, 56), turn - IMAGES / 2, 1.0)
        image = cv2.warpAffine(faces[person], matrix, (112, 112))
        image = np.clip(image + rng.normal(0, 4, image.shape), 0, 255)
        place = folder / f"p{person:03}" / f"{turn}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        bgr = image.astype(np.uint8)[..., ::-1]
        cv2.imwrite(str(place), bgr, [cv2.IMWRITE_JPEG_QUALITY, 95])


def ours(folder: Path):
    """A run over 20 batches of the record stream."""
    from data_pipelines import samplers
    from data_pipelines.record_set import RecordSet
    from data_pipelines.stream import RecordStream

    faces = RecordSet(folder / "records/faces")
    sampler = samplers.epochs(len(faces), BATCH)
    stream = RecordStream(faces, sampler, {"label": faces.label})
    steps = iter(range(10**9))

    def run():
        for _ in range(20):
            stream.batch_at(next(steps))

    return run


def pytorch(folder: Path):
    """The same by a DataLoader with two workers, as face-recognition code has it."""
    import torch
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset

    class Faces(Dataset):
        def __init__(self):
            self.places = sorted((folder / "faces").rglob("*.jpg"))

        def __len__(self):
            return 10**9

        def __getitem__(self, number):
            place = self.places[number % len(self.places)]
            with Image.open(io.BytesIO(place.read_bytes())) as image:
                return torch.from_numpy(np.array(image)), number

    batches = iter(DataLoader(Faces(), BATCH, num_workers=2, prefetch_factor=4))

    def run():
        for _ in range(20):
            next(batches)

    return run


def readers(folder: Path, jpegs: list[bytes]) -> dict[str, float]:
    """Bytes only: a .bin of 12,000 images, a .rec of 100,000 records."""
    from data_pipelines.readers import recordio, verification_bin

    images = [jpegs[number % len(jpegs)] for number in range(12_000)]
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

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_faces(folder / "faces")
        began = time.perf_counter()
        builder.build(ImageFolder(folder / "faces"), folder / "records", "faces")
        converted = PEOPLE * IMAGES / (time.perf_counter() - began)
        names = ["ours", "pytorch"]
        seconds = contest.contest(f"data {folder}", 3 * rounds, names)
        jpegs = [p.read_bytes() for p in sorted((folder / "faces").rglob("*.jpg"))]
        found = readers(folder, jpegs)
    found["data/converted_images_per_second"] = converted
    return found | contest.figures("data/stream", seconds, 20 * BATCH)


if __name__ == "__main__":
    contest.serve({"ours": ours, "pytorch": pytorch}[sys.argv[2]](Path(sys.argv[1])))
