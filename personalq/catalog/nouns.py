"""Everyday nouns and the category each belongs to, and words too common to be a trigger. Data only."""

from __future__ import annotations

CATEGORIES = {
    "animal": """animal ant bat bear bee beetle bird bull butterfly calf camel cat chick chicken corgi cow
        crab crocodile crow deer dinosaur dog dolphin donkey dragon duck eagle elephant fish fox frog
        giraffe goat goldfish goose hamster hedgehog hen hippo horse insect jellyfish kangaroo kitten koala
        ladybug lion lizard llama monkey mouse octopus owl panda parrot penguin pet pig pigeon pony poodle
        puppy rabbit raccoon rat rhino rooster seal shark sheep sloth snail snake spider squid squirrel swan
        tiger tortoise turkey turtle unicorn whale wolf zebra""",
    "person": "actor actress boy child girl lady man person singer woman",
    "character": """alien character clown elf fairy ghost knight minion monster robot vampire witch wizard zombie""",
    "clothing": """armor backpack bag boot boots cap coat dress glasses glove hat helmet jacket jeans mask necklace robe
        scarf shirt shoe shoes skirt slipper sneaker sneakers sunglasses uniform""",
    "place": """beach bridge building castle church city cosmos desert forest galaxy garden house island kitchen
        landscape lighthouse map mountain mountains nebula ocean office park planet river road room ruins street temple
        terrain tower village""",
    "object": """aircraft airplane apple ball balloon banana bicycle bike boat book bottle bowl box bread bus
        cake camera can candle car chair clock coin cookie cup curry cuisine dish doll emoji emoticon flower
        food fruit furniture gem guitar hamburger helicopter icon instrument jar key lamp lantern laptop
        logo mecha monitor motorcycle mug mushroom noodles painting pattern piano pizza plane plant plush
        plushie ramen ring rock rocket sandwich ship sofa spaceship starship statue sticker sword symbol
        table teapot teddy tent toy train tree truck umbrella vase vegetable vehicle violin weapon wings""",
}
CATEGORY_OF = {noun: category for category, nouns in CATEGORIES.items() for noun in nouns.split()}
STYLE_WORDS = frozenset({"style", "styles", "artstyle", "art style", "art-style", "aesthetic"})
COMMON = """1boy, 1girl, 1other, 2girls, anime, art, background, bad, best, best quality, black hair, blonde, blue eyes,
    closed eyes, day, detailed, drawing, fantasy, full body, half body, highres, illustration, indoors, long hair,
    looking at viewer, looking back, looking to the side, lora, lying, masterpiece, monochrome, night, no humans,
    open mouth, outdoors, photo, photorealistic, portrait, realistic, scenery, short hair, simple background, sitting,
    sky, smile, solo, standing, style, white background"""
GENERIC = frozenset(CATEGORY_OF) | {" ".join(word.split()) for word in COMMON.split(",")}
