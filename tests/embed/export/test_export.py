"""Exports: the same vectors in every format, nobody named, nothing overwritten, nothing half-written."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pellucid.cohort.errors import UserError
from pellucid.cohort.images.prepared_images import PreparedImages
from pellucid.cohort.runs.folder import RunFolder, begin_run
from pellucid.cohort.study import Study, load_study
from pellucid.embed.export import Chosen, choose_folder, choose_study, command, export_vectors, parquet
from pellucid.embed.extract.plain_folder import embed_folder
from pellucid.embed.extract.stage import embed
from pellucid.embed.store.vectors import load_vectors


@pytest.fixture(scope="module")
def embedded(
    scanned: tuple[Study, RunFolder], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Study, RunFolder, RunFolder]:
    """The scanned phantom with vectors of its pixels and a map. Read only."""
    study, scan = scanned
    analysis = tmp_path_factory.mktemp("exported") / "analysis"
    study = load_study(study.path, [f"analysis={analysis}"])
    run = embed(study, scan, "pixels", device="cpu", progress=False)
    images = load_vectors(run.path).images
    rng = np.random.default_rng(0)
    table = images[["image_id", "patient"]].assign(
        x=rng.normal(size=len(images)).astype(np.float32), y=np.float32(0), cluster=rng.integers(-1, 4, len(images))
    )
    with begin_run(study.analysis, "cluster", run.name, {}, [run]) as made:
        table.sample(frac=1, random_state=0).to_parquet(made.path / "clusters.parquet")
    return study, scan, run


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks for a few images."""
    monkeypatch.setattr(parquet, "ROWS", 16)


@pytest.fixture
def chosen(embedded: tuple[Study, RunFolder, RunFolder]) -> Chosen:
    return choose_study(*embedded)


def private(scan: RunFolder) -> set[str]:
    """Everything that must not be read in an export: own ids, file names, hashes of originals."""
    manifest = pd.read_parquet(scan.path / "manifest.parquet")
    manifest = manifest[manifest["status"] == "ok"]
    names = set(manifest["image_id"]) | set(manifest["image_id"].str.rpartition("/")[2])
    return names | set(manifest["patient_source_id"].astype(str)) | set(manifest["sha256"])


@pytest.mark.parametrize("to", ["parquet", "h5ad", "projector", "atlas"])
def test_nobody_is_named(embedded: tuple[Study, RunFolder, RunFolder], chosen: Chosen, to: str, tmp_path: Path) -> None:
    if to == "h5ad":
        pytest.importorskip("h5py")
    out = tmp_path / {"parquet": "v.parquet", "atlas": "v.parquet", "h5ad": "v.h5ad", "projector": "v"}[to]
    export_vectors(chosen, to, out)
    files = sorted(out.rglob("*")) if out.is_dir() else [out]
    content = b"".join(path.read_bytes() for path in files)
    if out.suffix == ".parquet":
        content += pd.read_parquet(out).drop(columns=["vector", "neighbors"], errors="ignore").to_csv().encode()
    secrets = private(embedded[1])
    assert len(secrets) > 50
    assert [name for name in secrets if name.encode() in content] == []
    assert b"P0001" in content


def test_parquet_holds_the_vectors_in_their_order(chosen: Chosen, tmp_path: Path) -> None:
    out = tmp_path / "v.parquet"
    export_vectors(chosen, "parquet", out)
    table = pq.read_table(out)
    values = np.asarray(chosen.vectors.values)
    assert str(table.schema.field("vector").type) == f"fixed_size_list<element: float>[{values.shape[1]}]"
    found = table["vector"].combine_chunks().flatten().to_numpy().reshape(values.shape)
    np.testing.assert_array_equal(found, values)
    assert table["image"].to_pylist() == chosen.frame["image"].tolist()
    assert {"patient", "split", "diagnosis", "age", "device", "phenotype_redness", "cluster"} <= set(table.column_names)
    assert table.schema.metadata[b"pellucid.export"] == b"pellucid.export/1"
    assert pq.ParquetFile(out).num_row_groups > 1


def test_research_ids_of_images_number_each_patients(embedded: tuple[Study, RunFolder, RunFolder]) -> None:
    _, scan, run = embedded
    frame = choose_study(*embedded).frame
    assert frame["image"].is_unique
    manifest = pd.read_parquet(scan.path / "manifest.parquet").set_index("image_id")
    ids = load_vectors(run.path).images["image_id"]
    assert frame["patient"].tolist() == manifest.loc[ids, "patient"].tolist()
    for patient, rows in frame.assign(own=ids.to_numpy()).groupby("patient"):
        numbers = [f"{patient}-{i:02d}" for i in range(1, len(rows) + 1)]
        assert rows.sort_values("own")["image"].tolist() == numbers


def test_h5ad_is_what_anndata_asks_for(chosen: Chosen, tmp_path: Path) -> None:
    """After the page "On-disk format" of anndata's documentation, read with h5py alone."""
    h5py = pytest.importorskip("h5py")
    out = tmp_path / "v.h5ad"
    export_vectors(chosen, "h5ad", out)
    values, frame = np.asarray(chosen.vectors.values), chosen.frame

    def column(group: Any) -> list[Any]:
        if isinstance(group, h5py.Dataset):
            return list(group.asstr()[:]) if group.attrs["encoding-type"] == "string-array" else group[:].tolist()
        assert group.attrs["encoding-type"] == "categorical"
        levels = [*group["categories"].asstr()[:], None]  # code −1: a gap
        return [levels[code] for code in group["codes"][:]]

    with h5py.File(out) as file:
        assert dict(file.attrs) == {"encoding-type": "anndata", "encoding-version": "0.1.0"}
        assert {"X", "obs", "var", "obsm", "varm", "obsp", "varp", "layers", "uns"} == set(file)
        np.testing.assert_array_equal(file["X"][:], values)
        assert file["X"].attrs["encoding-type"] == "array"
        np.testing.assert_array_equal(file["obsm/X_umap"][:], chosen.xy)
        obs = file["obs"]
        assert (obs.attrs["encoding-type"], obs.attrs["encoding-version"]) == ("dataframe", "0.2.0")
        assert column(obs[obs.attrs["_index"]]) == frame["image"].tolist()
        assert list(obs.attrs["column-order"]) == [name for name in frame.columns if name != "image"]
        assert column(obs["patient"]) == frame["patient"].tolist()
        assert (
            column(obs["diagnosis"])
            == frame["diagnosis"].astype(object).where(frame["diagnosis"].notna(), None).tolist()
        )
        np.testing.assert_allclose(column(obs["age"]), frame["age"].to_numpy(float))
        assert len(file["var"][file["var"].attrs["_index"]]) == values.shape[1]
        assert '"backbone": "pixels"' in file["uns/pellucid/spec"].asstr()[()]


def test_anndata_reads_it_whole_and_backed(chosen: Chosen, tmp_path: Path) -> None:
    anndata = pytest.importorskip(
        "anndata", reason="anndata asks for a pandas below 3: only where somebody installed it"
    )
    out = tmp_path / "v.h5ad"
    export_vectors(chosen, "h5ad", out)
    values = np.asarray(chosen.vectors.values)
    whole = anndata.read_h5ad(out)
    np.testing.assert_array_equal(whole.X, values)
    np.testing.assert_array_equal(whole.obsm["X_umap"], chosen.xy)
    assert whole.obs_names.tolist() == chosen.frame["image"].tolist()
    assert whole.obs["patient"].astype(str).tolist() == chosen.frame["patient"].tolist()
    assert whole.n_vars == values.shape[1]
    backed = anndata.read_h5ad(out, backed="r")
    np.testing.assert_array_equal(backed.X[5:9], values[5:9])
    backed.file.close()


def test_the_projector_finds_numbers_columns_and_pictures_in_one_order(
    embedded: tuple[Study, RunFolder, RunFolder], chosen: Chosen, tmp_path: Path
) -> None:
    out = tmp_path / "projector"
    assert chosen.shown is not None
    chosen = dataclasses.replace(
        chosen, shown=chosen.shown & (np.arange(len(chosen.shown)) != 2)
    )  # as if text were there
    said = export_vectors(chosen, "projector", out)
    assert "1 picture(s) with signs of text or a face are left grey" in said
    n, dim = chosen.vectors.values.shape
    config = (out / "projector_config.pbtxt").read_text(encoding="utf-8")
    assert f"tensor_shape: {n}\n  tensor_shape: {dim}\n" in config
    values = np.fromfile(out / "vectors.bytes", dtype="<f4").reshape(n, dim)
    np.testing.assert_array_equal(values, np.asarray(chosen.vectors.values))
    with (out / "metadata.tsv").open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle, delimiter="\t", quoting=csv.QUOTE_NONE))
    assert [row["image"] for row in rows] == chosen.frame["image"].tolist()
    sprite = np.asarray(Image.open(out / "sprite.png"))
    tile = int(config.partition("single_image_dim: ")[2].partition("\n")[0])
    columns = sprite.shape[1] // tile
    assert columns**2 >= n > (columns - 1) ** 2
    prepared = PreparedImages.open(embedded[1].path, load_vectors(embedded[2].path).images["image_id"].tolist())
    assert chosen.shown is not None
    for i in (0, 2, n - 1):
        y, x = (tile * j for j in divmod(i, columns))
        wanted = prepared.square(i, tile) if chosen.shown[i] else np.full((tile, tile, 3), 96)
        np.testing.assert_array_equal(sprite[y : y + tile, x : x + tile], wanted)


def test_tensorboard_itself_reads_the_projector(chosen: Chosen, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from google.protobuf import text_format
    from tensorboard.plugins.projector import projector_plugin
    from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

    export_vectors(chosen, "projector", tmp_path / "p")
    config = ProjectorConfig()
    text_format.Parse((tmp_path / "p" / "projector_config.pbtxt").read_text(encoding="utf-8"), config)
    embedding = config.embeddings[0]
    path = str(tmp_path / "p" / embedding.tensor_path)
    try:
        values = projector_plugin._read_tensor_tsv_file(path)
    except UnicodeDecodeError:  # as the plugin itself does
        values = projector_plugin._read_tensor_binary_file(path, embedding.tensor_shape)
    np.testing.assert_array_equal(values, np.asarray(chosen.vectors.values))


def test_the_atlas_gets_the_map_and_true_neighbours(chosen: Chosen, tmp_path: Path) -> None:
    said = export_vectors(chosen, "atlas", tmp_path / "a.parquet")
    assert any(f"embedding-atlas {tmp_path / 'a.parquet'} --x x --y y --neighbors neighbors" in line for line in said)
    table = pd.read_parquet(tmp_path / "a.parquet")
    assert chosen.xy is not None
    np.testing.assert_array_equal(table[["x", "y"]].to_numpy(np.float32), chosen.xy)
    values = np.asarray(chosen.vectors.values, dtype=np.float64)
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    for row, neighbours in enumerate(table["neighbors"]):
        ids, distances = np.asarray(neighbours["ids"]), np.asarray(neighbours["distances"])
        assert row not in ids
        assert len(ids) == 15
        np.testing.assert_allclose(1 - distances, np.sort(cosines[row])[::-1][:15], atol=1e-5)
        np.testing.assert_allclose(cosines[row, ids], 1 - distances, atol=1e-5)


def test_columns_that_name_people_never_leave(embedded: tuple[Study, RunFolder, RunFolder]) -> None:
    assert choose_study(*embedded, ["age"]).frame.columns.tolist()[:4] == ["image", "patient", "split", "age"]
    for name in ("patient_source_id", "text_read"):
        with pytest.raises(UserError, match="is never exported"):
            choose_study(*embedded, [name], keep_image_ids=True)
    with pytest.raises(UserError, match="add --keep-image-ids to export it"):
        choose_study(*embedded, ["file"])
    with pytest.raises(UserError, match=r"unknown column `aeg`.*age"):
        choose_study(*embedded, ["aeg"])
    kept = choose_study(*embedded, ["file"], keep_image_ids=True)
    assert kept.frame["image"].tolist() == load_vectors(embedded[2].path).images["image_id"].tolist()


def test_nothing_is_overwritten_or_left_half(chosen: Chosen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "v.parquet"
    export_vectors(chosen, "parquet", out)
    before = out.read_bytes()
    with pytest.raises(UserError, match="already exists"):
        export_vectors(chosen, "parquet", out)
    with pytest.raises(UserError, match=r"ending in \.h5ad"):
        export_vectors(chosen, "h5ad", out)
    with pytest.raises(UserError, match="never changed"):
        export_vectors(chosen, "parquet", chosen.vectors.folder / "mine.parquet")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("keep", encoding="utf-8")
    with pytest.raises(UserError, match="not an export of Pellucid"):
        export_vectors(chosen, "projector", tmp_path / "mine", overwrite=True)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(command, "write_parquet", full)
    with pytest.raises(OSError, match="No space"):
        export_vectors(chosen, "parquet", out, overwrite=True)
    assert out.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "v.parquet"]
    export_vectors(chosen, "projector", tmp_path / "p")
    export_vectors(chosen, "projector", tmp_path / "p", overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "p", "v.parquet"]


def test_a_folder_without_a_study(tmp_path: Path, pellucid: Callable[..., Any]) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for name in ("anna_meier_1.png", "bob.png", "c.png"):
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(tmp_path / "in" / name)
    embed_folder(tmp_path / "in", "pixels", tmp_path / "out", device="cpu", progress=False)
    frame = choose_folder(tmp_path / "out").frame
    assert sorted(frame["patient"]) == ["P0001", "P0002", "P0003"]
    done = pellucid("export", tmp_path / "out", "--to", "atlas", "--out", tmp_path / "a.parquet")
    assert done.returncode == 0, done.stderr
    assert "--vector vector" in done.stdout
    assert b"meier" not in (tmp_path / "a.parquet").read_bytes()
    found = pd.read_parquet(tmp_path / "a.parquet")
    np.testing.assert_array_equal(np.stack(found["vector"].to_list()), load_vectors(tmp_path / "out").values)
