"""Einsum, whose cotangents are Einsums."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from dkcam.export.derivative.cotangent import Cotangent, same
from dkcam.export.derivative.rule import Step, rule
from dkcam.export.writer import Dimension, Writer, rank_of, shape_of


@dataclass(frozen=True)
class Term:
    """An operand with a letter for each of its axes. ``repeated``: letters of axes of 1 that an ellipsis broadcasts."""

    value: ir.Value
    letters: str
    repeated: str = ""

    @property
    def kept(self) -> str:
        return "".join(letter for letter in self.letters if letter not in self.repeated)

    def squeezed(self, writer: Writer) -> ir.Value:
        """Without the axes that are repeated."""
        return writer.squeeze(self.value, *(axis for axis, letter in enumerate(self.letters) if letter in self.repeated))


@rule("Einsum")
def einsum(writer: Writer, step: Step, cotangents: Sequence[Cotangent | None]) -> Mapping[int, Cotangent]:
    """Of one operand: the sum over all letters but its own of the cotangent times the other operands.

    A letter along which the cotangent is lazy is left out of it. A letter that then stands nowhere but in the operand is one
    along which its cotangent is even.
    """
    (cotangent,) = cotangents
    assert cotangent is not None
    terms, output = parsed(step)
    whole = cotangent.whole(writer)
    even = [axis for axis in range(len(output)) if shape_of(whole)[axis + 1] == 1]
    given = writer.squeeze(whole, *(axis + 1 for axis in even))
    lead = next(letter for letter in string.ascii_lowercase if letter not in output + "".join(term.letters for term in terms))
    given_letters = "".join(letter for axis, letter in enumerate(output) if axis not in even)
    result = {}
    for index, term in enumerate(terms):
        if not step.active[index]:
            continue
        if len(set(term.letters)) < len(term.letters):
            raise step.refuse(f"it takes a diagonal of input {index}")
        others = [other for at, other in enumerate(terms) if at != index]
        have = given_letters + "".join(other.kept for other in others)
        wanted = "".join(letter for letter in term.kept if letter in have)
        equation = ",".join([lead + given_letters, *(other.kept for other in others)]) + "->" + lead + wanted
        product = writer.op("Einsum", given, *(other.squeezed(writer) for other in others), equation=equation)
        missing = [axis + 1 for axis, letter in enumerate(term.letters) if letter not in wanted]
        result[index] = Cotangent(writer.unsqueeze(product, *missing))
    return result


def parsed(step: Step) -> tuple[list[Term], str]:
    """Terms and the output's letters, ellipses being spelled out. Errors: letters of two sizes, too many letters."""
    equation = step.attribute("equation", "").replace(" ", "")
    left, arrow, right = equation.partition("->")
    texts = left.split(",")
    values = [step.input(index) for index in range(len(texts))]
    unused = [letter for letter in string.ascii_lowercase if letter not in equation]
    hidden = [rank_of(value) - len(text.replace("...", "")) if "..." in text else 0 for text, value in zip(texts, values, strict=True)]
    if len(unused) <= max(hidden):  # one more stands for K
        raise step.refuse("it uses too many letters")
    ellipsis = "".join(unused[: max(hidden)])
    spelled = [text.replace("...", ellipsis[len(ellipsis) - count :]) for text, count in zip(texts, hidden, strict=True)]
    if not arrow:
        once = sorted(letter for letter in set(left) - set(",.") if left.count(letter) == 1)
        right = ("..." if "..." in left else "") + "".join(once)
    sizes: dict[str, Dimension] = {}
    for letters, value in zip(spelled, values, strict=True):
        for letter, size in zip(letters, shape_of(value), strict=True):
            if letter in ellipsis and (size == 1 or sizes.get(letter, 1) == 1):
                sizes[letter] = sizes.get(letter, 1) if size == 1 else size
            elif not same(sizes.setdefault(letter, size), size):
                raise step.refuse(f"{letter!r} has sizes {sizes[letter]} and {size}")
    terms = []
    for letters, value in zip(spelled, values, strict=True):
        ones = zip(letters, shape_of(value), strict=True)
        terms.append(Term(value, letters, "".join(c for c, size in ones if c in ellipsis and size == 1 and sizes[c] != 1)))
    return terms, right.replace("...", ellipsis)
