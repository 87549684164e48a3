"""sentence-transformers' ONNX backend in int8, as a worker of encode.py in packages of its own.

    python eval/benchmarks/encode_st_onnx.py FOLDER SCRATCH

That backend needs optimum-onnx, and optimum-onnx (0.1.0) needs transformers below 4.58, which embedkit does not run
with: encode.py starts this file with PYTHONPATH set to a folder of such packages (``--st-onnx``). Each line of standard
input names a JSON file of texts; the vectors are written beside it as .npy and its name is printed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np


def quantization() -> str:
    """The configuration that the backend names for this processor's instructions."""
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    return next((name for name in ("avx512_vnni", "avx512") if name in flags or name + "f" in flags), "avx2")


def main() -> None:
    """Export, quantise, then encode what is asked for."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.backend import export_dynamic_quantized_onnx_model

    folder, scratch, kind = sys.argv[1], Path(sys.argv[2]), quantization()
    plain = SentenceTransformer(folder, backend="onnx", device="cpu", model_kwargs={"export": True})
    plain.save_pretrained(str(scratch))
    export_dynamic_quantized_onnx_model(plain, kind, str(scratch))
    file = next((scratch / "onnx").glob("*int8*"))
    model = SentenceTransformer(
        str(scratch), backend="onnx", device="cpu", model_kwargs={"file_name": f"onnx/{file.name}"}
    )
    print(f"ready {file.name}", flush=True)
    for line in sys.stdin:
        texts = json.loads(Path(line.strip()).read_text(encoding="utf-8"))
        out = Path(line.strip()).with_suffix(".npy")
        np.save(out, model.encode(texts, show_progress_bar=False))
        print(out, flush=True)


if __name__ == "__main__":
    main()
