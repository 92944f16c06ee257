"""Run: pytest tests/slow/test_page.py -m slow

A person at the page: headless Chromium against the running service.
"""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.fakes import WORSE
from tests.slow import serving
from tests.slow.browser import Tab, browser
from tests.slow.serving import Running

pytestmark = pytest.mark.slow

ANSWER = "document.querySelector('.probability')?.textContent"
KEY = "a key of sixteen characters and more"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving.with_champion(tmp_path_factory.mktemp("page")) as running:
        yield running


@pytest.fixture(scope="module")
def new_tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Tab]]:
    with browser(tmp_path_factory.mktemp("browser") / "home") as new:
        yield new


@pytest.fixture
def tab(service: Running, new_tab: Callable[[], Tab]) -> Tab:
    """At the page, which has loaded."""
    tab = new_tab()
    tab.open(f"{service.url}/")
    return tab


def field(name: str) -> str:
    return f"[data-name={json.dumps(name)}]"


def shown(tab: Tab, selector: str) -> str:
    """The element's text, empty while it is hidden."""
    script = (
        f"(e => e && !e.hidden ? e.innerText : '')(document.querySelector({json.dumps(selector)}))"
    )
    return str(tab.ask(script))


def foreign(tab: Tab, url: str) -> list[str]:
    """What was asked of anyone else; the browser's own icons have no host."""
    return [r for r in tab.requests if urlsplit(r).netloc not in ("", urlsplit(url).netloc)]


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_a_page_loads_whole_and_asks_nobody_else(
    path: str, service: Running, new_tab: Callable[[], Tab]
) -> None:
    tab = new_tab()
    tab.open(service.url + path)
    assert tab.ask("getComputedStyle(document.querySelector('main')).maxWidth") == "1216px"
    assert f"{service.url}/page/page.css" in tab.requests
    assert foreign(tab, service.url) == []
    assert tab.errors == []


def test_what_is_typed_is_asked_and_answered_as_over_http(service: Running, tab: Tab) -> None:
    row = json.loads(tab.ask("written()"))["rows"][0]
    tab.type(field("heat"), "2.5")
    tab.press("Enter")
    percent = tab.until(ANSWER)
    asked = service.predict(row | {"heat": 2.5}).json()["predictions"][0]
    assert percent == f"{100 * asked['probability']:.1f} %"
    told = shown(tab, "#answer")
    assert f"failed: {'yes (1)' if asked['prediction'] else 'no (0)'}" in told
    assert "Answered by version 1." in told
    assert re.fullmatch(r"pumps-1-\d{8}-[0-9a-f]{8}-[0-9a-f]+", shown(tab, "#answer code.id"))
    assert tab.errors == []


def test_a_wrong_value_is_told_at_its_field_until_it_is_mended(service: Running, tab: Tab) -> None:
    wrong = tab.ask(f"document.querySelector('{field('heat')}').id")
    tab.type(field("heat"), "1e39")
    tab.press("Enter")
    tab.until("document.querySelector('.answer.failed') !== null")
    assert "heat is 1e39; allowed: a number" in shown(tab, f"#{wrong}-error")
    assert tab.ask("document.activeElement.id") == wrong
    assert tab.ask("document.querySelectorAll('[aria-invalid]').length") == 1
    assert "Look at: heat" in shown(tab, "#answer")

    tab.type(field("heat"), "1")
    tab.press("Enter")
    tab.until(ANSWER)
    assert shown(tab, f"#{wrong}-error") == ""
    assert tab.ask("document.querySelectorAll('[aria-invalid], .answer.failed').length") == 0


def test_what_is_left_empty_is_told_as_missing(service: Running, tab: Tab) -> None:
    for name in ("heat", "moment"):
        tab.ask(f"document.querySelector('{field(name)}').value = ''")
    tab.ask("document.getElementById('send').click()")
    tab.until("document.querySelectorAll('[aria-invalid]').length === 2")
    texts = tab.ask(
        "[...document.querySelectorAll('.field .error:not([hidden])')].map(e => e.innerText)"
    )
    assert [text.partition(";")[0] for text in texts] == ["moment is missing", "heat is missing"]


def test_reset_brings_the_example_back(tab: Tab) -> None:
    before = tab.ask("written()")
    tab.type(field("heat"), "1e39")
    tab.ask("document.getElementById('send').click()")
    tab.until("document.querySelector('[aria-invalid]') !== null")
    tab.ask("document.querySelector('[type=reset]').click()")
    assert tab.ask("written()") == before
    assert tab.ask("document.querySelector('[aria-invalid]')") is None


def test_whole_numbers_are_sent_digit_by_digit(tab: Tab) -> None:
    tab.type(field("pump"), "9007199254740993")
    assert '"pump":9007199254740993' in tab.ask("written()")


def test_a_screen_reader_has_a_name_for_everything_that_can_be_used(tab: Tab) -> None:
    used = {"textbox", "spinbutton", "combobox", "button", "link", "DateTime"}
    nodes = tab.send("Accessibility.getFullAXTree")["nodes"]
    found = [n for n in nodes if not n["ignored"] and n["role"]["value"] in used]
    assert {n["role"]["value"] for n in found} >= {"textbox", "spinbutton", "button", "link"}
    assert [n for n in found if not n.get("name", {}).get("value")] == []
    (heat,) = (n for n in found if n["name"]["value"].startswith("heat"))
    assert heat["role"]["value"] == "spinbutton"


@pytest.mark.parametrize("path", ["/", "/docs"])
@pytest.mark.parametrize("width", [320, 360, 768])
def test_a_small_screen_need_not_be_moved_sideways(
    width: int, path: str, service: Running, new_tab: Callable[[], Tab]
) -> None:
    tab = new_tab()
    tab.size(width, 640)
    tab.open(service.url + path)
    assert tab.ask("document.documentElement.scrollWidth") <= width


def test_without_javascript_the_page_is_a_reference(
    service: Running, new_tab: Callable[[], Tab]
) -> None:
    tab = new_tab()
    tab.send("Emulation.setScriptExecutionDisabled", value=True)
    tab.send("Page.navigate", url=f"{service.url}/")
    tab.until(f"location.href === '{service.url}/' && document.readyState === 'complete'")
    assert "The button needs JavaScript" in shown(tab, "main")
    assert tab.ask("document.getElementById('send').disabled") is True
    assert tab.ask(f"document.querySelector('{field('heat')}').value") != ""


def example(service: Running, about: str) -> str:
    """The text of one example of the reference, as it would be copied."""
    page = service.get("/docs").text
    (text,) = re.findall(rf'aria-label="{about}"><code>(.*?)</code>', page, re.S)
    return html.unescape(text)


def test_the_curl_command_works_as_pasted(service: Running) -> None:
    done = subprocess.run(
        ["bash", "-c", example(service, "A request with curl")],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert json.loads(done.stdout)["predictions"][0]["id"].startswith("pumps-")


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ("A request in Python", "'predictions': [{'id': 'pumps-"),
        ("A bulk request in Python", "version"),
    ],
)
def test_the_python_examples_work_as_pasted(about: str, said: str, service: Running) -> None:
    done = subprocess.run(
        [sys.executable, "-c", example(service, about)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert said in done.stdout, done.stderr


def test_after_a_swap_the_answer_says_that_the_page_is_of_another_version(
    service: Running, tab: Tab
) -> None:
    second = serving.version(service.at, WORSE)
    serving.champion(service.at, second)
    service.wait_for(second)
    tab.ask("document.getElementById('send').click()")
    tab.until(ANSWER)
    assert f"Answered by version {second}." in shown(tab, "#answer")
    assert "load it again" in shown(tab, "#answer")
    serving.champion(service.at, "1")
    service.wait_for("1")


def test_with_a_key_the_browser_sends_it_with_what_the_page_asks(
    tmp_path: Path, new_tab: Callable[[], Tab]
) -> None:
    with serving.with_champion(tmp_path / "p", PERENNIAL_API_KEY=KEY) as running:
        assert running.get("/").status_code == 401
        tab = new_tab()
        tab.log_in(f"{running.url}/", KEY)
        assert tab.challenges == 1
        assert "version 1 answers" in shown(tab, "h1")
        tab.ask("document.getElementById('send').click()")
        tab.until(ANSWER)
        assert "Authorization: Bearer $PERENNIAL_API_KEY" in tab.ask(
            "fetch('docs').then(answer => answer.text())"
        )
