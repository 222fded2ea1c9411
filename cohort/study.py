"""`study.yaml` → `Study`: where the images and the table are, and what each column means. Everything starts here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import Field, field_validator, model_validator

from cohort.config import Config, ConfigT, did_you_mean, read_yaml, validate
from cohort.errors import UserError

Kind = Literal["categorical", "binary", "ordinal", "continuous"]
Role = Literal["clinical", "acquisition", "outcome"]
SECTIONS = ("scan", "pretrain", "embed", "cluster", "audit")
_PATH_KEYS = (
    "data",
    "images",
    "table",
    "analysis",
)  # given on the command line, they are relative to where one stands


class FromPath(Config):
    """The patient is named by one group of a regular expression on the image's path."""

    from_path: str
    column: str | None = None  # for a table with one row per patient: the column that holds the same ids

    @field_validator("from_path")
    @classmethod
    def _one_group(cls, pattern: str) -> str:
        import re

        try:
            groups = re.compile(pattern).groups
        except re.error as error:
            raise ValueError(f"not a regular expression ({error})") from None
        if groups != 1:
            raise ValueError(f"needs exactly one group in parentheses, has {groups}")
        return pattern


class FromDicom(Config):
    """The patient is named by the DICOM header."""

    from_dicom: Literal["PatientID"] = "PatientID"
    column: str | None = None


class SplitRule(Config):
    """How patients are divided: by hash of patient and seed, or by a column of the table."""

    test: float = Field(0.2, ge=0, lt=1)
    seed: int = 0
    column: str | None = None


class ScanConfig(Config):
    """How originals are read and prepared."""

    size_px: int = Field(256, ge=32, le=4096)  # the prepared copy's shorter side; never enlarged
    jpeg_quality: int = Field(95, ge=50, le=100)
    max_megapixels: float = Field(200, gt=0)  # larger is taken for a decompression bomb
    max_unreadable: float = Field(0.05, ge=0, le=1)  # a larger share stops the scan
    shard_images: int = Field(256, ge=1)
    workers: int = Field(0, ge=0)  # 0: one per core


class StudyConfig(Config):
    """The keys of `study.yaml`."""

    data: str = "."
    images: str | list[str]
    table: str | None = None
    image: str | None = None
    patient: str | FromPath | FromDicom
    clinical: dict[str, Kind] = {}
    acquisition: dict[str, Kind] = {}
    outcome: dict[str, Literal["binary"]] = {}
    split: SplitRule = SplitRule()
    external: dict[str, list[str | int | float | bool]] = {}
    specialty: str | None = None
    analysis: str = "analysis"
    scan: ScanConfig = ScanConfig()
    # Checked by the packages that own them, all before the first verb of `run` starts.
    pretrain: dict[str, Any] = {}
    embed: dict[str, Any] = {}
    cluster: dict[str, Any] = {}
    audit: dict[str, Any] = {}

    @model_validator(mode="after")
    def _one_role_each(self) -> StudyConfig:
        seen: dict[str, str] = {}
        for role in ("clinical", "acquisition", "outcome"):
            for name in getattr(self, role):
                if name in seen:
                    raise ValueError(f"the column `{name}` stands under {seen[name]} and under {role}: choose one")
                seen[name] = role
        if self.table is None and (seen or self.image or self.external or self.split.column):
            raise ValueError("columns are named but there is no `table`")
        if self.table is None and isinstance(self.patient, str) and self.patient != "none":
            raise ValueError(
                f"patient `{self.patient}` is a column but there is no `table`: add one, or write "
                "patient: {from_path: '(…)'}, {from_dicom: PatientID} or none"
            )
        return self


@dataclass(frozen=True)
class Variable:
    """One column of the table and what it means."""

    name: str
    role: Role
    kind: Kind


@dataclass(frozen=True)
class Study:
    """A checked study: the configuration and the folder its paths are relative to."""

    path: Path
    config: StudyConfig

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
    def variables(self) -> list[Variable]:
        c = self.config
        named: list[tuple[Role, dict[str, Any]]] = [
            ("clinical", c.clinical),
            ("outcome", c.outcome),
            ("acquisition", c.acquisition),
        ]
        return [Variable(name, role, kind) for role, kinds in named for name, kind in kinds.items()]

    def section(self, name: str, model: type[ConfigT]) -> ConfigT:
        """One verb's section of `study.yaml` as its package's own checked configuration."""
        return validate(model, getattr(self.config, name), f"{self.path}: {name}")


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
    return Study(path.resolve(), validate(StudyConfig, read_yaml(files, settled), str(path)))


def _against_cwd(override: str) -> str:
    key, eq, value = override.partition("=")
    if eq and key in _PATH_KEYS and value and not value.startswith("["):
        return f"{key}={Path(value).resolve()}"
    return override


def read_table(path: Path, columns: Iterable[str] = ()) -> pd.DataFrame:
    """A clinical table: csv, tsv, xlsx or parquet; a column of ids such as 007 stays text.

    Raises:
        UserError: missing, unreadable or empty table, or a named column that it does not have.
    """
    suffix = path.suffix.lower()
    if not path.is_file():
        raise UserError(f"{path}: the table is not there; correct `table`, or the folder it is relative to (`data`)")
    try:
        if suffix in {".csv", ".tsv", ".txt"}:
            frame = _read_text(path, "\t" if suffix == ".tsv" else ",")
        elif suffix == ".xlsx":
            frame = pd.read_excel(path)  # typed by the spreadsheet itself
        elif suffix == ".parquet":
            frame = pd.read_parquet(path)
        else:
            raise UserError(f"{path}: a table is .csv, .tsv, .xlsx or .parquet, not `{suffix}`")
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path}: the table cannot be read ({type(error).__name__}: {error})") from None
    if frame.empty:
        raise UserError(f"{path}: the table has no rows")
    frame.columns = [str(c).strip() for c in frame.columns]
    missing = [c for c in columns if c not in frame.columns]
    if missing:
        raise UserError(
            "\n".join(f"{path}: there is no column `{c}`{did_you_mean(c, frame.columns)}" for c in missing)
            + f"\nthe table has: {', '.join(frame.columns)}"
        )
    return frame


def _read_text(path: Path, separator: str) -> pd.DataFrame:
    """A text table; a column becomes numbers only where nothing is lost by it (007 is an id, not seven)."""
    frame = pd.read_csv(path, sep=separator, dtype=str)
    european = frame.shape[1] == 1 and ";" in str(frame.columns[0])
    if european:  # a spreadsheet saved where the comma is the decimal sign
        frame = pd.read_csv(path, sep=";", dtype=str)
    for name in frame.columns:
        text = frame[name].str.replace(",", ".") if european else frame[name]
        numbers = pd.to_numeric(text, errors="coerce")
        if numbers.notna().equals(frame[name].notna()) and not text.str.match(r"0\d").fillna(False).any():
            frame[name] = numbers
    return frame
