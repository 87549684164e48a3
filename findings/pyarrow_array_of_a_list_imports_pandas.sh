#!/usr/bin/env bash
# pyarrow 26.0.1, pandas 3.1.1
#
# Behaviour: pa.array(["a"]), of a plain list of texts, imports pandas where it is installed, which takes several times as
# long as importing pyarrow. pa.table from record batches, pc.split_pattern and the like do not. A program that never
# names pandas pays for it at its first array, and only on machines that happen to have it.
#
# Why a good guess misses: pyarrow works without pandas and lists it as no dependency, and `import pyarrow` leaves it
# alone; conversions are expected to import it when a Series or DataFrame is given or asked for, not to find out that
# none was given.
#
# Output seen on 2026-11-29 (times vary):
#   pandas is there after `import pyarrow`: False (0.26 s)
#   pandas is there after pa.array(['a']): True (0.49 s)
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check pyarrow==26.0.1 pandas==3.1.1
cat >"$work/check.py" <<'PY'
import sys
import time

begun = time.perf_counter()
import pyarrow as pa

imported = time.perf_counter()
before = "pandas" in sys.modules
pa.array(["a"])
after = time.perf_counter()
print(f"pandas is there after `import pyarrow`: {before} ({imported - begun:.2f} s)")
print(f"pandas is there after pa.array(['a']): {'pandas' in sys.modules} ({after - imported:.2f} s)")
assert not before and "pandas" in sys.modules, "pyarrow leaves pandas alone now, or imports it at once"
PY
"$work/venv/bin/python" "$work/check.py"
