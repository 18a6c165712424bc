"""Plays a URL with GStreamer's playbin3 into sinks that show nothing, and
prints "position ahead" in seconds ten times a second, "error: …", "ended"."""
import sys

import gi

gi.require_version("Gst", "1.0")
from gi.repository import GLib, Gst  # noqa: E402

Gst.init(None)
url, seconds = sys.argv[1], int(sys.argv[2])
play = Gst.ElementFactory.make("playbin3")
loop = GLib.MainLoop()
state = {"ahead": 0.0, "code": 0}


def say(text):
    print(text, flush=True)


def added(_bin, _parent, element):
    if element.find_property("max-buffering-time"):
        element.set_property("max-buffering-time", seconds * Gst.SECOND)


def message(_bus, m):
    if m.type == Gst.MessageType.EOS:
        say("ended")
        loop.quit()
    elif m.type == Gst.MessageType.ERROR:
        error, detail = m.parse_error()
        say(f"error: {error.message} {(detail or '').splitlines()[-1:]}")
        state["code"] = 1
        loop.quit()
    elif m.type == Gst.MessageType.WARNING:
        say(f"error: warning: {m.parse_warning()[0].message}")
    elif m.type == Gst.MessageType.BUFFERING:
        # As every application has to: wait while the buffer fills.
        play.set_state(Gst.State.PLAYING if m.parse_buffering() == 100 else Gst.State.PAUSED)


def tick():
    ok, position = play.query_position(Gst.Format.TIME)
    if ok:
        query = Gst.Query.new_buffering(Gst.Format.TIME)
        ahead = 0
        if play.query(query):
            _, _, stop, _ = query.parse_buffering_range()
            ahead = max(0, stop - position)
        say(f"{position / Gst.SECOND:.3f} {ahead / Gst.SECOND:.3f}")
    return True


for name in ("video-sink", "audio-sink"):
    sink = Gst.ElementFactory.make("fakesink")
    sink.set_property("sync", True)
    play.set_property(name, sink)
play.set_property("uri", url)
play.set_property("buffer-duration", seconds * Gst.SECOND)
play.connect("deep-element-added", added)
bus = play.get_bus()
bus.add_signal_watch()
bus.connect("message", message)
play.set_state(Gst.State.PLAYING)
GLib.timeout_add(100, tick)
loop.run()
play.set_state(Gst.State.NULL)
sys.exit(state["code"])
