"""Pictures as their sources give them: pytest tests/test_image_sources.py"""

from __future__ import annotations

import errno
import gzip
import os
import struct
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from pipelines import contract, images
from pipelines.errors import ParamsError, SourceError
from pipelines.params import Source
from pipelines.periods import start_and_end
from pipelines.sources.base import open_source
from pipelines.sources.dealing import dealt, spread
from pipelines.sources.digits import FORMS, Digits
from pipelines.sources.idx import Idx
from pipelines.sources.image_folder import ImageFolder

REPOSITORY = Path(__file__).parent.parent
PETS = contract.parse(
    """
task: pets
time: taken
key: [file]
label: animal
columns:
  file: {type: category, feature: false}
  taken: {type: timestamp}
  animal: {type: category, values: [cat, dog]}
  photo: {type: image, size: [4, 4], mode: L, unreadable: 0.1}
"""
)


def picture(shade: int) -> bytes:
    pixels = np.arange(16, dtype=np.uint8).reshape(4, 4)
    return images.png(pixels + np.uint8(shade))


def write(path: Path, content: bytes = b"", at: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content or picture(len(path.name)))
    if at:
        moment = pd.Timestamp(at, tz="UTC").timestamp()
        os.utime(path, (moment, moment))
    return path


# Settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"kind": "files"}, "kind: files needs path; path is missing"),
        ({"kind": "images"}, "kind: images needs path; path is missing"),
        ({"kind": "flights", "path": "x"}, "kind: flights takes no further key, and not path"),
        ({"kind": "digits", "path": "x"}, "kind: digits takes no further key, and not path"),
        ({"kind": "images", "path": "x", "rows": 5}, "kind: images takes path, and not rows"),
        ({"kind": "files", "path": "x", "first": "2024"}, "kind: files takes path, and not first"),
        ({"kind": "idx", "path": "x", "rows": 5}, "kind: idx needs path, first, rows; first is"),
        ({"kind": "idx", "path": "x", "first": "2024-01"}, "rows is missing"),
    ],
)
def test_keys_that_do_not_go_with_the_kind_are_refused(told, said):
    with pytest.raises(ValueError, match=said):
        Source(**told)


@pytest.mark.parametrize(
    "told",
    [
        {"kind": "flights"}, {"kind": "digits"}, {"kind": "files", "path": "x"},
        {"kind": "images", "path": "x"},
        {"kind": "idx", "path": "x", "first": "2024-01", "rows": 5},
    ],
)  # fmt: skip
def test_keys_that_do_are_taken(told):
    assert Source(**told).kind == told["kind"]


# Made-up times --------------------------------------------------------------------------------


@given(rows=st.integers(0, 500), period=st.sampled_from(["2024-W01", "2024-W52"]))
def test_made_up_times_lie_in_their_period_in_order(rows, period):
    times = pd.Series(spread(rows, period, "week"))
    start, end = start_and_end(period, "week")
    assert times.between(start, end, inclusive="left").all()
    assert times.is_monotonic_increasing
    assert times.is_unique


@given(st.lists(st.sampled_from("abc"), max_size=60))
def test_rows_are_dealt_each_once_and_every_stretch_has_its_share_of_each_class(classes):
    names = [f"row {n}" for n in range(len(classes))]
    order = dealt(names, classes)
    assert sorted(order) == list(range(len(names)))
    assert list(dealt(names, classes)) == list(order)
    given_out = [classes[row] for row in order]
    for end in range(len(order)):
        for cls in set(classes):
            due = classes.count(cls) * end / len(order)
            assert abs(given_out[:end].count(cls) - due) <= 2


def test_the_order_tells_nothing_of_the_names():
    order = dealt([f"row {n:03d}" for n in range(200)], ["a"] * 200)
    assert abs(np.corrcoef(order, np.arange(200))[0, 1]) < 0.2


# Digits ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def forms() -> list[pd.DataFrame]:
    source = Digits("week")
    return [source.read(period) for period in source.periods()]


def test_every_digit_of_scikit_learn_comes_once_with_its_label(forms):
    known = load_digits()
    rows = pd.concat(forms).sort_values("id")
    assert rows["id"].tolist() == [f"digit-{n:04d}" for n in range(1797)]
    assert rows["digit"].tolist() == [str(n) for n in known.target]
    pixels = images.stack(rows["image"].tolist(), (8, 8), "L")[..., 0]
    assert np.array_equal(np.round(pixels / 255 * 16), known.images)
    assert pixels.max() == 255


def test_a_batch_is_one_form_and_every_form_asks_for_the_same_digits(forms):
    """The forms' bounds are read from the labels; a few boxes of some are lost or hold another."""
    asked = forms[0].sort_values("id")["digit"].tolist()
    assert len(asked) == 130
    for form in forms:
        boxes = form.sort_values("id")["digit"].tolist()
        assert SequenceMatcher(None, asked, boxes, autojunk=False).ratio() > 0.95
        assert "".join(boxes[:9]) in ("012345678", "123456789")
        assert 122 <= len(form) <= 130
    assert len(forms) == len(FORMS) == 14


def test_each_week_and_the_rows_it_is_judged_on_have_every_digit(forms):
    for form in forms:
        newest = form["digit"].iloc[-int(0.3 * len(form)) :]
        assert newest.value_counts().reindex([*map(str, range(10))]).min() >= 2
        assert form["digit"].value_counts().min() >= 9


def test_rows_lie_in_their_week_and_have_the_contracts_columns(forms):
    known = contract.load(REPOSITORY / "contracts" / "digits.yaml")
    for period, form in zip(Digits("week").periods(), forms, strict=True):
        start, end = start_and_end(period, "week")
        assert form["time"].between(start, end, inclusive="left").all()
        assert form["time"].is_monotonic_increasing
        assert list(form.columns) == list(known.columns)


def test_a_hand_is_harder_to_read_than_the_hands_one_has_seen(forms):
    """The shift between batches is real: nearest neighbours of other forms and of the same one."""
    pixels = [images.stack(f["image"].tolist(), (8, 8), "L").reshape(len(f), -1) for f in forms]
    labels = [f["digit"].to_numpy() for f in forms]

    def accuracy(known, answers, asked, right):
        distance = ((asked[:, None].astype(int) - known[None]) ** 2).sum(axis=2)
        return (answers[distance.argmin(axis=1)] == right).mean()

    one, all_earlier, same = [], [], []
    for n in range(1, len(forms)):
        one.append(accuracy(pixels[0], labels[0], pixels[n], labels[n]))
        earlier = np.concatenate(pixels[:n]), np.concatenate(labels[:n])
        all_earlier.append(accuracy(*earlier, pixels[n], labels[n]))
        odd = np.arange(len(labels[n])) % 2 == 1
        same.append(accuracy(pixels[n][odd], labels[n][odd], pixels[n][~odd], labels[n][~odd]))
    assert np.mean(same) > np.mean(one) + 0.05
    assert np.mean(all_earlier) > np.mean(one) + 0.05


def test_digits_are_batches_of_a_week_only():
    with pytest.raises(ParamsError, match=r"period is month; allowed: week"):
        Digits("month")


# A folder a class -----------------------------------------------------------------------------


def test_a_folder_a_period_and_a_folder_a_class(tmp_path):
    for week in ("2024-W02", "2024-W01"):
        for cls in ("cat", "dog"):
            for n in range(6):
                write(tmp_path / week / cls / f"{n}.png", picture(n))
    source = ImageFolder(tmp_path, PETS, "week")
    assert source.periods() == ("2024-W01", "2024-W02")
    rows = source.read("2024-W02")
    assert list(rows.columns) == list(PETS.columns)
    assert sorted(rows["file"]) == [
        f"2024-W02/{c}/{n}.png" for c in ("cat", "dog") for n in range(6)
    ]
    assert [name.split("/")[1] for name in rows["file"]] == rows["animal"].tolist()
    assert rows["photo"].map(type).eq(bytes).all()
    start, end = start_and_end("2024-W02", "week")
    assert rows["taken"].between(start, end, inclusive="left").all()
    assert rows["taken"].is_monotonic_increasing
    assert set(rows["animal"].iloc[-4:]) == {"cat", "dog"}
    pd.testing.assert_frame_equal(rows, ImageFolder(tmp_path, PETS, "week").read("2024-W02"))


def test_copied_files_are_the_same_batch(tmp_path):
    for n in range(6):
        write(tmp_path / "a" / "2024-W01" / "cat" / f"{n}.png", picture(n), at="2001-02-03")
        write(tmp_path / "b" / "2024-W01" / "cat" / f"{n}.png", picture(n), at="2019-02-03")
    one, two = (ImageFolder(tmp_path / f, PETS, "week").read("2024-W01") for f in "ab")
    pd.testing.assert_frame_equal(one, two)


def test_without_period_folders_a_picture_came_when_its_file_was_changed(tmp_path):
    write(tmp_path / "cat" / "late.png", at="2024-02-01T00:00:00")
    write(tmp_path / "dog" / "sub.jpeg", at="2024-01-31T23:59:59")
    write(tmp_path / "cat" / "early.png", at="2024-01-02T03:04:05")
    source = ImageFolder(tmp_path, PETS, "month")
    assert source.periods() == ("2024-01", "2024-02")
    rows = source.read("2024-01")
    assert rows["file"].tolist() == ["cat/early.png", "dog/sub.jpeg"]
    assert rows["taken"].astype(str).tolist() == ["2024-01-02 03:04:05", "2024-01-31 23:59:59"]


def test_whatever_a_file_holds_is_landed_as_it_is(tmp_path):
    write(tmp_path / "2024-W01" / "cat" / "empty.png").write_bytes(b"")
    write(tmp_path / "2024-W01" / "cat" / "notes.txt", b"not a picture")
    write(tmp_path / "2024-W01" / "dog" / "good.png", picture(1))
    write(tmp_path / "2024-W01" / "dog" / ".half.png.part", b"x")
    write(tmp_path / "2024-W01" / ".thumbs" / "a.png", b"x")
    rows = ImageFolder(tmp_path, PETS, "week").read("2024-W01")
    held = dict(zip(rows["file"], rows["photo"], strict=True))
    assert held == {
        "2024-W01/cat/empty.png": b"",
        "2024-W01/cat/notes.txt": b"not a picture",
        "2024-W01/dog/good.png": picture(1),
    }


def test_a_file_in_no_class_is_named(tmp_path, caplog):
    write(tmp_path / "2024-W01" / "cat" / "a.png")
    write(tmp_path / "README.md", b"about these")
    assert ImageFolder(tmp_path, PETS, "week").periods() == ("2024-W01",)
    assert "files in no class: README.md" in caplog.text


def test_a_name_that_is_no_utf_8_is_kept_readable(tmp_path):
    folder = write(tmp_path / "2024-W01" / "cat" / "a.png").parent
    try:
        (folder / os.fsdecode(b"caf\xe9.png")).write_bytes(picture(3))
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    rows = ImageFolder(tmp_path, PETS, "week").read("2024-W01")
    assert sorted(rows["file"])[1] == "2024-W01/cat/caf\\udce9.png"
    rows.to_parquet(tmp_path / "batch.parquet")


@pytest.mark.parametrize("above", ["2024-W01", "."])
def test_a_class_that_is_no_utf_8_is_kept_readable(above, tmp_path):
    inbox = tmp_path / "inbox"
    try:
        write(inbox / above / os.fsdecode(b"caf\xe9") / "a.png", at="2024-01-02T03:04:05")
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    rows = ImageFolder(inbox, PETS, "week").read("2024-W01")
    assert rows["animal"].tolist() == ["caf\\udce9"]
    rows.to_parquet(tmp_path / "batch.parquet")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda at: None, "is no folder"),
        (lambda at: at.mkdir(), "holds no picture; allowed: <class>/<file>, or <period>/"),
        (lambda at: (at / "2024-W01" / "cat").mkdir(parents=True), "holds no picture"),
        (lambda at: [write(at / f / "cat" / "a.png") for f in ("2024-W01", "rest")],
         "named as a week is.*others \\(rest\\); allowed: all or none.*perennial ingest pets"),
        (lambda at: write(at / "2024-W01" / "cat" / "kittens" / "a.png"),
         "kittens is no file; allowed in the folder of a class"),
    ],
)  # fmt: skip
def test_a_folder_that_is_not_laid_out_so_is_named(tmp_path, make, said):
    make(tmp_path / "pets")
    with pytest.raises(SourceError, match=said):
        ImageFolder(tmp_path / "pets", PETS, "week").periods()


def test_a_folder_named_as_a_period_that_is_none_is_named(tmp_path):
    write(tmp_path / "2024-W60" / "cat" / "a.png")
    with pytest.raises(ParamsError, match="'2024-W60' is not a week"):
        ImageFolder(tmp_path, PETS, "week").periods()


def test_a_file_too_large_for_a_picture_is_named_and_not_read(tmp_path):
    path = write(tmp_path / "2024-W01" / "cat" / "film.png")
    os.truncate(path, 65 << 20)
    source = ImageFolder(tmp_path, PETS, "week")
    with pytest.raises(SourceError, match=r"film\.png has 68,157,440 bytes; allowed: at most"):
        source.read("2024-W01")


@pytest.mark.parametrize(
    "change",
    [("key: [file]", "key: [file, taken]"), ("animal: {type: category, values: [cat, dog]}",
      "animal: {type: integer}"), ("type: image, size: [4, 4], mode: L, unreadable: 0.1",
      "type: number")],
)  # fmt: skip
def test_a_contract_that_such_a_source_cannot_fill_is_refused(tmp_path, change):
    text = (
        "task: pets\ntime: taken\nkey: [file]\nlabel: animal\ncolumns:\n"
        "  file: {type: category, feature: false}\n  taken: {type: timestamp}\n"
        "  animal: {type: category, values: [cat, dog]}\n"
        "  photo: {type: image, size: [4, 4], mode: L, unreadable: 0.1}\n"
    )
    other = contract.parse(text.replace(*change))
    with pytest.raises(ParamsError, match=r"contracts/pets\.yaml: source kind images gives one"):
        ImageFolder(tmp_path, other, "week")


@pytest.mark.parametrize("gone", ["cat", "cat/1.png"])
def test_what_cannot_be_looked_at_is_named(tmp_path, monkeypatch, gone):
    """A folder of somebody else's, and a file that is moved away while the folder is read."""
    write(tmp_path / "cat" / "1.png")
    write(tmp_path / "dog" / "2.png")

    def refusing(of):
        def call(path, *given, **named):
            if path == tmp_path / gone:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return of(path, *given, **named)

        return call

    name = "stat" if gone.endswith("png") else "iterdir"
    monkeypatch.setattr(Path, name, refusing(getattr(Path, name)))
    monkeypatch.setattr(Path, "is_file", lambda path: path.suffix == ".png")
    with pytest.raises(SourceError, match=f"{gone} cannot be looked at: Permission denied"):
        ImageFolder(tmp_path, PETS, "day").periods()


# IDX ------------------------------------------------------------------------------------------


def idx(values: np.ndarray) -> bytes:
    return (
        bytes([0, 0, 8, values.ndim])
        + struct.pack(f">{values.ndim}I", *values.shape)
        + values.tobytes()
    )


def gzipped(content: bytes) -> bytes:
    """Without the time: tests that are named after it have other names in each process."""
    return gzip.compress(content, mtime=0)


PIXELS = np.random.default_rng(0).integers(0, 256, (25, 4, 4), dtype=np.uint8)
CLASSES = (np.arange(25) % 2).astype(np.uint8)


def pair(
    folder: Path, pictures: bytes = idx(PIXELS), labels: bytes = idx(CLASSES), end: str = ""
) -> Idx:
    path = write(folder / f"train-images-idx3-ubyte{end}", pictures)
    write(folder / f"train-labels-idx1-ubyte{end}", labels)
    return Idx(path, PETS, "day", "2024-02-28", 10)


@pytest.mark.parametrize("end", ["", ".gz"])
def test_rows_are_dealt_into_batches_in_the_order_of_the_file(tmp_path, end):
    packed = gzipped if end else bytes
    source = pair(tmp_path, packed(idx(PIXELS)), packed(idx(CLASSES)), end)
    assert source.periods() == ("2024-02-28", "2024-02-29", "2024-03-01")
    parts = [source.read(period) for period in source.periods()]
    assert [len(part) for part in parts] == [10, 10, 5]
    rows = pd.concat(parts)
    assert rows["file"].tolist() == [f"train-{n:05d}" for n in range(25)]
    assert rows["animal"].tolist() == [["cat", "dog"][n] for n in CLASSES]
    assert np.array_equal(images.stack(rows["photo"].tolist(), (4, 4), "L")[..., 0], PIXELS)
    for period, part in zip(source.periods(), parts, strict=True):
        assert part["taken"].dt.strftime("%Y-%m-%d").eq(period).all()


def test_a_label_beyond_the_classes_is_left_for_validation_to_name(tmp_path):
    source = pair(tmp_path, labels=idx(np.full(25, 7, np.uint8)))
    assert set(source.read("2024-02-28")["animal"]) == {"label 7"}


def test_a_label_beyond_classes_that_are_called_by_numbers_is_none_of_them(tmp_path):
    pair(tmp_path, labels=idx(np.full(25, 2, np.uint8)))
    animal = PETS.columns["animal"].model_copy(update={"values": ("1", "2")})
    numbered = PETS.model_copy(update={"columns": PETS.columns | {"animal": animal}})
    source = Idx(tmp_path / "train-images-idx3-ubyte", numbered, "day", "2024-02-28", 10)
    assert set(source.read("2024-02-28")["animal"]) == {"label 2"}


@pytest.mark.parametrize(
    ("pictures", "labels", "said"),
    [
        (b"\0\0\x0d\3" + idx(PIXELS)[4:], idx(CLASSES), "images-.*begins with 00 00 0d 03, not 00 00 08 03"),
        (idx(CLASSES), idx(CLASSES), "images-.*begins with 00 00 08 01"),
        (idx(PIXELS), idx(PIXELS), "labels-.*begins with 00 00 08 03, not 00 00 08 01"),
        (idx(PIXELS), idx(CLASSES[:-1]), "holds 25 pictures and .*labels-idx1-ubyte 24 labels"),
        (idx(PIXELS)[:-1], idx(CLASSES), "promises 400 bytes and it has only 399"),
        (idx(PIXELS) + b"x", idx(CLASSES), "promises 400 bytes and it has more"),
        (idx(PIXELS)[:9], idx(CLASSES), "ends within its header"),
        (b"\0\0\x08\3" + b"\xff" * 12, idx(CLASSES), "promises .* bytes, more than it holds"),
        (gzipped(idx(PIXELS))[:-9], idx(CLASSES), "images-.*cannot be read"),
        (gzipped(b"\0\0\x08\3" + b"\xff" * 12), idx(CLASSES), "more than it holds"),
        (gzipped(idx(PIXELS))[:30] + b"spoiled" * 9, idx(CLASSES), "images-.*cannot be read"),
        (idx(PIXELS), gzipped(idx(CLASSES))[:12], "labels-.*cannot be read"),
    ],
)  # fmt: skip
def test_a_broken_file_is_named_with_what_is_wrong(tmp_path, pictures, labels, said):
    with pytest.raises(SourceError, match=said):
        pair(tmp_path, pictures, labels).periods()


def test_a_missing_file_of_labels_is_named(tmp_path):
    source = pair(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(SourceError, match="train-labels-idx1-ubyte: there is no such file"):
        source.periods()


def test_a_file_whose_labels_cannot_be_found_is_named(tmp_path):
    with pytest.raises(SourceError, match=r"does not say images-idx3 in its name"):
        Idx(write(tmp_path / "pictures.gz"), PETS, "day", "2024-02-28", 10).periods()


def test_a_first_period_of_another_length_is_refused(tmp_path):
    with pytest.raises(ParamsError, match="'2024-W01' is not a day"):
        Idx(tmp_path / "a", PETS, "day", "2024-W01", 10)


@given(place=st.integers(0, 60), value=st.integers(0, 255), packed=st.booleans())
def test_a_spoiled_file_is_read_or_named_and_never_crashes(tmp_path_factory, place, value, packed):
    spoiled = bytearray(gzipped(idx(PIXELS)) if packed else idx(PIXELS))
    spoiled[place] = value
    try:
        rows = pair(tmp_path_factory.mktemp("idx"), bytes(spoiled)).read("2024-02-28")
    except SourceError:
        return
    assert len(rows) == 10


# The list of sources --------------------------------------------------------------------------


def test_each_kind_is_opened_and_found_from_the_projects_root(tmp_path, monkeypatch):
    from pipelines import params

    flights = params.task(REPOSITORY / "params.yaml", "flights")

    def opened(**told: object) -> tuple[str, ...]:
        task = flights.model_copy(update={"source": Source(**told), "period": "week"})
        return open_source(task, PETS, Path("/nowhere")).periods()

    monkeypatch.setenv("PERENNIAL_SOURCES", str(tmp_path))
    write(tmp_path / "pets" / "2024-W05" / "cat" / "a.png")
    pair(tmp_path / "mnist")
    assert opened(kind="digits")[0] == "2024-W01"
    assert opened(kind="images", path="pets") == ("2024-W05",)
    told = {"kind": "idx", "path": "mnist/train-images-idx3-ubyte", "first": "2024-W01"}
    assert opened(**told, rows=20) == ("2024-W01", "2024-W02")
