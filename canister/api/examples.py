"""One example argument per method that takes one, as JSON: for OpenAPI, the docs and the messages of bad arguments."""

from __future__ import annotations

_CHAT = ["--prompt-cache", "chat.cache", "--prompt-cache-all"]
_MODEL = "models/model.gguf"
_PROMPT = "<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\n"
_CHUNK = {"chunk": "R0dVRg==", "chunksize": 4, "offset": 0}
_READ = {"chunksize": 2_000_000, "offset": 0}
_PRINCIPAL = "kw2lv-k3bs5-axl6w-wzhzv-4ethy-e5hso-brgx2-bsy2l-elbm5-xznxr-7qe"

EXAMPLES: dict[str, object] = {
    "load_model": {"args": ["--model", _MODEL]},
    "set_max_tokens": {"max_tokens_update": 20, "max_tokens_query": 20},
    "new_chat": {"args": _CHAT},
    "run_query": {"args": ["-p", _PROMPT, "-n", "16"]},
    "run_update": {"args": [*_CHAT, "-p", _PROMPT, "-n", "128"]},
    "get_call_log": {"max_entries": 20},
    "estimate_run": {"args": [*_CHAT, "-p", _PROMPT], "answer_tokens": 128},
    "get_receipt": {"call_id": "17"},
    "remove_prompt_cache": {"args": _CHAT},
    "copy_prompt_cache": {"from": "chat.cache", "to": "copy.cache"},
    "download_prompt_cache_chunk": {"promptcache": "chat.cache", **_READ},
    "upload_prompt_cache_chunk": {"promptcache": "chat.cache", **_CHUNK},
    "uploaded_prompt_cache_details": {"promptcache": "chat.cache"},
    "file_download_chunk": {"filename": _MODEL, **_READ},
    "file_upload_chunk": {"filename": _MODEL, **_CHUNK},
    "uploaded_file_details": {"filename": _MODEL},
    "filesystem_remove": {"filename": _MODEL},
    "filesystem_file_size": {"filename": _MODEL},
    "get_creation_timestamp_ns": {"filename": _MODEL},
    "recursive_dir_content_query": {"dir": "models", "max_entries": 0},
    "recursive_dir_content_update": {"dir": "models", "max_entries": 0},
    "remove_log_file": {"args": ["--log-file", "main.log"]},
    "set_cache_cleanup_config": {"period_seconds": 600, "ttl_seconds": 21_600, "max_files_per_run": None},
    "set_access": {"level": 1},
    "assignAdminRole": {"principal": _PRINCIPAL, "role": "AdminUpdate", "note": "runs the nightly jobs"},
    "revokeAdminRole": _PRINCIPAL,
}
