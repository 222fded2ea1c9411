"""Tables as spreadsheets and instruments write them: the dialect by the header row, no value changed without a word."""

from __future__ import annotations

import zipfile
from pathlib import Path

import openpyxl
import pandas as pd
import pytest

from pellucid.cohort.errors import UserError
from pellucid.cohort.manifest.table_file import load_table


def text(folder: Path, content: str, encoding: str = "utf-8", name: str = "t.csv") -> Path:
    (folder / name).write_bytes(content.encode(encoding))
    return folder / name


ROWS = [("a.png", "p1", "1.5"), ("b.png", "p1", "2.5"), ("c.png", "p2", "3.5")]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_delimiter_and_encoding_are_found_by_the_header(tmp_path: Path, delimiter: str, encoding: str) -> None:
    lines = [delimiter.join(row) for row in [("image", "who", "size"), *ROWS]]
    frame = load_table(text(tmp_path, "\r\n".join(lines) + "\r\n", encoding)).frame
    assert frame["who"].tolist() == ["p1", "p1", "p2"]
    assert frame["size"].tolist() == [1.5, 2.5, 3.5]


def test_some_decimal_commas_do_not_decide_the_delimiter(tmp_path: Path) -> None:
    frame = load_table(text(tmp_path, "Bild;BMI;Dicke\na;24;2\nb;22,3;1,25\nc;23;1,50\n")).frame
    assert frame["BMI"].tolist() == [24, 22.3, 23]
    assert frame["Dicke"].tolist() == ["2", "1.25", "1.50"], "written with all its decimals it may be a code"


@pytest.mark.parametrize("first", ["sep=;\n", '"sep=;"\r\n'])
def test_a_sep_line_is_no_header(tmp_path: Path, first: str) -> None:
    table = load_table(text(tmp_path, f"{first}image;age\na,1.png;40\nb.png;41\n"))
    assert table.frame.to_dict("list") == {"image": ["a,1.png", "b.png"], "age": [40, 41]}
    assert table.frame.index.tolist() == [1, 2], "rows 3 and 4 of the file"


def test_a_delimiter_at_the_end_of_rows_shifts_nothing(tmp_path: Path) -> None:
    frame = load_table(text(tmp_path, "image,who,age\na.png,p1,40,\nb.png,p2,41,\n")).frame
    assert frame.to_dict("list") == {"image": ["a.png", "b.png"], "who": ["p1", "p2"], "age": [40, 41]}


def test_a_row_that_is_too_long_is_named(tmp_path: Path) -> None:
    path = text(tmp_path, "image,who,age\n" + "a.png,p1,40\n" * 6 + "b.png,Novak, Jan,41\n")
    with pytest.raises(UserError, match=r"row 8 has 4 cells, but the header has 3 \(1 such row\(s\)\): put texts"):
        load_table(path)


def test_names_of_rows_without_a_header_are_left_out(tmp_path: Path) -> None:
    assert load_table(text(tmp_path, "image,age\n1,a.png,40\n2,b.png,41\n")).frame["image"].tolist() == [
        "a.png",
        "b.png",
    ]
    table = load_table(text(tmp_path, "Unnamed: 0,image,age\n0,a.png,40\n1,b.png,41\n"))
    assert list(table.frame.columns) == ["image", "age"]
    assert table.notes == []


def test_titles_units_and_totals_are_no_data_and_it_is_said(tmp_path: Path) -> None:
    content = (
        "Skin study, export of 3 May\n\nimage,who,dx,age\n,,,[years]\na.png,p1,mel,40\nb.png,p2,nev,42\n,,,\n"
        "Total,2,,82\nMean,,,n=2: 41\n"
    )
    table = load_table(text(tmp_path, content))
    assert table.frame["image"].tolist() == ["a.png", "b.png"]
    assert table.frame["age"].tolist() == [40, 42]
    assert table.frame.index.tolist() == [3, 4]
    assert [note.partition(": ")[2] for note in table.notes] == [
        "the header is row 3; what is above it is no part of the table",
        "row 4 gives units: it is left out",
        "2 row(s) at the end are totals, not data (row 8 `Total`, row 9 `Mean`): left out",
    ]


def test_a_full_row_that_begins_like_a_total_is_data(tmp_path: Path) -> None:
    frame = load_table(text(tmp_path, "level,who\nlow,p1\nmin,p2\n")).frame
    assert frame["level"].tolist() == ["low", "min"]


@pytest.mark.parametrize("name", ["t.csv", "t.xlsx"])
def test_two_columns_of_one_name_are_refused(tmp_path: Path, name: str) -> None:
    if name == "t.csv":
        text(tmp_path, "image,age,age\na,1,2\n")
    else:
        sheet(tmp_path, [["image", "age", "age "], ["a", 1, 2]])
    with pytest.raises(UserError, match="two columns are called `age`: rename one"):
        load_table(tmp_path / name)


# Numbers


def test_points_between_thousands_are_read_by_the_tables_decimal_sign_and_it_is_said(tmp_path: Path) -> None:
    table = load_table(text(tmp_path, "image;volume;depth\na;980;0,8\nb;1.040;0,9\nc;12.100;1,0\n"))
    assert table.frame["volume"].astype(float).tolist() == [980, 1040, 12100]
    assert table.frame["depth"].astype(float).tolist() == [0.8, 0.9, 1.0]
    assert "column `volume`: `1.040` was read as 1040, because the table's decimal sign is `,`" in table.notes[0]


def test_a_number_that_means_two_is_asked_about(tmp_path: Path) -> None:
    path = text(tmp_path, "image;volume\na;1.040\nb;1.100\n")
    table = load_table(path)
    assert table.frame["volume"].tolist() == ["1.040", "1.100"]
    with pytest.raises(UserError, match=r"column `volume`: `1\.040` \(row 2\) may mean 1\.040 or 1040.*write `decimal"):
        table.require_numbers(["volume"], path)
    assert load_table(path, decimal=",").frame["volume"].astype(float).tolist() == [1040, 1100]
    assert load_table(path, decimal=".").frame["volume"].astype(float).tolist() == [1.04, 1.1]


def test_decimals_of_three_digits_stay_decimals_where_the_comma_is_between_cells(tmp_path: Path) -> None:
    frame = load_table(text(tmp_path, "image,density\na,1.041\nb,1.102\n")).frame
    assert frame["density"].tolist() == [1.041, 1.102]


def test_whole_numbers_beside_1_040_are_asked_about(tmp_path: Path) -> None:
    path = text(tmp_path, "image,volume,depth\na,980,0.5\nb,1.040,0.6\n")
    with pytest.raises(UserError, match=r"`1\.040` \(row 3\) may mean"):
        load_table(path).require_numbers(["volume"], path)


# Workbooks


def sheet(folder: Path, rows: list[list[object]], merge: tuple[str, ...] = (), title: str = "Data") -> Path:
    path = folder / "t.xlsx"
    book = openpyxl.load_workbook(path) if path.exists() else openpyxl.Workbook()
    page = book.create_sheet(title)
    if "Sheet" in book.sheetnames:
        del book["Sheet"]
    for row in rows:
        page.append(row)
    for cells in merge:
        page.merge_cells(cells)
    book.save(path)
    return path


def test_text_cells_of_a_workbook_stay_text(tmp_path: Path) -> None:
    path = sheet(tmp_path, [["who", "code", "age"], ["01", "1E5", 40], ["1", "10e4", 41.5], ["0007", "None", None]])
    frame = load_table(path).frame
    assert frame["who"].tolist() == ["01", "1", "0007"]
    assert frame["code"].tolist() == ["1E5", "10e4", "None"]
    assert frame["age"].dropna().tolist() == [40, 41.5]


def test_merged_cells_hold_for_all_their_rows_but_a_title_does_not(tmp_path: Path) -> None:
    rows = [["Skin study"], [], ["who", "image", "dx"], ["p1", "a", "mel"], [None, "b", "nev"], ["p2", "c", "mel"]]
    frame = load_table(sheet(tmp_path, rows, ("A1:C1", "A4:A5"))).frame
    assert frame["who"].tolist() == ["p1", "p1", "p2"]
    assert frame["dx"].tolist() == ["mel", "nev", "mel"]


def test_line_breaks_in_a_header_are_blanks(tmp_path: Path) -> None:
    assert list(load_table(sheet(tmp_path, [["image", "Age\n(years)"], ["a", 40]])).frame.columns) == [
        "image",
        "Age (years)",
    ]


def test_of_several_sheets_the_one_with_the_columns_is_read(tmp_path: Path) -> None:
    sheet(tmp_path, [["column", "meaning"], ["dx", "diagnosis"]], title="Legend")
    path = sheet(tmp_path, [["image", "dx"], ["a", "mel"]])
    assert load_table(path, ["image", "dx"]).sheet == "Data"
    assert load_table(path, ["image"]).frame["dx"].tolist() == ["mel"]
    with pytest.raises(UserError, match=r"has several sheets \(Legend, Data\): write which one holds the table"):
        load_table(path)
    assert load_table(path, sheet="Legend").frame["column"].tolist() == ["dx"]
    with pytest.raises(UserError, match="there is no sheet `Dat`; did you mean `Data`"):
        load_table(path, sheet="Dat")
    with pytest.raises(UserError, match="there is no column `age` on the sheet `Data`"):
        load_table(path, ["image", "age"])


def test_lists_in_parquet_are_left_out_or_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pd.DataFrame({"image": ["a", "b"], "vector": [[1.0, 2.0]] * 2, "raw": [b"x", b"y"]}).to_parquet(path)
    table = load_table(path)
    assert list(table.frame.columns) == ["image"]
    assert len(table.notes) == 2
    with pytest.raises(UserError, match="column `vector` holds lists or bytes, not one value in each row"):
        load_table(path, ["vector"])


def test_a_lock_file_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a lock file of a program, not a table"):
        load_table(text(tmp_path, "x", name="~$t.xlsx"))


def test_formulas_without_a_stored_result_are_named_not_empty(tmp_path: Path) -> None:
    rows = [["Study"], [], ["image", "bmi", "age"], ["a", 23.5, 40], ["b", "=B4*2", 41], ["c", "=B4*3", 42]]
    path = sheet(tmp_path, rows, title="Messwerte")
    said = r"column `bmi`: 2 formula\(s\) have no stored result \(first: cell B5\).*open the workbook in Excel"
    with pytest.raises(UserError, match=said):
        load_table(path, ["image", "bmi"])
    table = load_table(path, ["image", "age"])
    assert any("column `bmi`: 2 formula(s)" in note for note in table.notes), "a column that is not asked for"
    assert table.frame["age"].tolist() == [40, 41, 42]


def test_a_formula_with_its_result_or_with_an_empty_text_is_a_value(tmp_path: Path) -> None:
    path = sheet(tmp_path, [["image", "bmi", "note"], ["a", "=1+1", '=""'], ["b", 3, "x"]])
    page = "xl/worksheets/sheet1.xml"
    with zipfile.ZipFile(path) as old:
        parts = {name: old.read(name) for name in old.namelist()}
    parts[page] = (
        parts[page]
        .replace(b"<f>1+1</f><v></v>", b"<f>1+1</f><v>2</v>")
        .replace(b"<f>1+1</f><v />", b"<f>1+1</f><v>2</v>")
        .replace(b'<c r="C2">', b'<c r="C2" t="str">')
    )
    with zipfile.ZipFile(path, "w") as new:
        for name, content in parts.items():
            new.writestr(name, content)
    table = load_table(path, ["image", "bmi", "note"])
    assert table.frame["bmi"].tolist() == [2, 3]
    assert table.notes == []
