"""How people ask for a checkpoint of the made-up repository, and reply to a question: words only.

`{thing}` is what a user calls a concept, `{noun}` its class, `{scene}` where it goes, `{n}` a version. How they are
drawn is in `repo_prompts`.
"""

from __future__ import annotations

Frames = tuple[str, ...]

# --- one version is meant ----------------------------------------------------------------------

NUMBERED: Frames = (
    "{thing} {scene}, use v{n}",
    "v{n} of {thing}, {scene}",
    "{scene}: {thing}, version {n}",
    "load version {n} of {thing} and make a picture {scene}",
    "{thing} v{n} {scene}",
    "the {nth} version of {thing}, {scene}",
    "go back to v{n} of {thing}, {scene}",
    "{thing} {scene} please, the v{n} file",
    "can you use ver {n} of {thing}? {scene}",
    "i liked version {n} best. {thing} {scene}",
    "{file} {scene}",
    "{thing} {scene} (v{n}, not the newest)",
    "version {word} of {thing}, {scene}",
    "{thing} {scene}, with version {n} and not {other}",
    "a picture {scene}, {thing}, number {n} of the series",
    "{thing} once more {scene}; version {n} as always",
)
NEWEST: Frames = (
    "the newest version of {thing}, {scene}",
    "{thing} {scene}, latest version please",
    "{thing} {scene}, use the most recent one i trained",
    "{scene}, {thing}, whatever the last version is",
    "my latest training of {thing} {scene}",
)
OLDEST: Frames = (
    "the very first version of {thing}, {scene}",
    "{thing} {scene}, with the oldest version i have",
    "the original one of {thing} {scene}",
    "{thing} {scene}, the first i ever trained",
)
ON_DAY: Frames = (
    "{thing} from {day}, {scene}",
    "{scene}: {thing}, the one trained on {day}",
    "use the version i saved on {day} for {thing} {scene}",
    "{thing} {scene}, the one of {day}",
    "{thing} as it was on {day}, {scene}",
)
IN_MONTH: Frames = (
    "{thing} {scene}, the one from {month}",
    "{thing} {scene} - the one i trained in {month}",
    "the {month} version of {thing}, {scene}",
    "{thing} made in {month}, {scene}",
    "that one from {month} of {thing}, {scene}",
    "in {month} i trained a version of {thing}. that one, {scene}",
)
LAST_MONTH_NAME: Frames = (
    "{thing} {scene}, the one from last {monthname}",
    "the version of {thing} i made last {monthname}, {scene}",
    "{scene}, {thing}, last {monthname}'s one",
    "last {monthname} i trained {thing}; use that, {scene}",
)
IN_SEASON: Frames = (
    "{thing} {scene}, the one from {season}",
    "the {season} version of {thing}, {scene}",
    "{thing} as i trained it in {season}, {scene}",
)
LOOK_AND_LIGHT: Frames = (
    "{thing} with the {look}, the one in {light}, {scene}",
    "the {light} version of {thing} with the {look}, {scene}",
    "{thing} {scene}, the version that was trained with the {look} and {light}",
    "{scene}: the one of {thing} that has the {look} and {light}",
    "you know, {thing} with the {look} in {light}. put it {scene}",
    "{light}, {look}: the version of {thing} i mean. {scene}",
)
STEPS_AND_SET: Frames = (
    "the {steps} step run of {thing} on the {dataset}, {scene}",
    "{thing} {scene}, trained on the {dataset} for {steps} steps",
    "{scene}, {thing}, {dataset} set, {steps} steps",
)
LOOK_AND_SET: Frames = (
    "{thing} with the {look} from the {dataset}, {scene}",
    "{thing} {scene}, the {look} one made from {dataset}",
    "the version of {thing} trained on {dataset} with the {look}, {scene}",
)

# --- several versions fit ----------------------------------------------------------------------

BARE: Frames = (
    "{thing} {scene}",
    "draw {thing} {scene}",
    "{scene}: {thing}",
    "i want a picture of {thing} {scene}",
    "{thing} again, {scene}",
    "make one of {thing} {scene}",
    "could you put {thing} {scene}?",
    "something with {thing} {scene}",
    "{thing} {scene}, wide shot",
    "a quick sketch of {thing} {scene}",
    "please, {thing} {scene}, lots of detail",
    "we need {thing} {scene} for the calendar",
)
WITH_LOOK: Frames = (
    "{thing} with the {look}, {scene}",
    "{thing} {scene}, the {look} one",
    "that version of {thing} with the {look}, {scene}",
    "{look} version of {thing} {scene}",
)
WITH_LIGHT: Frames = (
    "the {light} version of {thing}, {scene}",
    "{thing} {scene}, one of those trained in {light}",
    "{thing} {scene}, the {light} one",
)
WITH_SET: Frames = (
    "{thing} trained on {dataset}, {scene}",
    "{thing} {scene}, from the {dataset}",
    "the {dataset} version of {thing}, {scene}",
)
WITH_STEPS: Frames = (
    "the {steps} step version of {thing}, {scene}",
    "{thing} {scene}, one of the {steps} step runs",
)
IN_PERIOD: Frames = (
    "{thing} from {period}, {scene}",
    "{thing} {scene}, one i trained in {period}",
    "the {period} {noun}, {scene}",
)

# --- replies to the question -------------------------------------------------------------------

BY_NUMBER: Frames = ("v{n}", "version {n}", "v{n} please", "take version {n}", "i meant v{n}")
BY_DAY: Frames = ("the one from {day}", "{day}", "the one i trained on {day}")
BY_LIGHT: Frames = ("the one in {light}", "{light}", "the {light} one")
BY_STEPS: Frames = ("the one with {steps} steps", "{steps} steps")
BY_SET: Frames = ("the one from the {dataset}", "{dataset}")
BY_LOOK_AND_LIGHT: Frames = ("the one with the {look} in {light}", "{look}, {light}", "{light} and the {look}")
BY_NEWEST: Frames = ("the newest of them", "the latest one")
BY_OLDEST: Frames = ("the oldest of them", "the first of those")

# --- nothing fits ------------------------------------------------------------------------------

ABSENT: Frames = (
    "my iguana", "our accordion", "my rhinoceros", "the church organ", "my ferret", "our tortoise", "my cactus",
    "grandpa's typewriter", "my wristwatch", "the trombone", "my skateboard", "our hot-air balloon", "my octopus",
    "the chess set", "my bulldozer", "our goldfish", "my umbrella", "the space shuttle", "my wedding cake",
    "our pinball machine", "my snow globe", "the grandfather clock", "my hedgehog", "our submarine",
)  # fmt: skip
ABSENT_SUBJECT: Frames = (
    "{what} {scene}",
    "{what} {scene}, use the lora i trained for it",
    "the newest version of {what}, {scene}",
    "{scene}: {what}, v3",
    "a picture of {what} {scene}",
    "{what} from last summer, {scene}",
)
ABSENT_STYLE: Frames = (
    "a harbour in my cubist style",
    "two owls in my stained glass style",
    "a snowy street, mosaic style of mine",
    "my linocut style for a teacup, v12",
    "a cactus garden in my pixel style",
    "the graffiti look i trained, a train yard",
)
ABSENT_VERSION: Frames = (
    "{thing} {scene}, use v{n}",
    "version {n} of {thing}, {scene}",
    "{thing} v{n} {scene}",
    "{scene}: the {nth} version of {thing}",
)
ABSENT_DATE: Frames = (
    "{thing} from {month}, {scene}",
    "{thing} {scene}, the one i trained in {month}",
)
NOTHING_WANTED: Frames = (
    "no lora, only the base model: a tram in the rain",
    "don't load any checkpoint, just a bowl of cherries",
    "plain base model please, a lighthouse in fog, without any lora",
)
OFF_TOPIC: Frames = (
    "what is the capital of peru",
    "remind me to water the plants tomorrow",
    "translate good morning into finnish",
)
