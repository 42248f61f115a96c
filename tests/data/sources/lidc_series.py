"""Annotations of LIDC written as Imaging Data Commons ships them: a segmentation and a report per reader and nodule.

Written with highdicom, and filled by a rule of its own – pixel centres within the polygon, without the points of the
outline, as the converter of the collection did – so that reading it back says something about our reader.
"""

from pathlib import Path

import highdicom as hd
import numpy as np
from highdicom.sr import (
    CodedConcept,
    FindingSite,
    MeasurementReport,
    ObservationContext,
    ObserverContext,
    PersonObserverIdentifyingAttributes,
    QualitativeEvaluation,
    ReferencedSegment,
    SourceSeriesForSegmentation,
    TrackingIdentifier,
    VolumetricROIMeasurementsAndQualitativeEvaluations,
)
from matplotlib.path import Path as Polygon
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

PRIVATE = "99LIDCQIICR"
OBSERVER = "Doe^Observer"  # must not be kept
CONCEPTS = {
    "subtlety": ("C45992", "NCIt", "Subtlety score"),
    "internal_structure": ("200", PRIVATE, "Internal structure"),
    "calcification": ("C3672", "NCIt", "Calcification"),
    "sphericity": ("400", PRIVATE, "Sphericity"),
    "margin": ("C25563", "NCIt", "Margin"),
    "lobulation": ("C62175", "NCIt", "Lobular Pattern"),
    "spiculation": ("C28749", "NCIt", "Spiculation"),
    "texture": ("C41144", "NCIt", "Texture"),
    "malignancy": ("RID36042", "RadLex", "Malignancy"),
}
NAMED = {
    ("internal_structure", 1): ("C12471", "NCIt", "Soft tissue"),
    ("internal_structure", 2): ("C25278", "NCIt", "Fluid"),
    ("internal_structure", 3): ("C12472", "NCIt", "Adipose tissue"),
    ("internal_structure", 4): ("C73434", "NCIt", "Air"),
    ("calcification", 1): ("RID35453", "RadLex", "Popcorn calcification sign"),
    ("calcification", 2): ("302", PRIVATE, "Laminated appearance"),
    ("calcification", 3): ("RID5741", "RadLex", "Solid appearance"),
    ("calcification", 4): ("304", PRIVATE, "Non-central appearance"),
    ("calcification", 5): ("RID5827", "RadLex", "Central calcification"),
    ("calcification", 6): ("RID28473", "RadLex", "Absent"),
    ("sphericity", 1): ("RID5811", "RadLex", "linear"),
    ("sphericity", 3): ("RID5800", "RadLex", "ovoid"),
    ("sphericity", 5): ("RID5799", "RadLex", "round"),
    ("margin", 1): ("RID5709", "RadLex", "Indistinct margin"),
    ("margin", 5): ("RID5707", "RadLex", "Circumscribed margin"),
    ("lobulation", 1): ("601", PRIVATE, "1 out of 5 (No lobulation)"),
    ("lobulation", 5): ("605", PRIVATE, "5 out of 5 (Marked lobulation)"),
    ("spiculation", 1): ("701", PRIVATE, "1 out of 5 (No spiculation)"),
    ("spiculation", 5): ("705", PRIVATE, "5 out of 5 (Marked spiculation)"),
    ("texture", 1): ("RID50153", "RadLex", "non-solid pulmonary nodule"),
    ("texture", 3): ("RID50152", "RadLex", "part-solid pulmonary nodule"),
    ("texture", 5): ("RID50151", "RadLex", "solid pulmonary nodule"),
}
WORDS = {"subtlety": 1, "malignancy": 9}  # every step has words of its own: 101..105, 901..905


def rating_code(characteristic: str, rating: int) -> tuple[str, str, str]:
    """Value, scheme and meaning of one step of a scale."""
    if characteristic in WORDS:
        return f"{WORDS[characteristic]}0{rating}", PRIVATE, f"{rating} out of 5 (words)"
    return NAMED.get((characteristic, rating), (f"00{rating}", PRIVATE, f"{rating} out of 5"))


def polygon_mask(drawings, slices) -> np.ndarray:
    """(Z, rows, columns) bool of one reader's outlines, found by the UIDs of the slices."""
    number_of = {slice_.SOPInstanceUID: number for number, slice_ in enumerate(slices)}
    mask = np.zeros((len(slices), slices[0].Rows, slices[0].Columns), dtype=bool)
    centres = np.argwhere(np.ones(mask.shape[1:], dtype=bool))[:, ::-1]
    for outline in sorted(drawings, key=lambda outline: not outline.is_inclusion):
        if outline.slice_uid not in number_of:
            continue
        frame = mask[number_of[outline.slice_uid]]
        inside = Polygon([*outline.points, outline.points[0]], closed=True).contains_points(centres)
        frame[inside.reshape(frame.shape)] = outline.is_inclusion
        frame[outline.points[:, 1], outline.points[:, 0]] = False
    return mask


def write_annotation(folder: Path, slices, nodules, with_reports=True, composite=False, stem="") -> list[Path]:
    """One SEG and one SR per nodule, or one of each for all.

    Args:
        folder: exists.
        slices: CT data sets from feet to head.
        nodules: ReaderNodules with outlines, in the order of the readers.
        with_reports: write the SR files too.
        composite: write all nodules as segments of one file.
        stem: before the names of the files.
    """
    files = []
    batches = [nodules] if composite else [[nodule] for nodule in nodules]
    for number, batch in enumerate(batches):
        labels = [f"Nodule 1 - Annotation {nodule.name}" for nodule in batch]
        masks = np.stack([polygon_mask(nodule.drawings, slices) for nodule in batch], axis=-1)
        segmentation = _segmentation(slices, masks, labels, series_number=3000 + 2 * number)
        files.append(folder / f"{stem}seg{number:03d}.dcm")
        segmentation.save_as(files[-1])
        if with_reports:
            report = _report(slices, segmentation, batch, series_number=3001 + 2 * number)
            # Reports sort before segmentations: the reader must not count on an order.
            files.append(folder / f"{stem}report{number:03d}.dcm")
            report.save_as(files[-1])
    return files


def _segmentation(slices, masks, labels, series_number):
    descriptions = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=label,
            segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=codes.SCT.Nodule,
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.MANUAL,
            tracking_uid=generate_uid(),
            tracking_id="Nodule 1",
        )
        for number, label in enumerate(labels, 1)
    ]
    return hd.seg.Segmentation(
        source_images=slices,
        pixel_array=masks.astype(np.uint8),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=descriptions,
        series_instance_uid=generate_uid(),
        series_number=series_number,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="QIICR",
        manufacturer_model_name="test",
        software_versions="0",
        device_serial_number="0",
        content_creator_name=OBSERVER,
        series_description=f"Segmentation of {labels[0]}",
    )


def _report(slices, segmentation, nodules, series_number):
    groups = [
        VolumetricROIMeasurementsAndQualitativeEvaluations(
            tracking_identifier=TrackingIdentifier(uid=generate_uid(), identifier="Nodule 1"),
            referenced_segment=ReferencedSegment(
                sop_class_uid=segmentation.SOPClassUID,
                sop_instance_uid=segmentation.SOPInstanceUID,
                segment_number=number,
                source_series=SourceSeriesForSegmentation.from_source_image(slices[0]),
            ),
            finding_type=codes.SCT.Nodule,
            finding_sites=[FindingSite(anatomic_location=codes.SCT.Lung)],
            qualitative_evaluations=[
                QualitativeEvaluation(CodedConcept(*CONCEPTS[name]), CodedConcept(*rating_code(name, rating)))
                for name, rating in nodule.ratings.items()
                if rating is not None
            ],
        )
        for number, nodule in enumerate(nodules, 1)
    ]
    observer = ObserverContext(codes.DCM.Person, PersonObserverIdentifyingAttributes(name=OBSERVER))
    content = MeasurementReport(
        observation_context=ObservationContext(observer_person_context=observer),
        procedure_reported=codes.LN.CTUnspecifiedBodyRegion,
        imaging_measurements=groups,
    )
    return hd.sr.Comprehensive3DSR(
        evidence=[*slices, segmentation],
        content=content[0],
        series_instance_uid=generate_uid(),
        series_number=series_number,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="QIICR",
        is_complete=True,
        is_verified=True,
        verifying_observer_name=OBSERVER,
        verifying_organization="anonymous",
    )
