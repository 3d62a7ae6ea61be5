"""The byte-pair vocabulary: trained on the captions, able to spell any text."""

from __future__ import annotations

import json
import random
from pathlib import Path

from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTokenizer

from captions import caption, draw_facts

EXTRA = """a an the my our your her his their its with and or of in on at by near under over behind beside
please make show me picture photo image portrait wearing holding riding sitting standing running sleeping
playing reading happy sad big small old new little cute colourful colorful bright soft light dark red green
blue yellow purple pink orange black white brown grey gold silver morning evening sunset sunrise summer
winter spring autumn rain sun moon star sky cloud sea ocean river lake mountain garden park street bandana
hat scarf crown striped first last newest style version one two three friend toy birthday party""".split()  # noqa: SIM905 - prose is easier to keep than a list


def build_tokenizer(folder: Path) -> CLIPTokenizer:
    """Load the CLIP tokenizer in `folder`, or train it on captions and save it there."""
    if not (folder / "tokenizer_config.json").exists():
        rng = random.Random("tokenizer")
        lines = [caption(rng, draw_facts(rng)) for _ in range(20_000)] + [" ".join(EXTRA)] * 50
        backend = CLIPTokenizer().backend_tokenizer  # CLIP's normaliser and word splitting, no vocabulary
        letters = ByteLevel.alphabet()
        backend.train_from_iterator(
            lines, BpeTrainer(vocab_size=1400, min_frequency=40, initial_alphabet=letters, end_of_word_suffix="</w>")
        )
        model = json.loads(backend.to_str())["model"]
        pieces = [*sorted(letters), *(f"{letter}</w>" for letter in sorted(letters))]
        pieces += [piece for piece in model["vocab"] if piece not in set(pieces) and not piece.startswith("<|")]
        pieces += ["<|startoftext|>", "<|endoftext|>"]
        vocab = {piece: index for index, piece in enumerate(pieces)}
        merges = [tuple(pair) for pair in model["merges"]]
        CLIPTokenizer(vocab, merges, model_max_length=77).save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(folder)
