"""The mteb adapter on local tasks: no network, no stale score, the same numbers as sentence-transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("mteb")
datasets = pytest.importorskip("datasets")

import mteb  # noqa: E402
from mteb.abstasks.classification import AbsTaskClassification  # noqa: E402
from mteb.abstasks.retrieval import AbsTaskRetrieval  # noqa: E402
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData  # noqa: E402
from mteb.abstasks.sts import AbsTaskSTS  # noqa: E402
from mteb.abstasks.task_metadata import TaskMetadata  # noqa: E402
from mteb.abstasks.zeroshot_classification import AbsTaskZeroShotClassification  # noqa: E402

from embedkit.errors import NonFiniteError, UserError  # noqa: E402
from embedkit.evaluation import EmbeddingCache, MtebEncoder, evaluate, metric_names, open_mteb  # noqa: E402
from tests.evaluation.toys import BagOfWords, Described, sentences, sts_rows  # noqa: E402


def _meta(name: str, kind: str, main: str, **more: Any) -> TaskMetadata:
    return TaskMetadata(
        name=name, description="local", type=kind, eval_splits=["test"], eval_langs=["eng-Latn"], main_score=main,
        dataset={"path": f"local/{name}", "revision": "1"},
        **{"category": "t2t", "modalities": ["text"], **more},
    )  # fmt: skip


class LocalSts(AbsTaskSTS):
    metadata = _meta("LocalSts", "STS", "cosine_spearman")
    min_score, max_score = 0, 5

    def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
        rows = sts_rows(30)
        columns = {"sentence1": [r[2] for r in rows], "sentence2": [r[3] for r in rows], "score": [r[1] for r in rows]}
        self.dataset = {"default": datasets.DatasetDict(test=datasets.Dataset.from_dict(columns))}
        self.data_loaded = True


class LocalRetrieval(AbsTaskRetrieval):
    metadata = _meta("LocalRetrieval", "Retrieval", "ndcg_at_10")

    def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
        texts = sentences(40, 3)
        corpus = [{"id": f"d{i}", "title": "", "text": text} for i, text in enumerate(texts)]
        queries = [{"id": f"q{i}", "text": " ".join(texts[i].split()[:3])} for i in range(10)]
        self.dataset = {
            "default": {
                "test": RetrievalSplitData(
                    corpus=datasets.Dataset.from_list(corpus),
                    queries=datasets.Dataset.from_list(queries),
                    relevant_docs={f"q{i}": {f"d{i}": 1} for i in range(10)},
                    top_ranked=None,
                )
            }
        }
        self.data_loaded = True


class LocalClassification(AbsTaskClassification):
    metadata = _meta("LocalClassification", "Classification", "accuracy")
    samples_per_label, n_experiments = 8, 2

    def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
        texts = sentences(80, 4)
        rows = {"text": texts, "label": [int("cat" in text) for text in texts]}
        self.dataset = datasets.DatasetDict(
            train=datasets.Dataset.from_dict(rows), test=datasets.Dataset.from_dict(rows)
        )
        self.data_loaded = True


IMAGES = [Image.new(mode, (2, 2), color) for mode, color in (("RGB", (9, 0, 0)), ("L", 90), ("RGBA", (0, 0, 9, 255)))]
NAMES = ["one", "two", "three"]


class Towers(Described):
    """Images 0, 1, 2 by their colour have the vectors of the words one, two, three."""

    def encode(self, inputs: Any, **options: Any) -> np.ndarray:
        if isinstance(inputs[0], str):
            return super().encode(inputs, **options)
        assert all(image.mode == "RGB" for image in inputs)
        places = [(9, 0, 0), (90, 90, 90), (0, 0, 9)]
        return super().encode([NAMES[places.index(image.getpixel((0, 0)))] for image in inputs])


class LocalZeroShot(AbsTaskZeroShotClassification):
    metadata = _meta(
        "LocalZeroShot", "ZeroShotClassification", "accuracy", category="i2t", modalities=["image", "text"]
    )

    def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
        rows = {"image": IMAGES, "label": [0, 1, 2]}
        features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
        self.dataset = {"default": datasets.DatasetDict(test=datasets.Dataset.from_dict(rows, features))}
        self.data_loaded = True

    def get_candidate_labels(self) -> list[str]:
        return NAMES


class LocalImageText(AbsTaskRetrieval):
    metadata = _meta(
        "LocalImageText", "Any2AnyRetrieval", "hit_rate_at_1", category="i2t", modalities=["text", "image"]
    )
    k_values = (1, 5, 10)

    def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
        texts = [f"{name} {more}" for name in NAMES for more in ("and", "so")]
        queries = {"id": ["q0", "q1", "q2"], "image": IMAGES}
        features = datasets.Features({"id": datasets.Value("string"), "image": datasets.Image()})
        self.dataset = {
            "default": {
                "test": RetrievalSplitData(
                    corpus=datasets.Dataset.from_dict({"id": [f"d{i}" for i in range(6)], "text": texts}),
                    queries=datasets.Dataset.from_dict(queries, features),
                    relevant_docs={f"q{i}": {f"d{2 * i}": 1, f"d{2 * i + 1}": 1} for i in range(3)},
                    top_ranked=None,
                )
            }
        }
        self.data_loaded = True


TEXT_TASKS = (LocalSts, LocalRetrieval, LocalClassification)


@pytest.fixture(scope="module")
def static() -> Any:
    """A small sentence-transformers model with random vectors for words."""
    st = pytest.importorskip("sentence_transformers")
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers

    from tests.evaluation.toys import WORDS

    torch.manual_seed(0)
    vocabulary = {word: place for place, word in enumerate(["[UNK]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    module = st.sentence_transformer.modules.StaticEmbedding(tokenizer, embedding_dim=16)
    return st.SentenceTransformer(modules=[module], device="cpu")


def test_it_is_an_encoder_of_mteb() -> None:
    assert isinstance(MtebEncoder(Described()), mteb.EncoderProtocol)


@pytest.mark.parametrize("task", TEXT_TASKS)
def test_scores_equal_those_of_sentence_transformers(task: Any, static: Any) -> None:
    ours = mteb.evaluate(MtebEncoder(static), task(), cache=None, co2_tracker=False, show_progress_bar=False)
    theirs = mteb.evaluate(static, task(), cache=None, co2_tracker=False, show_progress_bar=False)
    (ours_row,), (theirs_row,) = ours.task_results[0].scores["test"], theirs.task_results[0].scores["test"]
    assert ours_row["main_score"] == pytest.approx(theirs_row["main_score"], abs=1e-4)
    assert 0.1 < abs(ours_row["main_score"]) < 1 or task is LocalSts


def test_image_tasks_run_offline_and_images_arrive_in_rgb() -> None:
    report = open_mteb([LocalZeroShot(), LocalImageText()]).run(Towers(), name="towers")
    assert report.scores == {"LocalZeroShot": 100.0, "LocalImageText": 100.0, "avg": 100.0}
    assert report.tasks["LocalImageText"].metric == "hit_rate_at_1"
    assert report.model["name"] == "towers"


def test_a_suite_of_tasks_gives_a_report_like_any_other() -> None:
    report = open_mteb([LocalSts(), LocalClassification()]).run(Described(), name="toy")
    content = report.to_json()
    assert list(content["scores"]) == ["LocalSts", "LocalClassification", "avg"]
    assert report.scores["LocalSts"] == pytest.approx(100 * report.tasks["LocalSts"].metrics["cosine_spearman"])
    assert report.main == pytest.approx(np.mean([report.scores["LocalSts"], report.scores["LocalClassification"]]))
    assert content["settings"]["data"]["LocalSts"] == {"source": "local/LocalSts", "revision": "1"}


def test_two_checkpoints_with_one_name_get_two_scores(tmp_path: Path) -> None:
    results = mteb.ResultCache(tmp_path)
    scores, revisions = [], []
    for seed in (0, 1):
        encoder = MtebEncoder(Described(seed=seed), "same")
        ran = mteb.evaluate(encoder, LocalSts(), cache=results, co2_tracker=False, show_progress_bar=False)
        scores.append(ran.task_results[0].scores["test"][0]["main_score"])
        revisions.append(encoder.mteb_model_meta.revision)
    assert scores[0] != scores[1]
    assert revisions[0] != revisions[1] != MtebEncoder(BagOfWords(), "same").mteb_model_meta.revision
    assert MtebEncoder(Described(), "same").mteb_model_meta.revision == revisions[0]
    assert MtebEncoder(Described(), "same", dim=4).mteb_model_meta.revision != revisions[0]


@pytest.mark.parametrize(
    ("names", "side", "wanted"),
    [
        ({"STS", "query"}, None, "STS"),
        ({"STS", "query", "STS-query"}, "query", "STS-query"),
        ({"LocalSts", "STS-query"}, "query", "LocalSts"),
        ({"query", "passage"}, "document", "passage"),
        ({"query"}, None, None),
    ],
)
def test_the_most_special_prompt_is_taken(names: set[str], side: str | None, wanted: str | None) -> None:
    model = Described()
    model.prompts = dict.fromkeys(names, "text")  # type: ignore[attr-defined]
    encoder = MtebEncoder(model)
    assert encoder.prompt_for(LocalSts.metadata, side) == wanted
    assert MtebEncoder(model, prompt="mine").prompt_for(LocalSts.metadata, side) == "mine"


def test_prompts_of_retrieval_go_to_their_side() -> None:
    model = Described()
    model.prompts = {"query": "q: ", "document": "d: "}  # type: ignore[attr-defined]
    open_mteb([LocalRetrieval()]).run(model)
    assert set(model.prompts_used) == {"q: ", "d: "}


def test_vectors_are_shared_with_other_suites() -> None:
    cache, model = EmbeddingCache(), Described()
    open_mteb([LocalSts()]).run(model, cache=cache)
    again = Described()
    open_mteb([LocalSts()]).run(again, cache=cache)
    assert model.asked
    assert again.asked == []


def test_non_finite_vectors_never_give_a_score() -> None:
    class Sick(BagOfWords):
        def encode(self, inputs: Any, **options: Any) -> np.ndarray:
            vectors = super().encode(inputs)
            vectors[0, 0] = np.nan
            return vectors

    with pytest.raises(NonFiniteError):
        open_mteb([LocalRetrieval()]).run(Sick())


def test_names_of_tasks() -> None:
    assert metric_names("mteb:STS12, SciFact") == ["mteb/STS12", "mteb/SciFact", "mteb/avg"]
    with pytest.raises(UserError, match="names no task"):
        metric_names("mteb:")
    with pytest.raises(UserError, match="mteb has no task and no benchmark 'STS1234'"):
        evaluate(BagOfWords(), "mteb:STS1234")
    with pytest.raises(UserError, match="take no task list or settings"):
        evaluate(BagOfWords(), "mteb:STS12", tasks=["STS12"])


def test_benchmarks_are_known_by_name() -> None:
    names = [task.metadata.name for task in mteb.get_benchmark("MTEB(eng, v2)").tasks]
    assert metric_names("mteb:MTEB(eng, v2)") == [f"mteb/{name}" for name in [*names, "avg"]]
    assert len(open_mteb("mteb:NanoBEIR, STS12").tasks) == len(mteb.get_benchmark("NanoBEIR").tasks) + 1
    with pytest.raises(UserError) as error:
        metric_names("mteb:MTEB(eng, v3)")
    assert "MTEB(eng, v2)" in str(error.value.remedy)


def test_results_are_written_in_the_form_of_mtebs_leaderboard(tmp_path: Path) -> None:
    suite = open_mteb([LocalSts()])
    suite.results = tmp_path
    report = suite.run(Described(), name="org/mine")
    (path,) = (tmp_path / "results" / "org__mine").glob("*/LocalSts.json")
    assert (path.parent / "model_meta.json").is_file()
    stored = mteb.ResultCache(tmp_path).load_results(validate_and_filter=False).model_results[0].task_results[0]
    assert stored.get_score() == pytest.approx(report.scores["LocalSts"] / 100)
