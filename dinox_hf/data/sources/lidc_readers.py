"""Which of the nodules that readers drew are one: by reader, and by where the masks lie."""

import re
from collections.abc import Iterable, Sequence
from itertools import combinations

from .lidc_masks import BoxMask, overlap

MAX_READERS = 4  # of one scan
SAME_READER_GAP = 20  # numbers of one session follow each other more closely; 5 to 30 give the same 2,672 nodules


def group_readers(readers: Sequence[int], masks: Sequence[BoxMask | None]) -> list[list[int]]:
    """Decide which readers' masks show the same nodule: those that overlap.

    The file does not say. Pairs are joined in the order of falling overlap (intersection over the smaller mask),
    unless a reader would then stand twice in one nodule – who outlined two nodules meant two – or a fifth would join.

    Args:
        readers: reader of each mask.
        masks: the masks; None takes no part.

    Returns:
        Groups of indices, each in reader order, one index per reader.
    """
    group_of = {index: [index] for index, mask in enumerate(masks) if mask is not None}
    overlaps = {pair: overlap(masks[pair[0]], masks[pair[1]]) for pair in combinations(group_of, 2)}
    for first, second in sorted((pair for pair in overlaps if overlaps[pair] > 0), key=lambda pair: -overlaps[pair]):
        joined = group_of[first] + group_of[second]
        if group_of[first] is not group_of[second] and _are_different(readers[index] for index in joined):
            group_of |= dict.fromkeys(joined, sorted(joined))
    return [group for index, group in group_of.items() if index == group[0]]


def _are_different(readers: Iterable[int]) -> bool:
    readers = list(readers)
    return len(set(readers)) == len(readers) <= MAX_READERS


def readers_of(names: Sequence[str]) -> list[int]:
    """Tell readers apart by how they name their nodules.

    Each site of LIDC numbered nodules in its own way (`Nodule 001`, `IL057_127364`, `MI014_12127`, `0`), and one
    session got numbers close to each other. Two nodules are taken as one reader's if their names differ in a number
    only, by at most 20 from one to the next. A reader who came back to add a nodule may count as two, so these numbers
    tell "most likely the same" from "maybe not". Where a name stands twice, names tell nothing, and all count as
    different.

    Args:
        names: of the nodules of one scan.

    Returns:
        A number per name, from 0 in order of appearance; equal numbers mean one reader.
    """
    if len(set(names)) < len(names):
        return list(range(len(names)))
    parts = [re.fullmatch(r"(.*?)(\d*)", name, re.DOTALL).groups() for name in names]
    keys = [(style, int(number or 0)) for style, number in parts]
    session_of, last = {}, None
    for key in sorted(keys):
        is_new = last is None or key[0] != last[0] or key[1] - last[1] > SAME_READER_GAP
        session_of[key] = key if is_new else session_of[last]
        last = key
    order = list(dict.fromkeys(session_of[key] for key in keys))
    return [order.index(session_of[key]) for key in keys]
