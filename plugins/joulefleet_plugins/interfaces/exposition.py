"""Reads the text page on which a server shows its metrics: Prometheus text 0.0.4 or OpenMetrics.

A page is read whole or not at all. Lines end at a line feed only: a label value may hold any other character, which is
why nothing here splits on white space. Exemplars and timestamps are checked and left out.
Grammar: https://prometheus.io/docs/instrumenting/exposition_formats and https://prometheus.io/docs/specs/om.
"""

import json
import re
from typing import NamedTuple

# Possessive, so that no line, however odd, takes more than linear time.
_SPACE = r"[ \t]*+"
_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*+"
_QUOTED = r'"(?:[^"\\]++|\\.)*+"'
_LABEL = rf"{_SPACE}(?:{_NAME}{_SPACE}={_SPACE}{_QUOTED}|{_QUOTED}{_SPACE}(?:={_SPACE}{_QUOTED})?+){_SPACE}"
_LABELS = rf"\{{(?:{_LABEL}(?:,{_LABEL})*+,?+)?+{_SPACE}\}}"
_NUMBER = r"[+-]?(?:(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:[eE][+-]?[0-9]++)?|(?i:inf(?:inity)?|nan))"
_TIME = rf"(?:[ \t]++{_NUMBER})?+"
_EXEMPLAR = rf"(?:[ \t]++#{_SPACE}{_LABELS}[ \t]++{_NUMBER}{_TIME})?+"
_SAMPLE = re.compile(
    rf"{_SPACE}({_NAME})?+{_SPACE}({_LABELS})?+{_SPACE}(?<=[ \t}}])({_NUMBER}){_TIME}{_EXEMPLAR}[ \t\r]*+"
)
_ONE_LABEL = re.compile(rf"({_NAME}|{_QUOTED}){_SPACE}(?:={_SPACE}({_QUOTED}))?+")
_TYPE = re.compile(rf"#[ \t]++TYPE[ \t]++({_NAME}|{_QUOTED})[ \t]++([a-z]+)[ \t\r]*+")
_IS_TYPE = re.compile(r"#[ \t]+TYPE[ \t]")
_EOF = re.compile(r"^# EOF[ \t\r]*$", re.MULTILINE)
_IS_NUMBER = re.compile(_NUMBER)
MAX_LINES = 50_000
"""Pages with more are refused: read, they would take more memory than an agent may have."""
_ESCAPED = re.compile(r'\\([\\n"])')


class Sample(NamedTuple):
    """One line of a page."""

    labels: dict[str, str]
    value: float
    """An int where the page writes one, so that a counter beyond 2**53 stays exact."""
    line: int


class Head(NamedTuple):
    """What a line tells beside its number."""

    name: str
    labels: dict[str, str]


class Page(NamedTuple):
    """All samples by name, as written, and the types that the page declares."""

    samples: dict[str, list[Sample]]
    types: dict[str, str]


class BadPage(ValueError):
    """A page of which nothing may be counted."""

    def __init__(self, code: str, detail: str, line: int = 0) -> None:
        self.code = code
        """`malformed`, `truncated` where the page ends too early, or `too_large`."""
        self.detail = detail
        self.line = line
        """Number of the line from 1; 0 for the page as a whole."""
        super().__init__(code, detail, line)

    def __str__(self) -> str:
        return f"line {self.line}: {self.detail}" if self.line else self.detail


class Parser:
    """Reads the pages of one server.

    It remembers the last one, most lines of which come again with another number: a third of the time.
    """

    def __init__(self) -> None:
        self._heads: dict[str, Head] = {}
        """By what stood before the number and one blank, in lines that had nothing after it."""

    def read(self, content: bytes, content_type: str) -> Page:
        """Every sample of a page as a server sent it. Raises BadPage."""
        try:
            text = content.decode()
        except UnicodeDecodeError as error:
            raise BadPage("malformed", f"not UTF-8: {error.reason}") from error
        return self.parse(text, openmetrics=content_type.startswith("application/openmetrics-text"))

    def parse(self, text: str, openmetrics: bool = False) -> Page:
        """Every sample of a page, which page ever came before. Raises BadPage.

        An OpenMetrics page must end with `# EOF`, any other with a line feed.
        """
        page = Page({}, {})
        if (lines := text.count("\n")) > MAX_LINES:
            raise BadPage("too_large", f"{lines} lines, more than {MAX_LINES}: have the server show fewer labels")
        remembered, self._heads = self._heads, {}
        for number, line in enumerate(_whole(_unwrapped(text), openmetrics).split("\n"), start=1):
            before, _, written = line.rpartition(" ")
            head = remembered.get(before)
            if head is None or not _IS_NUMBER.fullmatch(written):
                self._parse_line(page, line, number)
                continue
            self._heads[before] = head
            page.samples.setdefault(head.name, []).append(Sample(head.labels, _number(written), number))
        return page

    def _parse_line(self, page: Page, line: str, number: int) -> None:
        if line.lstrip(" \t").startswith("#"):
            _declare(page, line.lstrip(" \t"), number)
        elif line.strip(" \t\r"):
            found = _SAMPLE.fullmatch(line)
            if found is None:
                raise BadPage("malformed", f"not a sample: {line[:120]!r}", number)
            head = _head(found, line, number)
            page.samples.setdefault(head.name, []).append(Sample(head.labels, _number(found[3]), number))
            # Not where a time or an exemplar follows: there the last number of the line is another one.
            if found.end(3) == len(line) and line[found.start(3) - 1] == " ":
                self._heads[line[: found.start(3) - 1]] = head


def _unwrapped(text: str) -> str:
    """The page itself, where a server has sent it as one JSON string (llama.cpp, ggml-org/llama.cpp#17384)."""
    if not text.lstrip().startswith('"'):
        return text
    try:
        inside = json.loads(text)
    except ValueError as error:
        raise BadPage("malformed", f"begins as a JSON string and is none: {error}") from error
    return str(inside)


def _whole(text: str, openmetrics: bool) -> str:
    """The text, if its end is there."""
    if not openmetrics:
        if text and not text.endswith("\n"):
            raise BadPage("truncated", "the last line has no end")
        return text
    end = _EOF.search(text)
    if end is None:
        raise BadPage("truncated", "an OpenMetrics page without its `# EOF`")
    if text[end.end() :].strip():
        raise BadPage("malformed", "the page goes on after `# EOF`")
    return text


def _declare(page: Page, line: str, number: int) -> None:
    declared = _TYPE.fullmatch(line)
    if declared:
        page.types.setdefault(_plain(declared[1]), declared[2])
    elif _IS_TYPE.match(line):
        raise BadPage("malformed", f"not a type: {line[:120]!r}", number)


def _head(found: re.Match[str], line: str, number: int) -> Head:
    written = _ONE_LABEL.findall(found[2] or "")
    # A name that needs quotes stands among the labels, without a value.
    names = [name for name in (found[1], *(_plain(text) for text, value in written if not value)) if name]
    labels = {_plain(text): _plain(value) for text, value in written if value}
    if len(names) != 1 or len(names) - bool(found[1]) + len(labels) != len(written):
        raise BadPage("malformed", f"not one name, or a label that comes twice: {line[:120]!r}", number)
    return Head(names[0], labels)


def _plain(text: str) -> str:
    """A name as it is, a quoted text without its quotes and escapes."""
    if not text.startswith('"'):
        return text
    return _ESCAPED.sub(lambda escape: "\n" if escape[1] == "n" else escape[1], text[1:-1])


def _number(text: str) -> float:
    # Longer runs of digits than any counter has go by float, which takes them at any length.
    return int(text) if len(text) <= 20 and text.lstrip("+-").isdigit() else float(text)
