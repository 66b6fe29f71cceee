"""Speed measurements, as ratios to PyTorch and onnxruntime from one run.

    python -m benchmarks [training_step] [embedding] [imported] [verification] [data]
        [rendering] [momentum_contrast] [rand_augment] [start] [dr_gan]
        [fra] [face_generator] [ijb] [search]

Needs `pip install '.[bench]'`. Implementations run in turn, each in its own process;
the result is the median ratio of consecutive runs.
"""

import argparse
import importlib
import json
import os
import platform
from pathlib import Path

PARTS = (
    "training_step",
    "embedding",
    "imported",
    "verification",
    "data",
    "rendering",
    "momentum_contrast",
    "rand_augment",
    "start",
    "dr_gan",
    "face_generator",
    "ijb",
    "search",
    "fra",
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--network",
        default="iresnet18",
        choices=("iresnet18", "iresnet50"),
        help="network of momentum_contrast",
    )
    parser.add_argument("--to", default="runs/benchmarks.json")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"unknown part {unknown.pop()!r}; use {', '.join(PARTS)}")
    results: dict[str, float | str] = {
        "machine": f"{platform.processor() or platform.machine()}, "
        f"{os.cpu_count()} cores, Python {platform.python_version()}"
    }
    for part in arguments.parts or PARTS:
        options = {"network": arguments.network} if part == "momentum_contrast" else {}
        module = importlib.import_module(f"benchmarks.{part}")
        measured = module.run(arguments.rounds, **options)
        for name, value in measured.items():
            print(f"{name:<56} {value:12,.2f}", flush=True)
        results |= measured
    target = Path(arguments.to)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(results, indent=1))
    print(f"results: {target}")


if __name__ == "__main__":
    main()
