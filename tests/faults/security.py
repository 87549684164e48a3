"""Files that want to run code, read or write elsewhere, or call home: refused with a line, and nothing has run."""

from __future__ import annotations

from tests.faults import security_data as security_data
from tests.faults import security_models as security_models
from tests.faults import security_out as security_out
