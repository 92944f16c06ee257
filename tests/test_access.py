"""pytest tests/test_access.py: without a key only this machine may ask; with one, who has it."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.errors import ParamsError
from pipelines.service.access import Access, given_key, key_from_environment, must_have_key

KEY = b"0123456789abcdef0123"
HERE, THERE = ("127.0.0.1", 5), ("10.1.2.3", 5)


def basic(user: bytes, password: bytes) -> bytes:
    return b"Basic " + base64.b64encode(user + b":" + password)


def test_without_a_key_only_this_machine_may_ask() -> None:
    open_here = Access(None)
    assert open_here.allows(HERE, None)
    assert not open_here.allows(THERE, None)
    assert not open_here.allows(THERE, b"anything")
    assert not open_here.allows(None, None)


def test_with_a_key_this_machine_needs_it_too() -> None:
    closed = Access(KEY)
    assert closed.allows(THERE, KEY)
    assert not closed.allows(HERE, None)
    assert not closed.allows(HERE, KEY[:-1])


@given(st.binary(max_size=40))
def test_no_other_key_opens(other: bytes) -> None:
    assert Access(KEY).allows(THERE, other) == (other == KEY)


@pytest.mark.parametrize(
    "header",
    [
        (b"authorization", b"Bearer " + KEY),
        (b"authorization", b"bearer  " + KEY),
        (b"x-api-key", KEY),
        (b"authorization", basic(b"anyone", KEY)),
    ],
)
def test_a_key_comes_in_any_of_three_headers(header: tuple[bytes, bytes]) -> None:
    assert given_key([(b"host", b"x"), header]) == KEY


@given(st.binary(max_size=60))
def test_no_header_makes_reading_it_fail(value: bytes) -> None:
    found = given_key([(b"authorization", value)])
    assert found is None or isinstance(found, bytes)


@given(st.binary(max_size=60))
def test_no_basic_header_makes_reading_it_fail(value: bytes) -> None:
    found = given_key([(b"authorization", b"Basic " + value)])
    assert found is None or isinstance(found, bytes)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "example.org"])
def test_other_machines_are_not_let_in_without_a_key(host: str) -> None:
    with pytest.raises(ParamsError, match="PERENNIAL_API_KEY"):
        must_have_key(host, None)
    must_have_key(host, KEY)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_this_machine_needs_no_key(host: str) -> None:
    must_have_key(host, None)


def test_the_key_comes_from_the_environment_or_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PERENNIAL_API_KEY", raising=False)
    monkeypatch.delenv("PERENNIAL_API_KEY_FILE", raising=False)
    assert key_from_environment() is None
    monkeypatch.setenv("PERENNIAL_API_KEY", KEY.decode())
    assert key_from_environment() == KEY
    (tmp_path / "key").write_bytes(KEY + b"99\n")
    monkeypatch.setenv("PERENNIAL_API_KEY_FILE", str(tmp_path / "key"))
    assert key_from_environment() == KEY + b"99"


def test_a_short_key_and_a_missing_file_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is not there must not open the service to everyone."""
    monkeypatch.setenv("PERENNIAL_API_KEY", "secret")
    with pytest.raises(ParamsError, match="6 characters; at least 16"):
        key_from_environment()
    monkeypatch.setenv("PERENNIAL_API_KEY_FILE", str(tmp_path / "none"))
    with pytest.raises(ParamsError, match="which is no file"):
        key_from_environment()
