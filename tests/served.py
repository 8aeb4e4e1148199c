"""A stand-in for `vllm serve`: the part of its API that we use, answered by transformers on a pico model."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from evaluation.engine import Request, generate


class StandIn:
    """Serves one model on loopback. `seen`: bodies of requests for completions; `fails`: statuses of the next answers."""

    def __init__(
        self, model: Path, *, adapters: bool = True, ids: bool = True, logprobs: bool = True
    ) -> None:
        self.model, self.loads, self.ids, self.logprobs = model, adapters, ids, logprobs
        self.adapters: dict[str, Path] = {}
        self.loaded: list[str] = []
        self.seen: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.fails: list[int] = []
        self._lock = threading.Lock()
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.answer(200, stand_in.models())

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                stand_in.keys.add(self.headers.get("authorization"))
                with stand_in._lock:
                    if stand_in.fails:
                        self.answer(stand_in.fails.pop(), {"error": {"message": "busy"}})
                    elif self.path == "/v1/load_lora_adapter":
                        self.answer(*stand_in.load(body))
                    else:
                        self.answer(*stand_in.complete(body))

            def answer(self, status: int, content: Any) -> None:
                data = content.encode() if isinstance(content, str) else json.dumps(content).encode()
                self.send_response(status)
                self.send_header(
                    "content-type", "text/plain" if isinstance(content, str) else "application/json"
                )
                self.send_header("content-length", str(len(data)))
                self.send_header("retry-after", "0")
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self._httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._httpd.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._httpd.server_port}/v1"

    def close(self) -> None:
        self._httpd.shutdown()
        self._httpd.server_close()

    def models(self) -> dict[str, Any]:
        served = [{"id": "the-model", "object": "model", "root": str(self.model), "parent": None}]
        served += [{"id": name, "object": "model", "parent": "the-model"} for name in self.adapters]
        return {"object": "list", "data": served}

    def load(self, body: dict[str, Any]) -> tuple[int, Any]:
        name, path = body["lora_name"], Path(body["lora_path"])
        if not self.loads:
            return 404, {"detail": "Not Found"}
        if name in self.adapters:
            return 400, {"error": {"message": f"The lora adapter '{name}' has already been loaded."}}
        if not (path / "adapter_config.json").exists():
            return 404, {"error": {"message": f"No adapter found for {path}"}}
        self.adapters[name] = path
        self.loaded.append(name)
        return 200, f"Success: LoRA adapter '{name}' added successfully."

    def complete(self, body: dict[str, Any]) -> tuple[int, Any]:
        self.seen.append(body)
        if body["model"] not in {"the-model", *self.adapters}:
            return 404, {"error": {"message": f"The model {body['model']} does not exist."}}
        adapter = self.adapters.get(body["model"])
        request = Request("x", body["prompt"], body["max_tokens"], adapter, body["model"] if adapter else "")
        [reply] = generate(
            str(self.model),
            [request],
            backend="transformers",
            dtype="float32",
            logprobs=max(body["logprobs"], 1),
        )
        own = [
            step.get(piece, min(step.values())) for step, piece in zip(reply.top, reply.pieces, strict=True)
        ]
        own = own if self.logprobs else [*own[:-1], None]
        choice: dict[str, Any] = {"index": 0, "text": reply.text, "finish_reason": reply.finish_reason}
        choice["logprobs"] = {"tokens": reply.pieces, "token_logprobs": own, "top_logprobs": reply.top}
        if self.ids and body.get("return_token_ids"):
            choice |= {"token_ids": reply.ids, "prompt_token_ids": reply.prompt_ids}
        return 200, {"id": "1", "object": "text_completion", "created": 1, "model": "m", "choices": [choice]}
