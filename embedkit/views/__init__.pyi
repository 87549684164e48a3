from .base import Chain as Chain
from .base import Step as Step
from .base import views as views
