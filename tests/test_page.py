"""Run: pytest tests/test_page.py

The pages for people: what they show, that nothing in a contract can act on them, and that nothing is
fetched from elsewhere. tests/slow/test_page.py asks them in a browser.
"""

from __future__ import annotations

import base64
import json
import re
import shlex
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.exceptions import HTTPException

from pipelines import contract as contracts
from pipelines.contract import Contract
from pipelines.project import Project, open_project
from pipelines.serve_params import Challenger
from pipelines.service.label_body import labels_decoder
from pipelines.service.pages import form, openapi, page, reference
from pipelines.service.state import Model
from pipelines.wire.read import Wire
from tests.conftest import REPOSITORY
from tests.fakes import PUMPS, pump_model

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7 * 7 }}"
CALM: dict[str, Any] = {
    "champion": None,
    "said": "",
    "refused": {},
    "failed": {},
    "registry": {"reachable": True, "since": None, "error": ""},
    "keeper": {"looked_at": None, "unreadable": ""},
    "upkeep": {"failures": 1, "failing": False, "error": "compact: OSError: of yesterday"},
}


class FakeLive:
    def __init__(self, champion: Model | None, **state: Any) -> None:
        self.champion, self.challenger = champion, None
        self._state = CALM | {"champion": champion and {"version": champion.version}} | state

    def state(self) -> dict[str, Any]:
        return self._state

    def waiting_for(self) -> str:
        return "the keeper has not spoken yet"


class FakeWorker:
    def __init__(self, contract: Contract, champion: Model | None, **state: Any) -> None:
        self.live = FakeLive(champion, **state)
        self.wire = Wire(contract, 100)


class Elements(HTMLParser):
    """What a browser would make of the text: elements with their attributes, and all text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.found if tag in tags]

    def input(self, name: str) -> dict[str, str | None]:
        (one,) = (i for i in self.all("input", "select") if i["data-name"] == name)
        return one


@pytest.fixture
def project(project_folder: Path) -> Project:
    return replace(open_project("flights"), name="pumps", contract=PUMPS)


@pytest.fixture
def model(tmp_path: Path) -> Model:
    made = pump_model(tmp_path / "made" / "model")
    return Model("4", made, 1_700_000_000.0, "better by 0.02", 0.5, 1_700_000_001.0)


def both(project: Project, worker: Any) -> tuple[str, str]:
    return (
        page.html(project, worker),
        reference.docs_html(project, worker, "http://127.0.0.1:3000/"),
    )


# what it says ---------------------------------------------------------------------------------


def test_the_page_tells_which_model_answers_and_why(project: Project, model: Model) -> None:
    text = Elements(page.html(project, FakeWorker(PUMPS, model))).text
    for said in ("version 4 answers", "2023-11-14 22:13:20 UTC", "better by 0.02", "0.500"):
        assert said in text
    assert model.artifact.digest in text


def test_without_a_model_it_says_so_and_how_to_make_one(project: Project) -> None:
    worker = FakeWorker(PUMPS, None)
    for html in both(project, worker):
        text = Elements(html).text
        assert "No version answers" in text
        assert "perennial tick pumps" in text
    assert page.example(worker) is None


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"said": "champion is version 5, which is being tried"}, "being tried"),
        ({"refused": {"5": {"reason": "no parity", "since": "2026"}}}, "5 is refused since 2026: no parity"),
        ({"failed": {"champion": {"version": "5", "reason": "no memory"}}}, "does not load: no memory"),
        ({"challenger_off": {"version": "6", "reason": "too slow"}}, "6, lost its traffic: too slow"),
        ({"registry": {"reachable": False, "since": "2026", "error": "refused"}}, "out of reach since 2026"),
        ({"keeper": {"looked_at": "2026-01-01T00:00:00+00:00", "unreadable": ""}}, "has not looked since"),
        ({"keeper": {"looked_at": None, "unreadable": "torn"}}, "cannot be read: torn"),
        ({"upkeep": {"failing": True, "error": "compact: no room"}}, "log fails, so answers stay"),
    ],
)  # fmt: skip
def test_what_is_not_as_it_should_be_stands_on_the_page(
    state: dict[str, Any], said: str, project: Project, model: Model
) -> None:
    assert said in Elements(page.html(project, FakeWorker(PUMPS, model, **state))).text
    assert said not in Elements(page.html(project, FakeWorker(PUMPS, model))).text


def test_a_challenger_is_told_with_its_share(project: Project, model: Model) -> None:
    worker = FakeWorker(PUMPS, model)
    worker.live.challenger = replace(model, version="5")
    for route, said in (("canary", "answers 5 %"), ("shadow", "unheard, on 5 %")):
        serve = project.task.serve.model_copy(update={"challenger": Challenger(route=route)})
        task = project.task.model_copy(update={"serve": serve})
        assert said in Elements(page.html(replace(project, task=task), worker)).text


@pytest.mark.parametrize(
    ("uri", "address", "command"),
    [
        ("", "", "mlflow ui --backend-store-uri sqlite:///.mlflow/mlflow.db"),
        ("http://mlflow:5000/", "http://mlflow:5000/#/models/pumps/versions/4", ""),
        ("https://me:pass@host/base", "https://host/base/#/models/pumps/versions/4", ""),
        ("postgresql://me:p@ss@db/x", "", "mlflow ui --backend-store-uri postgresql://db/x"),
        (
            "postgresql://me:pass@/x?host=/var/run/postgresql", "",
            "mlflow ui --backend-store-uri postgresql:///x",
        ),
        (
            "postgresql:///x?user=me&password=pass", "",
            "mlflow ui --backend-store-uri postgresql:///x",
        ),
        (
            "postgresql://db/x?user=me&password=pass", "",
            "mlflow ui --backend-store-uri postgresql://db/x",
        ),
        ("javascript:alert(1)", "", "mlflow ui --backend-store-uri 'javascript:alert(1)'"),
    ],
)  # fmt: skip
def test_mlflow_is_a_link_or_the_command_that_opens_it_and_never_a_password(
    uri: str, address: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(page.TRACKING, uri)
    assert page.mlflow("pumps", "4") == {"address": address, "command": command}


# the form -------------------------------------------------------------------------------------

SHOP = contracts.parse(
    """
task: shop
time: at
key: [at, number]
label: returned
columns:
  at: {type: timestamp}
  number: {type: integer, feature: false}
  price: {type: number, min: 0.5, max: 99, unit: €, description: With tax.}
  pieces: {type: integer, min: 1, max: 12}
  weight: {type: number, nulls: 0.2}
  loose: {type: number, min: 0, max: 9, outside: 0.1}
  country: {type: category, values: [DE, FR]}
  colour: {type: category, values: [red, blue], nulls: 0.5}
  brand: {type: category, values: [one, two], new_values: 0.1}
  gift: {type: boolean}
  returned: {type: integer, min: 0, max: 1}
"""
)
ORDER = {
    "at": "2024-03-02T10:00:00", "number": 7, "price": 12.5, "pieces": 3.0, "weight": None,
    "loose": 1e-7, "country": "FR", "colour": None, "brand": "one", "gift": True,
}  # fmt: skip


def shop_inputs(row: dict[str, Any] | None = None) -> dict[str, form.Input]:
    return {one.name: one for one in form.inputs(Wire(SHOP, 10).shape.fields, row)}


def test_each_field_becomes_the_input_that_fits_its_type() -> None:
    inputs = shop_inputs(ORDER)
    assert list(inputs) == list(Wire(SHOP, 10).fields)
    assert (inputs["at"].type, inputs["at"].step) == ("datetime-local", "1")
    price = inputs["price"]
    assert (price.type, price.min, price.max, price.step, price.unit) == (
        "number",
        "0.5",
        "99",
        "any",
        "€",
    )
    assert (inputs["pieces"].min, inputs["pieces"].max, inputs["pieces"].step) == ("1", "12", "1")
    assert (inputs["weight"].min, inputs["weight"].max) == ("", "")
    assert (inputs["loose"].min, inputs["loose"].max) == ("", "")
    assert inputs["country"].options == ("DE", "FR")
    assert (inputs["brand"].options, inputs["brand"].suggestions) == ((), ("one", "two"))
    assert inputs["gift"].options == ("true", "false")


def test_an_empty_choice_stands_where_null_is_allowed_or_the_field_may_be_left_out() -> None:
    inputs = shop_inputs()
    empty = {name: one.says_empty for name, one in inputs.items() if one.says_empty}
    assert empty == {"number": "left out", "weight": "not known", "colour": "not known"}
    assert {inputs[name].empty for name in ("weight", "colour")} == {"null"}
    assert {inputs[name].empty for name in ("number", "price", "at", "gift")} == {"omit"}
    assert {inputs[name].empty for name in ("country", "brand")} == {"text"}


def test_limits_are_told_and_those_of_the_number_formats_are_not() -> None:
    told = {name: one.allowed for name, one in shop_inputs().items() if one.allowed}
    assert told == {"price": "From 0.5 to 99.", "pieces": "From 1 to 12."}


def test_the_example_stands_in_the_form_as_it_is_sent() -> None:
    values = {name: one.value for name, one in shop_inputs(ORDER).items()}
    assert values == {
        "at": "2024-03-02T10:00:00", "number": "7", "price": "12.5", "pieces": "3", "weight": "",
        "loose": "1e-07", "country": "FR", "colour": "", "brand": "one", "gift": "true",
    }  # fmt: skip


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**63), 2**63))
def test_a_number_in_the_form_reads_back_as_itself(number: float) -> None:
    (one,) = (i for i in shop_inputs({"price": number}).values() if i.name == "price")
    assert json.loads(one.value) == number


def test_the_example_is_a_row_that_the_service_takes(model: Model) -> None:
    worker = FakeWorker(PUMPS, model)
    row = page.example(worker)
    assert row is not None
    assert set(row) == set(worker.wire.fields)
    worker.wire.rows(json.dumps({"rows": [row]}).encode())


def test_no_persons_value_is_shown_and_the_example_works_as_pasted(
    project: Project, tmp_path: Path
) -> None:
    """Of the key it is left out, since it may be."""
    columns = {
        name: column.model_copy(update={"personal": name in ("pump", "site", "heat")})
        for name, column in PUMPS.columns.items()
    }
    described = PUMPS.model_copy(update={"columns": columns})
    made = pump_model(tmp_path / "made" / "model", described=described)
    real = pd.read_parquet(made.folder / "examples.parquet")
    heat = set(real["heat"].astype(str))
    worker = FakeWorker(described, Model("4", made, 1.0, "better", 0.5, 1.0))
    row = page.example(worker)
    assert row is not None
    assert set(row) == set(worker.wire.fields) - {"pump"}
    assert (row["site"], row["heat"]) == ("made up", 0.0)
    assert row["noise"] == real["noise"][0]
    worker.wire.rows(json.dumps({"rows": [row]}).encode())
    about, serve = made.about, project.task.serve
    shown = [
        *both(replace(project, contract=described), worker),
        json.dumps(openapi.document(described, about, row, serve)),
    ]
    for text in shown:
        assert not re.search(r"\b(north|south|west)\b", text)
        assert not [value for value in heat if value in text]
        assert "made up" in text
    assert "what is personal in it is made up" in Elements(shown[0]).text
    plain = FakeWorker(PUMPS, Model("4", made, 1.0, "better", 0.5, 1.0))
    assert "is made up" not in page.html(project, plain)


def test_who_changes_the_example_changes_his_own(model: Model) -> None:
    worker = FakeWorker(PUMPS, model)
    first = page.example(worker)
    assert first is not None
    first.clear()
    assert page.example(worker)


def test_every_input_has_a_label_a_hint_and_a_place_for_its_message(
    project: Project, model: Model
) -> None:
    found = Elements(page.html(project, FakeWorker(PUMPS, model)))
    ids = {attributes["id"] for _, attributes in found.found if "id" in attributes}
    labelled = {attributes["for"] for attributes in found.all("label")}
    inputs = found.all("input", "select")
    assert {i["data-name"] for i in inputs} == set(Wire(PUMPS, 1).fields)
    for one in inputs:
        assert one["id"] in labelled
        assert set((one["aria-describedby"] or "").split()) <= ids
    (said,) = (a for a in found.all("div") if a.get("id") == "answer")
    assert said["aria-live"] == "polite"


# nothing acts, nothing is fetched -------------------------------------------------------------


def hostile(text: str) -> Contract:
    """The pumps, with `text` wherever a contract may hold any."""
    columns = {
        (text if name == "heat" else name): column.model_copy(
            update={"description": text, "unit": text}
            | ({"values": (text, "north")} if name == "site" else {})
        )
        for name, column in PUMPS.columns.items()
    }
    return PUMPS.model_copy(update={"description": text, "columns": columns})


def harmless(html: str) -> None:
    found = Elements(html)
    for _, attributes in found.found:
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        for name in ("src", "href", "action"):
            address = attributes.get(name) or ""
            assert not re.match(r"\s*(\w+:|//)", address), address
    assert [a.get("src") for a in found.all("script")] in ([], ["page/page.js"])
    assert not found.all("style", "img", "iframe", "object", "base")


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=40) | st.just(HOSTILE))
def test_whatever_a_contract_holds_is_shown_and_does_nothing(
    text: str, project: Project, model: Model
) -> None:
    contract = hostile(text or "x")
    state = {"said": text, "refused": {text: {"reason": text, "since": text}}}
    worker = FakeWorker(contract, replace(model, version=text or "4", why=text), **state)
    for html in both(replace(project, contract=contract), worker):
        harmless(html)


def test_hostile_text_stands_on_the_page_as_text(project: Project, model: Model) -> None:
    contract = hostile(HOSTILE)
    worker = FakeWorker(contract, replace(model, why=HOSTILE))
    html = page.html(replace(project, contract=contract), worker)
    assert HOSTILE in Elements(html).text
    assert Elements(html).input(HOSTILE)["data-name"] == HOSTILE
    assert "<script>alert" not in html


def test_a_hostile_address_is_text_on_the_reference_and_one_word_of_its_command(
    project: Project, model: Model
) -> None:
    address = "http://a$(reboot)'\"<script>"
    html = reference.docs_html(project, FakeWorker(PUMPS, model), address)
    harmless(html)
    words = shlex.split(reference.curl(address, {"a": 1}).replace("\\\n", " "))
    assert f"{address}/predict" in words


@pytest.mark.parametrize("name", sorted(page.MEDIA))
def test_assets_fetch_nothing_from_elsewhere(name: str) -> None:
    text, media = page.asset(name)
    assert media.partition("/")[0] in ("text", "image")
    addresses = re.findall(r"(?:https?:)?//[^\s/]\S*", re.sub(r"(?m)^\s*//.*$", "", text))
    assert [a for a in addresses if "www.w3.org/2000/svg" not in a] == []
    assert "innerHTML" not in text
    assert "@import" not in text


@pytest.mark.parametrize(
    "name", ["", "page.py", "../page.py", "..%2fpage.py", "page.html", "/etc/passwd"]
)
def test_no_other_file_can_be_had(name: str) -> None:
    with pytest.raises(HTTPException) as caught:
        page.asset(name)
    assert caught.value.status_code == 404


def test_every_file_that_the_pages_name_is_there(project: Project, model: Model) -> None:
    for html in both(project, FakeWorker(PUMPS, model)):
        found = Elements(html)
        named = [a.get("src") or a.get("href") or "" for a in found.all("script", "link")]
        assert named
        for one in named:
            page.asset(one.removeprefix("page/"))


def colours(dark: bool) -> dict[str, tuple[float, ...]]:
    """Name -> red, green, blue in 0..1, of one theme."""
    light, at_night = re.findall(r":root \{(.*?)\}", page.asset("page.css")[0], re.S)
    named = dict(re.findall(r"--([\w-]+): #(\w+)", light))
    if dark:
        named |= dict(re.findall(r"--([\w-]+): #(\w+)", at_night))
    whole = {n: v if len(v) == 6 else "".join(2 * c for c in v) for n, v in named.items()}
    return {n: tuple(int(v[i : i + 2], 16) / 255 for i in (0, 2, 4)) for n, v in whole.items()}


def luminance(colour: tuple[float, ...]) -> float:
    """Relative luminance, as WCAG 2 defines it."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize(
    ("text", "ground"),
    [(t, g) for t in ("ink", "soft", "accent", "bad") for g in ("ground", "raised")]
    + [("on-accent", "accent"), ("ink", "warn")],
)
def test_text_stands_out_from_its_ground_in_both_themes(text: str, ground: str, dark: bool) -> None:
    """At least 4.5 to 1: WCAG 2, level AA."""
    named = colours(dark)
    low, high = sorted((luminance(named[text]), luminance(named[ground])))
    assert (high + 0.05) / (low + 0.05) >= 4.5


# the reference --------------------------------------------------------------------------------


def test_the_curl_command_sends_a_row_that_the_service_takes(model: Model) -> None:
    worker = FakeWorker(PUMPS, model)
    row = page.example(worker)
    assert row is not None
    words = shlex.split(reference.curl("http://127.0.0.1:3000", row).replace("\\\n", " "))
    assert words[:3] == ["curl", "-s", "http://127.0.0.1:3000/predict"]
    worker.wire.rows(words[words.index("-d") + 1].encode())


def test_texts_with_quotes_survive_the_shell_and_python() -> None:
    row = {"it's": 'a "b" $HOME `c` \\ é', "n": None, "yes": True}
    words = shlex.split(reference.curl("http://a", row).replace("\\\n", " "))
    assert json.loads(words[-1]) == {"rows": [row]}
    python = reference.python("http://a", row)
    scope: dict[str, Any] = {}
    exec(python[python.index("row =") : python.index("request =")], scope)
    assert scope["row"] == row


@pytest.mark.parametrize("variable", ["PERENNIAL_API_KEY", "PERENNIAL_API_KEY_FILE"])
def test_with_a_key_every_example_takes_it_from_the_environment(
    variable: str, project: Project, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "a secret of sixteen and more")
    html = reference.docs_html(project, FakeWorker(PUMPS, model), "http://a")
    text = Elements(html).text
    assert "a secret of" not in html
    assert text.count('-H "Authorization: Bearer $PERENNIAL_API_KEY"') == 2
    assert text.count('"Bearer " + os.environ["PERENNIAL_API_KEY"]') == 2
    monkeypatch.delenv(variable)
    bare = reference.docs_html(project, FakeWorker(PUMPS, model), "http://a")
    assert "Authorization" not in bare


def test_the_reference_says_what_each_field_may_hold(project: Project, model: Model) -> None:
    shop = replace(project, contract=SHOP)
    text = Elements(reference.docs_html(shop, FakeWorker(SHOP, model), "http://a")).text
    assert "a number from 0.5 to 99 €With tax." in text
    assert "known are one, two, others are answered and counted" in text
    assert "one of red, blue, or null" in text
    assert "numbermay be left out" in text


def test_the_examples_are_python(model: Model) -> None:
    row = page.example(FakeWorker(PUMPS, model))
    assert row is not None
    compile(reference.python("http://a", row), "python", "exec")
    compile(reference.bulk("http://a", row, ("moment",), ()), "bulk", "exec")


def test_the_examples_for_pictures_and_classes_are_taken_as_they_stand(
    project_folder: Path,
) -> None:
    digits = open_project("digits").contract
    command = shlex.split(reference.labels("http://a", digits))
    sent = command[command.index("-d") + 1].encode()
    assert labels_decoder(digits).decode(sent).labels[0].label in digits.classes

    row = {"id": "a", "image": base64.b64encode(b"a picture").decode()}
    made: dict[str, Any] = {}
    program = reference.bulk("http://a", row, (), ("image",)).partition("request = Request")[0]
    exec(program, made)
    assert made["table"].column("image").to_pylist()[0] == b"a picture"

    told = json.loads(reference.answer(digits, FakeWorker(digits, None)))
    (one,) = told["predictions"]
    assert one["probabilities"][one["prediction"]] == one["probability"]
    assert set(one["probabilities"]) == set(digits.classes)
    text = Elements(
        reference.docs_html(open_project("digits"), FakeWorker(digits, None), "http://a")
    ).text
    assert "1 or 0" not in text
    assert "digit = 1" not in text


def test_the_flights_of_this_repository_have_a_page(project_folder: Path) -> None:
    project = open_project("flights")
    found = Elements(page.html(project, FakeWorker(project.contract, None)))
    assert found.input("origin")["id"] in {a["id"] for a in found.all("select")}
    assert found.input("distance")["min"] == "10"
    described = yaml.safe_load((REPOSITORY / "contracts" / "flights.yaml").read_text())
    for name in project.contract.inputs:
        assert described["columns"][name]["description"].split()[0] in found.text
