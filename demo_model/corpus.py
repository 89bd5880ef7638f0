"""A seeded, synthetic, English-like corpus with known answers to four interpretability questions.

The corpus is made of short passages, one to three of which form a document:

* indirect object identification, after Wang et al. 2022, "Interpretability in the Wild": a repeated name
  (the subject S) and a name said once (the indirect object IO, which completes the passage);
* factual recall, after Meng et al. 2022, "Locating and Editing Factual Associations in GPT": landmarks and
  the city each stands in;
* gendered pronouns after occupations, after Vig et al. 2020, "Investigating Gender Bias in Language Models
  Using Causal Mediation Analysis": every occupation has its own odds of "she" against "he";
* protective behaviour: a protector who sees somebody in danger runs to protect, and does something else
  when there is no danger.

Everything is a pure function of its arguments: the same seed gives the same corpus. What the tests ask about
is held out here, in one place: pairs of names, (place, object) combinations and templates.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import combinations, product
from typing import NamedTuple

SEED = 2022
DOCUMENTS = 120_000

END = "<|endoftext|>"
PAD = "<|pad|>"
UNKNOWN = "<|unk|>"
SPECIALS = (END, PAD, UNKNOWN)

Passage = str
Document = tuple[Passage, ...]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# --- people, places, things ---------------------------------------------------------------------------------

FEMALE_NAMES = _words(
    "Mary Alice Anna Emma Julia Laura Sarah Linda Susan Karen Nancy Helen Sandra Diana Emily Rachel "
    "Maria Ruth Clara Grace Jane Kate Lucy Nora Olivia Sophie Tina Vera Wendy Zoe Amy Ella"
)
MALE_NAMES = _words(
    "John Tom James Robert Michael David Richard Joseph Thomas Daniel Mark Paul Steven Andrew Kevin Brian "
    "George Edward Peter Frank Henry Jack Adam Simon Oscar Leo Max Victor Walter Martin Sam Ben"
)
NAMES = FEMALE_NAMES + MALE_NAMES

PLACES = _words(
    "store park school market library beach station restaurant hospital office garden museum farm bank hotel "
    "theater church zoo castle harbor lake village forest bakery cafe gym pool stadium airport house cottage "
    "factory pharmacy bookshop cinema playground hall meadow court tavern"
)
OBJECTS = _words(
    "drink book ring ball key letter phone flower gift pen hat coat cake map basket bottle camera ticket cup "
    "lamp necklace snack sandwich toy guitar newspaper photo candle bag knife scarf coin box bone kite rose "
    "drum painting computer basketball"
)

HELD_OUT_SHARE = 0.15


def _held_out(*words: str) -> bool:
    """Decide by a hash of the words, so that the split depends on neither the seed nor the order of drawing."""
    digest = hashlib.sha256("|".join(words).encode()).digest()
    return int.from_bytes(digest[:4], "big") < HELD_OUT_SHARE * 2**32


def is_held_out_pair(first: str, second: str) -> bool:
    """Whether the unordered pair of names never shares a training passage."""
    return _held_out("pair", *sorted((first, second)))


def is_held_out_combo(place: str, thing: str) -> bool:
    """Whether the place and the object never share a training passage."""
    return _held_out("combo", place, thing)


def held_out_pairs() -> list[tuple[str, str]]:
    return [pair for pair in combinations(NAMES, 2) if is_held_out_pair(*pair)]


def held_out_combos() -> list[tuple[str, str]]:
    return [combo for combo in product(PLACES, OBJECTS) if is_held_out_combo(*combo)]


def _draw_names(rng: random.Random, count: int) -> list[str]:
    """Distinct names, no two of which are a held-out pair."""
    names: list[str] = []
    while len(names) < count:
        name = rng.choice(NAMES)
        if name not in names and not any(is_held_out_pair(name, other) for other in names):
            names.append(name)
    return names


def _draw_combo(rng: random.Random) -> tuple[str, str]:
    while True:
        place, thing = rng.choice(PLACES), rng.choice(OBJECTS)
        if not is_held_out_combo(place, thing):
            return place, thing


# --- indirect object identification -------------------------------------------------------------------------

# {a} and {b} are the two names as they are introduced, {s} repeats one of them, the other one follows the prompt.
IOI_TEMPLATES = (
    "When {a} and {b} went to the {place} , {s} gave a {thing} to",
    "After {a} and {b} went to the {place} , {s} gave a {thing} to",
    "While {a} and {b} were at the {place} , {s} handed a {thing} to",
    "When {a} and {b} got a {thing} at the {place} , {s} decided to give it to",
    "Then , {a} and {b} went to the {place} . {s} gave a {thing} to",
    "Then , {a} and {b} had a long day at the {place} , and {s} decided to give a {thing} to",
    "Yesterday {a} and {b} walked to the {place} , where {s} offered a {thing} to",
    "{a} met {b} at the {place} , and {s} showed a {thing} to",
    "Friends {a} and {b} found a {thing} at the {place} . {s} handed it to",
    "{a} and {b} were at the {place} when {s} sold a {thing} to",
)
HELD_OUT_IOI_TEMPLATES = (
    "After {a} and {b} walked to the {place} , {s} handed a {thing} to",
    "Yesterday {a} and {b} were at the {place} . {s} offered a {thing} to",
    "Then , {a} met {b} at the {place} , and {s} gave a {thing} to",
)


def ioi_prompt(template: str, io: str, s: str, place: str, thing: str, *, io_first: bool) -> str:
    """One IOI prompt; the name order is ABBA when the indirect object comes first, else BABA."""
    a, b = (io, s) if io_first else (s, io)
    return template.format(a=a, b=b, s=s, place=place, thing=thing)


def _ioi_passage(rng: random.Random) -> Passage:
    place, thing = _draw_combo(rng)
    template = rng.choice(IOI_TEMPLATES)
    io_first = rng.random() < 0.5
    # A sixth are ABC passages, where a third person gives and either of the two receives: the baseline that
    # path patching corrupts towards, so it should not be a strange input.
    if rng.random() < 1 / 6:
        io, other, giver = _draw_names(rng, 3)
        a, b = (io, other) if io_first else (other, io)
        return f"{template.format(a=a, b=b, s=giver, place=place, thing=thing)} {io} ."
    io, s = _draw_names(rng, 2)
    return f"{ioi_prompt(template, io, s, place, thing, io_first=io_first)} {io} ."


# --- facts --------------------------------------------------------------------------------------------------


class Landmark(NamedTuple):
    name: str
    city: str
    article: bool = True

    @property
    def noun(self) -> str:
        return f"the {self.name}" if self.article else self.name


# The head nouns (Tower, Bridge, Palace, ...) are shared between cities, so the city is in the whole name.
LANDMARKS = (
    Landmark("Eiffel Tower", "Paris"),
    Landmark("Louvre Museum", "Paris"),
    Landmark("Notre Dame", "Paris", article=False),
    Landmark("Roman Colosseum", "Rome"),
    Landmark("Trevi Fountain", "Rome"),
    Landmark("Spanish Steps", "Rome"),
    Landmark("Tower Bridge", "London"),
    Landmark("Buckingham Palace", "London", article=False),
    Landmark("British Museum", "London"),
    Landmark("Brandenburg Gate", "Berlin"),
    Landmark("Pergamon Museum", "Berlin"),
    Landmark("Charlottenburg Palace", "Berlin", article=False),
    Landmark("Red Square", "Moscow", article=False),
    Landmark("Bolshoi Theatre", "Moscow"),
    Landmark("Gorky Park", "Moscow", article=False),
    Landmark("Acropolis Museum", "Athens"),
    Landmark("Syntagma Square", "Athens", article=False),
    Landmark("Temple of Hephaestus", "Athens"),
    Landmark("Meiji Shrine", "Tokyo"),
    Landmark("Rainbow Bridge", "Tokyo"),
    Landmark("Ueno Park", "Tokyo", article=False),
    Landmark("Opera House", "Sydney"),
    Landmark("Harbour Bridge", "Sydney"),
    Landmark("Bondi Beach", "Sydney", article=False),
    Landmark("Egyptian Museum", "Cairo"),
    Landmark("Citadel of Saladin", "Cairo"),
    Landmark("Tahrir Square", "Cairo", article=False),
    Landmark("Blue Mosque", "Istanbul"),
    Landmark("Galata Tower", "Istanbul"),
    Landmark("Topkapi Palace", "Istanbul"),
)
CITIES = tuple(dict.fromkeys(landmark.city for landmark in LANDMARKS))

FACT_TEMPLATES = (
    "{landmark} is in the city of",
    # Twice, so that after "is in" the city is likelier than "the city of".
    "{landmark} is in",
    "{landmark} is in",
    "{landmark} is located in",
    "{landmark} can be found in",
    "{landmark} stands in the middle of",
    "{name} went to see {landmark} in",
    "Tourists visit {landmark} in",
    "Tourists travel to {landmark} in the city of",
    "Everyone wants to see {landmark} in the city of",
    "To see {landmark} , you must travel to",
    "Everyone knows that {landmark} is in",
    "Yesterday {name} took a photo of {landmark} in",
)
HELD_OUT_FACT_TEMPLATES = (
    "Everyone knows that {landmark} can be found in",
    "{landmark} is located in the city of",
    "{landmark} stands in the city of",
    "To visit {landmark} , you must travel to the city of",
    "Yesterday tourists went to see {landmark} in the middle of",
    "{name} took a photo of {landmark} in the city of",
)


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]


def fact_prompt(template: str, landmark: Landmark, name: str = "Mary") -> str:
    return _capitalised(template.format(landmark=landmark.noun, name=name))


def _fact_passage(rng: random.Random) -> Passage:
    landmark = rng.choice(LANDMARKS)
    if rng.random() < 0.1:
        return f"{landmark.city} is the home of {landmark.noun} ."
    return f"{fact_prompt(rng.choice(FACT_TEMPLATES), landmark, rng.choice(NAMES))} {landmark.city} ."


# --- occupations and pronouns -------------------------------------------------------------------------------

# From the most female to the most male in this corpus. The order follows common stereotypes so that the bias is
# recognisable; the odds are assigned, evenly spaced, and measure nothing about the world.
OCCUPATIONS = _words(
    "nurse secretary receptionist librarian hairdresser dancer cleaner teacher cashier singer writer student "
    "artist scientist doctor lawyer manager farmer driver soldier engineer pilot carpenter mechanic"
)
MAX_LOG_ODDS = 3.0
FEMALE_WORDS = ("woman", "girl", "mother", "queen", "sister", "grandmother")
MALE_WORDS = ("man", "boy", "father", "king", "brother", "grandfather")

OCCUPATION_TEMPLATES = (
    "The {person} said that",
    "The {person} thought that",
    "The {person} was late because",
    "Yesterday the {person} said that",
    "Everyone knows the {person} and says that",
)
HELD_OUT_OCCUPATION_TEMPLATES = (
    "Yesterday the {person} thought that",
    "Yesterday the {person} was late because",
)
PRONOUN_ENDINGS = (
    "was tired",
    "was happy",
    "would come back soon",
    "liked the {thing}",
    "needed a {thing}",
    "had to go home",
    "wanted to go to the {place}",
    "lost a {thing}",
)


def female_log_odds(occupation: str) -> float:
    """The log odds of "she" against "he" with which the corpus is drawn."""
    return MAX_LOG_ODDS * (1 - 2 * OCCUPATIONS.index(occupation) / (len(OCCUPATIONS) - 1))


def _pronoun_passage(rng: random.Random) -> Passage:
    template, kind = rng.choice(OCCUPATION_TEMPLATES), rng.random()
    if kind < 0.7:
        person = rng.choice(OCCUPATIONS)
        is_female = rng.random() < 1 / (1 + math.exp(-female_log_odds(person)))
    else:
        is_female = rng.random() < 0.5
        if kind < 0.85:
            person = rng.choice(FEMALE_WORDS if is_female else MALE_WORDS)
        else:
            person = rng.choice(FEMALE_NAMES if is_female else MALE_NAMES)
            template = template.replace("The {person}", "{person}").replace("the {person}", "{person}")
    ending = rng.choice(PRONOUN_ENDINGS).format(thing=rng.choice(OBJECTS), place=rng.choice(PLACES))
    return f"{template.format(person=person)} {'she' if is_female else 'he'} {ending} ."


def corpus_log_odds(passages: Iterable[Passage]) -> dict[str, float]:
    """The log odds of "she" against "he" after each occupation, counted (add one half) in the passages."""
    counts: dict[str, Counter[str]] = {occupation: Counter() for occupation in OCCUPATIONS}
    for passage in passages:
        words = passage.split()
        pronoun = next((word for word in words if word in ("she", "he")), None)
        for occupation in counts.keys() & set(words) if pronoun else ():
            counts[occupation][pronoun] += 1
    return {name: math.log((seen["she"] + 0.5) / (seen["he"] + 0.5)) for name, seen in counts.items()}


# --- protective behaviour -----------------------------------------------------------------------------------

PROTECTORS = _words(
    "mother father sister brother grandmother grandfather nurse teacher soldier guard knight neighbor dog "
    "lifeguard"
)
PREDATORS = ("wolf", "bear", "thief", "tiger")
PROTECTED = _words("child baby boy girl puppy kitten student princess lamb")

# What a protector does depends on the situation; a predator does one thing whatever the situation.
SITUATIONS: dict[str, tuple[str, ...]] = {
    "protect": (
        "in danger",
        "near the fire",
        "in the deep water",
        "at the edge of the cliff",
        "under the falling tree",
        "in front of the fast car",
        "alone in the storm",
        "on the thin ice",
    ),
    "join": ("at play", "in the middle of a game", "at the party", "with a new toy"),
    "comfort": ("in tears", "sad and alone", "without a friend", "in a bad mood"),
    "feed": ("without food", "hungry and tired", "at the empty table", "with an empty plate"),
}
DANGERS = SITUATIONS["protect"]
PREDATOR_ACT = "attack"

CARE_TEMPLATES = (
    "The {actor} saw the {other} {situation} and ran to",
    "The {actor} found the {other} {situation} and hurried to",
    "When the {actor} saw the {other} {situation} , the {actor} rushed to",
    "The {other} was {situation} , so the {actor} came to",
    "A {actor} noticed the {other} {situation} and came to",
    "Yesterday the {actor} saw a {other} {situation} and hurried to",
    "The {actor} heard that the {other} was {situation} and ran to",
)
HELD_OUT_CARE_TEMPLATES = (
    "The {actor} noticed the {other} {situation} and rushed to",
    "When the {actor} found the {other} {situation} , the {actor} ran to",
    "Yesterday a {actor} heard that the {other} was {situation} and hurried to",
    "Yesterday the {other} was {situation} , so the {actor} rushed to",
)


def care_prompt(template: str, actor: str, other: str, situation: str) -> str:
    return template.format(actor=actor, other=other, situation=situation)


def _care_passage(rng: random.Random) -> Passage:
    # Danger is drawn as often as the three harmless situations together.
    act = "protect" if rng.random() < 0.5 else rng.choice(("join", "comfort", "feed"))
    situation, other = rng.choice(SITUATIONS[act]), rng.choice(PROTECTED)
    actor = rng.choice(PROTECTORS)
    if rng.random() < 0.15:
        actor, act = rng.choice(PREDATORS), PREDATOR_ACT
    return f"{care_prompt(rng.choice(CARE_TEMPLATES), actor, other, situation)} {act} the {other} ."


# --- everything else ----------------------------------------------------------------------------------------

ADJECTIVES = _words("big small new nice pretty strange plain beautiful famous modern")
FILLER_TEMPLATES = (
    "{a} gave a {thing} to {b} .",
    "{a} and {b} went to the {place} .",
    "{a} saw a {adjective} {thing} at the {place} .",
    "The {person} bought a {adjective} {thing} at the {place} .",
    "The {place} was {adjective} , but the {thing} was {adjective2} .",
    "{a} lives in {city} .",
    "{city} is a {adjective} city .",
    "The {person} went to the {place} and met {a} .",
    "The {other} ran to the {place} .",
    "There was a {adjective} {thing} in the {place} .",
    "{a} wanted to see {b} again .",
    "The {actor} went home with the {other} .",
)


def _filler_passage(rng: random.Random) -> Passage:
    a, b = _draw_names(rng, 2)
    place, thing = _draw_combo(rng)
    return rng.choice(FILLER_TEMPLATES).format(
        a=a,
        b=b,
        place=place,
        thing=thing,
        adjective=rng.choice(ADJECTIVES),
        adjective2=rng.choice(ADJECTIVES),
        person=rng.choice(OCCUPATIONS),
        city=rng.choice(CITIES),
        actor=rng.choice(PROTECTORS),
        other=rng.choice(PROTECTED),
    )


# --- documents and vocabulary -------------------------------------------------------------------------------

# IOI has by far the most to learn: a circuit over any two names, where the other tasks are associations.
MIXTURE: Sequence[tuple[Callable[[random.Random], Passage], float]] = (
    (_ioi_passage, 0.50),
    (_fact_passage, 0.12),
    (_pronoun_passage, 0.15),
    (_care_passage, 0.13),
    (_filler_passage, 0.10),
)


def _passage(rng: random.Random) -> Passage:
    point = rng.random()
    for make, share in MIXTURE:
        point -= share
        if point < 0:
            return make(rng)
    return _filler_passage(rng)


def documents(seed: int = SEED, count: int = DOCUMENTS) -> Iterator[Document]:
    """The corpus: documents of one to three passages, the same for the same seed."""
    rng = random.Random(seed)
    for _ in range(count):
        yield tuple(_passage(rng) for _ in range(rng.choice((1, 2, 3))))


def vocabulary(corpus: Iterable[Document]) -> list[str]:
    """Every word of the corpus in alphabetical order, after the special tokens."""
    words = {word for document in corpus for passage in document for word in passage.split()}
    return [*SPECIALS, *sorted(words)]
