"""One backbone in five formats; each is read back, and its tokens compared, before it is there.

| format       | the folder holds                                         | read by                                   |
|--------------|----------------------------------------------------------|-------------------------------------------|
| `dual`       | safetensors, our code, both configurations               | `AutoModel`, with and without trust       |
| `dinov3_vit` | safetensors as transformers itself saves them, no code   | `AutoModel`, `DINOv3ViTModel`             |
| `pth`        | backbone.pth, our names; config.json                     | `torch.load(…, weights_only=True)`        |
| `meta`       | backbone.pth in the layout of Meta's releases            | code written for those                    |
| `onnx`       | model.onnx: any batch, height and width                  | onnxruntime and others                    |
"""

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path

import torch
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from . import onnx_graph, state_files
from .export import (
    STOCK_TOLERANCE,
    Answer,
    compare_in_clean_process,
    dual_processor,
    export_backbone,
    refuse_what_stock_cannot_hold,
)
from .export_source import Source, read_source
from .publish import made_whole, refuse_foreign_folder, refuse_other_tokens


def export_as(
    format: str, checkpoint: str | Path, out: str | Path, preset: str | None = None, plain_at_extent: bool = False
) -> list[Answer]:
    """Write a backbone in one of `FORMATS`, or nothing.

    Args:
        format: one of the names above.
        checkpoint: a run, a checkpoint, a folder of transformers, a file of weights (Meta's too), or a Hub id.
        out: the new folder. An earlier export of ours is replaced; any other folder is left alone.
        preset: size of a file of weights that has no config.json beside it.
        plain_at_extent: `dual` only: accept that plain transformers shows a network with metric coordinates at
            `rope_extent_mm`.

    Returns:
        What each way of reading gave, beside the checkpoint; all agree.

    Raises:
        ValueError: an unknown format, an unfit source, a foreign folder, or something that the format cannot hold.
        RuntimeError: a library of the format is missing, or what was written gives other tokens.
    """
    if format not in FORMATS:
        close = get_close_matches(format, FORMATS, n=1)
        hint = f"Did you mean {close[0]!r}? " if close else ""
        raise ValueError(f"There is no format {format!r}. {hint}Choose from: {', '.join(FORMATS)}.")
    if format == "onnx":
        onnx_graph.require_onnx()
    out = Path(out).resolve()
    refuse_foreign_folder(out)
    source = read_source(checkpoint, preset)
    if plain_at_extent and format != "dual":
        raise ValueError(f"--plain-at-extent belongs to the format 'dual'; found {format!r}. Leave it out.")
    with made_whole(out) as folder:
        answers = _write_dual(source, folder, plain_at_extent) if format == "dual" else FORMATS[format](source, folder)
        refuse_other_tokens(answers)
    return answers


def _write_dual(source: Source, folder: Path, plain_at_extent: bool = False) -> list[Answer]:
    with _saved(source) as backbone:
        export_backbone(backbone, folder, source.name, plain_at_extent)
        return compare_in_clean_process(folder, backbone)


def _write_stock(source: Source, folder: Path) -> list[Answer]:
    """As transformers' own class saves itself; our windows stay in preprocessor_config.json, unread by stock."""
    refuse_what_stock_cannot_hold(source.model.config)
    fields = [name for name in DINOv3ViTConfig.__annotations__ if not name.startswith("_")]
    ours = source.model.config
    config = DINOv3ViTConfig(**{name: getattr(ours, name) for name in fields if hasattr(ours, name)})
    stock = DINOv3ViTModel(config)
    stock.load_state_dict(source.model.state_dict())
    stock.save_pretrained(folder)
    _edit_json(folder / "config.json", dinox_run=source.name)
    with _saved(source) as backbone:
        processor = {name: value for name, value in dual_processor(backbone).items() if name != "auto_map"}
        _write_json(folder / "preprocessor_config.json", processor)
        return compare_in_clean_process(folder, backbone, with_code=False)


def _write_pth(source: Source, folder: Path) -> list[Answer]:
    return _state_file(source, folder, state_files.write_state)


def _write_meta(source: Source, folder: Path) -> list[Answer]:
    return _state_file(source, folder, state_files.write_meta_state)


def _state_file(source: Source, folder: Path, write: Callable[..., None]) -> list[Answer]:
    write(source.model, folder)
    _describe(source, folder)
    again = read_source(folder)
    return [_answer("torch.load, weights_only", "Dinov3CTModel", _difference(source, again), 0.0)]


def _write_onnx(source: Source, folder: Path) -> list[Answer]:
    onnx_graph.write_onnx(source, folder)
    _describe(source, folder)
    allowed = STOCK_TOLERANCE * max(1.0, _tokens(source).abs().max().item())
    difference = onnx_graph.compare_onnx(source, folder)
    return [_answer(f"onnxruntime, opset {onnx_graph.OPSET}", "InferenceSession", difference, allowed)]


FORMATS: dict[str, Callable[..., list[Answer]]] = {
    "dual": _write_dual,
    "dinov3_vit": _write_stock,
    "pth": _write_pth,
    "meta": _write_meta,
    "onnx": _write_onnx,
}


@contextmanager
def _saved(source: Source) -> Iterator[Path]:
    """The source as a folder like those of a run's checkpoints, for as long as it is needed."""
    with tempfile.TemporaryDirectory() as scratch:
        source.model.save_pretrained(scratch)
        source.processor.save_pretrained(scratch)
        yield Path(scratch)


def _describe(source: Source, folder: Path) -> None:
    """config.json and preprocessor_config.json: what weights alone do not tell."""
    entries = source.model.config.to_dict() | {"dinox_run": source.name, "architectures": ["Dinov3CTModel"]}
    entries.pop("_name_or_path", None)
    _write_json(folder / "config.json", entries)
    source.processor.save_pretrained(folder)


def _difference(source: Source, other: Source) -> float:
    return (_tokens(source) - _tokens(other)).abs().max().item()


@torch.no_grad()
def _tokens(source: Source) -> torch.Tensor:
    """Tokens of a fixed image that is no square, with a spacing where the network knows one."""
    return source.model(**onnx_graph.probe_images(source.model, 2, 6, 4)).last_hidden_state


def _answer(way: str, class_name: str, difference: float, allowed: float) -> Answer:
    return Answer(way, class_name, difference, allowed, unmatched=())


def _edit_json(path: Path, **entries: object) -> None:
    _write_json(path, json.loads(path.read_text()) | entries)


def _write_json(path: Path, entries: dict) -> None:
    path.write_text(json.dumps(entries, indent=2, sort_keys=True) + "\n")
