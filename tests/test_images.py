"""Pictures as bytes and as pixels: pytest tests/test_images.py"""

from __future__ import annotations

import io
import struct
import time
import tracemalloc
import warnings
import zlib

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from pipelines import contract as contracts
from pipelines import images
from pipelines.images import ImageError
from pipelines.sources.digits import Digits
from pipelines.tasks.image import fit_encoder

SIZE = (6, 5)
LOSSLESS = {"PNG": {}, "BMP": {}, "TIFF": {}, "WEBP": {"lossless": True}}
MODES = {"L": SIZE, "RGB": (*SIZE, 3)}


def encoded(pixels: np.ndarray, form: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, form, **options)
    return out.getvalue()


def gradient(mode: str = "L", size: tuple[int, int] = SIZE) -> np.ndarray:
    shape = size if mode == "L" else (*size, 3)
    return np.linspace(0, 255, int(np.prod(shape))).round().astype(np.uint8).reshape(shape)


def chunk(name: bytes, content: bytes) -> bytes:
    """Of a PNG."""
    body = name + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def by_hand(width: int, height: int, bits: int, colour: int, rows: bytes) -> bytes:
    """A PNG of what Pillow does not write."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    )  # fmt: skip


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few kilobytes that says it unfolds to width x height bytes, and does."""
    return by_hand(width, height, 8, 0, bytes((width + 1) * 1000))


DEEP = np.arange(6 * 5 * 3, dtype=">u2").reshape(*SIZE, 3) * 700
"""Colours of 16 bits."""


def deep_png() -> bytes:
    return by_hand(5, 6, 16, 2, b"".join(b"\0" + row.tobytes() for row in DEEP))


def deep_tiff(planes: bool) -> bytes:
    """Not compressed; planes: one after the other for each colour, in place of a pixel's three."""
    data = (DEEP.transpose(2, 0, 1) if planes else DEEP).tobytes()
    tags = {
        256: (3, [5]), 257: (3, [6]), 258: (3, [16, 16, 16]), 259: (3, [1]), 262: (3, [2]),
        273: (4, [8 + 60 * n for n in range(3)] if planes else [8]), 277: (3, [3]), 278: (3, [6]),
        279: (4, [60] * 3 if planes else [180]), 284: (3, [2 if planes else 1]),
    }  # fmt: skip
    listed, beyond, end = b"", b"", 8 + len(data) + 2 + 12 * len(tags) + 4
    for tag, (kind, values) in tags.items():
        held = struct.pack(f">{len(values)}{'HI'[kind == 4]}", *values)
        if len(held) > 4:
            beyond, held = beyond + held, struct.pack(">I", end + len(beyond))
        listed += struct.pack(">HHI", tag, kind, len(values)) + held.ljust(4, b"\0")
    head = struct.pack(">2sHI", b"MM", 42, 8 + len(data))
    return head + data + struct.pack(">H", len(tags)) + listed + bytes(4) + beyond


def packed_bmp() -> bytes:
    """16 bits for the three colours of a pixel: 5, 6 and 5, which 8 bits each hold."""
    rows = b"".join(struct.pack("<5H", *[0xF800] * 5).ljust(12, b"\0") for _ in range(6))
    header = struct.pack("<IiiHHIIiiII", 40, 5, 6, 1, 16, 3, len(rows), 0, 0, 0, 0)
    masks = struct.pack("<III", 0xF800, 0x7E0, 0x1F)
    return struct.pack("<2sIHHI", b"BM", 66 + len(rows), 0, 0, 66) + header + masks + rows


@pytest.mark.parametrize("mode", MODES)
@given(data=st.data())
def test_a_png_gives_back_its_pixels(mode, data):
    pixels = data.draw(arrays(np.uint8, (*SIZE, images.CHANNELS[mode])))
    found = images.decode(images.png(pixels), SIZE, mode)
    assert found.dtype == np.uint8
    assert np.array_equal(found, pixels)


# WebP has no grey.
@pytest.mark.parametrize(
    ("form", "mode"), [(f, m) for f in LOSSLESS for m in MODES if (f, m) != ("WEBP", "L")]
)
def test_each_format_that_loses_nothing_gives_the_same_pixels(form, mode):
    pixels = gradient(mode)
    found = images.decode(encoded(pixels, form, **LOSSLESS[form]), SIZE, mode)
    assert np.array_equal(found, pixels.reshape(*SIZE, -1))


@pytest.mark.parametrize("mode", MODES)
def test_a_jpeg_is_read_to_within_what_it_loses(mode):
    found = images.decode(encoded(gradient(mode, (32, 32)), "JPEG", quality=95), (32, 32), mode)
    expected = gradient(mode, (32, 32)).reshape(32, 32, -1)
    assert np.abs(found.astype(int) - expected).max() < 40


def test_of_a_gif_that_moves_the_first_picture_is_read():
    out = io.BytesIO()
    first, second = Image.new("L", (5, 6), 30), Image.new("L", (5, 6), 200)
    first.save(out, "GIF", save_all=True, append_images=[second])
    assert (images.decode(out.getvalue(), SIZE, "L") == 30).all()


def test_black_and_white_counts_as_grey_and_numbered_colours_as_colours():
    white = Image.new("1", (5, 6), 1)
    out = io.BytesIO()
    white.save(out, "PNG")
    assert (images.decode(out.getvalue(), SIZE, "L") == 255).all()
    out = io.BytesIO()
    Image.new("RGB", (5, 6), (9, 80, 200)).convert("P", palette=Image.Palette.ADAPTIVE).save(
        out, "PNG"
    )
    assert (images.decode(out.getvalue(), SIZE, "RGB") == (9, 80, 200)).all()


@pytest.mark.parametrize(
    ("data", "fault", "said"),
    [
        (b"", "readable", "an empty file"),
        (b"not a picture", "readable", "no picture of a known format; allowed: a whole PNG, JPEG"),
        (b"%PDF-1.4\n", "readable", "no picture"),
        (encoded(gradient(), "TIFF", compression="tiff_lzw"), "readable", "a compressed TIFF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 6\n", "readable", "no picture"),
        (encoded(gradient())[:-30], "readable", "allowed: a whole"),
        (encoded(gradient(size=(5, 6))), "size", "5 x 6 pixels; allowed: 6 x 5 pixels"),
        (encoded(gradient("RGB")), "mode", "RGB; allowed: L"),
        (encoded(np.zeros((*SIZE, 4), np.uint8)), "mode", "RGBA with transparency; allowed: L"),
        (encoded(np.zeros(SIZE, np.uint16)), "mode", "I;16; allowed: L"),
        (bomb(200_000, 200_000), "readable", "decompression bomb"),
        (bomb(12_000, 12_000), "size", "12000 x 12000 pixels; allowed: 6 x 5"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_such_picture_is_refused_with_what_it_is(data, fault, said):
    with pytest.raises(ImageError) as refused:
        images.decode(data, SIZE, "L")
    assert refused.value.fault == fault
    assert said in str(refused.value)


@pytest.mark.parametrize(
    "data", [deep_png(), deep_tiff(False), deep_tiff(True)], ids=["png", "tiff", "planes"]
)
def test_colours_of_16_bits_are_refused_and_not_cut_to_8(data):
    """Pillow calls them RGB: what a camera measured would be learned from with half its bits gone."""
    assert Image.open(io.BytesIO(data)).mode == "RGB"
    with pytest.raises(ImageError, match="RGB of 16 bits; allowed: RGB") as refused:
        images.decode(data, SIZE, "RGB")
    assert refused.value.fault == "mode"


def test_16_bits_for_a_whole_pixel_are_read():
    assert (images.decode(packed_bmp(), SIZE, "RGB") == (255, 0, 0)).all()


def test_a_bomb_is_refused_before_it_is_unfolded():
    data = bomb(12_000, 12_000)
    tracemalloc.start()
    started = time.perf_counter()
    with pytest.raises(ImageError):
        images.decode(data, SIZE, "L")
    assert tracemalloc.get_traced_memory()[1] < 4_000_000
    assert time.perf_counter() - started < 1
    tracemalloc.stop()


PICTURES = [
    encoded(gradient(mode), form, **options)
    for mode in MODES
    for form, options in {**LOSSLESS, "JPEG": {}, "GIF": {}}.items()
] + [
    encoded(gradient(size=(64, 64)), "TIFF", compression=packed)
    for packed in ("tiff_lzw", "jpeg", "tiff_adobe_deflate", "packbits")
]


def holds_or_refuses(data: bytes, size: tuple[int, int] = SIZE) -> None:
    for mode in MODES:
        try:
            pixels = images.decode(data, size, mode)
        except ImageError:
            continue
        assert pixels.shape == (*size, images.CHANNELS[mode])


@given(picture=st.sampled_from(PICTURES), end=st.integers(0, 400))
def test_a_file_cut_anywhere_is_refused_or_whole(picture, end):
    """A file may end in bytes that no pixel needs."""
    size = (64, 64) if picture in PICTURES[-4:] else SIZE
    for mode in MODES:
        try:
            whole = images.decode(picture, size, mode)
        except ImageError:
            continue
        try:
            cut = images.decode(picture[: -1 - end], size, mode)
        except ImageError:
            continue
        assert np.array_equal(cut, whole)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    picture=st.sampled_from(PICTURES),
    changes=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_a_spoiled_file_never_crashes_nor_writes_to_the_terminal(capfd, picture, changes):
    spoiled = bytearray(picture)
    for place, value in changes:
        spoiled[place % len(spoiled)] = value
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        holds_or_refuses(bytes(spoiled))
        holds_or_refuses(bytes(spoiled), (64, 64))
    assert capfd.readouterr() == ("", "")


@given(
    st.binary(max_size=200),
    st.sampled_from(
        [
            b"",
            b"\x89PNG\r\n\x1a\n",
            b"\xff\xd8\xff",
            b"GIF89a",
            b"BM",
            b"II*\0",
            b"RIFF\xff\0\0\0WEBPVP8 ",
        ]
    ),
)
def test_any_bytes_are_refused_or_a_picture(rest, start):
    holds_or_refuses(start + rest)


def test_a_flipped_bit_of_a_png_is_seen():
    data = bytearray(images.png(gradient()))
    data[data.index(b"IDAT") + 20] ^= 1
    with pytest.raises(ImageError):
        images.decode(bytes(data), SIZE, "L")


def test_two_threads_leave_the_warnings_as_they_were():
    from concurrent.futures import ThreadPoolExecutor

    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: images.decode(PICTURES[0], SIZE, "L"), range(500)))
    assert warnings.filters == before


def test_a_stack_of_pictures_and_the_readable_ones_of_it():
    good = [images.png(gradient() // n) for n in (1, 2, 3)]
    stacked = images.stack(good, SIZE, "L")
    assert stacked.shape == (3, *SIZE, 1)
    kept = images.readable([good[0], None, b"junk", good[2]], SIZE, "L")
    assert kept.tolist() == [True, False, False, True]
    assert images.readable([], SIZE, "RGB").tolist() == []
    with pytest.raises(ImageError):
        images.stack([*good, b"junk"], SIZE, "L")


def test_all_digits_are_read_well_within_a_second():
    source = Digits("week")
    files = [data for period in source.periods() for data in source.read(period)["image"]]
    started = time.process_time()
    assert images.stack(files, (8, 8), "L").shape == (1797, 8, 8, 1)
    assert time.process_time() - started < 0.8


@given(arrays(np.uint8, (3, *SIZE, 3)), st.integers(0, 20))
def test_statistics_are_finite_and_move_as_their_names_say(pixels, lighter):
    found = images.statistics(pixels)
    assert list(found) == ["brightness", "contrast", "sharpness", "colour"]
    for values in found.values():
        assert values.shape == (3,)
        assert values.dtype == np.float32
        assert (values >= 0).all()
        assert (values <= 1.6).all()
    brighter = images.statistics(np.minimum(pixels, 235) + np.uint8(lighter))
    darker = images.statistics(np.minimum(pixels, 235))
    assert np.allclose(brighter["brightness"], darker["brightness"] + lighter / 255, atol=1e-5)
    for name in ("contrast", "sharpness", "colour"):
        assert np.allclose(brighter[name], darker[name], atol=1e-5)


def test_statistics_of_known_pictures():
    flat = np.full((1, 8, 8, 1), 51, np.uint8)
    board = np.indices((8, 8)).sum(axis=0).astype(np.uint8)[None, :, :, None] % 2 * 255
    plain, sharp = images.statistics(flat), images.statistics(board)
    assert {name: float(v[0]) for name, v in plain.items()} == pytest.approx(
        {"brightness": 0.2, "contrast": 0, "sharpness": 0}, abs=1e-6
    )
    assert sharp["contrast"][0] == pytest.approx(0.5)
    assert sharp["sharpness"][0] > 0.8
    grey, red = np.full((1, 4, 4, 3), 90, np.uint8), np.zeros((1, 4, 4, 3), np.uint8)
    red[..., 0] = 255
    assert images.statistics(grey)["colour"][0] == pytest.approx(0, abs=1e-6)
    assert images.statistics(red)["colour"][0] > 0.3
    assert images.statistics(np.empty((0, 4, 4, 1), np.uint8))["sharpness"].shape == (0,)


@given(arrays(np.uint8, (5, *SIZE, 3)))
def test_moments_are_those_of_the_pixels(pixels):
    mean, deviation = images.moments(pixels)
    np.testing.assert_array_equal(mean, [pixels[..., c].mean(dtype=float) / 255 for c in range(3)])
    found = np.maximum(pixels.std(axis=(0, 1, 2), dtype=float) / 255, 1 / 255)
    np.testing.assert_allclose(deviation, found, rtol=1e-12)


def test_pictures_of_one_colour_have_a_deviation_to_divide_by():
    assert images.moments(np.full((2, 8, 8, 1), 51, np.uint8)) == ((1 / 5,), (1 / 255,))


def test_the_encoder_of_pictures_takes_no_float_copy_of_them(monkeypatch):
    """Of what a machine just holds as bytes, 8 bytes a pixel more would be too much."""
    monkeypatch.setattr(images, "PIXELS", 4 * 64 * 64)
    pixels = np.random.default_rng(0).integers(0, 256, (200, 64, 64, 1), dtype=np.uint8)
    made = contracts.parse(
        """
task: parts
time: time
key: [id]
label: state
columns:
  time: {type: timestamp}
  id: {type: category, feature: false}
  image: {type: image, size: [64, 64], mode: L}
  state: {type: category, feature: false, values: [good, bent]}
"""
    )
    table = pd.DataFrame({"image": [images.png(one) for one in pixels]})
    tracemalloc.start()
    encoder = fit_encoder(table, made, None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (encoder.mean, encoder.deviation) == images.moments(pixels)
    assert peak < 3 * pixels.nbytes


def test_many_pictures_are_measured_as_few_are(monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (10, 5, 5, 3), dtype=np.uint8)
    whole = images.statistics(pixels)
    monkeypatch.setattr(images, "TOGETHER", 3)
    for name, values in images.statistics(pixels).items():
        assert np.array_equal(values, whole[name])


@pytest.mark.parametrize(
    ("size", "together"), [((8, 8), 1024), ((64, 64), 1024), ((224, 224), 83), ((9000, 9000), 1)]
)
def test_of_large_pictures_fewer_are_computed_with_at_once(size, together):
    assert images.together(size) == together


def test_the_digest_is_of_pixels_and_shape_and_not_of_the_file():
    pixels = gradient().reshape(*SIZE, 1)
    as_bmp = images.decode(encoded(gradient(), "BMP"), SIZE, "L")
    assert images.digest(as_bmp) == images.digest(pixels)
    assert images.digest(pixels) != images.digest(pixels.reshape(5, 6, 1))
    assert images.digest(pixels) != images.digest(pixels ^ 1)
