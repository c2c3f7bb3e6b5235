"""An OpenCV loop: python opencv_loop.py VIDEO OUT.mp4 [MODEL]. Writes the overlay, prints the class where it changes."""

from __future__ import annotations

import sys

import cv2

import dkcam


def main(video: str, out: str, model: str | None = None) -> None:
    explainer = dkcam.load(model)
    capture = cv2.VideoCapture(video)
    if not capture.isOpened():
        sys.exit(f"error: {video} cannot be opened; expected a video")
    rate = capture.get(cv2.CAP_PROP_FPS) or 25.0
    writer: cv2.VideoWriter | None = None
    before = ""
    while True:
        more, frame = capture.read()  # uint8 [H, W, 3] BGR
        if not more:
            break
        explanation = explainer(frame)
        picture = explanation.overlay(frame)
        if writer is None:
            size = (picture.shape[1], picture.shape[0])
            writer = cv2.VideoWriter(out, cv2.VideoWriter.fourcc(*"mp4v"), rate, size)
        writer.write(picture)
        top = explanation.top()[0]
        if top.label != before:
            print(f"{capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3:7.2f} s  {top.label}  {top.probability:.0%}  heat at {explanation.peak()}")
            before = top.label
    if writer is not None:
        writer.release()


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit("usage: python opencv_loop.py VIDEO OUT.mp4 [MODEL]")
    try:
        main(*sys.argv[1:])
    except dkcam.DkcamError as error:
        sys.exit(f"error: {error}")
