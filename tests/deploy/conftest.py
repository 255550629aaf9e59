"""Fixtures of the room: one export of a tiny model."""

import pytest
from exports import Exported, lively_model

from ppsolo import load_config
from ppsolo.config import Config
from ppsolo.deploy.export import export_model


@pytest.fixture(scope="session")
def tiny_config(tiny) -> Config:
    """The system with a vd stem, batch norms that are not frozen, and deformable layers in backbone and head."""
    few = {"model.backbone.dcn_stages": [4], "model.head.dcn_layers": [2], "model.mask_feature_head.deformable": False}
    return load_config("solov2_r50_enhance_coco", {**tiny, **few})


@pytest.fixture(scope="session")
def exported(tiny_config, tmp_path_factory) -> Exported:
    """A verified export for Paddle Inference; not to be changed."""
    model = lively_model(tiny_config)
    directory = tmp_path_factory.mktemp("export") / "tiny"
    return Exported(tiny_config, model, export_model(model, tiny_config, directory))
