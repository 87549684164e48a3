from .api import MiningResult as MiningResult
from .api import mine as mine
from .report import MiningReport as MiningReport
from .settings import MiningSettings as MiningSettings
