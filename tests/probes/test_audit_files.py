"""Files in, audit.json out: reading, joining by id, refusing, and writing whole."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from pellucid.cohort.errors import UserError
from pellucid.cohort.manifest.table_file import load_table
from pellucid.probes.audit_files import audit_files, read_vectors


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    table = pd.DataFrame({
        "image": [f"im{i}.png" for i in range(80)],
        "patient": [f"P{i // 2}" for i in range(80)],
        "diagnosis": np.repeat(rng.permutation(np.arange(40) % 2), 2),
        "device": np.repeat(np.array(["A", "B"])[rng.permutation(np.arange(40) % 2)], 2),
        "age": np.repeat(rng.integers(30, 80, 40), 2),
    })  # fmt: skip
    vectors = rng.standard_normal((80, 6)).astype(np.float32)
    vectors[:, 0] += 3 * table["diagnosis"]
    np.save(tmp_path / "v.npy", vectors)
    table.to_csv(tmp_path / "t.csv", index=False)
    return tmp_path, vectors, table


def run(folder, table="t.csv", vectors="v.npy", id_column=None, clinical=("diagnosis", "age:continuous")):
    path = audit_files(
        folder / vectors,
        folder / table,
        "patient",
        list(clinical),
        ["device"],
        folder / "out",
        19,
        0,
        id_column,
        further=False,
    )
    return json.loads(path.read_text("utf-8"))


@pytest.mark.long
def test_audit_of_files_and_nothing_half_written(files):
    folder, _, _ = files
    result = run(folder)
    assert result["schema"] == "pellucid.audit/1"
    assert [v["kind"] for v in result["variables"]] == ["binary", "continuous", "binary"]
    assert [p.name for p in (folder / "out").iterdir()] == ["audit.json"]


@pytest.mark.long
@pytest.mark.parametrize("suffix", ["xlsx", "parquet", "tsv"])
def test_every_table_format_gives_the_same_audit(files, suffix):
    folder, _, table = files
    if suffix == "xlsx":
        table.to_excel(folder / "t.xlsx", index=False)
    elif suffix == "parquet":
        table.to_parquet(folder / "t.parquet")
    else:
        table.to_csv(folder / "t.tsv", index=False, sep="\t")
    assert run(folder, f"t.{suffix}") == run(folder)


@pytest.mark.long
def test_joined_by_id_the_order_of_the_table_does_not_matter(files):
    folder, _, table = files
    table.sample(frac=1, random_state=1).to_csv(folder / "shuffled.csv", index=False)
    (folder / "v.ids.txt").write_text("\n".join(table["image"]) + "\n")
    assert run(folder, "shuffled.csv", id_column="image") == run(folder)


@pytest.mark.long
def test_refusals(files):
    folder, vectors, table = files
    (folder / "empty.npy").write_bytes(b"")
    (folder / "words.npy").write_text("not an array")
    np.save(folder / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    for name in ("empty.npy", "words.npy", "objects.npy"):
        with pytest.raises(UserError, match=f"{name}: cannot be read as vectors .*save them with numpy.save"):
            read_vectors(folder / name)
    with pytest.raises(UserError, match=r"gone.npy: no such file; --vectors needs a .npy file"):
        read_vectors(folder / "gone.npy")
    with pytest.raises(UserError, match=r"gone.csv: the table is not there; correct its name"):
        load_table(folder / "gone.csv")
    (folder / "t.doc").write_text("x")
    with pytest.raises(UserError, match=r"a table is .csv, .tsv, .xlsx or .parquet, not `.doc`"):
        load_table(folder / "t.doc")
    (folder / "nothing.csv").write_text("")
    with pytest.raises(UserError, match=r"nothing.csv: the table is empty"):
        load_table(folder / "nothing.csv")
    (folder / "latin.csv").write_bytes("patient,diagnosis\n1,bénin\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin.csv: is not UTF-8 text .*save it as CSV UTF-8"):
        load_table(folder / "latin.csv")
    with pytest.raises(UserError, match=r"v.npy: has no ids to join by; put one id per line into v.ids.txt"):
        run(folder, id_column="image")
    (folder / "v.ids.txt").write_text("\n".join(table["image"].where(table.index != 3, "other.png")) + "\n")
    with pytest.raises(UserError, match=r'1 of 80 vectors have no row, for example "other.png" \(column "image"\)'):
        run(folder, id_column="image")
    with pytest.raises(UserError, match=r't.csv has no column "imag"; did you mean "image"\?'):
        run(folder, id_column="imag")
    np.savez(folder / "v.npz", values=vectors)
    with pytest.raises(UserError, match=r"v.npz: contains values; an array named `vectors` is needed"):
        read_vectors(folder / "v.npz")
    np.savez(folder / "w.npz", vectors=vectors, ids=table["image"].to_numpy(dtype=object))
    with pytest.raises(UserError, match=r"w.npz: its ids are Python objects.*ids.astype\(str\)"):
        read_vectors(folder / "w.npz")


def test_ids_beside_the_vectors_in_another_order_are_not_passed_over(files):
    folder, vectors, table = files
    turn = np.random.default_rng(1).permutation(80)
    np.save(folder / "w.npy", vectors[turn])
    (folder / "w.ids.txt").write_text("\n".join(table["image"].to_numpy()[turn]))
    with pytest.raises(UserError, match=r'ids are those of the column "image" .* give --id image'):
        run(folder, vectors="w.npy")


def test_a_file_where_the_folder_is_to_be_is_said_before_anything_is_computed(files):
    folder, _, _ = files
    (folder / "out").write_text("")
    with pytest.raises(UserError, match="the folder cannot be created"):
        run(folder)
