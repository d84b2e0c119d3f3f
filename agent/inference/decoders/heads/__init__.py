"""The detection heads by their word in a manifest; one module for each family."""

from agent.inference.decoders.heads.base import Found, Head, Layout
from agent.inference.decoders.heads.fastestdet import FastestDet
from agent.inference.decoders.heads.lists import Detr, Ssd
from agent.inference.decoders.heads.table import EndToEnd, YoloV5, YoloV8
from agent.inference.decoders.heads.ulface import UlFace
from agent.inference.decoders.heads.yolox import YoloX

HEADS: dict[str, type[Head]] = {
    head.word: head for head in (FastestDet, YoloX, YoloV8, YoloV5, EndToEnd, Detr, Ssd, UlFace)
}

__all__ = ["HEADS", "Found", "Head", "Layout"]
