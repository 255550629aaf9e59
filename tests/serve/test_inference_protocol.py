"""The Open Inference Protocol: Triton's own client, JSON by hand, and requests that are refused."""

import json

import numpy as np
import pytest
from servers import picture, png

from ppsolo.serve import inference_protocol as protocol

tritonclient = pytest.importorskip("tritonclient.http")
MODEL = "a model"
NAME = MODEL


@pytest.fixture
def triton(server):
    client = tritonclient.InferenceServerClient(f"127.0.0.1:{server.port}")
    yield client
    client.close()


def image_input(image, *, binary=True):
    tensor = tritonclient.InferInput("image", list(image.shape), "UINT8")
    tensor.set_data_from_numpy(image, binary_data=binary)
    return tensor


def test_health_and_metadata(triton):
    assert triton.is_server_live() and triton.is_server_ready() and triton.is_model_ready(NAME)
    assert triton.get_server_metadata()["name"] == "ppsolo"
    metadata = triton.get_model_metadata(NAME)
    assert metadata["name"] == MODEL and {entry["name"] for entry in metadata["inputs"]} == {"image", "encoded_image"}
    with pytest.raises(tritonclient.InferenceServerException, match="no model"):
        triton.get_model_metadata("other")


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("batch", [True, False])
def test_pixels_give_the_instances_of_the_predictor(predictor, triton, binary, batch):
    image = picture(1)
    expected = predictor.instances(image)
    result = triton.infer(NAME, [image_input(image[None] if batch else image, binary=binary)])
    np.testing.assert_allclose(result.as_numpy("scores"), expected.scores)
    assert result.as_numpy("labels").tolist() == [0, 1, 2]
    assert result.as_numpy("category_ids").tolist() == [1, 2, 7]
    np.testing.assert_array_equal(result.as_numpy("boxes"), expected.boxes)
    assert list(result.as_numpy("rle_counts")) == [rle["counts"] for rle in expected.rles]
    assert result.as_numpy("masks") is None


@pytest.mark.parametrize("binary", [True, False])
def test_a_file_and_the_outputs_that_are_named(predictor, triton, binary):
    image = picture(2)
    tensor = tritonclient.InferInput("encoded_image", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([png(image)], object))
    outputs = [tritonclient.InferRequestedOutput(name, binary_data=binary) for name in ("masks", "scores")]
    result = triton.infer(NAME, [tensor], outputs=outputs, request_id="7")
    np.testing.assert_array_equal(result.as_numpy("masks").astype(bool), predictor.instances(image).masks)
    assert result.get_response()["id"] == "7" and result.as_numpy("boxes") is None


@pytest.mark.parametrize("binary", [True, False])
def test_masks_that_would_fill_the_memory_are_refused(triton, monkeypatch, binary):
    monkeypatch.setattr(protocol, "MOST_MASK_BYTES" if binary else "MOST_MASK_VALUES", 3 * 40 * 60 - 1)
    outputs = [tritonclient.InferRequestedOutput("masks", binary_data=binary)]
    with pytest.raises(tritonclient.InferenceServerException, match=r"3 masks of 40 x 60 pixels .* ask for rle_counts"):
        triton.infer(NAME, [image_input(picture(2))], outputs=outputs)


def test_requests_are_counted(server, triton):
    triton.infer(NAME, [image_input(picture(3))])
    assert 'ppsolo_requests_total{status="200"}' in server.client.get("/metrics").text


def post(server, content, headers=None):
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return server.client.post("/v2/models/a%20model/infer", content=body, headers=headers or {})


PIXELS = {"name": "image", "datatype": "UINT8", "shape": [1, 1, 3], "data": [1, 2, 3]}


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "JSON"),
        (b"[" * 100_000, "JSON"),
        ([1], "object"),
        ({}, "one input"),
        ({"inputs": [PIXELS, PIXELS]}, "one input"),
        ({"inputs": [PIXELS | {"shape": [1, -1, 3]}]}, "shape"),
        ({"inputs": [PIXELS | {"shape": [2, 1, 3]}]}, "values"),
        ({"inputs": [PIXELS | {"data": [1, 2, 300]}]}, "0 to 255"),
        ({"inputs": [PIXELS | {"data": [[1], [2, 3]]}]}, "numbers"),
        ({"inputs": [PIXELS | {"datatype": "FP32"}]}, "UINT8"),
        ({"inputs": [PIXELS | {"parameters": 3}]}, "parameters"),
        ({"inputs": [PIXELS | {"parameters": {"binary_data_size": 3}}]}, "binary_data_size"),
        ({"inputs": [PIXELS], "outputs": [{"name": "logits"}]}, "no output"),
        ({"inputs": [PIXELS], "outputs": []}, "outputs"),
        ({"inputs": [PIXELS | {"shape": [True, True, 3], "data": [1, 2, 3]}]}, "shape"),
        ({"inputs": [{"name": "encoded_image", "datatype": "BYTES", "shape": [1], "data": ["x"]}]}, "binary"),
    ],
)
def test_what_is_malformed_is_refused_in_one_line(server, content, word):
    answer = post(server, content)
    assert answer.status_code == 400 and word in answer.json()["error"]


def test_null_is_the_same_as_left_out(server):
    content = {"id": None, "parameters": None, "inputs": [PIXELS | {"parameters": None}], "outputs": None}
    answer = post(server, content)
    assert (
        answer.status_code == 200 and answer.json()["outputs"] == post(server, {"inputs": [PIXELS]}).json()["outputs"]
    )


def test_lengths_encodings_and_sizes_are_checked(server):
    assert post(server, {"inputs": [PIXELS]}, {"Inference-Header-Content-Length": "10000"}).status_code == 400
    assert post(server, {"inputs": [PIXELS]}, {"Inference-Header-Content-Length": "x"}).status_code == 400
    assert post(server, {"inputs": [PIXELS]}, {"Inference-Header-Content-Length": "9" * 5000}).status_code == 400
    assert post(server, {"inputs": [PIXELS]}, {"Content-Encoding": "gzip"}).status_code == 415
    assert post(server, b" " * 200_000).status_code == 413
    large = PIXELS | {"shape": [400, 400, 3], "data": [0]}
    assert post(server, {"inputs": [large]}).status_code == 400
