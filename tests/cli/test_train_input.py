"""What `aif train` says of a log that it cannot learn from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli.main import main


def _train(mapping: Path, *arguments: object) -> Result:
    options = ["--epochs", "1", "--json", "--data-dir", str(mapping.parent / "data"), *map(str, arguments)]
    return CliRunner().invoke(main, ["train", "--dataset", str(mapping), *options])


def _with_row(mapping: Path, row: str) -> Path:
    """The log with its line 100 replaced."""
    log = mapping.parent / "shop.csv"
    lines = log.read_text().splitlines()
    lines[99] = row
    log.write_text("\n".join(lines) + "\n")
    return mapping


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("1700029400,3,4,thing,cheap", "price: expected a number, found 'cheap'"),
        ("1700029400,3,4,thing,nan", "price: nan is not finite"),
        ("1700029400,bob,4,thing,5", "user: expected a whole number, found 'bob'"),
        ("1700029400,3,,thing,5", "item: expected a whole number, found ''"),
        ("soon,3,4,thing,5", "at: expected s, found 'soon'"),
        ("1700029400,3,4", "expected 5 fields, found 3"),
    ],
)
def test_a_malformed_row_is_named(row: str, said: str, mapping: Path) -> None:
    """Strict training ends with one sentence that names file, line, column and value of the first malformed row."""
    refused = _train(_with_row(mapping, row), "--strict")
    assert refused.exit_code == 2
    assert "shop.csv line 100: " in refused.stderr and said in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_malformed_rows_are_counted_and_kept(mapping: Path) -> None:
    """Without --strict training goes on without the row, says so, and writes it down; the manifest keeps the number."""
    done = _train(_with_row(mapping, "1700029400,3,4,thing,cheap"))
    assert done.exit_code == 0, done.output
    assert "1 malformed rows are left out" in done.stderr
    rejected = json.loads((mapping.parent / "data" / "train" / "shop.rejects.jsonl").read_text())
    assert (rejected["line"], rejected["reason"]) == (100, "bad_number")
    manifest = json.loads((Path(json.loads(done.stdout)["folder"]) / "manifest.json").read_bytes())
    assert manifest["training"]["malformed_rows"] == 1


def _changed(mapping: Path, change: Callable[[dict], object]) -> Path:
    content = json.loads(mapping.read_text())
    change(content)
    mapping.write_text(json.dumps(content))
    return mapping


@pytest.mark.parametrize(
    ("field", "value"), [("price", "wanted"), ("title", "wanted"), ("embedding", {"text": ["title", "wanted"]})]
)
def test_a_missing_feature_column_is_named(field: str, value: object, mapping: Path) -> None:
    """A feature or text that no column holds ends in one sentence with the column and those that there are."""
    refused = _train(_changed(mapping, lambda content: content["items"].update({field: value, "changes": []})))
    assert refused.exit_code == 2
    assert "no column 'wanted'; it has at, user, item, title, price" in refused.stderr


def test_users_without_history_and_items_without_anything_are_learned_from(mapping: Path) -> None:
    """A log in which nobody comes twice, of items without title, price and category, trains all the same."""
    log = mapping.parent / "shop.csv"
    head, *lines = log.read_text().splitlines()
    once = [f"{at},{number},{item},," for number, (at, _, item, *_) in enumerate(line.split(",") for line in lines)]
    log.write_text("\n".join([head, *once]) + "\n")
    done = _train(mapping)
    assert done.exit_code == 0, done.output
    assert 0 <= json.loads(done.stdout)["auc"] <= 1


def test_a_log_of_no_items_is_refused(mapping: Path) -> None:
    """Engagements with items that the catalogue lacks give no examples, and the refusal counts them."""
    log = mapping.parent / "shop.csv"
    log.write_text(log.read_text().splitlines()[0] + "\n")
    refused = _train(mapping)
    assert refused.exit_code == 2
    assert "0 examples" in refused.stderr
