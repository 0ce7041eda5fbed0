import io

import numpy as np
import pytest
from PIL import Image

from pareto_amb.data import decoding
from pareto_amb.data.decoding import decode
from pareto_amb.errors import UserError


def encode(image: Image.Image, kind="PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def colour_of(image: Image.Image, channels=3, kind="PNG", **options):
    pixels, changes = decode(encode(image, kind, **options), "x", image.width, channels)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (channels, image.width, image.width)
    assert len(np.unique(pixels.reshape(channels, -1), axis=1).T) == 1
    return pixels[:, 0, 0].tolist(), changes


@pytest.mark.parametrize(
    ("mode", "colour", "kind", "expected", "said"),
    [
        ("RGB", (10, 20, 30), "PNG", [10, 20, 30], ()),
        ("1", 1, "PNG", [255] * 3, ("grey: converted to RGB",)),
        ("L", 9, "PNG", [9] * 3, ("grey: converted to RGB",)),
        ("LA", (9, 255), "PNG", [9] * 3, ("grey: converted to RGB",)),
        (
            "LA",
            (9, 0),
            "PNG",
            [255] * 3,
            ("transparent: composited on white", "grey: converted to RGB"),
        ),
        ("RGBA", (10, 20, 30, 255), "PNG", [10, 20, 30], ()),
        ("RGBA", (0, 0, 0, 127), "PNG", [128] * 3, ("transparent: composited on white",)),
        ("CMYK", (0, 0, 0, 255), "TIFF", [0] * 3, ("of type CMYK: converted to RGB",)),
        (
            "I;16",
            257 * 100,
            "PNG",
            [100] * 3,
            ("of 16 bits a channel: rounded to 8", "grey: converted to RGB"),
        ),
    ],
)
def test_every_mode_becomes_rgb(mode, colour, kind, expected, said):
    assert colour_of(Image.new(mode, (8, 8), colour), kind=kind) == (expected, said)


def test_a_palette_with_a_transparent_entry():
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 40, 50, 60])
    assert colour_of(image) == ([40, 50, 60], ("of type P: converted to RGB",))
    colour, said = colour_of(image, transparency=1)
    assert colour == [255] * 3
    assert "transparent: composited on white" in said


@pytest.mark.parametrize(("deep", "shallow"), [(0, 0), (128, 0), (129, 1), (65535, 255)])
def test_sixteen_bits_are_scaled_and_rounded(deep: int, shallow: int):
    colour, _ = colour_of(Image.new("I;16", (8, 8), deep), channels=1)
    assert colour == [shallow]


def test_colour_becomes_grey_for_one_channel():
    colour, said = colour_of(Image.new("RGB", (8, 8), (90, 90, 90)), channels=1)
    assert colour == [90]
    assert said == ("in colour: converted to grey",)
    assert colour_of(Image.new("L", (8, 8), 90), channels=1) == ([90], ())


def test_pixels_are_kept_at_the_right_size():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    decoded, changes = decode(encode(Image.fromarray(pixels)), "x", 8, 3)
    assert np.array_equal(decoded, pixels.transpose(2, 0, 1))
    assert changes == ()


def test_the_middle_is_kept():
    pixels = np.zeros((8, 16), dtype=np.uint8)
    pixels[:, 4:12] = 200
    decoded, changes = decode(encode(Image.fromarray(pixels)), "x", 8, 1)
    assert (decoded == 200).all()
    assert changes == ("not 8 x 8: centre-cropped",)


@pytest.mark.parametrize(("side", "said"), [(64, "resized"), (4, "enlarged")])
def test_other_sizes_are_resized_and_named(side: int, said: str):
    ramp = np.tile(np.linspace(0, 255, side).round().astype(np.uint8), (side, 1))
    decoded, (change,) = decode(encode(Image.fromarray(ramp)), "x", 8, 1)
    assert (np.diff(decoded[0].astype(int), axis=1) > 0).all()
    assert said in change


def test_the_exif_orientation_is_applied():
    pixels = np.zeros((8, 8), dtype=np.uint8)
    pixels[0] = 200  # stored on top, to be seen on the right
    exif = Image.Exif()
    exif[0x0112] = 6
    decoded, changes = decode(encode(Image.fromarray(pixels), exif=exif), "x", 8, 1)
    assert (decoded[0, :, 7] == 200).all()
    assert changes == ("turned: EXIF orientation applied",)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
@pytest.mark.parametrize("kept", [0.0, 0.2, 0.6])
def test_a_file_cut_short_is_refused(kind: str, kept: float):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    content = encode(Image.fromarray(noise), kind)
    with pytest.raises(UserError, match=r"'x\.png': broken or cut short") as caught:
        decode(content[: int(len(content) * kept)], "'x.png'", 8, 3)
    assert "\n" not in str(caught.value)


def test_postscript_under_another_name_is_refused():
    with pytest.raises(UserError, match="not one of PNG"):
        decode(encode(Image.new("RGB", (8, 8)), "EPS"), "x", 8, 3)


@pytest.mark.parametrize("limit", [100, 150])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_decompression_bomb_is_refused(limit: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    monkeypatch.setattr(decoding, "MAX_PIXELS", limit)
    with pytest.raises(UserError, match=f"x: more than {limit} pixels"):
        decode(encode(Image.new("1", (16, 16))), "x", 8, 3)
    assert decode(encode(Image.new("1", (10, 10))), "x", 10, 3)


@pytest.mark.filterwarnings("error")
def test_a_bomb_is_refused_when_warnings_are_errors(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 150)
    with pytest.raises(UserError, match="pixels; shrink it"):
        decode(encode(Image.new("1", (16, 16))), "x", 8, 3)


def test_numbers_without_a_range_are_refused():
    with pytest.raises(UserError, match="pixels of type F"):
        decode(encode(Image.new("F", (8, 8), 0.5), "TIFF"), "x", 8, 3)
