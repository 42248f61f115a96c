"""What a loader hands to training: crops, or slices from which the accelerator cuts the same crops."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .crops import CropDraw, ExampleDraws, MultiCrop
from .device_crops import DrawnCrops, SliceStack, cut_on_device, drawn_crops, stack_slices
from .slices import SliceExample
from .tensor_record import TensorRecord


@dataclass(frozen=True)
class PretrainBatch(TensorRecord):
    """One micro-batch of one process. Crops are crop-major: crop 0 of all B slices, then crop 1, and so on."""

    global_crops: Tensor  # (2B, 3, S, S) float32, normalised
    local_crops: Tensor  # (L*B, 3, s, s) float32
    gram_crops: Tensor | None  # (2B, 3, G, G) float32: the global crops undistorted
    masks: Tensor  # (2B, N) bool: patches of the global crops that the student does not see
    rows: Tensor  # (B,) int64: where the slices stand in their set, or in the sets laid end to end
    # (M,) int64: where masks.flatten() is True. Found on the CPU unless given: an accelerator that is asked for the
    # masked patches by a bool mask makes the host wait until it has counted them.
    masked_places: Tensor | None = None
    # (2B, 2), (L*B, 2) and (2B, 2) float32: mm per pixel of each crop, (y, x), for a network with metric coordinates.
    global_spacing_mm: Tensor | None = None
    local_spacing_mm: Tensor | None = None
    gram_spacing_mm: Tensor | None = None

    def __post_init__(self) -> None:
        if self.masked_places is None:
            object.__setattr__(self, "masked_places", places_of(self.masks))


@dataclass(frozen=True)
class SliceBatch(TensorRecord):
    """A micro-batch before its crops are cut: some 1 MB a slice instead of some 2 MB of crops, and hardly any work."""

    slices: SliceStack
    global_crops: DrawnCrops  # of 2B crops
    local_crops: DrawnCrops  # of L*B
    gram_crops: DrawnCrops | None
    slice_spacing_mm: Tensor  # (B, 2) float64: mm per pixel of the slices, (y, x)
    masks: Tensor  # as in PretrainBatch
    rows: Tensor
    masked_places: Tensor

    def to(self, device: torch.device | str) -> PretrainBatch:
        """Move the slices, and cut the crops there."""
        here = super().to(device)
        gram, spacing_mm = here.gram_crops, here.slice_spacing_mm
        return PretrainBatch(
            global_crops=cut_on_device(here.slices, here.global_crops),
            local_crops=cut_on_device(here.slices, here.local_crops),
            gram_crops=None if gram is None else cut_on_device(here.slices, gram),
            masks=here.masks,
            rows=here.rows,
            masked_places=here.masked_places,
            global_spacing_mm=here.global_crops.spacing_mm(spacing_mm),
            local_spacing_mm=here.local_crops.spacing_mm(spacing_mm),
            gram_spacing_mm=None if gram is None else gram.spacing_mm(spacing_mm),
        )


Batch = PretrainBatch | SliceBatch  # either becomes crops by `to(device)`


def cut_batch(
    cutter: MultiCrop, examples: Sequence[SliceExample], draws: Sequence[ExampleDraws], masks: Tensor
) -> PretrainBatch:
    """Cut all crops of B examples here and now."""
    batch = {
        kind: np.empty((num, len(examples), 3, size, size), dtype=np.float32)
        for kind, (num, size) in cutter.kinds.items()
    }
    for place, (example, draw) in enumerate(zip(examples, draws, strict=True)):
        for kind, crops in batch.items():
            own_crops = getattr(draw, kind)
            cutter.cut(example.slices_hu, example.padding_hu, own_crops, crops.shape[-1], out=crops[:, place])
    crop_major = {kind: torch.from_numpy(crops).flatten(0, 1) for kind, crops in batch.items()}
    spacing_mm = {
        kind.replace("crops", "spacing_mm"): _spacing_mm(num, kind, examples, draws)
        for kind, (num, _) in cutter.kinds.items()
    }
    return PretrainBatch(**{"gram_crops": None, **crop_major}, masks=masks, rows=_rows(examples), **spacing_mm)


def stack_batch(
    cutter: MultiCrop, examples: Sequence[SliceExample], draws: Sequence[ExampleDraws], masks: Tensor
) -> SliceBatch:
    """Collect B examples and their draws for a device that cuts."""
    drawn = {
        kind: drawn_crops(_crop_major([getattr(draw, kind) for draw in draws]), size, cutter.intensity)
        for kind, (_, size) in cutter.kinds.items()
    }
    slices = stack_slices([each.slices_hu for each in examples], [each.padding_hu for each in examples])
    crops = {"gram_crops": None, **drawn}
    return SliceBatch(
        slices,
        **crops,
        slice_spacing_mm=torch.tensor([each.spacing_yx_mm for each in examples], dtype=torch.float64),
        masks=masks,
        rows=_rows(examples),
        masked_places=places_of(masks),
    )


def places_of(masks: Tensor) -> Tensor:
    """(M,) int64: where the flattened masks are True, in order."""
    return masks.flatten().nonzero().squeeze(1)


def _crop_major(draws: Sequence[Sequence[CropDraw]]) -> list[CropDraw]:
    """Draws by slice and crop -> crop 0 of all slices, then crop 1, and so on."""
    return [draw for crop in zip(*draws, strict=True) for draw in crop]


def _spacing_mm(num: int, kind: str, examples: Sequence[SliceExample], draws: Sequence[ExampleDraws]) -> Tensor:
    """(num*B, 2) float32: millimetres per pixel of every crop of a kind."""
    of_slices = [
        [crop.geometry.spacing_mm(example.spacing_yx_mm) for crop in getattr(draw, kind)]
        for example, draw in zip(examples, draws, strict=True)
    ]
    return torch.tensor(of_slices, dtype=torch.float32).view(len(of_slices), num, 2).transpose(0, 1).flatten(0, 1)


def _rows(examples: Sequence[SliceExample]) -> Tensor:
    return torch.tensor([example.row for example in examples])
