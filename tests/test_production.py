from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from pareto_amb.production import _train_with_progress


class _Counter:
    """Stands in for a Trainer: counts images in whole batches."""

    def __init__(self, batch_size: int) -> None:
        self.config = SimpleNamespace(batch_size=batch_size)
        self.images_seen = 0

    def train(self, until: int, save: Callable[[], None], *, checkpoint_at_end: bool) -> float:
        self.images_seen += -(-(until - self.images_seen) // self.config.batch_size) * self.config.batch_size
        if checkpoint_at_end:
            save()
        return 0.0


@given(st.integers(1, 200_000), st.integers(1, 600))
def test_a_finished_training_is_always_saved_once_at_its_end(images: int, batch_size: int) -> None:
    trainer, saved = _Counter(batch_size), []
    console = Console(quiet=True)
    _train_with_progress(cast(Any, trainer), images, lambda: saved.append(trainer.images_seen), console)
    assert saved == [trainer.images_seen]
    assert images <= trainer.images_seen < images + batch_size
