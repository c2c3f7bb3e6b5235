"""Networks of Keras, written by tf2onnx: pictures with channels last, as most networks from TensorFlow have them.

python docs/zoo/from_tensorflow.py --zoo DIR        # in an environment with tensorflow-cpu and tf2onnx; dkcam is not needed
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tensorflow as tf
import tf2onnx
from tensorflow.keras import Model, layers


def road(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A crude picture, float32 [height, width, 3] of 0..255: sky, road, blobs."""
    rows = np.linspace(0, 1, height)[:, None, None]
    sky, ground = rng.uniform(80, 255, 3), rng.uniform(20, 140, 3)
    image = np.where(rows < rng.uniform(0.3, 0.6), sky, ground) * np.ones((height, width, 1))
    for _ in range(12):
        y, x = rng.integers(0, height - 8), rng.integers(0, width - 8)
        image[y : y + rng.integers(6, height // 2), x : x + rng.integers(6, width // 3)] = rng.uniform(0, 255, 3)
    return np.clip(image + rng.normal(0, 8, image.shape), 0, 255).astype(np.float32)


def sound(model: Model, images: np.ndarray) -> None:
    """Batch-norms with the statistics of the pictures; a last layer whose outputs differ from picture to picture."""
    norms = [layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)]
    for number in range(4):
        for norm in norms:
            norm.momentum = number / (number + 1)  # the mean over all batches
        model(images[number * 4 : number * 4 + 4], training=True)
    last = [layer for layer in model.layers if layer.weights and not isinstance(layer, layers.BatchNormalization)][-1]
    given = Model(model.inputs, last.input)(images, training=False).numpy()
    kernel = last.get_weights()[0]
    values = given.reshape(-1, given.shape[-1]) @ kernel.reshape(-1, kernel.shape[-1])
    scale = 2.0 / np.maximum(values.std(0), 1e-6)
    last.set_weights([kernel * scale, -values.mean(0) * scale])


def norm_relu(x: Any) -> Any:
    return layers.ReLU()(layers.BatchNormalization()(x))


def unet() -> Model:
    """Enlarged by repeating, classes as maps with Softmax."""
    image = layers.Input((128, 128, 3))
    x, kept = image, []
    for width in (16, 32, 64):
        x = norm_relu(layers.Conv2D(width, 3, padding="same", use_bias=False)(x))
        kept.append(x)
        x = layers.MaxPooling2D()(x)
    x = norm_relu(layers.Conv2D(96, 3, padding="same", use_bias=False)(x))
    for width, side in zip((64, 32, 16), kept[::-1], strict=True):
        x = layers.Concatenate()([layers.UpSampling2D()(x), side])
        x = norm_relu(layers.Conv2D(width, 3, padding="same", use_bias=False)(x))
    return Model(image, layers.Conv2D(8, 1, activation="softmax")(x))


def pilotnet() -> Model:
    image = layers.Input((66, 200, 3))
    x = image
    for width, kernel, stride in ((24, 5, 2), (36, 5, 2), (48, 5, 2), (64, 3, 1), (64, 3, 1)):
        x = layers.Conv2D(width, kernel, stride, activation="elu")(x)
    x = layers.Flatten()(x)
    for width in (100, 50, 10):
        x = layers.Dense(width, activation="elu")(x)
    return Model(image, layers.Dense(1)(x))


MODELS = {
    "keras-mobilenetv2": (lambda: tf.keras.applications.MobileNetV2(weights=None), lambda image: image / 127.5 - 1),
    "keras-efficientnetb0": (lambda: tf.keras.applications.EfficientNetB0(weights=None), lambda image: image),
    "keras-unet": (unet, lambda image: image / 255),
    "keras-pilotnet": (pilotnet, lambda image: image / 127.5 - 1),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--zoo", type=Path, default=Path("zoo"))
    folder = parser.parse_args().zoo / "onnx"
    folder.mkdir(parents=True, exist_ok=True)
    for name, (make, way) in MODELS.items():
        path = folder / f"{name}.onnx"
        if path.exists():
            continue
        tf.keras.utils.set_random_seed(0)
        model = make()
        height, width = model.input_shape[1:3]
        rng = np.random.default_rng(0)
        sound(model, way(np.stack([road(rng, height, width) for _ in range(16)])))
        signature = (tf.TensorSpec((1, height, width, 3), tf.float32, name="input"),)
        run = tf.function(lambda x, model=model: model(x, training=False), input_signature=signature)
        written, _ = tf2onnx.convert.from_function(run, input_signature=signature, opset=15)
        concrete = run.get_concrete_function()
        for value, constant in zip(concrete.inputs[1:], concrete.captured_inputs, strict=True):  # constants that tf2onnx leaves as inputs
            for given in [one for one in written.graph.input if one.name == value.name]:
                written.graph.input.remove(given)
                written.graph.initializer.append(onnx.numpy_helper.from_array(constant.numpy(), given.name))
        onnx.save(written, path)
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
