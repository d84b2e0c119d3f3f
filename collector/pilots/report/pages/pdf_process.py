"""The process that makes a PDF: HTML on stdin, PDF on stdout, and nothing fetched from anywhere."""

from __future__ import annotations

import ctypes
import resource
import sys
from typing import NoReturn

from collector.pilots.report.pages.pdf import NO_FONT, NO_LIBRARY, SECONDS
from collector.pilots.report.process_wire import NICER
from wire.child_process import be_first_to_go, become_nicer, end_with

MAX_MEMORY = 2_000_000_000  # bytes of address space
MAX_HTML = 32_000_000


def main() -> int:
    """Run the process; the exit is 0, NO_FONT or NO_LIBRARY."""
    end_with(int(sys.argv[1]))
    be_first_to_go()
    become_nicer(NICER)
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    html = sys.stdin.buffer.read(MAX_HTML + 1)
    if len(html) > MAX_HTML:
        sys.stderr.write(f"the page has more than {MAX_HTML:,} bytes\n")
        return 1
    text = html.decode()
    if any("가" <= each <= "힣" for each in text) and not has_korean_font():
        return NO_FONT
    try:
        made = render(text)
    except OSError as error:  # a library that WeasyPrint loads at its import
        sys.stderr.write(f"{error}\n")
        return NO_LIBRARY
    sys.stdout.buffer.write(made)
    return 0


def render(html: str) -> bytes:
    """The PDF of a page.

    Raises:
        OSError: Pango or another library of the system is missing.
        FatalURLFetchingError: the page refers to something.
    """
    from weasyprint import HTML
    from weasyprint.urls import URLFetcher

    class Nothing(URLFetcher):  # type: ignore[misc]  # WeasyPrint is not typed
        """Fetches nothing: a page has all that it shows."""

        def fetch(self, url: str, headers: object = None) -> NoReturn:  # noqa: ARG002
            raise ValueError(f"a page must not refer to {url[:100]!r}")

    # tags say to a screen reader what a heading, a table and a chart is
    return bytes(HTML(string=html, url_fetcher=Nothing(fail_on_errors=True)).write_pdf(pdf_tags=True))


def has_korean_font() -> bool:
    """Whether fontconfig, which WeasyPrint asks for fonts, has one with Korean letters."""
    fonts = ctypes.CDLL("libfontconfig.so.1")
    for name in ("FcNameParse", "FcObjectSetCreate", "FcFontList"):
        getattr(fonts, name).restype = ctypes.c_void_p
    fonts.FcFontList.argtypes = [ctypes.c_void_p] * 3
    found = fonts.FcFontList(None, fonts.FcNameParse(b":lang=ko"), fonts.FcObjectSetCreate())
    # the first member of FcFontSet is how many fonts it has
    return bool(found) and ctypes.cast(found, ctypes.POINTER(ctypes.c_int))[0] > 0


if __name__ == "__main__":
    sys.exit(main())
