"""Slow trials of the promises that charlm makes: ``make campaigns`` runs them, ``make test`` a short form of each.

Every campaign is a module, or a package where it is long, with a function ``campaign`` that makes a number of trials,
raises where a promise is broken, and returns its figures. ``python -m campaigns NAME ...`` (in ``tests/``) runs whole
ones and appends their figures to ``results.jsonl``, which the README's table quotes. ``recorder`` and ``surroundings``
are no campaigns: several share them.
"""
