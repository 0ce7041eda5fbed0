"""How a training goes, told now and then while it goes on."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

BEAT_SECONDS = 5.0
"""Between two beats. Each waits for the device once, to read the loss."""


@dataclass(frozen=True)
class Beat:
    """Where a training is: images seen, how many a second, the mean loss since `train` was last called.

    The speed is that since the last beat. The loss is None where it is not finite; of several processes it
    is that of this one's part of the batches.
    """

    images_seen: int
    images_per_second: float
    loss: float | None


class Heart:
    """Calls `tell` about every `seconds` while steps are taken; between that it only looks at the clock."""

    def __init__(self, tell: Callable[[Beat], None], seconds: float = BEAT_SECONDS) -> None:
        self._tell, self._seconds = tell, seconds
        self._since: tuple[float, int] | None = None

    def step(self, images_seen: int, loss_sum: Tensor, count: int) -> None:
        """A step was taken; `loss_sum` is the sum of the last `count` losses, a scalar on the device."""
        now = time.monotonic()
        if self._since is None:  # the first step also sets up libraries
            self._since = now, images_seen
        began, first = self._since
        if now - began < self._seconds or images_seen == first:
            return
        self._since = now, images_seen
        loss = float(loss_sum) / count
        speed = (images_seen - first) / max(now - began, 1e-9)
        self._tell(Beat(images_seen, speed, loss if math.isfinite(loss) else None))
