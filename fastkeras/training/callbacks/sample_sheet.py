"""A picture of generated samples after each epoch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import keras
import numpy as np

from fastkeras._files import check_writable, replacing
from fastkeras.training.arguments import integer
from fastkeras.training.model_state import synced

if TYPE_CHECKING:
    from typing import Any

    from fastkeras.typing import ArrayLike, FilePath


class SampleSheet(keras.callbacks.Callback):
    """Write a PNG of what a generator makes of the same noise, as training goes on.

    Args:
        path: of the PNG; "{epoch}" in it becomes the number of the epoch, from 1.
        noise: array, one row for each sample.
        every: write once in so many epochs.
        generator: the model to call; `model.generator` by default, as in `SingleLossGAN`.
        limits: the values shown as black and white.

    Raises:
        ImportError: Pillow is not installed.
        OSError: the path cannot be written to, as found out when training begins.
        ValueError: `path` or `every` is out of range, there is no generator, or samples are not
            images of 1 or 3 channels.

    Example:
        >>> import numpy as np
        >>> sheet = SampleSheet("samples-{epoch}.png", np.random.normal(size=(64, 32)))
    """

    def __init__(
        self,
        path: FilePath,
        noise: ArrayLike,
        every: int = 1,
        generator: keras.Model | None = None,
        limits: tuple[float, float] = (-1.0, 1.0),
    ) -> None:
        super().__init__()
        self.path, self.noise = str(path), np.asarray(noise, "float32")
        self.every = integer("every", every, 1)
        self.generator, self.limits = generator, limits
        _pillow()

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Check that pictures can be made and written, before the work of an epoch."""
        if self.generator is None and not hasattr(self.model, "generator"):
            raise ValueError("generator: the model has none, so give the model to call")
        path = self._path(1)
        path.parent.mkdir(parents=True, exist_ok=True)
        check_writable(path)

    def _path(self, epoch):
        try:
            return Path(self.path.format(epoch=epoch))
        except (KeyError, IndexError, ValueError):
            raise ValueError(
                f'path={self.path!r} may have "{{epoch}}" in it, and no other braces'
            ) from None

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if (epoch + 1) % self.every:
            return
        model = synced(self.model)
        generator = model.generator if self.generator is None else self.generator
        images = np.array(generator.predict_on_batch(self.noise))
        write_png(self._path(epoch + 1), sheet(images, self.limits))


def sheet(images, limits=(-1.0, 1.0)):
    """Arrange images of shape (count, height, width[, channels]) in rows of one image, uint8.

    Example:
        >>> import numpy as np
        >>> sheet(np.zeros((5, 8, 8))).shape
        (18, 28, 1)
    """
    images = np.asarray(images, "float32")
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ValueError(f"images must be of 1 or 3 channels, got shape {images.shape}")
    count, height, width, channels = images.shape
    columns = int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    low, high = limits
    scaled = np.clip((images - low) / (high - low), 0, 1)
    page = np.ones((rows * (height + 2) - 2, columns * (width + 2) - 2, channels))
    for i, image in enumerate(scaled):
        top, left = i // columns * (height + 2), i % columns * (width + 2)
        page[top : top + height, left : left + width] = image
    return np.round(255 * page).astype("uint8")


def write_png(path, image):
    """Write an image as PNG, all or nothing."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        _pillow().fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(
            file, format="PNG"
        )


def _pillow():
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("pictures need Pillow: pip install pillow") from error
    return Image
