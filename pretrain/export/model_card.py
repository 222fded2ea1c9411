"""The page that travels with an exported backbone: what it is, who was in its training and who was not, how to load it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def model_card(spec: Mapping[str, Any]) -> str:
    """Markdown from the content of `preprocess.json`; what that does not say is not said."""
    title = " ".join(str(spec[key]) for key in ("recipe", "timm_name") if key in spec)
    arguments = "".join(f", {key}={value!r}" for key, value in spec["timm_kwargs"].items())
    create = f"model = timm.create_model({spec['timm_name']!r}, pretrained=False, num_classes=0{arguments})"
    load = 'model.load_state_dict(safetensors.torch.load_file("backbone.safetensors"))'
    parts = [
        f"# {title}",
        f"A {spec['timm_name']} pretrained by {str(spec.get('method', 'self-supervision')).upper()} on unlabelled images "
        "of one study, without any label.",
        "## Who was in the training",
        *training_sentences(spec),
        "## Loading",
        f"```python\n{create}\n{load}\n```",
        f"Pixels: RGB from 0 to 1, the whole image stretched to {spec['img_size']} × {spec['img_size']}, minus "
        f"{spec['mean']}, divided by {spec['std']}. One vector of {spec['dim']} numbers: {_POOLING[spec['pooling']]}.",
        "## Limits",
        "Its vectors hold what sets these images apart, the device and the site among it: run `pellucid audit` before a "
        "clinical claim rests on them. It is a research tool and no medical device. Weights can betray images that they "
        "were trained on: treat them as confidential as the study's agreement asks.",
    ]
    return "\n\n".join(parts) + "\n"


_POOLING = {
    "cls": "the class token after the last norm",
    "mean": "the mean of the patch tokens after the last norm",
    "model": "what the model itself returns",
}


def training_sentences(spec: Mapping[str, Any]) -> list[str]:
    """Which patients the backbone has seen, and which it has not; for the card and for a study's report."""
    said = []
    if "n_images_trained" in spec:
        splits = " and ".join(spec.get("splits_trained", []))
        said.append(
            f"Trained on {_count(spec['n_images_trained'], 'image')} of {_count(spec['n_patients_trained'], 'patient')}"
            + (f" ({splits})." if splits else ".")
        )
    if spec.get("n_images_withdrawn"):
        said.append(
            f"**{_count(spec['n_images_withdrawn'], 'image')} of these (at most) are of patients who withdrew consent later**: "
            "weights cannot unlearn them. Whether they may still be used is for those to say who gave the approval."
        )
    if "excluded" in spec:
        kept = [
            f"{_count(n['n_images'], 'image')} of {_count(n['n_patients'], 'patient')} ({split})"
            for split, n in spec["excluded"].items()
        ]
        said.append(f"Kept out: {', '.join(kept)}." if kept else "Nobody was kept out.")
        if "test" in spec.get("splits_trained", []):
            said.append("**The test patients were trained on**: results on them say nothing about new patients.")
        elif "test" in (spec.get("warm_start_splits") or []):
            said.append(
                "**The weights it began with were trained on test patients**: results on them say nothing about new patients."
            )
        elif "test" in spec["excluded"] and spec.get("warm_start"):
            said.append(
                "This training has seen no test patient; whether the weights that it began with had is not known here."
            )
        elif "test" in spec["excluded"]:
            said.append("No test patient was seen, so results on them are results on new patients.")
    if "scan" in spec:
        said.append(f"Which patients these are stands in the manifest of `{spec['scan']}`, which stays with the study.")
    if spec.get("warm_start"):
        said.append(
            f"Training began with the weights of `{spec['warm_start']}`: what those were trained on is to be counted in."
        )
    return said or ["The export does not say."]


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}" + ("" if n == 1 else "s")
