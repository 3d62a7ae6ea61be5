"""Everyday class nouns and the words people use for them. It knows no checkpoint and no request."""

from __future__ import annotations

from personalq.checkin.words import stem, words

_CLASSES = {
    "dog": "puppy pup hound doggy corgi terrier pug poodle labrador retriever shepherd husky beagle dachshund spaniel "
    "chihuahua collie bulldog dalmatian shiba",
    "cat": "kitten kitty tabby calico tomcat siamese persian feline moggy manul",
    "horse": "pony mare stallion foal equine",
    "bird": "parrot owl eagle robin sparrow crow raven pigeon finch",
    "fish": "koi goldfish shark trout salmon",
    "whale": "humpback orca",
    "car": "automobile sedan coupe roadster hatchback suv sportscar",
    "motorcycle": "motorbike scooter moped",
    "bicycle": "bike cycle",
    "person": "man woman boy girl lady guy someone people child kid",
    "toy": "plush plushie doll teddy figurine",
    "mug": "cup teacup tumbler",
    "house": "home cottage cabin villa hut",
    "train": "railway locomotive tram",
    "ship": "boat yacht sailboat vessel",
    "hat": "cap beanie beret",
    "glasses": "sunglasses spectacles shades",
    "bag": "backpack handbag rucksack purse",
    "shoe": "sneaker boot trainer",
    "rocket": "spaceship spacecraft shuttle",
}
_CLASS_OF = {stem(word): stem(noun) for noun, kin in _CLASSES.items() for word in (noun, *kin.split())}
KNOWN_NOUNS = frozenset(_CLASS_OF)

_PLACES = """
beach snow forest city night moon space desert room meadow sea ocean underwater street mountain sunset sunrise
dusk dawn rain garden park field river lake sky kitchen window roof rooftop table road castle jungle island
background morning evening summer winter autumn spring cloud grass wood sofa bed floor wall bridge hill valley
village town station cafe mars fog mist storm
"""
SCENERY = frozenset(stem(word) for word in _PLACES.split())


def class_of(word: str) -> str:
    """The class a word belongs to ("puppy" is "dog"); a word that is in no class is its own."""
    return _CLASS_OF.get(stem(word.casefold()), stem(word.casefold()))


def classes_in(text: str) -> frozenset[str]:
    """The classes named by the words of `text`."""
    return frozenset(_CLASS_OF[word] for word in words(text) if word in _CLASS_OF)
