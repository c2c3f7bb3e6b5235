"""The table of networks: what each is, where it comes from, and how its file is made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from zoo import make
from zoo.detectors import SSD, CenterNet, Detr, Retina, YoloX
from zoo.networks import IMAGENET, SIGNED, UNIT, Network, from_smp, from_timm, own, shipped, yolo
from zoo.own import FCN, AlexNet, DeepLab, PilotNet, PooledRegressor, ShuffleNet, SignNet, SignTransformer, SqueezeNet, UNet

CLASSIFIERS = [
    from_timm("ResNet", "resnet18", zero_init_last=False),
    from_timm("ResNet", "resnet18", how="dynamo", zero_init_last=False),
    from_timm("ResNet", "resnet18", how="script-size", zero_init_last=False),
    from_timm("ResNet", "resnet50", how="dynamo-batch", zero_init_last=False),
    from_timm("ResNet", "wide_resnet50_2", zero_init_last=False),
    from_timm("ResNet", "resnext50_32x4d", zero_init_last=False),
    from_timm("ResNet", "res2net50_26w_4s"),
    from_timm("ResNeSt", "resnest14d"),
    from_timm("RegNet", "regnetx_002", opset=11),
    from_timm("RegNet", "regnety_004"),
    from_timm("DenseNet", "densenet121"),
    from_timm("VGG", "vgg16_bn"),
    from_timm("RepVGG", "repvgg_a0"),
    from_timm("Inception", "inception_v3", 299),
    from_timm("Xception", "xception41", 299),
    from_timm("HRNet", "hrnet_w18_small"),
    from_timm("NFNet", "dm_nfnet_f0", 192),
    from_timm("DPN", "dpn68"),
    from_timm("DLA", "dla34"),
    from_timm("VoVNet", "ese_vovnet19b_dw"),
    from_timm("CSPNet", "cspdarknet53", 256),
    from_timm("MobileNet", "mobilenetv2_100", how="script-batch"),
    from_timm("MobileNet", "mobilenetv3_large_100"),
    from_timm("MobileNet", "mobilenetv3_large_100", how="dynamo"),
    from_timm("MobileNet", "mobilenetv4_conv_small"),
    from_timm("MnasNet", "mnasnet_small"),
    from_timm("LCNet", "lcnet_050"),
    from_timm("EfficientNet", "efficientnet_b0"),
    from_timm("EfficientNet", "efficientnet_b0", how="dynamo"),
    from_timm("EfficientNet", "tf_efficientnetv2_b0"),
    from_timm("GhostNet", "ghostnet_100"),
    from_timm("HGNet", "hgnetv2_b0"),
    from_timm("ConvNeXt", "convnext_atto", how="script-size"),
    from_timm("ConvNeXt", "convnext_tiny"),
    from_timm("ConvNeXt", "convnext_tiny", how="dynamo"),
    from_timm("InceptionNeXt", "inception_next_atto"),
    from_timm("MobileOne", "mobileone_s0"),
    from_timm("RepViT", "repvit_m0_9"),
    from_timm("StarNet", "starnet_s1"),
    from_timm("EdgeNeXt", "edgenext_xx_small", 256),
    from_timm("MobileViT", "mobilevit_xxs", 256),
    from_timm("FastViT", "fastvit_t8", 256),
    from_timm("PoolFormer", "poolformer_s12"),
    from_timm("EfficientFormer", "efficientformer_l1"),
    from_timm("EfficientViT", "efficientvit_b0"),
    from_timm("ViT", "vit_tiny_patch16_224"),
    from_timm("ViT", "vit_tiny_patch16_224", how="dynamo"),
    from_timm("ViT", "deit_tiny_patch16_224", how="script-batch"),
    from_timm("ViT", "beit_base_patch16_224"),
    from_timm("ViT", "eva02_tiny_patch14_224", how="dynamo"),
    from_timm("Swin", "swin_tiny_patch4_window7_224"),
    from_timm("Swin", "swin_tiny_patch4_window7_224", how="dynamo-batch"),
    from_timm("Swin", "swinv2_tiny_window8_256", 256),
    from_timm("PVT", "pvt_v2_b0"),
    from_timm("LeViT", "levit_128s"),
    from_timm("MaxViT", "maxvit_nano_rw_256", 256),
    from_timm("CoAtNet", "coatnet_nano_rw_224"),
    from_timm("Mixer", "mixer_s32_224"),
    from_timm("XCiT", "xcit_nano_12_p16_224"),
    from_timm("CaiT", "cait_xxs24_224"),
    from_timm("GCViT", "gcvit_xxtiny"),
    from_timm("DaViT", "davit_tiny"),
    from_timm("FocalNet", "focalnet_tiny_srf"),
    from_timm("TinyViT", "tiny_vit_5m_224"),
    from_timm("Twins", "twins_pcpvt_small"),
    from_timm("BoTNet", "botnet26t_256", 256),
    yolo("yolo11n-cls", "YOLO classifier", "yolo11n-cls", 224, "classify"),
    own("alexnet", "AlexNet", AlexNet, (224, 224), "classify"),
    own("squeezenet1_1", "SqueezeNet", SqueezeNet, (224, 224), "classify"),
    own("shufflenet_v2", "ShuffleNet", ShuffleNet, (224, 224), "classify"),
    own("sign_stn", "spatial transformer", SignTransformer, (48, 48), "classify"),
    own("sign_cnn", "small CNN", SignNet, (32, 32), "classify", way=UNIT),
]

DETECTORS = [
    yolo("yolov3-tiny", "YOLOv3", "yolov3-tiny"),
    yolo("yolov5nu", "YOLOv5", "yolov5n"),
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
    ),
    yolo("yolov8n", "YOLOv8", "yolov8n"),
    yolo("yolov8n-640", "YOLOv8", "yolov8n", 640),
    yolo("yolov8n-free", "YOLOv8", "yolov8n", dynamic=True),
    yolo("yolov8n-seg", "YOLOv8", "yolov8n-seg"),
    yolo("yolov8n-pose", "YOLOv8", "yolov8n-pose"),
    yolo("yolov9t", "YOLOv9", "yolov9t"),
    yolo("yolov10n", "YOLOv10", "yolov10n"),
    yolo("yolo11n", "YOLO11", "yolo11n"),
    yolo("yolo11n-640", "YOLO11", "yolo11n", 640),
    yolo("yolo12n", "YOLO12", "yolo12n"),
    yolo("yolo26n", "YOLO26", "yolo26n"),
    yolo("rtdetr-resnet50", "RT-DETR", "rtdetr-resnet50"),
    own("yolox", "YOLOX", YoloX, (320, 320), "detect", way=UNIT),
    own("yolox-cells", "YOLOX", YoloX, (320, 320), "detect", arguments={"decoded": False}, way=UNIT, decode="yolox"),
    own("retinanet", "RetinaNet", Retina, (320, 320), "detect", arguments={"groups": 0}),
    own(
        "retinanet-gn",
        "RetinaNet",
        Retina,
        (320, 320),
        "detect",
        note="group normalisation in its heads lets each score see the whole level, so that ten boxes take ten whole maps, exactly",
    ),
    own("retinanet-dynamo", "RetinaNet", Retina, (320, 320), "detect", "dynamo"),
    own("ssd", "SSD", SSD, (300, 300), "detect"),
    own(
        "detr",
        "DETR",
        Detr,
        (320, 320),
        "detect",
        decode="detr",
        note="ONNX Runtime 1.32 crashes in its NchwcTransformer while it loads the fp16 file",
    ),
    own("detr-dynamo", "DETR", Detr, (320, 320), "detect", "dynamo", decode="detr"),
    own(
        "centernet", "CenterNet", CenterNet, (320, 320), "dense", task="dense", outputs=("152",), note="explained as a dense map of centres"
    ),
]

DENSE = [
    own("unet", "U-Net", UNet, (256, 256), "dense"),
    own("unet-dynamo", "U-Net", UNet, (256, 256), "dense", "dynamo"),
    own("deeplab", "DeepLab", DeepLab, (256, 256), "dense"),
    own("fcn", "FCN", FCN, (256, 256), "dense"),
    from_smp("smp-unet-mobilenetv2", "Unet", "tu-mobilenetv2_100"),
    from_smp("smp-deeplabv3plus-resnet18", "DeepLabV3Plus", "tu-resnet18"),
    from_smp("smp-fpn-efficientnet_b0", "FPN", "efficientnet-b0"),
    from_smp("smp-segformer-mit_b0", "Segformer", "mit_b0"),
    from_smp("smp-pspnet-resnet18", "PSPNet", "tu-resnet18"),
    yolo("yolo26n-sem", "YOLO26", "yolo26n-sem", 320, "dense"),
]

REGRESSORS = [
    own("pilotnet", "PilotNet", PilotNet, (66, 200), "regress", way=SIGNED),
    own("pilotnet-dynamo", "PilotNet", PilotNet, (66, 200), "regress", "dynamo", way=SIGNED),
    own("pooled_regressor", "small CNN", PooledRegressor, (128, 256), "regress", task="regress"),
]

TENSORFLOW = [
    shipped(
        "keras-mobilenetv2", "MobileNet", "Keras", make.tensorflow, (224, 224), "classify", weights="random", exporter="tf2onnx", way=SIGNED
    ),
    shipped(
        "keras-efficientnetb0",
        "EfficientNet",
        "Keras",
        make.tensorflow,
        (224, 224),
        "classify",
        weights="random",
        exporter="tf2onnx",
        note="its preprocessing is in the file",
    ),
    shipped("keras-unet", "U-Net", "Keras", make.tensorflow, (128, 128), "dense", weights="random", exporter="tf2onnx", way=UNIT),
    shipped("keras-pilotnet", "PilotNet", "Keras", make.tensorflow, (66, 200), "regress", weights="random", exporter="tf2onnx", way=SIGNED),
]

GRAY = {"mean": (0.5,), "std": (0.5,)}
BYTES = UNIT | {"scale": 1.0, "channels": "bgr"}


def rapid(name: str) -> Callable[[Path], None]:
    return make.shipped("rapidocr", f"models/{name}.onnx")


LIGHT = "a file of 2017, opset 9; its package ships one number for all weights of a layer, here they are random"
SHIPPED = [
    *(
        shipped(
            f"onnx-{name}",
            family,
            "onnx package",
            make.filled(name),
            (224, 224),
            "classify",
            weights="filled at random",
            exporter="Caffe2",
            note=LIGHT,
        )
        for name, family in (
            ("bvlc_alexnet", "AlexNet"),
            ("densenet121", "DenseNet"),
            ("inception_v1", "Inception"),
            ("inception_v2", "Inception"),
            ("resnet50", "ResNet"),
            ("shufflenet", "ShuffleNet"),
            ("squeezenet", "SqueezeNet"),
            ("vgg19", "VGG"),
            ("zfnet512", "ZFNet"),
        )
    ),
    shipped(
        "rapidocr-det",
        "PP-OCR detector",
        "rapidocr",
        rapid("PP-OCRv6_det_small"),
        (320, 320),
        "dense",
        exporter="paddle2onnx",
        way=IMAGENET | {"channels": "bgr"},
    ),
    shipped(
        "rapidocr-cls",
        "PP-OCR classifier",
        "rapidocr",
        rapid("ch_ppocr_mobile_v2.0_cls_mobile"),
        (48, 192),
        "classify",
        exporter="paddle2onnx",
        way=SIGNED | {"channels": "bgr"},
    ),
    shipped(
        "rapidocr-rec",
        "PP-OCR recogniser",
        "rapidocr",
        rapid("PP-OCRv6_rec_small"),
        (48, 320),
        "sequence",
        exporter="paddle2onnx",
        way=SIGNED | {"channels": "bgr"},
        note="scores of 6 625 characters at each place along a line",
    ),
    shipped(
        "ddddocr-det",
        "YOLOX",
        "ddddocr",
        make.shipped("ddddocr", "common_det.onnx"),
        (416, 416),
        "detect",
        exporter="torch",
        decode="yolox",
        way=BYTES,
        note="YOLOX without its decoding",
    ),
    shipped(
        "ddddocr-rec",
        "text recogniser",
        "ddddocr",
        make.shipped("ddddocr", "common.onnx"),
        (64, 128),
        "sequence",
        exporter="torch",
        way=GRAY,
    ),
    shipped(
        "ddddocr-old",
        "text recogniser",
        "ddddocr",
        make.shipped("ddddocr", "common_old.onnx"),
        (64, 128),
        "sequence",
        exporter="torch",
        way=GRAY,
    ),
]

NETWORKS = [*CLASSIFIERS, *DETECTORS, *DENSE, *REGRESSORS, *TENSORFLOW, *SHIPPED]
