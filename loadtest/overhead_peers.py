"""The work shared by the servers of `loadtest.overhead`, and the simplest server: FastAPI with a thread pool.

All servers use the service's code to decode, preprocess and run, so that they differ only in the server itself.
"""

import sys
from functools import cache
from typing import Any

from service.card import Card
from service.cli.engine import Engine
from service.imaging import decode
from service.registry import Handle
from service.settings import load_settings


@cache
def handle() -> Handle:
    """The default classifier's binary variant, loaded once per process, with single-threaded runs as in the service."""
    engine = Engine(load_settings({"intra_op_threads": 1}))
    (found,) = engine.handles("classify", None, "binary")
    return found


def work(data: bytes) -> dict[str, Any]:
    """Decodes, preprocesses, runs and selects the best class: the work of every server for a request."""
    network = handle()
    card: Card = network.card
    image = decode(data, None, hint=network.task.decode_hint(card))
    prepared = network.task.preprocess(image, card)
    logits = network.model.run(prepared.tensor[None])[0]
    best = int(logits.argmax())
    return {"index": best, "name": card.classes[best].name}


def serve_fastapi(port: int) -> None:
    """Serves as recommended in FastAPI's documentation: reads the body and runs the work in the thread pool."""
    import uvicorn
    from fastapi import FastAPI, Request
    from starlette.concurrency import run_in_threadpool

    handle()
    app = FastAPI()

    @app.post("/classify")
    async def classify(request: Request) -> dict[str, Any]:
        return await run_in_threadpool(work, await request.body())

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error", access_log=False)


if __name__ == "__main__":
    serve_fastapi(int(sys.argv[2]))
