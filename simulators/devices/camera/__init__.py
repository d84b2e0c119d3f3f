"""A street camera that serves RTSP."""
