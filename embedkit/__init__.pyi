from . import objectives as objectives
from .api import train as train
from .config.recipe import Recipe as Recipe
from .evaluation.api import evaluate as evaluate
from .evaluation.report.report import Report as Report
from .formats.export import export as export
from .formats.loading import load as load
from .formats.saving import save as save
from .mining.api import MiningResult as MiningResult
from .mining.api import mine as mine
from .mining.generation.api import generate as generate
from .mining.labels.api import label as label
from .mining.scores.api import score as score
from .mining.selection.api import dedup as dedup
from .mining.selection.api import select as select
from .models.base import Model as Model
from .models.encode.quantization import VectorRanges as VectorRanges
from .models.encode.quantization import dequantize as dequantize
from .models.encode.quantization import quantize as quantize
from .retrieval.build import build_index as build_index
from .retrieval.build import index_vectors as index_vectors
from .retrieval.index import Hit as Hit
from .retrieval.index import Index as Index
from .retrieval.index import search as search
from .training.loop.run import TrainResult as TrainResult

__version__: str
