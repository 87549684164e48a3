"""The first hour: few rows of one's own with a shipped recipe, as they stand."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embedkit
from embedkit.config.recipe_io import load_recipe
from embedkit.data.datasets.holdout import connected, split
from embedkit.data.datasets.row_table import facts_of, table_of
from embedkit.errors import DataError, RecipeError
from embedkit.formats import load
from embedkit.training import plan, setup, train
from embedkit.training.evaluation.holdout import recall_at_1
from tests.helpers import image_data
from tests.training import common, runs

TEXT = {**common.model_config().model_dump(exclude_none=True), "name": None}


def faq(folder: Path, count: int = 60, **more: Any) -> Path:
    """A file of `count` different pairs."""
    with open(folder / "faq.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["anchor", "positive", *more])
        texts = zip(common.texts(count), common.texts(count, 1), strict=True)
        writer.writerows(
            [f"{number} {a}", f"{b} {number}", *(make(number) for make in more.values())]
            for number, (a, b) in enumerate(texts)
        )
    return folder / "faq.csv"


def pairs(folder: Path, *overrides: str, **options: Any) -> tuple[Any, runs.Recorder]:
    """The shipped recipe ``pairs`` on the file of a folder, with a tiny model; the result and what was said."""
    progress = runs.Recorder()
    settings = {"model": TEXT, "data.train": [{"path": str(folder / "faq.csv")}]}
    recipe = load_recipe(load_recipe("pairs", settings), list(overrides))
    return train(recipe, output=folder / "run", progress=progress, **options), progress


def test_sixty_rows_train_with_a_batch_that_fits_and_a_verdict(tmp_path: Path) -> None:
    faq(tmp_path)
    result, progress = pairs(tmp_path)
    assert result.steps == 6  # 54 rows in batches of 8
    written = load_recipe(tmp_path / "run" / "recipe.yaml")
    assert (written.train.batch_size, written.train.holdout) == (8, 0.1)
    fitted = "54 rows do not fill the recipe's batches of 64: train.batch_size is 8 here"
    assert any(fitted in x for x in progress.lines)
    assert any(x.startswith("54 rows; 6 steps of 8 rows (1 epoch); 6 held out") for x in progress.lines)
    kept = json.loads((tmp_path / "run" / "holdout.json").read_text())
    assert result.holdout == kept
    assert (kept["metric"], kept["kind"], kept["rows"]) == ("recall@1", "pairs", 6)
    last = f"recall@1 on your 6 held-out pairs {kept['before']:.1f} -> {kept['after']:.1f}"
    assert progress.lines[-1] == last
    again, progress = pairs(tmp_path, resume=True)
    assert again.holdout == kept
    assert any(x.startswith("all 6 steps are done (") for x in progress.lines)
    assert progress.lines[-1] == last


@pytest.mark.parametrize(("name", "told"), [("pairs", True), ("scored-pairs", False)])
def test_equal_texts_are_told_where_rows_are_negatives_and_not_where_pairs_have_scores(
    tmp_path: Path, name: str, told: bool
) -> None:
    rows = [f"question {i % 30},{'question' if i % 3 else 'answer'} {i % 30},{i % 5}" for i in range(60)]
    (tmp_path / "own.csv").write_text("sentence1,sentence2,score\n" + "\n".join(rows) + "\n")
    given = {"model": TEXT, "data.train": [{"path": str(tmp_path / "own.csv")}], "data.sampler": "shuffled"}
    recipe = load_recipe(load_recipe(name, given))
    notes = setup.open_rows(recipe, setup.check(recipe)).notes
    assert any("equal their anchors" in note or "occurred in an earlier row" in note for note in notes) == told


def test_the_verdict_is_that_of_the_saved_model_on_rows_that_were_not_trained(tmp_path: Path) -> None:
    faq(tmp_path)
    result, _ = pairs(tmp_path, "train.lr=1e-3", "train.epochs=2")
    recipe = load_recipe(tmp_path / "run" / "recipe.yaml")
    rows = setup.open_rows(recipe, setup.check(recipe))
    held_out = rows.held_out()
    trained = {row["anchor"] for batch in rows.batches(0) for row in batch.rows}
    assert len(held_out) == 6 and not trained & {row["anchor"] for row in held_out}
    model = load(result.output)
    first, second = (model.encode([row[role] for row in held_out]) for role in ("anchor", "positive"))
    assert result.holdout["after"] == pytest.approx(recall_at_1(first @ second.T, np.eye(6, dtype=bool)))


@pytest.mark.parametrize("override", ["evaluation=null", "train.holdout=0"])
def test_holding_out_can_be_switched_off(tmp_path: Path, override: str) -> None:
    faq(tmp_path)
    result, progress = pairs(tmp_path, override)
    assert result.holdout == {}
    assert any(line.startswith("60 rows; ") for line in progress.lines)
    assert load_recipe(tmp_path / "run" / "recipe.yaml").train.holdout == 0


def test_an_own_evaluation_takes_the_place_of_the_held_out_rows() -> None:
    recipe = load_recipe("pairs", ["evaluation={suite: builtin-sts, split: test}"])
    assert setup.holdout_share(recipe) == 0.0
    assert setup.holdout_share(load_recipe("pairs")) == 0.1


def test_a_batch_that_the_user_set_and_that_cannot_be_filled_is_refused_with_a_remedy(tmp_path: Path) -> None:
    faq(tmp_path)
    with pytest.raises(DataError, match=r"54 rows of .* do not fill one batch of 64; lower it to 54 or less"):
        pairs(tmp_path, "train.batch_size=64")
    assert not (tmp_path / "run").exists()


def test_a_batch_is_fitted_where_equal_texts_do_not_fill_one_and_kept_where_rows_fill_it(tmp_path: Path) -> None:
    with open(tmp_path / "faq.csv", "w", encoding="utf-8") as file:  # 100 rows, 20 different answers
        file.write("anchor,positive\n" + "".join(f"question {n},answer {n % 20}\n" for n in range(100)))
    recipe = load_recipe("pairs", {"model": TEXT, "data.train": [{"path": str(tmp_path / "faq.csv")}]})
    rows = setup.open_rows(recipe, setup.check(recipe))
    assert rows.batch_size == 16
    faq(tmp_path, 200)
    rows = setup.open_rows(recipe, setup.check(recipe))
    assert (rows.batch_size, setup.as_opened(recipe, rows).train.batch_size) == (64, 64)


def test_the_plan_is_that_of_the_fitted_run(tmp_path: Path) -> None:
    faq(tmp_path)
    recipe = load_recipe("pairs", {"model": TEXT, "data.train": [{"path": str(tmp_path / "faq.csv")}]})
    facts = plan(recipe)
    assert (facts.batch["rows"], facts.steps["total"], facts.rows["held_out"]) == (8, 6, 6)


def test_scored_pairs_are_held_out_and_scored_by_rank_correlation(tmp_path: Path) -> None:
    faq(tmp_path, score=lambda number: number % 5)
    recipe = load_recipe("scored-pairs", {"model": TEXT, "data.train": [{"path": str(tmp_path / "faq.csv")}]})
    result = train(recipe, output=tmp_path / "run", progress=runs.Recorder())
    assert (result.holdout["metric"], result.holdout["kind"]) == ("spearman", "scored pairs")
    assert -100 <= result.holdout["after"] <= 100


def test_the_line_at_the_start_counts_cut_repeated_missing_and_left_over(tmp_path: Path) -> None:
    with open(tmp_path / "rows.jsonl", "w", encoding="utf-8") as file:
        for number in range(40):
            answer = "cat " * (100 if number % 30 < 5 else 3) + str(number % 30)
            row = {"anchor": f"question {number}", "positive": answer}
            file.write(json.dumps(row | ({"negative_1": f"dog {number}"} if number % 2 else {})) + "\n")
    progress = runs.Recorder()
    given = runs.recipe(data={"train": [{"path": str(tmp_path / "rows.jsonl")}]}, train={"batch_size": 12})
    runs.run(tmp_path / "run", given, progress=progress)
    # 40 anchors, 40 positives and 20 negatives; 10 positives are longer than 24 tokens
    wanted = (
        "40 rows; 4 steps of 12 rows (1.33 epochs); 10.0% of the texts fill all 24 tokens and are cut there; "
        "10 duplicate positives; 20 rows without hard negatives; 4 rows left over in each epoch"
    )
    assert wanted in progress.lines
    figures = plan(load_recipe(given))
    assert figures.summary == wanted
    assert not any("cut" in line or "left over" in line for line in figures.warnings)


def test_a_plan_tells_what_a_run_tells_of_columns_views_and_prompts(tmp_path: Path) -> None:
    faq(tmp_path)
    own = {"model": {**TEXT, "prompts": {"query": "query: ", "passage": "passage: "}}}
    given = {**own, "data.train": [{"path": str(tmp_path / "faq.csv")}], "train.max_steps": 1, "evaluation": None}
    for name in ("pairs", "simcse-unsup"):
        progress = runs.Recorder()
        train(load_recipe(name, given), output=tmp_path / name, progress=progress)
        figures = plan(load_recipe(name, given))
        said = [*figures.warnings, *figures.notes, figures.summary]
        assert said and set(said) <= set(progress.lines)
        of_start = progress.lines[: progress.lines.index(figures.summary) + 1]
        assert set(of_start) <= set(said)


def test_120_captions_train_the_shipped_clip_small_and_their_images_are_never_shared(tmp_path: Path) -> None:
    pictures = image_data.samples(40)
    image_data.write_csv(tmp_path, pictures)
    with open(tmp_path / "captions.csv", "w", encoding="utf-8") as file:
        names = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.png"))
        file.write("image,caption\n" + "".join(f"{names[n % 40]},{n} {pictures[n % 40][1]}\n" for n in range(120)))
    settings = {"model": image_data.DUAL, "data.train": [{"path": str(tmp_path / "captions.csv")}], "train.epochs": 1}
    progress = runs.Recorder()
    result = train(load_recipe("clip-small", settings), output=tmp_path / "run", progress=progress)
    assert any("do not fill the recipe's batches of 128: train.batch_size is" in line for line in progress.lines)
    assert result.holdout["kind"] == "image-caption pairs"
    assert 4 <= result.holdout["rows"] <= 24
    assert 0 <= result.holdout["after"] <= 100
    assert progress.lines[-1].startswith(f"recall@1 on your {result.holdout['rows']} held-out image-caption pairs ")


# -- the split ------------------------------------------------------------------------------------------------------


def test_held_out_rows_share_no_text_or_group_with_trained_ones() -> None:
    rng = np.random.default_rng(3)
    rows = [
        {"anchor": f"a{rng.integers(300)}", "positive": f"p{rng.integers(300)}", "group": int(rng.integers(400))}
        for _ in range(200)
    ]
    facts = facts_of(table_of(rows))
    sets = connected(facts)
    for one in range(200):  # tied together by any number of steps: equal numbers
        for other in range(one):
            if any(rows[one][role] == rows[other][role] for role in rows[one]):
                assert sets[one] == sets[other]
    trained, held_out = split(facts, 0.1, seed=5)
    assert sorted([*trained, *held_out]) == list(range(200))
    assert 20 <= len(held_out) <= 40
    for role in ("anchor", "positive", "group"):
        assert not {rows[i][role] for i in trained} & {rows[i][role] for i in held_out}
    again = split(facts, 0.1, seed=5)
    assert all(np.array_equal(x, y) for x, y in zip(again, (trained, held_out), strict=True))
    assert not np.array_equal(split(facts, 0.1, seed=6)[1], held_out)


def test_nothing_is_held_out_of_rows_that_are_all_tied_together_and_a_line_says_so(tmp_path: Path) -> None:
    rows = [{"anchor": f"a{i}", "positive": "the same"} for i in range(60)]
    trained, held_out = split(facts_of(table_of(rows)), 0.1, seed=5)
    assert (len(trained), len(held_out)) == (60, 0)
    with open(tmp_path / "faq.csv", "w", encoding="utf-8") as file:
        file.write("anchor,positive\n" + "".join(f"question {n},the same\n" for n in range(60)))
    result, progress = pairs(tmp_path, "data.sampler=shuffled")
    assert result.holdout == {}
    assert any(line.startswith("nothing is held out: ") for line in progress.lines)


# -- prompts --------------------------------------------------------------------------------------------------------


def test_prompts_of_training_are_saved_as_query_and_document(tmp_path: Path) -> None:
    faq(tmp_path)
    prompts = "method={name: pairs, prompts: {anchor: 'query: ', positive: 'passage: '}}"
    result, progress = pairs(tmp_path, prompts)
    model = load(result.output)
    assert model.prompts == {"query": "query: ", "document": "passage: "}
    assert np.array_equal(model.encode(["a cat"], prompt="query"), model.encode(["query: a cat"]))
    line = "prompts in training: anchor 'query: ', positive 'passage: '; they are saved with the model as query and"
    assert any(said.startswith(line) for said in progress.lines)


def test_a_model_with_prompts_for_queries_and_documents_is_trained_with_them(tmp_path: Path) -> None:
    faq(tmp_path)
    own = "model.prompts={query: 'query: ', passage: 'passage: '}"
    spoken, progress = pairs(tmp_path, own)
    assert any(line.startswith("the model's own prompts are used in training: anchor 'query: ', positive 'passage: '")
               for line in progress.lines)  # fmt: skip
    (tmp_path / "other").mkdir()
    faq(tmp_path / "other")
    by_hand = "method={name: pairs, prompts: {anchor: 'query: ', positive: 'passage: '}}"
    set_by_hand, _ = pairs(tmp_path / "other", by_hand)
    assert spoken.losses == set_by_hand.losses
    (tmp_path / "without").mkdir()
    faq(tmp_path / "without")
    without, progress = pairs(tmp_path / "without", own, "method={name: pairs, prompts: {}}")
    assert without.losses != spoken.losses
    assert not any("prompts" in line for line in progress.lines)


def test_a_prompt_for_what_is_no_role_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"method\.prompts: prompts are for roles, and 'question' is none"):
        setup.check(load_recipe("pairs", ["method={name: pairs, prompts: {question: 'query: '}}"]))


def test_evaluation_data_is_scored_beside_settings_of_the_evaluation(tmp_path: Path) -> None:
    rows = [{"sentence1": f"{i} dogs", "sentence2": f"{i % 5} dogs run", "score": float(i % 7)} for i in range(30)]
    result = embedkit.train(
        "quickstart", smoke=True, evaluation_data=rows, evaluation={"every": 2}, output=tmp_path / "run"
    )
    assert len(result.scores) == 1 and result.best["value"] is not None
