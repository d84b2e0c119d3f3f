"""Figures of a detector: average precision, errors of counts, and which people are missed."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from simulators.plants.scene import LABELS

# of one picture: detections (class, score, box) and truth (class, x, y, w, h), as shares of its size
Seen = tuple[list[tuple[int, float, tuple[float, ...]]], list[tuple[int, float, float, float, float]]]
Hits = tuple[list[tuple[float, bool]], int]


def count_errors(seen: list[Seen], score: float) -> list[float]:
    """Mean error of the count of each class per picture, for detections with at least this score."""
    errors = []
    for cls in range(len(LABELS)):
        off = [
            abs(sum(c == cls and s >= score for c, s, _ in boxes) - sum(box[0] == cls for box in truth))
            for boxes, truth in seen
        ]
        errors.append(float(np.mean(off)))
    return errors


def hits(picture: Seen, cls: int) -> Hits:
    """Score of each detection and if it overlaps a free box by half; then the number of boxes."""
    boxes, truth = picture
    wanted = [box[1:] for box in truth if box[0] == cls]
    found: list[tuple[float, bool]] = []
    taken: set[int] = set()
    for _, score, box in sorted((b for b in boxes if b[0] == cls), key=lambda b: -b[1]):
        overlaps = [0.0 if at in taken else overlap(box, other) for at, other in enumerate(wanted)]
        best = int(np.argmax(overlaps)) if overlaps else -1
        good = best >= 0 and overlaps[best] >= 0.5
        if good:
            taken.add(best)
        found.append((score, good))
    return found, len(wanted)


def average_precision(pictures: Iterable[Hits]) -> float:
    """Area under the precision-recall curve of the `hits` of some pictures."""
    all_hits: list[tuple[float, bool]] = []
    total = 0
    for found, wanted in pictures:
        all_hits += found
        total += wanted
    if not total or not all_hits:
        return 0.0
    right = np.cumsum([good for _, good in sorted(all_hits, key=lambda hit: -hit[0])])
    precision, recall = right / np.arange(1, len(right) + 1), right / total
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * envelope))


def precision_interval(by_class: list[list[Hits]], scenes: int) -> list[float]:
    """95 % interval of the mean average precision by bootstrap over scenes."""
    rng, each_shows = np.random.default_rng(0), len(by_class[0]) // scenes
    means = []
    for _ in range(400):
        first = rng.integers(0, scenes, scenes)[:, None] * each_shows
        drawn = (first + np.arange(each_shows)).ravel().tolist()
        means.append(np.mean([average_precision([each[at] for at in drawn]) for each in by_class]))
    return [round(float(end), 3) for end in np.quantile(means, (0.025, 0.975))]


def people(seen: list[Seen], score: float) -> dict[str, float]:
    """The share found of all people, of people below 35 px and of people that overlap an object."""
    rows: list[tuple[bool, bool, bool]] = []
    wrong = 0
    for boxes, truth in seen:
        detected = sorted((b for b in boxes if b[0] == 0 and b[1] >= score), key=lambda b: -b[1])
        left = [box[1:] for box in truth if box[0] == 0]
        missed = list(left)
        for _, _, box in detected:
            best = max(missed, key=lambda other: overlap(box, other), default=None)
            if best is not None and overlap(box, best) >= 0.5:
                missed.remove(best)
            else:
                wrong += 1
        for box in left:
            others = sum(overlap(box, other[1:]) > 0 for other in truth) - 1
            rows.append((box not in missed, box[3] * 480 < 35, others > 0))
    found, small, hidden = np.array(rows).T
    return {
        "people": len(rows),
        "people_found": round(float(found.mean()), 3),
        "people_found_small": round(float(found[small].mean()), 3),
        "people_found_overlapping": round(float(found[hidden].mean()), 3),
        "people_invented": round(wrong / len(seen), 3),  # a picture
    }


def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Intersection over union of two boxes x, y, w, h."""
    wide = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    high = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    inner = max(0.0, wide) * max(0.0, high)
    return inner / (a[2] * a[3] + b[2] * b[3] - inner)
