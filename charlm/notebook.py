"""Whether a notebook shows what we return, and tables for it."""

from __future__ import annotations

import html
import sys
from collections.abc import Iterable, Sequence


def in_notebook() -> bool:
    """Whether this is the kernel of a notebook (Jupyter, Colab), which shows HTML and widgets."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and "IPKernelApp" in getattr(shell, "config", {})


def html_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table as HTML; all texts are escaped. Without ``header`` the first cell of a row is its heading."""
    head = f"<thead><tr>{''.join(map(_heading, header))}</tr></thead>" if any(header) else ""
    body = "".join(f"<tr>{_first(row[0], bool(head))}{''.join(map(_cell, row[1:]))}</tr>" for row in rows)
    return f"<table>{head}<tbody>{body}</tbody></table>"


def _first(text: str, has_head: bool) -> str:
    return _cell(text) if has_head else _heading(text)


def _heading(text: str) -> str:
    return f'<th style="text-align: left">{html.escape(text)}</th>'


def _cell(text: str) -> str:
    return f'<td style="text-align: left; white-space: pre-wrap">{html.escape(text)}</td>'
