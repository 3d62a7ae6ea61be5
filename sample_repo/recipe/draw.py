"""Draws the pictures the embedded model learns from: emoji subjects on drawn scenes, in five styles.

Everything is seeded by the `random.Random` passed in. The module knows nothing of captions, training
or files, except where the Noto Color Emoji font lies.
"""

from __future__ import annotations

import colorsys
import functools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

FONT = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
SIZE = 96
Colour = tuple[int, int, int]

GLYPHS = {
    "dog": "\U0001f436",
    "cat": "\U0001f431",
    "fox": "\U0001f98a",
    "panda": "\U0001f43c",
    "penguin": "\U0001f427",
    "robot": "\U0001f916",
    "rocket": "\U0001f680",
    "car": "\U0001f697",
    "mug": "\u2615",
    "mushroom": "\U0001f344",
    "house": "\U0001f3e0",
    "sunflower": "\U0001f33b",
}
SUBJECTS = tuple(GLYPHS)
HUES = {"red": 0.0, "yellow": 0.14, "green": 0.36, "blue": 0.61}
"""Colour words the base learns; they apply to `COLOURABLE` subjects only."""
COLOURABLE = ("car", "mug", "mushroom")


@dataclass(frozen=True)
class Variant:
    """What sets a personal concept apart from its base subject."""

    hue: float | None = None
    """Every saturated pixel takes this hue, 0 to 1."""
    coat: Colour | None = None
    """Whole-subject tint, light parts taking this colour and dark parts staying dark."""
    bandana: Colour | None = None
    hat: Colour | None = None
    star: Colour | None = None
    """Colour of a star: on the bandana if there is one, else on the middle of the subject."""
    stripes: Colour | None = None


# --- subjects --------------------------------------------------------------------------------


@functools.cache
def glyph(subject: str) -> Image.Image:
    """The bare emoji as RGBA, 128 × 128, on a 160 × 160 canvas that leaves room for a hat."""
    font = ImageFont.truetype(FONT, 109)
    raw = Image.new("RGBA", (160, 160))
    ImageDraw.Draw(raw).text((12, 8), GLYPHS[subject], font=font, embedded_color=True)
    raw = raw.crop(raw.getbbox())
    scale = 128 / max(raw.size)
    raw = raw.resize((round(raw.width * scale), round(raw.height * scale)), Image.Resampling.LANCZOS)
    canvas = Image.new("RGBA", (160, 160))
    canvas.paste(raw, ((160 - raw.width) // 2, 156 - raw.height))
    return canvas


@functools.cache
def subject_picture(subject: str, hue: str | None = None, variant: Variant | None = None) -> Image.Image:
    """A subject, 160 × 160 RGBA, in a base colour word or as a personal variant."""
    picture = glyph(subject).copy()
    if hue is not None:
        picture = _rotate_hue(picture, HUES[hue])
    if variant is not None:
        picture = _dress(picture, variant)
    return picture


def _rotate_hue(picture: Image.Image, hue: float) -> Image.Image:
    """Every saturated pixel takes the hue; greys, whites and blacks stay."""
    rgba = np.asarray(picture)
    hsv = np.asarray(picture.convert("RGB").convert("HSV")).copy()
    saturated = hsv[..., 1] > 70
    hsv[..., 0] = np.where(saturated, int(hue * 255), hsv[..., 0])
    rgb = np.asarray(Image.fromarray(hsv, "HSV").convert("RGB"))
    return Image.fromarray(np.dstack([rgb, rgba[..., 3]]), "RGBA")


def _tint(picture: Image.Image, colour: Colour) -> Image.Image:
    rgba = np.asarray(picture).astype(np.float32)
    light = rgba[..., :3].mean(-1, keepdims=True) / 255
    light = np.clip(light / np.quantile(light[rgba[..., 3] > 128], 0.85), 0, 1)
    high = np.clip((light - 0.9) / 0.1, 0, 1) * 0.5  # highlights keep some white
    rgb = np.asarray(colour, np.float32) * np.clip(light**0.7 * 1.1, 0, 1)
    rgb = rgb * (1 - 0.45 * high) + 255 * 0.45 * high
    return Image.fromarray(np.dstack([rgb, rgba[..., 3:]]).clip(0, 255).astype(np.uint8), "RGBA")


def _star(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, colour: Colour) -> None:
    points = []
    for k in range(10):
        r, a = radius if k % 2 == 0 else radius * 0.42, math.pi * k / 5 - math.pi / 2
        points.append((x + r * math.cos(a), y + r * math.sin(a)))
    draw.polygon(points, fill=colour)


def _dress(picture: Image.Image, variant: Variant) -> Image.Image:
    if variant.hue is not None:
        picture = _rotate_hue(picture, variant.hue)
    if variant.coat is not None:
        picture = _tint(picture, variant.coat)
    alpha = picture.getchannel("A")
    left, top, right, bottom = picture.getbbox() or (0, 0, 160, 160)
    middle, width = (left + right) / 2, right - left
    draw = ImageDraw.Draw(picture)
    if variant.stripes is not None:
        bars = Image.new("RGBA", picture.size)
        pen = ImageDraw.Draw(bars)
        for x in range(-160, 320, 40):
            pen.line([(x, 160), (x + 160, 0)], fill=(*variant.stripes, 255), width=9)
        picture.paste(bars, (0, 0), Image.fromarray(np.minimum(np.asarray(bars)[..., 3], np.asarray(alpha))))
    if variant.bandana is not None:
        y = bottom - 34
        draw.polygon([(left + 10, y), (right - 10, y), (middle, bottom + 3)], fill=variant.bandana)
        draw.rectangle([left + 6, y - 7, right - 6, y + 4], fill=variant.bandana)
    if variant.hat is not None:
        draw.polygon([(middle - 34, top + 24), (middle + 34, top + 24), (middle, 0)], fill=variant.hat)
        draw.ellipse([middle - 9, 0, middle + 9, 17], fill=(255, 255, 255))
    if variant.star is not None:
        at = (middle, bottom - 20, 16) if variant.bandana else (middle - width * 0.06, (top + bottom) / 2 + 12, 32)
        _star(draw, *at, variant.star)
    return picture


# --- scenes ----------------------------------------------------------------------------------


def _hsv(h: float, s: float, v: float) -> Colour:
    r, g, b = colorsys.hsv_to_rgb(h % 1, min(max(s, 0), 1), min(max(v, 0), 1))
    return int(r * 255), int(g * 255), int(b * 255)


def _sky(image: Image.Image, top: Colour, low: Colour, until: int) -> None:
    ramp = np.linspace(0, 1, max(until, 1), dtype=np.float32)[:, None]
    rows = (np.asarray(top) * (1 - ramp) + np.asarray(low) * ramp).astype(np.uint8)
    image.paste(Image.fromarray(np.repeat(rows[:, None], SIZE, 1)), (0, 0))


def _beach(im: Image.Image, d: ImageDraw.ImageDraw, r: random.Random) -> None:
    h = r.randint(38, 46)
    _sky(im, (96, 190, 245), (190, 232, 250), h)
    d.rectangle([0, h, SIZE, h + 16], fill=(30, 130, 200))
    d.rectangle([0, h + 16, SIZE, SIZE], fill=(240, 214, 150))
    d.line([(0, h + 16), (SIZE, h + 16)], fill=(235, 248, 250), width=3)
    x = r.choice([r.randint(6, 22), r.randint(74, 90)])
    d.ellipse([x - 9, 5, x + 9, 23], fill=(255, 225, 70))


def _snow(im: Image.Image, d: ImageDraw.ImageDraw, r: random.Random) -> None:
    h = r.randint(46, 56)
    _sky(im, (170, 195, 220), (215, 228, 240), h)
    for x in (r.randint(-10, 25), r.randint(55, 90)):
        d.polygon([(x - 34, h), (x + 34, h), (x, h - r.randint(26, 36))], fill=(130, 150, 180))
    d.rectangle([0, h, SIZE, SIZE], fill=(246, 249, 255))
    for _ in range(10):
        x, y = r.randint(0, 95), r.randint(0, 90)
        d.ellipse([x - 2, y - 2, x + 2, y + 2], fill=(255, 255, 255))


def _forest(im: Image.Image, d: ImageDraw.ImageDraw, r: random.Random) -> None:
    d.rectangle([0, 0, SIZE, SIZE], fill=(30, 84, 50))
    for x in range(r.randint(-14, -4), 104, 22):
        d.rectangle([x + 8, 30, x + 14, 78], fill=(88, 58, 34))
        d.polygon([(x - 6, 52), (x + 28, 52), (x + 11, r.randint(-6, 6))], fill=(44, 122, 62))
    d.rectangle([0, 72, SIZE, SIZE], fill=(66, 98, 40))


def _city(im: Image.Image, d: ImageDraw.ImageDraw, r: random.Random) -> None:
    _sky(im, (244, 178, 140), (250, 214, 180), 78)
    x = r.randint(-8, 0)
    while x < SIZE:
        w, top = r.randint(16, 24), r.randint(10, 38)
        grey = r.randint(84, 120)
        d.rectangle([x, top, x + w - 2, 78], fill=(grey, grey, grey + 22))
        for wy in range(top + 6, 70, 14):
            d.rectangle([x + 4, wy, x + w - 7, wy + 5], fill=(206, 188, 140))
        x += w
    d.rectangle([0, 78, SIZE, SIZE], fill=(74, 74, 80))


def _desert(im: Image.Image, d: ImageDraw.ImageDraw, r: random.Random) -> None:
    h = r.randint(44, 54)
    _sky(im, (250, 160, 80), (254, 216, 140), h)
    d.rectangle([0, h, SIZE, SIZE], fill=(214, 140, 70))
    x = r.randint(10, 80)
    d.ellipse([x - 50, h - 9, x + 50, h + 40], fill=(226, 154, 82))
    for x in (r.randint(4, 20), r.randint(76, 92)):
        d.rectangle([x - 3, h - 16, x + 3, h + 14], fill=(50, 124, 66))
        d.rectangle([x - 9, h - 6, x + 9, h - 1], fill=(50, 124, 66))


def _space(im: Image.Image, d: ImageDraw.ImageDraw, r: random.Random) -> None:
    d.rectangle([0, 0, SIZE, SIZE], fill=(16, 12, 44))
    for _ in range(14):
        x, y = r.randint(0, 95), r.randint(0, 95)
        d.ellipse([x - 1, y - 1, x + 1, y + 1], fill=(200, 200, 240))
    x, y = r.choice([(14, 16), (82, 16), (14, 82), (82, 82)])
    colour = r.choice([(190, 120, 210), (230, 150, 90)])
    d.ellipse([x - 13, y - 13, x + 13, y + 13], fill=colour)
    d.line([(x - 20, y + 4), (x + 20, y - 4)], fill=(230, 220, 200), width=3)


def _room(im: Image.Image, d: ImageDraw.ImageDraw, r: random.Random) -> None:
    wall = r.choice([(232, 206, 186), (222, 196, 200)])
    d.rectangle([0, 0, SIZE, 70], fill=wall)
    d.rectangle([0, 70, SIZE, SIZE], fill=(150, 98, 62))
    d.rectangle([0, 67, SIZE, 71], fill=(250, 244, 236))
    x = r.choice([4, 64])
    d.rectangle([x, 8, x + 28, 40], fill=(250, 250, 245))
    d.rectangle([x + 3, 11, x + 25, 37], fill=(140, 205, 240))
    d.line([(x + 14, 11), (x + 14, 37)], fill=(250, 250, 245), width=2)
    d.line([(x, 24), (x + 28, 24)], fill=(250, 250, 245), width=2)


def _meadow(im: Image.Image, d: ImageDraw.ImageDraw, r: random.Random) -> None:
    h = r.randint(40, 50)
    _sky(im, (120, 200, 250), (200, 235, 252), h)
    d.rectangle([0, h, SIZE, SIZE], fill=(110, 196, 76))
    x = r.randint(0, 96)
    d.ellipse([x - 50, h - 10, x + 50, h + 30], fill=(110, 196, 76))
    for _ in range(12):
        x, y = r.randint(2, 93), r.randint(h + 14, 92)
        d.ellipse([x - 2, y - 2, x + 2, y + 2], fill=r.choice([(255, 120, 170), (255, 240, 90)]))


def _underwater(im: Image.Image, d: ImageDraw.ImageDraw, r: random.Random) -> None:
    _sky(im, (40, 170, 200), (10, 70, 130), SIZE)
    d.rectangle([0, 84, SIZE, SIZE], fill=(190, 170, 110))
    for x in (r.randint(4, 20), r.randint(76, 92)):
        d.line([(x, 90), (x - 4, 76), (x + 3, 62), (x - 2, 50)], fill=(30, 140, 80), width=5)
    for _ in range(9):
        x, y, b = r.randint(4, 92), r.randint(4, 76), r.randint(2, 3)
        d.ellipse([x - b, y - b, x + b, y + b], fill=(170, 225, 240))


def _plain(im: Image.Image, d: ImageDraw.ImageDraw, r: random.Random) -> None:
    d.rectangle([0, 0, SIZE, SIZE], fill=_hsv(r.random(), r.uniform(0.12, 0.3), r.uniform(0.86, 0.98)))


SCENES: dict[str, Callable[[Image.Image, ImageDraw.ImageDraw, random.Random], None]] = {
    "beach": _beach,
    "snow": _snow,
    "forest": _forest,
    "city": _city,
    "desert": _desert,
    "space": _space,
    "room": _room,
    "meadow": _meadow,
    "underwater": _underwater,
    "plain": _plain,
}


# --- styles ----------------------------------------------------------------------------------


def _watercolor(image: Image.Image) -> Image.Image:
    soft = np.asarray(image.filter(ImageFilter.GaussianBlur(1.3))).astype(np.float32)
    return Image.fromarray((soft * 0.55 + np.asarray([250, 246, 238]) * 0.45).astype(np.uint8))


def _sketch(image: Image.Image) -> Image.Image:
    grey = image.convert("L")
    light = np.asarray(grey).astype(np.float32)
    blurred = np.asarray(grey.filter(ImageFilter.GaussianBlur(2.2))).astype(np.float32)
    value = 150 + light * 0.36 - np.abs(light - blurred) * 1.7
    return Image.fromarray(np.stack([value, value * 0.985, value * 0.95], -1).clip(20, 250).astype(np.uint8))


def _pixel(image: Image.Image) -> Image.Image:
    small = image.resize((SIZE // 4, SIZE // 4), Image.Resampling.BOX)
    blocks = (np.asarray(small).astype(np.int16) + 16) // 32 * 32
    return Image.fromarray(blocks.clip(0, 255).astype(np.uint8)).resize((SIZE, SIZE), Image.Resampling.NEAREST)


def _night(image: Image.Image) -> Image.Image:
    return Image.fromarray((np.asarray(image) * np.asarray([0.36, 0.42, 0.72])).astype(np.uint8))


def _duotone(image: Image.Image) -> Image.Image:
    """A concept style: magenta shadows to cyan lights."""
    light = np.asarray(image.convert("L")).astype(np.float32)[..., None] / 255
    rgb = np.asarray([150, 10, 110]) * (1 - light) + np.asarray([90, 250, 235]) * light
    return Image.fromarray(rgb.clip(0, 255).astype(np.uint8))


def _sepia_print(image: Image.Image) -> Image.Image:
    """A concept style: brown ink on cream paper, in four flat tones."""
    light = np.asarray(image.convert("L")).astype(np.float32)[..., None] / 255
    light = np.floor(light * 3.999) / 3
    rgb = np.asarray([62, 34, 18]) * (1 - light) + np.asarray([250, 222, 160]) * light
    return Image.fromarray(rgb.clip(0, 255).astype(np.uint8))


STYLES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "photo": lambda image: image,
    "watercolor": _watercolor,
    "sketch": _sketch,
    "pixel": _pixel,
    "night": _night,
}
CONCEPT_STYLES: dict[str, Callable[[Image.Image], Image.Image]] = {"duotone": _duotone, "sepia": _sepia_print}


# --- one picture -----------------------------------------------------------------------------


def render(
    rng: random.Random,
    subject: str,
    scene: str,
    style: str = "photo",
    hue: str | None = None,
    variant: Variant | None = None,
) -> Image.Image:
    """One 96 × 96 RGB picture of the subject on the scene, at a random place, size and flip."""
    image = Image.new("RGB", (SIZE, SIZE))
    SCENES[scene](image, ImageDraw.Draw(image), rng)
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    figure = subject_picture(subject, hue, variant)
    if rng.random() < 0.5:
        figure = figure.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    side = rng.randint(60, 78)
    figure = figure.resize((side, side), Image.Resampling.BILINEAR, reducing_gap=1.5)
    x = (SIZE - side) // 2 + rng.randint(-12, 12)
    y = SIZE - side - rng.randint(3, 13)
    image.paste(figure, (x, y), figure)
    return (STYLES | CONCEPT_STYLES)[style](image)
