"""A chat of 10,000 messages: what makes it quick, and, in the nightly run, how quick it is.

python -m pytest -m nightly -s tests/console/test_long_chats.py     prints the figures of docs/console.md
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.console.conftest import Visit

N_MESSAGES = 10_000
SHOWN = 60
KEYS = "The quick brown fox jumps over the lazy dog, again and again and again."

OPEN = """async (shown) => {
  const began = performance.now();
  document.querySelector(".list li button").click();
  while (document.querySelectorAll(".message").length < shown) await new Promise(requestAnimationFrame);
  await new Promise(requestAnimationFrame);
  return performance.now() - began;
}"""
SCROLL = """async (n) => {
  const box = document.querySelector(".messages");
  const times = [];
  box.scrollTop = 0;
  let before = await new Promise(requestAnimationFrame);
  for (let i = 0; i < n; i++) {
    box.scrollTop += 40;
    const now = await new Promise(requestAnimationFrame);
    times.push(now - before);
    before = now;
  }
  return times;
}"""
# From a key to the moment behind the frame that shows it; and what changed in the page outside of the box.
WATCH_KEYS = """() => {
  window.keyTimes = [];
  window.changes = [];
  document.querySelector(".composer textarea").addEventListener("keydown", () => {
    const began = performance.now();
    requestAnimationFrame(() => {
      const { port1, port2 } = new MessageChannel();
      port1.onmessage = () => window.keyTimes.push(performance.now() - began);
      port2.postMessage(0);
    });
  });
  const watched = { subtree: true, childList: true, characterData: true };
  for (const place of [document.querySelector(".messages"), document.querySelector(".list")])
    new MutationObserver((found) => window.changes.push(...found.map((one) => one.type))).observe(place, watched);
}"""


def open_long_chat(visit: Visit, folder: Path) -> float:
    """Milliseconds until it is drawn."""
    said = [
        {
            "role": ("user", "assistant")[n % 2],
            "state": "done",
            "steps": [],
            "isPrompted": True,
            "base": 0,
            "text": f"message {n} with **some** `words` in it, and a few more",
            "error": "",
            "kind": "",
        }
        for n in range(N_MESSAGES)
    ]
    file = folder / "chats.json"
    chats = [{"title": "a long chat", "messages": said, "system": "", "settings": {}}]
    file.write_text(json.dumps({"format": "llama-canister chats 1", "chats": chats}))
    visit.page.set_input_files("input[type=file]", file)
    visit.page.locator(".list li", has_text="a long chat").wait_for()
    return float(visit.page.evaluate(OPEN, SHOWN))


def test_a_long_chat_has_few_messages_in_the_page_and_a_key_draws_none(visit: Visit, tmp_path: Path) -> None:
    open_long_chat(visit, tmp_path)
    messages = visit.page.locator(".message")
    assert messages.count() == SHOWN
    visit.button(f"{N_MESSAGES - SHOWN:,} earlier messages").wait_for()
    assert "message 9999" in messages.last.inner_text()
    visit.page.evaluate(WATCH_KEYS)
    visit.box.press_sequentially("abc")
    visit.until("window.keyTimes.length === 3")
    assert visit.page.evaluate("window.changes") == []
    visit.button(f"{N_MESSAGES - SHOWN:,} earlier messages").click()
    visit.until("document.querySelectorAll('.message').length === 120")


@pytest.mark.nightly
def test_how_quick_a_long_chat_is(visit: Visit, tmp_path: Path) -> None:
    opened = open_long_chat(visit, tmp_path)
    visit.page.wait_for_timeout(500)
    frames = sorted(visit.page.evaluate(SCROLL, 120))
    visit.page.evaluate(WATCH_KEYS)
    visit.box.focus()
    visit.page.keyboard.type(KEYS, delay=60)
    visit.until("(n) => window.keyTimes.length === n", len(KEYS))
    keys = sorted(visit.page.evaluate("window.keyTimes"))
    told = {
        "opened": opened,
        "frame, 95th percentile": frames[int(0.95 * len(frames))],
        "key, median": keys[len(keys) // 2],
        "key, 95th percentile": keys[int(0.95 * len(keys))],
    }
    print({name: f"{ms:.1f} ms" for name, ms in told.items()})
    assert len(keys) == len(KEYS)
