from .export import export as export
from .loading import load as load
from .saving import save as save
