"""Broken tables and texts: each a clear error, an accounted skip, or legal input; none silent."""

from __future__ import annotations

from functools import partial

from tests.faults import data_evaluation, data_late, data_legal, data_refused
from tests.faults.data_frame import accepted, refused, warned
from tests.faults.frame import case

for _broken in [*data_refused.ALL, *data_evaluation.REFUSED, *data_evaluation.VIEWS]:
    case("data", _broken.name)(partial(refused, broken=_broken))
for _broken in data_evaluation.ENCODED:
    case("data", _broken.name)(partial(data_evaluation.not_encoded, broken=_broken))
for _broken, _rows, _checked in data_legal.ACCEPTED:
    case("data", f"legal: {_broken.name}")(partial(accepted, broken=_broken, wanted=_rows, checked=_checked))
for _broken in data_legal.WARNED:
    case("data", f"suspicious: {_broken.name}")(partial(warned, broken=_broken))
case("data", "evaluation: some qrels to unknown ids")(data_evaluation.unknown_ids)
case("data", "legal: 10 MB in a text that is encoded")(data_evaluation.encoded_long)
case("data", "a bad row far into a stream")(data_late.in_a_stream)
case("data", "a bad row far into a stream, skipped")(data_late.in_a_stream_skipped)
