"""The name tables against the manifests of all nine published checkpoints."""

import pytest

from ppsolo.checkpoint.zoo import ZOO, load_manifest
from ppsolo.legacy.names import DYGRAPH, NATIVE, STATIC, alias_of, generation_of, published_names


@pytest.mark.parametrize("name", ZOO)
def test_every_array_of_the_manifest_has_its_place_and_shape(name, model_shapes):
    entry = ZOO[name]
    shapes = model_shapes(entry.config)
    names = published_names(shapes, entry.generation)
    ours = {published: shapes[key] for key, published in names.items()}
    assert len(ours) == len(shapes)
    if entry.generation == DYGRAPH:
        ours |= {alias: shape for published, shape in ours.items() if (alias := alias_of(published))}
    assert ours == load_manifest(entry)


def test_generations_are_told_apart(model_shapes):
    state = list(model_shapes("solov2_mobilenetv3_fpn_448_3x"))
    assert generation_of(state) == NATIVE
    assert generation_of(published_names(state, STATIC).values()) == STATIC
    assert generation_of(["solov2_head.solo_cate.bias"]) == DYGRAPH
    assert generation_of(["conv1.weight", "fc.bias"]) is None


def test_a_layer_unknown_to_a_generation_is_named():
    with pytest.raises(KeyError, match=r"backbone\.blocks\.0\.expand\.conv\.weight"):
        published_names(["backbone.blocks.0.expand.conv.weight"], DYGRAPH)


@pytest.mark.parametrize(
    ("ours", "static", "dygraph"),
    [
        (
            "backbone.stages.2.1.conv2.conv.conv.weight",
            "res4b1_branch2b_weights",
            "backbone.res4.res4b1.branch2b.conv.weight",
        ),
        (
            "backbone.stages.2.0.shortcut.conv.norm._mean",
            "bn4a_branch1_mean",
            "backbone.res4.res4a.short.conv.norm._mean",
        ),
        ("backbone.stem.2.norm._variance", "bnv1_3_variance", "backbone.conv1.conv1_3.norm._variance"),
        ("neck.laterals.3.bias", "fpn_inner_res5_sum_b", "neck.fpn_inner_res5_sum.bias"),
        ("head.category.bias", "bbox_head.solo_cate.bias", "solov2_head.bbox_head.solo_cate.bias"),
    ],
)
def test_names_of_the_deep_vd_net(ours, static, dygraph, model_shapes):
    state = model_shapes("solov2_r101_vd_fpn_3x")
    assert published_names(state, STATIC)[ours] == static
    assert published_names(state, DYGRAPH)[ours] == dygraph
