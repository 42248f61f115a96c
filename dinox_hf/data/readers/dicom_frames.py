"""Enhanced multi-frame files: one header for many slices becomes one set of attributes per slice.

Enhanced CT keeps geometry and rescale in functional groups: sequences that hold for all frames (shared) or for one.
Spread out, a frame has the very attributes of a classic slice, and everything behind this page treats it as one.
"""

from .dicom_elements import Damage, Elements

MOST_FRAMES = 100_000  # no scanner writes a tenth of it


class Frame(Elements):
    """Attributes of one slice, with the UID by which it is known."""

    frame_uid = ""  # empty: that of the file


def split_frames(elements: Elements) -> list[Frame]:
    """Attributes of each slice in a file, in stored order.

    The frames of one file share its SOPInstanceUID. A frame that was converted from a classic slice names that
    slice's UID, which is kept so that annotations find it; others are known as `UID#number`.

    Args:
        elements: of the file.

    Returns:
        One Frame, or as many as NumberOfFrames says.

    Raises:
        Damage: if functional groups are missing or their number is not that of the frames.
    """
    count = _num_frames(elements)
    groups = elements.get("PerFrameFunctionalGroupsSequence")
    if groups is None:
        if count > 1:
            raise Damage(f"multi-frame CT with {count} frames, and not a word of where each lies (functional groups)")
        return [_frame(elements)]
    if len(groups) != count:
        raise Damage(f"it should describe {count} frames; found descriptions of {len(groups)}")
    shared = [item for group in elements.get("SharedFunctionalGroupsSequence", ()) for item in _members(group)]
    common = _frame(elements, *shared)
    frames = []
    for number, group in enumerate(groups, 1):
        frame = _frame(common, *_members(group))
        frame.frame_uid = frame.text("ReferencedSOPInstanceUID") or f"{elements.text('SOPInstanceUID')}#{number}"
        frames.append(frame)
    return frames


def _num_frames(elements: Elements) -> int:
    text = elements.text("NumberOfFrames") or "1"
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= MOST_FRAMES and len(text) < 9):
        raise Damage("NumberOfFrames is no number of frames")
    return int(text)


def _members(group: Elements) -> list[Elements]:
    """Items of the functional groups of one frame."""
    return [item for value in group.values() if isinstance(value, list) for item in value]


def _frame(elements: Elements, *members: Elements) -> Frame:
    frame = Frame(elements)
    for member in members:
        frame.update(member)
    frame.is_big_endian = elements.is_big_endian
    # The description of all frames would otherwise travel with each.
    frame.pop("PerFrameFunctionalGroupsSequence", None)
    return frame
