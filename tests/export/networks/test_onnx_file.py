"""Files of every origin become the one form, and compute what they computed."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from dkcam.errors import ExportError
from dkcam.export.networks.network import Network
from dkcam.export.networks.onnx_file import open_model, open_onnx
from tests.export.networks.files import FLOAT, classifier, dims, kinds, model, random, same, weights, write

LIGHT = sorted((Path(onnx.__file__).parent / "backend/test/data/light").glob("*.onnx"))


def in_one_form(network: Network) -> None:
    """What a Network promises of its graph."""
    graph = network.graph
    assert network.model.opset_imports.keys() == {""} and network.model.opset_imports[""] >= 18
    assert list(graph.inputs) == [network.image] and tuple(graph.outputs) == network.outputs
    assert not network.model.functions
    seen = {network.image, *graph.initializers.values()}
    names = [value.name for value in seen]
    for node in graph:
        assert node.domain == "" and node.name and node.op_type not in ("Identity", "Dropout", "Constant")
        assert all(value is None or value in seen for value in node.inputs), "nodes are in the order they run"
        assert any(value is not None and value.const_value is None for value in node.inputs), "constants are folded"
        for value in node.outputs:
            assert value.dtype is not None and value.shape is not None and all(isinstance(d, int) or d.value for d in value.shape)
        seen.update(node.outputs)
        names += [value.name for value in node.outputs if value.name]
    assert len(set(names)) == len(names)
    assert len({node.name for node in graph}) == len(graph)


def test_the_light_files_of_the_onnx_package_are_there() -> None:
    assert len(LIGHT) == 9


@pytest.mark.parametrize(
    "path", [path for path in LIGHT if path.stem[6:] in ("shufflenet", "squeezenet", "inception_v1")], ids=lambda p: p.stem
)
def test_old_files_with_weights_among_their_inputs(path: Path) -> None:
    network = open_onnx(path)
    in_one_form(network)
    assert network.opset == 9 and network.size == (224, 224) and network.labels is None and network.producer.startswith("onnx-caffe2")
    assert network.picture.assumed and network.picture.layout == "nchw" and network.picture.channels == "rgb"
    assert network.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert same(path, network) <= 1e-5


class Net(nn.Module):
    """With a view of computed sizes, a chunk, an expanded parameter, an upsampling to a computed size, and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.SiLU(), nn.Dropout(0.1))
        self.down = nn.Conv2d(4, 4, 3, 2, 1)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> Any:
        a, b = self.stem(x).chunk(2, 1)
        up = nn.functional.interpolate(self.down(a), size=b.shape[2:], mode="nearest")
        both = torch.cat([up, b], 1)
        tokens = both.flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(x.shape[0], -1, -1), tokens], 1)
        return self.head(self.norm(tokens).mean(1)), both


def exported(path: Path, *, dynamo: bool, opset: int = 18, free: tuple[int, ...] = ()) -> Path:
    torch.manual_seed(0)
    module, given = Net().eval(), torch.randn(2 if free else 1, 3, 32, 64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            shapes = (dict.fromkeys(free, torch.export.Dim.DYNAMIC),) if free else None
            torch.onnx.export(
                module, (given,), path, dynamo=True, external_data=False, opset_version=opset, dynamic_shapes=shapes, verbose=False
            )
        else:
            axes = {"x": {axis: f"axis{axis}" for axis in free}} if free else None
            torch.onnx.export(module, (given,), path, dynamo=False, opset_version=opset, input_names=["x"], dynamic_axes=axes)
    return path


@pytest.mark.parametrize("opset", [11, 13, 17])
def test_torch_script_files(tmp_path: Path, opset: int) -> None:
    path = exported(tmp_path / "net.onnx", dynamo=False, opset=opset)
    network = open_onnx(path)
    in_one_form(network)
    assert network.producer.startswith("pytorch") and network.opset == opset
    assert same(path, network) <= 1e-5


@pytest.mark.parametrize("free", [(0,), (2, 3), (0, 2, 3)])
def test_torch_script_files_with_free_axes_are_fixed_or_stay_free(tmp_path: Path, free: tuple[int, ...]) -> None:
    path = exported(tmp_path / "net.onnx", dynamo=False, opset=17, free=free)
    fixed = open_onnx(path, size=(32, 64), batch=(2, 2))
    in_one_form(fixed)
    assert not kinds(fixed) & {"Shape", "Expand"} and same(path, fixed) <= 1e-5
    dynamic = tuple(name for name, axis in (("batch", 0), ("size", 2)) if axis in free)
    network = open_onnx(path, size=(32, 64), dynamic=dynamic, batch=(1 if 0 in free else 2, 8 if 0 in free else 2))
    in_one_form(network)
    for batch in (1, 5) if 0 in free else (2,):
        for size in ((32, 64), (48, 32)) if 2 in free else ((32, 64),):
            assert same(path, network, batch=batch, size=size) <= 1e-5
    assert network.multiple == (4 if 2 in free else 1)
    names = [str(d) for d in dims(network.outputs[1])]
    assert names[0] == ("batch" if 0 in free else "2")
    assert names[2:] == (["height/2", "width/2"] if 2 in free else ["16", "32"])


def test_dynamo_files(tmp_path: Path) -> None:
    path = exported(tmp_path / "net.onnx", dynamo=True, free=(0, 2, 3))
    network = open_onnx(path, size=(32, 64), dynamic=("batch", "size"))
    in_one_form(network)
    for batch, size in ((1, (32, 64)), (3, (64, 32))):
        assert same(path, network, batch=batch, size=size) <= 1e-5
    assert any("pkg.torch.onnx.name_scopes" in node.metadata_props for node in network.graph), "layers are named by it"


def test_tokens_of_a_free_size_are_named_by_their_product(tmp_path: Path) -> None:
    path = exported(tmp_path / "net.onnx", dynamo=False, opset=17, free=(0, 2, 3))
    network = open_onnx(path, size=(32, 64), dynamic=("batch", "size"))
    named = {str(d) for node in network.graph for value in node.outputs for d in dims(value) if not isinstance(d, int)}
    assert {"batch", "height/2", "width/2", "height/4", "width/4", "height*width/4", "height*width/4 + 1"} == named


def test_tensorflow_files_read_rows_of_pixels(tmp_path: Path) -> None:
    """tf2onnx: NHWC input, a Transpose, weights in HWIO order turned by the graph."""
    nodes = [
        helper.make_node("Transpose", ["x"], ["nchw"], "t", perm=[0, 3, 1, 2]),
        helper.make_node("Transpose", ["w"], ["oihw"], "tw", perm=[3, 2, 0, 1]),
        helper.make_node("Conv", ["nchw", "oihw"], ["conv"], "conv", auto_pad="SAME_UPPER", strides=[2, 2]),
        helper.make_node("Clip", ["conv", "low", "high"], ["act"], "act"),
        helper.make_node("ReduceMean", ["act"], ["mean"], "mean", axes=[2, 3], keepdims=0),
        helper.make_node("Softmax", ["mean"], ["logits"], "softmax"),
    ]
    initializers = weights(w=random(3, 3, 3, 4), low=np.float32(0), high=np.float32(6))
    proto = model(
        nodes, {"x": (FLOAT, ["unk__1", 9, 11, 3])}, {"logits": (FLOAT, ["unk__1", 4])}, initializers, opset=12, producer_name="tf2onnx"
    )
    path = write(tmp_path / "tf.onnx", proto)
    network = open_onnx(path)
    in_one_form(network)
    assert network.picture.layout == "nhwc" and network.size == (9, 11) and dims(network.image) == [1, 9, 11, 3]
    assert [node.op_type for node in network.graph] == ["Transpose", "Conv", "Clip", "ReduceMean", "Softmax"]
    assert same(path, network) <= 1e-5


def test_rows_of_pixels_are_told_by_the_first_convolution_where_all_is_free(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Transpose", ["x"], ["nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["nchw", "w"], ["y"]),
    ]
    proto = model(nodes, {"x": (FLOAT, [None] * 4)}, {"y": (FLOAT, None)}, weights(w=random(4, 1, 3, 3)))
    network = open_onnx(write(tmp_path / "free.onnx", proto), size=(8, 6))
    assert (network.picture.layout, network.picture.channels) == ("nhwc", "gray") and dims(network.image) == [1, 8, 6, 1]


def test_paddle_files_have_constants_as_nodes_and_sizes_of_minus_one(tmp_path: Path) -> None:
    proto = classifier((1, 3, 8, 8), opset=11, producer_name="PaddlePaddle")
    graph = proto.graph
    nodes = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in graph.initializer]
    del graph.initializer[:]
    kept = list(graph.node)
    shape = [
        helper.make_node("Shape", ["pooled"], ["s"]),
        helper.make_node("Cast", ["s"], ["s32"], to=TensorProto.INT32),
        helper.make_node("Slice", ["s32", "zero", "one"], ["batch"]),
        helper.make_node("Concat", ["batch", "minus"], ["to32"], axis=0),
        helper.make_node("Cast", ["to32"], ["to"], to=TensorProto.INT64),
        helper.make_node("Reshape", ["pooled", "to"], ["flat"]),
    ]
    more = weights(zero=np.array([0], np.int32), one=np.array([1], np.int32), minus=np.array([-1], np.int32))
    nodes += [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in more]
    del graph.node[:]
    graph.node.extend([*nodes, *kept[:3], *shape, *kept[4:]])
    for axis in (0, 2, 3):
        graph.input[0].type.tensor_type.shape.dim[axis].dim_value = -1
    path = write(tmp_path / "inference.onnx", proto)
    network = open_onnx(path, size=(8, 8))
    in_one_form(network)
    assert [node.op_type for node in network.graph] == ["Conv", "Relu", "GlobalAveragePool", "Reshape", "Gemm"]
    for dim in graph.input[0].type.tensor_type.shape.dim:
        if dim.dim_value < 0:
            dim.dim_param = "free"
    assert same(write(tmp_path / "named.onnx", proto), network) <= 1e-5
    free = open_onnx(path, size=(8, 8), dynamic=("batch",))
    assert "Shape" not in kinds(free), "a Reshape to [batch, 4] takes a constant"
    assert same(tmp_path / "named.onnx", free, batch=3) <= 1e-5


def test_data_beside_the_file(tmp_path: Path) -> None:
    proto = classifier()
    plain = write(tmp_path / "plain.onnx", proto)
    path = tmp_path / "model.onnx"
    onnx.save_model(proto, str(path), save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    network = open_onnx(path)
    in_one_form(network)
    both = path.read_bytes() + (tmp_path / "model.onnx.data").read_bytes()
    assert network.sha256 == hashlib.sha256(both).hexdigest()
    assert same(plain, network) <= 1e-5


def branch(name: str, nodes: list[onnx.NodeProto], output: str, initializers: list[onnx.TensorProto] | None = None) -> onnx.GraphProto:
    return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(output, FLOAT, None)], initializers or [])


@pytest.mark.parametrize("rows", [8, 7])
def test_a_branch_whose_condition_is_known_is_written_out(tmp_path: Path, rows: int) -> None:
    """Its values keep out of each other's way: branches of one If after the other use the same names."""
    inner = helper.make_node("Mul", ["relu", "factor"], ["inner"])
    then = branch("then", [inner, helper.make_node("Tanh", ["inner"], ["t"])], "t", weights(factor=np.float32(2)))
    again = helper.make_node("Mul", ["first", "factor"], ["inner"])
    last = branch("last", [again, helper.make_node("Neg", ["inner"], ["t"])], "t", weights(factor=np.float32(3)))
    other = branch("else", [helper.make_node("Sigmoid", ["relu"], ["inner"])], "inner")
    deeper = branch("deeper", [helper.make_node("If", ["yes"], ["d"], "if2", then_branch=then, else_branch=other)], "d")
    plain = branch("plain", [helper.make_node("Identity", ["relu"], ["p"])], "p")
    extra = [
        helper.make_node("Shape", ["relu"], ["s"]),
        helper.make_node("Gather", ["s", "two"], ["height"]),
        helper.make_node("Equal", ["height", "eight"], ["yes"]),
        helper.make_node("If", ["yes"], ["first"], "if", then_branch=deeper, else_branch=plain),
        helper.make_node("If", ["always"], ["features"], "if3", then_branch=last, else_branch=branch("never", [other.node[0]], "inner")),
    ]
    initializers = weights(two=np.int64(2), eight=np.int64(8), always=np.array(True))
    path = write(tmp_path / "if.onnx", classifier((1, 3, rows, 8), extra=extra, initializers=initializers))
    network = open_onnx(path)
    in_one_form(network)
    assert not kinds(network) & {"If", "Sigmoid"} and "Neg" in kinds(network) and ("Tanh" in kinds(network)) == (rows == 8)
    assert same(path, network) <= 1e-5


def test_an_output_that_a_branch_gives_keeps_its_name(tmp_path: Path) -> None:
    then = branch("then", [helper.make_node("Relu", ["x"], ["r"])], "r")
    other = branch("else", [helper.make_node("Neg", ["x"], ["n"])], "n")
    node = helper.make_node("If", ["no"], ["y"], "if", then_branch=then, else_branch=other)
    proto = model([node], {"x": (FLOAT, [1, 3, 4, 4])}, {"y": (FLOAT, None)}, weights(no=np.array(False)))
    path = write(tmp_path / "if.onnx", proto)
    network = open_onnx(path)
    assert [value.name for value in network.outputs] == ["y"] and same(path, network) == 0


def test_functions_of_the_file_are_written_out(tmp_path: Path) -> None:
    body = [helper.make_node("Relu", ["a"], ["r"]), helper.make_node("Mul", ["r", "r"], ["b"])]
    square = helper.make_function("own", "Square", ["a"], ["b"], body, [helper.make_opsetid("", 18)])
    twice = helper.make_function(
        "own",
        "Twice",
        ["a"],
        ["c"],
        [helper.make_node("Square", ["a"], ["b"], domain="own"), helper.make_node("Square", ["b"], ["c"], domain="own")],
        [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)],
    )
    proto = classifier(
        extra=[helper.make_node("Twice", ["relu"], ["features"], domain="own")],
        functions=[square, twice],
        opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("own", 1)],
    )
    path = write(tmp_path / "functions.onnx", proto)
    network = open_onnx(path)
    in_one_form(network)
    assert [node.op_type for node in network.graph].count("Mul") == 2
    assert same(path, network) <= 1e-5


def test_what_onnx_defines_by_other_operators_is_written_as_those(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["conv"], "conv", strides=[4, 4]),
        helper.make_node("Reshape", ["conv", "to"], ["flat"], "flat"),
        helper.make_node("Transpose", ["flat"], ["tokens"], "tokens", perm=[0, 2, 1]),
        helper.make_node("RMSNormalization", ["tokens", "scale"], ["norm"], "norm"),
        helper.make_node("Attention", ["norm", "norm", "norm"], ["y"], "attention", q_num_heads=2, kv_num_heads=2),
        helper.make_node("Gelu", ["y"], ["z"], "gelu"),
    ]
    initializers = weights(w=random(8, 3, 4, 4), to=np.array([0, 0, -1]), scale=random(8))
    proto = model(nodes, {"x": (FLOAT, ["n", 3, 16, 16])}, {"z": (FLOAT, None)}, initializers, opset=23, ir_version=11)
    path = write(tmp_path / "attention.onnx", proto)
    network = open_onnx(path)
    in_one_form(network)
    assert not kinds(network) & {"Attention", "RMSNormalization"} and {"Gelu", "Softmax", "MatMul"} <= kinds(network)
    assert network.model.opset_imports[""] == 23 and same(path, network) <= 1e-5
    free = open_onnx(path, dynamic=("batch",))
    in_one_form(free)
    assert same(path, free, batch=3) <= 1e-5


@pytest.mark.parametrize("kind", ["CastLike", "CenterCropPad", "MeanVarianceNormalization", "RotaryEmbedding"])
def test_other_composites(tmp_path: Path, kind: str) -> None:
    more = {"CastLike": ["half"], "CenterCropPad": ["to"], "RotaryEmbedding": ["cos", "sin", "places"]}.get(kind, [])
    nodes = [helper.make_node(kind, ["x", *more], ["y"]), helper.make_node("Cast", ["y"], ["z"], to=FLOAT)]
    arrays = {"half": random(1).astype(np.float16), "to": np.array([1, 3, 6, 12]), "cos": random(9, 4), "sin": random(9, 4)}
    initializers = weights(**arrays, places=np.arange(8).reshape(1, 8))
    proto = model(nodes, {"x": (FLOAT, [1, 3, 8, 8])}, {"z": (FLOAT, None)}, initializers, opset=23, ir_version=11)
    path = write(tmp_path / "model.onnx", proto)
    network = open_onnx(path)
    assert kind not in kinds(network) and same(path, network) <= 1e-5


def test_operators_that_have_rules_stay(tmp_path: Path) -> None:
    extra = [
        helper.make_node("GroupNormalization", ["relu", "s", "s"], ["g"], num_groups=2),
        helper.make_node("HardSwish", ["g"], ["h"]),
        helper.make_node("Mish", ["h"], ["m"]),
        helper.make_node("Softplus", ["m"], ["features"]),
    ]
    proto = classifier(extra=extra, initializers=weights(s=random(4)), opset=21, ir_version=10)
    assert {"GroupNormalization", "HardSwish", "Mish", "Softplus"} <= kinds(open_onnx(write(tmp_path / "rules.onnx", proto)))


def test_softmax_of_old_files_is_over_all_axes_behind_its_own(tmp_path: Path) -> None:
    proto = model([helper.make_node("Softmax", ["x"], ["y"])], {"x": (FLOAT, ["n", 3, 4, 5])}, {"y": (FLOAT, None)}, opset=11)
    path = write(tmp_path / "old.onnx", proto)
    assert same(path, open_onnx(path)) <= 1e-5


def test_a_batch_that_is_fixed_becomes_another_where_the_network_follows(tmp_path: Path) -> None:
    follows = write(tmp_path / "follows.onnx", classifier((4, 3, 8, 8), outputs={"logits": (FLOAT, [4, 5])}))
    assert dims(open_onnx(follows, batch=(2, 2)).outputs[0]) == [2, 5]
    network = open_onnx(follows, dynamic=("batch",), batch=(1, 8))
    assert [str(d) for d in dims(network.outputs[0])] == ["batch", "5"]
    stays = classifier((4, 3, 8, 8), outputs={"again": (FLOAT, [4, 5])}, initializers=weights(to=np.array([4, 5])))
    stays.graph.node.append(helper.make_node("Reshape", ["logits", "to"], ["again"], "again"))
    path = write(tmp_path / "stays.onnx", stays)
    assert same(path, open_onnx(path, batch=(4, 4))) <= 1e-5
    with pytest.raises(
        ExportError, match=r"made for a batch of 4 at 8x8 and does not take a batch of 1 at 8x8 .*'Reshape' \(node 'again'\)"
    ):
        open_onnx(path)
    with pytest.raises(ExportError, match=r"--dynamic batch: stays.onnx does not take other sizes"):
        open_onnx(path, dynamic=("batch",))


def test_an_output_that_hides_the_batch_is_found_out(tmp_path: Path) -> None:
    """A shape of [1, −1] takes any batch, and mixes pictures."""
    proto = classifier((1, 3, 8, 8), outputs={"again": (FLOAT, [1, 5])}, initializers=weights(to=np.array([1, -1])))
    proto.graph.node.append(helper.make_node("Reshape", ["logits", "to"], ["again"], "again"))
    path = write(tmp_path / "mixes.onnx", proto)
    with pytest.raises(ExportError, match=r"--dynamic batch: mixes.onnx gives 'again' \[1,5\*batch\], which does not follow it"):
        open_onnx(path, dynamic=("batch",))


def test_sizes_that_are_no_multiples_are_refused(tmp_path: Path) -> None:
    path = exported(tmp_path / "net.onnx", dynamo=False, opset=17, free=(0, 2, 3))
    with pytest.raises(ExportError, match="takes multiples of 4 as heights and widths, not 34x64"):
        open_onnx(path, size=(34, 64), dynamic=("size",))


def test_what_nothing_reads_is_gone_and_what_is_unnamed_gets_a_name(tmp_path: Path) -> None:
    proto = classifier(initializers=weights(unused=random(3)))
    proto.graph.node.insert(0, helper.make_node("Relu", ["x"], ["nobody"]))
    proto.graph.input.append(helper.make_tensor_value_info("also_unread", FLOAT, [1]))
    for node in proto.graph.node:
        node.name = ""
    network = open_onnx(write(tmp_path / "model.onnx", proto))
    in_one_form(network)
    assert "unused" not in network.graph.initializers and [node.op_type for node in network.graph].count("Relu") == 1


def test_control_characters_of_names_are_escaped(tmp_path: Path) -> None:
    proto = classifier()
    proto.graph.node[1].name = "re\nlu\x1b]0;"
    proto.graph.node[1].output[0] = proto.graph.node[2].input[0] = "fea\ntures"
    network = open_onnx(write(tmp_path / "model.onnx", proto))
    assert [node.name for node in network.graph][1] == r"re\nlu\x1b]0;"
    assert all((value.name or "").isprintable() for node in network.graph for value in node.outputs)


def test_labels_and_size_of_metadata(tmp_path: Path) -> None:
    metadata = {"author": "Ultralytics", "stride": "32", "task": "detect", "imgsz": "[16, 24]", "names": "{0: 'a car', 2: \"it's\"}"}
    path = write(tmp_path / "yolo.onnx", classifier(("batch", 3, "height", "width"), metadata=metadata))
    network = open_onnx(path)
    assert network.size == (16, 24) and network.labels == ("a car", "class 1", "it's") and network.metadata["task"] == "detect"
    assert (network.picture.resize, network.picture.letterbox, network.picture.assumed) == ("letterbox", 114, False)


def test_a_parsed_model_is_taken_as_well() -> None:
    network = open_model(classifier(), "model")
    in_one_form(network)
    assert network.sha256 == "" and isinstance(network.image, ir.Value)


def test_double_and_half_precision(tmp_path: Path) -> None:
    for kind in (np.float64, np.float16):
        code = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
        nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
        proto = model(nodes, {"x": (code, [1, 3, 4, 4])}, {"y": (code, [1, 3, 4, 2])}, weights(w=random(4, 2).astype(kind)))
        path = write(tmp_path / "model.onnx", proto)
        network = open_onnx(path)
        assert network.image.dtype == ir.DataType(code) and same(path, network) <= 1e-3
