from .loop.run import TrainResult as TrainResult
from .loop.run import train as train
from .monitor.callbacks import Callback as Callback
from .monitor.log import Progress as Progress
from .planning import Plan as Plan
from .planning import plan as plan
