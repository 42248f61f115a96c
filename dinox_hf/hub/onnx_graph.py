"""A backbone as an ONNX graph, for runtimes without PyTorch; compared with PyTorch in onnxruntime.

    pixel_values (batch, channels, height, width) float32  →  last_hidden_state (batch, 1 + R + N, D), pooler_output

Batch, height and width are free: RoPE is computed in the graph from the size of the image. Rows and columns that fill
no patch are left out, as PyTorch does; an image smaller than a patch has no patch token. A network with metric
coordinates takes spacing_mm (batch, 2), mm per pixel, as a second input. Masks and attention maps are left out.
"""

import importlib
import logging
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..model.modeling_dinov3_ct import Dinov3CTModel
from .export_source import Source

FILE_NAME = "model.onnx"
OPSET = 20
_LIBRARIES = ("onnx", "onnxscript", "onnxruntime")


class _Tokens(nn.Module):
    """The two outputs of a backbone as a plain pair."""

    def __init__(self, model: Dinov3CTModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor, spacing_mm: Tensor | None = None) -> tuple[Tensor, Tensor]:
        output = self.model(pixel_values, spacing_mm=spacing_mm)
        return output.last_hidden_state, output.pooler_output


def require_onnx() -> None:
    """Check, before any work, that the libraries of the extra are here.

    Raises:
        RuntimeError: naming those that are not, and the command that brings them.
    """
    missing = []
    for name in _LIBRARIES:
        try:
            importlib.import_module(name)
        except ImportError:
            missing.append(name)
    if missing:
        raise RuntimeError(
            f"ONNX files are written and checked by {', '.join(_LIBRARIES)}; found no {', '.join(missing)}. "
            f'Install them: pip install "dinox-hf[onnx]".'
        )


def write_onnx(source: Source, folder: Path) -> None:
    """Write model.onnx; beyond 2 GB its weights lie in model.onnx.data beside it.

    Raises:
        RuntimeError: if a library is missing, or the exporter fixed a size that should be free.
    """
    require_onnx()
    inputs = probe_images(source.model, batch_size=2, rows=3, columns=2)
    shapes = {"pixel_values": {0: "batch", 2: "height", 3: "width"}, "spacing_mm": {0: "batch"}}
    # The exporter reports about torchvision, which nobody here needs, and about torch's own future.
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                _Tokens(source.model).eval(),
                tuple(inputs.values()),
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes={name: shapes[name] for name in inputs},
                input_names=list(inputs),
                output_names=["last_hidden_state", "pooler_output"],
                verbose=False,
            )
    finally:
        log.setLevel(level)
    # Beside every node the exporter writes lines of source with their paths on this machine.
    program.model.graph.metadata_props.clear()
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()
    program.model.metadata_props["image_processor"] = source.processor.to_json_string()
    program.save(folder / FILE_NAME)
    _refuse_fixed_sizes(folder / FILE_NAME)


def compare_onnx(source: Source, folder: Path) -> float:
    """Run the written file in onnxruntime, at four batches and sizes it was not traced with.

    Returns:
        The largest absolute difference of any token or pooled output from PyTorch's.
    """
    session = _session(folder / FILE_NAME)
    largest = 0.0
    for batch_size, rows, columns in ((1, 4, 4), (3, 1, 5), (2, 6.5, 2.25), (5, 3, 7)):
        inputs = probe_images(source.model, batch_size, rows, columns)
        found = session.run(None, {name: value.numpy() for name, value in inputs.items()})
        with torch.no_grad():
            wanted = _Tokens(source.model)(**inputs)
        for one, other in zip(found, wanted, strict=True):
            if one.shape != tuple(other.shape):
                return float("inf")
            largest = max(largest, float(np.abs(one - other.numpy()).max()))
    return largest


@torch.no_grad()
def probe_images(model: Dinov3CTModel, batch_size: int, rows: float, columns: float) -> dict[str, Tensor]:
    """Noise of so many patches a side, parts of a patch included, as named inputs of the graph."""
    config = model.config
    sides = (int(rows * config.patch_size), int(columns * config.patch_size))
    draw = torch.Generator().manual_seed(0)
    inputs = {"pixel_values": torch.randn(batch_size, config.num_channels, *sides, generator=draw)}
    if config.rope_coordinates == "metric":
        inputs["spacing_mm"] = 0.5 + torch.rand(batch_size, 2, generator=draw)
    return inputs


def _session(path: Path):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _refuse_fixed_sizes(path: Path) -> None:
    """A size is a name where it is free, and a number where the exporter saw only the one of the probe."""
    shapes = {entry.name: entry.shape for entry in _session(path).get_inputs()}
    fixed = {name: shape for name, shape in shapes.items() if isinstance(shape[0], int)}
    if fixed or not all(isinstance(size, str) for size in np.take(shapes["pixel_values"], [2, 3]).tolist()):
        raise RuntimeError(
            f"The ONNX graph should take any batch, height and width; found inputs {shapes}. This version of torch "
            f"({torch.__version__}) traced another graph than the tested one of constraints.txt: install that."
        )
