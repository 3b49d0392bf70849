"""What a training writes for people who watch it, where they ask for it: a picture, TensorBoard, a progress bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from charlm.checkpoint.run_folder import TENSORBOARD
from charlm.training.events import Event


@dataclass(frozen=True)
class ObserverOptions:
    """``plot``: draw RUN/curve.svg at each evaluation. ``tensorboard``: True for RUN/tensorboard, or a folder in which
    the run gets one with its name. ``progress``: show a progress bar."""

    plot: bool = False
    tensorboard: bool | str | Path = False
    progress: bool = False

    def require(self) -> None:
        """Raise ``MissingInputError`` unless the libraries that this needs are installed."""
        if self.plot:
            from charlm.plots.figure import require_matplotlib

            require_matplotlib()
        if self.tensorboard is not False:
            from charlm.training.tensorboard import require_tensorboard

            require_tensorboard()


@contextmanager
def observing(run: Path, step: int, options: ObserverOptions) -> Iterator[Callable[[Event], None]]:
    """A function to call with each event of the training of ``run``, which continues after ``step``."""
    observers: list[Callable[[Event], None]] = []
    with ExitStack() as stack:
        if options.plot:
            from charlm.training.live_curve import LiveCurve

            observers.append(stack.enter_context(closing(LiveCurve(run))))
        if options.tensorboard is not False:
            from charlm.training.tensorboard import TensorBoard

            named = run / TENSORBOARD if options.tensorboard is True else Path(options.tensorboard) / run.resolve().name
            observers.append(stack.enter_context(closing(TensorBoard(named, step))))
        if options.progress:
            from charlm.training.progress_bar import ProgressBar

            observers.append(stack.enter_context(closing(ProgressBar())))

        def observe(event: Event) -> None:
            for observer in observers:
                observer(event)

        yield observe
