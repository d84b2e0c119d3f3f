"""The detection heads by their word in a manifest; one module for each family."""

from agent.inference.decoders.heads.base import Found, Head
from agent.inference.decoders.heads.fastestdet import FastestDet
from agent.inference.decoders.heads.ulface import UlFace
from agent.inference.decoders.heads.yolov8 import YoloV8
from agent.inference.decoders.heads.yolox import YoloX

HEADS: dict[str, type[Head]] = {"fastestdet": FastestDet, "yolox": YoloX, "yolov8": YoloV8, "ulface": UlFace}

__all__ = ["HEADS", "Found", "Head"]
