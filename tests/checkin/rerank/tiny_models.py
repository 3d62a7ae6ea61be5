"""Tiny random language models and cross-encoders with real tokenizers, saved as folders."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

CHAT_TOKENS = ("<|im_start|>", "<|im_end|>", "<think>", "</think>")
WITH_ANSWERS = ["yes no Yes No answer yes answer no Answer: Yes Answer: No"] * 50
WITHOUT_ANSWERS = ["a dog and a cat on the moon"] * 50


def byte_tokenizer(texts: list[str], special: tuple[str, ...]) -> PreTrainedTokenizerFast:
    """Byte-level BPE learnt from `texts`; nothing is unknown to it, but only learnt words are single tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, special_tokens=[*special, "<|end|>"])
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>")


def save_qwen3(folder: Path, texts: list[str] | None = None, poisoned: bool = False) -> None:
    """A Qwen3 of two layers whose tokenizer has the chat tokens; `poisoned` makes its logits NaN."""
    tokenizer = byte_tokenizer(texts or WITH_ANSWERS, CHAT_TOKENS)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=2048,
    )  # fmt: skip
    _save(Qwen3ForCausalLM(config), tokenizer, folder, poisoned)


def save_gpt2(folder: Path) -> None:
    """A GPT-2 of two layers: learned positions, and no special token but [INST]."""
    tokenizer = byte_tokenizer(WITH_ANSWERS, ("[INST]",))
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=512, n_embd=32, n_layer=2, n_head=4)
    _save(GPT2LMHeadModel(config), tokenizer, folder)


def save_cross_encoder(folder: Path, labels: int = 1) -> None:
    """A BERT of two layers with a classifier whose logits lie far outside 0 to 1."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "the", "dog", "cat", "blue", "pink", "moon"]
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        num_labels=labels, initializer_range=0.5,
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    model.classifier.bias.data += 7.0
    _save(model, fast, folder)


def _save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path, poisoned: bool = False) -> None:
    # Random weights of the usual size are all but deaf to their input; these are not.
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data *= 5
    if poisoned:
        next(model.parameters()).data.fill_(float("nan"))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
