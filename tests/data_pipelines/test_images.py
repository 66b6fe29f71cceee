"""Encoded images: headers, decoding, and hostile files."""

import contextlib
import struct
import tracemalloc
import zlib

import cv2
import numpy as np
import pytest

from data_pipelines import DataError, images
from data_pipelines.image_headers import probe
from tests.support.faces import encoded, picture


def test_headers_and_pixels():
    jpeg, png = encoded(".jpg"), encoded(".png")
    assert probe(jpeg) == ("jpeg", 30, 20, 1)
    assert probe(png) == ("png", 30, 20, 1)
    assert (images.decode(png) == picture()).all()
    assert images.decode(jpeg).shape == (20, 30, 3)
    grey = cv2.imencode(".jpg", picture()[..., 0])[1].tobytes()
    assert images.decode(grey).shape == (20, 30, 3)
    progressive = cv2.imencode(".jpg", picture(), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[
        1
    ].tobytes()
    assert probe(progressive) == ("jpeg", 30, 20, 1)


def png_header(width, height):
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return b"\x89PNG\r\n\x1a\n" + body + b"\0\0\0\0IEND\xaeB`\x82"


def jpeg_of(width, height):
    frame = b"\xff\xc0" + struct.pack(">HBHHB", 11, 8, height, width, 1) + b"\1\x11\0"
    return b"\xff\xd8" + frame + b"\xff\xda\0\x02\xff\xd9"


def segment(marker, content=b""):
    return bytes([0xFF, marker]) + struct.pack(">H", 2 + len(content)) + content


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no image"),
        (b"GIF89a" + bytes(50), "damaged GIF"),
        (b"not an image at all", "no image"),
        (encoded()[:-400], "truncated JPEG"),
        (encoded()[:30], "JPEG"),
        (b"\xff\xd8\xff\xe0\0\0", "damaged JPEG"),
        (b"\xff\xd8ABCDEFG", "damaged JPEG: not a JPEG file"),
        (encoded(".png")[:-20], "truncated PNG"),
        (encoded(".png")[:33] + b"\xff\0\0\0IDAT" + bytes(99), "truncated PNG"),
        (b"\x89PNG\r\n\x1a\n" + bytes(10), "damaged PNG"),
        (png_header(50_000, 50_000), "50000x50000 pixels"),
        (png_header(8000, 8000), "64,?000,?000|8000x8000 pixels"),
        (jpeg_of(60_000, 1), "60000x1 pixels"),
        (jpeg_of(0, 10), "damaged JPEG"),
        (jpeg_of(10, 0), "damaged JPEG"),
        (png_header(0, 10), "damaged PNG"),
        (jpeg_of(10, 10)[:-2] + b"\xff\xda\0\x02" * 200 + b"\xff\xd9", "scans"),
        (jpeg_of(10, 10), "do not decode"),
    ],
)
def test_hostile_and_damaged_images_are_rejected(data, reason):
    tracemalloc.start()
    with pytest.raises(DataError, match=reason):
        images.decode(data)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_random_damage_gives_an_image_or_a_data_error():
    """The image has the size that the probe returns."""
    whole = encoded(image=picture(8, 8))
    rng = np.random.default_rng(0)
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(rng.integers(1, 4)):
            data[rng.integers(len(data))] = rng.integers(256)
        data = bytes(data[: rng.integers(1, len(data) + 1)])
        with contextlib.suppress(DataError):
            _, width, height, _ = probe(data)
            assert images.decode(data).shape == (height, width, 3)


def test_encoded_images_decode_when_sliced(tmp_path):
    sources = [encoded(".png", picture(seed=n)) for n in range(5)]
    path = tmp_path / "five.png"
    path.write_bytes(encoded(".png", picture(seed=5)))
    faces = images.EncodedImages([*sources, path])
    assert len(faces) == 6
    assert faces[1:6].shape == (5, 20, 30, 3)
    assert (faces[5] == picture(seed=5)).all()
    assert (faces[4:][0] == picture(seed=4)).all()


def test_errors_of_encoded_images_name_the_image(tmp_path):
    odd = images.EncodedImages(
        [encoded(".png"), encoded(".png", picture(9, 9))], lambda n: f"set:{n}"
    )
    with pytest.raises(DataError, match="set:1: 9x9 pixels, the others have 30x20"):
        odd[:]
    missing = images.EncodedImages([tmp_path / "no.jpg"], lambda n: f"set:{n}")
    with pytest.raises(DataError, match="set:0: no such file"):
        missing[:]


def test_decoder_equals_the_accurate_decoder_of_tensorflow():
    """Training decodes with TensorFlow, evaluation with OpenCV: the same pixels."""
    from data_pipelines import records

    for seed in range(20):
        smooth = cv2.resize(
            picture(8, 8, seed), (112, 112), interpolation=cv2.INTER_CUBIC
        )
        data = encoded(".jpg", smooth)
        opencv = images.decode(data)
        tensorflow = records.decode_pixels(data, 112).numpy()
        assert np.abs(opencv.astype(int) - tensorflow).max() == 0


def test_probe_and_decoder_read_the_same_size():
    """Markers without a length are skipped, and segments after them are read."""
    data = encoded(image=picture(64, 64))
    fake = b"\xff\xc0\x00\x0b\x08\x00\x10\x00\x10\x01\x01\x11\x00"  # 16x16
    comment = segment(0xFE, fake)
    for marker in (b"\xff\xd0", b"\xff\x00"):
        hidden = data[:2] + marker + comment + data[2:]
        assert probe(hidden) == ("jpeg", 64, 64, 1)
        assert images.decode(hidden).shape == (64, 64, 3)
    with pytest.raises(DataError, match="damaged JPEG: no marker found"):
        probe(data[:2] + b"\xff\x01" + comment + data[2:])
    with pytest.raises(DataError, match="a second frame"):
        probe(data[:2] + fake + data[2:])


def test_metadata_are_not_read():
    """Damaged metadata cause no warning; compressed metadata are not decompressed."""
    tags = struct.pack(">HHII", 0x9000, 7, 1 << 30, 8) * 100
    exif = segment(0xE1, b"Exif\0\0MM\0*\0\0\0\x08\0\x64" + tags)
    jpeg, png = encoded(), encoded(".png")
    text = b"zTXtk\0\0" + zlib.compress(bytes(1 << 22))
    chunk = (
        struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    )
    tracemalloc.start()
    assert probe(jpeg[:2] + exif * 9 + jpeg[2:]) == ("jpeg", 30, 20, 1)
    assert probe(png[:33] + chunk * 9 + png[33:]) == ("png", 30, 20, 1)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    with pytest.raises(DataError, match="damaged JPEG"):
        probe(jpeg[:2] + segment(0xE5, bytes(65_000)) * 33 + jpeg[2:])


def test_exif_rotation_is_applied():
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    segment = b"\xff\xe1" + struct.pack(">H", 2 + len(exif)) + exif
    data = encoded()
    rotated = data[:2] + segment + data[2:]
    assert images.decode(rotated, upright=False).shape == (20, 30, 3)
    assert images.decode(rotated).shape == (30, 20, 3)
