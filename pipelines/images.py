"""Encoded pictures -> pixels, and what is told of a picture by numbers. The only importer of Pillow.

N pictures, H height, W width, C channels: 1 where the mode is L (grey), 3 where it is RGB, V values of
a pixel. Pixels are uint8. Not covered: a camera's note that a picture was taken sideways (EXIF) turns a
TIFF only, and colour profiles are not applied: pixels are what the file holds.
"""

from __future__ import annotations

import hashlib
import io
import logging
import math
import re
import threading
import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF")
"""Of a GIF, a WebP or a TIFF that holds several, the first. A TIFF may not be compressed: libtiff
writes what it thinks of a spoiled file to the terminal, and nothing here can keep it from that."""
WHOLE = f"a whole {', '.join(FORMATS)} file"
CHANNELS = {"L": 1, "RGB": 3}
TOGETHER, PIXELS = 1024, 1024 * 64 * 64
"""Most pictures that anything is computed of at once, and most pixels of them: what a network makes of
them on the way grows with both, 128 bytes a pixel of the first layer of the usual cnn."""
BITS_PER_SAMPLE = 258
"""Number of a TIFF's tag."""
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""What Pillow and JPEG make grey of colour with (ITU-R BT.601)."""

Fault = Literal["readable", "size", "mode"]

# warnings.catch_warnings is of the whole process: two at once could each restore the other's filters.
_quiet = threading.Lock()
# What Pillow logs of a spoiled file is in the ImageError; without handlers it would go to the terminal.
logging.getLogger("PIL").setLevel(logging.CRITICAL)


class ImageError(ValueError):
    """Bytes that are no picture of the size and mode asked for."""

    def __init__(self, fault: Fault, found: str, allowed: str) -> None:
        super().__init__(f"{found}; allowed: {allowed}")
        self.fault = fault
        """What is wrong with it: it cannot be read at all, or has another size, or another mode."""
        self.found = found


def decode(data: bytes, size: tuple[int, int], mode: str) -> np.ndarray:
    """One encoded picture as (H, W, C).

    size: height and width. Size and mode are those of the header, so that neither a picture of
    another size nor one made to fill the memory is ever unfolded. A black-and-white picture counts
    as L, one of numbered colours as RGB, and as L where all are greys; nothing is converted that
    would lose something.
    Raises ImageError.
    """
    with _quiet, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _decode(data, size, mode)


def _decode(data: bytes, size: tuple[int, int], mode: str) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            _refuse_other(picture, size, mode)
            picture.load()
            pixels = np.array(picture if picture.mode == mode else picture.convert(mode))
    except ImageError:
        raise
    except Exception as error:  # decoders raise anything on bytes that anyone may have made
        raise ImageError("readable", _why(error) if data else "an empty file", WHOLE) from error
    return pixels.reshape(*size, CHANNELS[mode])


def _refuse_other(picture: ImageFile, size: tuple[int, int], mode: str) -> None:
    width, height = picture.size
    if (height, width) != tuple(size):
        raise ImageError("size", f"{height} x {width} pixels", f"{size[0]} x {size[1]} pixels")
    if any(tile.codec_name == "libtiff" for tile in picture.tile):
        raise ImageError("readable", "a compressed TIFF", WHOLE)
    if picture.has_transparency_data:
        raise ImageError("mode", f"{picture.mode} with transparency", mode)
    if mode not in _modes(picture):
        raise ImageError("mode", picture.mode, mode)
    if _sixteen_bits(picture):
        raise ImageError("mode", f"{picture.mode} of 16 bits", mode)


def _sixteen_bits(picture: ImageFile) -> bool:
    """Of a channel: Pillow calls such colours RGB and keeps the upper 8 bits, or, of a TIFF with a plane
    for each colour, reads the first half of the file as if it were of 8."""
    # BGR;16 is a BMP's 16 bits of three channels together.
    packed = any(re.search(";16[BLN]", str(tile.args)) for tile in picture.tile)
    return packed or max(getattr(picture, "tag_v2", {}).get(BITS_PER_SAMPLE, (8,))) > 8


def _modes(picture: ImageFile) -> tuple[str, ...]:
    """Its own, and what it is a shorter way to write of."""
    if picture.mode == "P":
        colours = np.array(picture.getpalette(), dtype=int).reshape(-1, 3)
        grey = (colours == colours[:, :1]).all()
        return ("P", "RGB", "L") if grey else ("P", "RGB")
    return ("1", "L") if picture.mode == "1" else (picture.mode,)


def _why(error: Exception) -> str:
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):  # its own message names an object in memory
        return "no picture of a known format"
    return " ".join(str(error).split()) or type(error).__name__


def png(pixels: np.ndarray) -> bytes:
    """(H, W, C) or (H, W) as a PNG file; the same pixels give the same bytes.

    Not compressed: zlib's versions spell the same pixels in other bytes, and a landed batch never
    changes. A batch's file is compressed as a whole.
    """
    from PIL import Image

    out = io.BytesIO()
    flat = pixels[:, :, 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    Image.fromarray(np.ascontiguousarray(flat, dtype=np.uint8)).save(out, "PNG", compress_level=0)
    return out.getvalue()


def stack(values: Sequence[bytes], size: tuple[int, int], mode: str) -> np.ndarray:
    """All pictures as (N, H, W, C). Raises ImageError at the first that is none of these."""
    pixels_NHWC = np.empty((len(values), *size, CHANNELS[mode]), np.uint8)
    for row, data in enumerate(values):
        pixels_NHWC[row] = decode(data, size, mode)
    return pixels_NHWC


def readable(values: Iterable[bytes | None], size: tuple[int, int], mode: str) -> np.ndarray:
    """(N,) bool: which pictures can be read. A missing one cannot.

    A contract lets a batch have a few that cannot (`unreadable`, `nulls`), and no model learns from
    them or answers them. One is unfolded at a time: a batch of photographs is gigabytes of pixels.
    """

    def can_be_read(data: bytes | None) -> bool:
        try:
            return isinstance(data, bytes) and decode(data, size, mode).size > 0
        except ImageError:
            return False

    return np.array([can_be_read(data) for data in values], dtype=bool)


def digest(pixels: np.ndarray) -> str:
    """32 hex digits that name (H, W, C): the same pixels in other files have the same."""
    shape = "x".join(map(str, pixels.shape)).encode()
    content = np.ascontiguousarray(pixels).tobytes()
    return hashlib.blake2b(content, digest_size=16, person=shape[:16]).hexdigest()


def together(size: Sequence[int]) -> int:
    """How many pictures of (H, W) to compute something of at once: 1 to TOGETHER; bounds memory.

    >>> together((28, 28)), together((224, 224)), together((9000, 9000))
    (1024, 83, 1)
    """
    return max(1, min(TOGETHER, PIXELS // math.prod(size)))


def moments(pixels_NHWC: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, white being 1: exact however many there are, from
    how often each of the 256 values comes. A channel of one value gets one grey level as deviation.

    >>> moments(np.array([0, 0, 255, 255], dtype=np.uint8).reshape(1, 2, 2, 1))
    ((0.5,), (0.5,))
    """
    level = np.arange(256)
    counts_CV = np.zeros((pixels_NHWC.shape[3], 256), dtype=np.int64)
    some = together(pixels_NHWC.shape[1:3])
    for start in range(0, len(pixels_NHWC), some):  # counting takes 8 bytes a pixel
        part = pixels_NHWC[start : start + some]
        for channel, counts_V in enumerate(counts_CV):
            counts_V += np.bincount(part[..., channel].ravel(), minlength=256)
    means, deviations = [], []
    for counts_V in counts_CV:
        pixels = int(counts_V.sum())
        mean = int(counts_V @ level) / pixels
        deviation = math.sqrt(float(counts_V @ (level - mean) ** 2) / pixels)
        means.append(mean / 255)
        deviations.append(max(deviation / 255, 1 / 255))
    return tuple(means), tuple(deviations)


def statistics(pixels_NHWC: np.ndarray) -> dict[str, np.ndarray]:
    """Name -> (N,) float32, each 0 where there is none of it and about 1 at most.

    brightness: mean grey. contrast: standard deviation of the grey. sharpness: standard deviation of
    the grey's Laplacian, the root of the usual focus measure (Pertuz et al. 2013,
    doi:10.1016/j.patcog.2012.11.011, LAPV). colour, of RGB only: how colourful (Hasler and
    Suesstrunk 2003, doi:10.1117/12.477378).
    """
    names = ("brightness", "contrast", "sharpness", "colour")[: 4 if _colour(pixels_NHWC) else 3]
    some = together(pixels_NHWC.shape[1:3])
    starts = range(0, len(pixels_NHWC), some)
    parts = [_measured(pixels_NHWC[start : start + some]) for start in starts]
    none = np.empty(0, dtype=np.float32)
    return {name: np.concatenate([none, *(part[name] for part in parts)]) for name in names}


def _colour(pixels_NHWC: np.ndarray) -> bool:
    return bool(pixels_NHWC.shape[3] == 3)


def _measured(pixels_NHWC: np.ndarray) -> dict[str, np.ndarray]:
    scaled_NHWC = pixels_NHWC.astype(np.float32) / np.float32(255)
    grey_NHW = scaled_NHWC @ LUMA if _colour(pixels_NHWC) else scaled_NHWC[..., 0]
    found = {
        "brightness": grey_NHW.mean(axis=(1, 2)),
        "contrast": grey_NHW.std(axis=(1, 2)),
        "sharpness": _laplacian(grey_NHW).std(axis=(1, 2)),
    }
    if _colour(pixels_NHWC):
        red, green, blue = np.moveaxis(scaled_NHWC, 3, 0)
        pairs = [red - green, (red + green) / 2 - blue]
        spread = np.hypot(*(p.std(axis=(1, 2)) for p in pairs))
        shift = np.hypot(*(p.mean(axis=(1, 2)) for p in pairs))
        found["colour"] = spread + np.float32(0.3) * shift
    return {name: values.astype(np.float32) for name, values in found.items()}


def _laplacian(grey_NHW: np.ndarray) -> np.ndarray:
    """(N, H, W): each pixel's neighbours less itself; the edge is continued beyond the picture."""
    wide = np.pad(grey_NHW, ((0, 0), (1, 1), (1, 1)), mode="edge")
    around = wide[:, :-2, 1:-1] + wide[:, 2:, 1:-1] + wide[:, 1:-1, :-2] + wide[:, 1:-1, 2:]
    return np.asarray(around / 4 - grey_NHW)
