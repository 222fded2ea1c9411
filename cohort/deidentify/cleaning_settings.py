"""What a de-identification was asked to do."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

from pellucid.cohort.deidentify.dicom.dicom_headers import DicomOptions
from pellucid.cohort.deidentify.text_masking import TextFinder
from pellucid.cohort.study import ScanConfig

SCHEMA = "pellucid.deidentified/1"
_VERSION = 3  # increased when the content of cleaned files changes: earlier copies are then made again


@dataclass(frozen=True)
class CleaningSettings:
    """What decides how a file comes out."""

    finder: TextFinder
    dicom: DicomOptions
    max_megapixels: float
    facts: tuple[str, ...]  # what the study takes from the originals' headers
    limits: ScanConfig = field(default_factory=ScanConfig)  # of time and memory

    def mark(self) -> str:
        """All that another outcome depends on, as text."""
        finder = {"how": self.finder.how, "mask": self.finder.mask, "everyone": sorted(self.finder.everyone)}
        content = [SCHEMA, _VERSION, finder, asdict(self.dicom), self.max_megapixels, self.facts]
        content += [self.limits.time_limit_s, self.limits.memory_limit_gb]
        return json.dumps(content)
