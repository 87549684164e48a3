"""Random bytes for every reader of files: no error but our own, and no crash."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults.frame import Outcome, World, case
from tests.faults.fuzz import Count, Reader, fuzz, fuzz_for
from tests.faults.hostile import edit_json, member, model_copy

ROWS = [
    {"anchor": "a dog", "positive": "the “dog”", "negatives": ["x", "y"], "score": 0.5, "label": 3, "group": "g"},
    {"anchor": "two, \"cats\"", "positive": "line\u2028two", "negatives": [], "score": 1, "label": 0, "group": 7},
]  # fmt: skip


def _put(path: Path) -> Callable[[bytes], Path]:
    def put(content: bytes) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    return put


def _all(path: Path) -> None:
    """Every row by the plain reader, and by the one of training, which maps, checks and counts."""
    from embedkit.data.sources.sources import find_parts
    from tests.data.helpers import opened

    for part in find_parts(str(path)):
        for _ in part.records():
            pass
    rows = opened([{"path": str(path)}], "anchor", "positive negatives score label group", batch_size=1,
                  on_bad_row="skip", drop_last=False)  # fmt: skip
    for batch in rows.batches(0):
        assert batch.rows


def _table(header: str, separator: str) -> bytes:
    rows = [header.replace(",", separator)]
    rows += [separator.join(("a dog", "the cat", "0.5", "3")), separator.join(("two", '"x"', "1e-3", "0"))]
    return ("\n".join(rows) + "\n").encode()


def _parquet() -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = io.BytesIO()
    pq.write_table(pa.table({"anchor": ["a", "b"], "positive": ["c", "d"], "score": [0.5, None]}), out)
    return out.getvalue()


def _arrow() -> bytes:
    import pyarrow as pa

    out, table = io.BytesIO(), pa.table({"anchor": ["a", "b"], "negatives": [["c"], []]})
    with pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table)
    return out.getvalue()


def _tar() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in (
            ("a.txt", b"a dog"), ("a.json", b'{"positive": "x"}'), ("a.cls", b"3"), ("b" * 120 + ".txt", b"long name"),
            ("c.png", _image("PNG")),
        ):  # fmt: skip
            head = member(name)
            head.size = len(content)
            tar.addfile(head, io.BytesIO(content))
    return out.getvalue()


def _image(format: str) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.linear_gradient("L").resize((24, 20)).convert("P" if format == "GIF" else "RGB").save(out, format)
    return out.getvalue()


def _picture(content: bytes) -> None:
    from embedkit.data.images.pictures import load_picture, to_rgb

    for need in (None, 8):
        image = to_rgb(load_picture(content, need, 10**7).image)
        assert image.mode == "RGB"


def data_readers(folder: Path) -> list[Reader]:
    """Readers of training data and of images."""
    saved = folder / "saved"
    saved.mkdir(exist_ok=True)
    (saved / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
    csv, tsv = _table("anchor,positive,score,label", ","), _table("anchor,positive,score,label", "\t")
    jsonl = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    tar, text = _tar(), "a dog\nune été\n\nlast".encode()
    texts = {
        "csv": ([csv, csv.replace(b"\n", b"\r\n")], "t.csv"), "tsv": ([tsv], "t.tsv"), "jsonl": ([jsonl], "t.jsonl"),
        "txt": ([text], "t.txt"), "txt.gz": ([gzip.compress(text)], "t.txt.gz"), "parquet": ([_parquet()], "t.parquet"),
        "csv.gz": ([gzip.compress(csv)], "t.csv.gz"), "tar shard": ([tar], "t.tar"),
        "tar.gz shard": ([gzip.compress(tar)], "t.tar.gz"),
    }  # fmt: skip

    def reading(name: str) -> Callable[[bytes], None]:
        put = _put(folder / name)
        return lambda content: _all(put(content))

    found = [Reader(kind, seeds, reading(name)) for kind, (seeds, name) in texts.items()]
    arrow, state = _put(saved / "data.arrow"), _put(folder / "saved2" / "state.json")
    _put(folder / "saved2" / "data.arrow")(_arrow())

    def read_arrow(content: bytes) -> None:
        arrow(content)
        _all(saved)

    def read_state(content: bytes) -> None:
        state(content)
        _all(folder / "saved2")

    found.append(Reader("arrow of a saved data set", [_arrow()], read_arrow))
    found.append(Reader("state.json of a saved data set", [(saved / "state.json").read_bytes()], read_state))
    images = [_image(kind) for kind in ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM")]
    found.append(Reader("image", images, _picture))
    return found


def _recipe(folder: Path) -> list[Reader]:
    from embedkit.config.recipe_io import check_recipe, dump_recipe, load_recipe
    from embedkit.config.resources import recipe_path, suite_path
    from embedkit.evaluation.core.suites import load_suite
    from tests.training import runs

    recipes = [dump_recipe(check_recipe(runs.recipe())).encode(), recipe_path("quickstart").read_bytes()]
    suites = [suite_path(name).read_bytes() for name in ("builtin-sts", "sts")]
    words = [b"train.lr=1e-5", b"data.train.0.columns={a: anchor}", b"train.groups=[{pattern: x, lr: 1}]", b"name='x'"]
    good, put = runs.recipe(), _put(folder / "r.yaml")
    return [
        Reader("recipe", recipes, lambda content: load_recipe(put(content), smoke=True)),
        Reader("suite", suites, lambda content: load_suite(put(content))),
        Reader("override", words, lambda content: load_recipe(good, [content.decode("utf-8", "surrogateescape")])),
    ]


def _model_json(folder: Path, kind: str, name: str, whole: bool) -> Reader:
    """A file of JSON in a model folder; with `whole` the model is loaded and used when the folder is accepted."""
    from embedkit.formats import load
    from embedkit.formats.detect import inspect

    place = model_copy(kind, folder / f"{kind}-{name.replace('/', '-')}")
    put = _put(place / name)

    def read(content: bytes) -> None:
        put(content)
        inspect(place)
        if whole:
            load(place, device="cpu").encode(["a dog"])

    return Reader(f"{name} ({kind})", [(place / name).read_bytes()], read)


def model_readers(folder: Path) -> list[Reader]:
    """Readers of recipes, suites and model folders."""
    from embedkit.formats.tensors import read_safetensors

    found = _recipe(folder)
    found += [
        _model_json(folder, "own", "embedkit.json", True), _model_json(folder, "transformers", "config.json", False),
        _model_json(folder, "transformers", "tokenizer.json", True),
        _model_json(folder, "transformers", "tokenizer_config.json", True),
        _model_json(folder, "open_clip", "open_clip_config.json", True),
        _model_json(folder, "clip", "preprocessor_config.json", False)
        if (model_copy("clip", folder / "look") / "preprocessor_config.json").is_file()
        else _model_json(folder, "clip", "processor_config.json", False),
    ]  # fmt: skip
    st = model_copy("transformers", folder / "st")
    types = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Dense", "Dense"), ("3_Normalize", "Normalize")]
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(types)
    ]
    (st / "modules.json").write_text(json.dumps(listed))
    for path, _ in types[1:]:
        (st / path).mkdir()
    edit_json(st / "1_Pooling" / "config.json", word_embedding_dimension=32, pooling_mode_mean_tokens=True)
    edit_json(st / "2_Dense" / "config.json", in_features=32, out_features=8, bias=True)
    edit_json(st / "sentence_bert_config.json", max_seq_length=32, do_lower_case=False)
    edit_json(st / "config_sentence_transformers.json", prompts={"q": "query: "}, default_prompt_name="q")
    (st / "2_Dense" / "model.safetensors").write_bytes((st / "model.safetensors").read_bytes())
    for name in (
        "modules.json", "1_Pooling/config.json", "2_Dense/config.json", "sentence_bert_config.json",
        "config_sentence_transformers.json",
    ):  # fmt: skip
        found.append(_inspected(st, name))
    put = _put(folder / "w.safetensors")
    small = _safetensors()
    found.append(Reader("safetensors", [small], lambda content: read_safetensors(put(content))))
    return found


def _inspected(place: Path, name: str) -> Reader:
    from embedkit.formats.detect import inspect

    good, put = (place / name).read_bytes(), _put(place / name)

    def read(content: bytes) -> None:
        try:
            put(content)
            inspect(place)
        finally:
            put(good)

    return Reader(f"{name} (sentence-transformers)", [good], read)


def _safetensors() -> bytes:
    import numpy as np
    from safetensors.numpy import save

    return save({"keys": np.zeros((2, 16), np.uint8), "vectors": np.ones((2, 3), np.float32)})


def run_readers(folder: Path) -> list[Reader]:
    """Readers of runs, caches, results and evaluation data."""
    from embedkit.evaluation.core.cache import EmbeddingCache
    from embedkit.evaluation.datasets.beir import open_collection
    from embedkit.evaluation.datasets.tables import read_table

    tables = {".csv": _table("sentence1,sentence2,score,x", ","), ".tsv": _table("sentence1,sentence2,score,x", "\t"),
              ".jsonl": "".join(json.dumps(row) + "\n" for row in ROWS).encode(), ".parquet": _parquet()}  # fmt: skip

    def table(suffix: str) -> Callable[[bytes], Any]:
        put = _put(folder / f"table{suffix}")
        return lambda content: read_table(put(content))

    found = [Reader(f"evaluation table {suffix}", [seed], table(suffix)) for suffix, seed in tables.items()]
    beir = {
        "corpus.jsonl": b'{"_id": "d1", "title": "t", "text": "a dog"}\n{"_id": "d2", "text": "a cat"}\n',
        "queries.jsonl": b'{"_id": "q1", "text": "dog?"}\n{"_id": "q2", "text": "cat?"}\n',
        "qrels/test.tsv": b"query-id\tcorpus-id\tscore\nq1\td1\t1\nq2\td2\t2\nq1\td2\t0\n",
    }

    def collection(name: str) -> Callable[[bytes], Any]:
        place = folder / f"beir-{Path(name).stem}"
        for other, content in beir.items():
            _put(place / other)(content)
        put = _put(place / name)
        return lambda content: (put(content), open_collection(place, "test"))

    found += [Reader(f"BEIR {name}", [seed], collection(name)) for name, seed in beir.items()]
    put_cache = _put(folder / "cache" / EmbeddingCache(folder / "cache")._space("m", None) / "x.safetensors")

    def cache(content: bytes) -> None:
        put_cache(content)
        EmbeddingCache(folder / "cache").get("m", None, [b"k" * 16])

    found.append(Reader("embedding cache", [_safetensors()], cache))
    return found + _results(folder) + _runs(folder)


def _results(folder: Path) -> list[Reader]:
    from embedkit.evaluation.report.comparison import compare_reports
    from embedkit.evaluation.report.html import html_report
    from embedkit.evaluation.report.report import load_reports
    from tests.faults.security_out import _result

    put, good = _put(folder / "result.json"), json.dumps(_result("stsb"))
    (folder / "good.json").write_text(good)

    def result(content: bytes) -> None:
        first, *more = load_reports(put(content))
        compare_reports(first, load_reports(folder / "good.json")[0], resamples=5).table()
        html_report([first, *more])
        first.table()

    return [Reader("result file", [good.encode(), f'{{"format": 1, "reports": [{good}]}}'.encode()], result)]


def _runs(folder: Path) -> list[Reader]:
    from embedkit.config.recipe_io import check_recipe, dump_recipe
    from embedkit.doctor.run import examine_run
    from embedkit.evaluation.report.html import training_curves
    from embedkit.training.monitor.log import Progress, RunLog
    from embedkit.training.parallel.distributed import World as Processes
    from embedkit.training.state.sample_accounting import Ledger
    from tests.training import runs

    run = folder / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text(dump_recipe(check_recipe(runs.recipe())))
    rows = [{"step": n, "loss": 2.0, "lr": 0.1, "gradient_norm": 1.0, "data_wait_share": 0.1} for n in (1, 2, 3)]
    log = "".join(json.dumps(row) + "\n" for row in rows) + '{"step": 3, "scores": {"sts/stsb": 70.0}}\n'
    put, world = _put(run / "log.jsonl"), Processes()
    bad = "".join(json.dumps({"step": n, "id": n, "where": "t:1", "reason": "r"}) + "\n" for n in (1, None, 3))
    lists = _put(run / "quarantine.jsonl")

    def ledger(content: bytes) -> None:
        lists(content)
        try:
            Ledger(run, world, True).rewind(2)
        finally:
            (run / "quarantine.0.jsonl").unlink(missing_ok=True)

    def rewound(content: bytes) -> None:
        put(content)
        RunLog(run / "log.jsonl", world, Progress(), lambda: 0.0).rewind(2)

    return [
        Reader("log.jsonl: doctor", [log.encode()], lambda content: (put(content), examine_run(run))),
        Reader("log.jsonl: curves", [log.encode()], lambda content: (put(content), training_curves(run))),
        Reader("log.jsonl: resume", [log.encode()], rewound), Reader("quarantine.jsonl", [bad.encode()], ledger),
        *_checkpoint(folder), *_arrays(folder),
    ]  # fmt: skip


def _checkpoint(folder: Path) -> list[Reader]:
    """The manifest; and every file of a checkpoint whose manifest was written anew, so that only its content is odd."""
    from embedkit.training.state.checkpoint import CheckpointStore
    from tests.faults.security_models import _resealed
    from tests.training import runs

    run = folder / "trained"
    given = runs.recipe(train={**runs.SETTINGS, "max_steps": 1})
    runs.run(run, given)
    store = CheckpointStore(run / "checkpoints")
    place = store.at(1).path
    manifest, put = (place / "complete.json").read_bytes(), _put(place / "complete.json")

    def listed(content: bytes) -> None:
        try:
            put(content)
            CheckpointStore(run / "checkpoints").newest()
            store.at(1)
        finally:
            put(manifest)

    def resumed(name: str) -> Callable[[bytes], None]:
        good, write = (place / name).read_bytes(), _put(place / name)

        def read(content: bytes) -> None:
            try:
                write(content)
                _resealed(place)
                runs.run(run, given, resume=True)
            finally:
                write(good)
                put(manifest)

        return read

    names = sorted(
        path.name for path in place.iterdir() if path.name != "complete.json" and path.stat().st_size < 10**5
    )
    files = [Reader(f"checkpoint {name}, resealed", [(place / name).read_bytes()], resumed(name)) for name in names]
    return [Reader("checkpoint manifest", [manifest], listed), *files]


def _arrays(folder: Path) -> list[Reader]:
    import numpy as np

    from embedkit.data.sources.hub import check_card
    from embedkit.models.encode.joining import load_part
    from embedkit.training.loop.image_cache import _opened

    out, put = io.BytesIO(), _put(folder / "v.npy")
    np.save(out, np.ones((2, 3), np.float32))
    card = _put(folder / "set" / "README.md")
    front = b"---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: train.csv\n---\n# x\n"
    return [
        Reader("npy: part of encode", [out.getvalue()], lambda content: load_part(put(content)).sum()),
        Reader("npy: image cache", [out.getvalue()], lambda content: _opened(put(content), 2).sum()),
        Reader("card of a data set", [front], lambda content: check_card(card(content).parent)),
    ]


GROUPS: dict[str, Callable[[Path], list[Reader]]] = {
    "data and images": data_readers, "recipes and models": model_readers, "runs and results": run_readers,
}  # fmt: skip
SLOW = ("resealed", "(own)", "tokenizer", "open_clip")
"""Parts of the names of readers that take tenths of a second an input."""


def told(counts: dict[str, Count]) -> str:
    """Inputs by reader; raises with every fault when there is one."""
    faults = [f"{name}: {what}\n  {data[:400]}" for name, c in counts.items() for what, data in c.faults.items()]
    assert not faults, f"{len(faults)} faults\n" + "\n".join(faults)
    return ", ".join(f"{name} {count.inputs}" for name, count in counts.items())


def _short(name: str, make: Callable[[Path], list[Reader]]) -> None:
    @case("readers", f"seconds of changed files: {name}")
    def run(world: World) -> Outcome:
        counts: dict[str, Count] = {}
        for reader in make(world.folder):
            count = counts[reader.name] = Count()
            for content in reader.seeds:
                reader.read(content)  # what is changed is valid at first
            fuzz(reader, world.trials or (8 if any(part in reader.name for part in SLOW) else 60), world.seed, count)
        return Outcome(told(counts), sum(count.inputs for count in counts.values()), "own errors only")


for _name, _make in GROUPS.items():
    _short(_name, _make)

MINUTES = 10


@case("readers", f"{MINUTES} minutes of changed files, every reader in a process of its own", long=True)
def soak(world: World) -> Outcome:
    readers = [reader for number, make in enumerate(GROUPS.values()) for reader in make(_sub(world.folder, number))]
    seconds, counts, began = MINUTES * 60 / len(readers), {}, time.monotonic()
    for number, reader in enumerate(readers):
        counts[reader.name] = fuzz_for(reader, seconds, 1000 * number + world.seed, world.folder)
        count = counts[reader.name]
        print(
            f"{reader.name:45} {count.inputs:7} inputs, {count.accepted:6} accepted, {len(count.faults)} faults",
            flush=True,
        )
        for what, data in count.faults.items():
            print(f"    {what}\n    {data[:600]}", flush=True)
    total = sum(count.inputs for count in counts.values())
    said = f"{total:,} inputs for {len(readers)} readers in {time.monotonic() - began:.0f} s, {os.cpu_count()} cores"
    told(counts)
    return Outcome(said, total, "own errors only")


def _sub(folder: Path, number: int) -> Path:
    made = folder / f"group-{number}"
    made.mkdir()
    return made
