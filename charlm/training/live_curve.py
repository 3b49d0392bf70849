"""curve.svg in the folder of a run, drawn again at each evaluation."""

from __future__ import annotations

import logging
from pathlib import Path

from charlm.checkpoint.run_folder import CURVE
from charlm.plots.figure import require_matplotlib, run_picture
from charlm.system.disk import write_synced
from charlm.training.events import Evaluated, Event, Finished

logger = logging.getLogger("charlm")


class LiveCurve:
    """An ``on_event`` that draws the curves of the run in the folder ``run``. Raises ``MissingInputError`` at once
    without matplotlib. If a picture cannot be drawn or written, a warning is logged and training continues."""

    def __init__(self, run: Path) -> None:
        require_matplotlib()
        self._run = run
        self._warned = False

    def __call__(self, event: Event) -> None:
        """Draw the picture if ``event`` is an evaluation or the end."""
        if not isinstance(event, (Evaluated, Finished)):
            return
        try:
            write_synced(self._run / CURVE, run_picture(self._run))
        except Exception as error:  # a picture is never worth a training
            if not self._warned:
                logger.warning("%s could not be drawn (%s); training continues", self._run / CURVE, error)
            self._warned = True

    def close(self) -> None:
        """Nothing is left to do."""
