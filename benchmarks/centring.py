"""Does centring the vectors improve cosine neighbours? Measured by the label of the ten nearest images of other
patients.

    python -m benchmarks.centring STUDY/analysis --labels pathology device_model

For every backbone of the study: the share of the ten nearest images of other patients that have the image's own label,
by cosine and by cosine after subtracting the mean vector; the share of neighbours common to both; and the 95 % interval
of the difference (bootstrap of patients) for each label. All pairs are compared, so use it for a few thousand images.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from pellucid.embed.index.knn_graph import normalised

K, RESAMPLES = 10, 1_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("analysis", type=Path)
    parser.add_argument("--labels", nargs="+", required=True)
    given = parser.parse_args()
    scan = sorted((given.analysis / "scan").glob("scan-*"))[-1]
    manifest = pd.read_parquet(scan / "manifest.parquet").set_index("image_id")
    for run in sorted(p.parent for p in (given.analysis / "embed").glob("*/vectors.npy")):
        values = np.load(run / "vectors.npy")
        images = pd.read_parquet(run / "images.parquet")
        known = manifest.loc[images["image_id"]]
        patient = pd.factorize(images["patient"])[0]
        own = patient[:, None] == patient[None, :]
        tops = []
        for vectors in (values, values - values.mean(axis=0)):
            unit = normalised(vectors)
            tops.append(np.argsort(-np.where(own, -9, unit @ unit.T), axis=1)[:, :K])
        both = np.mean([len(set(a) & set(b)) / K for a, b in zip(*tops, strict=True)])
        print(f"{run.name}: {both:.2f} of the neighbours are the same")
        for name in given.labels:
            label = pd.factorize(known[name])[0]
            plain, centred = ((label[top] == label[:, None]).mean(axis=1) for top in tops)
            sums = pd.DataFrame({"d": centred - plain, "n": 1}).groupby(patient).sum().to_numpy()
            drawn = np.random.default_rng(0).integers(0, len(sums), (RESAMPLES, len(sums)))
            low, high = np.percentile(sums[drawn, 0].sum(axis=1) / sums[drawn, 1].sum(axis=1), [2.5, 97.5])
            print(
                f"  {name}: {plain.mean():.3f} plain, {centred.mean():.3f} centred, difference "
                f"{(centred - plain).mean():+.3f} ({low:+.3f} to {high:+.3f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
