"""Readers and writers found by name: one file a library is enough, and every entry keeps the promises of its base."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import embedkit
from embedkit.errors import MissingExtraError, ModelError, UserError
from embedkit.formats.export import check_format, export
from embedkit.formats.folder import FolderPlan
from embedkit.formats.registry import DUAL_KINDS, IMAGE_KINDS, TEXT_KINDS, FolderReader, FolderWriter, readers, writers
from tests.helpers import dual, tiny

PACKAGE = Path(embedkit.__file__).parent


# --- what is there ----------------------------------------------------------------------------------------------------


def test_each_sub_package_with_a_reader_or_writer_is_an_entry_and_no_other() -> None:
    """The files on the disk decide, no list."""
    for registry, file, key in ((readers, "reader.py", "@readers.add("), (writers, "writer.py", "writers.add(")):
        files = sorted((PACKAGE / "formats").glob(f"*/{file}"))
        said = [line.split('"')[1] for path in files for line in path.read_text().splitlines() if key in line]
        assert len(said) == len(files)
        assert sorted(said) == list(registry)


def test_readers_are_complete_and_ranked_without_ties() -> None:
    found = {name: reader() for name, reader in readers.items()}
    assert all(reader.name == name for name, reader in found.items())
    assert len({reader.mark for reader in found.values()}) == len(found)
    assert len({reader.rank for reader in found.values()}) == len(found)


@pytest.mark.parametrize("name", list(readers))
def test_each_reader_knows_its_mark_as_a_file_only(name: str, tmp_path: Path) -> None:
    reader = readers[name]()
    assert not reader.reads(tmp_path)
    (tmp_path / reader.mark).mkdir()
    assert not reader.reads(tmp_path)
    (tmp_path / reader.mark).rmdir()
    (tmp_path / reader.mark).write_text("")
    assert reader.reads(tmp_path)


class Plain(FolderReader):
    """The least that a reader is."""

    name, mark, rank = "plain", "plain.json", 9

    def plan(self, root: Path) -> FolderPlan:
        return FolderPlan(root, root, "text")


def test_what_a_reader_does_not_have_is_refused_with_its_name(tmp_path: Path) -> None:
    reader = Plain()
    with pytest.raises(ModelError, match="has no routes; leave route out"):
        reader.plan_of_route(tmp_path, "query")
    with pytest.raises(ModelError, match="plain has no dual encoders; give a CLIP folder"):
        reader.dual(reader.plan(tmp_path))
    with pytest.raises(TypeError, match="abstract"):
        FolderReader()  # type: ignore[abstract]


def test_a_name_is_taken_once() -> None:
    with pytest.raises(UserError, match="the model format 'peft' exists already"):
        readers.add("peft")(Plain)
    with pytest.raises(UserError, match="the export format 'onnx' exists already"):
        writers.add("onnx")(FolderWriter(TEXT_KINDS, lambda *_: {}))
    assert readers["peft"] is not Plain


# --- writers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kinds"),
    [("clip", DUAL_KINDS), ("open_clip", DUAL_KINDS),
     ("onnx", TEXT_KINDS | DUAL_KINDS | IMAGE_KINDS | {"feature", "sequence", "chain"}),
     ("sentence-transformers", TEXT_KINDS | DUAL_KINDS | {"concatenation"}),
     ("transformers", TEXT_KINDS | DUAL_KINDS | IMAGE_KINDS), ("timm", IMAGE_KINDS), ("torchvision", IMAGE_KINDS)],
)  # fmt: skip
def test_writers_say_which_kinds_they_hold(name: str, kinds: frozenset[str]) -> None:
    assert writers[name].kinds == kinds
    for model in (tiny.text_encoder(), dual.dual("bert", "open_clip-vit")):
        assert writers[name].can_write(model) == (model.kind in kinds)


def test_a_format_for_another_kind_is_refused_with_those_that_fit(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="unknown export format 'clip' for a text model") as caught:
        export(tiny.text_encoder(), tmp_path / "m", "clip")
    assert "onnx" in str(caught.value.remedy)
    assert "open_clip" not in str(caught.value.remedy)
    assert not (tmp_path / "m").exists()


def test_a_wrong_format_is_told_before_the_model_is_read(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="unknown export format 'tensorflow'"):
        export(tmp_path / "no such model", tmp_path / "m", "tensorflow")


def test_a_missing_package_is_told_before_the_model_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "onnxscript" else real(name, *a))
    with pytest.raises(MissingExtraError, match=r"'onnxscript'.*embedkit\[onnx\]"):
        export(tmp_path / "no such model", tmp_path / "m", "onnx")
    check_format("transformers")  # needs nothing more


def test_an_export_leaves_a_certificate_that_names_the_model(tmp_path: Path) -> None:
    model = tiny.text_encoder(prompts={"q": "who "}, default_prompt="q", max_length=12)
    export(model, tmp_path / "m", "transformers")
    said = json.loads((tmp_path / "m" / "embedkit_export.json").read_text())
    assert (said["format"], said["hash"]) == ("transformers", model.hash())
    assert said["use"] == {"pooling": "mean", "normalize": True, "max_length": 12}
    assert (said["prompts"], said["default_prompt"]) == ({"q": "who "}, "q")
    (tmp_path / "m" / "embedkit_export.json").unlink()
    with pytest.raises(ModelError, match="exists and was not written by embedkit"):
        export(model, tmp_path / "m", "transformers")


# --- a library of one's own -------------------------------------------------------------------------------------------

READER = '''
"""Folders of numpy arrays, for the tests."""
import json
import numpy as np
from embedkit.formats.folder import FolderPlan
from embedkit.formats.registry import FolderReader, readers

@readers.add("nparrays")
class ArrayReader(FolderReader):
    """Folders with an ``arrays.json``, whose inner folder is a sentence-transformers one."""

    name, mark, rank = "nparrays", "arrays.json", -1

    def plan(self, root):
        """See `FolderReader.plan`."""
        said = json.loads((root / "arrays.json").read_text())
        plan = FolderPlan(root, root / said["inner"], "text")
        plan.spec = {"pooling": said["pooling"], "normalize": False}
        return plan
'''
WRITER = '''
"""The table of word vectors as a numpy file, for the tests."""
import numpy as np
from embedkit.formats.registry import TEXT_KINDS, FolderWriter, writers

def write(model, folder, samples=100):
    """Write ``words.npy``."""
    table = model.encoder.get_input_embeddings().weight.detach().numpy()
    np.save(folder / "words.npy", table)
    return {"rows": len(table)}

writers.add("nparrays")(FolderWriter(TEXT_KINDS, write))
'''


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package with one sub-package more, and nothing else changed."""
    top = tmp_path_factory.mktemp("copy")
    shutil.copytree(PACKAGE, top / "embedkit", ignore=shutil.ignore_patterns("__pycache__"))
    own = top / "embedkit" / "formats" / "nparrays"
    own.mkdir()
    (own / "__init__.py").write_text('"""Folders of arrays."""\n')
    (own / "reader.py").write_text(READER)
    (own / "writer.py").write_text(WRITER)
    return top


def run(scratch: Path, code: str, *words: Any) -> list[str]:
    environment = {**os.environ, "PYTHONPATH": str(scratch)}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], env=environment, capture_output=True, text=True, cwd=scratch
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
def test_a_library_is_added_by_its_own_files_alone(scratch: Path, tmp_path: Path) -> None:
    folder = tmp_path / "outer"
    inner = tiny.model_folder(folder / "inner")
    (folder / "arrays.json").write_text(json.dumps({"inner": "inner", "pooling": "cls"}))
    code = (
        "import sys, numpy as np, embedkit\n"
        "from embedkit.formats.registry import readers, writers\n"
        "print('nparrays' in readers, 'nparrays' in writers)\n"
        "ours = embedkit.load(sys.argv[1], device='cpu')\n"
        "theirs = embedkit.load(sys.argv[2], device='cpu', pooling='cls')\n"
        "print(ours.pooling, np.abs(ours.encode(['the dog']) - theirs.encode(['the dog'], normalize=False)).max())\n"
        "embedkit.export(ours, sys.argv[3], format='nparrays')\n"
        "print(np.load(sys.argv[3] + '/words.npy').shape[0] == len(ours.tokenizer))\n"
    )
    first, second, third = run(scratch, code, folder, inner, tmp_path / "out")
    assert first == "True True"
    pooling, difference = second.split()
    assert pooling == "cls"
    assert float(difference) < 1e-6
    assert third == "True"
    said = json.loads((tmp_path / "out" / "embedkit_export.json").read_text())
    assert (said["format"], said["rows"]) == ("nparrays", len(tiny.tokenizer()))


def test_what_is_checked_of_every_folder_is_checked_of_a_new_librarys(scratch: Path, tmp_path: Path) -> None:
    """A pickle is refused by what calls the reader, not by the reader."""
    inner = tiny.model_folder(tmp_path / "inner")
    (tmp_path / "arrays.json").write_text(json.dumps({"inner": "inner", "pooling": "cls"}))
    (inner / "model.safetensors").rename(inner / "pytorch_model.bin")
    code = (
        "import sys, embedkit\nfrom embedkit.errors import UnsafeFileError\n"
        "try: embedkit.load(sys.argv[1])\nexcept UnsafeFileError as error: print(error)\n"
        "assert 'torch' not in sys.modules"
    )
    (line,) = run(scratch, code, tmp_path)
    assert "the weights are a pickle (pytorch_model.bin)" in line
