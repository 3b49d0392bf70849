"""Slow tests of what charlm promises. ``make stress`` runs them in full, ``make test`` runs a short form of each.

Every stress test is a module, or a package where the code is long, with a function ``run_trials``. It makes a number of
trials, raises an error where a promise is broken, and returns its figures. ``python -m stress NAME ...`` (in
``tests/``) runs stress tests in full and appends their figures to ``results.jsonl``, which the README's table quotes.
``helpers`` and ``recorder`` hold what several stress tests share.
"""
