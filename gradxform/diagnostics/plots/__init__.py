"""`gradxform.plots`: pictures of schedules, readings, moments and paths, with matplotlib.

matplotlib is imported when the first picture is drawn. A picture is a `matplotlib.figure.Figure` of its own, outside of
`pyplot`: no window opens, nothing has to be closed, and no setting of matplotlib is changed.
"""

from .moments import moments as moments
from .paths import paths as paths
from .ratios import ratios as ratios
from .readings import readings as readings
from .schedule import schedule as schedule
