"""See what a CT backbone finds alike: open a scan, click a point, scroll. Nothing leaves the machine that it runs on.

    python demo/app.py [--backbone FOLDER_OR_HUB_ID] [--other FOLDER_OR_HUB_ID] [--port 7860]

Without --backbone it takes outputs/quickstart/hub where `make quickstart` has been run; else random weights, and says
so.
"""

import argparse
import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

# Read when gradio is imported: it would report every start, and ask for its newest version.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import gradio as gr
import numpy as np

from dinox_hf.console import run_command
from dinox_hf.data.sources.phantom import phantom_volume
from dinox_hf.serving.networks import Networks, load_networks
from dinox_hf.serving.scene import WINDOWS, Display, scene
from dinox_hf.serving.uploads import SUFFIXES, Limits, UploadReader
from dinox_hf.serving.viewer import PIXEL_MM, Viewer

HERE = Path(__file__).parent
OVERLAYS = {
    "Similarity to the point": "similarity",
    "PCA colours": "colours",
    "CLS attention": "attention",
    "None": "none",
}
OWN_WINDOW = "Custom"
COMPARE_SECONDS = 180  # for all slices of a scan at one go
SHOW_EVERY_SECONDS = 1.0
NOTICE = (
    "**DINO-X viewer** Research only: not a medical device, not for diagnosis. Scans stay on the machine that runs "
    "this page, in memory, for an hour at most."
)
# Fonts of the system; a web font would be a request to a stranger.
FONTS = ["system-ui", "sans-serif"]


def build(networks: Networks, limits: Limits, pixel_mm: float) -> gr.Blocks:
    """The page: controls on the left, the light box on the right.

    Args:
        networks: what to look through.
        limits: of uploads.
        pixel_mm: size of a pixel to which slices are resampled for the networks.
    """
    reader = UploadReader(limits)
    reader.start()
    phantom, nodules = phantom_volume(seed=3, size=256, num_slices=35)

    def open_phantom() -> Viewer:
        viewer = Viewer(phantom, "Phantom (synthetic)", networks.named, pixel_mm)
        largest = max(nodules, key=lambda nodule: nodule.diameter_mm)
        viewer.go_to(int(np.abs(phantom.z_mm - largest.centre_mm[0]).argmin()))
        return viewer

    def open_upload(path: str) -> tuple[Viewer, str]:
        file = Path(path)
        try:
            volume, note = reader.read(file)
        finally:
            file.unlink(missing_ok=True)
        return Viewer(volume, "Uploaded scan", networks.named, pixel_mm), note

    with gr.Blocks(title="DINO-X viewer", analytics_enabled=False, fill_width=True, delete_cache=(600, 3600)) as page:
        session = gr.State(None, time_to_live=3600)
        gr.Markdown(NOTICE, elem_id="head")
        if networks.warning:
            gr.Markdown(networks.warning, elem_id="warning")
        with gr.Row():
            with gr.Column(scale=0, min_width=210, elem_id="side"):
                upload = gr.UploadButton("Open a CT", file_types=list(SUFFIXES), size="sm", elem_id="upload")
                again = gr.Button("Open the phantom", size="sm", elem_id="phantom")
                status = gr.Markdown(elem_id="status")
                window = gr.Radio([*WINDOWS, OWN_WINDOW], value="Lung", label="Window", elem_id="window")
                with gr.Row(visible=False) as own:
                    level = gr.Number(WINDOWS["Lung"][0], label="Level, HU", min_width=80)
                    width = gr.Number(WINDOWS["Lung"][1], label="Width, HU", min_width=80)
                overlay = gr.Radio(list(OVERLAYS.items()), value="similarity", label="Overlay", elem_id="overlay")
                opacity = gr.Slider(0, 1, 0.7, step=0.05, label="Opacity", elem_id="opacity", buttons=[])
                share = gr.Slider(0.01, 0.6, 0.05, step=0.01, label="Share shown", elem_id="share", buttons=[])
                beside = gr.Checkbox(True, label="Side by side", elem_id="beside", visible=len(networks.named) > 1)
                progress = gr.Markdown(elem_id="progress")
                with gr.Row():
                    compare = gr.Button("Compare all", size="sm", min_width=80, elem_id="compare")
                    stop = gr.Button("Stop", size="sm", min_width=60, elem_id="stop")
            with gr.Column(scale=1, min_width=480):
                viewer = gr.HTML(
                    html_template=(HERE / "viewer.html").read_text(),
                    js_on_load=(HERE / "viewer.js").read_text(),
                    apply_default_css=False,
                    elem_id="viewer",
                )

        shown = [session, window, level, width, overlay, share, beside]
        quietly = {"outputs": viewer, "show_progress": "hidden"}
        fresh = [session, status, progress, viewer]
        for event in (page.load, again.click):
            event(lambda *choices: show_new(open_phantom(), "", *choices), shown[1:], fresh, show_progress="hidden")
        upload.upload(lambda: "Reading the scan …", None, status, queue=False, show_progress="hidden").then(
            lambda path, *choices: show_new(*told(open_upload, path), *choices),
            [upload, *shown[1:]],
            fresh,
            show_progress="hidden",
            concurrency_limit=1,
        ).failure(describe, session, status, queue=False, show_progress="hidden")
        for control in (overlay, beside, level, width, share):
            control.change(show, shown, **quietly, queue=False, trigger_mode="always_last")
        window.change(choose_window, [window, level, width], [own, level, width], queue=False).then(
            show, shown, **quietly, queue=False
        )
        opacity.input(None, opacity, js="share => document.body.style.setProperty('--overlay-opacity', share)")
        viewer.scroll(scroll, shown, **quietly, queue=False, trigger_mode="multiple")
        viewer.settle(settle, shown, **quietly, trigger_mode="multiple", concurrency_limit=2)
        clicked = viewer.point(choose_point, shown, **quietly, trigger_mode="multiple", concurrency_limit=2)
        for event in (clicked.success, compare.click):
            event(compare_all, shown, [viewer, progress], show_progress="hidden", concurrency_limit=2)
        stop.click(lambda session: session.stop() if session else None, session, queue=False, show_progress="hidden")
    return page


def display(window: str, level: float, width: float, overlay: str, share: float, is_side_by_side: bool) -> Display:
    """The visitor's choices; a window of WINDOWS has its own level and width."""
    level, width = WINDOWS.get(window, (level, width))
    return Display(window, level, width, overlay, share, is_side_by_side)


def told(function: Any, *given: Any) -> Any:
    """Call a function; what our code refuses reaches the visitor as a message."""
    try:
        return function(*given)
    except ValueError as error:
        raise gr.Error(str(error), duration=20, print_exception=False, title="Not possible") from error


def show(session: Viewer | None, *choices: Any) -> dict[str, Any]:
    """The scene as it stands."""
    if session is None:
        raise gr.Error("This scan was closed after an hour. Open it again.", print_exception=False, title="Closed")
    return scene(session, told(display, *choices))


def describe(session: Viewer | None, note: str = "") -> str:
    """What is open, for the column of controls."""
    if session is None:
        return ""
    return f"{session.title}: {session.num_slices} slices every {session.volume.spacing_mm[0]:.3g} mm. {note}"


def show_new(session: Viewer, note: str, *choices: Any) -> tuple[Viewer, str, str, dict[str, Any]]:
    """A scan that was just opened."""
    return session, describe(session, note), "", show(session, *choices)


def choose_window(window: str, level: float, width: float) -> tuple[dict, float, float]:
    """Fields for level and width appear with an own window; they begin at the one before."""
    return gr.update(visible=window == OWN_WINDOW), *WINDOWS.get(window, (level, width))


def scroll(event: gr.EventData, session: Viewer | None, *choices: Any) -> dict[str, Any]:
    """Show another slice; nothing is computed by a network."""
    if session is not None:
        session.go_to(event.slice)
    return show(session, *choices)


def settle(event: gr.EventData, session: Viewer | None, *choices: Any) -> dict[str, Any]:
    """Scrolling has stopped: have the networks look at this slice."""
    if session is not None and session.slice == event.slice:
        told(partial(session.encode, with_attention=told(display, *choices).overlay == "attention"), event.slice)
    return show(session, *choices)


def choose_point(event: gr.EventData, session: Viewer | None, *choices: Any) -> dict[str, Any]:
    """Compare with the point that was clicked."""
    if session is not None:
        session.go_to(event.slice)
        told(session.click, event.row, event.column)
    return show(session, *choices)


def compare_all(session: Viewer | None, *choices: Any) -> Iterator[tuple[dict[str, Any], str]]:
    """Have the networks look at all slices while the visitor goes on; the strip fills."""
    shown_at = 0.0
    for num_encoded in session.encode_all(COMPARE_SECONDS) if session else ():
        if time.monotonic() - shown_at > SHOW_EVERY_SECONDS:
            shown_at = time.monotonic()
            left = (session.num_slices - num_encoded) * session.seconds_per_slice()
            yield show(session, *choices), f"{num_encoded} of {session.num_slices} slices compared, {left:.0f} s left"
    if session:
        num_encoded = session.num_encoded
        yield show(session, *choices), f"{num_encoded} of {session.num_slices} slices compared."


def read_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", help="a run, a published folder, or an id on the Hub")
    parser.add_argument("--other", help="the one beside it; default: the same network with random weights")
    parser.add_argument("--port", type=int, default=int(os.environ.get("GRADIO_SERVER_PORT", 7860)))
    parser.add_argument(
        "--pixel-mm", type=float, default=PIXEL_MM, help="size of a pixel to which slices are resampled"
    )
    parser.add_argument("--max-upload-mb", type=int, default=Limits.upload_mb)
    return parser.parse_args(arguments)


def main() -> None:
    """Serve the page until Ctrl-C."""
    args = read_arguments()
    limits = Limits(upload_mb=args.max_upload_mb)
    page = build(load_networks(args.backbone, args.other), limits, args.pixel_mm)
    page.queue(max_size=64, api_open=False).launch(
        server_port=args.port,
        share=False,
        quiet=True,  # its greeting offers a public link
        prevent_thread_lock=True,
        max_file_size=f"{limits.upload_mb}mb",
        state_session_capacity=8,
        enable_monitoring=False,
        footer_links=[],
        theme=gr.themes.Base(
            font=FONTS, font_mono=["ui-monospace", "monospace"], primary_hue="sky", neutral_hue="zinc"
        ),
        css_paths=HERE / "viewer.css",
        # The page is dark whatever the browser prefers: images are read in a dark room.
        js="() => document.body.classList.add('dark')",
    )
    print(f"http://127.0.0.1:{args.port} (Ctrl-C ends it)", flush=True)
    page.block_thread()


if __name__ == "__main__":
    run_command(main)
