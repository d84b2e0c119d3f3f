"""Every code of a report with its sentence in English; `pages.texts` has both languages.

In a sentence, `{where}` and the names of `args` stand for what a finding has.
"""

from __future__ import annotations

FINDINGS: dict[str, str] = {
    # the plan
    "schedule-other": "The schedule in the frozen plan {where} is not the one that its seed draws.",
    "plan-not-recorded": "{where} never recorded the plan.",
    "plan-not-in-time": "{where} recorded the plan {late_s} s after the trial began.",
    "plan-backdated": "{where} took version {version} after rows of the trial, and dated it back.",
    "amended": "Version {version} of the plan came when {rows} rows of the trial were stored: {reason}",
    "plan-other": "{where} followed a plan that is not among these versions: {hash}, in {events} events.",
    "withdrawn": "The plan {hash} was withdrawn at {where} before the end of the trial.",
    "events-unreadable": "{events} events of {where} name this pilot and cannot be read.",
    "events-too-many": "{where} has more events about pilots than are read; the newest count.",
    # what ran
    "schedule-not-kept": "{where} did not do what was planned in {periods} of {of} periods, for {seconds} s.",
    "switched-late": "{where} switched late in {periods} periods, by up to {seconds} s.",
    "down-over-switch": "The agent of {where} was down over a switch, {times} times.",
    "model-swapped": "{where} had the model {model} in the slot, and the plan names {planned}.",
    "not-applied": "{where} stated that it could not do what was planned: {code}.",
    "setup-changed": "The devices or models of {where} were changed {times} times during the pilot.",
    "switches-not-listed": "There are {switches} switches: {listed} are listed, and all count.",
    # the data
    "no-data": "Periods in which no rows are stored: {periods} ({kpis}). {where}",
    "data-lost": "Periods in which the node declared messages lost: {periods} ({kpis}). {where}",
    "data-missing": "Periods in which messages are missing: {periods} ({kpis}). {where}",
    "data-waiting": "Periods whose messages wait at the node: {periods} ({kpis}). {where}",
    "data-pruned": "Retention removed data of {periods} periods ({kpis}): {where}",
    "data-damaged": "Data of {periods} periods cannot be read ({kpis}): {where}",
    "data-changed": "Somebody changed data after they were stored. Periods: {periods} ({kpis}). {where}",
    "device-silent": "The device gave no values for a part of {periods} periods ({kpis}). {where}",
    "too-many": "{periods} periods have more rows or events than are read ({kpis}): {where}",
    "condition-unknown": "Whether {where} holds is not known in {periods} periods ({kpis}).",
    "clock-unset": "Periods in which the clock of the node was not set: {periods} ({kpis}). {where}",
    "clock-stepped": "Periods in which the clock of the node jumped: {periods} ({kpis}). {where}",
    "clock-off": "Periods in which the clock of the node was too far off: {periods} ({kpis}). {where}",
    "rows-fewer": "{where} has {rows} rows now, and {counted} were stored: others are gone or damaged.",
    "rows-more": "{where} has {rows} rows, and the ledger {counted}: others were added, or it was reset.",
    "days-missing": "{where} has no data on {days} whole days, from {first} to {last}.",
}

LIMITS: dict[str, str] = {
    "other-changes": "Other changes on the same date cannot be distinguished from the intervention.",
    "slow-build-up": "An effect that builds up slowly is underestimated.",
    "noise-change": "If the noise changed much with the intervention, the interval may be too narrow.",
    "trend-not-checked": "The plan does not check whether a trend explains the effect.",
    "carry-over": "An effect that lasts longer than the wash-out looks smaller than it is.",
    "washout-short": "The wash-out is shorter than the carry-over: the effect looks smaller than it is.",
    "machines-alike": "With fewer than 4 machines a group, the interval assumes that the machines are alike.",
    "machines-influence": "It is assumed that the machines do not influence each other.",
    "shadow-only": "The model ran beside the rule: what people would do with its results is not measured.",
    "periods-independent": "A period counts as a place of its own: similar neighbours count too much.",
    "not-adjusted": "Weekdays and covariates of the plan are not used: this design needs none.",
    "one-primary": "One KPI decides; the intervals of the others are not corrected for their number.",
    "ratio-linearised": "How often the interval of a linearised ratio holds the truth was not simulated.",
    "no-upper-limit": "An interval has no upper limit: there are too few events without the intervention.",
    "absolute-ratio": "An absolute change of a ratio compares the values of the periods, not the sums.",
}

# of a verdict that is not shown, of a guardrail, and of a refusal
REASONS: dict[str, str] = {
    "interval-holds-target": "the interval holds the target",
    "interval-holds-limit": "the interval holds the limit",
    "guardrail-broken": "a guardrail is broken",
    "trial-not-over": "the trial is not over",
    "too-few-periods": "there are too few periods with data",
    "too-few-machines": "there are too few machines with data",
    "too-few-events": "there are too few events",
    "data-incomplete": "more periods were left out than the plan allows",
    "changed-after-start": "the KPIs or their analysis were changed after the trial began",
    "schedule-not-kept": "something else was applied than planned for more than 5 % of the time",
    "noise-level-changed": "the noise changed more than twofold with the intervention",
    "trend-could-explain": "a linear trend could explain it",
    "placebo-dates": "too many fake dates in the baseline show an effect, too",
    "washout-too-short": "the wash-out is shorter than the carry-over",
    "values-do-not-vary": "all values are equal",
    "values-not-positive": "a value is 0 or negative",
    "design-not-identified": "a covariate changes together with the intervention",
    "not-applicable": "this design or plan has no such variant",
}
