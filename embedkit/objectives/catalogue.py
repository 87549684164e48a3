"""The list of objectives, as data and as the page docs/objectives.md.

Rewrite the page with ``python -m embedkit.objectives.catalogue > docs/objectives.md``.
"""

from __future__ import annotations

import inspect
import sys
from typing import Any

from embedkit.objectives.matrix.similarity import VIEWS
from embedkit.objectives.parts.slots import DEFAULTS, SLOTS, part_settings
from embedkit.objectives.registry import Preset, presets

COLUMNS = ("name", "paper", "slots", "inputs", "state", "cost", "tiled", "cached", "distributed", "note")

INTRO = """# Objectives

This page is written by `python -m embedkit.objectives.catalogue`; do not edit it.

An objective is chosen in a recipe by its name; its other keys are settings:

```yaml
objective: {name: ntxent, temperature: 0.1}
```

Members of the similarity matrix kernel are settings of its slots. Any slot can be replaced, and `name: table` composes
freely:

```yaml
objective: {name: table, direction: both, scale: learnable, weight: {name: exponential, beta: 0.25}, tile: auto}
```

Columns: *inputs* are the embeddings and roles that must be there (in brackets: used when there); *state* is kept
between steps and saved in checkpoints; *cost* is the time of one evaluation for B rows of D numbers; *tiled* objectives
do not hold the matrix when it is large (setting `tile`: "auto", a number of rows, or none for never); *cached*
ones can be used with the gradient cache (GradCache); *distributed* says what a process computes of a batch: `anchors`
its own part, `whole` all of it, with the same result on every process. Every objective gives the same gradient for any
number of processes and chunks. [M] marks what was taken from memory, [R] a reconstruction where a paper's formula was
not at hand.

In-batch negatives are the candidates of the other rows of a batch; the role `negatives` adds hard negatives. The
teacher of a distillation is the `guide` (another model; several as `guide.models`, their cosines by `guide.weights`; or
an EMA of the encoder) or the role `scores`, which may come from a cross-encoder.

## By the columns of your data

| columns | objectives, to begin with |
| --- | --- |
| anchor, positive | `infonce`; `gte` (negatives of one's own kind too); `gist` with a guide |
| anchor, positive, negative_1 ... | `infonce`; `{name: llave, harder: own}`; `triplet` (the given ones alone) |
| anchor, positive, negatives, scores | `margin-mse`, `distill-kl`, `list-mle`; `clhaif` for scores from 0 to 1 |
| anchor, positive, score of 0 or 1 | `contrastive`, `online-contrastive` |
| anchor, positive, score of any scale | `cosent`; `cosine-mse` from -1 to 1; `clhaif` from 0 to 1 |
| anchor, label; method `views`, sampler by-label | `supcon`, `multi-similarity`, `circle`, `fast-ap`, triplets |
| anchor, label; any sampler | `{name: proxy-anchor, classes: 10}`, `proxy-nca`, `arcface`, `cosface`, `soft-triple` |

```yaml
# margin-mse on what `embedkit mine` found and `embedkit score` scored
extends: pairs
name: distilled
objective: margin-mse
data: {train: [{path: scored.jsonl}]}
```

```yaml
# in-batch negatives, without those that a better model finds nearly as alike as the pair itself
extends: pairs
name: guided
objective: {name: gist, guide_margin: null, guide_relative_margin: 0.05}
guide: {model: {name: BAAI/bge-large-en-v1.5}}
```

## On patches

Losses of patches are terms of methods, beside any method on images: see `docs/patch-terms.md`.

## Terms beside any method

`auxiliary` adds the loss of other methods; each reads every text view of the method in a forward pass of its own:

| method | what it asks for | settings |
| --- | --- | --- |
| `mlm` | words that were hidden | `rate` 0.15, `tied` |
| `simctg-term` | token vectors of a text that are no nearer than 1 - margin (Su et al. 2022) | `margin` 0.5 |
| `vat` | the same guessed words, or the same vector, when embeddings are pushed (URLBERT) | `reads`, `epsilon` 1 |
| `graph-supcon` | tokens of one class near each other (a reconstruction) | `associations`: a file; `tokens` 8 |

```yaml
# SimCSE, its tokens kept apart and its vectors made robust
extends: simcse-unsup
name: robust
auxiliary:
  - {name: simctg-term, weight: 1.0}
  - {name: vat, reads: vectors, weight: 0.1}
```
"""


def table() -> list[dict[str, Any]]:
    """One mapping for each objective, sorted by family and name; the keys are `COLUMNS` and "family".

    Examples
    --------
    >>> [row["slots"] for row in table() if row["name"] == "clip"]
    ['scale: learnable, direction: both']
    """
    rows = [_row(preset) for _, preset in presets.items()]
    return sorted(rows, key=lambda row: (row["family"] != "table", row["family"]))


def _row(preset: Preset) -> dict[str, Any]:
    return {
        "name": preset.name, "family": preset.family, "paper": preset.paper, "slots": preset.slots or "the defaults",
        "inputs": _inputs(preset), "state": preset.state or "none", "cost": preset.cost, "tiled": preset.tiled,
        "cached": True, "distributed": "anchors" if preset.splits else "whole", "note": preset.note,
    }  # fmt: skip


def _inputs(preset: Preset) -> str:
    if ... in preset.settings.values():
        return "those of its objectives"
    instance = preset.make({}, None, None)
    choices = [" or ".join(sorted(options)) for options in instance.any_of]
    more = instance.accepts - instance.requires.union(*instance.any_of)
    views = ["further views"] if more & set(VIEWS[2:]) else []
    optional = [f"({name})" for name in [*sorted(more - set(VIEWS[2:])), *views]]
    return ", ".join([*sorted(instance.requires), *choices, *optional])


def page() -> str:
    """The text of docs/objectives.md, in Markdown.

    Examples
    --------
    >>> page().splitlines()[0]
    '# Objectives'
    """
    rows, blocks = table(), [INTRO]
    for family in dict.fromkeys(row["family"] for row in rows):
        title = "Similarity matrix" if family == "table" else family.capitalize()
        members = [row for row in rows if row["family"] == family]
        blocks.append(f"## {title}\n\n" + _markdown([COLUMNS, *([_cell(row[c]) for c in COLUMNS] for row in members)]))
    parts = [("slot", "part", "what it does", "settings")]
    for slot, registry in SLOTS.items():
        for name, cls in registry.items():
            summary = (inspect.getdoc(cls) or "").split("\n\n")[0].replace("\n", " ")
            settings = ", ".join(f"`{k}` {_cell(v)}" for k, v in part_settings(slot, name).items())
            parts.append((slot, f"**{name}**" if DEFAULTS[slot] == name else name, summary, settings))
    blocks.append("## Slots and parts\n\nDefaults are in bold.\n\n" + _markdown(parts))
    return "\n".join(blocks)


def _cell(value: Any) -> str:
    return {True: "yes", False: "no", None: "none"}[value] if value is None or isinstance(value, bool) else str(value)


def _markdown(rows: list[Any]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]]) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
