"""Each bad input gets its status, with a problem document, soon, without a word of the code; the service lives on."""

import re
import time

import httpx
import pytest

from tests.hardening.corpus import Bad, corpus
from tests.live.service_process import running
from tests.pictures import encode, photo
from tests.tiny_zoo import write_zoo

CASES = corpus()


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    options = ("--fallback", "reference", "--queue-size", 100)
    with running(write_zoo(folder / "zoo"), folder / "log", *options) as service:
        yield service
        assert service.process.poll() is None
        with service.client() as client:
            assert client.post("/classify", content=encode(photo(), "PNG")).status_code == 200
        log = service.log.read_text()
        for sign in ("Traceback", "unexpected error", " ERROR "):
            assert sign not in log


@pytest.fixture(scope="module")
def client(live):
    with httpx.Client(timeout=20) as shared:
        yield shared


def test_there_are_enough_of_them_and_each_has_a_name():
    assert len(CASES) >= 200
    assert len({case.name for case in CASES}) == len(CASES)


def send(live, client: httpx.Client, case: Bad) -> httpx.Response:
    headers = {"content-type": "application/octet-stream", **case.headers}
    return client.request(case.method, live.url + case.path, content=case.body, headers=headers)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_gets_its_status(live, client, case: Bad):
    begun = time.perf_counter()
    response = send(live, client, case)
    assert time.perf_counter() - begun < 10  # the slowest takes a tenth of a second on an idle machine
    assert response.status_code in case.status, response.text[:500]
    if response.status_code >= 400:
        assert response.headers["content-type"] == "application/problem+json"
        problem = response.json()
        assert problem["status"] == response.status_code
        assert problem["detail"]
        assert problem["help"]
        assert problem["request_id"] == response.headers["x-request-id"]
    for leak in ("Traceback", "site-packages", ".py", "service.api", "service.pipeline", 'File "'):
        assert leak not in response.text


def test_what_strangers_type_never_becomes_a_label(live, client):
    """Routes are templates, models are known."""
    for path in ("/classify", "/depth"):
        assert client.post(live.url + path, content=encode(photo(), "PNG")).status_code == 200
    typed = [case for case in CASES if case.path not in ("/classify", "/depth")]
    assert len(typed) > 50
    for case in typed:
        send(live, client, case)
    exposition = client.get(f"{live.url}/metrics").text
    routes = set(re.findall(r'route="([^"]*)"', exposition))
    assert {"/classify", "/depth", "unmatched"} <= routes
    assert len(routes) < 40
    assert not [route for route in routes if re.search(r"env|php|%|\.\.", route)]
    models = set(re.findall(r'[{,]model="([^"]*)"', exposition))
    assert models <= {"tiny-colours", "tiny-bireal", "tiny-ramp", "tiny-bireal-depth"}
