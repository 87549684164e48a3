from .loop.loop import TrainResult as TrainResult
from .loop.loop import train as train
from .planning import Plan as Plan
from .planning import plan as plan
