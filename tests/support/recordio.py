"""RecordIO packs as insightface writes them."""

import struct

import numpy as np

from data_pipelines.readers import recordio
from tests.support.faces import encoded, picture

MAGIC = struct.pack("<I", recordio.MAGIC)


def record(payload: bytes) -> bytes:
    """A record as dmlc writes it: split at every aligned magic in the payload."""
    cuts, at = [], 0
    while (at := payload.find(MAGIC, at)) >= 0:
        if at % 4 == 0:
            cuts.append(at)
            at += 4
        else:
            at += 1
    starts = [0, *(cut + 4 for cut in cuts)]
    parts = [payload[a:b] for a, b in zip(starts, [*cuts, len(payload)])]
    out = b""
    for number, part in enumerate(parts):
        flag = 0
        if len(parts) > 1:
            flag = 1 if number == 0 else 3 if number == len(parts) - 1 else 2
        out += MAGIC + struct.pack("<I", flag << 29 | len(part)) + part
        out += bytes(-len(part) % 4)
    return out


def header(label, flag=0, extra=()):
    return struct.pack("<IfQQ", flag, label, 0, 0) + np.array(extra, "<f4").tobytes()


def write_pack(folder, labels, images=None, *, insightface=True):
    """Writes train.rec, train.idx and property; returns their offsets by key."""
    images = images or [encoded(image=picture(seed=n)) for n in range(len(labels))]
    count, identities = len(labels), max(labels) + 1
    payloads = {}
    if insightface:
        payloads[0] = header(0, 2, (count + 1, count + 1 + identities))
    for number, (label, image) in enumerate(zip(labels, images)):
        payloads[number + insightface] = header(label) + image
    if insightface:
        for identity in range(identities):
            payloads[count + 1 + identity] = header(0, 2, (1, 2))
    data, offsets = b"", {}
    for key, payload in payloads.items():
        offsets[key] = len(data)
        data += record(payload)
    (folder / "train.rec").write_bytes(data)
    index = "".join(f"{key}\t{offset}\n" for key, offset in offsets.items())
    (folder / "train.idx").write_text(index)
    (folder / "property").write_text(f"{identities},112,112")
    return offsets
