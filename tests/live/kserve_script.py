"""What KServe's own client gets from a service, as one JSON document. Runs in a virtual environment of its own."""

import asyncio
import json
import sys
from pathlib import Path

import httpx
import numpy as np
from kserve import InferInput, InferRequest, InferResponse
from kserve.inference_client import InferenceRESTClient, RESTConfig
from kserve.protocol.infer_type import RequestedOutput


def picture(shape: list[int], *, binary: bool) -> InferInput:
    """The red channel at 200."""
    pixels = np.zeros(shape, np.uint8)
    pixels[..., 0] = 200
    tensor = InferInput("image", shape, "UINT8")
    tensor.set_data_from_numpy(pixels, binary_data=binary)
    return tensor


def file(data: bytes) -> InferInput:
    tensor = InferInput("encoded_image", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([data], dtype=np.object_), binary_data=True)
    return tensor


def answer(response: InferResponse) -> dict:
    outputs = {output.name: output.as_numpy() for output in response.outputs}
    return {
        "model": response.model_name,
        "id": response.id,
        "parameters": dict(response.parameters or {}),
        "shapes": {name: list(value.shape) for name, value in outputs.items()},
        "logits": np.ravel(outputs["logits"]).tolist() if "logits" in outputs else None,
        "label": [str(name) for name in np.ravel(outputs["label"])] if "label" in outputs else None,
    }


async def main(url: str, jpeg: bytes) -> dict:
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
        found = {
            "live": await client.is_server_live(url),
            "ready": await client.is_server_ready(url),
            "model_ready": await client.is_model_ready(url, "tiny-colours"),
            "no_model_ready": await client.is_model_ready(url, "tiny-nothing"),
        }
        wanted = {
            "json": (picture([1, 32, 32, 3], binary=False), None, {}),
            "binary": (picture([2, 32, 32, 3], binary=True), None, {}),
            "binary_out": (
                picture([1, 32, 32, 3], binary=True),
                [RequestedOutput("logits", parameters={"binary_data": True})],
                {},
            ),
            "file": (file(jpeg), None, {"variant": "full"}),
        }
        for name, (tensor, outputs, parameters) in wanted.items():
            request = InferRequest(
                "tiny-colours", [tensor], request_id=f"id-{name}", parameters=parameters, request_outputs=outputs
            )
            found[name] = answer(await client.infer(url, request, model_name="tiny-colours"))
        try:
            await client.infer(url, InferRequest("tiny-colours", [file(b"none")]), model_name="tiny-colours")
        except httpx.HTTPStatusError as error:
            found["refused"] = str(error)
    return found


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(sys.argv[1], Path(sys.argv[2]).read_bytes()))))
