from .datasets.base import RowBatch as RowBatch
from .datasets.base import TrainingRows as TrainingRows
from .datasets.open import open_training as open_training
from .datasets.prefetching import Prefetcher as Prefetcher
from .datasets.prefetching import prefetch as prefetch
from .schema.rows import Row as Row
from .sources.sources import read_rows as read_rows
