"""Serves an encoded test picture over RTSP with Debian's GStreamer; the system's Python runs it.

It prints its port, and ends when its standard input is closed.
"""

import argparse
import sys
import threading

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402 - versions are named before

ENCODERS = {
    "h264": "x264enc key-int-max={gop} speed-preset=ultrafast bframes={b_frames} bitrate={kbps} ! h264parse",
    "h265": "x265enc key-int-max={gop} speed-preset=ultrafast option-string=bframes={b_frames} bitrate={kbps}"
    " ! h265parse",
}
PAYLOADS = {
    "h264": "rtph264pay config-interval=-1",
    "h265": "rtph265pay config-interval=-1",
    "mp4v": "rtpmp4vpay",
}


def pipeline(options: argparse.Namespace) -> str:
    """The description of the pipeline behind the URL."""
    encoder = ENCODERS[options.codec]
    parts = [
        f"videotestsrc is-live=true motion=sweep animation-mode=frames pattern={options.pattern}",
        f"capsfilter name=size caps={caps(options, options.size)}",
        encoder.format(gop=options.gop, b_frames=3 if options.b_frames else 0, kbps=options.kbps),
        *(["video/x-h264,stream-format=avc"] if options.no_keyframes else []),
        "identity name=encoded",
        *([f"breakmydata probability={options.damage}"] if options.damage else []),
        f"{PAYLOADS[options.codec]} pt=96 mtu={options.mtu}",
    ]
    if options.loss:
        parts.append(f"identity drop-probability={options.loss}")
    sound = " audiotestsrc is-live=true ! alawenc ! rtppcmapay pt=8 name=pay1" if options.audio else ""
    return f"( {' ! '.join(parts)} name=pay0{sound} )"


def caps(options: argparse.Namespace, size: list[int]) -> str:
    """The format of the raw pictures."""
    return f"video/x-raw,format=I420,width={size[0]},height={size[1]},framerate={options.fps}/1"


def change_size(media: GstRtspServer.RTSPMedia, options: argparse.Namespace) -> None:
    """Set the second size after a while."""

    def change() -> bool:
        element = media.get_element().get_by_name("size")
        element.set_property("caps", Gst.Caps.from_string(caps(options, options.then)))
        return False

    GLib.timeout_add(1500, change)


def drop_keyframes(media: GstRtspServer.RTSPMedia) -> None:
    """Send only pictures that build on others."""

    def look(_: Gst.Pad, info: Gst.PadProbeInfo) -> Gst.PadProbeReturn:
        delta = info.get_buffer().has_flags(Gst.BufferFlags.DELTA_UNIT)
        return Gst.PadProbeReturn.OK if delta else Gst.PadProbeReturn.DROP

    pad = media.get_element().get_by_name("encoded").get_static_pad("src")
    pad.add_probe(Gst.PadProbeType.BUFFER, look)


def login(
    server: GstRtspServer.RTSPServer, factory: GstRtspServer.RTSPMediaFactory, words: list[str]
) -> None:
    """Require a digest login with this user and password."""
    auth = GstRtspServer.RTSPAuth()
    auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "viewer")
    auth.add_digest(*words, token)
    server.set_auth(auth)
    factory.add_role_from_structure(
        Gst.Structure.new_from_string(
            "viewer, media.factory.access=(boolean)true, media.factory.construct=(boolean)true"
        )
    )


def main() -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("codec", choices=ENCODERS)
    parser.add_argument("--audio", action="store_true")
    parser.add_argument("--b-frames", action="store_true")
    parser.add_argument("--loss", type=float, default=0.0)
    parser.add_argument("--damage", type=float, default=0.0)
    parser.add_argument("--pattern", default="ball")
    parser.add_argument("--fps", type=int, default=15)
    parser.add_argument("--gop", type=int, default=15)
    parser.add_argument("--kbps", type=int, default=1000)
    parser.add_argument("--mtu", type=int, default=1400)
    parser.add_argument("--size", type=int, nargs=2, default=[320, 240])
    parser.add_argument("--then", type=int, nargs=2)
    parser.add_argument("--no-keyframes", action="store_true")
    parser.add_argument("--udp-only", action="store_true")
    parser.add_argument("--login", nargs=2)
    options = parser.parse_args()
    Gst.init(None)
    server = GstRtspServer.RTSPServer(address="127.0.0.1", service="0")
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(pipeline(options))
    factory.set_shared(True)
    if options.udp_only:
        factory.set_protocols(GstRtsp.RTSPLowerTrans.UDP)
    if options.login:
        login(server, factory, options.login)
    if options.then:
        factory.connect("media-configure", lambda _, media: change_size(media, options))
    if options.no_keyframes:
        factory.connect("media-configure", lambda _, media: drop_keyframes(media))
    server.get_mount_points().add_factory("/live", factory)
    server.attach(None)
    loop = GLib.MainLoop()
    threading.Thread(target=lambda: (sys.stdin.read(), loop.quit()), daemon=True).start()
    sys.stdout.write(f"{server.get_bound_port()}\n")
    sys.stdout.flush()
    loop.run()


main()
