"""What no gradient is written for, refused by name, before any work is done.

Names and texts of the file are shown with control characters escaped, and cut.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import onnx

from dkcam.errors import ExportError
from dkcam.printable import printable

LONGEST = 300  # characters of a message
LONGEST_NAME = 48

INT8 = frozenset(
    {
        "ConvInteger",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "MatMulInteger",
        "QLinearConv",
        "QLinearMatMul",
        "QuantizeLinear",
    }
)
INT8_STARTS = ("QLinear", "Quantize", "Dequantize", "DynamicQuantize", "QAttention", "QGemm")  # in the domains of runtimes
CONTROL = frozenset({"Loop", "Scan", "SequenceMap"})
SEQUENCES = frozenset(
    {
        "ConcatFromSequence",
        "Optional",
        "OptionalGetElement",
        "OptionalHasElement",
        "SequenceAt",
        "SequenceConstruct",
        "SequenceEmpty",
        "SequenceErase",
        "SequenceInsert",
        "SequenceLength",
        "SplitToSequence",
    }
)
RANDOM = frozenset({"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"})
TEXT = frozenset({"RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit", "TfIdfVectorizer"})
# made of other operators, by ONNX's own definition of them, of at most so many; what has a rule and what runtimes know better is not
COMPOSITES = {
    "Attention": 100,
    "CastLike": 1,
    "CenterCropPad": 40,
    "MeanVarianceNormalization": 16,
    "NegativeLogLikelihoodLoss": 40,
    "RMSNormalization": 16,
    "RotaryEmbedding": 40,
    "SoftmaxCrossEntropyLoss": 60,
}
NOISE = re.compile(r"^(\[\w+\]\s*|\S+:\d+: \w+: Assertion `[^`]*` failed: )+")  # tags and places in C++ before what is said
STANDARD = ("", "ai.onnx")


def refusal(message: str, tail: str = "") -> ExportError:
    """One line of at most 300 characters. tail: the end of the message, which is not cut off."""
    text, end = printable(message), printable(tail)
    return ExportError(text + end if len(text) + len(end) <= LONGEST else f"{text[: LONGEST - len(end) - 1]}…{end}")


def shown(name: object, longest: int = LONGEST_NAME) -> str:
    """A name of the file for a message."""
    text = printable(name)
    return repr(text if len(text) <= longest else f"{text[: longest - 1]}…").replace("\\\\", "\\")


def first_line(error: BaseException, longest: int = 120) -> str:
    """What a library says, for the end of a message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = NOISE.sub("", printable(lines[0] if lines else type(error).__name__))
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def nodes_of(graph: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.NodeProto]:
    """Every node, those of branches and loops as well."""
    waiting: list[onnx.GraphProto | onnx.FunctionProto] = [graph]
    while waiting:
        for node in waiting.pop().node:
            yield node
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    waiting.append(attribute.g)
                waiting += attribute.graphs


def check_operators(proto: onnx.ModelProto, source: str) -> None:
    """Errors: ExportError for int8 files, other domains, control flow, sequences, random numbers, text, training."""
    functions = {(function.domain, function.name, function.overload) for function in proto.functions}
    nodes = [node for part in (proto.graph, *proto.functions) for node in nodes_of(part)]
    for node in nodes:
        foreign = node.domain not in STANDARD and (node.domain, node.op_type, node.overload) not in functions
        if node.op_type in INT8 or (foreign and node.op_type.startswith(INT8_STARTS)):
            raise refusal(
                f"{source} is quantised ({shown(node.op_type)}, node {shown(node.name)}); give the float model: "
                "dk-export --precision int8 quantises it"
            )
    for node in nodes:
        where = f"{shown(node.op_type)} (node {shown(node.name)})"
        if (node.domain, node.op_type, node.overload) in functions:
            continue
        if node.domain not in STANDARD:
            raise refusal(
                f"{source} has {where} of {shown(node.domain)}; expected ONNX's own operators alone; export it again without "
                "a runtime's optimisations and plug-ins"
            )
        kind = node.op_type
        if kind in CONTROL:
            raise refusal(f"{source} has control flow: {where}; expected a network without loops; export it unrolled")
        if kind in SEQUENCES:
            raise refusal(f"{source} works on lists of tensors: {where}; expected tensors alone; export it with fixed sizes")
        if kind in RANDOM:
            raise refusal(f"{source} draws random numbers: {where}; expected a network in evaluation mode; export it after model.eval()")
        if kind == "BatchNormalization" and any(one.name == "training_mode" and one.i for one in node.attribute):
            raise refusal(f"{source} has {where} in training mode; expected a network in evaluation mode; export it after model.eval()")
        if kind in TEXT:
            raise refusal(f"{source} works on text: {where}; expected a network of pictures")


def check_calls(proto: onnx.ModelProto, source: str, most: int) -> None:
    """Errors: ExportError where functions call themselves, or where calls and composites written out have more than ``most`` nodes."""
    bodies = {(f.domain, f.name, f.overload): f for f in proto.functions}
    costs: dict[tuple[str, str, str], int] = {}
    open_calls: list[tuple[str, str, str]] = []

    def cost(nodes: Iterator[onnx.NodeProto]) -> int:
        total = 0
        for node in nodes:
            key = (node.domain, node.op_type, node.overload)
            if key not in bodies:
                total += COMPOSITES.get(node.op_type, 1)
                continue
            if key not in costs:
                if key in open_calls or len(open_calls) > 100:
                    raise refusal(f"{source} has the function {shown(node.op_type)}, which calls itself; expected a network without loops")
                open_calls.append(key)
                costs[key] = cost(nodes_of(bodies[key]))
                open_calls.pop()
            total += costs[key]
        return total

    total = cost(nodes_of(proto.graph))
    if total > most:
        raise refusal(f"{source} has {total} nodes once what is made of others is written out; expected {most} at most")
