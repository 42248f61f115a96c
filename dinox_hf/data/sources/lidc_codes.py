"""The codes that stand for the nine characteristics of LIDC and their ratings in DICOM reports.

Code values are those of Fedorov et al., Medical Physics 2020: terms of NCIt and RadLex where there is one for a step
of the scale, else private ones of the scheme 99LIDCQIICR that end in the rating (`904`: 4 of 5). Coding schemes get
new editions, so where a value is unknown the words of its meaning decide.
"""

import re
from typing import NamedTuple

CHARACTERISTIC_CODES = {
    "C45992": "subtlety",
    "200": "internal_structure",
    "C3672": "calcification",
    "400": "sphericity",
    "C25563": "margin",
    "C62175": "lobulation",
    "C28749": "spiculation",
    "C41144": "texture",
    "RID36042": "malignancy",
}
CHARACTERISTIC_WORDS = {
    "subtlety": "subtlety",
    "internal structure": "internal_structure",
    "calcification": "calcification",
    "sphericity": "sphericity",
    "margin": "margin",
    "lobul": "lobulation",
    "spiculation": "spiculation",
    "texture": "texture",
    "malignancy": "malignancy",
}
PRIVATE_SCHEME = "99LIDCQIICR"
# characteristic -> (code value, first words of the meaning, rating); "non-solid" and "part-solid" come before "solid".
NAMED_RATINGS = {
    "internal_structure": (
        ("C12471", "soft tissue", 1),
        ("C25278", "fluid", 2),
        ("C12472", "adipose", 3),
        ("C73434", "air", 4),
    ),
    "calcification": (
        ("RID35453", "popcorn", 1),
        ("302", "laminated", 2),
        ("RID5741", "solid", 3),
        ("304", "non-central", 4),
        ("RID5827", "central", 5),
        ("RID28473", "absent", 6),
    ),
    "sphericity": (("RID5811", "linear", 1), ("RID5800", "ovoid", 3), ("RID5799", "round", 5)),
    "margin": (("RID5709", "indistinct", 1), ("RID5707", "circumscribed", 5)),
    "texture": (("RID50153", "non-solid", 1), ("RID50152", "part-solid", 3), ("RID50151", "solid", 5)),
}


class Code(NamedTuple):
    """A coded concept of DICOM."""

    value: str
    scheme: str
    meaning: str


def characteristic_of(concept: Code) -> str | None:
    """The characteristic that a concept names, None if it is another concept."""
    if concept.value in CHARACTERISTIC_CODES:
        return CHARACTERISTIC_CODES[concept.value]
    meaning = concept.meaning.lower()
    return next((name for words, name in CHARACTERISTIC_WORDS.items() if meaning.startswith(words)), None)


def rating_of(characteristic: str, code: Code) -> int | None:
    """The rating that a code stands for on the scale of this characteristic, None if it is none we know."""
    meaning = code.meaning.lower()
    for value, words, rating in NAMED_RATINGS.get(characteristic, ()):
        if code.value == value or meaning.startswith(words):
            return rating
    if code.scheme == PRIVATE_SCHEME and re.fullmatch(r"\d0\d", code.value):
        return int(code.value[-1])
    out_of_five = re.match(r"([1-6]) out of [4-6]\b", meaning)
    return int(out_of_five[1]) if out_of_five else None
