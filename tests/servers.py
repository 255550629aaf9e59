"""A predictor without a network, pictures, and real servers on 127.0.0.1."""

import contextlib
import socket
import threading
import time
from types import SimpleNamespace

import cv2
import httpx
import numpy as np

from ppsolo.results.instances import Instances
from ppsolo.serve.access import THIS_MACHINE, AccessRules
from ppsolo.serve.application import create_app
from ppsolo.serve.server import Server, listen
from ppsolo.serve.service import Limits

SOON = 10.0  # seconds; what is awaited takes milliseconds


class ChannelPredictor:
    """Finds the bright pixels of each channel, as three instances; can be held up and can fail.

    A picture whose first pixel is in `failures` raises what stands there. `free` lets predictions through, each batch
    of which takes `seconds` then.
    """

    class_names = ("red", "green", "blue")

    def __init__(self):
        self.batches = []
        self.failures = {}
        self.seconds = 0.0
        self.free = threading.Event()
        self.free.set()

    def __call__(self, images, *, batch_size):
        self.batches.append(len(images))
        assert len(images) <= batch_size and self.free.wait(SOON)
        time.sleep(self.seconds)
        return [self.instances(image) for image in images]

    def instances(self, image):
        if (error := self.failures.get(tuple(image[0, 0].tolist()))) is not None:
            raise error
        return Instances.from_masks(
            image.transpose(2, 0, 1) > 200,
            scores=np.float32([0.9, 0.5, 0.1]),
            labels=np.arange(3),
            class_names=self.class_names,
            category_ids=(1, 2, 7),
        )


def picture(seed: int, height: int = 40, width: int = 60) -> np.ndarray:
    """Smooth noise: uint8 [height, width, 3], RGB."""
    noise = np.random.default_rng(seed).integers(0, 256, [height, width, 3], dtype=np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)


def png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


def wait_until(condition, seconds: float = SOON) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


@contextlib.contextmanager
def served(predictor, *, ready: bool = True, stop_seconds: float = 5.0, access: AccessRules = THIS_MACHINE, **limits):
    """A server on its own thread. Yields its url, port, Service, HTTP client, and `stop`, which tells it to stop."""
    app = create_app(predictor, model="a model", limits=Limits(**limits), access=access)
    listener = listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    server = Server(app, stop_seconds=stop_seconds)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    url = f"http://127.0.0.1:{port}"

    def stop():
        server.should_exit = True

    try:
        with httpx.Client(base_url=url, timeout=SOON) as client:
            wait_until(lambda: server.started)
            if ready:
                wait_until(lambda: app.state.service.state == "ready")
            yield SimpleNamespace(
                url=url, port=port, service=app.state.service, client=client, stop=stop, thread=thread
            )
    finally:
        stop()
        thread.join(SOON + stop_seconds)
        assert not thread.is_alive()


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=SOON)
