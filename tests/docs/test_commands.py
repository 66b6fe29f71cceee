"""Every command of README and the documentation: it parses, and most are run."""

import importlib
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fr_jax.cli import config as configs
from fr_jax.cli import main
from tests.support.commands import call
from tests.support.documents import NOT_RUN, RUN_ORDER, Block, blocks, documents
from tests.support.paths import DATA, ROOT

COMMANDS = [
    (block.document, words)
    for path in documents()
    for block in blocks(path)
    if block.language == "sh"
    for words in block.commands()
]
# Appended to the trainings that a page shows in full.
FEW_STEPS = (
    *("--config.train.num_steps=2", "--config.train.evaluate_every=0"),
    *("--config.train.save_every=2", "--config.train.log_every=1"),
)


def test_there_are_commands():
    assert len(COMMANDS) > 40


@pytest.mark.parametrize(
    "document, words", COMMANDS, ids=[f"{d}-{' '.join(w[:2])}" for d, w in COMMANDS]
)
def test_a_command_and_its_configuration_keys_exist(document, words, monkeypatch):
    parsed = []
    module = importlib.import_module(main.commands()[words[0]][0])
    monkeypatch.setattr(module, "run", lambda arguments: parsed.append(arguments) or 0)
    with pytest.raises(SystemExit) as left:
        main.main(words)
    assert left.value.code == 0, f"{document}: fr-jax {' '.join(words)}"
    if words[0] == "train":
        monkeypatch.chdir(ROOT)
        configs.load(parsed[0].config, parsed[0].overrides)


def test_blocks_that_are_not_run_say_why():
    pages = {f"docs/{name}.md" for name in RUN_ORDER}
    for path in documents():
        for block in blocks(path):
            if block.language == "sh" and block.document.startswith("docs/"):
                assert block.document in pages or block.reason, block
            if block.text.startswith(NOT_RUN.strip()):
                assert len(block.reason) > 10, block


def shortened(script: str) -> str:
    """The script with every training of more than a few steps cut to two."""
    lines = script.replace("\\\n", " ").splitlines()
    return "\n".join(
        " ".join([line, *FEW_STEPS])
        if line.startswith("fr-jax train") and "train.num_steps" not in line
        else line
        for line in lines
    )


@pytest.mark.long
@pytest.mark.early
@pytest.mark.skipif(not (DATA / "weights").exists(), reason=f"no weights in {DATA}")
@pytest.mark.parametrize(
    "pages",
    [
        ["README.md"],
        pytest.param([f"docs/{name}.md" for name in RUN_ORDER], marks=pytest.mark.pod),
    ],
    ids=["README", "docs"],
)
def test_commands_and_code_run(pages, tmp_path):
    """Page after page, in one folder, as a reader would; verification sets are small.

    Of README's blocks without a language those with commands of `fr-jax` are run.
    """
    prepare(tmp_path)
    for page in pages:
        for block in blocks(ROOT / page):
            if block.reason:
                continue
            if block.language == "sh" and block.commands():
                run(["bash", "-euc", shortened(block.text)], tmp_path, block)
            elif block.language == "python":
                run([sys.executable, "-c", block.text], tmp_path, block)


def run(command: list[str], folder: Path, block: Block) -> None:
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PHOTOS": "photos",
        "TEMPLATES": "templates.csv",
        "DATA": "data",
        "FACES": "faces_aligned",
        "RECORDS": "records",
    }
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{block.document}: {block.text}\n{done.stderr}"


def prepare(folder: Path) -> None:
    """Lays out what the pages take as the reader's own: photographs, sets, weights."""
    (folder / "configs").symlink_to(ROOT / "configs")
    (folder / "data").mkdir()
    weights = DATA / "weights"
    (folder / "data/weights").symlink_to(weights)
    for name in ("att_faces.tar.gz", "cmu_faces.tar.gz"):
        (folder / "data" / name).symlink_to(DATA / name)
    (folder / "mobilefacenet.pt").symlink_to(weights / "mobilefacenet.pt")
    (folder / "yunet.onnx").symlink_to(next(weights.glob("*yunet*.onnx")))
    (folder / "lfw.bin").symlink_to(folder / "data/lfw.bin")
    for name, frame, size in (("photos", "loose", 200), ("rendered", "aligned", 112)):
        code = call(
            *("faces", "render", "--identities=8", "--images-per-identity=4"),
            *(f"--frame={frame}", f"--size={size}", "--to", folder / name),
        )
        assert code == 0
        (folder / name / "labels.csv").unlink()
    files = sorted((folder / "rendered").rglob("*.jpg"))
    for name, source in zip(("a.jpg", "b.jpg", "face.jpg"), files):
        shutil.copy(source, folder / name)
    identities = [file.parent.name for file in files]
    genuine = [(number, number + 1) for number in range(0, 32, 2)]
    impostor = [(number, (number + 4) % 32) for number in range(0, 32, 2)]
    pairs = [pair for both in zip(genuine, impostor) for pair in both][:30]
    encoded = [files[number].read_bytes() for pair in pairs for number in pair]
    for name in ("lfw.bin", "cfp_fp.bin"):
        content = pickle.dumps((encoded, [True, False] * 15), protocol=2)
        (folder / "data" / name).write_bytes(content)
    rows = ["split,part,template,identity,file"]
    for number, (file, identity) in enumerate(zip(files, identities)):
        part = "gallery" if number % 4 < 2 else "probe"
        rows.append(f"1,{part},{part}-{identity},{identity},{file}")
    (folder / "templates.csv").write_text("\n".join(rows) + "\n")
