"""Section (e) of gpu.py: exact search of 10,000 queries in ten million documents that pass by in blocks.

embedkit's `TopK` (`embedkit.retrieval.exact`), which `embedkit eval` searches with, multiplies on the device
and keeps candidates on the CPU. Documents are random unit vectors in float16, drawn block by block on the device, which
is not timed; what is timed begins with a block in the memory of the CPU, as a memory-mapped file gives it. Some queries
are searched a second time by plain products and `torch.topk`, to compare what was found.
"""

from __future__ import annotations

import torch
from gpu_common import Section, Size, forget_peak, fp32_products, matrix_rate, missing, peak_mib, timed
from torch import Tensor

CHECKED = 64


def unit(rows: int, dim: int, device: torch.device, draw: torch.Generator) -> Tensor:
    """Random unit vectors."""
    return torch.nn.functional.normalize(torch.randn(rows, dim, device=device, generator=draw), dim=1)


class Plain:
    """The best documents of a few queries by products and `torch.topk`."""

    def __init__(self, queries: Tensor, depth: int) -> None:
        self.queries, self.depth = queries, depth
        self.scores = queries.new_empty(len(queries), 0)
        self.places = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)

    def add(self, start: int, block: Tensor) -> None:
        """Score a block that begins at `start`."""
        scores = torch.cat([self.scores, self.queries @ block.float().T], dim=1)
        own = torch.arange(start, start + len(block), device=block.device).expand(len(self.queries), -1)
        places = torch.cat([self.places, own], dim=1)
        best = scores.topk(min(self.depth, scores.shape[1]), dim=1)
        self.scores, self.places = best.values, places.gather(1, best.indices)


def search(size: Size, device: torch.device, section: Section) -> None:
    """Section (e)."""
    from embedkit.retrieval.exact import TopK

    if device.type == "cuda":
        section.skip("faiss on the GPU", missing("faiss", "faiss-gpu") or "not compared: only its CPU form is an extra")
    draw = torch.Generator(device).manual_seed(0)
    with fp32_products("highest"):
        queries = unit(size.queries, size.search_dim, device, draw)
        rate = matrix_rate(size, device, torch.float32)
        best = TopK(
            queries.cpu().numpy(), size.search_depth, size.documents, query_block=size.queries, device=str(device)
        )
        plain = Plain(queries[:CHECKED], size.search_depth)
        forget_peak(device)
        seconds, done = 0.0, 0
        while done < size.documents and section.budget.left > 0.1 * section.budget.seconds:
            block = unit(min(size.search_block, size.documents - done), size.search_dim, device, draw).half()
            held = block.cpu().numpy()
            plain.add(done, block)
            seconds += timed(device, lambda start=done, held=held: best.add(start, held))
            done += len(held)
    figures = {
        "queries": size.queries, "documents": done, "dim": size.search_dim, "depth": size.search_depth,
        "seconds": seconds, "documents_per_s": done / seconds, "queries_per_s": size.queries / seconds,
        "share_of_matrix_rate": 2.0 * size.queries * done * size.search_dim / seconds / rate,
        "memory_mib": peak_mib(device),
    }  # fmt: skip
    if done < size.documents:
        section.skip(f"the documents behind the first {done:,}", "the budget is spent")
        section.put("search", what="search, not finished", **figures)
        return
    scores, places = best.result()
    wanted, found = plain.places.cpu(), torch.from_numpy(places[:CHECKED])
    equal = torch.stack([torch.isin(f, w).float().mean() for f, w in zip(found, wanted, strict=True)])
    apart = float((torch.from_numpy(scores[:CHECKED]) - plain.scores.cpu()).abs().max())
    section.put(
        "search", what="search", **figures, checked_queries=len(wanted), found_by_plain_products=float(equal.mean()),
        largest_score_difference=apart,
    )  # fmt: skip
