"""From the bytes of one image file to uint8 pixels, on Pillow."""

import io
import struct
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from pareto_amb.errors import UserError
from pareto_amb.printable import reason

# Formats that Pillow decodes itself: EPS, for one, would start another program.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
# Pillow only warns from here on, and raises above twice as many.
MAX_PIXELS = 89_478_485

_GREY = {"1", "L", "LA", "La"}
_COLOUR = {"RGB", "RGBA", "RGBa", "RGBX", "P", "PA", "CMYK", "YCbCr", "LAB", "HSV"}
_GREY_TO_RGB = "grey: converted to RGB"
_BROKEN_IMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    ArithmeticError,
    struct.error,
    zlib.error,
)


def decode(
    content: bytes, shown: str, resolution: int, channels: int
) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Decode one image: (channels, resolution, resolution), and what was changed on the way.

    The changes are phrases that follow "12 of 300 images were", such as "grey: converted to RGB".
    `shown` names the image to the user. Raises UserError when it is broken, cut short, enormous or
    of a pixel type without a known range.
    """
    image, turned = _load(content, shown)
    pixels, changes = fit(image, resolution, channels)
    return pixels, (*turned, *changes)


def decode_uncropped(content: bytes, shown: str) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Decode one image at the size it has, in colour: (3, H, W), and what was changed on the way.

    Like `decode` in all else, but that grey images are now RGB, with three equal channels, is no change.
    """
    image, turned = _load(content, shown)
    image, recoloured = _recolour(image, channels=3)
    pixels = np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))
    return pixels, (*turned, *(change for change in recoloured if change != _GREY_TO_RGB))


def fit(image: Image.Image, resolution: int, channels: int) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Bring an image to (channels, resolution, resolution); returns the pixels and the changes."""
    image, recoloured = _recolour(image, channels)
    image, resized = _to_square(image, resolution)
    pixels = np.asarray(image).reshape(resolution, resolution, channels)
    return pixels.transpose(2, 0, 1), (*recoloured, *resized)


def _load(content: bytes, shown: str) -> tuple[Image.Image, tuple[str, ...]]:
    """Decode with the EXIF orientation applied."""
    image, turned = _open(content, shown)
    if image.mode not in _GREY | _COLOUR and not image.mode.startswith("I;16"):
        raise UserError(f"{shown}: pixels of type {image.mode} have no known range; save it with 8 bits")
    return image, turned


def _open(content: bytes, shown: str) -> tuple[Image.Image, tuple[str, ...]]:
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            image.load()
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
            if orientation not in range(2, 9):
                return image, ()
            return ImageOps.exif_transpose(image), ("turned: EXIF orientation applied",)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise UserError(
            f"{shown}: more than {MAX_PIXELS:,} pixels; shrink it, or remove it if unexpected"
        ) from error
    except _BROKEN_IMAGE as error:
        why = reason(error)
        if isinstance(error, UnidentifiedImageError):
            why = "not one of " + ", ".join(FORMATS)
        raise UserError(f"{shown}: broken or cut short ({why}); replace or remove it") from error


def _recolour(image: Image.Image, channels: int) -> tuple[Image.Image, tuple[str, ...]]:
    """Convert to L or RGB, 8 bits a channel, on white where the image is transparent."""
    changes: list[str] = []
    if image.mode.startswith("I;16"):
        # Pillow's own conversion to L clips instead of scaling.
        deep = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((deep + 128) // 257).astype(np.uint8))
        changes.append("of 16 bits a channel: rounded to 8")
    grey, mode = image.mode in _GREY, image.mode
    target = "L" if channels == 1 else "RGB"
    if image.has_transparency_data:
        image, transparent = _on_white(image)
        changes += ["transparent: composited on white"] if transparent else []
    if grey and target == "RGB":
        changes.append(_GREY_TO_RGB)
    elif not grey and target == "L":
        changes.append("in colour: converted to grey")
    elif mode in _COLOUR - {"RGB", "RGBA"}:
        changes.append(f"of type {mode}: converted to RGB")
    return (image if image.mode == target else image.convert(target)), tuple(changes)


def _on_white(image: Image.Image) -> tuple[Image.Image, bool]:
    """Composite on white; also says whether any pixel was transparent at all."""
    layered = image.convert("RGBA")
    lowest = np.asarray(layered.getchannel("A")).min()
    white = Image.new("RGBA", layered.size, "white")
    return Image.alpha_composite(white, layered).convert("RGB"), bool(lowest < 255)


def _to_square(image: Image.Image, resolution: int) -> tuple[Image.Image, tuple[str, ...]]:
    """Crop to the central square and resize to the resolution (Lanczos)."""
    if image.size == (resolution, resolution):
        return image, ()
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    size = f"{resolution} x {resolution}"
    if side == resolution:
        return image, (f"not {size}: centre-cropped",)
    resized = image.resize((resolution, resolution), Image.Resampling.LANCZOS)
    if side < resolution:
        return resized, (f"smaller than {size}: centre-cropped and enlarged",)
    return resized, (f"not {size}: centre-cropped and resized",)
