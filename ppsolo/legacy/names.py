"""Parameter names of both published generations: ordered tables from ppsolo's names to theirs.

A table is tried top to bottom; the first pattern that matches the whole name gives the published name. Before that,
ResNet's block numbers become the published letters (`stages.2.1.` becomes `res4b.`). The entry's suffix map translates
a layer's last word (weight, bias, _mean, _variance), or keeps it.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

STATIC: Final = "static-0.5"
DYGRAPH: Final = "dygraph-2.x"
NATIVE: Final = "ppsolo"


class Rule(NamedTuple):
    """pattern: matches the whole name in ppsolo, with a suffix group. published: template of the published name."""

    pattern: str
    published: str
    suffixes: Mapping[str, str] | None = None


_STATIC_NORM = {"weight": "scale", "bias": "offset", "_mean": "mean", "_variance": "variance"}
_STATIC_GROUP_NORM = {"weight": "gn_scale", "bias": "gn_offset"}
_STATIC_OFFSET = {"weight": "w_0", "bias": "b_0"}
_STATIC_FPN = {"weight": "w", "bias": "b"}
_STATIC_SQUEEZE = {"weight": "weights", "bias": "offset"}

STATIC_RULES = (
    # ResNet
    Rule(r"backbone\.(res\w+)\.conv(\w+)\.conv\.offset\.(\w+)", r"\1_branch\2_conv_offset.{}", _STATIC_OFFSET),
    Rule(r"backbone\.(res\w+)\.conv(\w+)\.conv\.(?:conv\.)?weight", r"\1_branch\2_weights"),
    Rule(r"backbone\.res(\w+)\.conv(\w+)\.norm\.(\w+)", r"bn\1_branch\2_{}", _STATIC_NORM),
    Rule(r"backbone\.(res\w+)\.shortcut\.conv\.conv\.weight", r"\1_branch1_weights"),
    Rule(r"backbone\.res(\w+)\.shortcut\.conv\.norm\.(\w+)", r"bn\1_branch1_{}", _STATIC_NORM),
    Rule(r"backbone\.stem\.only\.conv\.weight", r"conv1_weights"),
    Rule(r"backbone\.stem\.only\.norm\.(\w+)", r"bn_conv1_{}", _STATIC_NORM),
    Rule(r"backbone\.stem\.(\d)\.conv\.weight", r"conv1_\1_weights"),
    Rule(r"backbone\.stem\.(\d)\.norm\.(\w+)", r"bnv1_\1_{}", _STATIC_NORM),
    # MobileNetV3
    Rule(r"backbone\.stem\.conv\.weight", r"conv1_weights"),
    Rule(r"backbone\.stem\.norm\.(\w+)", r"conv1_bn_{}", _STATIC_NORM),
    Rule(r"backbone\.last\.conv\.weight", r"conv_last_weights"),
    Rule(r"backbone\.last\.norm\.(\w+)", r"conv_last_bn_{}", _STATIC_NORM),
    Rule(r"backbone\.mobile(\d+)\.(expand|depthwise|linear)\.conv\.weight", r"conv\1_\2_weights"),
    Rule(r"backbone\.mobile(\d+)\.(expand|depthwise|linear)\.norm\.(\w+)", r"conv\1_\2_bn_{}", _STATIC_NORM),
    Rule(r"backbone\.mobile(\d+)\.se_(\d)\.(\w+)", r"conv\1_se_\2_{}", _STATIC_SQUEEZE),
    # FPN
    Rule(r"neck\.laterals\.(\w+)\.last\.(\w+)", r"fpn_inner_\1_{}", _STATIC_FPN),
    Rule(r"neck\.laterals\.(\w+)\.(\w+)", r"fpn_inner_\1_lateral_{}", _STATIC_FPN),
    Rule(r"neck\.outputs\.(\w+)\.(\w+)", r"fpn_\1_{}", _STATIC_FPN),
    # heads
    Rule(
        r"mask_feature_head\.levels\.(\d)\.(\d)\.conv\.offset\.(\w+)",
        r"mask_feat_head.convs_all_levels.\1.conv\2_conv_offset.{}",
        _STATIC_OFFSET,
    ),
    Rule(
        r"mask_feature_head\.levels\.(\d)\.(\d)\.conv\.(?:conv\.)?weight",
        r"mask_feat_head.convs_all_levels.\1.conv\2_weights",
    ),
    Rule(
        r"mask_feature_head\.levels\.(\d)\.(\d)\.norm\.(\w+)",
        r"mask_feat_head.convs_all_levels.\1.conv\2.{}",
        _STATIC_GROUP_NORM,
    ),
    Rule(
        r"mask_feature_head\.output\.conv\.offset\.(\w+)",
        r"mask_feat_head.conv_pred.0_conv_offset.{}",
        _STATIC_OFFSET,
    ),
    Rule(r"mask_feature_head\.output\.conv\.(?:conv\.)?weight", r"mask_feat_head.conv_pred.0_weights"),
    Rule(r"mask_feature_head\.output\.norm\.(\w+)", r"mask_feat_head.conv_pred.0.{}", _STATIC_GROUP_NORM),
    Rule(
        r"head\.(cate|kernel)_tower\.(\d+)\.conv\.offset\.(\w+)",
        r"bbox_head.\1_convs.\2_conv_offset.{}",
        _STATIC_OFFSET,
    ),
    Rule(r"head\.(cate|kernel)_tower\.(\d+)\.conv\.(?:conv\.)?weight", r"bbox_head.\1_convs.\2_weights"),
    Rule(r"head\.(cate|kernel)_tower\.(\d+)\.norm\.(\w+)", r"bbox_head.\1_convs.\2.{}", _STATIC_GROUP_NORM),
    Rule(r"head\.(cate|kernel)\.(\w+)", r"bbox_head.solo_\1.\2"),
)

_LEVEL = r"mask_head.conv_pre_feat\1.mask_feat_head.convs_all_levels.\1.conv\2"

DYGRAPH_RULES = (
    # ResNet
    Rule(r"backbone\.(res\d)(\w+)\.conv(\w+)\.conv\.offset\.(\w+)", r"backbone.\1.\1\2.branch\3.conv_offset.\4"),
    Rule(
        r"backbone\.(res\d)(\w+)\.conv(\w+)\.conv\.(?:conv\.)?weight",
        r"backbone.\1.\1\2.branch\3.conv.weight",
    ),
    Rule(r"backbone\.(res\d)(\w+)\.conv(\w+)\.norm\.(\w+)", r"backbone.\1.\1\2.branch\3.norm.\4"),
    Rule(r"backbone\.(res\d)(\w+)\.shortcut\.pooled\.(.+)", r"backbone.\1.\1\2.short.conv.\3"),
    Rule(r"backbone\.(res\d)(\w+)\.shortcut\.conv\.(.+)", r"backbone.\1.\1\2.short.\3"),
    Rule(r"backbone\.stem\.only\.(.+)", r"backbone.conv1.conv1.\1"),
    Rule(r"backbone\.stem\.(\d)\.(.+)", r"backbone.conv1.conv1_\1.\2"),
    # FPN
    Rule(r"neck\.laterals\.(\w+)\.last\.(\w+)", r"neck.fpn_inner_\1.\2"),
    Rule(r"neck\.laterals\.(\w+)\.(\w+)", r"neck.fpn_inner_\1_lateral.\2"),
    Rule(r"neck\.outputs\.(\w+)\.(\w+)", r"neck.fpn_\1.\2"),
    # heads; there, the weights of a deformable convolution are under conv_dcn
    Rule(r"mask_feature_head\.levels\.(\d)\.(\d)\.conv\.offset\.(\w+)", _LEVEL + r".conv.conv_offset.\3"),
    Rule(r"mask_feature_head\.levels\.(\d)\.(\d)\.conv\.conv\.(\w+)", _LEVEL + r".conv.conv_dcn.\3"),
    Rule(r"mask_feature_head\.levels\.(\d)\.(\d)\.(.+)", _LEVEL + r".\3"),
    Rule(
        r"mask_feature_head\.output\.conv\.offset\.(\w+)",
        r"mask_head.mask_feat_head.conv_pred.0.conv.conv_offset.\1",
    ),
    Rule(
        r"mask_feature_head\.output\.conv\.conv\.(\w+)",
        r"mask_head.mask_feat_head.conv_pred.0.conv.conv_dcn.\1",
    ),
    Rule(r"mask_feature_head\.output\.(.+)", r"mask_head.mask_feat_head.conv_pred.0.\1"),
    Rule(
        r"head\.(cate|kernel)_tower\.(\d+)\.conv\.offset\.(\w+)",
        r"solov2_head.bbox_head.\1_convs.\2.conv.conv_offset.\3",
    ),
    Rule(
        r"head\.(cate|kernel)_tower\.(\d+)\.conv\.conv\.(\w+)",
        r"solov2_head.bbox_head.\1_convs.\2.conv.conv_dcn.\3",
    ),
    Rule(r"head\.(cate|kernel)_tower\.(\d+)\.(.+)", r"solov2_head.bbox_head.\1_convs.\2.\3"),
    Rule(r"head\.(cate|kernel)\.(\w+)", r"solov2_head.bbox_head.solo_\1.\2"),
)

# PaddleDetection 2.x registers three layers twice, and its files hold both names.
DYGRAPH_ALIASES = (
    ("solov2_head.bbox_head.solo_kernel.", "solov2_head.solo_kernel."),
    ("solov2_head.bbox_head.solo_cate.", "solov2_head.solo_cate."),
    ("mask_head.mask_feat_head.conv_pred.0.", "mask_head.conv_pred."),
)


def generation_of(names: Iterable[str]) -> str | None:
    """Return the generation that wrote these array names: STATIC, DYGRAPH, NATIVE, or None if unknown."""
    names = set(names)
    for generation, prefix in (
        (NATIVE, "mask_feature_head."),
        (DYGRAPH, "solov2_head."),
        (STATIC, "bbox_head."),
    ):
        if any(name.startswith(prefix) for name in names):
            return generation
    return None


def published_names(names: Iterable[str], generation: str) -> dict[str, str]:
    """Map ppsolo's parameter names to those of `generation` (STATIC or DYGRAPH).

    names: all parameter names of one model, because a block's name depends on the number of blocks.
    Raises KeyError with ppsolo's name if the generation has no such parameter.
    """
    names = list(names)
    rules = STATIC_RULES if generation == STATIC else DYGRAPH_RULES
    canonical = _Canonical(names, generation)
    return {name: _apply(rules, canonical(name), name) for name in names}


def alias_of(published: str) -> str | None:
    """Return the second name of an array that PaddleDetection 2.x stores twice; None if it has one name."""
    for name, alias in DYGRAPH_ALIASES:
        if published.startswith(name):
            return alias + published[len(name) :]
    return None


def _apply(rules: tuple[Rule, ...], canonical: str, name: str) -> str:
    for rule in rules:
        match = re.fullmatch(rule.pattern, canonical)
        if match is None:
            continue
        if rule.suffixes is None:
            return match.expand(rule.published)
        suffix = rule.suffixes.get(match.groups()[-1])
        if suffix is not None:
            return match.expand(rule.published.replace("{}", suffix))
    raise KeyError(name)


class _Canonical:
    """Rewrites the names of one model so that block numbers become the words of both generations."""

    def __init__(self, names: list[str], generation: str):
        self.vd = any(name.startswith("backbone.stem.1.") for name in names)
        self.mobile = any(name.startswith("backbone.blocks.") for name in names)
        blocks = [re.match(r"backbone\.stages\.(\d)\.(\d+)\.", name) for name in names]
        self.blocks_in_stage = {
            stage: 1 + max(int(match[2]) for match in blocks if match and match[1] == stage)
            for stage in {match[1] for match in blocks if match}
        }
        levels = [re.match(r"neck\.laterals\.(\d)\.", name) for name in names]
        self.last_lateral = max((int(match[1]) for match in levels if match), default=-1)
        self.branches = "abc"
        self.generation = generation

    def __call__(self, name: str) -> str:
        room, _, rest = name.partition(".")
        if room == "backbone":
            return f"backbone.{self._backbone(rest)}"
        if room == "neck":
            return f"neck.{self._neck(rest)}"
        return name.replace("head.category", "head.cate", 1) if room == "head" else name

    def _backbone(self, rest: str) -> str:
        match = re.match(r"stages\.(\d)\.(\d+)\.(.+)", rest)
        if match:
            stage, block, tail = match[1], int(match[2]), match[3]
            # conv1, conv2, conv3 are branch2a, branch2b, branch2c.
            tail = re.sub(r"^conv(\d)", lambda m: f"conv2{self.branches[int(m[1]) - 1]}", tail)
            if self.vd and stage != "0" and self.generation == DYGRAPH:
                tail = tail.replace("shortcut.conv.", "shortcut.pooled.", 1)
            return f"res{int(stage) + 2}{self._letter(stage, block)}.{tail}"
        match = re.match(r"stem\.(\d)\.(.+)", rest)
        if match:
            return f"stem.{int(match[1]) + 1}.{match[2]}" if self.vd else f"stem.only.{match[2]}"
        match = re.match(r"blocks\.(\d+)\.(.+)", rest)
        if match:
            tail = match[2].replace("project.", "linear.", 1)
            tail = tail.replace("squeeze_excite.reduce.", "se_1.").replace("squeeze_excite.expand.", "se_2.")
            return f"mobile{int(match[1]) + 2}.{tail}"
        return rest

    def _letter(self, stage: str, block: int) -> str:
        # The third stage of the deep nets is a, b1, b2, ...
        if stage == "2" and self.blocks_in_stage[stage] > 6:
            return f"b{block}" if block else "a"
        return chr(ord("a") + block)

    def _neck(self, rest: str) -> str:
        match = re.match(r"(laterals|outputs)\.(\d)\.(\w+)", rest)
        if not match:
            return rest
        level = int(match[2])
        feature = f"mv3_{level}" if self.mobile else f"res{level + 2}_sum"
        last = "last." if match[1] == "laterals" and level == self.last_lateral else ""
        return f"{match[1]}.{feature}.{last}{match[3]}"
