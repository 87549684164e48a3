from .base import Contract as Contract
from .base import Method as Method
from .base import View as View
from .base import methods as methods
