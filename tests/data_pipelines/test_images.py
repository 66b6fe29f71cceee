"""Encoded images: headers, decoding, and hostile files."""

import contextlib
import io
import os
import struct
import tracemalloc
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

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
        (encoded(".png")[:-12] + b"\x7f\0\0\0IEND" + bytes(4), "an end chunk of 2,130"),
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


# --- other formats -----------------------------------------------------------------


def by_pillow(kind, image=None, mode="RGB", **options):
    image = Image.fromarray(picture() if image is None else image)
    buffer = io.BytesIO()
    image.convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def grey16(side=20):
    return np.random.default_rng(0).integers(0, 1 << 16, (side, side)).astype(np.uint16)


def saved(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["bmp", "tiff", "ppm", "png"])
def test_lossless_formats_have_the_same_pixels(kind):
    data = by_pillow(kind)
    assert probe(data) == (kind, 30, 20, 1)
    np.testing.assert_array_equal(images.decode(data), picture())


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (by_pillow("WEBP", lossless=True), picture()),
        (by_pillow("TIFF", compression="tiff_lzw"), picture()),
        (by_pillow("TIFF", compression="packbits"), picture()),
        (by_pillow("TIFF", compression="tiff_adobe_deflate"), picture()),
        (b"P5 # a comment\n2 1\n255\n\x07\xff", [[[7] * 3, [255] * 3]]),
        (b"P2\n2 1\n255\n7 255\n", [[[7] * 3, [255] * 3]]),
        (b"P4\n8 1\n\x0f", [[[255] * 3] * 4 + [[0] * 3] * 4]),
        (b"P5\n2 1\n65535\n\x12\x34\xff\xff", [[[0x12] * 3, [255] * 3]]),
        (b"P5\n2 1\n1023\n\x03\xff\x00\x00", [[[255] * 3, [0] * 3]]),
    ],
    ids=["webp", "lzw", "packbits", "deflate", "pgm", "plain", "pbm", "pgm16", "pgm10"],
)
def test_pixels_of_other_formats(data, expected):
    np.testing.assert_array_equal(images.decode(data), np.asarray(expected, np.uint8))


def test_gif_and_webp_give_their_first_frame_and_tiff_its_first_page():
    frames = [Image.fromarray(np.full((8, 8, 3), n, np.uint8)) for n in (10, 200)]
    for kind, options in (("GIF", {}), ("TIFF", {}), ("WEBP", {"lossless": True})):
        data = saved(
            frames[0], kind, save_all=True, append_images=frames[1:], **options
        )
        assert (images.decode(data) == 10).all(), kind


def test_of_sixteen_bits_the_upper_eight_are_taken():
    expected = np.repeat((grey16() >> 8).astype(np.uint8)[..., None], 3, axis=2)
    image = Image.fromarray(grey16())
    for kind in ("TIFF", "PNG", "PPM"):
        np.testing.assert_array_equal(images.decode(saved(image, kind)), expected)


def test_alpha_is_dropped_and_cmyk_converted():
    hidden = Image.fromarray(picture()).convert("RGBA")
    hidden.putalpha(Image.fromarray(picture()[..., 0]))
    for kind, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True})):
        if kind == "WEBP":  # keeps the colours of transparent pixels on request only
            options["exact"] = True
        np.testing.assert_array_equal(
            images.decode(saved(hidden, kind, **options)), picture()
        )
    for kind in ("TIFF", "JPEG"):
        smooth = np.full((16, 16, 3), (200, 100, 50), np.uint8)
        decoded = images.decode(by_pillow(kind, smooth, "CMYK", quality=95))
        assert np.abs(decoded.astype(int) - smooth).max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "tiff"])
def test_every_orientation_is_turned_as_by_pillow(kind, orientation):
    image = Image.fromarray(cv2.resize(picture(4, 6), (30, 20)))
    image.getexif()[0x0112] = orientation
    options = {"lossless": True} if kind == "webp" else {}
    data = saved(image, kind, exif=image.getexif(), **options)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    decoded = images.decode(data)
    assert np.abs(decoded.astype(int) - expected).max() <= 1
    header = probe(data)
    assert (header.height, header.width) == decoded.shape[:2]


def tiff(*tags, data=b""):
    """A TIFF of tags (number, type, count, value)."""
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4) + data


def sides(length):
    return (256, 4, 1, length), (257, 4, 1, length)


def webp(width, height):
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + size


def gif(width, height, frame=(1, 1)):
    screen = struct.pack("<HH", width, height) + b"\0\0\0"
    return b"GIF89a" + screen + b"," + struct.pack("<4HB", 0, 0, *frame, 0) + b"\2\0;"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (gif(60_000, 60_000), "60000x60000 pixels; at most 8192"),
        (gif(1, 1, (60_000, 60_000)), "60000x60000|damaged GIF"),
        (webp(16_000, 16_000), "16000x16000 pixels"),
        (tiff(*sides(60_000), (273, 4, 1, 8)), "60000x60000 pixels"),
        (tiff(*sides(0), (273, 4, 1, 8)), "damaged TIFF"),
        (tiff((700, 1, 1 << 31, 0)), "bytes of tags in"),
        (tiff(*[(n, 1, 100, 0) for n in range(500)]), "bytes of tags in"),
        (tiff((0x8769, 4, 1, 8)), "more than 1000 tags"),  # which contains itself
        (
            tiff(*sides(9), (322, 4, 1, 1 << 30), (323, 4, 1, 9), (324, 4, 1, 8)),
            "tiles of .1073741824, 9. pixels",
        ),
        (b"II*\0\xff\xff\xff\x7f", "truncated TIFF"),
        (b"BM" + struct.pack("<IIIIii", 0, 0, 54, 40, 99_999, 99_999), "99999|damaged"),
        (b"P6\n99999 99999\n255\n", "99999x99999 pixels"),
        (b"P6\n" + b"#" * 9999 + b"\n1 1\n255\n", "damaged PPM"),
        (b"P6\n20 20\n255\n" + bytes(99), "damaged PPM"),
        (by_pillow("WEBP")[:-90], "damaged WEBP"),
        (by_pillow("TIFF")[:-90], "TIFF"),
        (by_pillow("GIF")[:-90], "damaged GIF"),
        (by_pillow("BMP")[:-90], "damaged BMP"),
        (b"\0\0\0\x20ftypheic" + bytes(40), "a HEIC image; JPEG, PNG, WebP"),
        (b"II+\0" + bytes(40), "a BigTIFF image"),
        (saved(Image.new("F", (8, 8)), "TIFF"), "mode 'F'; save it as PNG"),
    ],
)
def test_hostile_and_damaged_files_of_other_formats(data, reason):
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=reason) as caught:
            images.decode(data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("kind", ["BMP", "TIFF", "GIF", "PPM", "WEBP"])
def test_random_damage_to_other_formats_gives_an_image_or_a_data_error(kind):
    whole = by_pillow(kind)
    rng = np.random.default_rng(0)
    for _ in range(100):
        data = bytearray(whole)
        for _ in range(rng.integers(1, 4)):
            data[rng.integers(len(data))] = rng.integers(256)
        with contextlib.suppress(DataError):
            _, width, height, _ = probe(bytes(data))
            if width * height < 1 << 16:
                assert images.decode(bytes(data)).shape == (height, width, 3)


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "gone.jpg").symlink_to("nothing")
    (tmp_path / "large.jpg").write_bytes(bytes(100))
    for name, reason in (
        ("pipe.jpg", "not a regular file"),
        ("gone.jpg", "a dangling link"),
        ("none.jpg", "no such file"),
        ("", "not a regular file"),
    ):
        with pytest.raises(DataError, match=reason):
            images.read_file(tmp_path / name)
    with pytest.raises(DataError, match="100 bytes; at most 99 are read"):
        images.read_file(tmp_path / "large.jpg", 99)
