"""Ways in which a file is damaged, and which of its bytes may change without anybody being able to tell."""

import io
import random
from collections.abc import Callable
from dataclasses import dataclass

import pydicom
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

NUMBERS = {*["DS", "IS", "US", "SS", "UL", "SL", "FL", "FD", "UV", "SV"]}
TAGS = [0x00280030, 0x00281053, 0x00281052, 0x00200032, 0x00280101, 0x00280103, 0x0020000E, 0x7FE00010, 0x00091001]


@dataclass(frozen=True)
class Original:
    """A file and the places of its elements."""

    whole: bytes
    elements: list[tuple[int, int, bool]]  # start of the element, start of its value, whether it is explicit
    silent: list[range]  # pixels and numbers: a flip there gives another value, and no reader could know

    @classmethod
    def of(cls, whole: bytes) -> "Original":
        """Find the elements of a file; none of a deflated one, where every byte may be silent."""
        original = cls(whole, [], [])
        dataset = pydicom.dcmread(io.BytesIO(whole), force=True)
        if dataset.file_meta.get("TransferSyntaxUID") == pydicom.uid.DeflatedExplicitVRLittleEndian:
            start = 132 + 12 + dataset.file_meta.FileMetaInformationGroupLength
            original.silent.append(range(start, len(whole)))
            return original
        original._add(dataset)
        return original

    def _add(self, dataset: Dataset) -> None:
        for raw in list(dataset._dict.values()):
            if not isinstance(raw, RawDataElement):
                for item in raw.value if raw.VR == "SQ" else ():
                    self._add(item)
                continue
            explicit = not raw.is_implicit_VR
            head = 12 if explicit and raw.VR in {*["OB", "OW", "OF", "OD", "OL", "SQ", "UN", "UT", "UC", "UR"]} else 8
            self.elements.append((raw.value_tell - head, raw.value_tell, explicit))
            try:
                vr = dictionary_VR(raw.tag)
            except KeyError:
                vr = "UN"
            if raw.tag == 0x7FE00010:
                self.silent.append(range(raw.value_tell, len(self.whole)))
            elif vr.split(" or ")[0] in NUMBERS:
                self.silent.append(range(raw.value_tell, raw.value_tell + raw.length))
        for raw in list(dataset._dict.values()):
            if (isinstance(raw, RawDataElement) and raw.VR == "SQ") or raw.tag in (0x52009229, 0x52009230):
                for item in dataset[raw.tag].value:
                    self._add(item)


def truncated(draw: random.Random, original: Original) -> bytes:
    return original.whole[: draw.randrange(len(original.whole))]


def flipped(draw: random.Random, original: Original) -> bytes:
    """Up to eight bytes changed, none of them in pixels or numbers."""
    mutant = bytearray(original.whole)
    for _ in range(draw.randint(1, 8)):
        place = draw.randrange(len(mutant) if draw.random() < 0.1 else min(len(mutant), 8192))
        if not any(place in silent for silent in original.silent):
            mutant[place] = draw.randrange(256)
    return bytes(mutant)


def shortened(draw: random.Random, original: Original) -> bytes:
    """Some bytes missing."""
    first, count = _place(draw, original), draw.choice([1, 2, 8, 30, 500])
    return original.whole[:first] + original.whole[first + count :]


def doubled(draw: random.Random, original: Original) -> bytes:
    """Some bytes twice."""
    first, count = _place(draw, original), draw.choice([1, 2, 8, 30, 500])
    return original.whole[: first + count] + original.whole[first:]


def wrong_tag(draw: random.Random, original: Original) -> bytes:
    tag = draw.choice(TAGS)
    return _overwrite(draw, original, 0, tag.to_bytes(4, "big")[1::-1] + tag.to_bytes(4, "big")[:1:-1])


def wrong_length(draw: random.Random, original: Original) -> bytes:
    length = draw.choice([0, 1, 2, 6, 7, 100, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
    return _overwrite(draw, original, -1, length.to_bytes(4, "little"))


def wrong_type(draw: random.Random, original: Original) -> bytes:
    return _overwrite(draw, original, 4, draw.choice([b"SQ", b"OB", b"UN", b"DS", b"US", b"LO", b"ZZ", b"\0\0"]))


MUTATIONS: list[Callable[[random.Random, Original], bytes]] = [
    *(truncated, flipped, shortened, doubled, wrong_tag, wrong_length, wrong_type)
]


def flipped_anywhere(draw: random.Random, original: Original) -> bytes:
    """Up to eight bytes changed: the result may differ, but must be a result."""
    mutant = bytearray(original.whole)
    for _ in range(draw.randint(1, 8)):
        mutant[draw.randrange(len(mutant) if draw.random() < 0.5 else min(len(mutant), 8192))] = draw.randrange(256)
    return bytes(mutant)


def _place(draw: random.Random, original: Original) -> int:
    return draw.randrange(132, len(original.whole) if draw.random() < 0.3 else min(len(original.whole), 8192))


def _overwrite(draw: random.Random, original: Original, at: int, new: bytes) -> bytes:
    """Change the tag (0), type (4) or length (-1) of one element."""
    if not original.elements:
        return flipped(draw, original)
    start, value, is_explicit = draw.choice(original.elements)
    if at == 4 and not is_explicit:
        return flipped(draw, original)
    if at == -1:
        new = new[: 2 if is_explicit and value - start == 8 else 4]
        place = value - len(new)
    else:
        place = start + at
    return original.whole[:place] + new + original.whole[place + len(new) :]
