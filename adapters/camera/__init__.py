"""Pictures from an RTSP or USB camera, a video file or a folder of images."""
