"""SentEval's own files, converted for the suite `transfer`."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from embedkit.evaluation import OpenSuite, open_suite
from tests.conftest import ROOT

FILES = {
    "MR/rt-polarity.pos": "a caf\xe9  , good\n\nfine\n",
    "MR/rt-polarity.neg": "bad\n",
    "CR/custrev.pos": 'the " best "\n',
    "CR/custrev.neg": "broke\ttwice\n",
    "SUBJ/subj.objective": "he leaves\n",
    "SUBJ/subj.subjective": "it is dull\n",
    "MPQA/mpqa.pos": "glad\n",
    "MPQA/mpqa.neg": "sad\n",
    "SST/binary/sentiment-train": "nice film\t1\ndull film\t0\n",
    "SST/binary/sentiment-dev": "so nice\t1\n",
    "SST/binary/sentiment-test": "so dull\t0\n",
    "TREC/train_5500.label": "HUM:ind Who was it : he ?\nLOC:city Which town ?\n",
    "TREC/TREC_10.label": "HUM:gr Who won ?\n",
    "MRPC/msr_paraphrase_train.txt": '\ufeffQuality\t#1 ID\t#2 ID\t#1 Text\t#2 Text\n1\t5\t6\tone " two\ttwo one\n',
    "MRPC/msr_paraphrase_test.txt": "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t7\t8\tthree\tfour\n",
}


def convert(*arguments: str | Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the program in this process."""
    monkeypatch.setattr(sys, "argv", ["senteval_files.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "eval" / "senteval_files.py"), run_name="__main__")
    if ended.value.code:
        raise ended.value


def test_the_suite_reads_what_was_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in FILES.items():
        path = tmp_path / "downstream" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="latin-1" if name.startswith(("MR/", "CR", "TREC")) else "utf-8")
    convert(tmp_path / "downstream", tmp_path / "out", monkeypatch=monkeypatch)
    suite = open_suite("transfer", tmp_path / "out")
    assert isinstance(suite, OpenSuite)
    found = {task.name: [(*inputs, labels.tolist()) for inputs, labels in task.parts] for task in suite.tasks}  # type: ignore[attr-defined]
    assert found == {
        "mr": [(["a caf\xe9 , good", "fine", "bad"], [1, 1, 0])],
        "cr": [(['the " best "', "broke twice"], [1, 0])],
        "subj": [(["he leaves", "it is dull"], [1, 0])],
        "mpqa": [(["glad", "sad"], [1, 0])],
        "sst2": [(["nice film", "dull film"], [1, 0]), (["so nice"], [1]), (["so dull"], [0])],
        "trec": [(["Who was it : he ?", "Which town ?"], [0, 1]), (["Who won ?"], [0])],
        "mrpc": [(['one " two'], ["two one"], [1]), (["three"], ["four"], [0])],
    }
    (tmp_path / "downstream" / "TREC" / "TREC_10.label").unlink()
    with pytest.raises(SystemExit, match=r"TREC_10.label.*data/downstream"):
        convert(tmp_path / "downstream", tmp_path / "other", monkeypatch=monkeypatch)
    assert not (tmp_path / "other").exists()
