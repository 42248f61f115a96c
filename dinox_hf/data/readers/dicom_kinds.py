"""DICOM files that are no slice of a CT scan: other modalities, localizers, reports, pictures."""

from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage, UID_dictionary

from ..volume import Rejection
from .dicom_elements import Elements
from .files import RawFile, UnreadableFile

CT_CLASSES = (CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)
# The standard's own words; another one is damage, or something that must not be told on.
MODALITY_WORDS = """
ANN AR AS ASMT AU BDUS BI BMD CD CF CP CR CS CT CTPROTOCOL DD DF DG DM DMS DOC DS DX EC ECG EEG EMG EOG EPS ES FA FID
FS GM HC HD IO IOL IVOCT IVUS KER KO LEN LP LS M3D MA MG MR MS NM OAM OCT OP OPM OPR OPT OPTBSV OPTENF OPV OSS OT PA
PLAN POS PR PT PX REG RESP RF RG RTDOSE RTIMAGE RTINTENT RTPLAN RTRAD RTRECORD RTSEGANN RTSTRUCT RWV SC SEG SM SMR SR
SRF ST STAIN TEXTUREMAP TG US VA VF XA XAPROTOCOL XC
"""
MODALITIES = frozenset(MODALITY_WORDS.split())


def reject_other_images(file: RawFile, elements: Elements) -> Rejection | None:
    """Say what a file is if it holds something else than slices of a CT scan.

    Nothing is lost with another modality. A file whose modality and class are no words of the standard is damaged, and
    may have been a slice.

    Args:
        file: the file.
        elements: its attributes.

    Returns:
        The Rejection, or None for slices of a CT scan, whole or not.
    """
    sop_class = elements.text("SOPClassUID")
    # Anonymisers drop Modality; CT numbers still show in the SOP class, or in a rescale to HU.
    is_ct = sop_class in CT_CLASSES or (not sop_class and "RescaleIntercept" in elements)
    modality = elements.text("Modality") or ("CT" if is_ct else "")
    is_certain = modality in MODALITIES or (sop_class in UID_dictionary and sop_class not in CT_CLASSES)
    if not is_certain:
        return UnreadableFile(
            file.name,
            "neither its modality nor its class is one of DICOM's",
            "Download the file again, or move it out of the input if it is no slice.",
            loses="scan",
        )
    # Another word may hold anything.
    told = modality if modality in MODALITIES else "not stated"
    if modality == "MR":
        return Rejection(file.name, "modality MR, not CT", "Nothing to do: MR is not read yet.")
    if modality != "CT" and "Rows" not in elements:
        return Rejection(file.name, f"DICOM without an image (modality {told})", "Nothing to do.")
    if modality != "CT":
        return Rejection(file.name, f"modality {told}, not CT", "Nothing to do, if only CT is wanted.")
    image_type = f"{elements.text('ImageType')}\\{elements.text('FrameType')}".upper()
    if "LOCALIZER" in image_type or "SCOUT" in image_type:
        return Rejection(file.name, "a localizer, not a slice", "Nothing to do.")
    if elements.whole("SamplesPerPixel", 1) == 3 and not elements.text("PhotometricInterpretation").startswith("MONO"):
        return Rejection(file.name, "a colour picture, not a slice with CT numbers", "Nothing to do.")
    return None
