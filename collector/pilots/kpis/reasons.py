"""Why a period does not count: a sentence in English and Korean for each code."""

from __future__ import annotations

# code -> (status, English, Korean)
REASONS: dict[str, tuple[str, str, str]] = {
    "no-data": ("missing", "no row of an input is stored", "입력 데이터가 저장되어 있지 않다"),
    "no-value": (
        "missing",
        "there is no value: a counter has one row or none, or the denominator is 0",
        "값을 계산할 수 없다: 계수기의 행이 하나 이하이거나 분모가 0이다",
    ),
    "data-lost": ("incomplete", "the node declared messages lost", "노드가 메시지 손실을 신고했다"),
    "data-missing": (
        "incomplete",
        "messages that the node took are not stored",
        "노드가 받은 메시지가 저장되지 않았다",
    ),
    "data-waiting": (
        "incomplete",
        "messages wait at the node: ask again later",
        "메시지가 노드에서 전송을 기다린다",
    ),
    "data-pruned": ("incomplete", "retention removed rows or events", "보존 기간이 지나 데이터가 삭제되었다"),
    "data-damaged": ("incomplete", "a day file is damaged", "일별 파일이 손상되었다"),
    "data-changed": (
        "incomplete",
        "rows do not agree with the sums that were stored with them, or an event with its checksum",
        "행이 함께 저장된 분 단위 합계와 다르거나 이벤트가 체크섬과 다르다",
    ),
    "device-silent": (
        "incomplete",
        "the device gave no values, though no message is absent",
        "누락된 메시지는 없으나 장치가 값을 보내지 않았다",
    ),
    "too-many": (
        "incomplete",
        "it has more rows or events than are read: use shorter periods",
        "행이나 이벤트가 읽을 수 있는 한도보다 많다",
    ),
    "condition-unknown": (
        "incomplete",
        "data of a condition of `exclude` are not complete",
        "제외 조건을 판단할 데이터가 부족하다",
    ),
    "clock-unset": (
        "clock",
        "the clock of the node was not set, and its error is not known",
        "노드 시계가 맞추어져 있지 않았고 오차도 알 수 없다",
    ),
    "clock-stepped": (
        "clock",
        "the clock was set by more than `clock_max_ms`, or times go back between messages",
        "시계가 허용 범위를 넘게 조정되었거나 시각이 거꾸로 갔다",
    ),
    "clock-off": (
        "clock",
        "the error of the clock is above `clock_max_ms`",
        "시계 오차가 허용 범위를 넘는다",
    ),
    "condition": ("excluded", "a condition of `exclude.when` is true", "제외 조건에 해당한다"),
    "left-out": ("excluded", "it is within `exclude.times`", "제외 기간에 들어 있다"),
    "settling": ("cut", "nothing is left of it after `settle_s`", "안정화 시간에 모두 포함된다"),
}
