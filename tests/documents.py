"""What every number of a document is compared with: the cell of a table that a comment behind the passage names.

A cell is TABLE | ROW | COLUMN; several are parted by semicolons, and what is left out is that of the cell before. They
come in the order of the numbers. Of a cell with an interval the first number may stand alone. A number may have fewer
digits than its cell, but not hide a sign.
"""

import re

NUMBER = r"[+-]?\d+(?:,\d{3})*(?:\.\d+)?"
NO_NUMBERS = r"`[^`]*`|\]\([^)]*\)|LeNet-5|\b[CFS]\d\b|95 % CI|1998|assignment 1|Observation \d"
Tables = dict[str, dict[str, dict[str, str]]]
LECUN: Tables = {"LeCun 1998": {"plain": {"error, %": "0.95"}, "distorted": {"error, %": "0.8"}}}  # section III.B


def parse(text: str) -> Tables:
    """Cells of Markdown by the heading of their table, their row and their column.

    A row is called by its first cell, or by its first two where several begin with the same.
    """
    found: Tables = {}
    for section in text.split("\n## ")[1:]:
        rows = [line[1:-1].split("|") for line in section.splitlines() if line.startswith("|")]
        columns, _, *rows = [[cell.strip() for cell in row] for row in rows] or [[], []]
        alone = len({row[0] for row in rows}) == len(rows)
        cells = {row[0] if alone else ", ".join(row[:2]): dict(zip(columns, row, strict=True)) for row in rows}
        found[section.partition("\n")[0]] = cells
    return found


def check_numbers(text: str, known: Tables, constants: str) -> int:
    """Compare all numbers of `text`, but those that `constants` (a pattern) matches; return how many there were."""
    parts = re.split(r"<!-- (.*?) -->", " ".join(re.sub(r"^\d\. ", "", text, flags=re.MULTILINE).split()))
    passages = [re.findall(NUMBER, re.sub(rf"{NO_NUMBERS}|{constants}", "", part)) for part in parts[::2]]
    assert passages.pop() == [], "behind the last comment"
    count = sum(map(len, passages))
    for waiting, comment in zip(passages, parts[1::2], strict=True):
        cell: list[str] = []
        for words in comment.split("; "):
            found = words.split(" | ")
            cell = [*cell[: 3 - len(found)], *found]
            table, row, column = cell
            numbers = re.findall(NUMBER, known[table][row][column])
            assert waiting, cell
            assert is_rounded(waiting.pop(0), numbers.pop(0)), cell
            while waiting and numbers:
                if is_rounded(waiting[0], numbers.pop(0)):
                    waiting.pop(0)
        assert waiting == [], comment
    return count


def is_rounded(number: str, exact: str) -> bool:
    """Whether a number of a document is that of its cell; without a sign, whether its size is."""
    signed, digits = number[0] in "+-", len(number.partition(".")[2])
    value = float(exact.replace(",", "")) if signed else abs(float(exact.replace(",", "")))
    same = f"{value:{'+' * signed}.{digits}f}" == number.replace(",", "")
    return same and (value == 0 or re.search("[1-9]", number) is not None)
