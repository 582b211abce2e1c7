"""
The results of ``tailrace bench`` and the forms in which they are shown.

``result.py`` holds a result and its JSON form. From that form ``terminal.py`` prints tables,
``markdown.py`` fills the tables of a page, ``plots.py`` draws plots, and ``goals.py`` compares the
figures with the goals. ``progress.py`` shows the progress of a run.
"""
