"""Section (a) of gpu.py: a BERT-base size of random weights trained and used, beside sentence-transformers.

Both libraries train by their own trainers on the same rows, in bf16 on a GPU, with InfoNCE over the batch, from the
first batch to the last update, tokenising included; both encode the same texts with weights in bf16. Texts are
sentences of `embedkit.data.builtin`, one to four of them joined. The attention that ran is read off torch's dispatcher.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_common import (
    Enough,
    OverBudget,
    Section,
    Size,
    Stopwatch,
    attention_of,
    autocast,
    encoder_operations,
    forget_peak,
    half_type,
    matrix_rate,
    missing,
    peak_mib,
    precision,
    timed,
    wait,
)

LENGTH, SCALE = 128, 20.0


def rows(count: int) -> list[dict[str, str]]:
    """Pairs of texts: one to four built-in sentences joined, and their paraphrases."""
    from embedkit.data.builtin import sentences

    source = itertools.cycle(sentences.rows("pairs-train"))
    found = []
    for number in range(count):
        parts = list(itertools.islice(source, 1 + number % 4))
        found.append({role: ". ".join(part[role] for part in parts) for role in ("anchor", "positive")})
    return found


def texts(count: int) -> list[str]:
    """Different texts, one to four built-in sentences each."""
    from embedkit.data.builtin import sentences

    single = [row["anchor"] for row in itertools.islice(sentences.rows("sentences"), count + 3)]
    found = [". ".join(single[k] for k in range(n, min(n + 1 + n % 4, len(single)))) for n in range(count)]
    return list(dict.fromkeys(found))


def model_folders(size: Size, root: Path) -> dict[float, str]:
    """The same random BERT as a folder for both libraries, with and without dropout."""
    from embedkit.config.model import ModelConfig
    from embedkit.factory import build

    folders = {}
    for rate in (0.1, 0.0):
        config = {"model_type": "bert", **size.bert}
        section = ModelConfig(config=config, tokenizer="builtin", pooling="mean", max_length=LENGTH, dropout=rate)
        folder = root / f"bert-dropout-{rate}"
        build(section, 0).save(folder)
        folders[rate] = str(folder)
    return folders


def our_training(
    size: Size, device: torch.device, section: Section, folder: str, data: Path, rate: float
) -> dict[str, Any]:
    """Seconds of the timed steps of embedkit's trainer, memory, and its attention."""
    from embedkit.training import train

    recipe = {
        "name": "benchmark", "method": "pairs", "objective": {"name": "infonce", "temperature": 1 / SCALE},
        "model": {"name": folder, "max_length": LENGTH, "dropout": rate}, "data": {"train": [{"path": str(data)}]},
        "train": {
            "max_steps": size.text_warm + size.text_steps + 1, "batch_size": size.text_batch, "lr": 2e-5,
            "precision": precision(device), "save_every": 10**6, "log_every": 10**6,
        },
    }  # fmt: skip
    watch = Stopwatch(device, section.budget, size.text_warm, size.text_steps)
    with tempfile.TemporaryDirectory() as output, contextlib.suppress(Enough):
        train(recipe, output=output + "/run", progress=watch)
    return {"seconds": watch.seconds, "memory_mib": peak_mib(device)}


def our_attention(device: torch.device, folder: str, few: list[str], training: bool) -> str:
    """What attention a forward pass of embedkit calls on this device."""
    from embedkit.formats import load

    kind = None if training else half_type(device)
    model = load(folder, device=device, dtype=kind).train(training)
    inputs = model.prepare(few).to(device)

    def run() -> None:
        with autocast(device)():
            model(inputs)

    return attention_of(run)


def their_model(folder: str, device: torch.device, attention: str, kind: torch.dtype | None = None) -> Any:
    """A SentenceTransformer of the folder."""
    from sentence_transformers import SentenceTransformer

    settings = {"attn_implementation": attention} | ({} if kind is None else {"dtype": kind})
    model = SentenceTransformer(folder, device=str(device), model_kwargs=settings)
    model.max_seq_length = LENGTH
    return model


def their_training(
    size: Size, device: torch.device, section: Section, folder: str, data: list[dict[str, str]], attention: str
) -> dict[str, Any]:
    """Seconds of the timed steps of sentence-transformers' trainer, and memory."""
    from datasets import Dataset
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.losses import MultipleNegativesRankingLoss
    from transformers import TrainerCallback

    watch = Stopwatch(device, section.budget, size.text_warm, size.text_steps)

    class Steps(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            watch.step(state.global_step, None)

    model = their_model(folder, device, attention)
    with tempfile.TemporaryDirectory() as output:
        arguments = SentenceTransformerTrainingArguments(
            output, max_steps=size.text_warm + size.text_steps + 1, per_device_train_batch_size=size.text_batch,
            learning_rate=2e-5, save_strategy="no", report_to=[], disable_tqdm=True, logging_strategy="no",
            use_cpu=device.type == "cpu", bf16=precision(device) == "bf16",
        )  # fmt: skip
        loss = MultipleNegativesRankingLoss(model, scale=SCALE)
        trainer = SentenceTransformerTrainer(
            model, arguments, train_dataset=Dataset.from_list(data), loss=loss, callbacks=[Steps()]
        )
        with contextlib.suppress(Enough):
            trainer.train()
    return {"seconds": watch.seconds, "memory_mib": peak_mib(device)}


def peers(device: torch.device, section: Section) -> list[str]:
    """Attention implementations that sentence-transformers can be run with here; reasons for the others."""
    reason = missing("sentence_transformers", "sentence-transformers")
    if reason is not None:
        section.skip("sentence-transformers", reason)
        return []
    flash = "flash attention needs a GPU" if device.type != "cuda" else missing("flash_attn")
    if flash is not None:
        section.skip("sentence-transformers, flash_attention_2", flash)
        return ["sdpa"]
    return ["sdpa", "flash_attention_2"]


def counted(size: Size, model: Any, given: list[str]) -> tuple[int, float]:
    """Real tokens of texts, and the matrix-product operations of one forward pass over them."""
    costs = model.prepare(given).costs.astype(np.int64)
    bert = size.bert
    tokens, squares = int(costs.sum()), int((costs**2).sum())
    return tokens, encoder_operations(
        bert["hidden_size"], bert["intermediate_size"], bert["num_hidden_layers"], tokens, squares
    )


def training(size: Size, device: torch.device, section: Section, folders: dict[float, str], root: Path) -> None:
    """Rows "train": every library, attention and dropout in turn, medians of the rounds that the budget allows."""
    from embedkit.formats import load

    data = rows((size.text_warm + size.text_steps + 1) * size.text_batch)
    path = root / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in data), encoding="utf-8")
    both = [row[role] for row in data for role in ("anchor", "positive")]
    tokens, operations = counted(size, load(folders[0.0], device="cpu"), both)
    share = size.text_steps / (size.text_warm + size.text_steps + 1)  # an epoch has all rows; so many are timed
    few = both[: 2 * size.text_batch]
    runs: dict[tuple[str, str, float], Callable[[], dict[str, Any]]] = {}
    for rate, folder in folders.items():
        name = our_attention(device, folder, few, True)
        runs["embedkit", name, rate] = partial(our_training, size, device, section, folder, path, rate)
        for attention in peers(device, section):
            run = partial(their_training, size, device, section, folder, data, attention)
            runs["sentence-transformers", attention, rate] = run
    rate_of_products = matrix_rate(size, device, half_type(device))
    taken: dict[Any, list[float]] = {key: [] for key in runs}
    longest: dict[Any, float] = dict.fromkeys(runs, 0.0)
    limit = section.budget.seconds * 0.7
    for number, key in itertools.product(range(size.text_rounds), runs):
        if number and section.budget.spent + longest[key] > limit:
            continue
        begun = time.perf_counter()
        what = f"train, {key[0]}, {key[1]}, dropout {key[2]}"
        with section.attempt(what, peer=key[0] != "embedkit"):
            found = runs[key]()
            taken[key].append(found["seconds"])
            seconds = statistics.median(taken[key])
            section.put(
                "train", *key, what="train", library=key[0], attention=key[1], dropout=key[2], rounds=len(taken[key]),
                precision=precision(device), ms_per_step=1e3 * seconds / size.text_steps,
                texts_per_s=2 * size.text_batch * size.text_steps / seconds, tokens_per_s=share * tokens / seconds,
                share_of_matrix_rate=3 * share * operations / seconds / rate_of_products,
                memory_mib=found["memory_mib"],
            )  # fmt: skip
        longest[key] = time.perf_counter() - begun
        section.budget.check()


def encoding(size: Size, device: torch.device, section: Section, folder: str) -> None:
    """Rows "encode": the same texts through both libraries, and how far the vectors are from each other."""
    from embedkit.formats import load

    kind = half_type(device)
    given = texts(size.encode_texts)
    ours = load(folder, device=device, dtype=kind)
    tokens, operations = counted(size, ours, given)
    rate = matrix_rate(size, device, kind)
    attention = our_attention(device, folder, given[: size.encode_batch], False)
    runs: dict[tuple[str, str], Callable[[list[str]], Any]] = {("embedkit", attention): ours.encode}
    for name in peers(device, section):
        with section.attempt(f"encode, sentence-transformers, {name}", peer=True):
            model = their_model(folder, device, name, kind)
            encode = partial(model.encode, batch_size=size.encode_batch, normalize_embeddings=True)
            runs["sentence-transformers", name] = encode
    vectors: dict[str, np.ndarray] = {}
    taken: dict[Any, list[float]] = {key: [] for key in runs}
    for number, key in itertools.product(range(size.text_rounds), runs):
        if number and (section.budget.too_long(2 * max(taken[key], default=0.0)) is not None):
            continue
        with section.attempt(f"encode, {', '.join(key)}", peer=key[0] != "embedkit"):
            if not number:
                runs[key](given[: 4 * size.encode_batch])
            forget_peak(device)
            found: list[Any] = []
            taken[key].append(timed(device, lambda key=key, found=found: found.append(runs[key](given))))
            vectors.setdefault(key[0], np.asarray(found[0], dtype=np.float32))
            seconds = statistics.median(taken[key])
            section.put(
                "encode", *key, what="encode", library=key[0], attention=key[1], dropout=0.0, rounds=len(taken[key]),
                precision=precision(device), seconds=seconds, texts_per_s=len(given) / seconds,
                tokens_per_s=tokens / seconds, share_of_matrix_rate=operations / seconds / rate,
                memory_mib=peak_mib(device),
            )  # fmt: skip
        section.budget.check()
    if len(vectors) == 2:
        cosines = (vectors["embedkit"] * vectors["sentence-transformers"]).sum(1)
        section.put(
            "vectors", what="lowest cosine of the two libraries' vectors of a text", cosine=float(cosines.min())
        )


def text(size: Size, device: torch.device, section: Section) -> None:
    """Section (a)."""
    with tempfile.TemporaryDirectory() as root:
        folders = model_folders(size, Path(root))
        wait(device)
        try:
            training(size, device, section, folders, Path(root))
        except OverBudget as error:  # encoding has a share of the budget of its own
            section.skip("further rounds of training", str(error))
        encoding(size, device, section, folders[0.0])
