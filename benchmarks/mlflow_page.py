"""Promoting as a person does: MLflow's own page in headless Chromium, step by step as README says."""

from __future__ import annotations

import json
import time
from pathlib import Path

from tests.slow.browser import Tab

WINDOW = (1280, 1000)
ASSISTANT = "[data-component-id='mlflow.assistant.chat_panel.close']"
"""The button that closes a panel which the page opens beside everything."""
VERSIONS, ALIAS = "mlflow-versions.png", "mlflow-alias.png"
FIELD = "[role=dialog] input"
SETTLES = 0.5
"""Seconds that the page's own movements take; only the pictures wait for them."""


def open_versions(tab: Tab, uri: str, model: str) -> None:
    """From the first page to the model's table of versions."""
    tab.size(*WINDOW)
    tab.open(f"{uri}/")
    _click(tab, "Model training")
    tab.until(f"document.querySelector({json.dumps(ASSISTANT)}) !== null")
    tab.ask(f"document.querySelector({json.dumps(ASSISTANT)}).click()")
    _click(tab, "Model registry")
    # The first page also links an experiment of that name.
    tab.until("location.hash.split('?')[0] === '#/models'")
    _close_greeting(tab, model)
    _click(tab, model)
    tab.until(f"location.hash.endsWith('/models/{model}')")
    tab.until("document.body.innerText.includes('Version 1')")


def name_champion(tab: Tab, version: str, pictures: Path) -> float:
    """In the table of versions; returns when *Save aliases* was clicked, Unix time."""
    pictures.mkdir(parents=True, exist_ok=True)
    time.sleep(SETTLES)
    tab.picture(pictures / VERSIONS)
    tab.until(f"({_PENCIL})({json.dumps(f'Version {version}')})")
    tab.until(f"document.querySelector({json.dumps(FIELD)}) !== null")
    tab.ask(f"document.querySelector({json.dumps(FIELD)}).focus()")
    tab.send("Input.insertText", text="champion")
    tab.press("Enter")
    tab.until("document.querySelector('[role=dialog]').innerText.includes('is also being used')")
    time.sleep(SETTLES)
    tab.picture(pictures / ALIAS)
    clicked = time.time()
    _click(tab, "Save aliases")
    tab.until("document.querySelector('[role=dialog]') === null")
    return clicked


def _click(tab: Tab, text: str) -> None:
    """The innermost element with just that text."""
    tab.until(f"({_CLICK})({json.dumps(text)})")


def _close_greeting(tab: Tab, model: str) -> None:
    """The first visit to the registry is greeted with a dialog, at least in some browsers."""
    there = f"[...document.querySelectorAll('a')].some(a => a.innerText.trim() === '{model}')"
    tab.until(there)
    tab.ask("document.querySelector('[role=dialog] button[aria-label=Close]')?.click()")


_CLICK = """text => {
  const found = [...document.querySelectorAll('*')]
    .filter(e => (e.innerText ?? '').trim() === text).at(-1);
  found?.click();
  return Boolean(found);
}"""

_PENCIL = """version => {
  const row = [...document.querySelectorAll('tr, [role=row]')].find(
    r => [...r.querySelectorAll('a')].some(a => a.innerText.trim() === version));
  const button = row?.querySelector('button[data-component-id*=aliasescell]');
  button?.click();
  return Boolean(button);
}"""
