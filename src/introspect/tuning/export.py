"""A tuned student as a Hugging Face folder: weights, tokenizer, chat template, generation settings, model card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from introspect.chat.templates import end_of_turn_id
from introspect.core.files import write_text

_CARD = """\
---
library_name: transformers
pipeline_tag: text-generation
{front}tags:
- reasoning
- introspect
---

# {title}

{summary}

{facts}

## Use

The student answers with a think block and an answer in `<answer>` tags. Ask it with the chat template of this folder:
it was tuned with that one.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")
prompt = tokenizer.apply_chat_template(
    [{{"role": "user", "content": "..."}}], add_generation_prompt=True, return_tensors="pt", return_dict=True
)
print(tokenizer.decode(model.generate(**prompt, max_new_tokens=1024)[0]))
```

## Tuning

| setting | value |
|---|---|
{settings}
"""


@dataclass(frozen=True, slots=True)
class ModelCard:
    """The content of a model card besides the settings of the tuning.

    Attributes:
        title: heading of the card.
        recipe: name of the recipe that made the traces.
        data: name of the benchmark, or what else the student was tuned on.
        facts: further facts, by name.
    """

    title: str = "Reasoning student"
    recipe: str | None = None
    data: str | None = None
    facts: Mapping[str, str | int | float] = field(default_factory=dict)

    def render(self, settings: Mapping[str, Any]) -> str:
        """The card in Markdown. `settings` are those of `ReasoningStudent`; folders appear by their last name only."""
        base, local = _public_name(settings["model"])
        scratch = settings.get("architecture") is not None
        rows = {"base model": "none: trained from random weights" if scratch else base}
        rows |= {name: value for name, value in {"recipe": self.recipe, "data": self.data}.items() if value}
        rows |= {name: str(value) for name, value in self.facts.items()}
        shown = {name: value for name, value in settings.items() if name not in ("model", "trust_remote_code")}
        how = "from random weights" if scratch else f"from `{base}`"
        what = f" on traces of the recipe `{self.recipe}`" if self.recipe else ""
        return _CARD.format(
            front="" if scratch or local else f"base_model: {base}\n",
            title=self.title,
            summary=f"A causal language model tuned {how}{what} with introspect.",
            facts="\n".join(f"- {name}: {value}" for name, value in rows.items()),
            settings="\n".join(f"| {name} | `{value}` |" for name, value in shown.items() if value is not None),
        )


def save_folder(network: Any, tokenizer: Any, folder: str | Path, card: str) -> Path:
    """Write everything that `from_pretrained` needs, and the card as README.md.

    The generation settings stop at the end of a turn, whatever else the base model stopped at.

    Args:
        network: a causal language model of transformers, without adapters.
        tokenizer: its tokenizer, with the chat template that the student was tuned with.
        folder: made where it is missing.
        card: Markdown.

    Returns:
        The folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    generation = network.generation_config
    stops = generation.eos_token_id
    stops = [] if stops is None else stops if isinstance(stops, list) else [stops]
    generation.eos_token_id = sorted({*stops, end_of_turn_id(tokenizer)})
    if generation.pad_token_id is None:
        generation.pad_token_id = tokenizer.pad_token_id
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_text(folder / "README.md", card)
    return folder


def _public_name(model: str) -> tuple[str, bool]:
    """What to call the base model, and whether it is a folder; a card does not tell where one lies."""
    path = Path(model).expanduser()
    return (path.resolve().name, True) if path.is_dir() or path.is_absolute() else (model, False)
