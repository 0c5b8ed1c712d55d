"""A local web app: models side by side, blind votes, where texts come from, runs, scores and documents.

`headwater serve` enters at `serve`. server.py: what listens; app.py: the addresses; fence.py: who may ask what; worker.py: the
one thread that writes; models.py: the models and what is asked of them; ballots.py: blind votes; origins.py: traces;
browse.py: runs, scores, documents. The page is page.html, serve.css and serve.js, with the look of report/page.css.
"""

from headwater.serve.server import serve

__all__ = ["serve"]
