"""A chat model small enough for any test: a real Hugging Face folder of random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TAGS = ("<think>", "</think>")


def tiny_tokenizer(*, template: str | None = TEMPLATE, tags: bool = False) -> Any:
    """One token per byte; `tags` makes each of the think tags a single token of its own."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = [*SPECIALS, *(TAGS if tags else ()), *sorted(pre_tokenizers.ByteLevel.alphabet())]
    core = Tokenizer(models.BPE({piece: index for index, piece in enumerate(pieces)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    if tags:
        core.add_tokens(list(TAGS))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
    )
    tokenizer.chat_template = template
    return tokenizer


def tiny_model(vocabulary: int, *, context: int = 512, seed: int = 0, spread: float = 0.2, tied: bool = False) -> Any:
    """A Qwen3ForCausalLM of two layers, 32 wide; `spread` is the standard deviation of its random weights.

    A wide spread gives lively logits: greedy text does not stick to one token, and argmax ties do not occur. Untied
    embeddings keep it from repeating its input.
    """
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=context,
        initializer_range=spread,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=SPECIALS.index("<|im_end|>"),
        pad_token_id=SPECIALS.index("<|endoftext|>"),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen3ForCausalLM(config).eval()


def tiny_folder(path: Path, *, context: int = 512, seed: int = 0, tags: bool = False) -> Path:
    """Write model and tokenizer to the folder `path` (made if absent) and return it."""
    tokenizer = tiny_tokenizer(tags=tags)
    tiny_model(len(tokenizer), context=context, seed=seed).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def quiet_trainer(path: Path | None = None, **options: Any) -> Any:
    """A Lightning trainer on one CPU that logs nothing; checkpoints only with callbacks that save them."""
    from lightning import Trainer

    chosen = {"enable_checkpointing": bool(options.get("callbacks")), "enable_progress_bar": False, **options}
    return Trainer(
        accelerator="cpu", devices=1, logger=False, enable_model_summary=False, default_root_dir=path, **chosen
    )
