import json


def test_says_which_numbers_agree(est):
    numbers = json.loads(est("audit", "--json").out)["numbers"]
    assert sum(number["agrees"] for number in numbers) < len(numbers)
    first = numbers[0]
    assert (first["locus"], first["row"], first["printed"], first["agrees"]) == (
        "abstract",
        "EST on GPT2",
        "26.7%",
        True,
    )
    assert round(first["recomputed"]["low"], 2) == round(first["recomputed"]["high"], 2) == 26.67


def test_a_table_for_a_person(est):
    out = est("audit").out
    for words in ("Table 3", "EST-TWO-STAGE-C", "22.12% to 23.33%", "1.212x", "185.0 h / 151.6 h", "38 of 49 agree"):
        assert words in out


def test_another_file(est, tmp_path):
    (tmp_path / "own.csv").write_text("paper,table,page,row,column,value\nEST,2,,EST,saving FLOPs,26.8%\n")
    numbers = json.loads(est("audit", "--published", "own.csv", "--json").out)["numbers"]
    assert [number["agrees"] for number in numbers] == [False]


def test_a_file_of_something_else_is_refused(est, tmp_path):
    (tmp_path / "own.csv").write_text("a,b\n1,2\n")
    assert est("audit", "--published", "own.csv").error.startswith(
        "'own.csv' has columns ['a', 'b']; a file of publish"
    )


def test_a_markdown_table_begins_with_what_disagrees(est):
    lines = est("audit", "--markdown").out.splitlines()
    assert lines[-1].startswith("38 of 49 agree")
    rows = [line for line in lines if line.startswith("|")][2:]
    assert [row.count("| **no** |") for row in rows] == [1] * 11 + [0] * 38
    assert all(row.count("|") == 8 for row in rows)


def test_two_formats_are_refused(est):
    assert est("audit", "--markdown", "--json").error == "--markdown and --json exclude each other: give one"
