"""Which DICOM attributes stay in a de-identified file: what is needed to show and describe the picture, nothing else.

PS3.15 Table E.1-1 lists what must go, several hundred attributes in a table that grows each year, besides private and
unknown ones and any text that somebody typed into the wrong field. Here the list is turned round: an attribute stays
only if it stands below. None of KEPT has an action in Table E.1-1 (edition 2026c), but for the two sequences of
references (X/Z/U*), in which the UIDs are replaced. Those that have one and stay, changed or by one of the standard's
options, have a group of their own.
"""

from __future__ import annotations

from functools import cache

from pydicom.datadict import tag_for_keyword

# How the pixels are stored and shown (PS3.3 C.7.6.3, C.7.6.5, C.7.6.6, C.11.1, C.11.2).
_PIXELS = """
SamplesPerPixel PhotometricInterpretation PlanarConfiguration NumberOfFrames Rows Columns BitsAllocated BitsStored
HighBit PixelRepresentation SmallestImagePixelValue LargestImagePixelValue PixelPaddingValue
PixelPaddingRangeLimit PixelSpacing
PixelAspectRatio PixelSpacingCalibrationType WindowCenter WindowWidth VOILUTFunction RescaleIntercept RescaleSlope
RescaleType ModalityLUTSequence VOILUTSequence LUTDescriptor LUTData ModalityLUTType PresentationLUTShape
RedPaletteColorLookupTableDescriptor GreenPaletteColorLookupTableDescriptor BluePaletteColorLookupTableDescriptor
RedPaletteColorLookupTableData GreenPaletteColorLookupTableData BluePaletteColorLookupTableData
SegmentedRedPaletteColorLookupTableData SegmentedGreenPaletteColorLookupTableData
SegmentedBluePaletteColorLookupTableData PixelPresentation VolumetricProperties PixelIntensityRelationship
PixelIntensityRelationshipSign LossyImageCompression LossyImageCompressionRatio LossyImageCompressionMethod ICCProfile
FrameIncrementPointer FrameTime FrameTimeVector CineRate RecommendedDisplayFrameRate StartTrim StopTrim
"""

# What kind of picture it is, and of what.
_DESCRIPTION = """
ImageType SOPClassUID Modality ConversionType BodyPartExamined Laterality ImageLaterality
FrameLaterality PatientOrientation PatientPosition ViewPosition AnatomicRegionSequence AnatomicRegionModifierSequence
ViewCodeSequence ViewModifierCodeSequence SeriesNumber InstanceNumber AcquisitionNumber TemporalPositionIndex StackID
InStackPositionNumber PresentationIntentType QualityControlImage PatientIdentityRemoved
"""

# Where it lies in space, and how its parts belong together.
_GEOMETRY = """
ImagePositionPatient ImageOrientationPatient SliceThickness SpacingBetweenSlices SliceLocation ImagerPixelSpacing
NominalScannedPixelSpacing EstimatedRadiographicMagnificationFactor GantryDetectorTilt TableHeight
SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence PixelMeasuresSequence PlanePositionSequence
PlaneOrientationSequence FrameVOILUTSequence PixelValueTransformationSequence FrameContentSequence
FrameAnatomySequence FrameAcquisitionNumber DimensionIndexValues FrameType CTImageFrameTypeSequence
MRImageFrameTypeSequence SequenceOfUltrasoundRegions RegionSpatialFormat RegionDataType RegionFlags RegionLocationMinX0
RegionLocationMinY0 RegionLocationMaxX1 RegionLocationMaxY1 ReferencePixelX0 ReferencePixelY0 PhysicalUnitsXDirection
PhysicalUnitsYDirection ReferencePixelPhysicalValueX ReferencePixelPhysicalValueY PhysicalDeltaX PhysicalDeltaY
"""

# How it was taken: numbers and coded words. What an operator types freely (protocol, series description) is not here.
_ACQUISITION = """
KVP XRayTubeCurrent ExposureTime Exposure ExposureInuAs FilterType ConvolutionKernel DataCollectionDiameter
ReconstructionDiameter DistanceSourceToDetector DistanceSourceToPatient RotationDirection FocalSpots SpiralPitchFactor
SingleCollimationWidth TotalCollimationWidth CTDIvol ScanOptions ScanningSequence SequenceVariant MRAcquisitionType
AngioFlag RepetitionTime EchoTime InversionTime NumberOfAverages ImagingFrequency ImagedNucleus EchoNumbers
MagneticFieldStrength NumberOfPhaseEncodingSteps EchoTrainLength PercentSampling PercentPhaseFieldOfView PixelBandwidth
FlipAngle InPlanePhaseEncodingDirection SAR TransducerFrequency TransducerType DepthOfScanField MechanicalIndex
BoneThermalIndex CranialThermalIndex SoftTissueThermalIndex PulseRepetitionFrequency ProcessingFunction
Grid AnodeTargetMaterial BodyPartThickness CompressionForce DetectorType DetectorConfiguration
PositionerType PositionerPrimaryAngle PositionerSecondaryAngle FieldOfViewShape FieldOfViewDimensions
RelativeXRayExposure ExposureControlMode FilterMaterial HorizontalFieldOfView PupilDilated IlluminationTypeCodeSequence
AcquisitionDeviceTypeCodeSequence
"""

# The make of the device. Table E.1-1 has no action for it: what it protects is the single device (see DEVICE_IDENTITY).
_MAKE = "Manufacturer ManufacturerModelName SoftwareVersions"

# A coded word; kept only if the standard's tables have the code, and with the meaning from there.
_CODES = "CodeValue CodingSchemeDesignator CodingSchemeVersion CodeMeaning"

# Which other images it was made from; the UIDs in them are remapped like all others.
_REFERENCES = """
ReferencedImageSequence SourceImageSequence ReferencedSOPClassUID ReferencedFrameNumber DerivationImageSequence
"""


def _group(keywords: str) -> tuple[str, ...]:
    return tuple(keywords.split())


KEPT = _group(" ".join([_PIXELS, _DESCRIPTION, _GEOMETRY, _ACQUISITION, _MAKE, _CODES, _REFERENCES]))

# Table E.1-1 action U: replaced by a UID of ours, the same one wherever the old one stood.
UIDS = _group("""
StudyInstanceUID SeriesInstanceUID SOPInstanceUID FrameOfReferenceUID ReferencedSOPInstanceUID
SynchronizationFrameOfReferenceUID IrradiationEventUID ConcatenationUID
""")

# Retain Longitudinal Temporal Information With Modified Dates (CID 7050, 113107): shifted. Times of day are not kept.
DATES = _group("StudyDate SeriesDate AcquisitionDate ContentDate")

# Retain Patient Characteristics (113108); ages over 89 become 90, because so few people have them.
PATIENT = _group("PatientSex PatientAge PatientSize PatientWeight")

# Which single device it was. Retain Device Identity (113109) keeps it; otherwise a keyed name stands there, so that
# pictures of one device still belong together.
DEVICE_IDENTITY = _group("DeviceSerialNumber StationName DetectorID")

# What a viewer expects to be there, even if empty (type 2 of the Patient, Study and Image modules).
EMPTY = _group("PatientBirthDate AccessionNumber ReferringPhysicianName StudyID StudyTime")


# Of ImageType and FrameType only terms that the standard or the makers define stay; anything may be typed there.
IMAGE_TYPES = frozenset(
    _group("""ORIGINAL DERIVED MIXED PRIMARY SECONDARY OTHER NONE AXIAL LOCALIZER VOLUME PERFUSION ANGIO CARDIAC_GATED
    CARDIAC CARDRESP_GATED DYNAMIC FLUOROSCOPY GATED RESP_GATED REST STRESS STATIC REFERENCE MAXIMUM MINIMUM MEAN MEDIAN
    ADDITION SUBTRACTION DIVISION MULTIPLIED SUBTRACTED
    RESAMPLED FILTERED REFORMATTED MPR MIP MINIP PROJECTION REFORMATED CPR
    VOLUME_RENDER SURFACE_RENDER SINGLE_PLANE BIPLANE BIPLANE_A BIPLANE_B SINGLE MULTIPLE TOMO WHOLE_BODY EMISSION
    TRANSMISSION RECON GATED_TOMO ABDOMINAL BREAST CHEST ENDOCAVITARY ENDORECTAL ENDOVAGINAL EPICARDIAL FETAL_HEART
    GYNECOLOGY INTRACARDIAC INTRAOPERATIVE INTRAVASCULAR MUSCULOSKELETAL NEONATAL_HEAD OBSTETRICAL OPHTHALMIC PEDIATRIC
    PELVIC RETROPERITONEAL SCROTAL SMALL_PARTS TEE THYROID TRANSCRANIAL TTE ADULT_ECHO 2D_IMAGING M_MODE CW_DOPPLER
    PW_DOPPLER COLOR_DOPPLER M P R
    I M_FFE M_IR M_SE PHASE MAGNITUDE REAL IMAGINARY NORM ND DIS2D DIS3D DIFFUSION ADC TRACEW FA B0
    MOSAIC FM FMRI MFSPLIT T1 T2 T2_STAR WATER FAT IN_PHASE OUT_OF_PHASE OPP_PHASE DIXON SPECTROSCOPY VELOCITY
    LABEL OVERVIEW THUMBNAIL TOMO_PROJ TOMOSYNTHESIS GENERATED_2D STANDARD MAMMOGRAM SPECIMEN POST_PROCESSED
    PROCESSED RAW STEREO COLOR RED_FREE AUTOFLUORESCENCE FLUORESCENCE MONTAGE 0001 0002""")
)


@cache
def tags(group: tuple[str, ...]) -> frozenset[int]:
    """Tags of a group of keywords.

    Raises:
        KeyError: a keyword that the DICOM dictionary does not have.
    """
    found = {keyword: tag_for_keyword(keyword) for keyword in group}
    unknown = [keyword for keyword, tag in found.items() if tag is None]
    if unknown:
        raise KeyError(f"not in the DICOM dictionary: {', '.join(unknown)}")
    return frozenset(int(tag) for tag in found.values() if tag is not None)
