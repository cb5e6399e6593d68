"""What spares an ordinary request its CPU changes nothing of it: ids, signatures, figures and bytes."""

import asyncio
import os
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import Mock

import numpy as np
import pytest
import uvicorn
from itsdangerous import TimestampSigner
from prometheus_client import CollectorRegistry
from starlette.responses import PlainTextResponse
from uvicorn.server import ServerState

from service.api.wire import classify_answer, classify_body
from service.experiments import tokens
from service.experiments.tokens import Target, Tokens
from service.imaging import ImageReport
from service.metrics.base import Registrar
from service.pipeline import Answered, RequestContext
from service.randomness import random_bytes
from service.registry import Handle
from service.scheduler.work import Outcome
from service.server.protocol import OnePiece, Protocol
from service.tasks import ClassifyResult
from service.tasks.classify import Prediction
from tests.cards import classify_card
from tests.scheduler.targets import Echo
from tests.waiting import until

SECRET = "a-secret-of-the-service"


# --- random bytes ----------------------------------------------------------------------------------------------------


def test_no_thread_gets_bytes_that_another_got():
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: random_bytes(12 + number % 5), range(20_000)))
    assert {len(one) for one in found} == {12, 13, 14, 15, 16}
    assert len({one[:12] for one in found}) == len(found)
    assert len(random_bytes(100_000)) == 100_000


def test_a_child_does_not_get_its_parents_bytes():
    code = """
import os
from service.randomness import random_bytes
random_bytes(16)  # there is a page that both would go on with
child = os.fork()
os.write(1, random_bytes(32).hex().encode() + b" ")
if child:
    os.waitpid(child, 0)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    one, other = out.stdout.split()
    assert one != other


# --- signatures ------------------------------------------------------------------------------------------------------


def test_itsdangerous_as_it_is_reads_a_token():
    token = Tokens([SECRET], max_age_s=60).sign(
        tokens.Prediction("i", "r", "classify", Target("m", "1", "full"), (3, 1))
    )
    stock = TimestampSigner(SECRET, salt="bireal-feedback-1")
    content, at = stock.unsign(token, max_age=60, return_timestamp=True)
    assert abs(at.timestamp() - stock.get_timestamp()) <= 2
    assert stock.sign(content).rsplit(b".", 2)[0] == content


# --- figures ---------------------------------------------------------------------------------------------------------


def test_what_is_counted_later_is_in_every_scrape_and_counted_once():
    registrar = Registrar(CollectorRegistry())
    counter = registrar.counter("told_total", "Told.", ())
    told = registrar.buffered(lambda values: counter.inc(sum(values)))

    def read() -> float | None:
        return registrar.registry.get_sample_value("told_total")

    told.add(1)
    assert read() == 1
    told.add(2)
    assert (read(), read()) == (3, 3)
    going, seen = threading.Event(), []

    def scrape() -> None:
        while not going.is_set():
            seen.append(read())

    scraper = threading.Thread(target=scrape)
    scraper.start()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: [told.add(1) for _ in range(5000)], range(4)))
    going.set()
    scraper.join()
    assert seen == sorted(seen)
    assert read() == 20_003


def test_values_do_not_gather_without_a_scrape():
    registrar = Registrar(CollectorRegistry())
    sizes = []
    told = registrar.buffered(lambda values: sizes.append(len(values)))
    for _ in range(1000):
        told.add(None)
    assert sum(sizes) > 800
    assert max(sizes) < 200


def test_values_counted_together_fall_into_the_buckets_that_each_would():
    registrar = Registrar(CollectorRegistry())
    one, many = (registrar.histogram(name, "Of.", (), (0.1, 1.0, 2.0)) for name in ("one", "many"))
    amounts = [0.0, 0.1, 0.1000001, 0.5, 1.0, 2.5, 1e9, 0.05]
    for amount in amounts:
        one.observe(amount)
    many.observe_all(amounts)
    many.observe_all([])
    found = [
        {s.name.partition("_")[2] + str(s.labels): s.value for s in each.collect()[0].samples} for each in (one, many)
    ]
    assert found[0] == found[1]
    assert found[0]["count{}"] == len(amounts)


# --- the answer's JSON -----------------------------------------------------------------------------------------------


def test_json_of_names_that_need_escaping_and_of_every_kind_of_number():
    names = ['a "quoted" name', "back\\slash", "Ünïcode ☃", "100 % of %s", "line\nbreak"]
    classes = [{"wnid": f"n0000000{i}", "name": name} for i, name in enumerate(names)]
    card = classify_card(classes=classes)
    for fallback in (None, 'the "operator" is missing'):
        handle = Handle(card, "reference", model=Echo(), kernel="onnxruntime", fallback=fallback)
        for shares in ((0.5, 1e-5, 9.999999e-8, 1e-300, 0.0), (1.0, 0.1 + 0.2, 1 / 3, 5e-324, 1e-4)):
            found = tuple(Prediction(i, classes[i]["wnid"], names[i], share) for i, share in enumerate(shares))
            result = ClassifyResult(found, shares[0] < 1, 1e-7, np.array(shares))
            report = ImageReport("PNG", 3, 2, "P", converted='a "palette"', exif_focal_35mm=26)
            stages = {
                "decode": 0.0012345,
                "preprocess": 1e-7,
                "queue": 0.0,
                "inference": 12.5,
                "postprocess": 1.0,
                "total": 2.0,
            }
            experiment = None if fallback is None else ("e", "paired", "reference")
            outcome = Outcome(np.zeros(1), 0.0, 0.0, 3, 0.0)
            answer = Answered(handle, result, report, stages, outcome, experiment, "a.b-c_d" if fallback else None)
            context = RequestContext("an-id:1")
            assert classify_body(answer, context) == classify_answer(answer, context).model_dump_json().encode()


# --- bytes on the wire -----------------------------------------------------------------------------------------------


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.anyio
async def test_head_and_body_leave_together_and_a_lone_head_does_not_wait():
    loop = asyncio.get_running_loop()
    near, far = socket.socketpair()
    far.setblocking(False)
    transport, _ = await loop.create_connection(asyncio.Protocol, sock=near)
    pieces = OnePiece(transport, loop)
    pieces.write(b"head")
    with pytest.raises(BlockingIOError):
        far.recv(100)
    pieces.write(b"body")
    assert far.recv(100) == b"headbody"
    pieces.write(b"head of a stream")
    async with asyncio.timeout(10):
        assert await loop.sock_recv(far, 100) == b"head of a stream"
    body = os.urandom(3_000_000)
    pieces.write(b"head")
    pieces.write(body)
    pieces.write(b"end")
    received = bytearray()
    while len(received) < len(body) + 7:
        received += await loop.sock_recv(far, 1 << 20)
    assert received == b"head" + body + b"end"
    pieces.write(b"last")
    pieces.close()
    assert await loop.sock_recv(far, 100) == b"last"
    assert await loop.sock_recv(far, 100) == b""
    far.close()


@pytest.mark.anyio
async def test_an_answer_is_one_write():
    """uvicorn's own transport gets the head and the body of Starlette's response in a write each."""
    config = uvicorn.Config(PlainTextResponse("pong"), http=Protocol, log_config=None, lifespan="off")
    config.load()
    protocol = Protocol(config=config, server_state=ServerState(), app_state={})
    transport = Mock(is_closing=lambda: False, get_extra_info=lambda _: None)
    protocol.connection_made(transport)
    protocol.data_received(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    await until(lambda: transport.write.called and protocol.cycle.response_complete)
    (written,) = [call.args[0] for call in transport.write.call_args_list]
    assert written.endswith(b"\r\n\r\npong")
    protocol.connection_lost(None)
