"""Writers, answers of every form, kinds of rows, files of requests; failures, kills and mistakes."""

from __future__ import annotations

import errno
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import embedkit
from embedkit.cli.app import main
from embedkit.config.recipe_io import load_recipe
from embedkit.data import open_training, read_rows
from embedkit.errors import DataError, UserError
from embedkit.methods import methods
from embedkit.mining.generation.answers import texts_of, triplet_of
from embedkit.mining.generation.templates import TEMPLATES, template_of
from embedkit.mining.rows.journal import Journal

OWN = """
import json, os, re, time
def text_of(prompt): return prompt.split("\\n\\n")[1]
def write(prompt):
    with open("calls.txt", "a") as file:
        file.write("x")
    if os.path.exists("slow"):
        time.sleep(0.02)
    count = int((re.findall(r"Write (\\d+)", prompt) or ["1"])[0])
    return json.dumps([f"{text_of(prompt)} again {n}" for n in range(count)])
def triplet(prompt): return {"positive": text_of(prompt) + " yes", "negative": text_of(prompt) + " no"}
def batch(prompts): return [write(prompt) for prompt in prompts]
def few(prompts): return ["x"]
def number(prompt): return 3
def fail(prompt): raise RuntimeError("no\\nnetwork")
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(OWN)
    Path("texts.txt").write_text("".join(f"text number {number}\n" for number in range(20)))
    Path("docs.csv").write_text(
        "id,text,topic\nd1,a passage on cats,x\nd2,a passage on dogs,y\nd3,a passage on cats,x\n"
    )
    Path("pairs.csv").write_text("anchor,positive\npay?,by card\nopen?,at nine\n")
    return tmp_path


@pytest.mark.parametrize(("answer", "texts"), [
    ('["one", "two"]', ["one", "two"]),
    ('```json\n["one",\n "two"]\n```', ["one", "two"]),
    ('Sure! Here they are:\n["one", "two"]\nHope that helps.', ["one", "two"]),
    ('{"queries": ["one", "two"]}', ["one", "two"]),
    ('[{"query": "one"}, {"query": "two"}]', ["one", "two"]),
    ('["one", "two", "thr', ["one", "two"]),  # cut off by a limit of tokens
    ('["say \\"one\\"", "caf\\u00e9"]', ['say "one"', "caf\u00e9"]),
    ("1. one\n2) two", ["one", "two"]),
    ("Here are two:\n\n- one\n* two\n", ["one", "two"]),
    ('(1) "one"\n(2) \u201ctwo\u201d', ["one", "two"]),
    ("one\ntwo", ["one", "two"]),
    ("<think>\n1. hm\n</think>\none\ntwo", ["one", "two"]),
    (["one", "two"], ["one", "two"]),
    ("one", ["one"]),
    ("3 cats are here", ["3 cats are here"]),
    ("[see above]", ["[see above]"]),
    ("", []), ("   ", []), ("[]", ["[]"]), ("[1, 2]", []), ("[[[[", ["[[[["]),
    ("I'm sorry, I can't help with that.", []), ("As an AI language model, I cannot", []),
    ("\u732b\u304c\u3044\u308b", ["\u732b\u304c\u3044\u308b"]),
    ("__import__('os').system('x')", ["__import__('os').system('x')"]),
], ids=repr)  # fmt: skip
def test_answers_of_every_form(answer: Any, texts: list[str]) -> None:
    result = texts_of(answer, "the text", 2)
    assert result.texts == texts
    assert bool(result.rejections) == (not texts)


def test_what_is_left_out_is_counted() -> None:
    answer = ["The  text.", "one", "ONE", "", "I cannot do that", "two", "three", "a\x00b"]
    result = texts_of(answer, "the text", 2)
    assert result.texts == ["one", "two"]
    assert result.rejections.pop("too many") == 1
    assert result.rejections["same as the text"] == result.rejections["repeat"] == result.rejections["refusal"] == 1
    assert triplet_of('{"Positive": "a", "Negative": "b"}', "x").texts == ["a", "b"]
    assert triplet_of('Here: {"positive": "a", "negative": "b"}', "x").texts == ["a", "b"]
    for bad in (
        '{"positive": "a"}',
        "nothing",
        '{"positive": "a", "negative": "A."}',
        '{"positive": "x", "negative": "b"}',
    ):
        assert triplet_of(bad, "x").texts == [] and triplet_of(bad, "x").rejections
    assert triplet_of("I'm sorry.", "x").rejections == Counter({"refusal": 1})


def test_templates_hold_the_text_and_nothing_of_it_is_a_template() -> None:
    for name, template in TEMPLATES.items():
        prompt = template.of("a {number} {text} %s", 7)
        assert prompt.count("a {number} {text} %s") == 1 and (name == "triplets" or "7" in prompt)
        assert template_of(name) is template
        assert "{text}" not in prompt.replace("a {number} {text} %s", "")


@pytest.mark.parametrize("name", ["o.jsonl", "o.parquet"])
def test_positives_of_lines_are_pairs_that_train(here: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "texts.txt", name, "-w", "own.py:write", "-n", "2", "--json", "r.json"]) == 0
    rows = list(read_rows(name))
    assert rows[:2] == [
        {"anchor": "text number 0", "positive": f"text number 0 again {n}", "group": "g0"} for n in (0, 1)
    ]
    assert len(rows) == 40
    data = open_training(load_recipe("pairs", [name]).data, methods["pairs"]().contract, batch_size=8, seed=0)
    assert data.num_rows is not None
    report = json.loads(Path("r.json").read_text())
    assert report["requests"] == 20 and report["accepted"] == 40 and report["failures"] == 0
    assert "20 rows read, 20 different texts: 20 requests" in capsys.readouterr().out
    # again: nothing is asked twice, and Python gives the same
    calls = Path("calls.txt").stat().st_size
    result = embedkit.generate("texts.txt", "own.py:write", number=2, cache="o.answers.jsonl")
    assert result.rows == rows and result.report.reused == 20 and Path("calls.txt").stat().st_size == calls
    other = embedkit.generate("texts.txt", "own.py:write", number=1, cache="o.answers.jsonl")
    assert other.report.requests == 20 and "group" not in other.rows[0]


def test_queries_of_passages_have_ids_and_are_asked_once_for_equal_texts(here: Path) -> None:
    result = embedkit.generate("docs.csv", "own.py:write", template="queries", number=2)
    assert result.report.texts == 2 and result.report.requests == 2
    assert [row["positive_id"] for row in result.rows] == ["d1", "d1", "d2", "d2", "d3", "d3"]
    assert result.rows[0] == {
        "anchor": "a passage on cats again 0", "positive": "a passage on cats", "positive_id": "d1", "group": "g0",
    }  # fmt: skip


def test_triplets_negatives_and_rankings(here: Path) -> None:
    triplets = embedkit.generate("texts.txt", "own.py:triplet", template="triplets", limit=2)
    assert triplets.rows[1] == {
        "anchor": "text number 1",
        "positive": "text number 1 yes",
        "negative": "text number 1 no",
    }
    negatives = embedkit.generate("pairs.csv", "own.py:write", template="negatives", number=2, output="n.jsonl")
    assert negatives.rows[0] == {"anchor": "pay?", "positive": "by card", "negative_1": "pay? again 0",
                                 "negative_2": "pay? again 1"}  # fmt: skip
    data = open_training(load_recipe("pairs", ["n.jsonl"]).data, methods["pairs"]().contract, batch_size=2, seed=0)
    assert data.summary()["hard_negatives"] == {"min": 2, "max": 2}
    ranking = embedkit.generate("texts.txt", "own.py:write", template="ranking", number=4, limit=1)
    assert ranking.rows == [{
        "anchor": "text number 0", "positive": "text number 0 again 0",
        "negatives": [f"text number 0 again {n}" for n in (1, 2, 3)], "scores": [1.0, 0.75, 0.5, 0.25],
    }]  # fmt: skip


def test_batches_threads_and_commands_give_the_same(here: Path) -> None:
    plain = embedkit.generate("texts.txt", "own.py:write").rows
    assert embedkit.generate("texts.txt", "own.py:batch", batch_size=6, parallel=3).rows == plain
    Path("echo.py").write_text(
        "import sys, json\nfrom own import write\n"
        "if len(sys.argv) > 1:\n"
        "    lines = [json.loads(line) for line in sys.stdin]\n"
        "    print('\\n'.join(json.dumps({'id': x['id'], 'answer': write(x['prompt'])}) for x in lines[::-1]))\n"
        "else:\n    print(write(sys.stdin.read()))\n"
    )
    rows = embedkit.generate("texts.txt", command=[sys.executable, "echo.py"], limit=4, parallel=2).rows
    assert rows == plain[:4]
    assert embedkit.generate("texts.txt", command=f"{sys.executable} echo.py x", batch_size=9).rows == plain
    quoted = embedkit.generate(["$(touch harm); `touch harm`"], command="cat", template="positives")
    assert not Path("harm").exists() and quoted.rows  # no shell reads it


def test_failures_are_repeated_then_counted_then_too_many(here: Path) -> None:
    calls: Counter[str] = Counter()
    lock = threading.Lock()

    def flaky(prompt: str) -> str:
        text = prompt.split("\n\n")[1]
        with lock:
            calls[text] += 1
        if text.endswith("3") or calls[text] < 3:
            raise ConnectionError("busy")
        return f"{text} again"

    result = embedkit.generate("texts.txt", flaky, retries=2, backoff=0, parallel=4)
    assert result.report.failures == 2 and len(result.rows) == 18 and set(calls.values()) == {3}
    assert result.report.calls == 60 and result.report.without == 2
    with pytest.raises(
        UserError, match=r"own\.py:fail: 3 requests failed, the last one: RuntimeError: no network; mend the writer"
    ):
        embedkit.generate("texts.txt", "own.py:fail", retries=0, max_failures=2, output="f.jsonl")
    kept = r"busy; mend the writer, .*; the answers so far are kept in .*f\.answers\.jsonl, and the same call goes on"
    with pytest.raises(UserError, match=kept):
        embedkit.generate("texts.txt", flaky, retries=0, max_failures=0, output="f.jsonl")
    with pytest.raises(DataError, match="no answer holds a text"):
        embedkit.generate("texts.txt", "own.py:fail", retries=0, max_failures=20)


def test_backoff_doubles(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("embedkit.mining.generation.writers.time.sleep", pauses.append)
    with pytest.raises(UserError):
        embedkit.generate(["a"], "own.py:fail", retries=8, backoff=0.5, max_failures=0)
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0]


def test_a_killed_call_goes_on_where_it_was(here: Path) -> None:
    whole = embedkit.generate("texts.txt", "own.py:write", number=3).rows
    Path("calls.txt").unlink()
    Path("slow").touch()
    code = "import embedkit; embedkit.generate('texts.txt', 'own.py:write', number=3, output='o.jsonl', parallel=2)"
    for calls in (3, 9):  # killed twice
        run = subprocess.Popen([sys.executable, "-c", code], env={**os.environ})
        deadline = time.monotonic() + 60
        while (
            not Path("calls.txt").exists() or Path("calls.txt").stat().st_size < calls
        ) and time.monotonic() < deadline:
            time.sleep(0.005)
        run.send_signal(signal.SIGKILL)
        run.wait()
        assert not Path("o.jsonl").exists()
    Path("slow").unlink()
    before = Path("calls.txt").stat().st_size
    result = embedkit.generate("texts.txt", "own.py:write", number=3, output="o.jsonl")
    assert result.report.reused >= 3 and Path("calls.txt").stat().st_size - before == 20 - result.report.reused
    assert result.rows == whole == list(read_rows("o.jsonl"))


def test_a_journal_loses_the_cut_line_alone_and_spares_other_files(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    with Journal(path) as journal:
        journal.put({"a": 1, "b": ["x"]})
        with pytest.raises(UserError, match="another process is writing it"), Journal(path):
            pass
    whole = path.read_bytes()
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        with Journal(path) as journal:
            assert len(journal) == whole[:cut].count(b"\n")
            journal.put({"c": 3})
        with Journal(path) as journal:
            assert journal["c"] == 3
    for content in (b"my notes", b"a,b\n1,2\n", b'{"text": "a cat"}\n'):
        path.write_bytes(content)
        with pytest.raises(DataError, match="is no line of a journal"), Journal(path):
            pass
        assert path.read_bytes() == content


def test_requests_and_answers_as_files(here: Path) -> None:
    words = ["generate", "docs.csv", "requests.jsonl", "-t", "queries", "-n", "2", "--as-requests"]
    assert main(words) == 0
    requests = list(read_rows("requests.jsonl"))
    assert len(requests) == 2 and "a passage on cats" in requests[0]["prompt"]
    answers = [{"custom_id": one["custom_id"], "answer": f'["q{i} a", "q{i} b"]'} for i, one in enumerate(requests)]
    Path("answers.jsonl").write_text("".join(json.dumps(one) + "\n" for one in answers))
    assert main(["generate", "docs.csv", "o.jsonl", "-t", "queries", "-n", "2", "--answers", "answers.jsonl"]) == 0
    assert [row["anchor"] for row in read_rows("o.jsonl")] == ["q0 a", "q0 b", "q1 a", "q1 b", "q0 a", "q0 b"]
    # the form of a chat service, one answer an error
    assert main([*words[:2], "chat.jsonl", *words[3:], "--chat-model", "some"]) == 0
    chat = list(read_rows("chat.jsonl"))
    assert chat[0]["body"]["model"] == "some" and chat[0]["custom_id"] == requests[0]["custom_id"]
    body = {"choices": [{"message": {"role": "assistant", "content": "1. one\n2. two"}}]}
    reply = {"status_code": 200, "body": body}
    replies = [{"id": "x", "custom_id": chat[0]["custom_id"], "response": reply, "error": None},
               {"id": "y", "custom_id": chat[1]["custom_id"], "response": None, "error": {"message": "m"}}]  # fmt: skip
    result = embedkit.generate("docs.csv", template="queries", number=2, answers=replies)
    assert [row["anchor"] for row in result.rows] == ["one", "two", "one", "two"]
    assert result.report.failures == 1 and "1 rows of the answers hold an error" in " ".join(result.report.notes)
    with pytest.raises(
        DataError, match="none of its 2 answers belongs to the 2 requests; give the same data, template"
    ):
        embedkit.generate("docs.csv", template="queries", number=3, answers=answers)
    with pytest.raises(DataError, match="no column for the answers"):
        embedkit.generate("docs.csv", template="queries", answers=requests)


@pytest.mark.parametrize("flaw", [
    ([], "nothing says who writes; give a writer"),
    (["-w", "own.py:write", "--command", "cat"], "writer and command are given"),
    (["-w", "own.py:nope"], "own.py: has no 'nope'"),
    (["-w", "own.py:number"], "own.py:number: returned int; return a text"),
    (["-w", "own.py:few", "--batch-size", "4"], "own.py:few: gave 1 answers for 4 prompts"),
    (["--command", "no-such-command-here x"], "no such command"),
    (["--command", "cat '"], "cannot be cut into words"),
    (["--command", "false", "--retries", "0", "--max-failures", "0"], "it ended with code 1"),
    (["--command", "sleep 5", "--timeout", "0.1", "--retries", "0", "--max-failures", "0"], "no answer after 0.1"),
    (["--command", "cat", "--batch-size", "2", "--retries", "0", "--max-failures", "0"], 'a line is not {"id"'),
    (["-w", "own.py:write", "-t", "positive"], "did you mean 'positives'?"),
    (["-w", "own.py:write", "-t", "plain.txt"], "kind: what a template of a file asks for is not known"),
    (["-w", "own.py:write", "-t", "plain.txt", "--kind", "positives"], "a template holds {text} once"),
    (["-w", "own.py:write", "-t", "plain.txt", "--kind", "nope"], "kind: 'nope' is no kind"),
    (["-w", "own.py:write", "-t", "queries", "--kind", "positives"], "is of the kind 'queries'"),
    (["-w", "own.py:write", "-t", "negatives"], "negatives are added to pairs, and there is no column of positives"),
    (["-w", "own.py:write", "-t", "triplets", "-n", "2"], "number: a triplet has one positive"),
    (["-w", "own.py:write", "-t", "ranking"], "number: a ranking has two texts or more"),
    (["-w", "own.py:write", "--chat-model", "x"], "--chat-model: it is for requests"),
    (["-w", "own.py:write", "--column", "nope"], "no column 'nope' (--column)"),
    (["-w", "own.py:write", "--cache", "plain.txt"], "plain.txt:1: is no line of a journal"),
    (["--answers", "none.jsonl"], "none.jsonl"),
], ids=lambda flaw: " ".join(flaw[0]))  # fmt: skip
def test_mistakes_are_one_line(here: Path, capsys: pytest.CaptureFixture[str], flaw: tuple[list[str], str]) -> None:
    Path("plain.txt").write_text("no slot")
    code = main(["generate", "texts.txt", "out.jsonl", *flaw[0]])
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert code == 2 and flaw[1] in line, line
    assert not Path("out.jsonl").exists()


def test_a_full_disk_is_a_line_and_answers_so_far_stay(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = embedkit.generate("texts.txt", "own.py:write").rows
    sync, count = os.fsync, itertools.count()

    def full(handle: int) -> None:
        if next(count) >= 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert main(["generate", "texts.txt", "o.jsonl", "-w", "own.py:write"]) == 2
        line = capsys.readouterr().err.strip().splitlines()[-1]
        assert "what was computed cannot be kept: no space left on the disk; free some space" in line
        for words in (["select", "texts.txt", "s.jsonl", "equal-text"], ["dedup", "texts.txt", "s.parquet"]):
            assert main(words) == 2
            assert "the rows cannot be written: no space left on the disk" in capsys.readouterr().err
    names = {path.name for path in here.iterdir()} - {"own.py", "texts.txt", "docs.csv", "pairs.csv", "calls.txt"}
    assert names - {"__pycache__"} == {"o.answers.jsonl"}
    result = embedkit.generate("texts.txt", "own.py:write", output="o.jsonl")
    assert result.rows == whole and 6 <= result.report.reused <= 7
