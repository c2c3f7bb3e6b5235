"""The table of networks: what each is, where it comes from, and how its file is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo import make
from zoo.detectors import SSD, CenterNet, Detr, Retina, YoloX
from zoo.own import FCN, AlexNet, DeepLab, PilotNet, PooledRegressor, ShuffleNet, SignNet, SignTransformer, SqueezeNet, UNet

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
UNIT = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


@dataclass(frozen=True, eq=False)
class Network:
    """source: of the architecture. weights: "random" or "real". made: the torch module or None, and the file at the path.

    size: (height, width). task, decode, outputs: as ``--task``, ``--decode`` and ``--outputs`` take them where the file alone cannot tell,
    "" where it should. expected: the task it has. way: mean, std … of the picture, as flags of the same names. exporter: what wrote the file.
    """

    name: str
    family: str
    source: str
    size: tuple[int, int]
    expected: str
    make: Callable[[Path], None]
    module: Callable[[], Any] | None = None
    weights: str = "random"
    exporter: str = ""
    task: str = "auto"
    decode: str = ""
    outputs: tuple[str, ...] = ()
    way: dict[str, Any] | None = None
    note: str = ""


def _timm(family: str, model: str, size: int = 224, how: str = "script", opset: int = 17, **made: Any) -> Network:
    """how: "script" for torch's exporter before 2.9, "dynamo" for today's, with "-batch" or "-size" for free axes."""
    name = model + {"script": "", "dynamo": "-dynamo"}.get(how, "-" + how) + (f"-opset{opset}" if opset != 17 else "")

    def module() -> Any:
        return make.timm_module(model, size, **made)

    exporter = f"torch {'dynamo' if how.startswith('dynamo') else 'TorchScript'}, opset {18 if how.startswith('dynamo') else opset}"
    return Network(
        name, family, "timm", (size, size), "classify", lambda path: make.export(module(), (size, size), path, how, opset), module,
        exporter=exporter + (", free " + how.rpartition("-")[2] if "-" in how else ""), way=IMAGENET,
    )  # fmt: skip


def _own(
    name: str, family: str, kind: Callable[..., Any], size: tuple[int, int], expected: str, how: str = "script", **rest: Any
) -> Network:
    arguments = rest.pop("arguments", {})

    def module() -> Any:
        return make.own_module(kind, size, expected, arguments)

    way = rest.pop("way", IMAGENET)
    exporter = f"torch {'dynamo, opset 18' if how.startswith('dynamo') else 'TorchScript, opset 17'}"
    return Network(
        name, family, "own code", size, expected, lambda path: make.export(module(), size, path, how, 17), module, exporter=exporter, way=way, **rest
    )  # fmt: skip


def _yolo(name: str, family: str, config: str, side: int = 320, expected: str = "detect", *, dynamic: bool = False, **rest: Any) -> Network:
    return Network(
        name, family, "Ultralytics", (side, side), expected,
        lambda path: make.export_yolo(make.yolo_module(config, side), side, path, dynamic),
        (lambda: make.yolo_module(config, side).model) if expected == "classify" else None, exporter="Ultralytics (TorchScript)", way=UNIT, **rest,
    )  # fmt: skip


def _smp(name: str, kind: str, encoder: str, side: int = 256) -> Network:
    def module() -> Any:
        return make.smp_module(kind, encoder, side)

    return Network(
        name, kind, "segmentation-models-pytorch", (side, side), "dense", lambda path: make.export(module(), (side, side), path, "script", 17),
        module, exporter="torch TorchScript, opset 17", way=IMAGENET,
    )  # fmt: skip


def _shipped(
    name: str, family: str, source: str, find: Callable[[Path], None], size: tuple[int, int], expected: str, **rest: Any
) -> Network:
    return Network(name, family, source, size, expected, find, **{"weights": "real", **rest})


CLASSIFIERS = [
    _timm("ResNet", "resnet18", zero_init_last=False),
    _timm("ResNet", "resnet18", how="dynamo", zero_init_last=False),
    _timm("ResNet", "resnet18", how="script-size", zero_init_last=False),
    _timm("ResNet", "resnet50", how="dynamo-batch", zero_init_last=False),
    _timm("ResNet", "wide_resnet50_2", zero_init_last=False),
    _timm("ResNet", "resnext50_32x4d", zero_init_last=False),
    _timm("ResNet", "res2net50_26w_4s"),
    _timm("ResNeSt", "resnest14d"),
    _timm("RegNet", "regnetx_002", opset=11),
    _timm("RegNet", "regnety_004"),
    _timm("DenseNet", "densenet121"),
    _timm("VGG", "vgg16_bn"),
    _timm("RepVGG", "repvgg_a0"),
    _timm("Inception", "inception_v3", 299),
    _timm("Xception", "xception41", 299),
    _timm("HRNet", "hrnet_w18_small"),
    _timm("NFNet", "dm_nfnet_f0", 192),
    _timm("DPN", "dpn68"),
    _timm("DLA", "dla34"),
    _timm("VoVNet", "ese_vovnet19b_dw"),
    _timm("CSPNet", "cspdarknet53", 256),
    _timm("MobileNet", "mobilenetv2_100", how="script-batch"),
    _timm("MobileNet", "mobilenetv3_large_100"),
    _timm("MobileNet", "mobilenetv3_large_100", how="dynamo"),
    _timm("MobileNet", "mobilenetv4_conv_small"),
    _timm("MnasNet", "mnasnet_small"),
    _timm("LCNet", "lcnet_050"),
    _timm("EfficientNet", "efficientnet_b0"),
    _timm("EfficientNet", "efficientnet_b0", how="dynamo"),
    _timm("EfficientNet", "tf_efficientnetv2_b0"),
    _timm("GhostNet", "ghostnet_100"),
    _timm("HGNet", "hgnetv2_b0"),
    _timm("ConvNeXt", "convnext_atto", how="script-size"),
    _timm("ConvNeXt", "convnext_tiny"),
    _timm("ConvNeXt", "convnext_tiny", how="dynamo"),
    _timm("InceptionNeXt", "inception_next_atto"),
    _timm("MobileOne", "mobileone_s0"),
    _timm("RepViT", "repvit_m0_9"),
    _timm("StarNet", "starnet_s1"),
    _timm("EdgeNeXt", "edgenext_xx_small", 256),
    _timm("MobileViT", "mobilevit_xxs", 256),
    _timm("FastViT", "fastvit_t8", 256),
    _timm("PoolFormer", "poolformer_s12"),
    _timm("EfficientFormer", "efficientformer_l1"),
    _timm("EfficientViT", "efficientvit_b0"),
    _timm("ViT", "vit_tiny_patch16_224"),
    _timm("ViT", "vit_tiny_patch16_224", how="dynamo"),
    _timm("ViT", "deit_tiny_patch16_224", how="script-batch"),
    _timm("ViT", "beit_base_patch16_224"),
    _timm("ViT", "eva02_tiny_patch14_224", how="dynamo"),
    _timm("Swin", "swin_tiny_patch4_window7_224"),
    _timm("Swin", "swin_tiny_patch4_window7_224", how="dynamo-batch"),
    _timm("Swin", "swinv2_tiny_window8_256", 256),
    _timm("PVT", "pvt_v2_b0"),
    _timm("LeViT", "levit_128s"),
    _timm("MaxViT", "maxvit_nano_rw_256", 256),
    _timm("CoAtNet", "coatnet_nano_rw_224"),
    _timm("Mixer", "mixer_s32_224"),
    _timm("XCiT", "xcit_nano_12_p16_224"),
    _timm("CaiT", "cait_xxs24_224"),
    _timm("GCViT", "gcvit_xxtiny"),
    _timm("DaViT", "davit_tiny"),
    _timm("FocalNet", "focalnet_tiny_srf"),
    _timm("TinyViT", "tiny_vit_5m_224"),
    _timm("Twins", "twins_pcpvt_small"),
    _timm("BoTNet", "botnet26t_256", 256),
    _yolo("yolo11n-cls", "YOLO classifier", "yolo11n-cls", 224, "classify"),
    _own("alexnet", "AlexNet", AlexNet, (224, 224), "classify"),
    _own("squeezenet1_1", "SqueezeNet", SqueezeNet, (224, 224), "classify"),
    _own("shufflenet_v2", "ShuffleNet", ShuffleNet, (224, 224), "classify"),
    _own("sign_stn", "spatial transformer", SignTransformer, (48, 48), "classify"),
    _own("sign_cnn", "small CNN", SignNet, (32, 32), "classify", way=UNIT),
]

DETECTORS = [
    _yolo("yolov3-tiny", "YOLOv3", "yolov3-tiny"),
    _yolo("yolov5nu", "YOLOv5", "yolov5n"),
    Network(
        "yolov5n",
        "YOLOv5",
        "Ultralytics, own head",
        (320, 320),
        "detect",
        lambda path: make.export(make.yolov5_module(320), (320, 320), path, "script", 17),
        None,
        exporter="torch TorchScript, opset 17",
        way=UNIT,
    ),  # fmt: skip
    _yolo("yolov8n", "YOLOv8", "yolov8n"),
    _yolo("yolov8n-640", "YOLOv8", "yolov8n", 640),
    _yolo("yolov8n-free", "YOLOv8", "yolov8n", dynamic=True),
    _yolo("yolov8n-seg", "YOLOv8", "yolov8n-seg"),
    _yolo("yolov8n-pose", "YOLOv8", "yolov8n-pose"),
    _yolo("yolov9t", "YOLOv9", "yolov9t"),
    _yolo("yolov10n", "YOLOv10", "yolov10n"),
    _yolo("yolo11n", "YOLO11", "yolo11n"),
    _yolo("yolo11n-640", "YOLO11", "yolo11n", 640),
    _yolo("yolo12n", "YOLO12", "yolo12n"),
    _yolo("yolo26n", "YOLO26", "yolo26n"),
    _yolo("rtdetr-resnet50", "RT-DETR", "rtdetr-resnet50"),
    _own("yolox", "YOLOX", YoloX, (320, 320), "detect", way=UNIT),
    _own("yolox-cells", "YOLOX", YoloX, (320, 320), "detect", arguments={"decoded": False}, way=UNIT, decode="yolox"),
    _own("retinanet", "RetinaNet", Retina, (320, 320), "detect"),
    _own("retinanet-dynamo", "RetinaNet", Retina, (320, 320), "detect", "dynamo"),
    _own("ssd", "SSD", SSD, (300, 300), "detect"),
    _own("detr", "DETR", Detr, (320, 320), "detect"),
    _own("detr-dynamo", "DETR", Detr, (320, 320), "detect", "dynamo"),
    _own("centernet", "CenterNet", CenterNet, (320, 320), "dense", note="explained as a dense map of centres"),
]

DENSE = [
    _own("unet", "U-Net", UNet, (256, 256), "dense"),
    _own("unet-dynamo", "U-Net", UNet, (256, 256), "dense", "dynamo"),
    _own("deeplab", "DeepLab", DeepLab, (256, 256), "dense"),
    _own("fcn", "FCN", FCN, (256, 256), "dense"),
    _smp("smp-unet-mobilenetv2", "Unet", "mobilenet_v2"),
    _smp("smp-deeplabv3plus-resnet18", "DeepLabV3Plus", "resnet18"),
    _smp("smp-fpn-efficientnet_b0", "FPN", "efficientnet-b0"),
    _smp("smp-segformer-mit_b0", "Segformer", "mit_b0"),
    _smp("smp-pspnet-resnet18", "PSPNet", "resnet18"),
    _yolo("yolo26n-sem", "YOLO26", "yolo26n-sem", 320, "dense"),
]

REGRESSORS = [
    _own("pilotnet", "PilotNet", PilotNet, (66, 200), "regress", way={"mean": (0.5,) * 3, "std": (0.5,) * 3}),
    _own("pilotnet-dynamo", "PilotNet", PilotNet, (66, 200), "regress", "dynamo", way={"mean": (0.5,) * 3, "std": (0.5,) * 3}),
    _own("pooled_regressor", "small CNN", PooledRegressor, (128, 256), "regress", task="regress"),
]

TENSORFLOW = [
    _shipped("keras-mobilenetv2", "MobileNet", "Keras", make.tensorflow, (224, 224), "classify", weights="random", exporter="tf2onnx", way={"mean": (0.5,) * 3, "std": (0.5,) * 3}),
    _shipped("keras-efficientnetb0", "EfficientNet", "Keras", make.tensorflow, (224, 224), "classify", weights="random", exporter="tf2onnx", note="its preprocessing is in the file"),
    _shipped("keras-unet", "U-Net", "Keras", make.tensorflow, (128, 128), "dense", weights="random", exporter="tf2onnx", way=UNIT),
    _shipped("keras-pilotnet", "PilotNet", "Keras", make.tensorflow, (66, 200), "regress", weights="random", exporter="tf2onnx", way={"mean": (0.5,) * 3, "std": (0.5,) * 3}),
]  # fmt: skip

HALF = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "channels": "bgr"}
SHIPPED = [
    *(
        _shipped(f"onnx-{name}", family, "onnx package", make.filled(name), (224, 224), "classify", weights="filled at random", exporter="Caffe2", note="IR of 2017, opset 9; its package ships constants for weights: filled at random")
        for name, family in (
            ("bvlc_alexnet", "AlexNet"), ("densenet121", "DenseNet"), ("inception_v1", "Inception"), ("inception_v2", "Inception"),
            ("resnet50", "ResNet"), ("shufflenet", "ShuffleNet"), ("squeezenet", "SqueezeNet"), ("vgg19", "VGG"), ("zfnet512", "ZFNet"),
        )
    ),
    _shipped("rapidocr-det", "PP-OCR detector", "rapidocr", make.shipped("rapidocr", "models/PP-OCRv6_det_small.onnx"), (320, 320), "dense", exporter="paddle2onnx", way=IMAGENET | {"channels": "bgr"}),
    _shipped("rapidocr-cls", "PP-OCR classifier", "rapidocr", make.shipped("rapidocr", "models/ch_ppocr_mobile_v2.0_cls_mobile.onnx"), (48, 192), "classify", exporter="paddle2onnx", way=HALF),
    _shipped("rapidocr-rec", "PP-OCR recogniser", "rapidocr", make.shipped("rapidocr", "models/PP-OCRv6_rec_small.onnx"), (48, 320), "sequence", exporter="paddle2onnx", way=HALF, note="scores of 6 625 characters at each place along a line"),
    _shipped("ddddocr-det", "YOLOX", "ddddocr", make.shipped("ddddocr", "common_det.onnx"), (416, 416), "detect", exporter="torch", decode="yolox", way={"mean": (0.0,) * 3, "std": (1.0,) * 3, "scale": 1.0, "channels": "bgr"}, note="YOLOX without its decoding"),
    _shipped("ddddocr-rec", "text recogniser", "ddddocr", make.shipped("ddddocr", "common.onnx"), (64, 128), "sequence", exporter="torch", way={"mean": (0.5,), "std": (0.5,)}),
    _shipped("ddddocr-old", "text recogniser", "ddddocr", make.shipped("ddddocr", "common_old.onnx"), (64, 128), "sequence", exporter="torch", way={"mean": (0.5,), "std": (0.5,)}),
]  # fmt: skip

NETWORKS = [*CLASSIFIERS, *DETECTORS, *DENSE, *REGRESSORS, *TENSORFLOW, *SHIPPED]
