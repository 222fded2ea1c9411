"""`study.yaml` → `Study`: where the images and the table are, and what each column means. Everything starts here."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, time
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator

from pellucid.cohort.config import Config, ConfigT, did_you_mean, read_yaml, validate
from pellucid.cohort.path_pattern import compiled
from pellucid.cohort.runs.stages import SECTIONS

Kind = Literal["categorical", "binary", "ordinal", "continuous"]
DatePart = Literal["year", "days"]
Role = Literal["clinical", "acquisition", "outcome"]
_PATH_KEYS = (
    "data",
    "images",
    "table",
    "analysis",
    "annotation",
)  # given on the command line, they are relative to the current folder


class FromPath(Config):
    """The patient is named by one group of a regular expression on the image's path."""

    from_path: str
    column: str | None = None  # for a table with one row per patient: the column that holds the same ids

    @field_validator("from_path")
    @classmethod
    def _one_group(cls, pattern: str) -> str:
        compiled(pattern)
        return pattern


class FromDicom(Config):
    """The patient is named by the DICOM header."""

    from_dicom: Literal["PatientID"] = "PatientID"
    column: str | None = None


class TwoLevels(Config):
    """A two-level variable with its event declared: `{kind: binary, positive: malignant}`."""

    kind: Literal["binary"] = "binary"
    positive: Annotated[str, BeforeValidator(lambda value: _level_text(value))]

    @field_validator("kind", mode="before")
    @classmethod
    def _two_levels(cls, kind: object) -> object:
        if kind != "binary":
            raise ValueError("only a variable of kind binary has an event, which `positive` names")
        return kind


class DateColumn(Config):
    """A column of days, and what is derived from it: `{kind: date, derive: [year]}`."""

    kind: Literal["date"] = "date"
    derive: tuple[DatePart, ...] = Field(("year", "days"), min_length=1)


def as_level(value: object) -> str:
    """A level as the user wrote it: 3.0, from a column with missing values, is `3`; a day at midnight is the day."""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    if isinstance(value, datetime) and value.time() == time():
        return value.date().isoformat()
    return unicodedata.normalize("NFC", str(value)).strip()


def _level_text(value: object) -> object:
    """A level of study.yaml as the table has it: YAML's 1 is "1", its true is "true"."""
    if isinstance(value, bool):
        return str(value).lower()
    return as_level(value) if isinstance(value, int | float) else value


def _kind_alone(value: object) -> object:
    """`{kind: ordinal}` is `ordinal`; what declares an event must say which level it is."""
    if isinstance(value, dict) and "positive" not in value and set(value) == {"kind"}:
        return value["kind"]
    return value


class SplitRule(Config):
    """How patients are divided: by hash of patient and seed, or by a column of the table."""

    test: float = 0.2  # share of patients, not of images
    seed: int = 0
    column: str | None = None
    stratify: list[str] | None = None  # variables; None: the outcomes, [] nothing

    @field_validator("test")
    @classmethod
    def _a_share(cls, value: float) -> float:
        if not 0 <= value < 1:
            hint = f"; for {value:g} % write {value / 100:g}" if 1 < value < 100 else ""
            raise ValueError(f"must be a share of the patients, from 0 to less than 1, for example 0.2{hint}")
        return value

    @model_validator(mode="after")
    def _one_way(self) -> SplitRule:
        if self.column is not None and self.stratify:
            raise ValueError(f"the column `{self.column}` decides, so `stratify` has no say: remove one of the two")
        return self


def _declared_as(value: object) -> str:
    if isinstance(value, DateColumn) or (isinstance(value, dict) and value.get("kind") == "date"):
        return "DateColumn"
    return "TwoLevels" if isinstance(value, dict | TwoLevels) else "str"


# The names of the branches are those that messages leave out of a key's path.
Declared = Annotated[
    Annotated[Literal["categorical", "binary", "ordinal", "continuous", "date"], Tag("str")]
    | Annotated[TwoLevels, Tag("TwoLevels")]
    | Annotated[DateColumn, Tag("DateColumn")],
    Discriminator(_declared_as),
    BeforeValidator(_kind_alone),
]
DeclaredOutcome = Annotated[
    Annotated[Literal["binary"], Tag("str")] | Annotated[TwoLevels, Tag("TwoLevels")],
    Discriminator(_declared_as),
    BeforeValidator(_kind_alone),
]


class ScanConfig(Config):
    """How originals are read and prepared."""

    size_px: int = Field(256, ge=32, le=4096)  # the prepared copy's shorter side; never enlarged
    jpeg_quality: int = Field(95, ge=50, le=100)
    max_megapixels: float = Field(200, gt=0)  # larger is taken for a decompression bomb
    max_unreadable: float = Field(0.05, ge=0, le=1)  # a larger share stops the scan
    frames: str = "all"  # of a file that holds several pictures: all, middle, or every N
    tile_px: int = Field(256, ge=32, le=4096)  # whole slides are cut into tiles of this many pixels …
    tile_um_per_px: float = Field(0.5, gt=0)  # … at this resolution, in µm per pixel
    min_tissue: float = Field(0.5, ge=0, le=1)  # share of a tile that must be tissue
    text: Literal["lines", "ocr"] = "lines"  # burned-in text: found by its form, or read (extra `privacy`)
    faces: bool = False  # look for faces on colour pictures, about 0.1 s each
    time_limit_s: float = Field(60, gt=0)  # a file that takes longer is set aside
    memory_limit_gb: float = Field(8, gt=0)  # a file that needs more is set aside
    shard_images: int = Field(256, ge=1)
    workers: int = Field(0, ge=0)  # 0: one per core

    @field_validator("frames")
    @classmethod
    def _known_frames(cls, value: str) -> str:
        if not re.fullmatch(r"all|middle|every [1-9][0-9]*", value):
            raise ValueError("must be all, middle, or every N, for example `every 10`")
        return value


class StudyConfig(Config):
    """The keys of `study.yaml`."""

    sections: ClassVar[tuple[str, ...]] = SECTIONS
    data: str = "."
    images: str | list[str]
    table: str | None = None
    sheet: str | None = None  # of a workbook with several
    decimal: Literal[",", "."] | None = None  # the table's decimal sign, where its numbers do not tell
    missing: list[str | int | float] | None = None  # words for "no value" instead of the usual ones
    image: str | None = None
    patient: str | FromPath | FromDicom
    clinical: dict[str, Declared] = {}
    acquisition: dict[str, Declared] = {}
    outcome: dict[str, DeclaredOutcome] = {}
    split: SplitRule = SplitRule()
    external: dict[str, list[str | int | float | bool]] = {}
    specialty: str | None = None
    quality: dict[str, Any] = {}  # thresholds that replace those of the specialty
    analysis: str = "analysis"
    annotation: str = "annotation"
    scan: ScanConfig = ScanConfig()
    # Checked by the packages that own them, all before the first verb of `run` starts.
    pretrain: dict[str, Any] = {}
    embed: dict[str, Any] = {}
    near: dict[str, Any] = {}
    cluster: dict[str, Any] = {}
    audit: dict[str, Any] = {}

    @model_validator(mode="after")
    def _one_role_each(self) -> StudyConfig:
        seen: dict[str, str] = {}
        for role in ("clinical", "acquisition", "outcome"):
            for name in [v for column, kind in getattr(self, role).items() for v in _names_of(column, kind)]:
                if name in seen:
                    raise ValueError(f"the column `{name}` is listed under {seen[name]} and under {role}: choose one")
                if name in {self.image, self.patient}:
                    raise ValueError(
                        f"the column `{name}` names the image or the patient: it cannot be a variable as well"
                    )
                seen[name] = role
        unknown = [name for name in self.split.stratify or () if name not in seen]
        if unknown:
            raise ValueError(
                f"split.stratify names `{unknown[0]}`, which is no declared variable{did_you_mean(unknown[0], seen)}"
            )
        columns = [name for name, role in seen.items() if role != "acquisition" or not is_header_fact(name)]
        columns += [name for name in self.external if not is_header_fact(name)]
        if self.table is None and (columns or self.image or self.split.column):
            raise ValueError("columns are named but there is no `table`")
        if self.table is None and isinstance(self.patient, str) and self.patient != "none":
            raise ValueError(
                f"patient `{self.patient}` is a column but there is no `table`: add one, or write "
                "patient: {from_path: '(…)'}, {from_dicom: PatientID} or none"
            )
        return self


def is_header_fact(name: str) -> bool:
    """Is this acquisition factor something that the files themselves say, and no column of the table?"""
    return name.startswith("header_") or name in {"format", "width", "height", "bits"}


@dataclass(frozen=True)
class Variable:
    """One column of the manifest and what it means.

    Attributes:
        positive: the level that counts as the event, where study.yaml declares it.
        part: what the variable is of a column of days; None where it is the column itself.
    """

    name: str
    role: Role
    kind: Kind
    positive: str | None = None
    part: DatePart | None = None

    @property
    def table_column(self) -> str:
        """The column of the table that it comes from."""
        return self.name if self.part is None else self.name.removesuffix(f"_{self.part}")


def _parts_of(declared: Any) -> tuple[DatePart, ...]:
    if declared == "date":
        return DateColumn().derive
    return tuple(dict.fromkeys(declared.derive)) if isinstance(declared, DateColumn) else ()


def _names_of(name: str, declared: Any) -> list[str]:
    """The variables that a declared column gives."""
    return [f"{name}_{part}" for part in _parts_of(declared)] or [name]


def _variables(name: str, role: Role, declared: Any) -> list[Variable]:
    if isinstance(declared, TwoLevels):
        return [Variable(name, role, declared.kind, declared.positive)]
    parts = _parts_of(declared)
    kinds: dict[DatePart, Kind] = {"year": "ordinal", "days": "continuous"}
    if parts:
        return [Variable(f"{name}_{part}", role, kinds[part], None, part) for part in parts]
    return [Variable(name, role, declared)]


@dataclass(frozen=True)
class Study:
    """A checked study: the configuration and the folder its paths are relative to."""

    path: Path
    config: StudyConfig
    typed: tuple[str, ...] = ()  # keys that were given on the command line

    @property
    def data(self) -> Path:
        """Folder that `images` and `table` are relative to."""
        return (self.path.parent / self.config.data).resolve()

    @property
    def image_root(self) -> Path:
        """Folder that every `image_id` is relative to."""
        images = self.config.images
        return (self.data / images).resolve() if isinstance(images, str) else self.data

    @property
    def table(self) -> Path | None:
        return None if self.config.table is None else (self.data / self.config.table).resolve()

    @property
    def analysis(self) -> Path:
        """Folder of all run folders."""
        return (self.path.parent / self.config.analysis).resolve()

    @property
    def quality_annotations(self) -> Path:
        """What people said of the quality of images; it need not be there."""
        return (self.path.parent / self.config.annotation / "quality.csv").resolve()

    @property
    def withdrawn(self) -> Path:
        """The list of who withdrew consent, by salted hashes; it need not be there."""
        return (self.path.parent / self.config.annotation / "withdrawn.json").resolve()

    @property
    def variables(self) -> list[Variable]:
        c = self.config
        named: list[tuple[Role, dict[str, Any]]] = [
            ("clinical", c.clinical),
            ("outcome", c.outcome),
            ("acquisition", c.acquisition),
        ]
        return [
            variable
            for role, columns in named
            for name, declared in columns.items()
            for variable in _variables(name, role, declared)
        ]

    @property
    def derived(self) -> set[str]:
        """Names of the variables that are no columns of the table: the parts of days."""
        return {variable.name for variable in self.variables if variable.part is not None}

    @property
    def strata(self) -> list[str]:
        """Variables that the split is balanced by."""
        rule = self.config.split
        if rule.column is not None:
            return []
        return list(self.config.outcome) if rule.stratify is None else rule.stratify

    def section(self, name: str, model: type[ConfigT]) -> ConfigT:
        """One verb's section of `study.yaml` as its package's own checked configuration."""
        return validate(model, getattr(self.config, name), str(self.path), name, self.typed)


def load_study(path: Path, overrides: Iterable[str] = (), config: Path | None = None) -> Study:
    """Read and check a study file (or the `study.yaml` in a folder).

    Args:
        path: the file, or the folder that holds `study.yaml`.
        overrides: `key.sub=value`; paths among them are relative to the current folder.
        config: another YAML file whose keys replace those of the study, before the overrides.

    Raises:
        UserError: all mistakes at once, each with file, key and what to do.
    """
    path = path / "study.yaml" if path.is_dir() else path
    settled = [_against_cwd(override) for override in overrides]
    files = [path, config] if config is not None else [path]
    typed = tuple(override.partition("=")[0] for override in settled)
    return Study(path.resolve(), validate(StudyConfig, read_yaml(files, settled), str(path), typed=typed), typed)


def _against_cwd(override: str) -> str:
    key, eq, value = override.partition("=")
    if eq and key in _PATH_KEYS and value and not value.startswith("["):
        return f"{key}={Path(value).resolve()}"
    return override
