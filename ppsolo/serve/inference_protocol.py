"""The Open Inference Protocol, version 2 (KServe, Triton), for clients that use it.

https://github.com/kserve/open-inference-protocol, with the extension for binary tensors of Triton's clients.
"""

import asyncio
import json
import re
import struct
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, Response

from ppsolo.results.instances import Instances
from ppsolo.serve.service import Service
from ppsolo.serve.uploads import read_body
from ppsolo.text import counted
from ppsolo.version import __version__

VERSION = "1"
HEADER_LENGTH = "Inference-Header-Content-Length"
INPUTS = (
    {"name": "image", "datatype": "UINT8", "shape": [-1, -1, 3]},
    {"name": "encoded_image", "datatype": "BYTES", "shape": [1]},
)
OUTPUTS = (
    {"name": "scores", "datatype": "FP32", "shape": [-1]},
    {"name": "labels", "datatype": "INT64", "shape": [-1]},
    {"name": "category_ids", "datatype": "INT64", "shape": [-1]},
    {"name": "boxes", "datatype": "FP32", "shape": [-1, 4]},
    {"name": "rle_counts", "datatype": "BYTES", "shape": [-1]},
    {"name": "masks", "datatype": "UINT8", "shape": [-1, -1, -1]},
)
LARGE = ("masks",)  # one byte per pixel and mask: sent only if a request names it
MOST_MASK_BYTES = 2**28  # of the masks in an answer
MOST_MASK_VALUES = 2**24  # the same in JSON: each value takes two bytes there, and more while it is written
MOST_NAMED = 16  # inputs or outputs of a request
_DTYPES = {"FP32": "<f4", "INT64": "<i8", "UINT8": "u1"}


class InferRequest(NamedTuple):
    """A request to predict.

    picture: the bytes of a file. outputs: (name, whether to send it as bytes), in the order of the answer.
    """

    id: str | None
    picture: bytes
    outputs: tuple[tuple[str, bool], ...]


def add_inference_protocol(app: FastAPI, service: Service, *, model: str, classes: Sequence[str]) -> None:
    """Add the addresses under /v2 to the application. model: its name there."""
    metadata = {
        "name": model,
        "versions": [VERSION],
        "platform": "ppsolo",
        "inputs": list(INPUTS),
        "outputs": list(OUTPUTS),
        "parameters": {"classes": list(classes)},
    }
    _add_health(app, service, model)

    @app.get("/v2")
    async def server_metadata() -> dict[str, Any]:
        """The server's name, version and extensions."""
        return {"name": "ppsolo", "version": __version__, "extensions": ["binary_tensor_data"]}

    @app.get("/v2/models/{name}")
    @app.get("/v2/models/{name}/versions/{version}")
    async def model_metadata(name: str, version: str = VERSION) -> dict[str, Any]:
        """The model's inputs and outputs."""
        _check_model(name, version, model)
        return metadata

    @app.post("/v2/models/{name}/infer")
    @app.post("/v2/models/{name}/versions/{version}/infer")
    async def infer(request: Request, name: str, version: str = VERSION) -> Response:
        """The instances of one picture: its pixels (`image`) or the bytes of its file (`encoded_image`)."""
        _check_model(name, version, model)
        return await predict(service, request, model=model)


def _add_health(app: FastAPI, service: Service, model: str) -> None:
    @app.get("/v2/health/live")
    async def live() -> dict[str, bool]:
        """Whether the process answers."""
        return {"live": True}

    @app.get("/v2/health/ready")
    async def ready() -> Response:
        """Whether the service answers pictures."""
        is_ready = service.state == "ready"
        return JSONResponse({"ready": is_ready}, 200 if is_ready else 503)

    @app.get("/v2/models/{name}/ready")
    @app.get("/v2/models/{name}/versions/{version}/ready")
    async def model_ready(name: str, version: str = VERSION) -> Response:
        """Whether the model answers pictures."""
        _check_model(name, version, model)
        is_ready = service.state == "ready"
        return JSONResponse({"name": name, "ready": is_ready}, 200 if is_ready else 503)


async def predict(service: Service, request: Request, *, model: str) -> Response:
    """Answer a request to predict. Raises HTTPException, ClientDisconnect."""
    wanted: list[InferRequest] = []

    async def receive(take: Callable[[int], None]) -> bytes:
        if request.headers.get("content-encoding", "identity") != "identity":
            raise HTTPException(415, "compressed bodies are not supported: send the body uncompressed")
        body = await read_body(request, max_bytes=service.limits.max_bytes, take=take)
        head = request.headers.get(HEADER_LENGTH)
        parsed = await asyncio.get_running_loop().run_in_executor(service.parsers, _parsed, body, head)
        if isinstance(parsed, HTTPException):
            raise parsed
        wanted.append(parsed)
        return parsed.picture

    def write(instances: Instances) -> Response:
        return infer_response(instances, wanted[0], model=model)

    answer: Awaitable[Response] = service.answer(request, receive=receive, write=lambda found, _, __: write(found))
    return await answer


def _parsed(body: bytes, header_length: str | None) -> InferRequest | HTTPException:
    """Call `parse_request`; return its error without the traceback, which would leave all values to the loop."""
    try:
        return parse_request(body, header_length)
    except HTTPException as error:
        return HTTPException(error.status_code, error.detail)


def parse_request(body: bytes, header_length: str | None) -> InferRequest:
    """Read a request's body. Raises HTTPException (400).

    header_length: length of the JSON, if bytes of tensors follow it.
    """
    length = len(body)
    if header_length is not None:
        if not re.fullmatch("[0-9]{1,18}", header_length) or int(header_length) > len(body):
            raise _malformed(f"{HEADER_LENGTH} is {header_length[:20]!r}, but the body has {len(body)} bytes")
        length = int(header_length)
    try:
        content = json.loads(body[:length])
    except (ValueError, RecursionError):
        raise _malformed("the body is not JSON") from None
    if not isinstance(content, dict):
        raise _malformed("the body is not a JSON object")
    inputs = content.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise _malformed("give one input: 'image' (UINT8 [H, W, 3]) or 'encoded_image' (BYTES [1])")
    request_id = content.get("id")
    return InferRequest(
        None if request_id is None else str(request_id), _picture(inputs[0], body[length:]), _wanted_outputs(content)
    )


def _picture(tensor: Mapping[str, Any], binary: bytes) -> bytes:
    """Return the input as the bytes of a picture file."""
    name, kind, shape = tensor.get("name"), tensor.get("datatype"), tensor.get("shape")
    if not isinstance(shape, list) or not all(type(side) is int and 0 < side < 2**31 for side in shape):
        raise _malformed("the shape of an input must be a list of integers above zero")
    size = _parameters(tensor).get("binary_data_size")
    if size is not None and size != len(binary):
        raise _malformed(f"binary_data_size is {size}, but {len(binary)} bytes follow the JSON")
    data = binary if size is not None else tensor.get("data")
    if name == "encoded_image" and kind == "BYTES" and int(np.prod(shape)) == 1:
        return _single_bytes(data)
    while len(shape) > 3 and shape[0] == 1:
        shape = shape[1:]
    if name == "image" and kind == "UINT8" and len(shape) == 3 and shape[2] == 3:
        height, width, _ = shape
        return b"P6\n%d %d\n255\n" % (width, height) + _pixels(data, height * width * 3)
    raise _malformed(f"input {name!r} is {kind} {shape}: give 'image' (UINT8 [H, W, 3]) or 'encoded_image' (BYTES [1])")


def _single_bytes(data: Any) -> bytes:
    if isinstance(data, bytes):
        if len(data) < 4 or struct.unpack("<I", data[:4])[0] != len(data) - 4:
            raise _malformed("an element of BYTES must be its length in 4 bytes, little-endian, then its content")
        return data[4:]
    raise _malformed("send 'encoded_image' as binary data: JSON cannot hold the bytes of a file")


def _pixels(data: Any, count: int) -> bytes:
    if not isinstance(data, bytes):
        try:
            array = np.asarray(data)
        except ValueError:
            raise _malformed("the data of 'image' are not numbers") from None
        if array.dtype.kind not in "iu" or (array.size and not 0 <= array.min() <= array.max() <= 255):
            raise _malformed("the data of 'image' must be integers from 0 to 255")
        data = array.astype(np.uint8).tobytes()
    if len(data) != count:
        raise _malformed(f"'image' has {len(data)} values, but its shape says {count}")
    return data


def _wanted_outputs(content: Mapping[str, Any]) -> tuple[tuple[str, bool], ...]:
    binary = _parameters(content).get("binary_data_output") is True
    known = [str(output["name"]) for output in OUTPUTS]
    outputs = content.get("outputs")
    if outputs is None:
        return tuple((name, binary) for name in known if name not in LARGE)
    if not isinstance(outputs, list) or not 0 < len(outputs) <= MOST_NAMED:
        raise _malformed(
            f"'outputs' must be a list of 1 to {MOST_NAMED} outputs; without 'outputs', all but masks are sent"
        )
    wanted = []
    for output in outputs:
        name = output.get("name") if isinstance(output, dict) else None
        if name not in known:
            raise _malformed(f"there is no output {name!r}, choose among {', '.join(known)}")
        wanted.append((str(name), _parameters(output).get("binary_data", binary) is True))
    return tuple(wanted)


def infer_response(instances: Instances, wanted: InferRequest, *, model: str) -> Response:
    """Return the answer: JSON, followed by the bytes of the binary outputs."""
    outputs, blobs = [], []
    for name, binary in wanted.outputs:
        kind = next(str(output["datatype"]) for output in OUTPUTS if output["name"] == name)
        shape, values, blob = _output(instances, name, kind, binary=binary)
        entry: dict[str, Any] = {"name": name, "datatype": kind, "shape": shape}
        if binary:
            entry["parameters"] = {"binary_data_size": len(blob)}
            blobs.append(blob)
        else:
            entry["data"] = values
        outputs.append(entry)
    content = {"model_name": model, "model_version": VERSION, "outputs": outputs}
    head = json.dumps(content | ({} if wanted.id is None else {"id": wanted.id})).encode()
    if not blobs:
        return Response(head, media_type="application/json")
    headers = {HEADER_LENGTH: str(len(head))}
    return Response(b"".join([head, *blobs]), media_type="application/octet-stream", headers=headers)


def _output(instances: Instances, name: str, kind: str, *, binary: bool) -> tuple[list[int], list[Any], bytes]:
    """Return (shape, values for JSON, bytes); one of the last two is empty. Raises HTTPException for too many masks."""
    if name == "rle_counts":
        counts = [rle["counts"] for rle in instances.rles]
        if binary:
            return [len(counts)], [], b"".join(struct.pack("<I", len(one)) + one for one in counts)
        return [len(counts)], [one.decode("ascii") for one in counts], b""
    if name in LARGE:
        _check_masks(instances, MOST_MASK_BYTES if binary else MOST_MASK_VALUES)
    ids = np.asarray(instances.category_ids, np.int64)[instances.labels]
    array = ids if name == "category_ids" else np.asarray(getattr(instances, name))
    array = np.ascontiguousarray(array, _DTYPES[kind])
    return list(array.shape), [] if binary else array.ravel().tolist(), array.tobytes() if binary else b""


def _check_masks(instances: Instances, most: int) -> None:
    """Raise HTTPException 422 if the masks have more pixels than `most`: they would fill the memory."""
    height, width = instances.size
    if len(instances) * height * width > most:
        found = f"{counted(len(instances), 'mask')} of {height} x {width} pixels"
        raise HTTPException(422, f"{found} are too large for an answer, at most {most} pixels: ask for rle_counts")


def _parameters(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    parameters = entry.get("parameters")
    if parameters is None:  # some clients write null
        return {}
    if not isinstance(parameters, dict):
        raise _malformed("'parameters' must be an object")
    return parameters


def _check_model(name: str, version: str, model: str) -> None:
    if (name, version) != (model, VERSION):
        raise HTTPException(
            404, f"there is no model {name[:100]!r}, version {version[:20]}: here is {model!r}, {VERSION}"
        )


def _malformed(reason: str) -> HTTPException:
    return HTTPException(400, reason)
