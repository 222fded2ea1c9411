"""The model card of an exported backbone: what it is, the patients it was trained on, how to load it, its limits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def model_card(spec: Mapping[str, Any]) -> str:
    """Markdown from the content of `preprocess.json`; missing keys are omitted."""
    title = " ".join(str(spec[key]) for key in ("recipe", "timm_name") if key in spec)
    arguments = "".join(f", {key}={value!r}" for key, value in spec["timm_kwargs"].items())
    create = f"model = timm.create_model({spec['timm_name']!r}, pretrained=False, num_classes=0{arguments})"
    load = 'model.load_state_dict(safetensors.torch.load_file("backbone.safetensors"))'
    parts = [
        f"# {title}",
        f"A {spec['timm_name']} pretrained with {str(spec.get('method', 'self-supervision')).upper()} on images of one "
        "study, without labels.",
        "## Training data",
        *training_sentences(spec),
        "## Loading",
        f"```python\n{create}\n{load}\n```",
        f"Input: RGB from 0 to 1, the whole image stretched to {spec['img_size']} × {spec['img_size']} pixels, minus "
        f"the mean {spec['mean']}, divided by the standard deviation {spec['std']}. Output: one vector of "
        f"{spec['dim']} numbers, {_POOLING[spec['pooling']]}.",
        "## Limits",
        "The vectors may encode the device and the site as well as clinical findings: run `pellucid audit` before "
        "drawing clinical conclusions from them. This is a research tool, not a medical device. Weights can reveal "
        "training images: treat them with the confidentiality that the study requires.",
    ]
    return "\n\n".join(parts) + "\n"


_POOLING = {
    "cls": "the class token after the last norm",
    "mean": "the mean of the patch tokens after the last norm",
    "model": "the output of the model",
}


def training_sentences(spec: Mapping[str, Any]) -> list[str]:
    """Which patients the backbone was trained on, and which were excluded; for the model card and the report."""
    said = []
    if "n_images_trained" in spec:
        splits = " and ".join(spec.get("splits_trained", []))
        said.append(
            f"Trained on {_count(spec['n_images_trained'], 'image')} of {_count(spec['n_patients_trained'], 'patient')}"
            + (f" ({splits})." if splits else ".")
        )
    if spec.get("n_images_withdrawn"):
        said.append(
            f"**Up to {_count(spec['n_images_withdrawn'], 'image')} of these are of patients who later withdrew "
            "consent.** Weights cannot unlearn them. The body that approved the study decides whether the weights may "
            "still be used."
        )
    if "excluded" in spec:
        kept = [
            f"{_count(n['n_images'], 'image')} of {_count(n['n_patients'], 'patient')} ({split})"
            for split, n in spec["excluded"].items()
        ]
        said.append(f"Excluded from training: {', '.join(kept)}." if kept else "No patient was excluded from training.")
        if "test" in spec.get("splits_trained", []):
            said.append("**Test patients were used for training**: results on them do not apply to new patients.")
        elif "test" in (spec.get("warm_start_splits") or []):
            said.append(
                "**The starting weights were trained on test patients**: results on them do not apply to new patients."
            )
        elif "test" in spec["excluded"] and spec.get("warm_start"):
            said.append("This training used no test patients; it is not known whether the starting weights did.")
        elif "test" in spec["excluded"]:
            said.append(
                "No test patient was used for training, so results on test patients apply to new patients of this kind."
            )
    if "scan" in spec:
        said.append(f"The manifest of `{spec['scan']}`, which is part of the study, lists these patients.")
    if spec.get("warm_start"):
        said.append(
            f"The starting weights were `{spec['warm_start']}`: their training data count as training data of this "
            "backbone."
        )
    return said or ["The export contains no information about its training data."]


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}" + ("" if n == 1 else "s")
