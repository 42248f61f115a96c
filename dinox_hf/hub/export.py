"""A training checkpoint as one folder with two readers: plain transformers, and our classes with trust_remote_code.

Plain `AutoModel` reads `model_type: dinov3_vit` and builds the stock class; with `trust_remote_code=True` the
`auto_map` leads to the three files of dinox_hf/model that lie beside the weights. Both give the checkpoint's tokens.
"""

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import DINOv3ViTConfig

from ..model.configuration_dinov3_ct import Dinov3CTConfig
from ..model.image_processing_dinov3_ct import Dinov3CTImageProcessor
from ..model.modeling_dinov3_ct import Dinov3CTModel
from .clean_process import run_in_clean_process
from .shards import copy_weights

SHIPPED_CODE = ("configuration_dinov3_ct.py", "modeling_dinov3_ct.py", "image_processing_dinov3_ct.py")
AUTO_MAP = {
    "AutoConfig": "configuration_dinov3_ct.Dinov3CTConfig",
    "AutoModel": "modeling_dinov3_ct.Dinov3CTModel",
    "AutoBackbone": "modeling_dinov3_ct.Dinov3CTBackbone",
    "AutoModelForImageClassification": "modeling_dinov3_ct.Dinov3CTForImageClassification",
}
# Two implementations may sum in another order; this is the tolerance of tests/parity, relative to the largest token.
STOCK_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Answer:
    """What one way of loading the exported folder gave, beside the training checkpoint."""

    way: str
    class_name: str
    largest_difference: float
    allowed_difference: float
    unmatched: tuple[str, ...]  # weights that the class lacks or misses

    @property
    def is_equal(self) -> bool:
        """Whether numbers and names of the weights agree."""
        return self.largest_difference <= self.allowed_difference and not self.unmatched


def export_backbone(backbone: Path, folder: Path, run_id: str, plain_at_extent: bool = False) -> None:
    """Write a checkpoint's backbone so that plain transformers and our own classes both load it.

    Args:
        backbone: `checkpoints/step_…/backbone` of a run: config.json, safetensors, preprocessor_config.json.
        folder: an existing empty folder.
        run_id: names the run in config.json; it also marks the folder as an export of ours.
        plain_at_extent: accept that plain transformers shows a network with metric coordinates at `rope_extent_mm`.

    Raises:
        ValueError: if the backbone has something that a stock DINOv3 cannot hold; the message names the fields.
    """
    config = Dinov3CTConfig.from_pretrained(backbone)
    refuse_what_stock_cannot_hold(config, plain_at_extent)
    copy_weights(backbone, folder)
    for name in SHIPPED_CODE:
        shutil.copyfile(Path(__file__).parents[1] / "model" / name, folder / name)
    _write_json(folder / "config.json", dual_config(config, run_id))
    _write_json(folder / "preprocessor_config.json", dual_processor(backbone))


def refuse_what_stock_cannot_hold(config: Dinov3CTConfig, plain_at_extent: bool = False) -> None:
    """Stop an export that would silently lose something, such as an RMSNorm that stock DINOv3 does not know.

    Of metric coordinates stock DINOv3 has those of one field of view; that loss can be accepted, since our own classes
    lie beside the weights.

    Raises:
        ValueError: with each such field and its value.
    """
    lost = config.beyond_stock()
    is_metric = config.rope_coordinates == "metric"
    if is_metric and plain_at_extent:
        lost.remove("rope_coordinates='metric'")
    elif is_metric and len(lost) == 1:
        raise ValueError(
            f"Plain transformers knows no spacing; found rope_coordinates='metric'. Plain AutoModel would take every "
            f"image for {config.rope_extent_mm:g} mm wide; only our classes, behind trust_remote_code, are told its "
            f"millimetres. Accept that with --plain-at-extent, which the card will say, or share the checkpoint's "
            f"backbone/ folder."
        )
    if lost:
        raise ValueError(
            f"An export that plain transformers loads can hold only what DINOv3ViTModel has; found {', '.join(lost)}. "
            f"Plain AutoModel would drop it and give other tokens without a word. Train with the stock value, or "
            f"share the checkpoint's backbone/ folder, which our own classes load."
        )


def dual_config(config: Dinov3CTConfig, run_id: str) -> dict:
    """The config.json that stock classes read as DINOv3 and that leads trusted code to ours."""
    entries = config.to_dict() | {
        "model_type": DINOv3ViTConfig.model_type,
        "architectures": ["DINOv3ViTModel"],
        "auto_map": AUTO_MAP,
        "dinox_run": run_id,
    }
    # The folder it was read from is a path of this machine.
    entries.pop("_name_or_path", None)
    return entries


def dual_processor(backbone: Path) -> dict:
    """The preprocessor_config.json: stock ViT processing for images, and ours, behind trust, for Hounsfield units."""
    entries = Dinov3CTImageProcessor.from_pretrained(backbone).to_dict()
    entries.pop("_name_or_path", None)
    return entries | {
        # Stock DINOv3's own processor needs torchvision; with only our class named, a plain pipeline asks for trust.
        "image_processor_type": "ViTImageProcessor",
        "auto_map": {"AutoImageProcessor": "image_processing_dinov3_ct.Dinov3CTImageProcessor"},
        # A pipeline also looks for a video processor, and without a name would ask for trust in one of ours. This is
        # the name that it derives from the stock class; there is none, and the search ends without a question.
        "video_processor_type": "ViTVideoProcessor",
    }


def compare_in_clean_process(folder: Path, backbone: Path, with_code: bool = True) -> list[Answer]:
    """Load an exported folder where dinox_hf cannot be imported, in every way, and compare with the checkpoint.

    The expected numbers travel through a file, so the other process needs nothing of ours.

    Args:
        folder: the export.
        backbone: as `export_backbone` takes it.
        with_code: whether our code lies in the folder; a stock folder has none, and is loaded without trust only.

    Raises:
        RuntimeError: if a way of loading fails altogether.
    """
    with tempfile.TemporaryDirectory() as scratch:
        expected_file = Path(scratch) / "expected.safetensors"
        expected = expected_answers(backbone)
        save_file(expected, expected_file)
        script = Path(__file__).with_name("stranger.py")
        code = [] if with_code else ["plain"]
        printed = run_in_clean_process(script, Path(folder).resolve(), expected_file, *code)
    largest_token = max(1.0, expected["tokens"].abs().max().item())
    return [_answer(entry, largest_token) for entry in json.loads(printed.splitlines()[-1])]


@torch.no_grad()
def expected_answers(backbone: Path) -> dict[str, torch.Tensor]:
    """A fixed probe and what the training checkpoint makes of it, all float32 except the slice.

    Returns:
        pixel_values (2, 3, H, W), H ≠ W so that a mistaken axis shows; tokens (2, 1+R+N, D); pooled (2, D);
        slice_hu (H, W) or (3, H, W) int16; slice_pixel_values (1, 3, S, S). Of a network with metric coordinates also
        spacing_mm (2, 2) and metric_tokens (2, 1+R+N, D), the tokens at that spacing.
    """
    model = Dinov3CTModel.from_pretrained(backbone, dtype=torch.float32).eval()
    processor = Dinov3CTImageProcessor.from_pretrained(backbone)
    draw = np.random.default_rng(0)
    height, width = 6 * model.config.patch_size, 4 * model.config.patch_size
    pixel_values = torch.from_numpy(draw.standard_normal((2, 3, height, width), dtype=np.float32))
    shape = (3, 120, 96) if processor.channels == "neighbours" else (120, 96)
    slice_hu = draw.integers(-1024, 1500, shape, dtype=np.int16)
    output = model(pixel_values)
    metric = {}
    if model.config.rope_coordinates == "metric":
        spacing_mm = torch.tensor([[0.7, 0.7], [1.5, 0.9]])
        metric_tokens = model(pixel_values, spacing_mm=spacing_mm).last_hidden_state.contiguous()
        metric = {"spacing_mm": spacing_mm, "metric_tokens": metric_tokens}
    return metric | {
        "pixel_values": pixel_values,
        "tokens": output.last_hidden_state.contiguous(),
        "pooled": output.pooler_output.contiguous(),
        "slice_hu": torch.from_numpy(slice_hu),
        "slice_pixel_values": processor(slice_hu, return_tensors="pt").pixel_values,
    }


def answer_table(answers: list[Answer]) -> str:
    """The comparison as a few lines of text."""
    lines = [f"{'loaded by':50s} {'class':30s} {'difference':>10s}"]
    lines += [f"{a.way:50s} {a.class_name:30s} {a.largest_difference:10.1e}" for a in answers]
    return "\n".join(lines)


def _answer(entry: dict, largest_token: float) -> Answer:
    is_stock = "trust_remote_code" not in entry["way"]
    return Answer(
        way=entry["way"],
        class_name=entry["class"],
        largest_difference=entry["largest_difference"],
        # The same files run the same code: exactly equal. Stock DINOv3 is another implementation.
        allowed_difference=STOCK_TOLERANCE * largest_token if is_stock else 0.0,
        unmatched=tuple(entry["unmatched"]),
    )


def _write_json(path: Path, entries: dict) -> None:
    path.write_text(json.dumps(entries, indent=2, sort_keys=True) + "\n")
