"""A report as a page of HTML or PDF, in English and Korean."""

from collector.pilots.report.pages.page import page

__all__ = ["page"]
