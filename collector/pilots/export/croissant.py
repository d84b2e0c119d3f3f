"""`croissant.json`: what an export has, by Croissant 1.1, with its provenance by PROV."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from collector.pilots.export.parquet import Column, Kind, Written
from wire.pilot.frozen import Opened

CONFORMS_TO = "http://mlcommons.org/croissant/1.1"
NO_LICENCE = "No licence is granted: ask the owner of the data."
_PARQUET = "application/x-parquet"
_TYPES: dict[Kind, str] = {
    "float": "sc:Float",
    "int": "sc:Integer",
    "small": "sc:Integer",
    "bool": "sc:Boolean",
    "text": "sc:Text",
    "time": "sc:DateTime",
}
_OF_CROISSANT = (  # terms that the context puts into the vocabulary of Croissant
    *("annotation", "arrayShape", "citeAs", "column", "containedIn", "equivalentProperty", "excludes"),
    *("extract", "field", "fileObject", "fileProperty", "fileSet", "format", "includes", "isArray"),
    *("isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "readLines", "recordSet"),
    *(
        "references",
        "regex",
        "repeated",
        "replace",
        "samplingRate",
        "sdVersion",
        "separator",
        "source",
        "subField",
        "transform",
        "unArchive",
        "value",
    ),
)
CONTEXT: dict[str, Any] = {
    "@language": "en",
    # the specification writes http; every published context and the reference library have https
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "prov": "http://www.w3.org/ns/prov#",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    **{term: f"cr:{term}" for term in _OF_CROISSANT},
}


class About(Struct, frozen=True, kw_only=True):
    """What only the publisher knows; `published` is a date such as 2027-04-01."""

    published: str
    licence: str = ""
    creator: str = ""
    cite: str = ""
    page: str = ""


def croissant(
    opened: Opened,
    about: About,
    files: Sequence[Written],
    outboxes: Sequence[str],
    software: str,
    *,
    doubts: Sequence[str] = (),
) -> dict[str, Any]:
    """The document; `outboxes` are those of the rows, and `doubts` what is absent or cannot be trusted."""
    plan, creator = opened.plan.plan, about.creator or opened.plan.plan.owner
    plan_id = f"urn:edgebed:plan:sha256:{opened.hash}"
    cite = about.cite or (
        f"@misc{{{plan.pilot}-{opened.hash[:12]}, title={{{_plain(plan.title.en)}}}, "
        f"author={{{_plain(creator)}}}, year={{{about.published[:4]}}}, "
        f"note={{data of a pilot; frozen plan sha256 {opened.hash}}}}}"
    )
    description = (
        f"{plan.title.en}. {plan.question.en} Rows, events and switches of the pilot {plan.pilot} "
        f"({plan.design.kind}) from the start of its baseline to the end of its trial, as they were stored."
    )
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "name": plan.pilot,
        "conformsTo": CONFORMS_TO,
        "description": description,
        "license": about.licence or NO_LICENCE,
        "url": about.page or plan_id,
        "creator": {"@type": "sc:Organization", "name": creator},
        "datePublished": about.published,
        "version": f"{opened.plan.version}.0.0",
        "citeAs": cite,
        "isLiveDataset": False,
        "rai:dataCollectionMissingData": list(doubts)
        or "Nothing that is known: see kpis.parquet, by period.",
        "prov:wasDerivedFrom": [
            {"@id": plan_id},
            *({"@id": f"urn:edgebed:outbox:{each}"} for each in outboxes),
        ],
        "prov:wasGeneratedBy": {
            "@type": "prov:Activity",
            "prov:label": "edgebed pilot export",
            "prov:used": {"@id": plan_id},
            "prov:wasAssociatedWith": {"@type": "prov:SoftwareAgent", "prov:label": f"edgebed {software}"},
        },
        "distribution": [_file(each) for each in files],
        "recordSet": [_records(each) for each in files if each.columns],
    }


def _file(each: Written) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": each.file,
        "name": each.file,
        "description": each.text,
        "contentUrl": each.file,
        "contentSize": f"{each.size} B",
        "encodingFormat": _PARQUET if each.columns else "application/json",
        "sha256": each.sha256,
    }


def _records(each: Written) -> dict[str, Any]:
    name = each.file.removesuffix(".parquet")
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": f"{each.text}: {each.rows:,} rows",
        "field": [_field(name, each.file, column) for column in each.columns],
    }


def _field(records: str, file: str, column: Column) -> dict[str, Any]:
    words = [
        column.text,
        f"unit {column.unit}" if column.unit else "",
        *(f"{k}: {v}" for k, v in column.more.items()),
    ]
    found: dict[str, Any] = {
        "@type": "cr:Field",
        "@id": f"{records}/{column.name}",
        "name": column.name,
        "dataType": _TYPES[column.kind],
        "source": {"fileObject": {"@id": file}, "extract": {"column": column.name}},
    }
    if text := "; ".join(each for each in words if each):
        found["description"] = text
    return found


def _plain(text: str) -> str:
    """A text within braces of BibTeX."""
    return "".join(each for each in text if each not in "{}\\")
