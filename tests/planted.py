"""Faults planted into llama.cpp for a test, in a server and in every child process that it starts.

The plant is a `sitecustomize` module in a folder of the test, which Python imports first in each process that has the
folder in PYTHONPATH. It changes functions of llama_cpp as they are imported: nothing of it is in the product. The
server has the fault as well, so one that does what its trial did not survive is gone.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_MODULE = """
import importlib.machinery, os, signal, sys, time
PLANT = {plant!r}

def plant(lib):
    models, contexts, bad = {{}}, {{}}, set()
    load, init, decode, logits = (
        lib.llama_model_load_from_file, lib.llama_init_from_model, lib.llama_decode, lib.llama_get_logits_ith)

    def planted_load(path, params):
        model = load(path, params)
        models[model] = bool(params.use_extra_bufts)
        return model

    def planted_init(model, params):
        context = init(model, params)
        contexts[context] = models[model], params.flash_attn_type == 1
        return context

    def planted_decode(context, batch):
        extra, flash = contexts[context]
        streams = {{batch.seq_id[i][0] for i in range(batch.n_tokens)}}
        hits = (
            batch.n_tokens >= PLANT["rows"] and len(streams) >= PLANT["streams"]
            and PLANT["extra"] in (None, extra) and PLANT["flash"] in (None, flash))
        bad.discard(context)
        if hits and PLANT["how"] == "hang":
            time.sleep(3600)
        elif hits and PLANT["how"] == "nan":
            bad.add(context)
        elif hits:
            os.kill(os.getpid(), getattr(signal, PLANT["how"]))
        return decode(context, batch)

    def planted_logits(context, row):
        found = logits(context, row)
        if context in bad:
            found[0] = float("nan")
        return found

    lib.llama_model_load_from_file, lib.llama_init_from_model = planted_load, planted_init
    lib.llama_decode, lib.llama_get_logits_ith = planted_decode, planted_logits

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name != "llama_cpp":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        execute = spec.loader.exec_module
        spec.loader.exec_module = lambda module: (execute(module), plant(module))
        return spec

sys.meta_path.insert(0, Finder())
"""


def plant(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    how: str,
    *,
    rows: int = 1,
    streams: int = 1,
    extra: bool | None = None,
    flash: bool | None = None,
) -> None:
    """From now on, in processes that this test starts: decodes of so many rows fail. how: a signal, `hang` or `nan`.

    extra, flash: only those with (without) extra buffer types, flash attention; None: with and without.
    """
    folder.mkdir()
    planted = {"how": how, "rows": rows, "streams": streams, "extra": extra, "flash": flash}
    (folder / "sitecustomize.py").write_text(_MODULE.format(plant=planted))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]).rstrip(":"))
    # What is found out with a plant is nobody else's business.
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
