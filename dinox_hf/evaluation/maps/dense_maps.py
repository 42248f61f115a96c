"""Maps that a frozen network makes of fields around nodules: CLS attention, similarity, first principal component."""

from dataclasses import dataclass

import numpy as np

from ..backbones.features import Backbone, attention_and_tokens, patch_tokens
from .localisation import halves, patch_masks, score_signed

_MOST_FITTED = 64  # nodules of a half that similarity and component are fitted on
_AT_ONCE = 64  # nodules whose tokens are held in memory


@dataclass(frozen=True)
class FieldMaps:
    """Maps of N fields on the patch grid; the last two are None where there is only one patient to fit on."""

    attention: np.ndarray  # (N, heads, rows, columns) of the CLS token in the last layer
    own: np.ndarray  # (N, rows, columns) cosine similarity to the nodule's own patches: the answer is given
    others: np.ndarray | None  # (N, rows, columns) cosine similarity to nodules of the other half of the patients
    component: np.ndarray | None  # (N, rows, columns) first principal component, fitted on the other half


@dataclass(frozen=True)
class _Fitted:
    """What the nodules of one half of the patients teach about the other."""

    prototype: np.ndarray  # (D,) mean direction of the tokens on their nodules
    mean: np.ndarray  # (D,) of all their tokens
    direction: np.ndarray  # (D,) along which their tokens vary most; its sign is that which finds their nodules better


def field_maps(
    backbone: Backbone, fields_hu: np.ndarray, spacing_mm: np.ndarray, masks: np.ndarray, patient_ids: np.ndarray
) -> FieldMaps:
    """Let a network make its maps of every field.

    Similarity and component are fitted on at most 64 nodules of one half of the patients and shown on the other, so
    that no nodule, and no other nodule of its patient, had a part in the map that it is scored with.

    Args:
        backbone: the network.
        fields_hu: (N, C, size, size) HU.
        spacing_mm: (N, 2) mm per pixel.
        masks: (N, size, size) bool, at least one pixel each.
        patient_ids: (N,).
    """
    half = halves(patient_ids)
    fitted = {}
    if len(np.unique(half)) > 1:
        for side in (0, 1):
            others = np.flatnonzero(half != side)
            rows = others[np.unique(np.linspace(0, len(others) - 1, _MOST_FITTED).round().astype(int))]
            fitted[side] = _fit(patch_tokens(backbone, fields_hu[rows], spacing_mm[rows]), masks[rows])
    parts = []
    for start in range(0, len(fields_hu), _AT_ONCE):
        rows = slice(start, start + _AT_ONCE)
        attention, tokens = attention_and_tokens(backbone, fields_hu[rows], spacing_mm[rows])
        part = {"attention": attention, "own": _own_similarity(tokens, masks[rows])}
        if fitted:
            learned = [fitted[side] for side in half[rows]]
            part["others"] = np.stack([_unit(t) @ f.prototype for t, f in zip(tokens, learned, strict=True)])
            part["component"] = np.stack([(t - f.mean) @ f.direction for t, f in zip(tokens, learned, strict=True)])
        parts.append(part)
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return FieldMaps(**({"others": None, "component": None} | joined))


def _fit(tokens: np.ndarray, masks: np.ndarray) -> _Fitted:
    """Prototype and first component of (n, rows, columns, D) tokens."""
    on_nodule = _unit(tokens)[patch_masks(masks, tokens.shape[1])]
    mean = tokens.mean(axis=(0, 1, 2), dtype=np.float64)
    centred = tokens.reshape(-1, tokens.shape[-1]) - mean
    direction = np.linalg.eigh(centred.T @ centred)[1][:, -1]
    maps = (tokens - mean) @ direction
    forward, backward = (score_signed(sign * maps, masks).auprc.mean() for sign in (1, -1))
    return _Fitted(_unit(on_nodule.mean(axis=0)), mean, direction if forward >= backward else -direction)


def _own_similarity(tokens: np.ndarray, masks: np.ndarray) -> np.ndarray:
    inside = patch_masks(masks, tokens.shape[1])[..., None]
    directions = _unit(tokens)
    prototypes = _unit((directions * inside).sum(axis=(1, 2)))
    return np.einsum("nrcd,nd->nrc", directions, prototypes)


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors of length 1 along the last axis; a zero vector stays."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
