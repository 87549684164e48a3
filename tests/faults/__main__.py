"""``python -m tests.faults [GROUP ...] [--long] [--trials N]``: a line a case, a total a group."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.conftest import ROOT, blocked_network
from tests.faults.frame import GROUPS, Case, NotHere, Outcome, World, all_cases


def run_case(one: Case, options: argparse.Namespace) -> dict[str, Any]:
    """Run a case in a folder of its own; the row of the table."""
    shared = ROOT.parent / "shared"
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="embedkit-faults-") as folder:
        world = World(Path(folder), options.trials, options.seed, shared if shared.is_dir() else None, options.keep)
        try:
            state, outcome = "ok", one.run(world)
        except NotHere as reason:
            state, outcome = "not here", Outcome(str(reason), trials=0)
        except Exception as error:  # a case that fails is a line of the report, and the exit code
            state, outcome = "FAILED", Outcome(f"{type(error).__name__}: {error}")
    return {"group": one.group, "name": one.name, "state": state, **asdict(outcome), "s": time.perf_counter() - began}


def main() -> int:
    """Run the chosen cases; 0 when all held."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {', '.join(GROUPS)}; all when none is given")
    parser.add_argument("--long", action="store_true", help="also the cases that take minutes")
    parser.add_argument("--trials", type=int, help="tries of the cases with random moments")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--match", default="", help="only cases whose name holds this")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave series and plots of the soak there")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    options = parser.parse_args()
    if unknown := set(options.groups) - set(GROUPS):
        parser.error(f"no group {', '.join(sorted(unknown))}; known: {', '.join(GROUPS)}")
    rows = []
    with blocked_network():
        for one in all_cases():
            if (options.groups and one.group not in options.groups) or (one.long and not options.long):
                continue
            if options.match in one.name:
                rows.append(run_case(one, options))
                row = rows[-1]
                said = " ".join(row["said"].split())[:200]
                print(f"{row['state']:8} {one!s:70} {row['s']:6.1f} s  {row['kind']}: {said}", flush=True)
    for group in GROUPS:
        mine = [row for row in rows if row["group"] == group]
        if mine:
            states, kinds = Counter(r["state"] for r in mine), Counter(r["kind"] for r in mine if r["state"] == "ok")
            counts = ", ".join(f"{count} {name}" for name, count in (states + kinds).items() if name != "held")
            print(f"total {group}: {len(mine)} cases, {sum(r['trials'] for r in mine)} faults: {counts}")
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return int(any(row["state"] == "FAILED" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
