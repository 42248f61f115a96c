"""Lung vessels of a phantom patient: trees that grow from the hila through the lungs and thin out as they branch."""

import numpy as np

from .phantom_scanner import Grid


def grow_tree(
    rng: np.random.Generator, root_mm: np.ndarray, targets_mm: np.ndarray, tip_radius_mm: float
) -> np.ndarray:
    """A tree that reaches all targets from the root over short paths.

    Each target joins the tree where wire length plus a share of the way back to the root is least, the growth rule
    of Cuntz et al. (PLoS Comput Biol 2010); radii follow Murray's law, r^p = sum of the branches' r^p with p = 2.7.

    Args:
        rng: draws the bends.
        root_mm: (3,) z, y, x.
        targets_mm: (N, 3) points to be supplied.
        tip_radius_mm: radius of a last branch.

    Returns:
        (2N, 8) float32 rows: start z, y, x, end z, y, x, radius at the start, radius at the end.
    """
    nodes = np.vstack([root_mm, targets_mm]).astype(np.float64)
    parents = shortest_parents(nodes, path_share=0.35)
    flow = np.ones(len(nodes))
    for child in range(len(nodes) - 1, 0, -1):
        flow[parents[child]] += flow[child]
    radius = tip_radius_mm * flow ** (1 / 2.7)
    start, end = nodes[parents[1:]], nodes[1:]
    bend = rng.normal(0, 0.07, end.shape) * np.linalg.norm(end - start, axis=1, keepdims=True)
    middle = (start + end) / 2 + bend
    radius_end, radius_start = radius[1:, None], np.minimum(radius[parents[1:]], 1.35 * radius[1:])[:, None]
    radius_middle = (radius_start + radius_end) / 2
    return np.vstack(
        [np.hstack([start, middle, radius_start, radius_middle]), np.hstack([middle, end, radius_middle, radius_end])]
    ).astype(np.float32)


def shortest_parents(nodes: np.ndarray, path_share: float) -> np.ndarray:
    """Parent of each node, by growing from node 0; nodes are visited outwards, so a parent precedes its child."""
    order = np.argsort(np.linalg.norm(nodes - nodes[0], axis=1), kind="stable")
    nodes[:] = nodes[order]
    parents, path = np.zeros(len(nodes), int), np.zeros(len(nodes))
    for child in range(1, len(nodes)):
        reach = np.linalg.norm(nodes[:child] - nodes[child], axis=1)
        parents[child] = np.argmin(reach + path_share * path[:child])
        path[child] = path[parents[child]] + reach[parents[child]]
    return parents


def vessel_coverage(grid: Grid, branches: np.ndarray) -> np.ndarray:
    """(Z, Y, X) float32 share of vessel in each voxel; a vessel thinner than a voxel fills only part of it."""
    coverage = np.zeros(grid.shape, np.float32)
    edge = grid.spacing_mm[2]
    reach = branches[:, 6:].max(axis=1, keepdims=True) + edge
    ends = branches[:, :6].reshape(-1, 2, 3)
    first, stop = grid.corners(ends.min(axis=1) - reach, ends.max(axis=1) + reach)
    for index in np.flatnonzero((stop > first).all(axis=1)):
        box = tuple(map(slice, first[index], stop[index]))
        start, end, radius = branches[index, :3], branches[index, 3:6], branches[index, 6:]
        z, y, x = grid.distances(box, start)
        run = end - start
        along = np.clip((z * run[0] + y * run[1] + x * run[2]) / (run @ run + np.float32(1e-6)), 0, 1)
        square = (z - along * run[0]) ** 2 + (y - along * run[1]) ** 2 + (x - along * run[2]) ** 2
        width = radius[0] + along * (radius[1] - radius[0])
        share = np.clip(0.5 + (width - np.sqrt(square)) / edge, 0, 1) * np.minimum(2 * width / edge, 1)
        np.maximum(coverage[box], share, out=coverage[box])
    return coverage
