"""The model card of a captioner that is given away."""

from collections.abc import Mapping

from dualcap_jax.config import ExperimentConfig


def model_card(config: ExperimentConfig, step: int, scores: Mapping[str, Mapping[str, str]] | None = None) -> str:
    """README.md, as the Hugging Face hub shows it.

    Args:
        config: of the experiment that the captioner was trained in.
        step: training steps.
        scores: by the name of an evaluation, its scores by their names.
    """
    encoder, language = config.model.encoder, config.model.language
    return f"""---
library_name: dualcap_jax
pipeline_tag: image-to-text
---
# An image captioner

An image encoder ({encoder.kind}, {config.data.image_size} px, started from {encoder.pretrained or "random weights"})
and a language model ({language.kind}, {language.width} wide, started from {language.pretrained or "random weights"}),
joined by a {config.model.merger.kind} merger; trained for {step} steps on {config.data.root or "drawn scenes"}.

```python
from dualcap_jax import Captioner

print(Captioner.from_pretrained("THIS_DIRECTORY")("picture.jpg").text)
```
{_table(scores) if scores else ""}"""


def _table(scores: Mapping[str, Mapping[str, str]]) -> str:
    lines = [
        f"| {evaluation} | {name} | {value} |" for evaluation, each in scores.items() for name, value in each.items()
    ]
    return "\n".join(["", "| evaluation | score | |", "| --- | --- | ---: |", *lines, ""])
