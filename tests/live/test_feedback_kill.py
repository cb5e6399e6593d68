"""SIGKILL in the middle of feedback: what was acknowledged is there when the service is back, and counts once."""

import io
import signal
import threading

import httpx
from PIL import Image

from tests.live.service_process import running

SECRET = "a-secret-that-outlives-the-process"
WRITERS = 4


def red() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 40), "red").save(file, "PNG")
    return file.getvalue()


def test_sigkill_loses_no_acknowledged_feedback(zoo, tmp_path):
    secrets = tmp_path / "secrets"
    secrets.write_text(SECRET)
    options = ("--feedback-store", tmp_path / "store.sqlite", "--feedback-secrets-file", secrets)
    acknowledged: list[str] = []
    with running(zoo, tmp_path / "one.log", *options) as service:
        content = red()
        enough = threading.Event()

        def write() -> None:
            with httpx.Client(base_url=service.url, timeout=30) as client:
                try:
                    while True:
                        headers = {"content-type": "image/png"}
                        path = "/classify?model=tiny-colours"
                        token = client.post(path, content=content, headers=headers).json()["feedback_token"]
                        answer = client.post("/feedback", json={"token": token, "label": 0})
                        if answer.status_code == 201:
                            acknowledged.append(token)
                            if len(acknowledged) >= 100:
                                enough.set()
                except httpx.TransportError:  # killed
                    return

        writers = [threading.Thread(target=write) for _ in range(WRITERS)]
        for writer in writers:
            writer.start()
        assert enough.wait(60), "no feedback was acknowledged"
        service.process.send_signal(signal.SIGKILL)  # while the others are writing
        assert service.process.wait(30) == -signal.SIGKILL
        for writer in writers:
            writer.join()
    with running(zoo, tmp_path / "two.log", *options) as service, service.client() as client:
        again = [client.post("/feedback", json={"token": token, "label": 0}) for token in acknowledged]
        assert {answer.status_code for answer in again} == {200}, "acknowledged, and not on the disk"
        assert {answer.json()["status"] for answer in again} == {"repeated"}
        assert client.post("/feedback", json={"token": acknowledged[0], "label": 1}).status_code == 409
        assert service.stop() == 0
