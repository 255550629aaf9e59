"""Commands report the lines that libjpeg writes to standard error as their own messages."""

import subprocess
import sys

import cv2
import numpy as np
import pytest

from ppsolo.data.decode import decode_image

PROGRAM = """
import logging, os, sys, threading
from ppsolo.data.decoder_lines import claim_standard_error, decoder_lines
from ppsolo.data.decode import decode_with_notes
from ppsolo.data.pixels import PixelSettings
data = open(sys.argv[1], "rb").read()
{claim}
logging.basicConfig(format="LOG %(message)s")
def decode():
    for _ in range(20):
        _, notes = decode_with_notes(data, max_pixels=10**6, settings=PixelSettings())
        for note in notes:
            logging.warning(note)
threads = [threading.Thread(target=decode) for _ in range(3)]
for thread in threads: thread.start()
for thread in threads: thread.join()
with decoder_lines() as lines:
    os.write(2, b"of somebody else\\n")
    sys.stderr.write("of Python\\n")
print(lines)
if (child := os.fork()) == 0:
    decode()
    os._exit(0)
os.waitpid(child, 0)
"""


@pytest.fixture(scope="module")
def damaged() -> bytes:
    """A JPEG whose data end too early, and which has the marker of its end."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = cv2.imencode(".jpg", cv2.GaussianBlur(noise, (0, 0), 3))[1].tobytes()
    return data[: len(data) // 2] + b"\xff\xd9"


def lines_of(damaged: bytes, path, claim: str) -> tuple[list[str], str]:
    path.write_bytes(damaged)
    command = [sys.executable, "-c", PROGRAM.replace("{claim}", claim), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stderr.splitlines(), done.stdout


def test_a_command_tells_them_as_its_own(damaged, tmp_path):
    """It works in threads and in a forked process too. Output of other code is not touched."""
    lines, printed = lines_of(damaged, tmp_path / "a.jpg", "claim_standard_error(); claim_standard_error()")
    ours = [line for line in lines if line.startswith("LOG the JPEG is damaged, what can be decoded is taken (Corr")]
    assert len(ours) == 80 and sorted(set(lines) - set(ours)) == ["of Python", "of somebody else"]
    assert printed == "[]\n"


def test_a_program_keeps_its_descriptors(damaged, tmp_path):
    lines, _ = lines_of(damaged, tmp_path / "a.jpg", "")
    assert sum(line.startswith("Corrupt JPEG data") for line in lines) == 80
    assert not any(line.startswith("LOG") for line in lines)


def test_what_can_be_decoded_is_taken(damaged):
    image = decode_image(damaged, max_pixels=10**6)
    assert image.shape == (64, 64, 3) and image[:8].std() > 0
