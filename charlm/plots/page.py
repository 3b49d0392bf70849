"""A page with the curves of runs, and below them a table. It works without network."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Sequence

from charlm.plots.curves import Curve, title_of
from charlm.plots.figure import picture

_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 1.5rem auto; max-width: 60rem; padding: 0 1rem;
       color: #111; background: #fff; }}
img {{ width: 100%; height: auto; }}
.table {{ overflow-x: auto; }}
table {{ border-collapse: collapse; }}
th, td {{ text-align: left; padding: 0.25rem 1rem 0.25rem 0; border-bottom: 1px solid #ddd; }}
</style>
</head>
<body>
<h1>{title}</h1>
<img src="data:image/svg+xml;base64,{picture}" alt="{alternative}">
<div class="table"><table>
<thead><tr>
<th>run</th><th>best validation loss</th><th>bits</th><th>at step</th><th>last training loss</th>
</tr></thead>
<tbody>
{rows}
</tbody>
</table></div>
<p>Losses are in nats per character. The training loss is measured with dropout.</p>
</body>
</html>
"""


def curve_page(curves: Sequence[Curve], x: str) -> bytes:
    """The page as a file."""
    title = title_of(curves)
    return _PAGE.format(
        title=html.escape(title),
        picture=base64.b64encode(picture(curves, x, "svg")).decode(),
        alternative=html.escape(f"Training and validation loss of {', '.join(curve.label for curve in curves)}"),
        rows="\n".join(map(_row, curves)),
    ).encode("utf-8", "replace")


def _row(curve: Curve) -> str:
    last = f"{curve.train.ys[-1]:.4f}" if curve.train.ys else "-"
    measured = ["-", "-", "-"]
    if curve.best is not None:
        nats = curve.best.nats
        measured = [f"{nats:.4f}", f"{nats / math.log(2):.3f}", f"{curve.best.step:,}"]
    cells = [curve.label, *measured, last]
    return "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"
