"""Progress bars of the long commands: on a terminal only, so that a log holds lines alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

from lat.training import Epoch, Progress

EPOCHS = "{l_bar}{bar}| {n:.2f}/{total} epochs [{elapsed}<{remaining}{postfix}]"


@contextmanager
def of_epochs(epochs: int, name: str) -> Iterator[Callable[[Epoch | Progress], None]]:
    """Hears of each epoch of a training, and of the running one."""
    with tqdm(total=epochs, disable=None, desc=name, bar_format=EPOCHS, mininterval=0, miniters=0) as bar:

        def report(heard: Epoch | Progress) -> None:
            done = float(heard.epoch) if isinstance(heard, Epoch) else heard.done
            told = {"loss": f"{heard.loss:.4f}"}
            if isinstance(heard, Epoch):
                told["clean"] = f"{heard.clean_accuracy:.4f}"
            else:
                told["images/s"] = f"{heard.images_per_s:.0f}"
            bar.set_postfix(told, refresh=False)
            bar.update(done - bar.n)

        yield report


@contextmanager
def of_attacks() -> Iterator[Callable[[str, int, int], None]]:
    """Hears of one attack after the other: its name, how many of its images are done, and of how many."""
    with tqdm(unit="image", disable=None) as bar:

        def report(name: str, done: int, images: int) -> None:
            if done == 0:
                bar.reset(total=images)
                bar.set_description(name)
            bar.update(done - bar.n)

        yield report


@contextmanager
def of_lines(total: int | None, unit: str) -> Iterator[Callable[[str], None]]:
    """Prints the line of each piece of work, above the bar where there is one; `total` None: it is not known."""
    with tqdm(total=total, unit=unit, disable=None) as bar:

        def report(line: str) -> None:
            bar.write(line)
            bar.update()

        yield report
