"""Model packages: manifest, gate, and the way from a picture or window to a result."""

import os

# From 1.29 on onnxruntime writes a device id and sends events to its maker, unless this is set before it is
# imported. A user who sets it decides.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
