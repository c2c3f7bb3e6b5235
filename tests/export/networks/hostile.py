"""Files that cannot be explained, or that someone made to hurt: each a function that writes one and returns its path."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.export.networks.files import FLOAT, classifier, model, random, weights, write

INT64 = TensorProto.INT64
Make = Callable[[Path], Path]
MAKERS: dict[str, tuple[Make, str]] = {}


def hostile(expected: str) -> Callable[[Make], Make]:
    """expected: a pattern of the message."""

    def enter(function: Make) -> Make:
        MAKERS[function.__name__] = (function, expected)
        return function

    return enter


# the bytes


@hostile(r"m.onnx has 3072 MiB, 2048 MiB at most")
def three_gigabytes(path: Path) -> Path:
    with path.open("wb") as file:
        file.truncate(3 << 30)
    return path


@hostile("is empty")
def empty(path: Path) -> Path:
    path.write_bytes(b"")
    return path


@hostile("is a text file; expected an ONNX file")
def text(path: Path) -> Path:
    path.write_text("import os\n")
    return path


@hostile("is a zip archive; expected an ONNX file")
def archive(path: Path) -> Path:
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    return path


@hostile("is not a whole ONNX model")
def cut_off(path: Path) -> Path:
    path.write_bytes(classifier().SerializeToString()[:-9])
    return path


@hostile("is not a whole ONNX model")
def names_that_are_no_utf8(path: Path) -> Path:
    path.write_bytes(classifier().SerializeToString().replace(b"GlobalAveragePool", b"GlobalAveragePoo\xff"))
    return path


@hostile("has no nodes")
def of_no_nodes(path: Path) -> Path:
    return write(path, helper.make_model(helper.make_graph([], "g", [], [])))


def varint(number: int) -> bytes:
    found = b""
    while number >= 0x80:
        found += bytes([number & 0x7F | 0x80])
        number >>= 7
    return found + bytes([number])


def message(field: int, content: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(content)) + content


@hostile("has more than 20000 nodes")
def two_million_empty_nodes(path: Path) -> Path:
    path.write_bytes(message(7, message(1, b"") * 2_000_000))
    return path


@hostile("has more than 80000 tensors")
def a_million_empty_weights(path: Path) -> Path:
    path.write_bytes(message(7, message(5, b"") * 1_000_000))
    return path


@hostile("has more than 320000 dimensions")
def a_million_dimensions(path: Path) -> Path:
    path.write_bytes(message(7, message(11, message(2, message(1, message(2, message(1, b"") * 1_000_000))))))
    return path


@hostile("would take more than 223 MiB in memory")
def fifty_million_small_numbers(path: Path) -> Path:
    path.write_bytes(message(7, message(5, message(7, b"\1" * 50_000_000))))
    return path


@hostile("are more than 1500000 fields")
def ten_million_numbers_one_by_one(path: Path) -> Path:
    path.write_bytes(message(7, message(5, b"\x08\1" * 10_000_000)))
    return path


@hostile("would take more than")
def six_hundred_thousand_branches(path: Path) -> Path:
    path.write_bytes(message(7, message(1, message(5, message(11, b"") * 600_000))))
    return path


@hostile("not a whole ONNX model")
def nested_a_thousand_times(path: Path) -> Path:
    graph = b""
    for _ in range(400):  # graph, node, attribute
        graph = message(1, message(5, message(6, graph)))
    path.write_bytes(message(7, graph))
    return path


# the graph


def chain(count: int) -> onnx.ModelProto:
    nodes = [helper.make_node("Relu", [f"v{i}" if i else "x"], [f"v{i + 1}"]) for i in range(count)]
    return model(nodes, {"x": (FLOAT, [1, 3, 4, 4])}, {f"v{count}": (FLOAT, None)})


@hostile("has more than 20000 nodes")
def fifty_thousand_nodes(path: Path) -> Path:
    return write(path, chain(50_000))


@hostile(r"has \d+ nodes once what is made of others is written out; expected 20000 at most")
def functions_that_call_functions(path: Path) -> Path:
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    functions = []
    for level in range(30):
        inner = ("Relu", "") if level == 0 else (f"F{level - 1}", "own")
        body = [helper.make_node(inner[0], [f"a{i}"], [f"a{i + 1}"], domain=inner[1]) for i in range(10)]
        functions.append(helper.make_function("own", f"F{level}", ["a0"], ["a10"], body, imports))
    extra = [helper.make_node("F29", ["relu"], ["features"], domain="own")]
    return write(path, classifier(extra=extra, functions=functions, opset_imports=imports))


@hostile("function 'F', which calls itself")
def a_function_that_calls_itself(path: Path) -> Path:
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    function = helper.make_function("own", "F", ["a"], ["b"], [helper.make_node("F", ["a"], ["b"], domain="own")], imports)
    extra = [helper.make_node("F", ["relu"], ["features"], domain="own")]
    return write(path, classifier(extra=extra, functions=[function], opset_imports=imports))


@hostile(r"cycle: 'Add' \(node 'add'\) waits for its own output")
def a_cycle(path: Path) -> Path:
    extra = [helper.make_node("Add", ["relu", "back"], ["a"], "add"), helper.make_node("Tanh", ["a"], ["back"], "tanh")]
    proto = classifier(extra=extra)
    proto.graph.node[4].input[0] = "back"
    return write(path, proto)


@hostile(r"'Conv' \(node 'conv'\) reads 'w', which nothing gives: a weight is missing")
def a_missing_weight(path: Path) -> Path:
    proto = classifier()
    del proto.graph.initializer[0]
    return write(path, proto)


@hostile("two values of the name 'relu'")
def a_value_given_twice(path: Path) -> Path:
    return write(path, classifier(extra=[helper.make_node("Neg", ["relu"], ["relu"]), helper.make_node("Neg", ["relu"], ["features"])]))


@hostile("two weights of the name 'w'")
def a_weight_given_twice(path: Path) -> Path:
    return write(path, classifier(initializers=weights(w=random(1))))


@hostile("the output 'nobody', which nothing gives")
def an_output_of_nothing(path: Path) -> Path:
    return write(path, classifier(outputs={"nobody": (FLOAT, [1])}))


@hostile(r"says that 'features' is FLOAT \[1,9,8,8\], and it is FLOAT \[1,4,8,8\]")
def a_wrong_shape(path: Path) -> Path:
    return write(path, classifier(values={"features": (FLOAT, [1, 9, 8, 8])}))


@hostile(r"says that 'logits' is DOUBLE \[1,5\], and it is FLOAT \[1,5\]")
def a_wrong_type(path: Path) -> Path:
    return write(path, classifier(outputs={"logits": (TensorProto.DOUBLE, [1, 5])}))


@hostile(r"'Conv' \(node 'conv'\) cannot take \[1, 3, 8, 8\]: its weights are for 7 channels")
def weights_for_other_channels(path: Path) -> Path:
    proto = classifier()
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(random(4, 7, 3, 3), "w"))
    return write(path, proto)


@hostile(r"'Gemm' \(node 'fc'\) cannot take \[1, 4\], \[5, 9\]: ")
def weights_that_do_not_fit(path: Path) -> Path:
    proto = classifier()
    proto.graph.initializer[2].CopyFrom(numpy_helper.from_array(random(5, 9), "fc"))
    return write(path, proto)


@hostile("No Op registered for Conf|is no operator")
def an_unknown_operator(path: Path) -> Path:
    proto = classifier()
    proto.graph.node[0].op_type = "Conf"
    return write(path, proto)


@hostile("Unrecognized attribute: colour")
def an_unknown_attribute(path: Path) -> Path:
    return write(path, classifier(extra=[helper.make_node("Tanh", ["relu"], ["features"], colour=3)]))


# weights


@hostile("NaN in the weight 'fc'")
def nan(path: Path) -> Path:
    proto = classifier()
    bad = random(5, 4)
    bad[2, 1] = np.nan
    proto.graph.initializer[2].CopyFrom(numpy_helper.from_array(bad, "fc"))
    return write(path, proto)


@hostile("Inf or NaN in the weight 'fc' of 'Gemm'")
def infinity(path: Path) -> Path:
    proto = classifier()
    bad = random(5, 4)
    bad[2, 1] = np.inf
    proto.graph.initializer[2].CopyFrom(numpy_helper.from_array(bad, "fc"))
    return write(path, proto)


@hostile(r"damaged weight 'fc': its data does not fill \[5, 4\]")
def data_that_is_too_short(path: Path) -> Path:
    proto = classifier()
    proto.graph.initializer[2].raw_data = proto.graph.initializer[2].raw_data[:-4]
    return write(path, proto)


@hostile(r"damaged weight 'fc': its data does not fill \[1000000, 1000000, 1000000\]")
def dimensions_without_data(path: Path) -> Path:
    proto = classifier()
    del proto.graph.initializer[2].dims[:]
    proto.graph.initializer[2].dims.extend([1_000_000] * 3)
    return write(path, proto)


@hostile("'fc' of type INT4")
def four_bits(path: Path) -> Path:
    proto = classifier(opset=21)
    proto.graph.initializer[2].CopyFrom(helper.make_tensor("fc", TensorProto.INT4, [5, 4], bytes(10), raw=True))
    return write(path, proto)


@hostile("has sparse weights")
def sparse_weights(path: Path) -> Path:
    proto = classifier()
    values, where = numpy_helper.from_array(np.ones(1, np.float32), "s"), numpy_helper.from_array(np.zeros(1, np.int64))
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, where, [4]))
    return write(path, proto)


# data beside the file


def outside(path: Path, place: str, *, offset: int | None = None, length: int | None = None, write_data: bool = True) -> Path:
    proto = classifier()
    tensor = proto.graph.initializer[2]
    data = tensor.raw_data
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", place), ("offset", offset), ("length", length)):
        if value is not None:
            entry = tensor.external_data.add()
            entry.key, entry.value = key, str(value)
    if write_data:
        (path.parent / "weights.bin").write_bytes(data)
    return write(path, proto)


@hostile("keeps weights in 'gone.bin', which is not there")
def no_data_there(path: Path) -> Path:
    return outside(path, "gone.bin")


@hostile("keeps weights in '/etc/passwd'; expected a file in its own folder")
def data_at_an_absolute_place(path: Path) -> Path:
    return outside(path, "/etc/passwd")


@hostile(r"keeps weights in '../../etc/passwd'; expected a file in its own folder")
def data_above_the_folder(path: Path) -> Path:
    return outside(path, "../../etc/passwd")


@hostile(r"keeps weights in 'C:\\weights.bin'; expected a file in its own folder")
def data_on_a_drive(path: Path) -> Path:
    return outside(path, "C:\\weights.bin")


@hostile("a link out of its folder")
def data_behind_a_link(path: Path) -> Path:
    (path.parent / "link.bin").symlink_to("/etc/passwd")
    return outside(path, "link.bin")


@hostile("a link out of its folder")
def data_in_a_linked_folder(path: Path) -> Path:
    (path.parent / "link").symlink_to("/etc")
    return outside(path, "link/passwd")


@hostile("'weights.bin'?.*damaged weight 'fc'|damaged weight 'fc'")
def data_beyond_the_end(path: Path) -> Path:
    return outside(path, "weights.bin", offset=8)


@hostile("damaged weight 'fc'")
def data_of_another_length(path: Path) -> Path:
    return outside(path, "weights.bin", length=40)


@hostile("damaged weight 'fc'")
def data_before_the_start(path: Path) -> Path:
    return outside(path, "weights.bin", offset=-80)


@hostile("damaged weight 'fc'")
def data_at_no_number(path: Path) -> Path:
    proto_path = outside(path, "weights.bin", offset=0)
    proto = onnx.load(str(proto_path), load_external_data=False)
    proto.graph.initializer[2].external_data[1].value = "9" * 5000
    return write(path, proto)


@hostile("has 3.0 GiB of weights beside it; expected 2 GiB at most")
def three_gigabytes_beside_it(path: Path) -> Path:
    with (path.parent / "weights.bin").open("wb") as file:
        file.truncate(3 << 30)
    return outside(path, "weights.bin", write_data=False)


@hostile("keeps weights in 'folder', which is no file")
def data_that_is_a_folder(path: Path) -> Path:
    (path.parent / "folder").mkdir()
    return outside(path, "folder")


# what no gradient is written for


@hostile(r"is quantised \('DequantizeLinear', node 'dq'\); give the float model: dk-export --precision int8 quantises it")
def int8_nodes(path: Path) -> Path:
    extra = [
        helper.make_node("QuantizeLinear", ["relu", "s"], ["q"], "q"),
        helper.make_node("DequantizeLinear", ["q", "s"], ["features"], "dq"),
    ]
    proto = classifier(extra=extra, initializers=weights(s=np.float32(0.1)))
    del proto.graph.node[2]
    proto.graph.input.append(helper.make_tensor_value_info("q", TensorProto.UINT8, [1, 4, 8, 8]))
    return write(path, proto)


@hostile("is quantised .'QLinearAdd'")
def int8_of_a_runtime(path: Path) -> Path:
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    extra = [helper.make_node("QLinearAdd", ["relu", "relu"], ["features"], "add", domain="com.microsoft")]
    return write(path, classifier(extra=extra, opset_imports=imports))


@hostile(r"has 'FusedConv' \(node 'fused'\) of 'com.microsoft'; expected ONNX's own operators alone")
def operators_of_a_runtime(path: Path) -> Path:
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    extra = [helper.make_node("FusedConv", ["relu", "w2"], ["features"], "fused", domain="com.microsoft")]
    return write(path, classifier(extra=extra, opset_imports=imports, initializers=weights(w2=random(4, 4, 1, 1))))


@hostile("of 'ai.onnx.ml'")
def trees(path: Path) -> Path:
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    extra = [helper.make_node("Scaler", ["relu"], ["features"], "scaler", domain="ai.onnx.ml")]
    return write(path, classifier(extra=extra, opset_imports=imports))


@hostile(r"has control flow: 'Loop' \(node 'loop'\)")
def a_loop(path: Path) -> Path:
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["c2"]), helper.make_node("Relu", ["v"], ["v2"])],
        "body",
        [
            helper.make_tensor_value_info("i", INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", FLOAT, None),
        ],
        [helper.make_tensor_value_info("c2", TensorProto.BOOL, []), helper.make_tensor_value_info("v2", FLOAT, None)],
    )
    extra = [helper.make_node("Loop", ["n", "", "relu"], ["features"], "loop", body=body)]
    return write(path, classifier(extra=extra, initializers=weights(n=np.int64(1 << 40))))


@hostile(r"'If' \(node 'if'\) chooses while the network runs")
def a_choice(path: Path) -> Path:
    then = helper.make_graph(
        [helper.make_node("Relu", ["relu"], ["a"])], "t", [], [helper.make_tensor_value_info("a", FLOAT, [1, 4, 8, 8])]
    )
    other = helper.make_graph(
        [helper.make_node("Neg", ["relu"], ["n"])], "e", [], [helper.make_tensor_value_info("n", FLOAT, [1, 4, 8, 8])]
    )
    extra = [
        helper.make_node("ReduceMax", ["relu"], ["top"], keepdims=0),
        helper.make_node("Greater", ["top", "zero"], ["yes"]),
        helper.make_node("If", ["yes"], ["features"], "if", then_branch=then, else_branch=other),
    ]
    return write(path, classifier(extra=extra, initializers=weights(zero=np.float32(0))))


@hostile("lists of tensors: 'SequenceConstruct'")
def lists(path: Path) -> Path:
    extra = [
        helper.make_node("SequenceConstruct", ["relu", "relu"], ["s"], "s"),
        helper.make_node("ConcatFromSequence", ["s"], ["features"], axis=2),
    ]
    return write(path, classifier(extra=extra))


@hostile("draws random numbers: 'RandomNormalLike'")
def noise(path: Path) -> Path:
    extra = [helper.make_node("RandomNormalLike", ["relu"], ["n"]), helper.make_node("Add", ["relu", "n"], ["features"])]
    return write(path, classifier(extra=extra))


@hostile("Dropout .* drops values; expected a network in evaluation mode")
def dropout_in_training(path: Path) -> Path:
    extra = [helper.make_node("Dropout", ["relu", "half", "yes"], ["features"])]
    return write(path, classifier(extra=extra, initializers=weights(half=np.float32(0.5), yes=np.array(True))))


@hostile("evaluation mode")
def batch_norm_in_training(path: Path) -> Path:
    extra = [helper.make_node("BatchNormalization", ["relu", "s", "s", "s", "s"], ["features", "m", "v"], "bn", training_mode=1)]
    return write(path, classifier(extra=extra, initializers=weights(s=np.ones(4, np.float32))))


@hostile("of opset 99; expected one from 11 to")
def a_future_opset(path: Path) -> Path:
    return write(path, classifier(opset_imports=[helper.make_opsetid("", 99)]))


@hostile("of ONNX's format 99")
def a_future_format(path: Path) -> Path:
    return write(path, classifier(ir_version=99))


@hostile("of opset none")
def no_opset(path: Path) -> Path:
    proto = classifier()
    del proto.opset_import[:]
    return write(path, proto)


@hostile("is of opset 1, which cannot be raised to 18; export it with opset 18: No Adapter From Version .1 for Pad")
def an_opset_too_old(path: Path) -> Path:
    nodes = [helper.make_node("Pad", ["x"], ["y"], "pad", paddings=[0, 0, 1, 1, 0, 0, 1, 1])]
    return write(path, model(nodes, {"x": (FLOAT, [1, 3, 8, 8])}, {"y": (FLOAT, [1, 3, 10, 10])}, opset=1))


@hostile("written by dk-export")
def what_dk_export_wrote(path: Path) -> Path:
    return write(path, classifier(metadata={"dkcam.spec": "{}"}))


# inputs


@hostile(r"has 2 inputs: 'ids' INT64 \[1,128\], 'mask' INT64 \[\?,128\]; expected one picture, float32 or uint8 \[B,3,H,W\] or \[B,H,W,3\]")
def a_network_of_text(path: Path) -> Path:
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["t"]),
        helper.make_node("Gather", ["table", "mask"], ["m"]),
        helper.make_node("Add", ["t", "m"], ["y"]),
    ]
    inputs = {"ids": (INT64, [1, 128]), "mask": (INT64, ["n", 128])}
    return write(path, model(nodes, inputs, {"y": (FLOAT, None)}, weights(table=random(10, 4))))


@hostile(r"takes 'wave' FLOAT \[1,1,16000\], which is no picture; expected one picture")
def a_network_of_sound(path: Path) -> Path:
    nodes = [helper.make_node("Conv", ["wave", "w"], ["y"])]
    return write(path, model(nodes, {"wave": (FLOAT, [1, 1, 16000])}, {"y": (FLOAT, None)}, weights(w=random(4, 1, 9))))


@hostile(r"takes 'volume' FLOAT \[1,1,16,16,16\], which is no picture")
def a_network_of_volumes(path: Path) -> Path:
    nodes = [helper.make_node("Conv", ["volume", "w"], ["y"])]
    return write(path, model(nodes, {"volume": (FLOAT, [1, 1, 16, 16, 16])}, {"y": (FLOAT, None)}, weights(w=random(4, 1, 3, 3, 3))))


@hostile(r"takes 'x' FLOAT \[1,12,8,8\], which is no picture")
def two_frames_of_yuv(path: Path) -> Path:
    return write(path, classifier((1, 12, 8, 8)))


@hostile("takes 'x' FLOAT of unknown rank, which is no picture")
def an_input_of_no_shape(path: Path) -> Path:
    proto = classifier()
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    return write(path, proto)


@hostile("has 0 inputs: none that is read")
def no_input(path: Path) -> Path:
    return write(path, model([helper.make_node("Relu", ["a"], ["b"])], {}, {"b": (FLOAT, [1])}, weights(a=random(1))))


@hostile("leaves the height and width of its picture free; give --size HxW")
def a_free_size(path: Path) -> Path:
    return write(path, classifier(("n", 3, "h", "w")))


@hostile("pictures of 9000x9000")
def a_huge_picture(path: Path) -> Path:
    return write(path, classifier((1, 3, 9000, 9000)))


# bombs: constants that grow


def bomb(path: Path, nodes: list[onnx.NodeProto], last: str, initializers: list[onnx.TensorProto]) -> Path:
    """The constant ``last`` is added to the features."""
    return write(path, classifier(extra=[*nodes, helper.make_node("Add", ["relu", last], ["features"], "add")], initializers=initializers))


@hostile("expected 536870912 values at most")
def a_constant_of_ten_billion(path: Path) -> Path:
    return bomb(path, [helper.make_node("ConstantOfShape", ["s"], ["c"], "c")], "c", weights(s=np.array([100_000, 100_000])))


@hostile("expected 536870912 values at most")
def tiles_of_tiles(path: Path) -> Path:
    nodes = [helper.make_node("Tile", [f"t{i}" if i else "one", "many"], [f"t{i + 1}"], f"tile{i}") for i in range(6)]
    return bomb(path, nodes, "t6", weights(one=np.ones(10, np.float32), many=np.array([50])))


@hostile("expected 536870912 values at most")
def a_list_doubled_forty_times(path: Path) -> Path:
    nodes = [helper.make_node("Concat", [f"c{i}" if i else "one"] * 2, [f"c{i + 1}"], f"cat{i}", axis=0) for i in range(40)]
    return bomb(path, nodes, "c40", weights(one=np.ones(10, np.float32)))


@hostile("expected 536870912 values at most")
def a_range_without_end(path: Path) -> Path:
    nodes = [helper.make_node("Range", ["zero", "far", "one"], ["r"], "range")]
    return bomb(path, nodes, "r", weights(zero=np.int64(0), far=np.int64(1 << 40), one=np.int64(1)))


@hostile("cannot take")
def many_constants_below_the_bound(path: Path) -> Path:
    """400 constants of 48 MiB would be 19 GB; their sum fits no features, so that the file is refused in the end."""
    nodes = [helper.make_node("ConstantOfShape", ["s"], [f"c{i}"], f"c{i}") for i in range(400)]
    nodes += [helper.make_node("Sum", [f"c{i}" for i in range(400)], ["c"], "sum")]
    return bomb(path, nodes, "c", weights(s=np.array([12 << 20])))


@hostile("cannot take")
def a_thousand_products_of_matrices(path: Path) -> Path:
    nodes = [helper.make_node("MatMul", [f"m{i}" if i else "m", "m"], [f"m{i + 1}"], f"m{i}") for i in range(1000)]
    return bomb(path, nodes, "m1000", weights(m=random(600, 600)))


@hostile("gives 100000 axes")
def a_hundred_thousand_axes(path: Path) -> Path:
    return bomb(path, [helper.make_node("Reshape", ["one", "to"], ["r"], "r")], "r", weights(one=random(1), to=np.ones(100_000, np.int64)))


@hostile("cannot take|expected 536870912")
def a_picture_padded_to_the_moon(path: Path) -> Path:
    extra = [helper.make_node("Pad", ["relu", "by"], ["features"], "pad")]
    return write(path, classifier(extra=extra, initializers=weights(by=np.array([0, 0, 1 << 30, 1 << 30] * 2))))


@hostile("has 400001 nodes once what is made of others is written out; expected 20000 at most")
def too_many_composites(path: Path) -> Path:
    nodes = [helper.make_node("Reshape", ["x", "to"], ["v0"], "r")]
    nodes += [helper.make_node("Attention", [f"v{i}"] * 3, [f"v{i + 1}"], q_num_heads=1, kv_num_heads=1) for i in range(4000)]
    proto = model(nodes, {"x": (FLOAT, [1, 3, 4, 4])}, {"v4000": (FLOAT, None)}, weights(to=np.array([1, 3, 16])), opset=23, ir_version=11)
    return write(path, proto)


@hostile(r"reads 'a\\n\\x1b\]0;evil")
def names_that_terminals_obey(path: Path) -> Path:
    proto = classifier()
    proto.graph.node[1].input[0] = "a\n\x1b]0;evil" + "x" * 100_000
    return write(path, proto)
