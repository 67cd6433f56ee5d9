"""Workers of two versions in one herd: each leaves in order and comes back as the next version, under calls."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.herd.herds import QUESTIONS, chat, herd_in

pytestmark = pytest.mark.anyio

# A worker that speaks as another version may: fields that have their default are missing, and there are unknown ones.
OTHER_VERSION = """
import dataclasses, importlib.abc, importlib.util, sys

DEFAULTS = {"prefill_tps": None, "decode_tps": None, "charged": True, "replayed": False, "echo": False}


def changed(name, module):
    if name.endswith("distribution"):
        module.version = lambda: "0.0.9"
        return
    plain = module._plain

    def others(value):
        made = plain(value)
        if not dataclasses.is_dataclass(value):
            return made
        kept = {key: one for key, one in made.items() if key not in DEFAULTS or one != DEFAULTS[key]}
        return {**kept, "of another version": {"n": 1}}

    module._plain = others


class Watch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name not in ("canister.api.herd_wire", "canister.system.distribution"):
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        run = spec.loader.exec_module

        def loaded(module):
            run(module)
            changed(name, module)

        spec.loader.exec_module = loaded
        return spec


sys.meta_path.insert(0, Watch())
"""


async def test_an_upgrade_of_one_worker_after_the_other_loses_no_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "sitecustomize.py").write_text(OTHER_VERSION)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "other"))
    async with herd_in(tmp_path / "herd", 2) as herd:
        states = [worker.state for worker in herd.workers]
        assert [state and state.version for state in states] == ["0.0.9", "0.0.9"]
        monkeypatch.delenv("PYTHONPATH")  # from here on the next version is installed
        before = await herd.call("get_call_log", {"max_entries": 1})
        is_over = asyncio.Event()

        async def talk(number: int, question: str) -> int:
            """Chats, one after the other; how many calls were answered."""
            n_calls = 0
            while not is_over.is_set():
                n_calls += len(await chat(herd.call, f"c{number}", question, n=4))
            return n_calls

        talking = [asyncio.create_task(talk(n, question)) for n, question in enumerate(QUESTIONS[:2])]
        versions = []
        for worker in list(herd.workers):
            told = await herd.http.post("/herd/restart", json={"worker": worker.id})
            assert told.status_code == 200, told.text
            assert told.json()["generation"] == worker.ref.generation + 1
            versions.append({one.state.version for one in herd.workers if one.state is not None})
        is_over.set()
        n_answered = sum(await asyncio.gather(*talking))
        assert len(versions[0]) == 2  # both in one herd
        assert "0.0.9" not in versions[1]
        assert before == []
        assert herd.herd.leader.tries.n_settled == n_answered > 0
        assert herd.herd.leader.n_refused == 0
        missing = await herd.http.post("/herd/restart", json={"worker": "w9"})
        assert missing.status_code == 404
        assert "w1, w2" in missing.json()["reject_message"]
