"""The race: a page in a browser on which optimizers walk, every path computed by the library.

`write` makes it; `read` gives its numbers back. The page's own words, looks and script are the files beside this one:
`page.html`, `page.css`, `shared.js` (numbers from text), `race.js` and `adam.js` (the two parts). Bokeh draws, and is
imported when a page is written.
"""

from .page import write as write
from .recording import Recording as Recording, read as read
