"""Builders of well-known networks as an exporter would write them, with seeded weights and no download.

The networks have the real shapes and the real clutter, and weights whose activations stay in a sane range, so
that speed and numerical agreement mean what they would mean on trained weights.  They recognise nothing.
"""

from __future__ import annotations

from tools.models.resnet import resnet50
from tools.models.whisper import whisper_tiny_encoder

__all__ = ["resnet50", "whisper_tiny_encoder"]
