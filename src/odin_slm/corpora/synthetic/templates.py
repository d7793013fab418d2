"""Sentences of the synthetic corpus, by what they state.

``{d}`` is a slot: ``d``, ``e`` drugs, ``c``, ``k`` conditions. ``[a|b]`` is a choice of wordings, ``<patient>`` a
phrase of :data:`PHRASES`. A template states exactly the facts that stand beside it, as ``relation head tail``; what it merely
mentions, denies or lists is a distractor that a reader has to leave alone.
"""

# ruff: noqa: E501 - one template, one line.

from __future__ import annotations

from typing import NamedTuple


class Template(NamedTuple):
    """A sentence with slots, and the facts it states: (relation, head slot, tail slot)."""

    text: str
    facts: tuple[tuple[str, str, str], ...] = ()


def _stating(facts: str, *texts: str) -> tuple[Template, ...]:
    stated = tuple((relation, head, tail) for relation, head, tail in (fact.split() for fact in facts.split(", ")))
    return tuple(Template(text, stated) for text in texts)


def _stating_nothing(*texts: str) -> tuple[Template, ...]:
    return tuple(Template(text) for text in texts)


CAUSES_TITLE = _stating(
    "causes d c",
    "{d}-induced {c}.",
    "{c} [caused by|due to|secondary to|induced by] {d}.",
    "{c} [following|after|during] [treatment with|administration of|therapy with|exposure to] {d}.",
    "[Severe|Reversible|Fatal|Delayed|Acute onset of|Unusual] {c} [induced by|due to|caused by] {d}[: a case report|: report of <number> cases||].",
    "{d} as a cause of {c}[ in <group>||: a review].",
    "A case of {d}-induced {c}[ in <patient>|].",
    "[Two|Three|Four] cases of {c} [attributed to|caused by] {d}.",
    "[Early|Late|Sudden] {c} as an adverse effect of {d}.",
)

CAUSES = _stating(
    "causes d c",
    "[We report|We describe|Here we present|This report describes] <patient> who developed {c} [after|while] [receiving|taking] {d}.",
    "<Time> after [starting|the first dose of|the start of] {d}, [the patient|he|she|the child] developed {c}.",
    "{c} [appeared|occurred|was noted|became evident] <time> after {d} had been [started|given|introduced].",
    "[The dose of <dose>|A dose of <dose>|An overdose] of {d} [caused|led to|resulted in|provoked] {c}[ in <group>||].",
    "{d} [caused|induced|produced|triggered] [marked|severe|mild|persistent|transient] {c} in <share>.",
    "[Withdrawal|Discontinuation] of {d} was [necessary|required|unavoidable] because of [severe|intolerable|progressive] {c}.",
    "{c} [resolved|disappeared|subsided] [within <time>|completely|gradually] after {d} was [stopped|discontinued|withdrawn], and [recurred|returned|came back] on rechallenge.",
    "[Clinicians|Physicians|Prescribers] should be aware that {d} [can cause|may cause|can induce|may lead to] {c}.",
    "[On day <day>|In the <ordinal> week] of [treatment with|therapy with] {d}, [severe|sudden|new] {c} [set in|was observed|developed].",
    "The [findings|time course|biopsy|laboratory results] [pointed to|confirmed|supported a diagnosis of] {d}-induced {c}.",
    "[Two|Three|Several|<Number>] [patients|subjects|children] [given|treated with|receiving] {d} [experienced|suffered|complained of] {c}.",
    "To our knowledge, this is the [first|second|third] [report|description] of {c} [caused by|due to|induced by] {d}.",
    "{c} was [the most frequent|a common|a dose-limiting|a serious] adverse effect of {d}.",
)

CAUSES_TWO_EFFECTS = _stating(
    "causes d c, causes d k",
    "{d} [caused|induced|led to|produced] {c} and {k} in [one patient|<share>|an elderly patient|both brothers].",
    "[Adverse effects|Side effects|Toxic effects] of {d} [included|were|comprised] {c} and {k}.",
    "[The patient|He|She|The girl] [developed|suffered] {c} followed by {k} [after|during] [an infusion of|the second course of|treatment with] {d}.",
    "<Time> [into|after starting] {d} <patient> [presented with|was admitted with] {c} as well as {k}, both [attributed to|caused by] the drug.",
    "[Both {c} and {k}|{c} as well as {k}] [resolved|abated] when {d}, the suspected cause, was [withdrawn|stopped].",
)

CAUSES_TWO_DRUGS = _stating(
    "causes d c, causes e c",
    "[We report|We saw|There were] <number> cases of {c} caused by {d} and {e}.",
    "{c} [was induced by|occurred with|was provoked by] both {d} and {e}.",
    "Either {d} or {e} [can induce|may cause|can provoke] {c}[ in <group>|].",
    "{c} [caused by|due to] {d} and later by {e}.",
)

OVERLAPPING = _stating(
    "causes d c",
    "{c} [was suspected|was diagnosed|became evident] in <patient>.",
    "[Risk factors|Mechanisms|Early signs] of {c} in <group>.",
    "<Patient> was [admitted|referred|transferred] with signs of {c}.",
)
"""Their effect contains the drug's own name: "cisplatin nephrotoxicity"."""

TREATS_TITLE = _stating(
    "treats d c",
    "{d} in the treatment of {c}[: a randomized trial|: results of <number> patients|].",
    "[Efficacy|Long-term efficacy|Benefit] of {d} [in|for the treatment of] {c}.",
    "[Successful|Effective] treatment of {c} with {d}.",
    "{d} [relieves|improves|ameliorates] {c}[ in <group>|: an open study|].",
    "{d} for {c}[: an update|: a pilot study|].",
)

TREATS = _stating(
    "treats d c",
    "{d} is [widely used|commonly used|approved|effective|recommended] for [the treatment of ||the management of ]{c}.",
    "[We studied|We assessed|The aim was to study] {d} <dose> as a treatment of {c}[ in <group>|].",
    "{d} [improved|relieved|reduced|controlled] {c} in <share>.",
    "[He|She|The patient] was [given|started on|prescribed] {d} <dose> for {c}.",
    "<Patient> had been treated with {d} for {c}[ since <year>| for <time>|].",
    "{c} [responded|responded well|responded promptly] to {d}[ <dose>|].",
    "[Treatment|Therapy] of {c} with {d} was [successful|effective|continued for <time>].",
    "[Intravenous|Oral|Low-dose] {d} [alleviated|cured|ameliorated] {c} [within <time>|in most cases|without relapse].",
)

PREVENTS_TITLE = _stating(
    "causes e c, treats d c",
    "{d} [attenuates|prevents|reduces|protects against] {e}-induced {c} in <animals>.",
    "[Protective effect|Beneficial effect] of {d} [against|on] {e}-induced {c}.",
    "Reversal of {e}-induced {c} by {d}.",
)

PREVENTS = _stating(
    "causes e c, treats d c",
    "[Pretreatment with|Oral administration of|Injection of] {d} [abolished|prevented|attenuated] {e}-induced {c}.",
    "In <animals>, {c} [caused|produced|induced] by {e} was [reversed|ameliorated|relieved] by {d} <dose>.",
    "{e} <dose> [produced|caused|induced] {c}, which {d} [reduced|prevented|reversed] in a dose-dependent manner.",
    "These results suggest that {d} [protects against|may prevent|counteracts] {c} induced by {e}.",
)

ASSOCIATED_TITLE = _stating(
    "associated_with d c",
    "Association [between {d} and|of {d} with] {c}[: a cohort study|: a case-control study|].",
    "{d} use and the risk of {c}[ in <group>|: a register study|].",
    "Is {d} associated with {c}?",
)

ASSOCIATED = _stating(
    "associated_with d c",
    "[Use of|Exposure to|Long-term use of] {d} was associated with {c} (odds ratio <ratio>).",
    "{c} [correlated|was correlated|was weakly correlated] with {d} [levels|exposure|dose] in <group>.",
    "[We found|The data show|There was] an association between {d} and {c}.",
    "[A link|A statistical link|A possible link] between {d} and {c} was [found|seen|suspected] in <group>.",
    "The [risk|odds|frequency] of {c} was [related|linked] to [the use of|exposure to] {d}.",
)

INTERACTS_TITLE = _stating(
    "interacts_with d e",
    "Interaction between {d} and {e}[ in <group>|].",
    "{d} [increases|reduces|alters] [plasma concentrations|the clearance|the bioavailability] of {e}.",
    "[Pharmacokinetic interaction|Drug interaction] of {d} with {e}.",
)

INTERACTS = _stating(
    "interacts_with d e",
    "{d} [inhibits|induces|slows|accelerates] the metabolism of {e}.",
    "{d} [raised|lowered|doubled|halved] the [plasma levels|serum concentration|clearance] of {e} in <group>.",
    "[Coadministration|Concomitant intake] of {d} [increased|decreased|changed] the [half-life|exposure|peak concentration] of {e} by <percent>.",
    "{d} [potentiated|antagonized|blocked|enhanced] the effect of {e}[ in <animals>|].",
    "{d} interacts with {e}, [and the dose must be reduced|so that levels should be monitored|which is often overlooked].",
)

COMBINED = _stating(
    "associated_with d e",
    "[The patients|All subjects|<Group>] received {d} in combination with {e}.",
    "{d} was [combined with|given together with|added to] {e} [for <time>|in <percent> of cases|from day <day>].",
    "The [combination|regimen] of {d} plus {e} was [well tolerated|given for <time>|tested in <group>].",
)

NEGATED = _stating_nothing(
    "There was no evidence of {c}.",
    "[Neither {c} nor {k} was found|No signs of {c} or {k} were seen].",
    "No [patient|child|subject] treated with {d} [developed|had|experienced] {c}.",
    "{d} did not [cause|induce|aggravate|lead to] {c}[ in <group>|].",
    "{c} was [ruled out|excluded] by [ultrasound|biopsy|computed tomography|repeated tests].",
    "{d} was [ineffective against|without effect on|no better than placebo in] {c}.",
    "[The rate|The incidence] of {c} did not differ between {d} and placebo.",
)

BYSTANDERS = _stating_nothing(
    "[His|Her|Other] [medication|regular drugs|long-term medication] [included|consisted of|comprised] {d} and {e}.",
    "[He|She|The patient] had [also been taking|tolerated|previously received] {d} [for years|without problems|for <time>].",
    "{d} was [continued unchanged|not changed|tapered and stopped before admission].",
    "[The control group|Controls|The other group] received {d} <dose>.",
    "{d} and {e} were compared in [a double-blind trial|a crossover study|<group>].",
    "Serum levels of {d} were [normal|measured every <time>|within the usual range].",
)

BACKGROUND = _stating_nothing(
    "<Patient> with [a history of|known|long-standing] {c} was [admitted|referred] to [our hospital|our clinic|the emergency department].",
    "[The medical history|His history|Her history|The family history] [was notable for|included] {c}.",
    "{c} is [a rare|a chronic|an underdiagnosed|a common] condition[ in <group>|].",
    "[We examined|We followed|We enrolled] <group>, of whom <number> had {c}.",
)

FILLERS = _stating_nothing(
    "[Laboratory values|All values|Liver enzymes] returned to normal within <time>.",
    "[He|She|The patient] recovered [fully|completely] and was discharged [on day <day>|after <time>].",
    "[The study|The trial] [included|enrolled] <group> over <time>.",
    "[Further studies|Larger trials|Prospective studies] are [needed|warranted].",
    "[Blood pressure|Heart rate|Body weight] was recorded every <time>.",
    "The underlying mechanism [is unknown|remains unclear|is discussed].",
    "[No changes|No further changes] were made for <time>.",
    "Written consent was obtained from [all participants|the patient].",
    "[Median follow-up|Mean follow-up] was <time>.",
)

NOTE_OPENINGS = (
    *_stating(
        "treats d c",
        "<Patient>, on {d} <dose> for {c}.",
        "<Patient> seen for follow-up, takes {d} for {c}.",
        "Visit: <patient>. {c}, well controlled on {d} <dose>.",
    ),
    *_stating_nothing(
        "<Patient>, known {c}.",
        "<Patient>, presents to clinic. Past history: {c}.",
    ),
)
NOTE_EVENTS = (
    *_stating(
        "causes d c",
        "[Reports|Complains of|Describes] {c} since starting {d}.",
        "Allergies: {d} ({c}).",
        "[Assessment|Impression]: {c} due to {d}.",
        "{d} stopped on day <day> because it caused {c}.",
        "{c} after [first|second|third] dose of {d} <dose>.",
    ),
    *_stating(
        "causes d c, causes d k",
        "[Developed|Now has] {c} and {k} from {d}.",
        "Adverse drug reaction: {d} - {c}, {k}.",
    ),
)
NOTE_DETAILS = (
    *_stating("treats d c", "Plan: start {d} <dose> for {c}.", "{c} better with {d}.", "Rx: {d} <dose> ({c})."),
    *_stating(
        "interacts_with d e", "Caution: {d} raises {e} levels.", "{d} interacts with {e}, [dose halved|check levels]."
    ),
    *_stating("associated_with d c", "{c}, possibly linked to {d}.", "{c} noted, association with {d} unclear."),
    *_stating("associated_with d e", "Given {d} together with {e}.", "Regimen: {d} plus {e}."),
    *_stating_nothing(
        "Denies {c} and {k}.",
        "No {c}.",
        "[Also takes|Continue] {d}.",
        "No known reaction to {d}.",
        "{c} ruled out.",
        "Mother had {c}.",
        "Review in <time>.",
        "Vital signs stable.",
    ),
)

PHRASES: dict[str, tuple[str, ...]] = {
    "group": (
        "elderly patients", "healthy volunteers", "hospitalized children", "<number> outpatients", "pregnant women",
        "transplant recipients", "dialysis patients", "<number> men", "postmenopausal women", "premature infants",
        "critically ill patients", "<number> adults", "smokers", "male veterans", "nursing home residents",
    ),
    "animals": ("rats", "mice", "rabbits", "guinea pigs", "dogs", "male Wistar rats", "anesthetized cats"),
    "time": (
        "two days", "<day> days", "three weeks", "<day> weeks", "a month", "six months", "48 hours", "<day> hours",
        "four months", "one year", "ten days",
    ),
    "people": (
        "women", "men", "elderly patients", "children", "adolescents", "volunteers", "transplant recipients",
        "inpatients", "smokers", "participants", "infants",
    ),
    "share": (
        "<percent> of <group>", "most <people>", "half of the <people>", "a third of the <people>",
        "<number> <people>", "nearly all <people>",
    ),
    "ordinal": ("first", "second", "third", "fourth", "fifth", "sixth", "eighth"),
}  # fmt: skip
"""Phrases that may hold further phrases; numbers, doses and patients are made in synthetic.py."""
